package main

import (
	"io"
	"log"
	"net/http"
	"sync"
	"time"
)

const (
	// applicationName is the base name of argv[0] that selects the application.
	applicationName = "application"
	// poolSize is the number of connections in the application's pool.
	poolSize = 4
)

// application is an ordinary HTTP client with a pool of keep-alive connections and without
// any knowledge of tcphup. Five times a second it sends poolSize concurrent requests, like
// http.Get without a timeout.
func application(url string) {
	client := &http.Client{Transport: &http.Transport{MaxConnsPerHost: poolSize, MaxIdleConnsPerHost: poolSize}}
	for range time.Tick(200 * time.Millisecond) {
		var requests sync.WaitGroup
		for range poolSize {
			requests.Go(func() {
				if err := fetch(client, url); err != nil {
					log.Print(err)
				}
			})
		}
		requests.Wait()
	}
}

// fetch reads a response up to EOF, so that its connection returns to the pool.
func fetch(client *http.Client, url string) error {
	response, err := client.Get(url)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	return err
}
