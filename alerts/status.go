package alerts

// PolicyStatus is the state of a policy.
type PolicyStatus struct {
	Name string
	// Shadow is set in shadow mode, for any of the reasons in Receiver.Mode.
	Shadow bool
	// OpenBreakers counts the open circuit breakers.
	OpenBreakers int
}

// Status is the state of a Receiver.
type Status struct {
	Mode Mode
	// Paused is the cause of the pause; empty if not paused.
	Paused string
	// Shadow and HasCredentials are from the Config.
	Shadow, HasCredentials bool
	// Policies are the current policies, in order.
	Policies []PolicyStatus
}

// Status returns the current state.
func (r *Receiver) Status() Status {
	rules := r.rules.Load()
	s := Status{Mode: r.modeUnder(rules), Shadow: r.config.Shadow, HasCredentials: r.config.HasCredentials()}
	if err := r.pause.cause(); err != nil {
		s.Paused = err.Error()
	}
	now := r.config.Now()
	for i := range rules.Policies {
		p := &rules.Policies[i]
		s.Policies = append(s.Policies, PolicyStatus{p.Name, r.shadow(p), r.limiter.openBreakers(now, p.Name)})
	}
	return s
}
