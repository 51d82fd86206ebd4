package address

import (
	"strings"
	"testing"
)

func TestParseName(t *testing.T) {
	label := strings.Repeat("a", 63)
	for text, want := range map[string]string{
		"db.internal": "db.internal", "DB": "db", "_pg._tcp.db.internal": "_pg._tcp.db.internal", "1.a": "1.a", "a-b.c-1.": "a-b.c-1.", label + ".a": label + ".a",
	} {
		if got, err := ParseName(text); err != nil || got != want {
			t.Errorf("%q: got %q, %v", text, got, err)
		}
	}
	for _, text := range []string{"", ".", "a..b", "-a", "a-", "10.0.0.1", "a.1", "a b", "a:1", "a/8", "[a]", "a\n", "ä", "a_b", label + "a", strings.Repeat("a.", 126) + "ab"} {
		if got, err := ParseName(text); err == nil || !strings.Contains(err.Error(), "is not a host name: write one that DNS resolves, such as db.internal") {
			t.Errorf("%q: got %q, %v", text, got, err)
		}
	}
}

func TestParseService(t *testing.T) {
	for _, tt := range []struct {
		text, name string
		port       uint16
		wantErr    string
	}{
		{text: "db.internal:5432", name: "db.internal", port: 5432},
		{text: "DB.internal", name: "db.internal"},
		{text: "_pg._tcp.db.internal:5432", name: "_pg._tcp.db.internal", port: 5432},
		{text: "db.internal:", wantErr: "from 1 to 65535"},
		{text: "db.internal:0", wantErr: "from 1 to 65535"},
		{text: "db.internal:65536", wantErr: "from 1 to 65535"},
		{text: "a:b:1", wantErr: "write NAME:PORT"},
		{text: "10.0.0.1:80", wantErr: "not a host name"},
		{text: "", wantErr: "not a host name"},
		{text: ":80", wantErr: "not a host name"},
	} {
		name, port, err := ParseService(tt.text)
		if tt.wantErr != "" {
			if err == nil || !strings.Contains(err.Error(), tt.wantErr) {
				t.Errorf("%q: %v, want %q", tt.text, err, tt.wantErr)
			}
			continue
		}
		if err != nil || name != tt.name || port != tt.port {
			t.Errorf("%q: %q %d %v", tt.text, name, port, err)
		}
	}
}
