// Command app is an application of a pod: it keeps COUNT connections to ADDRESS:PORT open and
// reconnects when they end. With --once it exits when each has ended once.
//
//	app ADDRESS:PORT COUNT [--once]
package main

import (
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"
)

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: app ADDRESS:PORT COUNT [--once]")
		os.Exit(2)
	}
	count, err := strconv.Atoi(os.Args[2])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	once := slices.Contains(os.Args[3:], "--once")
	var connections sync.WaitGroup
	for range count {
		connections.Go(func() {
			for {
				ended := hold(os.Args[1])
				fmt.Println(ended)
				if once {
					return
				}
			}
		})
	}
	connections.Wait()
}

// hold opens a connection and returns the reason for its end.
func hold(address string) error {
	for {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			time.Sleep(200 * time.Millisecond)
			continue
		}
		defer conn.Close()
		_, err = conn.Read(make([]byte, 1))
		return err
	}
}
