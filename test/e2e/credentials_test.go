package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tcphup/test/kit/nstest"
)

// authority issues certificates.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string // its own certificate
}

func newAuthority(t testing.TB, name string) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{t: t, cert: cert, key: key, file: writePEM(t, "CERTIFICATE", der)}
}

// issue creates a certificate for a name or address that expires at until. It returns the
// files of the certificate and of its key.
func (a *authority) issue(name string, until time.Time) (certFile, keyFile string) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: until, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	if ip := net.ParseIP(name); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{name}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	return writePEM(a.t, "CERTIFICATE", der), writePEM(a.t, "PRIVATE KEY", keyDER)
}

func writePEM(t testing.TB, kind string, der []byte) string {
	t.Helper()
	return writeFile(t, "pem", string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})))
}

// clientCertificate is a row of TestPrivilegedClientCertificates.
type clientCertificate struct {
	name      string
	cert, key string // files; "" for no certificate
	closes    bool
}

// TestPrivilegedClientCertificates checks that the receiver accepts only Alertmanager's client
// certificate, also after many attempts with similar ones.
func TestPrivilegedClientCertificates(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		ours, theirs := newAuthority(t, "ours"), newAuthority(t, "theirs")
		later := time.Now().Add(time.Hour)
		issue := func(name string, a *authority, to string, until time.Time) clientCertificate {
			cert, key := a.issue(to, until)
			return clientCertificate{name: name, cert: cert, key: key}
		}
		good := issue("right certificate", ours, "alertmanager", later)
		good.closes = true
		serverCert, serverKey := ours.issue("127.0.0.1", later)
		web := writeFile(t, "web.yml", fmt.Sprintf(`
tls_server_config:
  cert_file: %s
  key_file: %s
  client_auth_type: RequireAndVerifyClientCert
  client_ca_file: %s
  client_allowed_sans: [alertmanager]
`, serverCert, serverKey, ours.file))
		for _, c := range []clientCertificate{
			issue("another authority's certificate", theirs, "alertmanager", later),
			issue("another client's certificate", ours, "grafana", later),
			issue("expired certificate", ours, "alertmanager", time.Now().Add(-time.Minute)),
			{name: "no certificate"},
			good,
		} {
			t.Run(c.name, func(t *testing.T) { withCertificate(t, ours, web, c) })
		}
	})
}

func withCertificate(t *testing.T, ours *authority, web string, c clientCertificate) {
	server := startBackend(t, "127.0.0.1:0")
	dial(t, false, 3, server.addr())
	serve(t, "--alerts.web-config-file="+web)
	own := ""
	if c.cert != "" {
		own = fmt.Sprintf(", cert_file: %q, key_file: %q", c.cert, c.key)
	}
	am := startAlertmanager(t, alertmanagerConfig{
		groupBy: "alertname", interval: "5m", url: "https://" + receiverAddress + "/alerts",
		tls: fmt.Sprintf("{ca_file: %q%s}", ours.file, own),
	})
	am.post(alertAbout(server.addr()))
	if c.closes {
		server.awaitEnded(3)
		awaitSample(t, alertsWith("done"), 1)
		return
	}
	am.awaitFailed(2)
	wrongHandshakes(t, ours, c, server.addr(), 250)
	server.mustCount(3, 0)
	mustSample(t, answered200, 0)
}

// wrongHandshakes posts an alert n times over separate connections; each must fail.
func wrongHandshakes(t *testing.T, ours *authority, c clientCertificate, to netip.AddrPort, n int) {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(ours.cert)
	config := &tls.Config{RootCAs: roots}
	if c.cert != "" {
		pair, err := tls.LoadX509KeyPair(c.cert, c.key)
		if err != nil {
			t.Fatal(err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}, Timeout: nstest.HangGuard}
	for range n {
		response, err := client.Do(alertRequest(t, "https://"+receiverAddress+"/alerts", to))
		if err == nil {
			_ = response.Body.Close()
			t.Fatalf("%s: status %s, want a failed handshake", c.name, response.Status)
		}
	}
}

// TestPrivilegedWrongCredentials checks that 1000 requests without the token all get 401 and
// have no effect.
func TestPrivilegedWrongCredentials(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		const tries = 1000
		server := startBackend(t, "127.0.0.1:0")
		dial(t, false, 3, server.addr())
		dir := filepath.Dir(writeFile(t, "token", token))
		serve(t, "--alerts.token-file="+dir+"/token")
		headers := [][]string{
			nil,
			{""},
			{"Bearer"},
			{"Bearer "},
			{"Bearer another-token-of-enough-length"},
			{"Bearer " + token[:len(token)-1]},
			{"Bearer " + token + "x"},
			{"Bearer " + strings.ToUpper(token)},
			{"Bearer " + token[1:]},
			{"Bearer " + token + " " + token},
			{"Bearer " + token, "Bearer " + token},
			{"Basic " + token},
			{token},
			{"Bearer " + dir + "/token"},
			{"Bearer " + strings.Repeat("x", 8<<10)},
		}
		// Tokens with a correct prefix of each length.
		for i := range token {
			headers = append(headers, []string{"Bearer " + token[:i] + strings.Repeat("#", len(token)-i)})
		}
		for i := range tries {
			request := alertRequest(t, "http://"+receiverAddress+[]string{"/alerts", "/-/pause", "/-/reload", "/-/resume"}[i%4], server.addr())
			if h := headers[i%len(headers)]; h != nil {
				request.Header["Authorization"] = h
			}
			response, err := http.DefaultClient.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, response.Body)
			_ = response.Body.Close()
			if response.StatusCode != http.StatusUnauthorized {
				t.Fatalf("%q: %s", request.Header["Authorization"], response.Status)
			}
		}
		// Only requests to /alerts count as notifications.
		mustSample(t, answered401, tries/4)
		mustSample(t, answered200, 0)
		mustSample(t, `tcphup_paused{by="request"}`, 0)
		server.mustCount(3, 0)

		if answer, err := postAlert(t, server.addr()); err != nil || !strings.Contains(answer, `"closed":3`) {
			t.Errorf("response with the valid token: %q, %v", answer, err)
		}
		server.awaitEnded(3)
	})
}
