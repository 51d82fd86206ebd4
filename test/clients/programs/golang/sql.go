package main

import (
	"context"
	"database/sql"
	"os"
	"strings"

	_ "github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	_ "github.com/lib/pq"
)

// statements are SQL statements by operation, with NUMBER as the number. Other languages get
// them in environment variables too.
func postgres(operation, number string) string { return statement("PG", operation, number) }
func mariadb(operation, number string) string  { return statement("MY", operation, number) }

func statement(dialect, operation, number string) string {
	return strings.ReplaceAll(os.Getenv(dialect+"_"+strings.ToUpper(operation)), "NUMBER", number)
}

func postgresURL() string { return "postgres://app:app@" + server + ":5432/app?sslmode=disable" }

func sqlClients() map[string]func() (client, error) {
	return map[string]func() (client, error){
		"pgxpool": func() (client, error) { return pgxPool(postgresURL()) },
		"pgx": func() (client, error) {
			var conn *pgx.Conn
			return func(ctx context.Context, operation, number string) (n int, err error) {
				if conn == nil || conn.IsClosed() {
					if conn, err = pgx.Connect(ctx, postgresURL()); err != nil {
						return 0, err
					}
				}
				rows, err := conn.Query(ctx, postgres(operation, number))
				if err != nil {
					return 0, err
				}
				for rows.Next() {
					n++
				}
				return n, rows.Err()
			}, nil
		},
		"lib-pq":       func() (client, error) { return database("postgres", postgresURL(), postgres) },
		"go-sql-mysql": func() (client, error) { return database("mysql", "app:app@tcp("+server+":3306)/app", mariadb) },
	}
}

func pgxPool(url string) (client, error) {
	pool, err := pgxpool.New(context.Background(), url)
	return func(ctx context.Context, operation, number string) (n int, err error) {
		rows, err := pool.Query(ctx, postgres(operation, number))
		if err != nil {
			return 0, err
		}
		defer rows.Close()
		for rows.Next() {
			n++
		}
		return n, rows.Err()
	}, err
}

// database returns a client of database/sql with its pool.
func database(driver, source string, text func(operation, number string) string) (client, error) {
	db, err := sql.Open(driver, source)
	return func(ctx context.Context, operation, number string) (n int, err error) {
		rows, err := db.QueryContext(ctx, text(operation, number))
		if err != nil {
			return 0, err
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			n++
		}
		return n, rows.Err()
	}, err
}
