package server

import (
	"errors"
	"fmt"
	"net"
)

// checkCredentials returns an error if the alert receiver requires no credentials and
// listens on an address other than loopback.
func (o *Options) checkCredentials() error {
	if o.AlertsAddress == "" {
		return nil
	}
	if o.AlertsWebConfig != "" {
		check := func() error { return checkWebConfig(o.AlertsWebConfig) }
		switch err := check(); {
		case err == nil:
			o.Alerts.CheckListener = check
		case !errors.Is(err, errNoWebCredentials):
			return err
		}
	}
	if o.Alerts.HasCredentials() {
		return nil
	}
	host, _, err := net.SplitHostPort(o.AlertsAddress)
	if err != nil {
		return fmt.Errorf("invalid --alerts.listen-address=%s: %w; use ADDRESS:PORT", o.AlertsAddress, err)
	}
	if !isLoopback(host) {
		return fmt.Errorf("--alerts.listen-address=%s requires no credentials: set --alerts.token-file or --alerts.web-config-file, or listen on 127.0.0.1", o.AlertsAddress)
	}
	return nil
}
