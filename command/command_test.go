package command

import (
	"errors"
	"testing"
)

// Invalid command lines match ErrUsage.
func TestUsageErrors(t *testing.T) {
	for _, args := range [][]string{
		{"--no-such-flag"},
		{"hangup", "10.0.0.1"},
		{"--drain-deadline=1s", "--drain-quiet=2s", "10.0.0.1", "80"},
		{"--mptcp=path", "--method=shutdown", "10.0.0.1", "80"},
		{"10.0.0.0/7", "80"},
		{"list", "--former=10.0.0.1"},
		{"version", "1"},
	} {
		if err := Run(t.Context(), args); !errors.Is(err, ErrUsage) {
			t.Errorf("%q: %v", args, err)
		}
	}
}
