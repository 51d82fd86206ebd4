package alerts

import (
	"encoding/json"
	"net/http"

	"tcphup/hangup"
)

// response is the JSON body of the response to a notification. It has no flows and no
// processes: a sender of alerts may lack permission to list the host's connections.
type response struct {
	code int

	// Error is the reason for an unprocessed notification.
	Error string `json:"error,omitempty"`
	// Alerts counts alerts by result, Flows flows by outcome, Refusals refused flows by
	// reason, Spared flows that may not be stale by reason.
	Alerts   map[string]int         `json:"alerts,omitempty"`
	Flows    map[hangup.Outcome]int `json:"flows,omitempty"`
	Refusals map[hangup.Reason]int  `json:"refusals,omitempty"`
	Spared   map[hangup.Reason]int  `json:"spared,omitempty"`
	// Unfinished counts the flows that remain for the next attempt.
	Unfinished int `json:"unfinished,omitempty"`
	// Shadow is set when every policy is in shadow mode.
	Shadow bool `json:"shadow,omitempty"`
}

// reject is the response to an unprocessed notification.
func reject(code int, cause string) *response { return &response{code: code, Error: cause} }

// add counts an alert and its flows.
func (r *response) add(j *job) {
	r.Alerts = sum(r.Alerts, map[string]int{j.result: 1})
	r.Flows = sum(r.Flows, j.report.Outcomes())
	r.Refusals = sum(r.Refusals, j.report.Refusals())
	r.Spared = sum(r.Spared, j.report.Spared())
	r.Unfinished += j.unfinished()
	if retryable(j.result) {
		r.code = http.StatusServiceUnavailable
	}
}

// sum adds more to total and returns it; total may be nil.
func sum[K comparable](total, more map[K]int) map[K]int {
	if total == nil && len(more) > 0 {
		total = make(map[K]int, len(more))
	}
	for key, n := range more {
		total[key] += n
	}
	return total
}

// writeJSON sends a response. A write error means that the client disconnected; it is
// ignored because Alertmanager retries.
func writeJSON(w http.ResponseWriter, code int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		http.Error(w, "cannot encode response", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_, _ = w.Write(append(body, '\n'))
}
