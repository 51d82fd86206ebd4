package alerts

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tcphup/audit"
	"tcphup/hangup"
	"tcphup/test/kit/nstest"
)

// podNamed returns the network namespace of a pod NAMESPACE/POD that started an hour before
// testNow.
func podNamed(name string) hangup.Namespace {
	namespace, pod, _ := strings.Cut(name, "/")
	return hangup.Namespace{
		Name: "inode", Inode: 1, Do: func(open func() error) error { return open() },
		Pod: &hangup.Pod{Namespace: namespace, Name: pod, UID: name, Started: testNow.Add(-time.Hour)},
	}
}

// nodePods are the pods of the fixture: two of shop, one of bank with the name of one of these.
func nodePods() []hangup.Namespace {
	young, ageless := podNamed("shop/young"), podNamed("shop/ageless")
	young.Pod.Started, ageless.Pod.Started = testNow.Add(-time.Minute-startMargin+time.Nanosecond), time.Time{}
	unnamed, unknown := podNamed("/"), podNamed(hangup.UnknownNamespace+"/uid")
	return []hangup.Namespace{
		{Name: "node"}, podNamed("shop/web-0"), podNamed("shop/web-1"), young, ageless, podNamed("bank/web-0"), podNamed("shop-2/web-0"), unnamed, unknown,
	}
}

// nodeRules returns rules with a policy for each of the namespaces shop and bank, in this order.
func nodeRules(t *testing.T) Rules {
	shop, bank := Labelled(), Labelled()
	shop.Name, shop.Namespaces = "shop", []string{"shop"}
	bank.Name, bank.Namespaces = "bank", []string{"bank", "bank-2"}
	shop.Match, bank.Match = mustMatch(t, `tenant="shop"`), mustMatch(t, `tenant="bank"`)
	return Rules{Policies: []Policy{shop, bank}}
}

// nodeFixture returns a receiver in node mode with nodePods.
func nodeFixture(t *testing.T, rules Rules, change func(*Config)) *fixture {
	t.Helper()
	return newFixture(t, rules, func(c *Config) {
		c.Pods = func() ([]hangup.Namespace, error) { return nodePods(), nil }
		if change != nil {
			change(c)
		}
	})
}

// podAlert returns an alert that matches the policy of the tenant. Labels are name and value in
// turn.
func podAlert(tenant, namespace, destination string, labels ...string) testAlert {
	a := testAlert{Labels: map[string]string{"tenant": tenant, "namespace": namespace, "destination": destination, "port": "80"}}
	for i := 0; i < len(labels); i += 2 {
		a.Labels[labels[i]] = labels[i+1]
	}
	return a
}

// acted returns the namespaces of each request.
func (f *fakeHangUpper) acted() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	acted := []string{}
	for _, a := range f.actions {
		var names []string
		for _, in := range a.Namespaces {
			names = append(names, in.Name)
		}
		acted = append(acted, strings.Join(names, " "))
	}
	return acted
}

// blockShop makes the action of the policy shop close begun and wait for free.
func blockShop(f *fixture) (begun, free chan struct{}) {
	begun, free = make(chan struct{}), make(chan struct{})
	f.hang.hangUp = func(_ context.Context, a hangup.Request) (*hangup.Report, error) {
		if a.Policy == "shop" {
			close(begun)
			<-free
		}
		return outcome(hangup.Closed, 1), nil
	}
	return begun, free
}

func lastRecord(f *fixture) audit.Record {
	records := f.config.Audit.Records()
	return records[len(records)-1]
}

