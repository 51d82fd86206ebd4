package address

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// input is a text and its meaning to every caller. The parsers that accept more than an
// address or a prefix are tested on the same texts.
type input struct {
	text, want string
	fails      string // part of the error
}

func inputs() []input {
	return []input{
		{text: "10.0.0.5", want: "10.0.0.5/32"},
		{text: "10.0.0.5/32", want: "10.0.0.5/32"},
		{text: "127.0.0.1", want: "127.0.0.1/32"},
		{text: "2001:db8::5", want: "2001:db8::5/128"},
		{text: "2001:0DB8:0:0:0:0:0:5", want: "2001:db8::5/128"},
		{text: "2001:db8::10.0.0.5", want: "2001:db8::a00:5/128"},
		{text: "[2001:db8::5]", want: "2001:db8::5/128"},
		{text: "::ffff:10.0.0.5", want: "10.0.0.5/32"},
		{text: "::FFFF:0a00:0005", want: "10.0.0.5/32"},
		{text: "[::ffff:10.0.0.5]", want: "10.0.0.5/32"},
		{text: "::ffff:10.0.0.5/128", want: "10.0.0.5/32"},
		{text: "fe80::1", want: "fe80::1/128"},
		{text: "255.255.255.255", want: "255.255.255.255/32"},

		{text: "10.0.0.0/8", want: "10.0.0.0/8"},
		{text: "0.0.0.0/8", want: "0.0.0.0/8"},
		{text: "0.0.0.0/0", want: "0.0.0.0/0"},
		{text: "::/0", want: "::/0"},
		{text: "2001:db8::/32", want: "2001:db8::/32"},
		{text: "[2001:db8::/32]", want: "2001:db8::/32"},
		{text: "::ffff:10.0.0.0/104", want: "10.0.0.0/8"},
		{text: "::ffff:0.0.0.0/96", want: "0.0.0.0/0"},

		{text: "10.0.0.5/8", fails: "bits set after its length: write 10.0.0.0/8, or 10.0.0.5 for the one address"},
		{text: "2001:db8::5/32", fails: "write 2001:db8::/32, or 2001:db8::5 for"},
		{text: "::ffff:10.0.0.5/104", fails: "write 10.0.0.0/8, or 10.0.0.5 for"},
		{text: "::ffff:10.0.0.0/95", fails: "write an IPv4 prefix"},
		{text: "::ffff:0.0.0.0/80", fails: "write an IPv4 prefix"},
		{text: "0.0.0.0", fails: "unspecified address, no connection leads to it: write a prefix"},
		{text: "::", fails: "unspecified"},
		{text: "[::]", fails: "unspecified"},
		{text: "::ffff:0.0.0.0", fails: "unspecified"},
		{text: "0.0.0.0/32", fails: "unspecified"},
		{text: "::/128", fails: "unspecified"},
		{text: "224.0.0.1", fails: "multicast, no connection leads to it: write a unicast"},
		{text: "224.0.0.0/4", fails: "multicast"},
		{text: "239.0.0.0/8", fails: "multicast"},
		{text: "ff02::1", fails: "multicast"},
		{text: "ff00::/8", fails: "multicast"},
		{text: "::ffff:224.0.0.1", fails: "multicast"},
		{text: "fe80::1%eth0", fails: "has a zone: write fe80::1, which"},
		{text: "[fe80::1%eth0]", fails: "has a zone"},
		{text: "::ffff:10.0.0.5%eth0", fails: "has a zone: write 10.0.0.5, which"},
	}
}

// neither are texts without an address.
func neither() []string {
	return []string{
		"", " ", " 10.0.0.5", "10.0.0.5 ", "10.0.0.5\n", "10.0.0.5\x00", "010.0.0.5", "10.0.0.256", "10.0.0", "10.1", "1.2.3.4.5",
		"167772165", "0x0a000005", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/08", "10.0.0.0/", "/8", "10.0.0.0/8/8", "2001:db8::/129",
		"fe80::1%eth0/64", "[10.0.0.5]", "[2001:db8::5", "2001:db8::5]", "[[2001:db8::5]]", "[2001:db8::]/32", "[]", "1:2:3", "$(id)", "a b",
		"*", "ä.example",
	}
}

