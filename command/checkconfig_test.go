package command

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Warnings are on stderr and do not fail the command. Policies with namespaces need node mode.
func TestCheckConfig(t *testing.T) {
	for _, tt := range []struct{ name, content, stdout, stderr string }{
		{
			"warning", "policies:\n  - name: a\n    match: [\"team='web'\"]\n    allow: [10.0.0.1]\n",
			"FILE: valid; policies: 1, services: 0, never rules: 0\n",
			"warning: FILE:3: match: the quotes in team='web' are part of the label's name or value: write team=\"web\"\n",
		},
		{
			"node mode", "policies: [{name: a, match: ['team=web'], allow: [10.0.0.1], namespaces: [shop]}]\n",
			"FILE: valid with serve --node only; policies: 1, services: 0, never rules: 0\n", "",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "tcphup.yml")
			if err := os.WriteFile(file, []byte(tt.content), 0o600); err != nil {
				t.Fatal(err)
			}
			var stdout, stderr strings.Builder
			c := &checkConfig{file: file, stdout: &stdout, stderr: &stderr}
			if err := c.run(t.Context()); err != nil {
				t.Fatal(err)
			}
			got := [2]string{strings.ReplaceAll(stdout.String(), file, "FILE"), strings.ReplaceAll(stderr.String(), file, "FILE")}
			if diff := cmp.Diff([2]string{tt.stdout, tt.stderr}, got); diff != "" {
				t.Errorf("stdout, stderr (-want +got):\n%s", diff)
			}
		})
	}
}