// The labels of an alert select pods at the time of the action. Pods younger than the alert and
// those without a known name or age are left out and counted.
func TestPodsOfAlert(t *testing.T) {
	const unnamed = ", 2 of this node without a known name left out"
	tests := []struct {
		name   string
		alert  testAlert
		result string
		acted  string // names of namespaces; "" for no action
		detail string
	}{
		{"every pod", podAlert("shop", "shop", "10.0.0.5"), resultKept, "shop/web-0 shop/web-1", "2 flows hung up; 2 pods, 1 younger than the alert left out, 1 of unknown age left out" + unnamed},
		{"one pod", podAlert("shop", "shop", "10.0.0.5", "pod", "web-1"), resultDone, "shop/web-1", "2 flows hung up; 1 pod" + unnamed},
		{"equal name", podAlert("bank", "bank", "10.0.0.5", "pod", "web-0"), resultDone, "bank/web-0", "2 flows hung up; 1 pod" + unnamed},
		{"no pod here", podAlert("bank", "bank-2", "10.0.0.5"), resultKept, "", "no pod of that name on this node; 0 pods" + unnamed},
		{"no pod of that name here", podAlert("shop", "shop", "10.0.0.5", "pod", "web"), resultKept, "", "no pod of that name on this node; 0 pods" + unnamed},
		{"younger pod", podAlert("shop", "shop", "10.0.0.5", "pod", "young"), resultDone, "", "no pod of that name is known to be older than the alert; 0 pods, 1 younger than the alert left out" + unnamed},
		{"pod of unknown age", podAlert("shop", "shop", "10.0.0.5", "pod", "ageless"), resultKept, "", "no pod of that name is known to be older than the alert; 0 pods, 1 of unknown age left out" + unnamed},
		{"no namespace", podAlert("shop", "", "10.0.0.5"), resultNoNamespace, "", "label namespace is missing"},
		{"pod without a namespace", podAlert("shop", "", "10.0.0.5", "pod", "web-0"), resultNoNamespace, "", "label namespace is missing"},
		{"namespace of another policy", podAlert("shop", "bank", "10.0.0.5"), resultNotAllowed, "", `namespace "bank" is not allowed by the policy`},
		{"longer name", podAlert("shop", "shop-2", "10.0.0.5"), resultNotAllowed, "", `namespace "shop-2" is not allowed by the policy`},
		{"shorter name", podAlert("shop", "sho", "10.0.0.5"), resultNotAllowed, "", `namespace "sho" is not allowed by the policy`},
		{"upper case", podAlert("shop", "Shop", "10.0.0.5"), resultNotAllowed, "", `namespace "Shop" is not allowed by the policy`},
		{"unknown names", podAlert("shop", "_unknown", "10.0.0.5"), resultNotAllowed, "", "namespace _unknown has the pods without a known name, which are left alone"},
		{"not the name of a pod", podAlert("shop", "shop", "10.0.0.5", "pod", "../web-0"), resultMalformed, "", `label pod: "../web-0" is not the name of a pod`},
		{"replaced namespace", podAlert("shop", "shop", "10.0.0.5", "exported_namespace", "bank"), resultMalformed, "", "label exported_namespace: the scrape replaced the label of tcphup; set honor_labels: true in its scrape configuration"},
		{"replaced pod", podAlert("shop", "shop", "10.0.0.5", "exported_pod", "web-1"), resultMalformed, "", "label exported_pod: the scrape replaced the label of tcphup; set honor_labels: true in its scrape configuration"},
		{"destination", podAlert("shop", "shop", "x"), resultBadDestination, "", `label destination: "x" is not an address or prefix`},
		{"long namespace", podAlert("shop", strings.Repeat("x", maxLabel+1), "10.0.0.5"), resultMalformed, "", `label "namespace" exceeds 2048 bytes`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := nodeFixture(t, nodeRules(t), nil)
			tt.alert.StartsAt = testNow.Add(-time.Minute).Format(time.RFC3339)
			f.post(t, notify(tt.alert)).want(t, http.StatusOK, map[string]int{tt.result: 1})
			want := []string{}
			if tt.acted != "" {
				want = append(want, tt.acted)
			}
			if diff := cmp.Diff(want, f.hang.acted()); diff != "" {
				t.Errorf("actions (-want +got):\n%s", diff)
			}
			if r := lastRecord(f); !strings.HasPrefix(r.Detail, tt.detail) {
				t.Errorf("got %q, want %q", r.Detail, tt.detail)
			}
		})
	}
}

// Without node mode these labels have no meaning.
func TestPodLabelsWithoutNodeMode(t *testing.T) {
	f := newFixture(t, DefaultRules(), nil)
	a := staleAlert("10.0.0.5", "80")
	a.Labels["namespace"], a.Labels["pod"] = "shop", strings.Repeat("x", maxLabel+1)
	a.Labels["exported_namespace"], a.Labels["exported_pod"] = "shop", "x"
	f.post(t, notify(a)).want(t, http.StatusOK, map[string]int{resultDone: 1})
	if r := lastRecord(f); f.hang.actions[0].Namespaces != nil || r.Namespace != "" || r.Pod != "" {
		t.Errorf("got %+v, %+v", f.hang.actions[0], r)
	}
}

// A startsAt in the future, by clock skew, does not make pods older.
func TestPodsOfFutureAlert(t *testing.T) {
	now := podNamed("shop/now")
	now.Pod.Started = testNow.Add(-startMargin / 2)
	f := nodeFixture(t, nodeRules(t), func(c *Config) {
		c.Pods = func() ([]hangup.Namespace, error) { return []hangup.Namespace{now}, nil }
	})
	a := podAlert("shop", "shop", "10.0.0.5")
	a.StartsAt = testNow.Add(20 * time.Second).Format(time.RFC3339)
	f.post(t, notify(a)).want(t, http.StatusOK, map[string]int{resultDone: 1})
	if acted := f.hang.acted(); len(acted) > 0 {
		t.Errorf("acted in %q", acted)
	}
}