func TestParse(t *testing.T) {
	tests := inputs()
	for _, text := range append(neither(), "db.internal", "other", "10.0.0.5:80", "[2001:db8::5]:80") {
		tests = append(tests, input{text: text, fails: "is not an address or prefix: write one such as"})
	}
	for _, tt := range tests {
		t.Run(tt.text, func(t *testing.T) {
			got, err := Parse(tt.text)
			check(t, tt, got, err)
			if syntax := strings.Contains(tt.fails, "write one such as"); errors.Is(err, ErrSyntax) != syntax {
				t.Errorf("is a syntax error: %t, want %t", !syntax, syntax)
			}
		})
	}
}

// check compares a result with the expected one. An error quotes the text.
func check(t *testing.T, tt input, got netip.Prefix, err error) {
	t.Helper()
	switch {
	case tt.fails == "" && (err != nil || got.String() != tt.want):
		t.Errorf("got %v, %v; want %s", got, err, tt.want)
	case tt.fails != "" && (err == nil || !strings.Contains(err.Error(), tt.fails) || !strings.HasPrefix(err.Error(), `"`) || got.IsValid()):
		t.Errorf("got %v, %v; want an error with %q", got, err, tt.fails)
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
	tests := inputs()
	for _, text := range append(neither(), "db.internal", "db.internal:53", "2001:db8::/32:53", "10.0.0.5:53:53", "[10.0.0.5]:53", "[2001:db8::5:53") {
		tests = append(tests, input{text: text, fails: "is not an address or prefix with or without a port: write one such as"})
	}
	for _, text := range []string{"10.0.0.5:", "10.0.0.5:0", "10.0.0.5:65536", "10.0.0.5:http", "10.0.0.5:+53", "10.0.0.5:053", "[::1]:", "10.0.0.0/8:x"} {
		tests = append(tests, input{text: text, fails: "is without a port from 1 to 65535 after its last colon"})
	}
	for _, tt := range tests {
		t.Run(tt.text, func(t *testing.T) {
			got, port, err := ParseEndpoint(tt.text)
			check(t, tt, got, err)
			if port != 0 {
				t.Errorf("port %d", port)
			}
			if slices.Contains(neither(), tt.text) {
				return
			}
			host := tt.text
			if strings.Contains(host, ":") {
				host = "[" + strings.Trim(host, "[]") + "]"
			}
			if got, port, err = ParseEndpoint(host + ":53"); tt.fails == "" && port != 53 {
				t.Errorf("port %d", port)
			}
			if tt.fails == "" || slices.Contains(inputs(), tt) {
				check(t, tt, got, err)
			}
		})
	}
}

func TestParseHost(t *testing.T) {
	tests := inputs()
	for _, text := range neither() {
		tests = append(tests, input{text: text, fails: "is not an address, a prefix or a name: write one such as"})
	}
	for _, tt := range tests {
		t.Run(tt.text, func(t *testing.T) {
			got, name, err := ParseHost(tt.text)
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

// Values that do not come from a text obey the same rules.
func TestFrom(t *testing.T) {
	for _, tt := range inputs() {
		if strings.HasPrefix(tt.text, "[") {
			continue
		}
		t.Run(tt.text, func(t *testing.T) {
			if addr, err := netip.ParseAddr(tt.text); err == nil {
				got, err := FromAddr(addr)
				check(t, tt, got, err)
				return
			}
			got, err := FromPrefix(netip.MustParsePrefix(tt.text))
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

// FuzzParse parses any text. All parsers agree about it, the result is canonical and the
// result's text means the result.
func FuzzParse(f *testing.F) {
	for _, tt := range inputs() {
		f.Add(tt.text)
	}
	for _, text := range append(neither(), "db.internal", "10.0.0.0/8:53", "[2001:db8::/32]:53", "DB.:1") {
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
