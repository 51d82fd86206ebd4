package e2e

import (
	"fmt"
	"net/netip"
	"testing"

	"tcphup/test/kit/nstest"
)

// TestPrivilegedSameAddress checks a failover behind the same address: connections to the old
// server are hung up, and those to the new one survive all repeats of the alert.
func TestPrivilegedSameAddress(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		const flows, repeats = 20, 5
		before := startBackend(t, "127.0.0.1:0")
		dial(t, true, flows, before.addr())
		before.awaitOpen(flows)
		serveArmed(t, withAges, "--config.file="+policyFile(t, `    evidence: {established_before_alert: true}
    limits: {cooldown: 0s, rate: 1000, breaker: {actions: 100}}`))
		awaitSeen(t, before, flows)
		am := startAlertmanager(t, alertmanagerConfig{groupBy: "alertname", token: token})

		before.stopListening()
		after := startBackend(t, before.addr().String())
		am.post(alertAbout(after.addr()))
		before.awaitEnded(flows)
		after.awaitOpen(flows)
		for n := range 1 + repeats {
			awaitSample(t, answered200, float64(n+1))
		}
		before.mustCount(0, flows)
		after.mustCount(flows, 0)
		mustSample(t, flowsClosed, flows)
		done := 0
		for _, r := range hangups(t) {
			if r.Flow == nil && r.Result == "done" {
				done++
			}
		}
		if done < 1+repeats {
			t.Errorf("%d notifications done, want the first and %d repeats", done, repeats)
		}
	})
}

// TestPrivilegedWrongAlert checks that alerts about all destinations stay within the limits of
// the policy, and that metrics and audit log record the refusals.
func TestPrivilegedWrongAlert(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		const destinations, each = 12, 3
		for _, tt := range []struct {
			name     string
			groupBy  string
			settings string
			network  bool    // one alert for the network instead of one per destination
			closes   int     // number of destinations hung up
			result   string  // result of the refused alerts
			refused  int     // number of refused alerts
			trips    float64 // breaker trips
			budget   float64 // flows refused by the budget
		}{
			{
				name: "one notification names every destination", groupBy: "alertname",
				settings: "    limits: {breaker: {destinations: 3}}",
				result:   "breaker_open", refused: destinations, trips: 1,
			},
			{
				name: "one notification for each destination", groupBy: "destination",
				settings: "    limits: {breaker: {destinations: 3}}", closes: 3,
				result: "breaker_open", refused: destinations - 3, trips: 1,
			},
			{
				name: "one alert for the network", groupBy: "alertname", network: true,
				settings: fmt.Sprintf("    limits: {flows: %d}", destinations*each-1),
				result:   "over_budget", refused: 1, budget: destinations * each,
			},
			{
				name: "all flows of each destination", groupBy: "alertname",
				settings: "    limits: {fraction: 0.9}",
				result:   "over_budget", refused: destinations, budget: destinations * each,
			},
		} {
			t.Run(tt.name, func(t *testing.T) {
				server := startBackend(t, "0.0.0.0:0")
				var alerts []alert
				for i := range destinations {
					to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 1, byte(i + 1)}), server.addr().Port())
					dial(t, false, each, to)
					alerts = append(alerts, alertAbout(to))
				}
				if tt.network {
					alerts = alerts[:1]
					alerts[0].Labels["destination"] = "127.0.0.0/8"
				}
				serveArmed(t, "--config.file="+policyFile(t, tt.settings))
				am := startAlertmanager(t, alertmanagerConfig{groupBy: tt.groupBy, wait: oneNotification, interval: "5m", token: token})
				am.post(alerts...)
				awaitSample(t, alertsWith(tt.result), float64(tt.refused))
				awaitSample(t, alertsWith("done"), float64(tt.closes))
				server.awaitEnded(tt.closes * each)
				server.mustCount((destinations-tt.closes)*each, tt.closes*each)

				mustSample(t, alertsWith(tt.result), float64(tt.refused))
				mustSample(t, flowsClosed, float64(tt.closes*each))
				mustSample(t, "tcphup_breaker_trips_total", tt.trips)
				mustSample(t, `tcphup_breakers_open{policy="test"}`, tt.trips)
				mustSample(t, `tcphup_hangup_refusals_total{policy="test",reason="budget"}`, tt.budget)
				mustRecord(t, tt.result, tt.refused, int(tt.budget))
			})
		}
	})
}

// TestPrivilegedUnconnected checks that a notification about many destinations without
// connections opens no breaker, and that the other connections are hung up.
func TestPrivilegedUnconnected(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		const connected, destinations, each = 3, 21, 3
		server := startBackend(t, "0.0.0.0:0")
		var alerts []alert
		for i := range destinations {
			to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 1, byte(i + 1)}), server.addr().Port())
			if i < connected {
				dial(t, false, each, to)
			}
			alerts = append(alerts, alertAbout(to))
		}
		serveArmed(t, "--config.file="+policyFile(t, "    limits: {breaker: {destinations: 3}}"))
		am := startAlertmanager(t, alertmanagerConfig{groupBy: "alertname", wait: oneNotification, interval: "5m", token: token})
		am.post(alerts...)
		awaitSample(t, alertsWith("done"), destinations)
		server.awaitEnded(connected * each)
		mustSample(t, flowsClosed, connected*each)
		mustSample(t, "tcphup_breaker_trips_total", 0)
	})
}

// mustRecord checks the audit records of refused alerts and of flows over budget.
func mustRecord(t *testing.T, result string, alerts, flows int) {
	t.Helper()
	refused, overBudget := 0, 0
	for _, r := range hangups(t) {
		switch {
		case r.Flow != nil && r.Flow.Outcome == "refused" && r.Flow.Reason == "budget":
			overBudget++
		case r.Result == result:
			if r.Policy != "test" || r.Fingerprint == "" || r.Destination == "" || r.Detail == "" {
				t.Errorf("incomplete record: %+v", r)
			}
			refused++
		}
	}
	if refused != alerts || overBudget != flows {
		t.Errorf("audit: %d refused alerts and %d refused flows, want %d and %d", refused, overBudget, alerts, flows)
	}
}

// TestPrivilegedBreaker checks that repeated hang-ups of one destination trip its breaker only.
func TestPrivilegedBreaker(t *testing.T) {
	t.Parallel()
	nstest.Run(t, func(t *testing.T) {
		const flows, actions = 3, 2
		server, other := startBackend(t, "127.0.0.1:0"), startBackend(t, "127.0.0.2:0")
		dial(t, true, flows, server.addr())
		dial(t, false, flows, other.addr())
		serveArmed(t, "--config.file="+policyFile(t, fmt.Sprintf("    limits: {cooldown: 0s, breaker: {actions: %d}}", actions)))
		am := startAlertmanager(t, alertmanagerConfig{groupBy: "destination", token: token})
		am.post(alertAbout(server.addr()))
		awaitSample(t, alertsWith("breaker_open"), 2)
		mustSample(t, alertsWith("done"), actions)
		server.awaitOpen(flows)
		server.mustCount(flows, actions*flows)
		mustSample(t, "tcphup_breaker_trips_total", 1)
		mustSample(t, `tcphup_breakers_open{policy="test"}`, 1)
		am.post(alertAbout(other.addr()))
		other.awaitEnded(flows)
		server.mustCount(flows, actions*flows)
	})
}
