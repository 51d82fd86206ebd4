package address

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"tcphup/test/kit/addresses"
)

// invalid returns texts without an address.
func invalid() []string {
	return []string{
		"", " ", " 10.0.0.5", "10.0.0.5 ", "10.0.0.5\n", "10.0.0.5\x00", "010.0.0.5", "10.0.0.256", "10.0.0", "10.1", "1.2.3.4.5",
		"167772165", "0x0a000005", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/08", "10.0.0.0/", "/8", "10.0.0.0/8/8", "2001:db8::/129",
		"fe80::1%eth0/64", "[10.0.0.5]", "[2001:db8::5", "2001:db8::5]", "[[2001:db8::5]]", "[2001:db8::]/32", "[]", "1:2:3", "$(id)", "a b",
		"*", "ä.example",
	}
}

func TestParse(t *testing.T) {
	tests := addresses.Inputs()
	for _, text := range append(invalid(), "db.internal", "other", "10.0.0.5:80", "[2001:db8::5]:80") {
		tests = append(tests, addresses.Input{Text: text, Fails: "is not an address or prefix: write one such as"})
	}
	for _, tt := range tests {
		t.Run(tt.Text, func(t *testing.T) {
			got, err := Parse(tt.Text)
			check(t, tt, got, err)
			if syntax := strings.Contains(tt.Fails, "write one such as"); errors.Is(err, ErrSyntax) != syntax {
				t.Errorf("is a syntax error: %t, want %t", !syntax, syntax)
			}
		})
	}
}

// check compares a result with the expected one. An error quotes the text.
func check(t *testing.T, tt addresses.Input, got netip.Prefix, err error) {
	t.Helper()
	switch {
	case tt.Fails == "" && (err != nil || got.String() != tt.Want):
		t.Errorf("got %v, %v; want %s", got, err, tt.Want)
	case tt.Fails != "" && (err == nil || !strings.Contains(err.Error(), tt.Fails) || !strings.HasPrefix(err.Error(), `"`) || got.IsValid()):
		t.Errorf("got %v, %v; want an error with %q", got, err, tt.Fails)
	}
}

func TestParseAddr(t *testing.T) {
	for text, want := range map[string]string{"::ffff:10.0.0.5": "10.0.0.5", "[2001:db8::5]": "2001:db8::5", "10.0.0.5/32": "10.0.0.5"} {
		if got, err := ParseAddr(text); err != nil || got.String() != want {
			t.Errorf("%q: got %v, %v; want %s", text, got, err, want)
		}
	}
	for text, want := range map[string]string{"10.0.0.0/8": `"10.0.0.0/8" is a prefix: write one address`, "0.0.0.0": "unspecified", "a": "is not an address"} {
		if got, err := ParseAddr(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, %v; want an error with %q", text, got, err, want)
		}
	}
}

func TestParseEndpoint(t *testing.T) {
	tests := addresses.Inputs()
	for _, text := range append(invalid(), "db.internal", "db.internal:53", "2001:db8::/32:53", "10.0.0.5:53:53", "[10.0.0.5]:53", "[2001:db8::5:53") {
		tests = append(tests, addresses.Input{Text: text, Fails: "is not an address or prefix with or without a port: write one such as"})
	}
	for _, text := range []string{"10.0.0.5:", "10.0.0.5:0", "10.0.0.5:65536", "10.0.0.5:http", "10.0.0.5:+53", "10.0.0.5:053", "[::1]:", "10.0.0.0/8:x"} {
		tests = append(tests, addresses.Input{Text: text, Fails: "has no port from 1 to 65535 after the last colon"})
	}
	for _, tt := range tests {
		t.Run(tt.Text, func(t *testing.T) {
			got, port, err := ParseEndpoint(tt.Text)
			check(t, tt, got, err)
			if port != 0 {
				t.Errorf("port %d", port)
			}
			if slices.Contains(invalid(), tt.Text) {
				return
			}
			host := tt.Text
			if strings.Contains(host, ":") {
				host = "[" + strings.Trim(host, "[]") + "]"
			}
			if got, port, err = ParseEndpoint(host + ":53"); tt.Fails == "" && port != 53 {
				t.Errorf("port %d", port)
			}
			if tt.Fails == "" || slices.Contains(addresses.Inputs(), tt) {
				check(t, tt, got, err)
			}
		})
	}
}

