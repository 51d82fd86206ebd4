package alerts

import "testing"

// A policy accepts the tokens of its own file alone. A file that was not read, because it is
// unusable or a reload has just set it, is no reason to give up: the sender retries.
func TestCheckSender(t *testing.T) {
	r := &Receiver{config: Config{TokenFile: "receiver"}}
	from := sender{files: []string{"receiver"}, without: []string{"bank"}}
	for _, tt := range []struct{ file, want string }{
		{"", ""},
		{"receiver", ""},
		{"bank", resultNotAllowed},
		{"shop", resultError},
	} {
		got := ""
		if refusal := r.checkSender(&Policy{TokenFile: tt.file}, from); refusal != nil {
			got = refusal.result
		}
		if got != tt.want {
			t.Errorf("token file %q: %q, want %q", tt.file, got, tt.want)
		}
	}
}
