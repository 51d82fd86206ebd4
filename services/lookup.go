package services

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// lookupError is a failed lookup. The reason is one of few words and stays the
// same as long as the failure does.
type lookupError struct {
	reason string
	err    error
}

func (e *lookupError) Error() string { return e.err.Error() }
func (e *lookupError) Unwrap() error { return e.err }

// fail is an error with a reason.
func fail(reason, format string, args ...any) error {
	return &lookupError{reason, fmt.Errorf(format, args...)}
}

var (
	errEmpty  = fail("empty", "the name has no address")
	errNoName = fail("nxdomain", "the name does not exist")
)

// system looks names up by the settings of the system's resolver: hosts(5), then
// the DNS by resolv.conf(5). nsswitch.conf and the sources that only it names are
// not looked at.
type system struct {
	hosts  settings[map[string][]netip.Addr]
	resolv settings[*dns.ClientConfig]
}

func newSystem(hosts, resolv string) *system {
	return &system{
		hosts:  settings[map[string][]netip.Addr]{path: hosts, parse: parseHosts},
		resolv: settings[*dns.ClientConfig]{path: resolv, parse: parseResolv},
	}
}

// changed reports whether a file has changed since the last call.
func (s *system) changed() bool {
	hosts, resolv := s.hosts.changed(), s.resolv.changed()
	return hosts || resolv
}

// lookup finds the addresses of a name. What the DNS said of one family is in the
// answer even when the other's question failed.
func (s *system) lookup(ctx context.Context, service Service) (answer, error) {
	hosts, err := s.hosts.get()
	if err != nil {
		return answer{}, fail("hosts", "read %s: %w", s.hosts.path, err)
	}
	name := canonical(service.Name)
	if addrs := hosts[strings.TrimSuffix(name, ".")]; len(addrs) > 0 {
		return answer{addrs: addrs, ttl: -1}, nil
	}
	config, err := s.resolv.get()
	if err != nil {
		return answer{}, fail("resolv.conf", "read %s: %w", s.resolv.path, err)
	}
	r := dnsResolver{config}
	none := errNoName
	for _, full := range fullNames(config, name) {
		var a answer
		if isSRV(name) {
			a, err = r.targets(ctx, full, service.Port)
		} else {
			a, err = r.addresses(ctx, full)
		}
		// Only what is known not to be there lets another name stand in for it.
		switch {
		case errors.Is(err, errEmpty):
			none = errEmpty
		case !errors.Is(err, errNoName):
			return a, err
		}
	}
	return answer{}, none
}

// fullNames returns the names that the DNS is asked for, one after the other. The
// search list may make some that no server could know: of "search .", which
// systemd-resolved writes when there is nothing to search, NameList makes "db..".
func fullNames(config *dns.ClientConfig, name string) []string {
	return slices.DeleteFunc(config.NameList(name), func(full string) bool {
		_, ok := dns.IsDomainName(full)
		return !ok || !dns.IsFqdn(full)
	})
}

// isSRV reports whether the name is that of SRV records (RFC 2782).
func isSRV(name string) bool {
	first, rest, _ := strings.Cut(name, ".")
	return strings.HasPrefix(first, "_") && strings.HasPrefix(rest, "_tcp.")
}

// distinct returns the addresses that a flow can lead to, each once, sorted and
// never IPv4-mapped.
func distinct(addrs []netip.Addr) []netip.Addr {
	var out []netip.Addr
	for _, a := range addrs {
		if a = a.WithZone("").Unmap(); a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

// settings is a file whose content is parsed when it has changed. One that does
// not exist is empty.
type settings[T any] struct {
	path  string
	parse func([]byte) (T, error)

	mu     sync.Mutex
	info   os.FileInfo // of what was parsed last; nil: no file
	parsed bool
	value  T

	noticed os.FileInfo // by changed
}

func (s *settings[T]) get() (T, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	info, err := stat(s.path)
	if err == nil && s.parsed && same(s.info, info) {
		return s.value, nil
	}
	var none T
	var content []byte
	if err == nil && info != nil {
		content, err = os.ReadFile(s.path)
	}
	if err != nil {
		return none, err
	}
	value, err := s.parse(content)
	if err != nil {
		return none, err
	}
	s.value, s.parsed, s.info = value, true, info
	return value, nil
}

func (s *settings[T]) changed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	info, err := stat(s.path)
	if err != nil || same(s.noticed, info) {
		return false
	}
	s.noticed = info
	return true
}

// stat returns nil and no error for a file that does not exist.
func stat(path string) (os.FileInfo, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return info, err
}

// same reports whether a file was not changed between two looks at it.
func same(a, b os.FileInfo) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

// parseHosts reads hosts(5): an address and its names a line. Lines that are not
// so are skipped, as every resolver does.
func parseHosts(content []byte) (map[string][]netip.Addr, error) {
	names := make(map[string][]netip.Addr)
	for line := range strings.Lines(string(content)) {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		addr, err := netip.ParseAddr(fields[0])
		if err != nil {
			continue
		}
		for _, name := range fields[1:] {
			name = strings.TrimSuffix(canonical(name), ".")
			names[name] = distinct(append(names[name], addr))
		}
	}
	return names, nil
}

// parseResolv reads resolv.conf(5). A server that is no address is skipped; without
// any, the one on this host is asked.
func parseResolv(content []byte) (*dns.ClientConfig, error) {
	config, err := dns.ClientConfigFromReader(strings.NewReader(string(content)))
	if err != nil {
		return nil, err
	}
	config.Servers = slices.DeleteFunc(config.Servers, func(server string) bool {
		_, err := netip.ParseAddr(server)
		return err != nil
	})
	if len(config.Servers) == 0 {
		config.Servers = []string{"127.0.0.1"}
	}
	// The limits of resolv.conf(5).
	config.Servers = config.Servers[:min(len(config.Servers), 3)]
	config.Attempts = min(config.Attempts, 5)
	config.Timeout = min(config.Timeout, int(lookupTimeout/time.Second))
	return config, nil
}
