package alerts

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"tcphup/hangup"
)

func TestReceiverRecorded(t *testing.T) {
	tests := []struct {
		name   string
		alerts map[string]int
		hung   []string
	}{
		{"firing", map[string]int{resultDone: 2}, []string{
			"labelled 10.0.0.5/32 5432", "labelled 2001:db8::5/128 5432",
		}},
		{"mixed", map[string]int{resultDone: 1, resultResolved: 1}, []string{"labelled 2001:db8::5/128 5432"}},
		{"resolved", map[string]int{resultResolved: 1}, []string{}},
	}
	for _, version := range []string{"0.25", "0.31", "0.34"} {
		for _, tt := range tests {
			t.Run(version+"/"+tt.name, func(t *testing.T) {
				f := newFixture(t, DefaultRules(), func(c *Config) { c.MaxActions = 1 })
				got := f.post(t, recorded(t, "alertmanager-"+version+"-"+tt.name+".json"))
				if got.code != http.StatusOK {
					t.Errorf("code %d: %s", got.code, got.text)
				}
				if diff := cmp.Diff(tt.alerts, got.response.Alerts); diff != "" {
					t.Errorf("alerts (-want +got):\n%s", diff)
				}
				if diff := cmp.Diff(tt.hung, f.hang.seen()); diff != "" {
					t.Errorf("actions (-want +got):\n%s", diff)
				}
			})
		}
	}
}

