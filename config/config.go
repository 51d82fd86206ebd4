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
	// Services are the watched DNS names.
	Services []services.Service
}

// Default returns the configuration without a file: the embedded policy.
func Default() Config { return Config{Rules: alerts.DefaultRules()} }

const maxSize = 1 << 20

// Load reads a configuration file of at most 1 MiB. It rejects files writable by other
// users (safefile.Check). The error has one line per mistake, with path and line number;
// for invalid YAML it has only the first mistake.
func Load(path string) (Config, error) {
	content, err := safefile.Read(path, maxSize)
	if err != nil {
		return Config{}, fmt.Errorf("read configuration: %w", err)
	}
	return Parse(path, content)
}

// Parse is Load for content already read from path.
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

// Validate returns all violated constraints, joined, or nil.
func (c *Config) Validate() error {
	errs := []error{c.Rules.Validate()}
	for _, s := range c.Services {
		if s.Settle <= 0 {
			errs = append(errs, fmt.Errorf("service %q: settle must be above 0", s.Name))
		}
	}
	return errors.Join(errs...)
}

// Names returns the DNS names of services and of the policies' allow lists, sorted.
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
