package main

import (
	"errors"
	"fmt"
	"testing"

	"tcphup/command"
)

func TestExitCode(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{command.ErrIncomplete, 1},
		{errors.New("read flows: permission denied"), 1},
		{fmt.Errorf("%w: PORT is missing", command.ErrUsage), 2},
	} {
		if got := exitCode(tt.err); got != tt.want {
			t.Errorf("%v: exit code %d, want %d", tt.err, got, tt.want)
		}
	}
}
