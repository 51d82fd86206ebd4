package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
)

// server accepts connections to all destinations and echoes bytes until EOF on
// standard input.
func server(options) error {
	for i := range destinations {
		var config net.ListenConfig
		config.SetMultipathTCP(destinations[i].kind == mptcp)
		listener, err := config.Listen(context.Background(), "tcp", destinations[i].address.String())
		if err != nil {
			return err
		}
		go accept(listener)
	}
	fmt.Println("ready")
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

func accept(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			fmt.Fprintln(os.Stderr, "accept:", err)
			os.Exit(1)
		}
		go echo(conn)
	}
}

// echo returns each byte and never closes a connection first.
func echo(conn net.Conn) {
	defer conn.Close()
	buffer := make([]byte, 1)
	for {
		if _, err := conn.Read(buffer); err != nil {
			return
		}
		if _, err := conn.Write(buffer); err != nil {
			return
		}
	}
}
