package server

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
)

// checkCredentials refuses to receive alerts from everyone.
func (o *Options) checkCredentials() error {
	if o.AlertsAddress == "" {
		return nil
	}
	if o.AlertsWebConfig != "" {
		check := func() error { return checkWebConfig(o.AlertsWebConfig) }
		switch err := check(); {
		case err == nil:
			o.Alerts.ListenerAuthenticates, o.Alerts.CheckListener = true, check
		case !errors.Is(err, errNoWebCredentials):
			return err
		}
	}
	if o.Alerts.HasCredentials() {
		return nil
	}
	host, _, err := net.SplitHostPort(o.AlertsAddress)
	if err != nil {
		return fmt.Errorf("--alerts.listen-address=%s: write ADDRESS:PORT: %w", o.AlertsAddress, err)
	}
	if a, err := netip.ParseAddr(host); host != "localhost" && (err != nil || !a.IsLoopback()) {
		return fmt.Errorf("--alerts.listen-address=%s can be reached by others and asks for no credentials: add --alerts.token-file or --alerts.web-config-file, or listen on 127.0.0.1", o.AlertsAddress)
	}
	return nil
}

// checkWebFile refuses a web configuration of the metrics that others may change.
func (o *Options) checkWebFile() error {
	if *o.Web.WebConfigFile == "" {
		return nil
	}
	_, err := readWebConfig(*o.Web.WebConfigFile)
	return err
}
