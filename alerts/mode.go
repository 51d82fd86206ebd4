package alerts

import "slices"

// Mode is the effect that alerts can have.
type Mode string

// The modes.
const (
	ModeExporter Mode = "exporter" // no alert is received
	ModeShadow   Mode = "shadow"   // alerts are evaluated and reported, no connection is closed
	ModeArmed    Mode = "armed"    // alerts close connections
)

// Mode returns the mode under the rules in force: armed needs credentials and at least
// one policy that is not in shadow. A pause does not change the mode.
func (r *Receiver) Mode() Mode { return r.modeUnder(r.rules.Load()) }

func (r *Receiver) modeUnder(rules *Rules) Mode {
	switch {
	case r.config.NoListener:
		return ModeExporter
	case slices.ContainsFunc(rules.Policies, func(p Policy) bool { return !r.shadow(&p) }):
		return ModeArmed
	default:
		return ModeShadow
	}
}

// shadow reports whether alerts of the policy close nothing.
func (r *Receiver) shadow(p *Policy) bool {
	return p.Shadow || r.config.Shadow || r.config.NoListener || !r.config.HasCredentials()
}
