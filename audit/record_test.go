package audit

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"tcphup/hangup"
)

// The log may begin within an action, have torn lines and records of several actions.
func TestAborted(t *testing.T) {
	got := Aborted([]byte(`n":"torn"}
{"event":"flow","action":"a-1","policy":"p","flow":{"outcome":"closed"}}
{"event":"end","fingerprint":"x","result":"denied"}
{"event":"begin","action":"a-2","flows":{"planned":9}}
{"event":"end","action":"a-2","result":"done"}
{"event":"begin","action":"a-3","flows":{"planned":9}}
{"event":"aborted","action":"a-3"}
{"event":"begin","action":"a-4","policy":"q","flows":{"planned":2}}
{"event":"flow","action":"a-4","policy":"q","flow":{"outcome":"gone"}}
{"event":"begin","action":"a-5","user":{"uid":0},"flows":{"planned":2}}
{"event":"flow","act`))
	want := []Record{
		{Event: EventAborted, Action: "a-1", Policy: "p", Flows: map[hangup.Outcome]int{"closed": 1}, Detail: "tcphup ended during the action"},
		{Event: EventAborted, Action: "a-4", Policy: "q", Flows: map[hangup.Outcome]int{"gone": 1}, Detail: "tcphup ended during the action; flows without a record: 1"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
