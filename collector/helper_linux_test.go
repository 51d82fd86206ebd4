package collector

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sys/unix"
)

// helper is the environment variable with the name and arguments of the helper that the
// test binary runs in place of the tests.
const helper = "TCPHUP_TEST_HELPER"

func TestMain(m *testing.M) {
	words := strings.Fields(os.Getenv(helper))
	if len(words) == 0 {
		os.Exit(m.Run())
	}
	run := map[string]func([]string) error{"load": load, "serve": serve, "churn": churn, "namespaces": holdNamespaces}[words[0]]
	if err := run(words[1:]); err != nil {
		fmt.Fprintln(os.Stderr, words[0]+":", err)
		os.Exit(1)
	}
}

// process is a helper process. It runs until the test ends.
type process struct {
	cmd    *exec.Cmd
	output string // the line it prints when it is ready
}

// start runs a helper for each argument and waits until all are ready. A helper ends with its
// input, so that it does not outlive this process.
func start(t testing.TB, arguments ...string) []process {
	t.Helper()
	var (
		started []process
		outputs []*bufio.Reader
	)
	for _, args := range arguments {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), helper+"="+args)
		cmd.Stderr = os.Stderr
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = stdin.Close()
			if err := cmd.Wait(); err != nil {
				t.Errorf("helper %q: %v", args, err)
			}
		})
		started = append(started, process{cmd: cmd})
		outputs = append(outputs, bufio.NewReader(stdout))
	}
	for i, out := range outputs {
		line, err := out.ReadString('\n')
		if err != nil {
			t.Fatalf("helper %q: %v", arguments[i], err)
		}
		started[i].output = strings.TrimSpace(line)
	}
	return started
}

// ready prints a line and blocks until the test has ended.
func ready(line string) error {
	fmt.Println(line)
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// load holds both ends of args[0] connections to args[1] destinations, which are loopback
// addresses of one dual-stack listener. The accepted ends are IPv6 sockets with mapped
// IPv4 addresses.
func load(args []string) error {
	connections, destinations, err := twoNumbers(args)
	if err != nil {
		return err
	}
	listener, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := errors.Join(unix.Bind(listener, &unix.SockaddrInet6{}), unix.Listen(listener, 16)); err != nil {
		return err
	}
	name, err := unix.Getsockname(listener)
	if err != nil {
		return err
	}
	for i := range connections {
		s, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		d := i % destinations
		to := &unix.SockaddrInet4{Port: name.(*unix.SockaddrInet6).Port, Addr: [4]byte{127, 1, byte(d >> 8), byte(d)}}
		if err := unix.Connect(s, to); err != nil {
			return fmt.Errorf("connection %d: %w", i, err)
		}
		accepted, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
		if err != nil {
			return fmt.Errorf("connection %d: %w", i, err)
		}
		// A reset leaves no TIME_WAIT for the next benchmark.
		abort := &unix.Linger{Onoff: 1}
		for _, fd := range []int{s, accepted} {
			if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, abort); err != nil {
				return err
			}
		}
	}
	return ready("connected")
}

func twoNumbers(args []string) (a, b int, err error) {
	_, err = fmt.Sscan(strings.Join(args, " "), &a, &b)
	return a, b, err
}

// serve is an exporter with this package, all histograms, and the Go and process
// collectors. args[0] is Config.MaxDestinations. It prints its address.
func serve(args []string) error {
	config := Config{Histograms: Histograms()}
	if _, err := fmt.Sscan(strings.Join(args, " "), &config.MaxDestinations); err != nil {
		return err
	}
	c, err := New(config)
	if err != nil {
		return err
	}
	others := prometheus.NewRegistry()
	others.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	http.Handle("/metrics", c.Handler(others))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go func() { _ = http.Serve(ln, nil) }()
	return ready(ln.Addr().String())
}

// scrapeURL returns the metrics of the exporter at address.
func scrapeURL(t testing.TB, address string) []byte {
	t.Helper()
	response, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("scrape: %s, %v\n%s", response.Status, err, body)
	}
	return body
}

// value returns the value of the sample with this exact name and labels.
func value(t testing.TB, exposition []byte, sample string) float64 {
	t.Helper()
	for line := range bytes.Lines(exposition) {
		if rest, ok := bytes.CutPrefix(line, []byte(sample+" ")); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(string(rest)), 64)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
	}
	t.Fatalf("no sample %s", sample)
	return 0
}

// churn opens and closes args[0] connections at a time to args[1] destinations until the
// test has ended.
func churn(args []string) error {
	// Limits the rate to a few thousand connections per second.
	const churnPause = 5 * time.Millisecond
	atOnce, destinations, err := twoNumbers(args)
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", ":0")
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}()
		}
	}()
	port := ln.Addr().(*net.TCPAddr).Port
	for worker := range atOnce {
		go func() {
			for i := worker; ; i += atOnce {
				time.Sleep(churnPause)
				d := i % destinations
				c, err := net.Dial("tcp", fmt.Sprintf("127.1.%d.%d:%d", d>>8, d&255, port))
				if err != nil {
					continue // out of ports
				}
				_, _ = c.Write([]byte("x"))
				_, _ = c.Read(make([]byte, 1))
				if i%2 == 0 { // half of them leave no TIME_WAIT
					_ = c.(*net.TCPConn).SetLinger(0)
				}
				_ = c.Close()
				time.Sleep(time.Millisecond)
			}
		}()
	}
	return ready("churning")
}
