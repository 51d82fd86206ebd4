package command

import (
	"slices"
	"testing"
)

func TestEditDistance(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"", "list", 4}, {"list", "list", 0}, {"lst", "list", 1}, {"lists", "list", 1}, {"lost", "list", 1},
		{"lits", "list", 1}, {"hangpu", "hangup", 1}, {"hnagpu", "hangup", 2}, {"serve", "probe", 4}, {"ca", "abc", 3},
	} {
		if got := editDistance(tt.a, tt.b); got != tt.want {
			t.Errorf("%q, %q: %d, want %d", tt.a, tt.b, got, tt.want)
		}
		if got := editDistance(tt.b, tt.a); got != tt.want {
			t.Errorf("%q, %q: %d, want %d", tt.b, tt.a, got, tt.want)
		}
	}
}

func TestNearest(t *testing.T) {
	names := []string{"dry-run", "drain-quiet", "drain-deadline", "drain-answer", "yes", "list"}
	for _, tt := range []struct {
		word          string
		similar, near []string
	}{
		{"dryrun", []string{"dry-run"}, []string{"dry-run"}},
		{"drian-quite", []string{"drain-quiet"}, []string{"drain-quiet"}},
		{"drain", nil, []string{"drain-quiet", "drain-deadline", "drain-answer"}},
		{"yse", []string{"yes"}, []string{"yes"}},
		{"xyz", nil, nil},
		{"", nil, nil},
	} {
		if got := similar(tt.word, names); !slices.Equal(got, tt.similar) {
			t.Errorf("similar to %q: %q, want %q", tt.word, got, tt.similar)
		}
		if got := nearest(tt.word, names); !slices.Equal(got, tt.near) {
			t.Errorf("nearest to %q: %q, want %q", tt.word, got, tt.near)
		}
	}
}