// An error of the search for pods or of a pod is never the result done.
func TestPodErrors(t *testing.T) {
	denied, broken, ended := fmt.Errorf("enter: %w", os.ErrPermission), errors.New("device busy"), fmt.Errorf("enter: %w", os.ErrNotExist)
	report := func(o hangup.Outcome, failures ...error) *hangup.Report {
		r := outcome(o, 1)
		for i, err := range failures {
			r.NamespaceErrors = append(r.NamespaceErrors, hangup.NamespaceError{Name: fmt.Sprintf("shop/web-%d", i), Err: err})
		}
		return r
	}
	unowned := podNamed("shop/web-0")
	unowned.Do = nil
	tests := []struct {
		name   string
		find   error
		pods   []hangup.Namespace // nil: nodePods
		report *hangup.Report
		shadow bool
		code   int
		result string
		detail string
	}{
		{name: "search", find: broken, code: 503, result: resultError, detail: "find pods: device busy"},
		{name: "search denied", find: denied, code: 200, result: resultFailed, detail: "find pods: enter: permission denied"},
		{name: "own namespace", pods: []hangup.Namespace{unowned}, code: 200, result: resultFailed, detail: "check request: node mode acts in the network namespaces of pods alone"},
		{name: "denied", report: report(hangup.Closed, ended, denied), code: 200, result: resultFailed, detail: "read pod shop/web-1: enter: permission denied; 2 pods, 1 ended before, 1 could not be read"},
		{name: "busy", report: report(hangup.Closed, broken), code: 503, result: resultError, detail: "read pod shop/web-0: device busy; 2 pods, 1 could not be read"},
		{name: "busy, shadow", report: report(hangup.Planned, broken), shadow: true, code: 503, result: resultError, detail: "read pod shop/web-0: device busy"},
		{name: "ended", report: report(hangup.Closed, ended, ended), code: 200, result: resultDone, detail: "1 flow hung up; 2 pods, 2 ended before"},
		{name: "unfinished", report: report(hangup.Planned, ended), code: 503, result: resultUnfinished, detail: "1 flow left; 2 pods"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := nodeFixture(t, nodeRules(t), func(c *Config) {
				c.Shadow = tt.shadow
				c.Pods = func() ([]hangup.Namespace, error) {
					if tt.pods != nil {
						return tt.pods, nil
					}
					return []hangup.Namespace{podNamed("shop/web-0"), podNamed("shop/web-1")}, tt.find
				}
			})
			f.hang.hangUp = func(context.Context, hangup.Request) (*hangup.Report, error) { return tt.report, nil }
			f.post(t, notify(podAlert("shop", "shop", "10.0.0.5"))).want(t, tt.code, map[string]int{tt.result: 1})
			if r := lastRecord(f); !strings.HasPrefix(r.Detail, tt.detail) {
				t.Errorf("got %q, want %q", r.Detail, tt.detail)
			}
			if tt.report == nil && len(f.hang.seen()) > 0 {
				t.Errorf("actions: %q", f.hang.seen())
			}
		})
	}
}

// Records and log lines have the namespace and the pod: those of the alert, and of each flow.
func TestPodRecords(t *testing.T) {
	var file, log bytes.Buffer
	f := nodeFixture(t, nodeRules(t), func(c *Config) { c.Audit = audit.New(&file) })
	f.log = slog.New(slog.NewTextHandler(&log, nil))
	f.hang.hangUp = func(_ context.Context, a hangup.Request) (*hangup.Report, error) {
		r := outcome(hangup.Closed, 1)
		r.Results[0].Namespace = a.Namespaces[1].Name
		return r, nil
	}
	a := podAlert("shop", "shop", "10.0.0.5")
	a.StartsAt = testNow.Add(-2 * time.Minute).Format(time.RFC3339)
	f.post(t, notify(a))
	var got []string
	for line := range strings.Lines(file.String()) {
		var r audit.Record
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%s %q %q", r.Event, r.Namespace, r.Pod))
	}
	want := []string{`begin "shop" ""`, `flow "shop" "web-1"`, `end "shop" ""`}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, part := range []string{`msg="flow handled" namespace=shop pod=web-1 `, `msg="alert handled" namespace=shop pod="" `} {
		if !strings.Contains(log.String(), part) {
			t.Errorf("log without %q:\n%s", part, log.String())
		}
	}
}

