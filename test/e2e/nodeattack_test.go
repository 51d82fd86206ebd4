package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcphup/sockdiag"
	"tcphup/test/kit/nstest"
	"tcphup/test/kit/pods"
	"tcphup/test/kit/testapp"
)

// attacksVariable is the environment variable with the number of connections that the attacks of
// TestPrivilegedNodeAttacks aim at. The default suits a test run.
const attacksVariable = "TCPHUP_TEST_NODE_ATTACKS"

// attacked is the destination of every connection, in each pod.
var attacked = netip.MustParseAddrPort("10.20.0.5:5432")

// attackPolicies are policies for the namespace shop. The breaker stays closed.
const attackPolicies = `
defaults: {limits: {flows: 100000, rate: 10000, cooldown: 0s, breaker: {actions: 1000000, destinations: 1000000}}, linger: 100ms}
policies:
  - {name: auto, match: ['method="auto"'], namespaces: [shop], allow: [10.20.0.0/16]}
  - {name: destroy, match: ['method="destroy"'], namespaces: [shop], allow: [10.20.0.0/16], method: destroy}
`

// attack is a node with the pods shop/web-0 and bank/web-0, and tcphup in node mode.
type attack struct {
	t          *testing.T
	node       *pods.Node
	shop, bank *pods.Pod
	// each is the number of connections of a round.
	each int
	// aimed counts the connections that had to stay open, and wrong those that did not.
	aimed, wrong int
	port         int // the last local port, see bound
	// replacedClosed counts the connections of former pods that were hung up.
	replacedClosed atomic.Int64
	// reused counts the network namespaces with the inode of a former one.
	reused int
}

// Alerts for pods of shop never close a connection of another pod, nor one that
// a process of another pod holds.
func TestPrivilegedNodeAttacks(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		total := 500
		if text := os.Getenv(attacksVariable); text != "" {
			var err error
			if total, err = strconv.Atoi(text); err != nil {
				t.Fatal(err)
			}
		}
		node := pods.NewNode(t, testapp.Build(t))
		a := &attack{
			t: t, node: node, each: 10, port: 20000,
			shop: node.Start(pods.Spec{Namespace: "shop", Name: "web-0", Containers: 12}), bank: node.Start(pods.Spec{Namespace: "bank", Name: "web-0"}),
		}
		for _, p := range []*pods.Pod{a.shop, a.bank} {
			p.Do(func() { testapp.Serve(t, testapp.ServerConfig{Address: attacked.String(), Echo: true}) })
		}
		serve(t, "--node", "--node.pod-logs="+node.Logs, "--alerts.token-file="+writeFile(t, "token", token),
			"--config.file="+writeFile(t, "tcphup.yml", attackPolicies))
		attacks := []struct {
			name string
			run  func(round int)
		}{
			{"equal addresses", a.equalAddresses()}, {"pod replaced under the alert", a.replaced()}, {"descriptor passed", a.passed()},
			{"forked", a.forked}, {"visitor", a.visitor()},
		}
		a.awaitOlder(time.Now())
		for _, kind := range attacks {
			aimed, wrong, begun := a.aimed, a.wrong, time.Now()
			for round := 0; a.aimed-aimed < total/len(attacks) && !t.Failed(); round++ {
				kind.run(round)
			}
			t.Logf("%s: %d wrong of %d in %s", kind.name, a.wrong-wrong, a.aimed-aimed, time.Since(begun).Round(time.Millisecond))
		}
		if a.wrong > 0 || a.aimed < total {
			t.Errorf("%d wrong of %d", a.wrong, a.aimed)
		}
		t.Logf("%d connections of pods closed before their replacement, %d inodes of network namespaces reused", a.replacedClosed.Load(), a.reused)
	})
}

// awaitOlder waits until pods that started at a time are older than an alert that starts now.
func (a *attack) awaitOlder(started time.Time) {
	a.t.Helper()
	nstest.Eventually(a.t, "the pods are older than a new alert", func() bool { return time.Since(started) > 1100*time.Millisecond })
}

// answer is the response to an alert.
type answer struct {
	Alerts, Flows, Refusals map[string]int
}

