package alerts

import (
	"encoding/json"
	"net/http"

	"tcphup/hangup"
)

// answer is what a notification gets back. It names no flow, no process and no
// secret: who may send alerts need not be who may read the host's connections.
type answer struct {
	code int

	// Error is for people; set when the notification was not worked on.
	Error string `json:"error,omitempty"`
	// Alerts counts alerts by result, Flows flows by outcome, Refusals the refused
	// flows by reason.
	Alerts   map[string]int         `json:"alerts,omitempty"`
	Flows    map[hangup.Outcome]int `json:"flows,omitempty"`
	Refusals map[hangup.Reason]int  `json:"refusals,omitempty"`
	// Unfinished counts the flows that are left for the next try.
	Unfinished int `json:"unfinished,omitempty"`
	// Shadow says that nothing at all would have been closed.
	Shadow bool `json:"shadow,omitempty"`
}

// sayNo is an answer to a notification that was not worked on.
func sayNo(code int, why string) *answer { return &answer{code: code, Error: why} }

// add counts a decided alert and its flows.
func (a *answer) add(j *job) {
	a.Alerts = sum(a.Alerts, map[string]int{j.result: 1})
	a.Flows = sum(a.Flows, j.report.Outcomes())
	a.Refusals = sum(a.Refusals, j.report.Refusals())
	a.Unfinished += j.unfinished()
	if again(j.result) {
		a.code = http.StatusServiceUnavailable
	}
}

func sum[K comparable](total, more map[K]int) map[K]int {
	if total == nil && len(more) > 0 {
		total = make(map[K]int, len(more))
	}
	for key, n := range more {
		total[key] += n
	}
	return total
}

// writeJSON sends an answer. That the client is gone is its own loss: it will try
// again.
func writeJSON(w http.ResponseWriter, code int, v any) {
	body, err := json.Marshal(v)
	if err != nil { // a map or struct of ours that has no JSON form
		http.Error(w, "cannot write the answer", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_, _ = w.Write(append(body, '\n'))
}
