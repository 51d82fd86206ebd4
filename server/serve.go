package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// stopTimeout is how long the servers get to end what is under way.
const stopTimeout = 20 * time.Second

// serveUntilDone runs both servers until ctx ends, then lets what is under way finish.
func (x *server) serveUntilDone(ctx context.Context) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	var watching sync.WaitGroup
	defer watching.Wait()
	watching.Go(func() { x.watcher.Run(ctx) })

	metrics := newMetricsServer(x.webHandler())
	servers := []*http.Server{metrics}
	go func() { stop(serveOn(x.metricsListeners, metrics, x.options.Web, x.logger)) }()
	if x.options.AlertsAddress != "" {
		receiver := newAlertsServer(x.alertsHandler(), x.receiver)
		servers = append([]*http.Server{receiver}, servers...)
		go func() { stop(serveOn(x.alertListeners, receiver, x.alertsFlags, x.logger)) }()
	}
	for ctx.Err() == nil {
		select {
		case <-hup:
			if err := x.reload(); err != nil {
				x.logger.Error("configuration not reloaded, the old one stays", "err", err)
			}
		case <-ctx.Done():
		}
	}

	x.receiver.Stop()
	var errs []error
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		errs = append(errs, fmt.Errorf("serve: %w", cause))
	}
	x.logger.Info("stopping: what is under way is finished first")
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	for _, s := range servers {
		if err := s.Shutdown(ending); err != nil {
			errs = append(errs, fmt.Errorf("stop: %w", err))
		}
	}
	return errors.Join(errs...)
}
