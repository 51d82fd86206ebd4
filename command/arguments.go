package command

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"unicode"

	"tcphup/internal/address"
	"tcphup/internal/text"
	"tcphup/sockdiag"
)

// argumentErrorf returns an inputError about the value of an argument or a flag, which it
// names.
func argumentErrorf(format string, values ...any) error {
	return inputError{fmt.Errorf(format, values...)}
}

// arguments are the parsed words HOST... PORT and the values of --port.
type arguments struct {
	hosts []string             // without ports
	ports []sockdiag.PortRange // nil means every port
	// hasPort is set if a port is given, also for 0.
	hasPort bool
	// bare is a PORT that is the only word and has no colon before it.
	bare string
}

// parseArguments parses the words HOST... PORT and the values of --port. The last word is
// PORT if it has the form of a port or is the name of a service. Otherwise every HOST may
// have the port, as HOST:PORT or in a URL.
func parseArguments(ctx context.Context, words, flags []string) (a arguments, err error) {
	if err := checkWords(words); err != nil {
		return a, err
	}
	if a.ports, a.hasPort, err = parsePortFlags(ctx, flags); err != nil {
		return a, err
	}
	if last := len(words) - 1; last >= 0 && isPort(ctx, words[last], last == 0) {
		word, colon := strings.CutPrefix(words[last], ":")
		if a.hasPort {
			return a, argumentErrorf("PORT %s and --port are both given: write one of them", text.Quote(words[last]))
		}
		if a.ports, err = parsePorts(ctx, "PORT", word); err != nil {
			return a, err
		}
		if a.hasPort = true; last == 0 && !colon {
			a.bare = word
		}
		words = words[:last]
	}
	return a, a.addHosts(ctx, words)
}

// checkWords rejects words that no argument can be.
func checkWords(words []string) error {
	for i, word := range words {
		switch {
		case word == "":
			return argumentErrorf("argument %d is empty: a command in $(...) may have printed nothing; write HOST... PORT", i+1)
		case strings.ContainsFunc(word, unicode.IsSpace):
			return argumentErrorf("argument %s has a space: write HOST and PORT as two words, without quotes", text.Quote(word))
		}
	}
	return nil
}

func parsePortFlags(ctx context.Context, flags []string) (ports []sockdiag.PortRange, given bool, err error) {
	for _, flag := range flags {
		parsed, err := parsePorts(ctx, "--port", flag)
		if err != nil {
			return nil, false, err
		}
		if parsed == nil && len(flags) > 1 {
			return nil, false, argumentErrorf("--port %q means every port: write it alone", flag)
		}
		ports = append(ports, parsed...)
	}
	return ports, len(flags) > 0, nil
}

// addHosts adds the hosts. They all have the same port: a selector has every combination of
// its hosts and ports.
func (a *arguments) addHosts(ctx context.Context, words []string) error {
	var source string // the HOST that has the port
	var without []string
	for _, word := range words {
		host, port, err := splitEndpoint(ctx, word)
		if err != nil {
			return err
		}
		a.hosts = append(a.hosts, host)
		if port == "" {
			without = append(without, host)
			continue
		}
		ports, err := parsePorts(ctx, "port of HOST "+text.Quote(host), port)
		switch {
		case err != nil:
			return err
		case a.hasPort && !slices.Equal(a.ports, ports):
			return argumentErrorf("HOST %s has port %s, and %s is given as well: write one command for each port",
				text.Quote(host), sockdiag.FormatPorts(ports), sockdiag.FormatPorts(a.ports))
		case !a.hasPort:
			a.ports, a.hasPort, source = ports, true, host
		}
	}
	if source != "" && len(without) > 0 {
		return argumentErrorf("HOST %s has port %s, and HOST %s has none: write the port once, as the last word",
			text.Quote(source), sockdiag.FormatPorts(a.ports), text.Quote(without[0]))
	}
	return nil
}

// everything are words for "every port" or "every host" of other tools.
var everything = []string{"*", "any", "all"}

// isPort reports whether a word is PORT: a number, a list, a range, a port after a colon or,
// if other words are before it, the name of a service.
func isPort(ctx context.Context, word string, first bool) bool {
	switch {
	case strings.Trim(word, "0123456789+,-") == "",
		strings.HasPrefix(word, ":") && !strings.HasPrefix(word, "::"):
		return true
	case first:
		return false
	case slices.Contains(everything, word):
		return true
	}
	for name := range strings.SplitSeq(word, ",") {
		if strings.Trim(name, "0123456789-") != "" && !isService(ctx, name) {
			return false
		}
	}
	return true
}

func isService(ctx context.Context, name string) bool {
	_, err := net.DefaultResolver.LookupPort(ctx, "tcp", name)
	return err == nil
}

// parsePorts returns the ports of a list of numbers, ranges and service names, and nil for 0,
// which means every port. Errors begin with the name of the argument or flag.
func parsePorts(ctx context.Context, name, list string) ([]sockdiag.PortRange, error) {
	if list == "0" {
		return nil, nil
	}
	var ports []sockdiag.PortRange
	for word := range strings.SplitSeq(list, ",") {
		r, err := parsePortRange(ctx, word)
		if err != nil {
			return nil, argumentErrorf("%s %s %w", name, text.Quote(list), err)
		}
		ports = append(ports, r)
	}
	return ports, nil
}

