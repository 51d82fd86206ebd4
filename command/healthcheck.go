package command

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/alecthomas/kingpin/v2"
)

// healthcheck is the command of the same name. It is for images that hold nothing
// but this binary.
type healthcheck struct {
	url     string
	timeout time.Duration
}

func newHealthcheck(cmd *kingpin.CmdClause) *healthcheck {
	h := &healthcheck{}
	cmd.Arg("url", "What to ask.").Default("http://127.0.0.1:10471/-/healthy").StringVar(&h.url)
	cmd.Flag("timeout", "How long the answer may take.").Default("3s").DurationVar(&h.timeout)
	return h
}

// run takes a server that asks for credentials for a healthy one: it answers.
func (h *healthcheck) run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, h.timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, h.url, nil)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUsage, err)
	}
	// A proxy of the environment's is not for the way to ourselves.
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("check health: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK && response.StatusCode != http.StatusUnauthorized {
		return fmt.Errorf("check health: %s answers %s", h.url, response.Status)
	}
	return nil
}