// alert posts an alert for a pod of shop.
func (a *attack) alert(pod, method string, startsAt time.Time) (code int, got answer) {
	body, err := json.Marshal(map[string]any{"version": "4", "alerts": []any{map[string]any{
		"status": "firing", "startsAt": startsAt, "fingerprint": "1",
		"labels": map[string]string{"namespace": "shop", "pod": pod, "method": method, "destination": attacked.Addr().String(), "port": strconv.Itoa(int(attacked.Port()))},
	}}})
	if err != nil {
		a.t.Error(err)
		return 0, got
	}
	request, err := http.NewRequestWithContext(a.t.Context(), http.MethodPost, "http://"+receiverAddress+"/alerts", bytes.NewReader(body))
	if err != nil {
		a.t.Error(err)
		return 0, got
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		a.t.Error(err)
		return 0, got
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(&got); err != nil {
		a.t.Error(err)
	}
	return response.StatusCode, got
}

// hungUp counts the flows that were hung up. A server may close its side later.
func (a *answer) hungUp() int {
	return a.Flows["closed"] + a.Flows["half_closed"] + a.Flows["lingering"]
}

// mustHangUp posts an alert for shop/web-0 and checks how many flows it hung up and refused.
func (a *attack) mustHangUp(method string, hungUp, refused int) {
	a.t.Helper()
	code, got := a.alert("web-0", method, time.Now())
	if code != http.StatusOK || got.hungUp() != hungUp || got.Refusals["identity"] != refused || len(got.Refusals) > 1 {
		a.t.Errorf("%s: want %d hung up and %d refused, got %d %+v", method, hungUp, refused, code, got)
	}
}

// mustBeOpen aims at connections: each has to be open.
func (a *attack) mustBeOpen(what string, app *testapp.App, fds []int) {
	a.t.Helper()
	for _, fd := range fds {
		a.aimed++
		if got := app.Call("write %d", fd); got != "write ok 1" {
			a.wrong++
			a.t.Errorf("%s: %s", what, got)
		}
	}
}

// client starts a process of the pod that ignores SIGPIPE.
func (a *attack) client(p *pods.Pod) *testapp.App {
	app := p.Add()
	app.Call("ignore")
	return app
}

// connect opens the connections of a round.
func (a *attack) connect(app *testapp.App) (fds []int) {
	for range a.each {
		fds = append(fds, app.Connect(attacked, false, false))
	}
	return fds
}

func closeAll(app *testapp.App, fds []int) {
	for _, fd := range fds {
		app.Call("close %d", fd)
	}
}

// method alternates.
func method(round int) string { return []string{"auto", "destroy"}[round%2] }

// equalAddresses opens connections with equal addresses in both pods, which have equal names.
func (a *attack) equalAddresses() func(int) {
	shop, bank := a.client(a.shop), a.client(a.bank)
	bound := func(app *testapp.App, port int) (fd int) {
		answer := app.Call("bound %s %d %d", attacked.Addr(), attacked.Port(), port)
		if _, err := fmt.Sscanf(answer, "bound ok %d", &fd); err != nil {
			a.t.Fatal(answer)
		}
		return fd
	}
	return func(round int) {
		var own, other []int
		for range a.each {
			a.port++
			own, other = append(own, bound(shop, a.port)), append(other, bound(bank, a.port))
		}
		a.mustHangUp(method(round), a.each, 0)
		a.mustBeOpen("equal addresses", bank, other)
		closeAll(shop, own)
		closeAll(bank, other)
	}
}

// replaced replaces one pod of several while alerts for the former pod arrive. The next pod has
// the name, a process id and the addresses of the former one, and possibly the inode of its
// network namespace.
func (a *attack) replaced() func(int) {
	var running [20]*pods.Pod
	var started [len(running)]time.Time
	start := func(i int) {
		running[i] = a.node.Start(pods.Spec{Namespace: "shop", Name: fmt.Sprintf("db-%d", i)})
		started[i] = time.Now()
		running[i].Load(attacked, a.each)
	}
	for i := range running {
		start(i)
	}
	inodes := make(map[uint64]bool)
	return func(round int) {
		i := round % len(running)
		pod := running[i]
		a.awaitOlder(started[i])
		name, startsAt, pid := pod.Name, time.Now(), pod.Apps[0].PID()
		closed := a.replacedClosed.Load()
		var posting sync.WaitGroup
		stop := make(chan struct{})
		for range 2 {
			posting.Go(func() {
				for {
					_, got := a.alert(name, method(round), startsAt)
					a.replacedClosed.Add(int64(got.hungUp()))
					select {
					case <-stop:
						return
					default:
					}
				}
			})
		}
		if round%4 == 0 {
			nstest.Eventually(a.t, "an alert reaches the former pod", func() bool { return a.replacedClosed.Load() > closed })
		} else {
			time.Sleep(time.Duration(round%8) * time.Millisecond) // reach other steps of an action
		}
		pod.End()
		a.node.ReusePID(pid)
		start(i)
		pod = running[i]
		var st unix.Stat_t
		if err := unix.Stat(fmt.Sprintf("/proc/%d/ns/net", pod.Apps[0].PID()), &st); err != nil {
			a.t.Fatal(err)
		}
		if inodes[st.Ino] {
			a.reused++
		}
		inodes[st.Ino] = true
		a.alert(name, method(round), startsAt)
		close(stop)
		posting.Wait()
		a.aimed += a.each
		if open := a.establishedIn(pod); open != a.each {
			a.wrong += a.each - open
			a.t.Errorf("pod replaced: %d of %d connections of the next pod are open", open, a.each)
		}
	}
}

// establishedIn counts the established connections in a pod to the destination.
func (a *attack) establishedIn(p *pods.Pod) (n int) {
	p.Do(func() {
		conn, err := sockdiag.Dial()
		if err != nil {
			a.t.Fatal(err)
		}
		defer conn.Close()
		for f, err := range conn.Flows(a.t.Context(), sockdiag.Query{States: sockdiag.States(sockdiag.Established)}) {
			if err != nil {
				a.t.Error(err)
			} else if f.Remote == attacked {
				n++
			}
		}
	})
	return n
}

// passed gives connections of shop to a process of bank, in a message. The process of shop
// closes its own descriptors in every other pair of rounds.
func (a *attack) passed() func(int) {
	shop, bank := a.client(a.shop), a.client(a.bank)
	path := filepath.Join(a.t.TempDir(), "m")
	var mailbox int
	if _, err := fmt.Sscanf(bank.Call("mailbox %s", path), "mailbox ok %d", &mailbox); err != nil {
		a.t.Fatal(err)
	}
	return func(round int) {
		own := a.connect(shop)
		var taken []int
		for _, fd := range own {
			var copied int
			if got := shop.Call("give %d %s", fd, path); got != "give ok" {
				a.t.Fatal(got)
			}
			if _, err := fmt.Sscanf(bank.Call("take %d", mailbox), "take ok %d", &copied); err != nil {
				a.t.Fatal(err)
			}
			taken = append(taken, copied)
		}
		moves := round/2%2 == 0
		if moves {
			closeAll(shop, own)
		}
		a.mustHangUp(method(round), 0, a.each)
		a.mustBeOpen("descriptor passed", bank, taken)
		if !moves {
			closeAll(shop, own)
		}
		closeAll(bank, taken)
	}
}

// forked has a child of a process of shop become one of bank.
func (a *attack) forked(round int) {
	app := a.client(a.shop)
	fds := a.connect(app)
	var child int
	if _, err := fmt.Sscanf(app.Call("fork"), "fork ok %d", &child); err != nil {
		a.t.Fatal(err)
	}
	a.bank.Adopt(child)
	a.mustHangUp(method(round), 0, a.each)
	a.mustBeOpen("forked", app, fds)
	if err := unix.Kill(child, unix.SIGKILL); err != nil {
		a.t.Fatal(err)
	}
	app.Kill()
}

// visitor has connections of a process of bank in the network namespace of shop, beside those
// of shop.
func (a *attack) visitor() func(int) {
	shop, bank := a.client(a.shop), a.client(a.bank)
	if got := bank.Call("netns /proc/%d/ns/net", a.shop.Apps[0].PID()); got != "netns ok" {
		a.t.Fatal(got)
	}
	return func(round int) {
		own, other := a.connect(shop), a.connect(bank)
		a.mustHangUp(method(round), a.each, a.each)
		a.mustBeOpen("visitor", bank, other)
		closeAll(shop, own)
		closeAll(bank, other)
	}
}
