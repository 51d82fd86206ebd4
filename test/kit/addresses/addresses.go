// Package addresses has test addresses and prefixes for all inputs of tcphup: the command
// line, flags, the configuration, alert labels and the API.
package addresses

// Input is a text with the expected prefix or a part of the expected error.
type Input struct{ Text, Want, Fails string }

// Inputs returns all inputs.
func Inputs() []Input {
	return []Input{
		{Text: "10.0.0.5", Want: "10.0.0.5/32"},
		{Text: "10.0.0.5/32", Want: "10.0.0.5/32"},
		{Text: "127.0.0.1", Want: "127.0.0.1/32"},
		{Text: "2001:db8::5", Want: "2001:db8::5/128"},
		{Text: "2001:0DB8:0:0:0:0:0:5", Want: "2001:db8::5/128"},
		{Text: "2001:db8::10.0.0.5", Want: "2001:db8::a00:5/128"},
		{Text: "[2001:db8::5]", Want: "2001:db8::5/128"},
		{Text: "::ffff:10.0.0.5", Want: "10.0.0.5/32"},
		{Text: "::FFFF:0a00:0005", Want: "10.0.0.5/32"},
		{Text: "[::ffff:10.0.0.5]", Want: "10.0.0.5/32"},
		{Text: "::ffff:10.0.0.5/128", Want: "10.0.0.5/32"},
		{Text: "fe80::1", Want: "fe80::1/128"},
		{Text: "255.255.255.255", Want: "255.255.255.255/32"},

		{Text: "10.0.0.0/8", Want: "10.0.0.0/8"},
		{Text: "0.0.0.0/8", Want: "0.0.0.0/8"},
		{Text: "0.0.0.0/0", Want: "0.0.0.0/0"},
		{Text: "::/0", Want: "::/0"},
		{Text: "2001:db8::/32", Want: "2001:db8::/32"},
		{Text: "[2001:db8::/32]", Want: "2001:db8::/32"},
		{Text: "::ffff:10.0.0.0/104", Want: "10.0.0.0/8"},
		{Text: "::ffff:0.0.0.0/96", Want: "0.0.0.0/0"},

		{Text: "10.0.0.5/8", Fails: "bits set after its length: write 10.0.0.0/8, or 10.0.0.5 for a single address"},
		{Text: "2001:db8::5/32", Fails: "write 2001:db8::/32, or 2001:db8::5 for"},
		{Text: "::ffff:10.0.0.5/104", Fails: "write 10.0.0.0/8, or 10.0.0.5 for"},
		{Text: "::ffff:10.0.0.0/95", Fails: "write an IPv4 prefix"},
		{Text: "::ffff:0.0.0.0/80", Fails: "write an IPv4 prefix"},
		{Text: "0.0.0.0", Fails: "unspecified address, not a TCP destination: write a prefix"},
		{Text: "::", Fails: "unspecified"},
		{Text: "[::]", Fails: "unspecified"},
		{Text: "::ffff:0.0.0.0", Fails: "unspecified"},
		{Text: "0.0.0.0/32", Fails: "unspecified"},
		{Text: "::/128", Fails: "unspecified"},
		{Text: "224.0.0.1", Fails: "multicast, not a TCP destination: write a unicast"},
		{Text: "224.0.0.0/4", Fails: "multicast"},
		{Text: "239.0.0.0/8", Fails: "multicast"},
		{Text: "ff02::1", Fails: "multicast"},
		{Text: "ff00::/8", Fails: "multicast"},
		{Text: "::ffff:224.0.0.1", Fails: "multicast"},
		{Text: "fe80::1%eth0", Fails: "has a zone: write fe80::1, which"},
		{Text: "[fe80::1%eth0]", Fails: "has a zone"},
		{Text: "::ffff:10.0.0.5%eth0", Fails: "has a zone: write 10.0.0.5, which"},
	}
}