// A rejected request starts no action and gets the right status code.
func TestReceiverRejects(t *testing.T) {
	good := notify(staleAlert("10.0.0.5", "5432"))
	header := func(key, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(key, value) }
	}
	padded := func(size int) []byte { return append(slices.Clone(good), bytes.Repeat([]byte(" "), size)...) }
	deep := func(levels int) []byte {
		return []byte(`{"version":"4","alerts":[],"new":` + strings.Repeat("[", levels) + strings.Repeat("]", levels) + `}`)
	}
	tests := []struct {
		name string
		body []byte
		req  func(*http.Request)
		code int
	}{
		{"GET", good, func(r *http.Request) { r.Method = http.MethodGet }, 405},
		{"HEAD", good, func(r *http.Request) { r.Method = http.MethodHead }, 405},
		{"PUT", good, func(r *http.Request) { r.Method = http.MethodPut }, 405},
		{"no token", good, func(r *http.Request) { r.Header.Del("Authorization") }, 401},
		{"wrong token", good, header("Authorization", "Bearer "+otherToken), 401},
		{"a prefix of the token", good, header("Authorization", "Bearer "+testToken[:31]), 401},
		{"the token and more", good, header("Authorization", "Bearer "+testToken+"0"), 401},
		{"empty token", good, header("Authorization", "Bearer "), 401},
		{"the token as basic auth", good, header("Authorization", "Basic "+testToken), 401},
		{"the token alone", good, header("Authorization", testToken), 401},
		{"two authorizations", good, func(r *http.Request) { r.Header.Add("Authorization", "Bearer "+testToken) }, 401},
		{"the token's digest", good, header("Authorization", "Bearer 3d7b7d5ffb1b4e4ee6bdb1f5d8a3c5a1"), 401},
		{"browser with origin", good, header("Origin", "http://127.0.0.1:10472"), 403},
		{"browser with fetch metadata", good, header("Sec-Fetch-Site", "cross-site"), 403},
		{"no content type", good, func(r *http.Request) { r.Header.Del("Content-Type") }, 415},
		{"text", good, header("Content-Type", "text/plain"), 415},
		{"form", good, header("Content-Type", "application/x-www-form-urlencoded"), 415},
		{"latin-1", good, header("Content-Type", "application/json; charset=latin1"), 415},
		{"compressed", good, header("Content-Encoding", "gzip"), 415},
		{"17 MB", padded(17 << 20), nil, 413},
		{"17 MB of unknown length", padded(17 << 20), func(r *http.Request) { r.ContentLength = -1 }, 413},
		{"17 MB without a token", padded(17 << 20), func(r *http.Request) { r.Header.Del("Authorization") }, 401},
		{"20,000 alerts", manyAlerts(20_000), nil, 413},
		{"empty", nil, nil, 400},
		{"not JSON", []byte("hang up 10.0.0.5"), nil, 400},
		{"cut off", good[:len(good)-5], nil, 400},
		{"two values", append(good, good...), nil, 400},
		{"NUL after it", append(slices.Clone(good), 0), nil, 400},
		{"array", []byte("[]"), nil, 400},
		{"null", []byte("null"), nil, 400},
		{"no version", []byte(`{"alerts":[]}`), nil, 400},
		{"old version", []byte(`{"version":"3","alerts":[]}`), nil, 400},
		{"version of an old Grafana", []byte(`{"version":"","alerts":[]}`), nil, 400},
		{"new version", []byte(`{"version":"5","alerts":[]}`), nil, 400},
		{"version as a number", []byte(`{"version":4,"alerts":[]}`), nil, 400},
		{"version in capitals", []byte(`{"Version":"4","alerts":[]}`), nil, 400},
		{"no alerts", []byte(`{"version":"4"}`), nil, 400},
		{"alerts null", []byte(`{"version":"4","alerts":null}`), nil, 400},
		{"alerts an object", []byte(`{"version":"4","alerts":{}}`), nil, 400},
		{"alert null", []byte(`{"version":"4","alerts":[null]}`), nil, 400},
		{"alert a string", []byte(`{"version":"4","alerts":["x"]}`), nil, 400},
		{"label a number", []byte(`{"version":"4","alerts":[{"labels":{"port":5432}}]}`), nil, 400},
		{"label an object", []byte(`{"version":"4","alerts":[{"labels":{"port":{}}}]}`), nil, 400},
		{"NaN", []byte(`{"version":"4","alerts":[{"labels":{"port":NaN}}]}`), nil, 400},
		{"startsAt no time", []byte(`{"version":"4","alerts":[{"startsAt":"yesterday"}]}`), nil, 400},
		{"startsAt a number", []byte(`{"version":"4","alerts":[{"startsAt":1700000000}]}`), nil, 400},
		{"invalid UTF-8", []byte("{\"version\":\"4\",\"alerts\":[{\"labels\":{\"destination\":\"10.0.0.5\xff\"}}]}"), nil, 400},
		{"a label twice", []byte(`{"version":"4","alerts":[{"labels":{"destination":"10.0.0.5","destination":"10.0.0.6"}}]}`), nil, 400},
		{"alerts twice", []byte(`{"version":"4","alerts":[],"alerts":[]}`), nil, 400},
		{"too deep", deep(maxDepth + 1), nil, 400},
		{"much too deep", deep(400_000), nil, 400},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t, DefaultRules(), nil)
			req := newRequest(tt.body)
			if tt.req != nil {
				tt.req(req)
			}
			got := send(t, f, req)
			if got.code != tt.code {
				t.Errorf("code %d, want %d: %s", got.code, tt.code, got.text)
			}
			if got.response.Error == "" || len(got.text) > 300 {
				t.Errorf("want a short reason in the response: %s", got.text)
			}
			if strings.Contains(got.text, testToken) {
				t.Errorf("the response contains the token: %s", got.text)
			}
			if seen := f.hang.seen(); len(seen) > 0 {
				t.Errorf("actions: %v", seen)
			}
			if allow := got.header.Get("Allow"); (tt.code == 405) != (allow == "POST") {
				t.Errorf("Allow is %q", allow)
			}
			if challenge := got.header.Get("WWW-Authenticate"); (tt.code == 401) != (challenge != "") {
				t.Errorf("WWW-Authenticate is %q", challenge)
			}
		})
	}
}

// manyAlerts returns a notification of n alerts for n destinations.
func manyAlerts(n int) []byte {
	alerts := make([]testAlert, n)
	for i := range alerts {
		alerts[i] = staleAlert(fmt.Sprintf("10.0.%d.%d", i>>8&0xff, i&0xff), "5432")
	}
	return notify(alerts...)
}

