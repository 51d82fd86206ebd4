package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"
)

// event is something that is to be seen.
type event struct {
	name string
	// seen says in a line what has happened; "" as long as it has not, or nobody
	// answers who knows.
	seen func(context.Context) string
	// after is how long after the failover it was seen; 0 means not at all.
	after time.Duration
}

func (s *stage) nameLeadsElsewhere() *event {
	return &event{name: "the change in the DNS", seen: func(ctx context.Context) string {
		if !leadsTo(ctx, s.newSite) {
			return ""
		}
		return fmt.Sprintf("DNS: %s leads to %s", serviceName, s.newSite.address)
	}}
}

func addressIsFormer() *event {
	return &event{name: "connections to a former address", seen: func(ctx context.Context) string {
		n := sample(ctx, tcphupAddress, fmt.Sprintf(`tcphup_service_sockets{address="former",service=%q}`, serviceName))
		if n == 0 {
			return ""
		}
		return fmt.Sprintf("tcphup: %v connections lead to a former address of %s", n, serviceName)
	}}
}

func alertFires() *event {
	return &event{name: "the alert", seen: func(ctx context.Context) string {
		if state, _ := alertState(ctx); state != "firing" {
			return ""
		}
		return "Prometheus: alert " + alertName + " fires"
	}}
}

func alertIsRouted() *event {
	return &event{name: "the alert in Alertmanager", seen: func(ctx context.Context) string {
		if receivers, _ := alertReceivers(ctx); !slices.Contains(receivers, receiverName) {
			return ""
		}
		return "Alertmanager: has the alert for " + receiverName + ", waits for more of its group"
	}}
}

func alertmanagerNotifies() *event {
	return &event{name: "the notification", seen: func(ctx context.Context) string {
		if sample(ctx, alertmanagerAddress, `alertmanager_notifications_total{integration="webhook"`) == 0 {
			return ""
		}
		return "Alertmanager: notifies " + receiverName
	}}
}

func tcphupHangsUp() *event {
	return &event{name: "the hang-up", seen: func(ctx context.Context) string {
		flows, _ := hungUp(ctx)
		if len(flows) < poolSize {
			return ""
		}
		outcomes := make(map[string]bool)
		for _, f := range flows {
			outcomes[fmt.Sprintf("%s by %s, held by %s (pid %d)", f.Outcome, f.Method, f.Command, f.PID)] = true
		}
		return fmt.Sprintf("tcphup: has hung up %d connections: %s", len(flows), strings.Join(slices.Sorted(maps.Keys(outcomes)), "; "))
	}}
}

func (s *stage) newSiteAnswers() *event {
	return &event{name: "an answer of the new site", seen: func(context.Context) string {
		if s.newSite.answers.Load() == 0 {
			return ""
		}
		return "application: first answer from the new site"
	}}
}

func (s *stage) applicationHasMoved() *event {
	return &event{name: "all connections on the new site", seen: func(context.Context) string {
		if s.newSite.connections.Load() < poolSize || s.newSite.answers.Load() < poolSize || s.oldSite.connections.Load() > 0 {
			return ""
		}
		log, err := os.ReadFile(s.application.log)
		if err != nil {
			return ""
		}
		return fmt.Sprintf("application: all %d connections lead to the new site; it has logged %d errors",
			s.newSite.connections.Load(), strings.Count(string(log), "\n"))
	}}
}

// alertResolves is seen after another event only: before it, there is no alert yet.
func alertResolves(after *event) *event {
	return &event{name: "the end of the alert", seen: func(ctx context.Context) string {
		if after.after == 0 {
			return ""
		}
		if state, _ := alertState(ctx); state != "inactive" {
			return ""
		}
		return "Prometheus: the alert is resolved"
	}}
}
