package server

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/prometheus/exporter-toolkit/web"
	// The library with which exporter-toolkit reads the file.
	"go.yaml.in/yaml/v2"

	"tcphup/internal/safefile"
)

// errNoWebCredentials means that a listener lets everyone in.
var errNoWebCredentials = errors.New("asks for no credentials: " +
	"basic_auth_users, or client_auth_type RequireAndVerifyClientCert with a client_ca_file, would")

// maxWebFile bounds what is read of a web configuration and of each file that it
// names, in bytes.
const maxWebFile = 1 << 20

// readWebConfig reads a web configuration and validates it as exporter-toolkit does. It
// rejects a file, and each file that it names, that other users may change
// (safefile.Check).
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
			return nil, fmt.Errorf("web configuration %s: %w", path, err)
		}
	}
	if err := web.Validate(path); err != nil {
		return nil, fmt.Errorf("web configuration %s: %w", path, err)
	}
	return &c, nil
}

// checkWebConfig returns nil when a listener with this exporter-toolkit web
// configuration lets only clients through that it knows. The toolkit reads the
// file again for every connection and request, so what was true at the start may
// have become false.
//
// The other client_auth_types do not count: they accept clients without a
// certificate, or with one that anybody can make. Nor does verification without a
// client CA: it would trust every public one. A rate_limit is refused, because its
// answer 429 makes Alertmanager drop the notification.
func checkWebConfig(path string) error {
	c, err := readWebConfig(path)
	if err != nil {
		return err
	}
	if c.RateLimiterConfig != (web.RateLimiterConfig{}) {
		return fmt.Errorf("web configuration %s: take rate_limit out: alertmanager loses the alerts that it turns away", path)
	}
	verified := c.TLSConfig.ClientAuth == "RequireAndVerifyClientCert" && c.TLSConfig.ClientCAs+c.TLSConfig.ClientCAsText != ""
	if len(c.Users) == 0 && !verified {
		return fmt.Errorf("web configuration %s %w", path, errNoWebCredentials)
	}
	return nil
}
