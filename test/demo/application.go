package main

import (
	"io"
	"log"
	"net/http"
	"sync"
	"time"
)

const (
	// applicationName is the name under which this program is the application.
	applicationName = "application"
	// poolSize is how many connections the application keeps.
	poolSize = 4
)

// application is an ordinary program with an ordinary pool of kept-alive
// connections, and knows nothing of tcphup. Five times a second it needs four
// answers, for which it asks at the same time. As with http.Get, no request has a
// time limit.
func application(url string) {
	client := &http.Client{Transport: &http.Transport{MaxConnsPerHost: poolSize, MaxIdleConnsPerHost: poolSize}}
	for range time.Tick(200 * time.Millisecond) {
		var answers sync.WaitGroup
		for range poolSize {
			answers.Go(func() {
				if err := ask(client, url); err != nil {
					log.Print(err)
				}
			})
		}
		answers.Wait()
	}
}

// ask reads an answer to its end, so that its connection can be used again.
func ask(client *http.Client, url string) error {
	response, err := client.Get(url)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	return err
}
