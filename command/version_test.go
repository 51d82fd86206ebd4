package command

import (
	"strings"
	"testing"

	"github.com/prometheus/common/version"
)

func TestVersion(t *testing.T) {
	app, commands := newApp(nil)
	name, err := app.Parse([]string{"version"})
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := (versionCommand{&b}).run(t.Context()); err != nil || b.String() != version.Print("tcphup")+"\n" {
		t.Errorf("got %q, %v", b.String(), err)
	}
	if _, ok := commands[name].(versionCommand); !ok {
		t.Errorf("version is parsed as %s", name)
	}
}