// The result of each kind of alert under the policy Labelled.
func TestReceiverAlerts(t *testing.T) {
	with := func(a testAlert, change func(*testAlert)) testAlert {
		change(&a)
		return a
	}
	at := func(d time.Duration) func(*testAlert) {
		return func(a *testAlert) { a.StartsAt = testNow.Add(d).Format(time.RFC3339Nano) }
	}
	good := func() testAlert { return staleAlert("10.0.0.5", "5432") }
	tests := []struct {
		name   string
		alert  testAlert
		result string
		hung   string
	}{
		{"address and port", good(), resultDone, "10.0.0.5/32 5432"},
		{"every port", staleAlert("10.0.0.5", ""), resultDone, "10.0.0.5/32"},
		{"loopback", staleAlert("127.0.0.1", "80"), resultDone, "127.0.0.1/32 80"},
		{"IPv6", staleAlert("2001:db8::1", "80"), resultDone, "2001:db8::1/128 80"},
		{"IPv6 in long", staleAlert("2001:0DB8:0000:0000:0000:0000:0000:0001", "80"), resultDone, "2001:db8::1/128 80"},
		{"IPv6 with dots", staleAlert("2001:db8::10.0.0.5", "80"), resultDone, "2001:db8::a00:5/128 80"},
		{"IPv6 in brackets", staleAlert("[2001:db8::1]", "80"), resultDone, "2001:db8::1/128 80"},
		{"IPv4-mapped", staleAlert("::ffff:10.0.0.1", "80"), resultDone, "10.0.0.1/32 80"},
		{"IPv4-mapped in hex", staleAlert("::FFFF:0A00:0001", "80"), resultDone, "10.0.0.1/32 80"},
		{"one address as a prefix", staleAlert("10.0.0.5/32", "80"), resultDone, "10.0.0.5/32 80"},
		{"one mapped address as a prefix", staleAlert("::ffff:10.0.0.5/128", "80"), resultDone, "10.0.0.5/32 80"},
		{"two addresses", staleAlert("10.0.0.4/31", "80"), resultNotAllowed, ""},
		{"an IPv6 network", staleAlert("2001:db8::/64", "80"), resultNotAllowed, ""},
		{"all of IPv4", staleAlert("0.0.0.0/0", "80"), resultBadDestination, ""},
		{"all of IPv6", staleAlert("::/0", "80"), resultBadDestination, ""},
		{"all of IPv4, mapped", staleAlert("::ffff:0:0/96", "80"), resultBadDestination, ""},
		{"more than IPv4, mapped", staleAlert("::ffff:10.0.0.0/95", "80"), resultBadDestination, ""},
		{"half of IPv4", staleAlert("128.0.0.0/1", "80"), resultNotAllowed, ""},
		{"unspecified", staleAlert("0.0.0.0", "80"), resultBadDestination, ""},
		{"unspecified IPv6", staleAlert("::", "80"), resultBadDestination, ""},
		{"unspecified, mapped", staleAlert("::ffff:0.0.0.0", "80"), resultBadDestination, ""},
		{"multicast", staleAlert("224.0.0.1", "80"), resultBadDestination, ""},
		{"host bits", staleAlert("10.0.0.5/24", "80"), resultBadDestination, ""},
		{"zone", staleAlert("fe80::1%eth0", "80"), resultBadDestination, ""},
		{"zone on a mapped address", staleAlert("::ffff:10.0.0.1%eth0", "80"), resultBadDestination, ""},
		{"leading zeros", staleAlert("010.0.0.1", "80"), resultBadDestination, ""},
		{"short IPv4", staleAlert("10.1", "80"), resultBadDestination, ""},
		{"a number", staleAlert("167772165", "80"), resultBadDestination, ""},
		{"hexadecimal", staleAlert("0x0a000005", "80"), resultBadDestination, ""},
		{"with port", staleAlert("10.0.0.5:5432", "80"), resultBadDestination, ""},
		{"IPv4 in brackets", staleAlert("[10.0.0.5]", "80"), resultBadDestination, ""},
		{"half a bracket", staleAlert("[2001:db8::1", "80"), resultBadDestination, ""},
		{"blank before", staleAlert(" 10.0.0.5", "80"), resultBadDestination, ""},
		{"newline after", staleAlert("10.0.0.5\n", "80"), resultBadDestination, ""},
		{"NUL", staleAlert("10.0.0.5\x00", "80"), resultBadDestination, ""},
		{"other", staleAlert("other", ""), resultBadDestination, ""},
		{"a name", staleAlert("db.internal", "80"), resultBadDestination, ""},
		{"shell", staleAlert("$(reboot)", "80"), resultBadDestination, ""},
		{"shell after", staleAlert("10.0.0.5; reboot", "80"), resultBadDestination, ""},
		{"list", staleAlert("10.0.0.5,10.0.0.6", "80"), resultBadDestination, ""},
		{"range", staleAlert("10.0.0.5-10.0.0.9", "80"), resultBadDestination, ""},
		{"full-width digits", staleAlert("１0.0.0.5", "80"), resultBadDestination, ""},
		{"long", staleAlert(strings.Repeat("1", maxLabel), "80"), resultBadDestination, ""},
		{"too long", staleAlert(strings.Repeat("1", maxLabel+1), "80"), resultMalformed, ""},
		{"empty", staleAlert("", "80"), resultNoDestination, ""},
		{"no destination", with(good(), func(a *testAlert) { delete(a.Labels, "destination") }), resultNoDestination, ""},
		{"destination in an annotation", with(good(), func(a *testAlert) {
			delete(a.Labels, "destination")
			a.Annotations = map[string]string{"destination": "10.0.0.5"}
		}), resultNoDestination, ""},
		{"destination with a capital", with(good(), func(a *testAlert) {
			delete(a.Labels, "destination")
			a.Labels["Destination"] = "10.0.0.5"
		}), resultNoDestination, ""},
		{"exported destination", with(good(), func(a *testAlert) { a.Labels["exported_destination"] = "10.0.0.6" }), resultMalformed, ""},
		{"exported port", with(good(), func(a *testAlert) { a.Labels["exported_port"] = "80" }), resultMalformed, ""},
		{"exported service", with(good(), func(a *testAlert) { a.Labels["exported_service"] = "db.internal" }), resultMalformed, ""},
		{"another exported label", with(good(), func(a *testAlert) { a.Labels["exported_job"] = "x" }), resultDone, "10.0.0.5/32 5432"},
		{"port 0", staleAlert("10.0.0.5", "0"), resultBadPort, ""},
		{"port 65535", staleAlert("10.0.0.5", "65535"), resultDone, "10.0.0.5/32 65535"},
		{"port 65536", staleAlert("10.0.0.5", "65536"), resultBadPort, ""},
		{"port -1", staleAlert("10.0.0.5", "-1"), resultBadPort, ""},
		{"port +80", staleAlert("10.0.0.5", "+80"), resultBadPort, ""},
		{"port 080", staleAlert("10.0.0.5", "080"), resultBadPort, ""},
		{"port http", staleAlert("10.0.0.5", "http"), resultBadPort, ""},
		{"port NaN", staleAlert("10.0.0.5", "NaN"), resultBadPort, ""},
		{"port with newline", staleAlert("10.0.0.5", "80\n"), resultBadPort, ""},
		{"port list", staleAlert("10.0.0.5", "80,443"), resultBadPort, ""},
		{"resolved", with(good(), func(a *testAlert) { a.Status = "resolved" }), resultResolved, ""},
		{"unknown status", with(good(), func(a *testAlert) { a.Status = "suppressed" }), resultMalformed, ""},
		{"status with a capital", with(good(), func(a *testAlert) { a.Status = "Firing" }), resultMalformed, ""},
		{"no policy", with(good(), func(a *testAlert) { a.Labels["tcphup"] = "hang up" }), resultUnmatched, ""},
		{"no labels", testAlert{}, resultUnmatched, ""},
		{"label in an annotation", testAlert{Annotations: good().Labels}, resultUnmatched, ""},
		{"a day old", with(good(), at(-24*time.Hour)), resultDone, "10.0.0.5/32 5432"},
		{"older than a day", with(good(), at(-24*time.Hour-time.Second)), resultTooOld, ""},
		{"from year 1", with(good(), func(a *testAlert) { a.StartsAt = "0001-01-01T00:00:00Z" }), resultMalformed, ""},
		{"clocks apart", with(good(), at(30*time.Second)), resultDone, "10.0.0.5/32 5432"},
		{"from the future", with(good(), at(31*time.Second)), resultFuture, ""},
		{"from the far future", with(good(), at(50*365*24*time.Hour)), resultFuture, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t, DefaultRules(), nil)
			got := f.post(t, notify(tt.alert))
			if got.code != http.StatusOK {
				t.Errorf("code %d: %s", got.code, got.text)
			}
			if diff := cmp.Diff(map[string]int{tt.result: 1}, got.response.Alerts); diff != "" {
				t.Errorf("alerts (-want +got):\n%s", diff)
			}
			want := []string{}
			if tt.hung != "" {
				want = append(want, "labelled "+tt.hung)
			}
			if diff := cmp.Diff(want, f.hang.seen()); diff != "" {
				t.Errorf("actions (-want +got):\n%s", diff)
			}
		})
	}
}

