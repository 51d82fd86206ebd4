package alerts

import "testing"

func TestMode(t *testing.T) {
	armed, shadow := Labelled(), Labelled()
	shadow.Name, shadow.Shadow = "shadow", true
	for _, tt := range []struct {
		name     string
		change   func(*Config)
		policies []Policy
		want     Mode
	}{
		{name: "no listener", change: func(c *Config) { c.NoListener = true }, policies: []Policy{armed}, want: ModeExporter},
		{name: "shadow flag", change: func(c *Config) { c.Shadow = true }, policies: []Policy{armed}, want: ModeShadow},
		{name: "no credentials", change: func(c *Config) { c.TokenFile = "" }, policies: []Policy{armed}, want: ModeShadow},
		{name: "client certificates", change: func(c *Config) { c.TokenFile, c.CheckListener = "", authenticates }, policies: []Policy{armed}, want: ModeArmed},
		{name: "no policy", want: ModeShadow},
		{name: "every policy in shadow", policies: []Policy{shadow}, want: ModeShadow},
		{name: "one policy armed", policies: []Policy{shadow, armed}, want: ModeArmed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t, Rules{Policies: tt.policies}, tt.change)
			if got := f.Mode(); got != tt.want || f.Status().Mode != tt.want {
				t.Errorf("mode %s, status %+v, want %s", got, f.Status(), tt.want)
			}
			// The response has the same mode.
			if tt.want != ModeExporter {
				response := f.post(t, notify(staleAlert("10.0.0.5", "80"))).response
				if response.Shadow != (tt.want == ModeShadow) {
					t.Errorf("answer: shadow %t, mode %s", response.Shadow, tt.want)
				}
			}
		})
	}
	// A reload changes the mode.
	f := newFixture(t, Rules{Policies: []Policy{armed}}, nil)
	if err := f.Reload(Rules{}); err != nil || f.Mode() != ModeShadow {
		t.Errorf("after a reload without policies: %s, %v", f.Mode(), err)
	}
}
