package server

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// shutdownTimeout is how long running actions and responses may take to finish.
const shutdownTimeout = 20 * time.Second

// httpErrors logs the errors of an http.Server, which writes to stderr by default.
func (x *server) httpErrors() *log.Logger {
	return slog.NewLogLogger(x.logger.Handler(), slog.LevelWarn)
}

// serveUntilDone runs both servers until ctx ends, then waits for running actions.
func (x *server) serveUntilDone(ctx context.Context) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	var watching sync.WaitGroup
	defer watching.Wait()
	watching.Go(func() { x.watcher.Run(ctx) })
	watching.Go(func() { x.collector.Run(ctx) })
	watching.Go(func() { x.repeatSelfTest(ctx) })

	metrics := &http.Server{
		Handler: x.markWebClients(x.webRoutes().mux()), ReadHeaderTimeout: 10 * time.Second, WriteTimeout: time.Minute,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: x.httpErrors(),
	}
	limitConnections(metrics, connectionLimit)
	servers := []*http.Server{metrics}
	go func() { stop(serveOn(x.metricsListeners, metrics, x.options.Web, x.logger)) }()
	if x.options.AlertsAddress != "" {
		receiver := &http.Server{Handler: x.alertRoutes().exact(), ErrorLog: x.httpErrors()}
		x.receiver.ConfigureServer(receiver)
		limitConnections(receiver, connectionLimit)
		servers = append([]*http.Server{receiver}, servers...)
		go func() { stop(serveOn(x.alertListeners, receiver, x.alertsFlags, x.logger)) }()
	}
	for ctx.Err() == nil {
		select {
		case <-hup:
			x.reload()
		case <-ctx.Done():
		}
	}

	x.receiver.Stop()
	var errs []error
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		errs = append(errs, fmt.Errorf("serve: %w", cause))
	}
	x.logger.Info("shutting down, waiting for running actions")
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	for _, s := range servers {
		if err := s.Shutdown(ending); err != nil {
			errs = append(errs, fmt.Errorf("shut down: %w", err))
		}
	}
	return errors.Join(errs...)
}
