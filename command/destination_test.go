package command

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tcphup/services"
	"tcphup/test/kit/addresses"
)

// fakeResolver has the addresses by name.
type fakeResolver map[string][]netip.Addr

func (n fakeResolver) resolve(_ context.Context, name string) (services.Resolved, error) {
	if addrs, ok := n[name]; ok {
		return services.Resolved{Addrs: addrs}, nil
	}
	return services.Resolved{}, errors.New("no such host")
}

func TestParseHosts(t *testing.T) {
	resolver := fakeResolver{
		"both.example":  {netip.MustParseAddr("::ffff:192.0.2.1"), netip.MustParseAddr("2001:db8::1")},
		"empty.example": {},
		"odd.example":   {netip.MustParseAddr("0.0.0.0")},
	}
	for _, tt := range []struct {
		hosts string
		want  string
		fails string
	}{
		{hosts: "192.0.2.1", want: "192.0.2.1/32"},
		{hosts: "2001:db8::1", want: "2001:db8::1/128"},
		{hosts: "::ffff:192.0.2.1", want: "192.0.2.1/32"},
		{hosts: "[2001:db8::1]", want: "2001:db8::1/128"},
		{hosts: "0.0.0.0/0", want: "0.0.0.0/0"},
		{hosts: "192.0.2.0/24", want: "192.0.2.0/24"},
		{hosts: "::ffff:192.0.2.0/120", want: "192.0.2.0/24"},
		{hosts: "both.example", want: "192.0.2.1/32 2001:db8::1/128"},
		{hosts: "192.0.2.2 both.example 192.0.2.1", want: "192.0.2.1/32 192.0.2.2/32 2001:db8::1/128"},
		{hosts: "192.0.2.1/24", fails: "write 192.0.2.0/24, or 192.0.2.1 for a single address"},
		{hosts: "::ffff:0.0.0.0/80", fails: "IPv4 prefix"},
		{hosts: "192.0.2.0/33", fails: "not an address, a prefix or a name"},
		{hosts: "fe80::1%eth0", fails: "zone"},
		{hosts: "0.0.0.0", fails: "unspecified"},
		{hosts: "::", fails: "unspecified"},
		{hosts: "192.0.2.1:80", fails: "not an address, a prefix or a name"},
		{hosts: "192.0.2", fails: "not an address, a prefix or a name"},
		{hosts: "[192.0.2.1]", fails: "not an address, a prefix or a name"},
		{hosts: "224.0.0.1", fails: "multicast"},
		{hosts: "::ffff:192.0.2.1%eth0", fails: "zone"},
		{hosts: "missing.example", fails: "does not resolve"},
		{hosts: "192.0.2.1 missing.example", fails: "does not resolve"},
		{hosts: "empty.example", fails: "no address"},
		{hosts: "odd.example", fails: `HOST "odd.example": "0.0.0.0" is the unspecified`},
	} {
		t.Run(tt.hosts, func(t *testing.T) {
			got, err := parseHosts(t.Context(), "HOST", strings.Fields(tt.hosts), resolver.resolve, io.Discard)
			if tt.fails != "" {
				if !errors.Is(err, ErrUsage) || !strings.Contains(err.Error(), tt.fails) || got.prefixes != nil {
					t.Errorf("got %v, %v; want a usage error with %q", got, err, tt.fails)
				}
				return
			}
			var text []string
			for _, p := range got.prefixes {
				text = append(text, p.String())
			}
			if diff := cmp.Diff(tt.want, strings.Join(text, " ")); err != nil || diff != "" {
				t.Errorf("%v (-want +got)\n%s", err, diff)
			}
		})
	}
}

// Arguments and flags accept the same addresses as every other input.
func TestSharedInputs(t *testing.T) {
	former := func(text string) ([]netip.Prefix, error) {
		named, _, err := (&staleFlags{former: []string{text}}).read("db.internal")
		var found []netip.Prefix
		for _, a := range named {
			found = append(found, netip.PrefixFrom(a, a.BitLen()))
		}
		return found, err
	}
	flag := func(text string) ([]netip.Prefix, error) {
		var found prefixes
		err := found.Set(text)
		return found, err
	}
	host := func(text string) ([]netip.Prefix, error) {
		found, err := parseHosts(t.Context(), "HOST", []string{text}, fakeResolver{}.resolve, io.Discard)
		return found.prefixes, err
	}
	for name, parse := range map[string]func(string) ([]netip.Prefix, error){"HOST": host, "--former": former, "--collector.include": flag} {
		for _, tt := range addresses.Inputs() {
			got, err := parse(tt.Text)
			switch {
			case tt.Fails != "":
				if err == nil || !strings.Contains(err.Error(), tt.Fails) {
					t.Errorf("%s %s: got %v, %v; want an error with %q", name, tt.Text, got, err, tt.Fails)
				}
			case name == "--former" && !netip.MustParsePrefix(tt.Want).IsSingleIP():
				if err == nil || !strings.Contains(err.Error(), "write one address") {
					t.Errorf("%s %s: got %v, %v", name, tt.Text, got, err)
				}
			case err != nil || len(got) != 1 || got[0].String() != tt.Want:
				t.Errorf("%s %s: got %v, %v; want %s", name, tt.Text, got, err, tt.Want)
			}
		}
	}
}

func TestResolvedNote(t *testing.T) {
	var notes strings.Builder
	resolver := fakeResolver{"db.example": {netip.MustParseAddr("::ffff:192.0.2.1"), netip.MustParseAddr("2001:db8::1")}}
	if _, err := parseHosts(t.Context(), "HOST", []string{"192.0.2.9", "db.example"}, resolver.resolve, &notes); err != nil {
		t.Fatal(err)
	}
	if got, want := notes.String(), "tcphup: db.example resolves to 192.0.2.1, 2001:db8::1\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
