package sockdiag

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSplit(t *testing.T) {
	type flows struct {
		family        Family
		local, remote uint16
		n             int
	}
	byPort := func(upTo, from uint8, limit int32) []part {
		return []part{
			{family: bothFamilies, ports: []alternative{{{op: upTo, port: limit - 1}}}},
			{family: bothFamilies, ports: []alternative{{{op: from, port: limit}}}},
		}
	}
	byFamily, one := []part{{family: IPv4}, {family: IPv6}}, []part{{family: bothFamilies}}
	parts := cmp.Options{cmp.AllowUnexported(part{}), cmp.Comparer(func(a, b condition) bool { return a == b })}
	for _, tt := range []struct {
		name  string
		flows []flows
		want  []part
	}{
		{"no flows", nil, one},
		{"both families", []flows{{IPv4, 1000, 80, 50}, {IPv6, 1000, 80, 50}}, byFamily},
		{"enough of both families", []flows{{IPv4, 1000, 80, 15}, {IPv6, 1000, 80, 85}}, byFamily},
		{"client", []flows{{IPv4, 33_000, 443, 40}, {IPv4, 50_000, 443, 40}, {IPv6, 50_000, 443, 10}}, byPort(opSourceLE, opSourceGE, 33_024)},
		{"server", []flows{{IPv6, 443, 33_000, 40}, {IPv6, 443, 50_000, 50}, {IPv6, 443, 60_000, 10}}, byPort(opDestLE, opDestGE, 33_024)},
		{"better side", []flows{{IPv4, 443, 33_000, 20}, {IPv4, 8000, 33_000, 30}, {IPv4, 8000, 50_000, 50}}, byPort(opDestLE, opDestGE, 33_024)},
		{"first port of a group", []flows{{IPv4, 255, 1, 50}, {IPv4, 256, 1, 50}}, byPort(opSourceLE, opSourceGE, 256)},
		{"highest port", []flows{{IPv4, 1, 1, 50}, {IPv4, 65_535, 1, 50}}, byPort(opSourceLE, opSourceGE, 256)},
		{"same ports", []flows{{IPv4, 443, 443, 100}}, one},
		{"few other ports", []flows{{IPv4, 443, 443, 90}, {IPv4, 33_000, 443, 10}}, one},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var p profile
			for _, f := range tt.flows {
				for range f.n {
					p.add(&Flow{Family: f.family, Local: netip.AddrPortFrom(netip.Addr{}, f.local), Remote: netip.AddrPortFrom(netip.Addr{}, f.remote)})
				}
			}
			if diff := cmp.Diff(tt.want, p.split(true), parts); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			want := tt.want
			if len(want) == 2 && want[0].ports != nil {
				want = one
			}
			if diff := cmp.Diff(want, p.split(false), parts); diff != "" {
				t.Errorf("with a selector (-want +got):\n%s", diff)
			}
		})
	}
}

// Each port is in exactly one part.
func TestSplitPrograms(t *testing.T) {
	for _, side := range []func(*profile) *[256]int{func(p *profile) *[256]int { return &p.local }, func(p *profile) *[256]int { return &p.remote }} {
		p := profile{ipv4: 200}
		side(&p)[100], side(&p)[101] = 100, 100
		parts := p.split(true)
		for _, port := range []uint16{0, 1, 25_855, 25_856, 25_857, 65_535} {
			matches := 0
			for _, part := range parts {
				if program(part.bytecode()).accepts(&socket{family: IPv4, sport: port, dport: port}) {
					matches++
				}
			}
			if len(parts) != 2 || matches != 1 {
				t.Errorf("port %d is in %d of %d parts", port, matches, len(parts))
			}
		}
	}
}
