package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// dir has the files of servers and clients, on a tmpfs.
const dir = "/mnt"

// service is a server program. Its configuration has the defaults of Debian's package but for
// addresses, files and users, and limits that many clients at once reach.
type service struct {
	server      string // in the table of clients
	user        string // that it runs as; empty: root
	prepare     [][]string
	files       map[string]string // name in dir: content
	command     []string
	environment []string
	ready       [][]string // commands that succeed once it serves, and set it up
}

func services() ([]service, error) {
	bin, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil || len(bin) == 0 {
		return nil, errors.Join(errors.New("PostgreSQL is not installed"), err)
	}
	postgres := bin[len(bin)-1]
	return []service{
		{server: "nginx", files: map[string]string{"nginx.conf": nginxConfiguration}, command: []string{"nginx", "-e", "stderr", "-p", dir, "-c", dir + "/nginx.conf"}},
		{
			server: "PostgreSQL", user: "postgres",
			prepare: [][]string{{postgres + "/initdb", "--no-sync", "--auth=trust", "--pgdata=" + dir + "/PostgreSQL/data"}, {"sh", "-c", "echo host all all all trust >> " + dir + "/PostgreSQL/data/pg_hba.conf"}},
			command: []string{postgres + "/postgres", "-D", dir + "/PostgreSQL/data", "-k", dir + "/PostgreSQL", "-c", "listen_addresses=" + serverAddress + "," + newSite, "-c", "max_connections=1000", "-c", "fsync=off"},
			ready: [][]string{
				{"psql", "-h", dir + "/PostgreSQL", "-d", "postgres", "-c", "create role app login superuser password 'app'"},
				{"psql", "-h", dir + "/PostgreSQL", "-d", "postgres", "-c", "create database app owner app"},
			},
		},
		{
			server: "MariaDB", user: "mysql",
			prepare: [][]string{{"mariadb-install-db", "--no-defaults", "--datadir=" + dir + "/MariaDB/data", "--skip-test-db", "--auth-root-authentication-method=normal"}},
			command: []string{"mariadbd", "--no-defaults", "--datadir=" + dir + "/MariaDB/data", "--socket=" + dir + "/MariaDB/socket", "--pid-file=" + dir + "/MariaDB/pid", "--bind-address=" + serverAddress, "--skip-name-resolve", "--max-connections=1000"},
			ready: [][]string{{"mariadb", "--no-defaults", "--socket=" + dir + "/MariaDB/socket", "--user=root", "-e",
				"create database if not exists app; create user if not exists app identified by 'app'; grant all on *.* to app"}},
		},
		{server: "Redis", command: []string{"redis-server", "--bind", serverAddress, "--protected-mode", "no", "--save", ""}, ready: [][]string{{"redis-cli", "-h", serverAddress, "ping"}}},
		{server: "memcached", user: "nobody", command: []string{"memcached", "-l", serverAddress}},
		{
			server:  "RabbitMQ",
			files:   map[string]string{"rabbitmq.conf": "loopback_users = none\nlisteners.tcp.1 = " + serverAddress + ":5672\n"},
			command: []string{"/usr/lib/rabbitmq/bin/rabbitmq-server"},
			environment: []string{"RABBITMQ_NODENAME=rabbit@localhost", "RABBITMQ_MNESIA_BASE=" + dir + "/RabbitMQ", "RABBITMQ_LOG_BASE=" + dir + "/RabbitMQ",
				"RABBITMQ_CONFIG_FILE=" + dir + "/rabbitmq.conf", "RABBITMQ_ENABLED_PLUGINS_FILE=" + dir + "/RabbitMQ/plugins", "HOME=" + dir + "/RabbitMQ"},
		},
		{server: "NATS", command: []string{"nats-server", "-a", serverAddress}},
		{server: "etcd", command: []string{"etcd", "--data-dir", dir + "/etcd", "--listen-client-urls", "http://" + serverAddress + ":2379", "--advertise-client-urls", "http://" + serverAddress + ":2379", "--unsafe-no-fsync"}},
		{
			server:  "sshd",
			prepare: [][]string{{"ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", dir + "/sshd/host"}, {"ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", dir + "/sshd/client"}},
			files:   map[string]string{"sshd_config": "ListenAddress " + serverAddress + ":2222\nHostKey " + dir + "/sshd/host\nAuthorizedKeysFile " + dir + "/sshd/client.pub\nStrictModes no\nUsePAM no\nPidFile none\nMaxStartups 200\n"},
			command: []string{"/usr/sbin/sshd", "-D", "-e", "-f", dir + "/sshd_config"},
		},
	}, nil
}

