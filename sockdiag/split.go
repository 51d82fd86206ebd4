package sockdiag

// profile counts the flows of a dump. It decides how two readers share the next one.
type profile struct {
	ipv4, ipv6    int
	local, remote [1 << 16 / portGroup]int // by groups of ports
}

// portGroup is the number of ports that a profile counts together.
const portGroup = 256

func (p *profile) add(f *Flow) {
	if f.Family == IPv4 {
		p.ipv4++
	} else {
		p.ipv6++
	}
	p.local[f.Local.Port()/portGroup]++
	p.remote[f.Remote.Port()/portGroup]++
}

func (p *profile) flows() int { return p.ipv4 + p.ipv6 }

// part is what one reader dumps.
type part struct {
	family Family        // or bothFamilies
	ports  []alternative // bytecode; nil for all ports
}

// leastPart is the least share of the flows, in per cent, for a reader of its own: the kernel
// walks its whole table for each reader.
const leastPart = 15

// split returns the parts of a dump for two readers, or for one if two would not be faster.
// There is one part for each family if both have enough flows. Otherwise, with byPort, one
// part has the lower and one the higher ports at one side of the flows.
func (p *profile) split(byPort bool) []part {
	least := max(p.flows()*leastPart/100, 1)
	if min(p.ipv4, p.ipv6) >= least {
		return []part{{family: IPv4}, {family: IPv6}}
	}
	limit, smaller := middle(&p.local)
	upTo, from := uint8(opSourceLE), uint8(opSourceGE)
	if l, s := middle(&p.remote); s > smaller {
		limit, smaller, upTo, from = l, s, opDestLE, opDestGE
	}
	if !byPort || smaller < least {
		return []part{{family: bothFamilies}}
	}
	return []part{
		{family: bothFamilies, ports: []alternative{{{op: upTo, port: limit - 1}}}},
		{family: bothFamilies, ports: []alternative{{{op: from, port: limit}}}},
	}
}

// middle returns the port that divides the flows best, and the number of flows on the side
// with fewer flows.
func middle(counts *[1 << 16 / portGroup]int) (limit int32, smaller int) {
	total, lower := 0, 0
	for _, n := range counts {
		total += n
	}
	for group, n := range counts[:len(counts)-1] {
		lower += n
		if s := min(lower, total-lower); s > smaller {
			limit, smaller = int32(group+1)*portGroup, s
		}
	}
	return limit, smaller
}

// bytecode returns the program that drops the sockets of the other part, nil for none.
func (p part) bytecode() []byte {
	if p.ports == nil {
		return nil
	}
	return appendPart(nil, p.ports, partLen(p.ports))
}
