package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tcphup/test/kit/netns"
)

// Name and port of the service.
const (
	serviceName = "api.internal"
	servicePort = "80"
)

// Timeouts, far above the durations on an idle machine.
const (
	setUpTimeout  = 3 * time.Minute
	hangUpTimeout = 3 * time.Minute
)

// stage is the application's host with its programs, and the two sites of the service.
type stage struct {
	options
	oldSite, newSite         *site
	dns, tcphup, application *program
	programs                 []*program              // all, in the order of their start
	fail                     context.CancelCauseFunc // ends the demo
}

// inside runs the demo in the namespaces created by outside.
func inside(o options) error {
	if err := netns.Prepare(); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		return fmt.Errorf("mount %s: %w", dir, err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	s := &stage{options: o, fail: cancel}
	err := s.setUp(ctx)
	if err == nil {
		err = s.play(ctx)
	}
	if err != nil {
		s.showLogs()
	}
	return err
}

// setUp starts the sites and all programs and waits until they work together.
func (s *stage) setUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, setUpTimeout)
	defer cancel()
	if err := ip("address add " + hostAddress + " dev lo"); err != nil {
		return err
	}
	var err error
	if s.oldSite, err = openSite("old", "10.20.1.5"); err != nil {
		return err
	}
	if s.newSite, err = openSite("new", "10.20.2.5"); err != nil {
		return err
	}
	fmt.Printf("An application keeps %d connections to %s, which resolves to %v and will move to %v.\n", poolSize, serviceName, s.oldSite, s.newSite)
	fmt.Printf("tcphup, Prometheus and Alertmanager use the files of deploy/ with shorter delays:\n%s.\n", shortWaits)
	for _, start := range []func() error{s.startDNS, s.startTcphup, s.startPrometheus, s.startAlertmanager} {
		if err := start(); err != nil {
			return err
		}
	}
	if err := s.startApplication(ctx); err != nil {
		return err
	}
	// Prometheus discovers its Alertmanager some seconds after its start.
	return await(ctx, "tcphup, Prometheus and Alertmanager are connected", func() bool {
		return hasResult(ctx, fmt.Sprintf(`tcphup_service_sockets{address="current",service=%q} == %d`, serviceName, poolSize)) &&
			hasAlertmanager(ctx)
	})
}

// startDNS starts dnsmasq, the only name server in /etc/resolv.conf.
func (s *stage) startDNS() error {
	for path, content := range map[string]string{
		"/etc/resolv.conf": "nameserver 127.0.0.1\n",
		"/etc/hosts":       "127.0.0.1 localhost\n",
	} {
		file := filepath.Base(path)
		if err := write(file, content); err != nil {
			return err
		}
		if err := unix.Mount(filepath.Join(dir, file), path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount over %s: %w", path, err)
		}
	}
	if err := s.writeName(s.oldSite); err != nil {
		return err
	}
	var err error
	s.dns, err = s.start(dnsmasqProgram, "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--user=root",
		"--no-resolv", "--no-hosts", "--listen-address=127.0.0.1", "--bind-interfaces",
		"--local=/internal/", "--addn-hosts="+filepath.Join(dir, "names"))
	return err
}

func (s *stage) writeName(of *site) error {
	return write("names", of.address+" "+serviceName+"\n")
}

// moveName changes the DNS record of the service.
func (s *stage) moveName(to *site) error {
	if err := s.writeName(to); err != nil {
		return err
	}
	return s.dns.cmd.Process.Signal(syscall.SIGHUP) // dnsmasq rereads the hosts file
}

// startApplication starts the application and waits until all its connections are on the old
// site. A symbolic link gives the process its own name.
func (s *stage) startApplication(ctx context.Context) error {
	err := await(ctx, "the name resolves to the old site", func() bool { return resolvesTo(ctx, s.oldSite) })
	if err != nil {
		return err
	}
	executable, err := os.Executable()
	if err != nil {
		return err
	}
	link := filepath.Join(dir, applicationName)
	if err := os.Symlink(executable, link); err != nil && !os.IsExist(err) {
		return err
	}
	if s.application, err = s.start(link, "http://"+net.JoinHostPort(serviceName, servicePort)); err != nil {
		return err
	}
	return await(ctx, "the application's pool is full", func() bool {
		return s.oldSite.connections.Load() == poolSize && s.newSite.connections.Load() == 0
	})
}
