package server

import (
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/prometheus/exporter-toolkit/web"
)

// openListeners opens the TCP listeners of the flags. It runs before dropPrivileges:
// ports below 1024 need CAP_NET_BIND_SERVICE. It returns none for vsock and for systemd
// sockets, which serveOn opens.
func openListeners(flags *web.FlagConfig) ([]net.Listener, error) {
	isVsock := func(address string) bool { return strings.HasPrefix(address, "vsock://") }
	if *flags.WebSystemdSocket || slices.ContainsFunc(*flags.WebListenAddresses, isVsock) {
		return nil, nil
	}
	var listeners []net.Listener
	for _, address := range *flags.WebListenAddresses {
		l, err := net.Listen("tcp", address)
		if err != nil {
			return nil, fmt.Errorf("serve: %w", err)
		}
		listeners = append(listeners, l)
	}
	return listeners, nil
}

// serveOn serves on the result of openListeners until an error or a shutdown.
func serveOn(listeners []net.Listener, s *http.Server, flags *web.FlagConfig, logger *slog.Logger) error {
	if len(listeners) == 0 {
		return web.ListenAndServe(s, flags, logger)
	}
	return web.ServeMultiple(listeners, s, flags, logger)
}

// listen opens the listeners of both servers.
func (x *server) listen() error {
	var err error
	if x.metricsListeners, err = openListeners(x.options.Web); err != nil || x.options.AlertsAddress == "" {
		return err
	}
	noSocket := false
	x.alertsFlags = &web.FlagConfig{WebListenAddresses: &[]string{x.options.AlertsAddress}, WebSystemdSocket: &noSocket, WebConfigFile: &x.options.AlertsWebConfig}
	x.alertListeners, err = openListeners(x.alertsFlags)
	return err
}
