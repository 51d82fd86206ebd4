package alerts

import "net/http"

// Pause stops everything that alerts may do, until Resume: actions under way start
// nothing new, and notifications are answered with 503, so that Alertmanager
// sends them again. A restart forgets it; the pause file lasts.
func (r *Receiver) Pause() {
	r.pause.set(true)
	r.log.Warn("hanging up by alerts is paused")
}

// Resume undoes Pause. It returns an error when the pause file still pauses.
func (r *Receiver) Resume() error {
	r.pause.set(false)
	if err := r.pause.why(); err != nil {
		return err
	}
	r.log.Info("hanging up by alerts is resumed")
	return nil
}

// Paused reports whether the receiver is paused, by Pause or by the pause file.
func (r *Receiver) Paused() bool { return r.pause.why() != nil }

// PolicyStatus is what the status page says of a policy.
type PolicyStatus struct {
	Name string
	// Shadow says that it only plans and reports.
	Shadow bool
	// OpenBreakers counts what it refuses for having acted too often.
	OpenBreakers int
}

// Status is the state of a Receiver.
type Status struct {
	Mode Mode
	// Paused is the cause of a pause; empty without one.
	Paused string
	// Shadow and HasCredentials are those of the Config.
	Shadow, HasCredentials bool
	// Policies are those in force, in their order.
	Policies []PolicyStatus
}

// Status returns the present state.
func (r *Receiver) Status() Status {
	rules := r.rules.Load()
	s := Status{Mode: r.modeUnder(rules), Shadow: r.config.Shadow, HasCredentials: r.config.HasCredentials()}
	if err := r.pause.why(); err != nil {
		s.Paused = err.Error()
	}
	now := r.config.Now()
	for i := range rules.Policies {
		p := &rules.Policies[i]
		s.Policies = append(s.Policies, PolicyStatus{p.Name, r.shadow(p), r.history.open(now, p.Name)})
	}
	return s
}

// switchState is the body of the answers below.
type switchState struct {
	Paused bool   `json:"paused"`
	Why    string `json:"why,omitempty"`
}

// PauseHandler answers POST /-/pause: 200 when it is paused.
func (r *Receiver) PauseHandler() http.Handler {
	return r.Protect(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		r.Pause()
		writeJSON(w, http.StatusOK, switchState{Paused: true})
	}))
}

// ResumeHandler answers POST /-/resume: 200 when it goes on, 409 when the pause
// file, which only someone on the host can remove, still pauses.
func (r *Receiver) ResumeHandler() http.Handler {
	return r.Protect(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if err := r.Resume(); err != nil {
			writeJSON(w, http.StatusConflict, switchState{Paused: true, Why: err.Error()})
			return
		}
		writeJSON(w, http.StatusOK, switchState{})
	}))
}
