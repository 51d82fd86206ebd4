package server

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/prometheus/exporter-toolkit/web"
	// The YAML library of exporter-toolkit.
	"go.yaml.in/yaml/v2"

	"tcphup/internal/safefile"
)

// errNoWebCredentials means that a listener accepts unauthenticated clients.
var errNoWebCredentials = errors.New("no credentials required: " +
	"add basic_auth_users, or client_auth_type RequireAndVerifyClientCert with a client_ca_file")

// maxWebFile is the maximum size in bytes of a web configuration and of each file that it
// names.
const maxWebFile = 1 << 20

// readWebConfig reads a web configuration and validates it like exporter-toolkit. It
// returns safefile.ErrUnsafe if other users may change the file, or a file that it names.
func readWebConfig(path string) (*web.Config, error) {
	content, err := safefile.Read(path, maxWebFile)
	if err != nil {
		return nil, fmt.Errorf("read web configuration: %w", err)
	}
	var c web.Config
	if err := yaml.UnmarshalStrict(content, &c); err != nil {
		return nil, fmt.Errorf("read web configuration %s: %w", path, err)
	}
	c.TLSConfig.SetDirectory(filepath.Dir(path))
	for _, file := range []string{c.TLSConfig.TLSCertPath, c.TLSConfig.TLSKeyPath, c.TLSConfig.ClientCAs} {
		if file == "" {
			continue
		}
		if _, err := safefile.Read(file, maxWebFile); err != nil {
			return nil, fmt.Errorf("read web configuration %s: %w", path, err)
		}
	}
	if err := web.Validate(path); err != nil {
		return nil, fmt.Errorf("read web configuration %s: %w", path, err)
	}
	return &c, nil
}

// checkWebConfig returns nil if a listener with this web configuration authenticates all
// clients. exporter-toolkit rereads the file for each connection and request, so callers
// must check each time.
//
// The other values of client_auth_type accept clients without a certificate or with a
// self-signed one. Verification without a client CA trusts every public CA. rate_limit is
// rejected because Alertmanager drops notifications after status 429.
func checkWebConfig(path string) error {
	c, err := readWebConfig(path)
	if err != nil {
		return err
	}
	if c.RateLimiterConfig != (web.RateLimiterConfig{}) {
		return fmt.Errorf("check web configuration %s: rate_limit is not supported: Alertmanager drops notifications after status 429", path)
	}
	verified := c.TLSConfig.ClientAuth == "RequireAndVerifyClientCert" && c.TLSConfig.ClientCAs+c.TLSConfig.ClientCAsText != ""
	if len(c.Users) == 0 && !verified {
		return fmt.Errorf("check web configuration %s: %w", path, errNoWebCredentials)
	}
	return nil
}
