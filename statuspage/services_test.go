package statuspage

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"tcphup/services"
)

func TestStatusPageServices(t *testing.T) {
	now := time.Date(2026, 3, 14, 9, 26, 53, 0, time.UTC)
	addresses := func(n, sockets int) (list []services.Address) {
		for i := range n {
			list = append(list, services.Address{Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), Sockets: sockets + i})
		}
		return list
	}
	var many []services.Status
	for i := range pageServices + 3 {
		many = append(many, services.Status{Name: fmt.Sprintf("s%02d.internal", i), Port: 80, Looked: now, Former: addresses(1, i)})
	}
	one := func(s services.Status) []services.Status {
		s.Name, s.Port = "db.internal", 5432
		return []services.Status{s}
	}
	const title, noFormer = "Services and their former addresses", "No service has a former address."
	for _, tt := range []struct {
		name           string
		status         []services.Status
		failed         bool // no snapshot of the sockets
		want, unwanted []string
	}{
		{name: "no services", unwanted: []string{title, noFormer}},
		{
			name: "not looked up yet", status: one(services.Status{}),
			want: []string{title, ">not yet<", noFormer, `data-label="Current">none<`, `data-label="Stale">0<`}, unwanted: []string{"answered", "failed"},
		},
		{
			name: "no former addresses", status: one(services.Status{Looked: now, Current: addresses(1, 3)}),
			want: []string{noFormer, "answered", "3 sockets", `data-label="Former">none<`}, unwanted: []string{"An address is former"},
		},
		{
			name: "unknown since", status: one(services.Status{Looked: now, Former: addresses(1, 1)}),
			want: []string{`<span class="aside"><span class="count">1 socket</span></span>`, `class="alarm" data-label="Stale">1<`}, unwanted: []string{"since", noFormer},
		},
		{
			name: "shared address", status: one(services.Status{Looked: now, Former: []services.Address{{Addr: netip.MustParseAddr("10.0.0.1"), Sockets: 3, Shared: 2}}}),
			want: []string{"3 sockets</span>, 2 more may belong to another service</span>"},
		},
		{
			name: "not counted", status: one(services.Status{Looked: now, Former: addresses(1, 1), Current: addresses(1, 7)}), failed: true,
			want: []string{`class="nothing" data-label="Stale">–<`}, unwanted: []string{"1 socket", "7 sockets", "alarm"},
		},
		{
			name: "many addresses", status: one(services.Status{Looked: now, Former: addresses(pageAddresses+2, 1)}),
			want: []string{"and 2 more", ">10.0.0.9<", ">10.0.0.2<", ">55<"}, unwanted: []string{">10.0.0.1<", ">10.0.0.0<"},
		},
		{
			name: "many services", status: many,
			want: []string{"s22.internal:80<", "s03.internal:80<", "3 more services in the"}, unwanted: []string{"s02.internal", "s00.internal"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := &pageData{Private: true}
			d.setServices(tt.status, !tt.failed)
			page, _ := render(t, d)
			page = strings.ReplaceAll(page, pageCSS, "")
			mustShow(t, page, tt.want, tt.unwanted)
		})
	}
}
