package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
)

func httpClients() map[string]func() (client, error) {
	return map[string]func() (client, error){
		"net-http": func() (client, error) {
			return get(http.DefaultClient, "http://"+server+":80"), nil
		},
		"net-http-h2": func() (client, error) {
			transport := http.DefaultTransport.(*http.Transport).Clone()
			transport.TLSClientConfig = &tls.Config{InsecureSkipVerify: true}
			return get(&http.Client{Transport: transport}, "https://"+server+":8443"), nil
		},
	}
}

// get returns a client of the HTTP servers.
func get(h *http.Client, base string) client {
	return func(ctx context.Context, operation, number string) (int, error) {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("%s/%s?number=%s", base, operation, number), nil)
		if err != nil {
			return 0, err
		}
		response, err := h.Do(r)
		if err != nil {
			return 0, err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return 0, fmt.Errorf("status %s", response.Status)
		}
		n, err := io.Copy(io.Discard, response.Body)
		return int(n), err
	}
}
