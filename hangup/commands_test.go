package hangup

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSplitCommands(t *testing.T) {
	for _, tt := range []struct {
		list  string
		names []string
		joins string // if it differs from list
	}{
		{list: "java", names: []string{"java"}},
		{list: "java,psql", names: []string{"java", "psql"}},
		{list: `a\,b,c`, names: []string{"a,b", "c"}},
		{list: `a\\,b`, names: []string{`a\`, "b"}},
		{list: `a\b\`, names: []string{`a\b\`}, joins: `a\\b\\`},
		{list: `\\\,`, names: []string{`\,`}},
		{list: "größe, x", names: []string{"größe", " x"}},
		{list: "", names: []string{""}},
		{list: ",", names: []string{"", ""}},
	} {
		if diff := cmp.Diff(tt.names, SplitCommands(tt.list)); diff != "" {
			t.Errorf("split %s (-want +got):\n%s", tt.list, diff)
		}
		want := tt.list
		if tt.joins != "" {
			want = tt.joins
		}
		if got := JoinCommands(tt.names); got != want {
			t.Errorf("join %q: %s, want %s", tt.names, got, want)
		}
	}
}
