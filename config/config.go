// Package config reads the configuration file: the rules of the alert receiver and the
// watched services.
package config

import (
	"crypto/sha256"
	"fmt"
	"slices"

	"tcphup/alerts"
	"tcphup/internal/safefile"
	"tcphup/services"
)

// Config is the content of a configuration file.
type Config struct {
	// SHA256 are the first 12 hexadecimal digits of the hash of the file; empty without one.
	SHA256 string
	// Rules apply to the alert receiver. A file without the key policies has the
	// embedded policy; a file with an empty list has none.
	Rules alerts.Rules
	// Services are the watched DNS names.
	Services []services.Service
	// Warnings are about valid settings that probably have another meaning than intended,
	// each with path and line number.
	Warnings []string
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
	for _, w := range d.warnings {
		c.Warnings = append(c.Warnings, w.at(path))
	}
	if err := c.Rules.Validate(); err != nil {
		return Config{}, fmt.Errorf("%s: %w", path, err)
	}
	c.SHA256 = fmt.Sprintf("%x", sha256.Sum256(content))[:12]
	return c, nil
}

// ForNode reports whether the policies list namespaces: then they are valid in node mode only.
func (c *Config) ForNode() bool {
	return slices.ContainsFunc(c.Rules.Policies, func(p alerts.Policy) bool { return len(p.Namespaces) > 0 })
}

// Watched returns the names to watch: the services, and the names in the allow lists of
// policies, which have no port.
func (c *Config) Watched() []services.Service {
	watched := slices.Clone(c.Services)
	for i := range c.Rules.Policies {
		for _, name := range c.Rules.Policies[i].Allow.Names {
			if !slices.ContainsFunc(watched, named(name)) {
				watched = append(watched, services.Service{Name: name})
			}
		}
	}
	return watched
}

// named returns a function that compares the name of a service.
func named(name string) func(services.Service) bool {
	return func(s services.Service) bool { return s.Name == name }
}