const nginxConfiguration = `
daemon off;
error_log stderr;
pid /mnt/nginx/pid;
events {}
http {
	access_log off;
	proxy_temp_path /mnt/nginx/proxy;
	client_body_temp_path /mnt/nginx/body;
	fastcgi_temp_path /mnt/nginx/fastcgi;
	uwsgi_temp_path /mnt/nginx/uwsgi;
	scgi_temp_path /mnt/nginx/scgi;
	keepalive_timeout 10m;
	server {
		listen 10.99.0.1:80;
		listen 10.99.0.2:80;
		location / {
			proxy_pass http://127.0.0.1:9000;
			proxy_buffering off;
			proxy_read_timeout 15m;
		}
	}
}
`

// environment has the settings of client programs.
func environment() []string {
	return []string{
		"SERVER=" + serverAddress, "SSH_KEY=" + dir + "/sshd/client",
		"PG_REQUEST=select 'done'",
		"PG_SLOW=select 'done', case when pg_try_advisory_lock(NUMBER) then cast(pg_sleep(600) as text) end",
		"PG_HALF=select repeat('x', 10000), case when n = 11 and pg_try_advisory_lock(NUMBER) then cast(pg_sleep(600) as text) end from generate_series(1, 20) n",
		"PG_WORK=select 'done', pg_sleep(2)", "MY_WORK=select 'done', sleep(2)",
		"MY_REQUEST=select 'done'",
		"MY_SLOW=select 'done', if(get_lock('NUMBER', 0), sleep(600), 0)",
		"MY_HALF=select repeat('x', 10000), if(seq = 11 and get_lock('NUMBER', 0), sleep(600), 0) from seq_1_to_20",
	}
}

// startServers starts all servers and waits until they serve.
func startServers(ctx context.Context) error {
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount %s: %w", dir, err)
	}
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
		return err
	}
	for _, address := range []string{serverAddress, newSite, monitorAddress} {
		if _, err := output(ctx, "", "ip", "address", "add", address+"/32", "dev", "lo"); err != nil {
			return err
		}
	}
	all, err := services()
	if err != nil {
		return err
	}
	if err := startBackends(); err != nil {
		return err
	}
	failures := make(chan error, len(all))
	for _, s := range all {
		go func() {
			err := s.start(ctx)
			if err != nil {
				err = fmt.Errorf("start %s: %w", s.server, err)
			}
			failures <- err
		}()
	}
	for range all {
		err = errors.Join(err, <-failures)
	}
	if err != nil {
		return err
	}
	return startResponders()
}

func (s service) start(ctx context.Context) error {
	home := filepath.Join(dir, s.server)
	if err := os.MkdirAll(home, 0o755); err != nil {
		return err
	}
	attributes := &syscall.SysProcAttr{Setpgid: true}
	if s.user != "" {
		u, err := user.Lookup(s.user)
		if err != nil {
			return err
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		attributes.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		if err := os.Chown(home, uid, gid); err != nil {
			return err
		}
	}
	for file, content := range s.files {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o644); err != nil {
			return err
		}
	}
	command := func(words []string) *exec.Cmd {
		cmd := exec.Command(words[0], words[1:]...)
		cmd.Dir, cmd.SysProcAttr, cmd.Env = home, attributes, append(os.Environ(), s.environment...)
		return cmd
	}
	for _, words := range s.prepare {
		if out, err := command(words).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", words[0], err, out)
		}
	}
	log, err := os.Create(filepath.Join(dir, s.server+".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := command(s.command)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	for {
		err := s.serves(ctx, command)
		if err == nil {
			return nil
		}
		select {
		case <-exited:
			text, _ := os.ReadFile(log.Name())
			return fmt.Errorf("exited: %s", text[max(0, len(text)-2000):])
		case <-ctx.Done():
			return fmt.Errorf("does not serve: %w", err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// serves connects to the server and runs the commands that set it up.
func (s service) serves(ctx context.Context, command func([]string) *exec.Cmd) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(serverAddress, strconv.Itoa(ports()[s.server])))
	if err != nil {
		return err
	}
	conn.Close()
	for _, words := range s.ready {
		if out, err := command(words).CombinedOutput(); err != nil && !strings.Contains(string(out), "already exists") {
			return fmt.Errorf("%s: %w: %s", words[0], err, out)
		}
	}
	return nil
}
