package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

const (
	neighborName = "bench-neighbor"
	// neighborTime is the duration of the requests in one round.
	neighborTime = 500 * time.Millisecond
	// neighborPause is the pause of the client after each response.
	neighborPause = time.Millisecond
)

// neighbor is an HTTP server and its client in a pod. For each line of its input, the client
// sends requests for neighborTime. It prints the number of requests, and then the time of each
// in nanoseconds.
func neighbor([]string) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go func() {
		_ = http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }))
	}()
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var took []time.Duration
		for end := time.Now().Add(neighborTime); time.Now().Before(end); time.Sleep(neighborPause) {
			start := time.Now()
			response, err := client.Get("http://" + listener.Addr().String())
			if err != nil {
				return err
			}
			_, err = io.Copy(io.Discard, response.Body)
			_ = response.Body.Close()
			if err != nil {
				return err
			}
			took = append(took, time.Since(start))
		}
		fmt.Println(len(took))
		for _, d := range took {
			fmt.Println(int64(d))
		}
	}
	return nil
}

// requests runs one round of the neighbor, and calls meanwhile again and again until its end.
func (h *helper) requests(meanwhile func() error) (took []time.Duration, err error) {
	ctx, cancel := context.WithCancel(context.Background())
	var others sync.WaitGroup
	var failed error
	others.Go(func() {
		for ctx.Err() == nil && failed == nil {
			if failed = meanwhile(); failed == nil {
				time.Sleep(time.Millisecond)
			}
		}
	})
	defer func() {
		cancel()
		others.Wait()
		if err == nil {
			err = failed
		}
	}()
	var n int
	if err := h.request("go", &n); err != nil {
		return nil, err
	}
	for range n {
		var d int64
		if err := h.readLine(&d); err != nil {
			return nil, err
		}
		took = append(took, time.Duration(d))
	}
	return took, nil
}
