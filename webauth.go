package main

import (
	"errors"
	"fmt"
	"path/filepath"

	"go.yaml.in/yaml/v3"

	"tcphup/internal/safefile"
)

// errNoWebCredentials means that a listener lets everyone in.
var errNoWebCredentials = errors.New("asks for no credentials: " +
	"basic_auth_users, or client_auth_type RequireAndVerifyClientCert with a client_ca_file, would")

// webConfig is what counts here of an exporter-toolkit web configuration.
type webConfig struct {
	TLS struct {
		CertFile     string `yaml:"cert_file"`
		KeyFile      string `yaml:"key_file"`
		ClientAuth   string `yaml:"client_auth_type"`
		ClientCAFile string `yaml:"client_ca_file"`
		ClientCA     string `yaml:"client_ca"`
	} `yaml:"tls_server_config"`
	Users     map[string]string `yaml:"basic_auth_users"`
	RateLimit map[string]any    `yaml:"rate_limit"`
}

// maxWebFile bounds what is read of a web configuration and of each file that it
// names, in bytes.
const maxWebFile = 1 << 20

// readWebConfig reads a web configuration and refuses it, and each file that it
// names, when others may change them (safefile.Check).
func readWebConfig(path string) (*webConfig, error) {
	content, err := safefile.Read(path, maxWebFile)
	if err != nil {
		return nil, fmt.Errorf("read web configuration: %w", err)
	}
	var c webConfig
	if err := yaml.Unmarshal(content, &c); err != nil {
		return nil, fmt.Errorf("read web configuration %s: %w", path, err)
	}
	for _, file := range []string{c.TLS.CertFile, c.TLS.KeyFile, c.TLS.ClientCAFile} {
		if file == "" {
			continue
		}
		if !filepath.IsAbs(file) {
			file = filepath.Join(filepath.Dir(path), file)
		}
		if _, err := safefile.Read(file, maxWebFile); err != nil {
			return nil, fmt.Errorf("web configuration %s: %w", path, err)
		}
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
	if len(c.RateLimit) > 0 {
		return fmt.Errorf("web configuration %s: take rate_limit out: alertmanager loses the alerts that it turns away", path)
	}
	verified := c.TLS.ClientAuth == "RequireAndVerifyClientCert" && c.TLS.ClientCAFile+c.TLS.ClientCA != ""
	if len(c.Users) == 0 && !verified {
		return fmt.Errorf("web configuration %s %w", path, errNoWebCredentials)
	}
	return nil
}
