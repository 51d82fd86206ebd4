// Package config reads the configuration file: the rules of the alert receiver and the
// watched services.
package config

import (
	"errors"
	"fmt"
	"slices"

	"tcphup/alerts"
	"tcphup/internal/safefile"
	"tcphup/services"
)

// Config is the content of a configuration file.
type Config struct {
	// Rules apply to the alert receiver. A file without the key policies has the
	// embedded policy; a file with an empty list has none.
	Rules alerts.Rules
	// Services are watched for addresses that their names no longer resolve to.
	Services []services.Service
}

// Default returns the configuration that applies without a file.
func Default() Config { return Config{Rules: alerts.DefaultRules()} }

const maxSize = 1 << 20

// Load reads a configuration file of at most 1 MiB. It refuses a file that other users may
// change (safefile.Check). The error lists every mistake as a line of text with path and
// line number; invalid YAML yields only the first mistake.
func Load(path string) (Config, error) {
	content, err := safefile.Read(path, maxSize)
	if err != nil {
		return Config{}, fmt.Errorf("read configuration: %w", err)
	}
	return Parse(path, content)
}

// Parse is Load for the content of path.
func Parse(path string, content []byte) (Config, error) {
	d := &decoder{}
	c := d.config(d.document(content))
	if len(d.mistakes) > 0 {
		return Config{}, d.err(path)
	}
	if err := c.Validate(); err != nil {
		return Config{}, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// Validate returns every rule that is violated, or nil.
func (c *Config) Validate() error {
	errs := []error{c.Rules.Validate()}
	for _, s := range c.Services {
		if s.Settle <= 0 {
			errs = append(errs, fmt.Errorf("service %q: settle must be above 0", s.Name))
		}
	}
	return errors.Join(errs...)
}

// Names returns every name to resolve: those of services and those that policies allow.
func (c *Config) Names() []string {
	var names []string
	for _, s := range c.Services {
		names = append(names, s.Name)
	}
	for i := range c.Rules.Policies {
		names = append(names, c.Rules.Policies[i].Allow.Names...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}