var errPort = errors.New("is neither a number from 0 to 65535 nor a known service name; write 5432, 5432,6432, 5432-5440 or https; 0 means every port")

func parsePortRange(ctx context.Context, word string) (r sockdiag.PortRange, err error) {
	first, last, isRange := strings.Cut(word, "-")
	switch {
	case slices.Contains(everything, word):
		return r, errors.New("is not a port: write 0 for every port")
	case word == "0":
		return r, errors.New("has 0, which means every port: write it alone")
	case strings.Trim(word, "0123456789+-") != "":
		port, err := net.DefaultResolver.LookupPort(ctx, "tcp", word)
		if err != nil {
			return r, errPort
		}
		return sockdiag.PortRange{First: uint16(port), Last: uint16(port)}, nil
	case !isRange:
		last = first
	}
	if r.First, err = address.ParsePort(first); err == nil {
		r.Last, err = address.ParsePort(last)
	}
	switch {
	case err != nil && isRange && first != "":
		return r, errors.New("is not a range of ports from 1 to 65535: write one such as 5432-5440")
	case err != nil:
		return r, errPort
	case r.Last < r.First:
		return r, fmt.Errorf("is a range that ends before it begins: write %s-%s", last, first)
	}
	return r, nil
}

// filterWords are words of the filters of ss, tcpdump, tcpkill and conntrack. A host with such
// a name needs a dot at the end.
var filterWords = []string{"src", "dst", "sport", "dport", "host", "net", "port", "state", "proto", "tcp", "udp", "and", "or", "not"}

// splitEndpoint splits HOST, HOST:PORT or a URL. The port is "" if there is none. Errors
// do not contain the user and the password of a URL.
func splitEndpoint(ctx context.Context, word string) (host, port string, err error) {
	scheme, rest, isURL := strings.Cut(word, "://")
	if isURL {
		word = rest
		if end := strings.IndexAny(word, "/?#"); end >= 0 {
			word = word[:end]
		}
		word = word[strings.LastIndex(word, "@")+1:]
	}
	if host, port, err = splitPort(word); err != nil {
		return "", "", err
	}
	switch _, afterUser, hasUser := strings.Cut(host, "@"); {
	case isURL && host == "":
		return "", "", argumentErrorf("HOST of the %s URL is empty: write HOST... PORT", text.Quote(scheme))
	case host == "":
		return "", "", argumentErrorf("argument %s is a PORT: write it as the last word", text.Quote(word))
	case slices.Contains(filterWords, host):
		return "", "", argumentErrorf("HOST %s is a filter word of another tool: write HOST... PORT, such as 10.0.0.5 5432", text.Quote(host))
	case slices.Contains(everything, host):
		return "", "", argumentErrorf("HOST %s is not a destination: for every address, write 0.0.0.0/0 ::/0", text.Quote(host))
	case strings.Trim(host, "0123456789+,-") == "":
		return "", "", argumentErrorf("HOST %s is a number: write several ports as one word after the hosts, such as 5432,6432", text.Quote(host))
	case strings.Contains(host, ","):
		return "", "", argumentErrorf("HOST %s has a comma: write several hosts as several words", text.Quote(host))
	case hasUser:
		return "", "", argumentErrorf("HOST %s has a user: write %s", text.Quote(host), text.Quote(afterUser))
	case isURL && port == "":
		port = servicePort(ctx, scheme)
	}
	return host, port, nil
}

// splitPort splits HOST:PORT; IPv6 needs brackets before a port.
func splitPort(word string) (host, port string, err error) {
	if _, err := address.Parse(word); !errors.Is(err, address.ErrSyntax) {
		return word, "", nil // an IPv6 address may look like HOST:PORT
	}
	host, port, hasPort := strings.Cut(word, ":")
	if end := strings.IndexByte(word, ']'); strings.HasPrefix(word, "[") && end > 0 {
		host = word[:end+1]
		port, hasPort = strings.CutPrefix(word[end+1:], ":")
		if !hasPort && port != "" {
			host = word
		}
	}
	switch {
	case !hasPort:
		return host, "", nil
	case port == "":
		return "", "", argumentErrorf("HOST %s has no port after the colon: write %s:5432, or %[2]s:0 for every port", text.Quote(word), host)
	case strings.Contains(port, ":") && strings.Contains(word, ","):
		return "", "", argumentErrorf("HOST %s has a comma: write several hosts as several words", text.Quote(word))
	case strings.Contains(port, ":"):
		return "", "", argumentErrorf("HOST %s is not an IPv6 address: with a port, write one such as [2001:db8::5]:5432", text.Quote(word))
	}
	return host, port, nil
}

// servicePort returns the port, or the name of the service, of a URL scheme; "" if it is
// unknown.
func servicePort(ctx context.Context, scheme string) string {
	name := strings.ToLower(scheme[strings.LastIndexByte(scheme, ':')+1:]) // jdbc:postgresql
	switch {
	case name == "postgres", name == "postgresql":
		return "5432"
	case isService(ctx, name):
		return name
	}
	return ""
}
