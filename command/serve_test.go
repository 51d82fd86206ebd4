package command

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tcphup/services"
)

func TestServiceFlag(t *testing.T) {
	var flag serviceFlags
	if err := flag.Set("Mail.internal:25"); err != nil {
		t.Fatal(err)
	}
	want := serviceFlags{{Name: "mail.internal", Port: 25, Settle: services.DefaultSettle, Interval: services.DefaultInterval}}
	if diff := cmp.Diff(want, flag); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := flag.Set("db.internal"); err == nil {
		t.Error("a service without a port was accepted")
	}
}

// Mistakes in the command line match ErrUsage.
func TestUsageErrors(t *testing.T) {
	for _, args := range [][]string{
		{"--no-such-flag"},
		{"hangup", "10.0.0.1"},
		{"hangup", "--linger=0s", "10.0.0.1", "80"},
		{"list", "--interval=1ms"},
		{"list", "--former=10.0.0.1"},
		{"serve", "--service=db.internal"},
	} {
		if err := Run(t.Context(), args); !errors.Is(err, ErrUsage) {
			t.Errorf("%q: %v", args, err)
		}
	}
}
