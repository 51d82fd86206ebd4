package command

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"

	"tcphup/hangup"
	"tcphup/internal/address"
	"tcphup/services"
)

// The types of this file implement kingpin.Value. Their errors quote the rejected value
// and the allowed range; nameFlag adds the flag.

// wholeNumber is an integer from min to max. kingpin's own integer flag reads 0.9 as
// 0, and 0 disables many limits.
type wholeNumber struct {
	dst      *int
	min, max int
}

func (n wholeNumber) String() string { return strconv.Itoa(*n.dst) }
func (n wholeNumber) Set(text string) error {
	number, err := strconv.Atoi(text)
	if err != nil || number < n.min || number > n.max {
		return fmt.Errorf("%q is not a whole number from %d to %d", text, n.min, n.max)
	}
	*n.dst = number
	return nil
}

// rate is a finite number of events per second, at least 0.
type rate struct{ dst *float64 }

func (r rate) String() string { return fmt.Sprint(*r.dst) }
func (r rate) Set(text string) error {
	number, err := strconv.ParseFloat(text, 64)
	if err != nil || !(number >= 0) || math.IsInf(number, 1) {
		return fmt.Errorf("%q is not a number of at least 0", text)
	}
	*r.dst = number
	return nil
}

// duration is a time.Duration of at least min.
type duration struct {
	dst *time.Duration
	min time.Duration
}

func (d duration) String() string { return d.dst.String() }
func (d duration) Set(text string) error {
	parsed, err := time.ParseDuration(text)
	if err != nil || parsed < d.min {
		allowed := "of at least " + d.min.String()
		if d.min == time.Nanosecond {
			allowed = "above 0s"
		}
		return fmt.Errorf("%q is not a duration %s, such as 500ms, 3s or 5m", text, allowed)
	}
	*d.dst = parsed
	return nil
}

// choice is one of several values, written as fmt.Sprint prints them.
type choice[T any] struct {
	dst    *T
	values []T
}

func (c choice[T]) String() string { return fmt.Sprint(*c.dst) }
func (c choice[T]) Set(text string) error {
	i := slices.Index(c.names(), text)
	if i < 0 {
		return fmt.Errorf("%q is not one of %s", text, strings.Join(c.names(), ", "))
	}
	*c.dst = c.values[i]
	return nil
}

func (c choice[T]) names() []string {
	names := make([]string, len(c.values))
	for i, v := range c.values {
		names[i] = fmt.Sprint(v)
	}
	return names
}

// setChoice sets the value of a flag to a choice, for completion too.
func setChoice[T any](flag *kingpin.FlagClause, dst *T, values ...T) {
	c := choice[T]{dst, values}
	flag.HintOptions(c.names()...).SetValue(c)
}

// subset is a comma-separated list of some of the values. It may be empty.
type subset[T ~string] struct {
	dst    *[]T
	values []T
}

func (s subset[T]) String() string { return strings.Join(names(*s.dst), ",") }
func (s subset[T]) Set(text string) error {
	chosen := []T{}
	if text != "" {
		for name := range strings.SplitSeq(text, ",") {
			if !slices.Contains(s.values, T(name)) {
				return fmt.Errorf("%q is not one of %s", name, strings.Join(names(s.values), ", "))
			}
			chosen = append(chosen, T(name))
		}
	}
	*s.dst = chosen
	return nil
}

// setSubset sets the value of a flag to a subset, for completion too.
func setSubset[T ~string](flag *kingpin.FlagClause, dst *[]T, values []T) {
	flag.HintOptions(names(values)...).SetValue(subset[T]{dst, values})
}

func names[T ~string](values []T) []string {
	s := make([]string, len(values))
	for i, v := range values {
		s[i] = string(v)
	}
	return s
}

// prefixes is a repeatable flag.
type prefixes []netip.Prefix

func (p *prefixes) String() string     { return fmt.Sprint([]netip.Prefix(*p)) }
func (p *prefixes) IsCumulative() bool { return true }
func (p *prefixes) Set(text string) error {
	prefix, err := address.Parse(text)
	*p = append(*p, prefix)
	return err
}

// commandNames is a repeatable flag with a comma-separated list of command names.
type commandNames []string

func (c *commandNames) String() string     { return hangup.JoinCommands(*c) }
func (c *commandNames) IsCumulative() bool { return true }
func (c *commandNames) Set(text string) error {
	for _, name := range hangup.SplitCommands(text) {
		if err := hangup.CheckCommand(name); err != nil {
			return err
		}
		*c = append(*c, name)
	}
	return nil
}

// serviceFlags is the repeatable flag --service.
type serviceFlags []services.Service

func (s *serviceFlags) String() string     { return fmt.Sprint([]services.Service(*s)) }
func (s *serviceFlags) IsCumulative() bool { return true }
func (s *serviceFlags) Set(text string) error {
	name, port, err := address.ParseService(text)
	if err == nil && port == 0 {
		err = fmt.Errorf("%q has no port: write NAME:PORT", text)
	}
	*s = append(*s, services.Service{Name: name, Port: port, Settle: services.DefaultSettle, Interval: services.DefaultInterval})
	return err
}
