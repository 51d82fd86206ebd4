package command

import "testing"

// A number that is none, or none of those that are allowed, is never taken for another.
func TestWholeNumber(t *testing.T) {
	for text, want := range map[string]int{"0": 0, "1": 1, "100": 100, "007": 7} {
		var got int
		if err := (wholeNumber{&got, 0, 100}).Set(text); err != nil || got != want {
			t.Errorf("%q is %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "0.9", "1.9", "1e2", "-1", "101", "99999999999999999999", "0x10", "1_0", " 1", "one"} {
		got := 50
		if err := (wholeNumber{&got, 0, 100}).Set(text); err == nil || got != 50 {
			t.Errorf("%q is taken for %d", text, got)
		}
	}
}

// Limits that a mistake would lift are refused by every command that has them.
func TestLimitsOnTheCommandLine(t *testing.T) {
	for _, arguments := range [][]string{
		{"hangup", "--max-flows=0.9", "10.0.0.1", "80"},
		{"hangup", "--max-flows=-1", "10.0.0.1", "80"},
		{"serve", "--collector.max-destinations=0"},
		{"serve", "--collector.prefix-length-v4=0"},
		{"serve", "--collector.prefix-length-v4=33"},
		{"serve", "--collector.prefix-length-v6=0"},
	} {
		app, _ := newApp(nil)
		if _, err := app.Parse(arguments); err == nil {
			t.Errorf("%q is taken", arguments)
		}
	}
}
