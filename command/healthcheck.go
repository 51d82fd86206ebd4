package command

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/alecthomas/kingpin/v2"
)

// healthcheck implements tcphup healthcheck, for images without an HTTP client.
type healthcheck struct {
	url     string
	timeout time.Duration
}

func newHealthcheck(cmd *kingpin.CmdClause) *healthcheck {
	h := &healthcheck{}
	cmd.Arg("url", "URL of the health endpoint.").Default("http://127.0.0.1:10471/-/healthy").StringVar(&h.url)
	cmd.Flag("timeout", "Timeout of the request.").Default("3s").SetValue(duration{&h.timeout, time.Millisecond})
	return h
}

// run treats 401 as healthy: a server that requires credentials is running.
func (h *healthcheck) run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, h.timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, h.url, nil)
	if err != nil {
		return fmt.Errorf("%w: url: %w", ErrUsage, err)
	}
	// Without a Proxy function the transport ignores HTTP_PROXY.
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("check health: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK && response.StatusCode != http.StatusUnauthorized {
		return fmt.Errorf("check health: %s returned %s", h.url, response.Status)
	}
	return nil
}