// BenchmarkReceiver measures the overhead of the receiver: from the request to the action
// and to the response.
func BenchmarkReceiver(b *testing.B) {
	rules := DefaultRules()
	rules.Policies[0].Limits.Cooldown = 0
	rules.Policies[0].Limits.Breaker = Breaker{}
	actions := 0
	r := fuzzReceiver(b, rules, func(hangup.Request) { actions++ })
	body := notify(staleAlert("10.0.0.5", "80"))
	b.ReportAllocs()
	for b.Loop() {
		if got := send(b, r, newRequest(body)); got.code != http.StatusOK {
			b.Fatal(got.text)
		}
	}
	if actions != b.N {
		b.Errorf("%d actions for %d alerts", actions, b.N)
	}
}

// Allows matches the prefixes and ports of policies.
func TestAllows(t *testing.T) {
	rules := testRules(t) // 10.20.0.0/16 on 5432 and 6432 among others
	f := newFixture(t, rules, func(c *Config) { c.Names = fakeNames{} })
	for _, tt := range []struct {
		prefix string
		port   uint16
		want   bool
	}{
		{"10.20.3.4/32", 5432, true},
		{"10.20.3.4/32", 80, false},
		{"10.20.3.0/24", 6432, true},
		{"10.0.0.0/8", 5432, true},    // overlaps
		{"10.99.0.1/32", 5432, false}, // allowed by name only
	} {
		if got := f.Allows(netip.MustParsePrefix(tt.prefix), tt.port); got != tt.want {
			t.Errorf("%s port %d: %t", tt.prefix, tt.port, got)
		}
	}
	anywhere := newFixture(t, DefaultRules(), nil)
	if anywhere.Allows(netip.MustParsePrefix("10.20.3.4/32"), 5432) {
		t.Error("Allow.AnyAddress counts as an allowed prefix")
	}
}

// A rejected request is logged, at most once per logInterval.
func TestRejectedIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		f := newFixture(t, DefaultRules(), nil)
		f.log = slog.New(slog.NewTextHandler(&log, nil))
		for range 3 {
			f.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/alerts", strings.NewReader("{}")))
		}
		if n := strings.Count(log.String(), "level=WARN"); n != 1 || !strings.Contains(log.String(), "client=192.0.2.1:1234") || !strings.Contains(log.String(), "code=401") {
			t.Errorf("logged: %s", log.String())
		}
		time.Sleep(time.Minute)
		f.Protect(http.NotFoundHandler()).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/-/reload", nil))
		if n := strings.Count(log.String(), "level=WARN"); n != 2 || !strings.Contains(log.String(), "path=/-/reload") {
			t.Errorf("logged: %s", log.String())
		}
	})
}