func TestParseHost(t *testing.T) {
	tests := addresses.Inputs()
	for _, text := range invalid() {
		tests = append(tests, addresses.Input{Text: text, Fails: "is not an address, a prefix or a name: write one such as"})
	}
	for _, tt := range tests {
		t.Run(tt.Text, func(t *testing.T) {
			got, name, err := ParseHost(tt.Text)
			check(t, tt, got, err)
			if name != "" {
				t.Errorf("name %q", name)
			}
		})
	}
	for text, want := range map[string]string{"db": "db", "DB.Internal": "db.internal", "db.internal.": "db.internal.", "10.0.0.5.example": "10.0.0.5.example"} {
		if prefix, name, err := ParseHost(text); err != nil || name != want || prefix.IsValid() {
			t.Errorf("%q: got %v, %q, %v", text, prefix, name, err)
		}
	}
}

func TestFromAddrAndPrefix(t *testing.T) {
	for _, tt := range addresses.Inputs() {
		if strings.HasPrefix(tt.Text, "[") {
			continue
		}
		t.Run(tt.Text, func(t *testing.T) {
			if addr, err := netip.ParseAddr(tt.Text); err == nil {
				got, err := FromAddr(addr)
				check(t, tt, got, err)
				return
			}
			got, err := FromPrefix(netip.MustParsePrefix(tt.Text))
			check(t, tt, got, err)
		})
	}
	if _, err := FromAddr(netip.Addr{}); err == nil {
		t.Error("the zero address is valid")
	}
	if _, err := FromPrefix(netip.Prefix{}); err == nil {
		t.Error("the zero prefix is valid")
	}
}

func TestParsePort(t *testing.T) {
	for text, want := range map[string]uint16{"1": 1, "80": 80, "65535": 65535} {
		if got, err := ParsePort(text); err != nil || got != want {
			t.Errorf("%q: got %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "0", "65536", "-1", "+80", "080", " 80", "80\n", "0x50", "8e1", "http", "99999999999999999999"} {
		if got, err := ParsePort(text); err == nil || !strings.Contains(err.Error(), "is not a port number from 1 to 65535") {
			t.Errorf("%q: got %d, %v", text, got, err)
		}
	}
}

// FuzzParse checks that all parsers agree, that results are canonical and that Parse reverses
// Format.
func FuzzParse(f *testing.F) {
	for _, tt := range addresses.Inputs() {
		f.Add(tt.Text)
	}
	for _, text := range append(invalid(), "db.internal", "10.0.0.0/8:53", "[2001:db8::/32]:53", "DB.:1") {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		prefix, err := Parse(text)
		if err != nil {
			if prefix.IsValid() || !strings.HasPrefix(err.Error(), `"`) || strings.ContainsAny(err.Error(), "\n\r\x1b") {
				t.Errorf("got %v, %v", prefix, err)
			}
		} else {
			addr := prefix.Addr()
			if prefix != prefix.Masked() || addr.Is4In6() || addr.Zone() != "" || addr.IsMulticast() || addr.IsUnspecified() && prefix.IsSingleIP() {
				t.Errorf("got %v", prefix)
			}
			if again, err := Parse(Format(prefix)); err != nil || again != prefix {
				t.Errorf("%v became %v, %v", prefix, again, err)
			}
			if again, err := FromPrefix(prefix); err != nil || again != prefix {
				t.Errorf("%v became %v, %v", prefix, again, err)
			}
		}

		host, name, hostErr := ParseHost(text)
		if name == "" && (host != prefix || (hostErr == nil) != (err == nil)) || name != "" && (host.IsValid() || hostErr != nil || !errors.Is(err, ErrSyntax)) {
			t.Errorf("got %v, %v; as a host %v, %q, %v", prefix, err, host, name, hostErr)
		}
		endpoint, port, endpointErr := ParseEndpoint(text)
		if err == nil && (endpoint != prefix || port != 0 || endpointErr != nil) {
			t.Errorf("got %v; as an endpoint %v, %d, %v", prefix, endpoint, port, endpointErr)
		}
		if err != nil && endpointErr == nil {
			if again, err := FromPrefix(endpoint); err != nil || again != endpoint || port == 0 {
				t.Errorf("as an endpoint %v, %d", endpoint, port)
			}
		}
	})
}
