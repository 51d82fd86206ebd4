package command

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCheckTable(t *testing.T) {
	checks := func(netns ...string) (list []checkJSON) {
		for _, name := range netns {
			list = append(list,
				checkJSON{Name: "shutdown", Usable: true, Detail: "both ends of the test connection read EOF", Netns: name},
				checkJSON{Name: "destroy", Detail: "destroy socket: operation not permitted", Fix: "grant CAP_NET_ADMIN", Netns: name})
		}
		return list
	}
	tests := []struct {
		name   string
		checks []checkJSON
		width  int
		want   string
	}{
		{"no terminal", checks(""), 0, `
shutdown  yes  both ends of the test connection read EOF
destroy   no   destroy socket: operation not permitted
               -> grant CAP_NET_ADMIN
`},
		{"narrow terminal", checks(""), 50, `
shutdown  yes  both ends of the test connection
               read EOF
destroy   no   destroy socket: operation not
               permitted
               -> grant CAP_NET_ADMIN
`},
		{"namespaces", checks("own", "web"), 60, `
own  shutdown  yes  both ends of the test connection read
own                 EOF
own  destroy   no   destroy socket: operation not permitted
own                 -> grant CAP_NET_ADMIN
web  shutdown  yes  both ends of the test connection read
web                 EOF
web  destroy   no   destroy socket: operation not permitted
web                 -> grant CAP_NET_ADMIN
`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := checkTable(tt.checks, tt.width).layout(tt.width, false)
			var b strings.Builder
			if err := writeLines(&b, l.header, l.rows, l.below); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(strings.TrimPrefix(tt.want, "\n"), b.String()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
