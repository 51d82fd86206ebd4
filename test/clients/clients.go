package main

import (
	"fmt"
	"path/filepath"
	"slices"
)

// client is a client program with the server that it uses.
type client struct {
	name     string // in the table
	language string
	program  string // argument of the language's program
	server   string
	// without has the operations that the client or its server does not have. An operation
	// that is empty stands for an idle connection.
	without []string
}

// ports are the ports of the servers.
func ports() map[string]int {
	return map[string]int{
		"nginx": 80, "HTTP/2 in Go": 8443, "gRPC in Go": 50051, "PostgreSQL": 5432, "MariaDB": 3306, "Redis": 6379,
		"memcached": 11211, "RabbitMQ": 5672, "NATS": 4222, "etcd": 2379, "sshd": 2222,
	}
}

func clients() []client {
	noHalf, requestsOnly, demotedOnly := []string{half}, []string{slow, half}, []string{idle, request, slow, half}
	return []client{
		{"Go net/http", "golang", "net-http", "nginx", nil},
		{"Go net/http, HTTP/2", "golang", "net-http-h2", "HTTP/2 in Go", nil},
		{"Go pgx pool", "golang", "pgxpool", "PostgreSQL", nil},
		{"Go pgx", "golang", "pgx", "PostgreSQL", nil},
		{"Go lib/pq", "golang", "lib-pq", "PostgreSQL", nil},
		{"Go go-sql-driver/mysql", "golang", "go-sql-mysql", "MariaDB", nil},
		{"Go go-redis", "golang", "go-redis", "Redis", noHalf},
		{"Go gomemcache", "golang", "gomemcache", "memcached", requestsOnly},
		{"Go amqp091-go", "golang", "amqp091-go", "RabbitMQ", noHalf},
		{"Go nats.go", "golang", "nats.go", "NATS", noHalf},
		{"Go etcd client", "golang", "etcd-client", "etcd", noHalf},
		{"Go grpc-go", "golang", "grpc-go", "gRPC in Go", nil},
		{"Python requests", "python", "requests", "nginx", nil},
		{"Python urllib3", "python", "urllib3", "nginx", nil},
		{"Python httpx", "python", "httpx", "nginx", nil},
		{"Python aiohttp", "python", "aiohttp", "nginx", nil},
		{"Python http.client", "python", "http.client", "nginx", nil},
		{"Python PycURL", "python", "pycurl", "nginx", nil},
		{"Python psycopg 3", "python", "psycopg", "PostgreSQL", nil},
		{"Python psycopg2", "python", "psycopg2", "PostgreSQL", nil},
		{"Python asyncpg pool", "python", "asyncpg", "PostgreSQL", nil},
		{"Python SQLAlchemy, psycopg2", "python", "sqlalchemy-postgresql", "PostgreSQL", nil},
		{"Python SQLAlchemy, PyMySQL", "python", "sqlalchemy-mariadb", "MariaDB", nil},
		{"Python PyMySQL", "python", "pymysql", "MariaDB", nil},
		{"Python mysqlclient", "python", "mysqlclient", "MariaDB", nil},
		{"Python redis-py", "python", "redis", "Redis", noHalf},
		{"Python pymemcache", "python", "pymemcache", "memcached", requestsOnly},
		{"Python pika", "python", "pika", "RabbitMQ", noHalf},
		{"Python grpcio", "python", "grpcio", "gRPC in Go", nil},
		{"Node http", "node", "http", "nginx", nil},
		{"Node fetch", "node", "fetch", "nginx", nil},
		{"Node undici", "node", "undici", "nginx", nil},
		{"Node axios", "node", "axios", "nginx", nil},
		{"Node got", "node", "got", "nginx", nil},
		{"Node http2", "node", "http2", "HTTP/2 in Go", nil},
		{"Node pg pool", "node", "pg", "PostgreSQL", nil},
		{"Node mysql2 pool", "node", "mysql2", "MariaDB", nil},
		{"Node ioredis", "node", "ioredis", "Redis", noHalf},
		{"Node redis", "node", "redis", "Redis", noHalf},
		{"Node amqplib", "node", "amqplib", "RabbitMQ", noHalf},
		{"Node nats", "node", "nats", "NATS", noHalf},
		{"Node grpc-js", "node", "grpc-js", "gRPC in Go", nil},
		{"Java HttpURLConnection", "java", "HttpURLConnection", "nginx", nil},
		{"Java java.net.http", "java", "java.net.http", "nginx", nil},
		{"Java HttpClient 4", "java", "HttpClient4", "nginx", nil},
		{"Java OkHttp 3", "java", "OkHttp", "nginx", nil},
		{"Java HikariCP, PostgreSQL", "java", "HikariCP-PostgreSQL", "PostgreSQL", nil},
		{"Java HikariCP, MariaDB", "java", "HikariCP-MariaDB", "MariaDB", nil},
		{"Java DBCP2, PostgreSQL", "java", "DBCP2-PostgreSQL", "PostgreSQL", nil},
		{"Java DBCP2, MariaDB", "java", "DBCP2-MariaDB", "MariaDB", nil},
		{"PHP PDO", "php", "pdo-pgsql", "PostgreSQL", nil},
		{"PHP mysqli", "php", "mysqli", "MariaDB", nil},
		{"PHP phpredis", "php", "phpredis", "Redis", noHalf},
		{"Ruby Net::HTTP", "ruby", "Net::HTTP", "nginx", nil},
		{"Ruby pg", "ruby", "pg", "PostgreSQL", nil},
		{"Ruby mysql2", "ruby", "mysql2", "MariaDB", nil},
		{"Ruby redis", "ruby", "redis", "Redis", noHalf},
		{"curl", "golang", "curl", "nginx", []string{idle, request}},
		{"psql", "golang", "psql", "PostgreSQL", nil},
		{"mariadb", "golang", "mariadb", "MariaDB", nil},
		{"redis-cli", "golang", "redis-cli", "Redis", noHalf},
		{"ssh ControlMaster", "golang", "ssh", "sshd", nil},
		{"nginx upstream keepalive", "golang", "nginx", "nginx", nil},
		{"HAProxy http-reuse", "golang", "haproxy", "nginx", nil},
		{"PgBouncer", "golang", "pgbouncer", "PostgreSQL", nil},
		{"Java HttpURLConnection, name cache", "java", "HttpURLConnection", "nginx", demotedOnly},
		{"Java HikariCP, PostgreSQL, name cache", "java", "HikariCP-PostgreSQL", "PostgreSQL", demotedOnly},
		{"HAProxy http-reuse, resolvers", "golang", "haproxy-resolvers", "nginx", demotedOnly},
		{"HAProxy http-reuse, name cache", "golang", "haproxy-name-cache", "nginx", demotedOnly},
	}
}

func (c client) has(operation string) bool {
	switch operation {
	case failover:
		return c.failsOver()
	case demoted:
		return c.failsOver() || c.setsLookups()
	}
	return !slices.Contains(c.without, operation)
}

// command returns the command line of the client.
func (c client) command(o options) []string {
	switch c.language {
	case "python":
		return []string{"/usr/bin/python3", filepath.Join(o.programs, "python/main.py"), c.program}
	case "node":
		return []string{"node", filepath.Join(o.cache, "node/main.mjs"), c.program}
	case "java":
		command := []string{"java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx128m", "-cp", classPath(o)}
		if c.setsLookups() {
			command = append(command, fmt.Sprintf("-Dsun.net.inetaddr.ttl=%.0f", nameCache.Seconds()))
		}
		return append(command, "Main", c.program)
	case "php":
		return []string{"php", filepath.Join(o.programs, "php/main.php"), c.program}
	case "ruby":
		return []string{"ruby", filepath.Join(o.programs, "ruby/main.rb"), c.program}
	}
	return []string{filepath.Join(o.cache, "golang"), c.program}
}