// In node mode a policy needs namespaces, and only then it may have some. The embedded policy
// has none, and is in shadow mode.
func TestNodeRules(t *testing.T) {
	for _, tt := range []struct {
		name       string
		node       bool
		namespaces []string
		want       string // part of the error
	}{
		{"node", true, []string{"shop"}, ""},
		{"node, missing", true, nil, `policy "shop": namespaces is missing`},
		{"node, none", true, []string{}, ""},
		{"no node", false, []string{"shop"}, `policy "shop": namespaces needs node mode (--node)`},
		{"no node, none", false, nil, ""},
		{"pattern", true, []string{"shop", "*"}, `policy "shop": namespaces: "*" is not the name of a Kubernetes namespace`},
		{"unknown", true, []string{hangup.UnknownNamespace}, `policy "shop": namespaces: "_unknown" is not the name`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			rules := nodeRules(t)
			rules.Policies = rules.Policies[:1]
			rules.Policies[0].Namespaces = tt.namespaces
			var config Config
			if tt.node {
				config.Pods = func() ([]hangup.Namespace, error) { return nil, nil }
			}
			_, err := NewReceiver(config, rules, new(fakeHangUpper), nil)
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	f := nodeFixture(t, DefaultRules(), nil)
	if s := f.Status(); s.Mode != ModeShadow || !s.Policies[0].Shadow {
		t.Errorf("embedded policy: %+v", s)
	}
	a := staleAlert("10.0.0.5", "80")
	a.Labels["namespace"] = "shop"
	got := f.post(t, notify(a, staleAlert("10.0.0.5", "80")))
	got.want(t, http.StatusOK, map[string]int{resultNotAllowed: 1, resultNoNamespace: 1})
	if !got.response.Shadow || len(f.hang.seen()) > 0 {
		t.Errorf("got %s, actions %q", got.text, f.hang.seen())
	}
	if f := nodeFixture(t, nodeRules(t), nil); f.Mode() != ModeArmed {
		t.Errorf("mode %s", f.Mode())
	}
}

// The pods are those at the time of the action, not of the notification.
func TestPodsAtTheTimeOfTheAction(t *testing.T) {
	var mu sync.Mutex
	found, calls := nodePods(), 0
	f := nodeFixture(t, nodeRules(t), func(c *Config) {
		c.MaxActions = 1
		c.Pods = func() ([]hangup.Namespace, error) {
			mu.Lock()
			defer mu.Unlock()
			calls++
			return found, nil
		}
	})
	begun, free := blockShop(f)
	var done sync.WaitGroup
	done.Go(func() { f.post(t, notify(podAlert("shop", "shop", "10.0.0.5"))) })
	<-begun
	done.Go(func() {
		f.post(t, notify(podAlert("bank", "bank", "10.0.0.5"))).want(t, http.StatusOK, map[string]int{resultDone: 1})
	})
	nstest.Eventually(t, "the second action waits", func() bool {
		f.locks.mu.Lock()
		defer f.locks.mu.Unlock()
		return len(f.locks.held) == 2
	})
	mu.Lock()
	found = []hangup.Namespace{podNamed("bank/web-7")}
	mu.Unlock()
	close(free)
	done.Wait()
	if acted := f.hang.acted(); !slices.Equal(acted, []string{"shop/web-0 shop/web-1", "bank/web-7"}) || calls != 2 {
		t.Errorf("acted in %q, %d searches", acted, calls)
	}
}

// FuzzNodeNotification posts any body in node mode. Each action applies to older pods in the
// namespaces of its policy.
func FuzzNodeNotification(f *testing.F) {
	for _, a := range []testAlert{
		podAlert("shop", "shop", "10.0.0.5"), podAlert("bank", "bank", "10.0.0.5", "pod", "web-0"), podAlert("shop", "bank", "10.0.0.5"),
		podAlert("bank", "_unknown", "10.0.0.5"), podAlert("shop", "shop", "10.0.0.5", "exported_namespace", "bank"), podAlert("shop", "", "10.0.0.5"),
	} {
		f.Add(notify(a))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		rules := nodeRules(t)
		hang := &fakeHangUpper{hangUp: func(_ context.Context, a hangup.Request) (*hangup.Report, error) {
			p := rules.Policies[slices.IndexFunc(rules.Policies, func(p Policy) bool { return p.Name == a.Policy })]
			if len(a.Namespaces) == 0 {
				t.Error("action in the network namespace of tcphup")
			}
			for _, in := range a.Namespaces {
				if in.Pod == nil || in.Do == nil || !slices.Contains(p.Namespaces, in.Pod.Namespace) || !in.Pod.Started.Before(testNow) || in.Pod.Started.IsZero() {
					t.Errorf("policy %s acts in %+v", p.Name, in)
				}
			}
			return new(hangup.Report), nil
		}}
		config := Config{
			CheckListener: authenticates, MaxActions: 1, Now: func() time.Time { return testNow },
			Pods: func() ([]hangup.Namespace, error) { return nodePods(), nil },
		}
		r, err := NewReceiver(config, rules, hang, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		r.ServeHTTP(w, newRequest(body))
		if !slices.Contains([]int{http.StatusOK, http.StatusBadRequest, http.StatusRequestEntityTooLarge}, w.Code) {
			t.Errorf("code %d", w.Code)
		}
	})
}
