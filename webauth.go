package main

import (
	"errors"
	"fmt"
	"os"

	"go.yaml.in/yaml/v3"
)

// errNoWebCredentials means that a listener lets everyone in.
var errNoWebCredentials = errors.New("asks for no credentials: " +
	"basic_auth_users, or client_auth_type RequireAndVerifyClientCert with a client_ca_file, would")

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
	content, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read web configuration: %w", err)
	}
	var web struct {
		TLS struct {
			ClientAuth   string `yaml:"client_auth_type"`
			ClientCAFile string `yaml:"client_ca_file"`
			ClientCA     string `yaml:"client_ca"`
		} `yaml:"tls_server_config"`
		Users     map[string]string `yaml:"basic_auth_users"`
		RateLimit map[string]any    `yaml:"rate_limit"`
	}
	if err := yaml.Unmarshal(content, &web); err != nil {
		return fmt.Errorf("read web configuration %s: %w", path, err)
	}
	if len(web.RateLimit) > 0 {
		return fmt.Errorf("web configuration %s: take rate_limit out: alertmanager loses the alerts that it turns away", path)
	}
	verified := web.TLS.ClientAuth == "RequireAndVerifyClientCert" && web.TLS.ClientCAFile+web.TLS.ClientCA != ""
	if len(web.Users) == 0 && !verified {
		return fmt.Errorf("web configuration %s %w", path, errNoWebCredentials)
	}
	return nil
}
