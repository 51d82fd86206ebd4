package text

import (
	"testing"
	"time"
)

func TestDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0:                              "0s",
		49 * time.Millisecond:          "0s",
		449 * time.Millisecond:         "0.4s",
		3 * time.Second:                "3s",
		9999 * time.Millisecond:        "9.9s",
		27900 * time.Millisecond:       "27s",
		59999 * time.Millisecond:       "59s",
		2*time.Minute + 25*time.Second: "2m25s",
		12 * time.Minute:               "12m",
		5*time.Hour + 9*time.Minute:    "5h9m",
		3*time.Hour + 59*time.Second:   "3h",
		24 * time.Hour:                 "1d",
		76*time.Hour + 5*time.Minute:   "3d4h",
	} {
		if got := Duration(d); got != want {
			t.Errorf("%d ns: %q, want %q", d, got, want)
		}
	}
}
