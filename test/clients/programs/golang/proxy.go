package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Proxies listen on loopback and keep connections to the server. Their configurations have
// the defaults but for what makes them keep connections, and long timeouts where a
// configuration must have some.
const (
	nginxConfiguration = `
daemon off;
worker_processes 1;
error_log WORK/error.log;
pid WORK/nginx.pid;
events {}
http {
	access_log off;
	proxy_temp_path WORK/proxy;
	client_body_temp_path WORK/body;
	fastcgi_temp_path WORK/fastcgi;
	uwsgi_temp_path WORK/uwsgi;
	scgi_temp_path WORK/scgi;
	upstream origin {
		server SERVER:80;
		keepalive 8;
	}
	server {
		listen 127.0.0.1:8080;
		location / {
			proxy_pass http://origin;
			proxy_http_version 1.1;
			proxy_set_header Connection "";
		}
	}
}
`
	haproxyConfiguration = `
defaults
	mode http
	timeout connect 5s
	timeout client 10m
	timeout server 10m
frontend local
	bind 127.0.0.1:8080
	default_backend origin
backend origin
	http-reuse always
	server one SERVER:80`
	// HAProxy looks names up every second by default.
	haproxyResolvers = ` resolvers names
resolvers names
	parse-resolv-conf
`
	// The time is nameCache of the harness.
	haproxyNameCache = haproxyResolvers + `	timeout resolve 200s
`
	pgbouncerConfiguration = `
[databases]
app = host=SERVER port=5432 dbname=app user=app password=app
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = 6432
unix_socket_dir =
auth_type = any
pool_mode = transaction
ignore_startup_parameters = extra_float_digits
`
)

func proxies() map[string]func() (client, error) {
	return map[string]func() (client, error){
		"nginx": func() (client, error) {
			return throughHTTP("nginx.conf", nginxConfiguration, "nginx", "-e", "stderr", "-p", "WORK", "-c", "WORK/nginx.conf")
		},
		"haproxy": func() (client, error) {
			return haproxy("\n")
		},
		"haproxy-resolvers": func() (client, error) {
			return haproxy(haproxyResolvers)
		},
		"haproxy-name-cache": func() (client, error) {
			return haproxy(haproxyNameCache)
		},
		"pgbouncer": func() (client, error) {
			if err := proxy("pgbouncer.ini", pgbouncerConfiguration, "127.0.0.1:6432", "pgbouncer", "-q", "-u", "postgres", "WORK/pgbouncer.ini"); err != nil {
				return nil, err
			}
			return pgxPool("postgres://app:app@127.0.0.1:6432/app?sslmode=disable&default_query_exec_mode=simple_protocol")
		},
	}
}

// haproxy starts HAProxy with options of its server, and sections that follow.
func haproxy(options string) (client, error) {
	return throughHTTP("haproxy.cfg", haproxyConfiguration+options, "haproxy", "-W", "-f", "WORK/haproxy.cfg")
}

func throughHTTP(file, configuration string, command ...string) (client, error) {
	if err := proxy(file, configuration, "127.0.0.1:8080", command...); err != nil {
		return nil, err
	}
	return get(&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}, "http://127.0.0.1:8080"), nil
}

// proxy starts a proxy and waits until it listens.
func proxy(file, configuration, address string, command ...string) error {
	work := os.Getenv("WORK")
	replace := strings.NewReplacer("WORK", work, "SERVER", server)
	if err := os.WriteFile(filepath.Join(work, file), []byte(replace.Replace(configuration)), 0o644); err != nil {
		return err
	}
	for i, argument := range command {
		command[i] = replace.Replace(argument)
	}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		if conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address); err == nil {
			return conn.Close()
		} else if ctx.Err() != nil {
			return err
		}
		select {
		case err := <-exited:
			return errors.Join(fmt.Errorf("%s exited", command[0]), err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
