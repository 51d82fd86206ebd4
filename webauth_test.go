package main

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestCheckWebConfig(t *testing.T) {
	tests := []struct {
		name, content string
		authenticates bool
		noCredentials bool // otherwise a mistake of another kind
		missing       bool
	}{
		{"users", "basic_auth_users: {alertmanager: $2y$10$abc}\n", true, false, false},
		{"client certificates", "tls_server_config: {cert_file: a, key_file: b, client_auth_type: RequireAndVerifyClientCert, client_ca_file: c}\n", true, false, false},
		{"client certificates, CA in place", "tls_server_config: {client_auth_type: RequireAndVerifyClientCert, client_ca: PEM}\n", true, false, false},
		{"nothing", "", false, true, false},
		{"no users", "basic_auth_users: {}\n", false, true, false},
		{"only TLS", "tls_server_config: {cert_file: a, key_file: b}\n", false, true, false},
		{"any certificate", "tls_server_config: {client_auth_type: RequireAnyClientCert, client_ca_file: c}\n", false, true, false},
		{"a certificate if given", "tls_server_config: {client_auth_type: VerifyClientCertIfGiven, client_ca_file: c}\n", false, true, false},
		{"every public CA", "tls_server_config: {client_auth_type: RequireAndVerifyClientCert}\n", false, true, false},
		{"rate limit", "basic_auth_users: {a: b}\nrate_limit: {interval: 1s, burst: 5}\n", false, false, false},
		{"not YAML", "basic_auth_users: [\n", false, false, false},
		{"missing", "", false, false, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "web.yml")
			if !tt.missing {
				if err := os.WriteFile(path, []byte(tt.content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			err := checkWebConfig(path)
			if (err == nil) != tt.authenticates || errors.Is(err, errNoWebCredentials) != tt.noCredentials {
				t.Errorf("got %v", err)
			}
		})
	}
}
