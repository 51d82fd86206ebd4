// Golang has the Go clients, and drives programs that a terminal or a proxy needs: psql,
// mariadb, redis-cli, curl, ssh, nginx, HAProxy and pgbouncer. It runs the client that the
// first argument names.
//
// Each line of standard input is an operation and a number, such as "slow 17". Each operation
// is answered by one line: "ok SIZE" or "error TEXT". Operations are those of the harness, see
// test/clients/situations.go.
package main

import (
	"bufio"
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
)

// Operations.
const (
	request = "request" // answered at once
	slow    = "slow"    // the server answers only the second one with the same number
	half    = "half"    // as slow, after half of the answer
	work    = "work"    // answered after two seconds; for psql, mariadb and redis-cli
)

// server is the address of all servers.
var server = os.Getenv("SERVER")

// client runs an operation and returns the size of the answer. After an error the next
// operation opens a new connection unless the library does.
type client func(ctx context.Context, operation, number string) (size int, err error)

func main() {
	clients := make(map[string]func() (client, error))
	for _, more := range []map[string]func() (client, error){httpClients(), sqlClients(), otherClients(), messageClients(), rpcClients(), terminals(), proxies()} {
		maps.Copy(clients, more)
	}
	if len(os.Args) != 2 || clients[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: golang CLIENT; clients:", slices.Sorted(maps.Keys(clients)))
		os.Exit(2)
	}
	c, err := clients[os.Args[1]]()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	input := bufio.NewScanner(os.Stdin)
	for input.Scan() {
		operation, number, _ := strings.Cut(input.Text(), " ")
		size, err := c(context.Background(), operation, number)
		if err != nil {
			fmt.Printf("error %.300s\n", strings.ReplaceAll(err.Error(), "\n", " "))
			continue
		}
		fmt.Printf("ok %d\n", size)
	}
}
