package config

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Matchers are those of Alertmanager, UTF-8 names included. Other quotes than double quotes
// are part of the value, with a warning.
func TestMatchers(t *testing.T) {
	tests := []struct{ text, want, instead string }{
		{`"service.name"="db"`, `{service.name="db"}`, ""},
		{`"service.name"=~"a|b",team="web"`, `{service.name=~"a|b",team="web"}`, ""},
		{`service.name=db`, `{service.name="db"}`, ""},
		{`größe!="ü"`, `{größe!="ü"}`, ""},
		{`team=web`, `{team="web"}`, ""},
		{`team="it's"`, `{team="it's"}`, ""},
		{`team="'web'"`, `{team="'web'"}`, ""},
		{`team='web'`, `{team="'web'"}`, `team="web"`},
		{`a="b", team=~'web|db'`, `{a="b",team=~"'web|db'"}`, `team=~"web|db"`},
		{`team=“web”`, `{team="“web”"}`, `team="web"`},
		{`team=„web“`, `{team="„web“"}`, `team="web"`},
		{`“service.name”="db"`, `{“service.name”="db"}`, `service.name="db"`},
		{`“team”=”web”`, `{“team”="”web”"}`, `team="web"`},
	}
	for _, tt := range tests {
		t.Run(tt.text, func(t *testing.T) {
			c, err := Parse("x.yml", []byte("policies:\n- name: a\n  allow: ['::1']\n  match:\n  - x=\"y\"\n  - "+strconv.Quote(tt.text)+"\n"))
			if err != nil {
				t.Fatal(err)
			}
			if got := c.Rules.Policies[0].Match[1:].String(); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			var want []string
			if tt.instead != "" {
				want = []string{fmt.Sprintf("x.yml:6: match: the quotes in %s are part of the label's name or value: write %s",
					strings.ReplaceAll(strings.TrimPrefix(tt.text, `a="b", `), `"`, ""), tt.instead)}
			}
			if diff := cmp.Diff(want, c.Warnings); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
		})
	}
}
