package alerts

import "slices"

// Mode is the effect of alerts.
type Mode string

// The modes.
const (
	ModeExporter Mode = "exporter" // no alerts are received
	ModeShadow   Mode = "shadow"   // alerts are evaluated and reported, no flow is closed
	ModeArmed    Mode = "armed"    // alerts close flows
)

// Mode returns the mode under the current rules. ModeArmed requires credentials and a
// policy that is not in shadow mode. A pause does not change the mode.
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

// shadow reports whether the policy is in shadow mode. In node mode a policy without
// namespaces can close no flow.
func (r *Receiver) shadow(p *Policy) bool {
	return p.Shadow || r.config.Shadow || r.config.NoListener || !r.config.HasCredentials() ||
		r.config.Pods != nil && len(p.Namespaces) == 0
}
