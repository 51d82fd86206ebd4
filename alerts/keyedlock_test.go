package alerts

import "testing"

func TestOverlaps(t *testing.T) {
	of := func(destination string, ports []uint16, in ...string) *target {
		port := ""
		if len(ports) == 1 {
			port = "one"
		}
		return &target{destination: destination, port: port, prefixes: prefixes(in...), ports: ports}
	}
	in := func(namespace, pod string) *target {
		t := of("a", []uint16{80}, "10.0.0.1/32")
		t.namespace, t.pod = namespace, pod
		return t
	}
	http, https := []uint16{80}, []uint16{443}
	tests := []struct {
		name string
		a, b *target
		want bool
	}{
		{"same", of("a", http, "10.0.0.1/32"), of("a", http, "10.0.0.1/32"), true},
		{"other address", of("a", http, "10.0.0.1/32"), of("b", http, "10.0.0.2/32"), false},
		{"other port", of("a", http, "10.0.0.1/32"), of("b", https, "10.0.0.1/32"), false},
		{"every port", of("a", nil, "10.0.0.1/32"), of("b", https, "10.0.0.1/32"), true},
		{"one of the ports", of("a", []uint16{80, 443}, "10.0.0.1/32"), of("b", https, "10.0.0.1/32"), true},
		{"inside", of("a", http, "10.0.0.1/32"), of("b", http, "10.0.0.0/8"), true},
		{"beside", of("a", http, "11.0.0.1/32"), of("b", http, "10.0.0.0/8"), false},
		{"other family", of("a", http, "10.0.0.1/32"), of("b", http, "::/1"), false},
		{"one of the addresses", of("a", http, "10.0.0.1/32", "10.0.0.2/32"), of("b", http, "10.0.0.2/32"), true},
		{"service that has moved on", of("db", http, "10.0.0.1/32"), of("db", http, "10.0.0.2/32"), true},
		{"same pod", in("shop", "web-0"), in("shop", "web-0"), true},
		{"another pod", in("shop", "web-0"), in("shop", "web-1"), false},
		{"every pod", in("shop", ""), in("shop", "web-1"), true},
		{"another namespace", in("shop", "web-0"), in("bank", "web-0"), false},
		{"every pod of another namespace", in("shop", ""), in("bank", ""), false},
		{"nothing left behind", of("db", http), of("b", http, "10.0.0.2/32"), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.a.overlaps(tt.b) != tt.want || tt.b.overlaps(tt.a) != tt.want {
				t.Errorf("want %t both ways", tt.want)
			}
		})
	}
}
