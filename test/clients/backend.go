package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	etcd "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
)

// Operations of client programs. See programs/golang/main.go.
const (
	idle    = ""
	request = "request"
	slow    = "slow"
	half    = "half"

	// failover is a request after the name's site has fallen silent.
	failover = "failover"

	// demoted is a request after the name has left its site, which still serves.
	demoted = "demoted"
)

// wholeSize has the size of the whole answer to half, by server.
func wholeSize(server string) int {
	switch server {
	case "nginx", "HTTP/2 in Go", "sshd":
		return bodySize
	}
	return rows
}

const (
	bodySize = 200_000
	rows     = 20
)

// seen has the operations that arrived once.
var seen sync.Map

// first reports whether no operation with this number has arrived before.
func first(server, number string) bool {
	_, loaded := seen.LoadOrStore(server+number, true)
	return !loaded
}

// startBackends starts the HTTP server behind nginx, the HTTP/2 server and the gRPC server.
func startBackends() error {
	behind, err := net.Listen("tcp", "127.0.0.1:9000")
	if err != nil {
		return err
	}
	serve("HTTP", func() error { return http.Serve(behind, http.HandlerFunc(answerHTTP)) })
	certificate, err := selfSigned()
	if err != nil {
		return err
	}
	two, err := net.Listen("tcp", serverAddress+":8443")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: http.HandlerFunc(answerHTTP), TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}}}
	serve("HTTP/2", func() error { return server.ServeTLS(two, "", "") })
	rpc, err := net.Listen("tcp", serverAddress+":50051")
	if err != nil {
		return err
	}
	rpcTwo, err := net.Listen("tcp", newSite+":50051")
	if err != nil {
		return err
	}
	rpcServer := grpc.NewServer(grpc.ForceServerCodec(rawCodec{}), grpc.UnknownServiceHandler(answerRPC))
	serve("gRPC", func() error { return rpcServer.Serve(rpc) })
	serve("gRPC", func() error { return rpcServer.Serve(rpcTwo) })
	return nil
}

// serve runs a server in the background for as long as the program runs.
func serve(name string, server func() error) {
	go func() { progress("%s server ended: %v", name, server()) }()
}

func answerHTTP(w http.ResponseWriter, r *http.Request) {
	number := r.URL.Query().Get("number")
	switch strings.TrimPrefix(r.URL.Path, "/") {
	case slow:
		if first("HTTP", number) {
			<-r.Context().Done()
			return
		}
	case half:
		w.Header().Set("Content-Length", fmt.Sprint(bodySize))
		part := make([]byte, bodySize/2)
		_, _ = w.Write(part)
		_ = http.NewResponseController(w).Flush()
		if first("HTTP", number) {
			<-r.Context().Done()
			return
		}
		_, _ = w.Write(part)
		return
	}
	fmt.Fprint(w, "done")
}

func answerRPC(_ any, stream grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(stream)
	var in []byte
	if err := stream.RecvMsg(&in); err != nil {
		return err
	}
	operation := method[strings.LastIndex(method, "/")+1:]
	out := make([]byte, 10_000)
	if operation == half {
		for range rows / 2 {
			if err := stream.SendMsg(&out); err != nil {
				return err
			}
		}
	}
	if operation != request && first("gRPC", string(in)) {
		<-stream.Context().Done()
		return stream.Context().Err()
	}
	if operation == half {
		for range rows/2 - 1 {
			if err := stream.SendMsg(&out); err != nil {
				return err
			}
		}
	}
	return stream.SendMsg(&out)
}

// rawCodec sends and receives bytes without protobuf.
type rawCodec struct{}

func (rawCodec) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }
func (rawCodec) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = append([]byte{}, data...)
	return nil
}
func (rawCodec) Name() string { return "raw" }

func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour), IPAddresses: []net.IP{net.ParseIP(serverAddress)}}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	return tls.Certificate{Certificate: [][]byte{certificate}, PrivateKey: key}, err
}

// startResponders starts the application that answers requests over NATS.
func startResponders() error {
	conn, err := nats.Connect("nats://"+serverAddress+":4222", nats.MaxReconnects(-1))
	if err != nil {
		return err
	}
	_, err = conn.Subscribe("*.*", func(m *nats.Msg) {
		if m.Reply == "" || strings.HasPrefix(m.Subject, slow) && first("NATS", m.Subject) {
			return
		}
		_ = m.Respond([]byte("done"))
	})
	return err
}

// answerSlow answers slow operations of Redis and etcd that arrive from now on, until ctx is done.
func answerSlow(ctx context.Context, server string, number int) error {
	var answer func() error
	switch server {
	case "Redis":
		conn, err := net.Dial("tcp", serverAddress+":6379")
		if err != nil {
			return err
		}
		defer conn.Close()
		answer = func() error {
			_, err := fmt.Fprintf(conn, "RPUSH slow%d x\r\n", number)
			return err
		}
	case "etcd":
		client, err := etcd.New(etcd.Config{Endpoints: []string{serverAddress + ":2379"}, Logger: zap.NewNop()})
		if err != nil {
			return err
		}
		defer func() { _ = client.Close() }()
		answer = func() error {
			_, err := client.Put(ctx, fmt.Sprint("slow", number), "x")
			return err
		}
	default:
		return nil
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(500 * time.Millisecond):
		}
		if err := answer(); err != nil && ctx.Err() == nil {
			return err
		}
	}
}
