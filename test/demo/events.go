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

// event is an expected observation.
type event struct {
	name string
	// seen returns the line to print once the event has occurred; "" before, or when its
	// source does not respond.
	seen func(context.Context) string
	// after is the time from the failover to the event; 0: not yet seen.
	after time.Duration
}

func (s *stage) nameResolvesToNewSite() *event {
	return &event{name: "DNS change", seen: func(ctx context.Context) string {
		if !resolvesTo(ctx, s.newSite) {
			return ""
		}
		return fmt.Sprintf("DNS: %s resolves to %s", serviceName, s.newSite.address)
	}}
}

func addressIsFormer() *event {
	return &event{name: "former address", seen: func(ctx context.Context) string {
		n := sample(ctx, tcphupAddress, fmt.Sprintf(`tcphup_service_sockets{address="former",service=%q}`, serviceName))
		if n == 0 {
			return ""
		}
		return fmt.Sprintf("tcphup: %v connections to a former address of %s", n, serviceName)
	}}
}

func alertFires() *event {
	return &event{name: "alert firing", seen: func(ctx context.Context) string {
		if state, _ := alertState(ctx); state != "firing" {
			return ""
		}
		return "Prometheus: alert " + alertName + " firing"
	}}
}

func alertIsRouted() *event {
	return &event{name: "alert in Alertmanager", seen: func(ctx context.Context) string {
		if receivers, _ := alertReceivers(ctx); !slices.Contains(receivers, receiverName) {
			return ""
		}
		return "Alertmanager: received the alert for " + receiverName + ", waiting for group_wait"
	}}
}

func alertmanagerNotifies() *event {
	return &event{name: "notification", seen: func(ctx context.Context) string {
		if sample(ctx, alertmanagerAddress, `alertmanager_notifications_total{integration="webhook"`) == 0 {
			return ""
		}
		return "Alertmanager: notified " + receiverName
	}}
}

func tcphupHangsUp() *event {
	return &event{name: "hang-up", seen: func(ctx context.Context) string {
		flows, _ := hungUp(ctx)
		if len(flows) < poolSize {
			return ""
		}
		outcomes := make(map[string]bool)
		for _, f := range flows {
			outcomes[fmt.Sprintf("%s by %s, held by %s (pid %d)", f.Outcome, f.Method, f.Command, f.PID)] = true
		}
		return fmt.Sprintf("tcphup: hung up %d connections: %s", len(flows), strings.Join(slices.Sorted(maps.Keys(outcomes)), "; "))
	}}
}

func (s *stage) newSiteResponds() *event {
	return &event{name: "response from the new site", seen: func(context.Context) string {
		if s.newSite.responses.Load() == 0 {
			return ""
		}
		return "application: first response from the new site"
	}}
}

func (s *stage) applicationHasMoved() *event {
	return &event{name: "all connections on the new site", seen: func(context.Context) string {
		if s.newSite.connections.Load() < poolSize || s.newSite.responses.Load() < poolSize || s.oldSite.connections.Load() > 0 {
			return ""
		}
		log, err := os.ReadFile(s.application.log)
		if err != nil {
			return ""
		}
		return fmt.Sprintf("application: all %d connections on the new site, %d errors logged",
			s.newSite.connections.Load(), strings.Count(string(log), "\n"))
	}}
}

// alertResolves waits for another event first: before the alert fires, its state is
// inactive too.
func alertResolves(after *event) *event {
	return &event{name: "alert resolved", seen: func(ctx context.Context) string {
		if after.after == 0 {
			return ""
		}
		if state, _ := alertState(ctx); state != "inactive" {
			return ""
		}
		return "Prometheus: alert " + alertName + " resolved"
	}}
}
