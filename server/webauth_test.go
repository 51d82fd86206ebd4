package server

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tcphup/internal/safefile"
)

// passwordHash is a bcrypt hash.
const passwordHash = "$2y$10$abcdefghijklmnopqrstuuMUdAaYwWbHQ0q0TtRrKkVvXxZzLlNne"

// keyPair returns a certificate and its key in PEM.
func keyPair(t *testing.T) (certificate, key []byte) {
	t.Helper()
	s := httptest.NewTLSServer(http.NotFoundHandler())
	defer s.Close()
	pair := s.TLS.Certificates[0]
	der, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func TestCheckWebConfig(t *testing.T) {
	certificate, key := keyPair(t)
	const pair = "cert_file: a, key_file: b"
	tests := []struct {
		name, content string
		authenticates bool
		noCredentials bool // errNoWebCredentials, not another error
		missing       bool
	}{
		{"users", "basic_auth_users: {alertmanager: " + passwordHash + "}\n", true, false, false},
		{"client certificates", "tls_server_config: {" + pair + ", client_auth_type: RequireAndVerifyClientCert, client_ca_file: c}\n", true, false, false},
		{"client certificates, CA in place", "tls_server_config: {" + pair + ", client_auth_type: RequireAndVerifyClientCert, client_ca: PEM}\n", true, false, false},
		{"nothing", "", false, true, false},
		{"no users", "basic_auth_users: {}\n", false, true, false},
		{"only TLS", "tls_server_config: {" + pair + "}\n", false, true, false},
		{"any certificate", "tls_server_config: {" + pair + ", client_auth_type: RequireAnyClientCert, client_ca_file: c}\n", false, true, false},
		{"a certificate if given", "tls_server_config: {" + pair + ", client_auth_type: VerifyClientCertIfGiven, client_ca_file: c}\n", false, true, false},
		{"every public CA", "tls_server_config: {" + pair + ", client_auth_type: RequireAndVerifyClientCert}\n", false, true, false},
		{"rate limit", "basic_auth_users: {a: " + passwordHash + "}\nrate_limit: {interval: 1s, burst: 5}\n", false, false, false},
		{"not YAML", "basic_auth_users: [\n", false, false, false},
		{"missing", "", false, false, true},
		// Invalid for exporter-toolkit.
		{"not a hash", "basic_auth_users: {a: secret}\n", false, false, false},
		{"unknown key", "basic_auth_users: {a: " + passwordHash + "}\nusers: {}\n", false, false, false},
		{"key for another certificate", "tls_server_config: {cert_file: a, key_file: c, client_auth_type: RequireAndVerifyClientCert, client_ca_file: c}\n", false, false, false},
		{"no certificate", "tls_server_config: {client_auth_type: RequireAndVerifyClientCert, client_ca_file: c}\n", false, false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "web.yml")
			for name, content := range map[string][]byte{"web.yml": []byte(tt.content), "a": certificate, "b": key, "c": certificate} {
				if name == "web.yml" && tt.missing {
					continue
				}
				if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
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

// A web configuration is rejected if other users may change it, or a file that it names.
func TestWebConfigWritableByOthers(t *testing.T) {
	certificate, key := keyPair(t)
	for _, open := range []string{"", "web.yml", "cert.pem", "key.pem", "ca.pem"} {
		t.Run(open, func(t *testing.T) {
			dir := t.TempDir()
			content := "tls_server_config: {cert_file: cert.pem, key_file: " + dir + "/key.pem, client_auth_type: RequireAndVerifyClientCert, client_ca_file: ca.pem}\n"
			for name, content := range map[string][]byte{"web.yml": []byte(content), "cert.pem": certificate, "key.pem": key, "ca.pem": certificate} {
				if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if open != "" {
				if err := os.Chmod(filepath.Join(dir, open), 0o646); err != nil {
					t.Fatal(err)
				}
			}
			err := checkWebConfig(filepath.Join(dir, "web.yml"))
			if unsafe := errors.Is(err, safefile.ErrUnsafe); unsafe != (open != "") || !unsafe && err != nil {
				t.Errorf("got %v", err)
			}
			if open != "" && !strings.Contains(err.Error(), "chmod o-w "+filepath.Join(dir, open)) {
				t.Errorf("the error has no hint: %v", err)
			}
		})
	}
}
