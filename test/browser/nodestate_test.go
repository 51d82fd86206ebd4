package browser_test

import (
	"fmt"
	"net/netip"
	"time"

	"tcphup/alerts"
	"tcphup/audit"
	"tcphup/collector"
	"tcphup/hangup"
	"tcphup/services"
	"tcphup/statuspage"
)

// nodeState returns the state of a node with 110 pods of 20 destinations each.
func nodeState() statuspage.State {
	const pods, destinations, perNamespace = 110, 20, 9
	s := exampleState()
	names := []string{"payments", "checkout", "search-and-recommendations", "kube-system", "dev"}
	workloads := []string{"api-7c9d8f6b5-x2v4q", "web-0", "reconciliation-worker-with-a-long-name-5f6d7c8b9-l8zkp", "batch-28913760-tq7hd"}
	namespaceOf := func(pod int) string {
		if i := pod / perNamespace; i < len(names) {
			return names[i]
		}
		return fmt.Sprintf("team-%02d", pod/perNamespace)
	}
	podOf := func(pod int) (namespace, name string) {
		if pod == pods-1 {
			return hangup.UnknownNamespace, "1f0c3a52-7f5e-4d7e-9c7e-0a4f6a1f9b11"
		}
		return namespaceOf(pod), fmt.Sprintf("%s%d", workloads[pod%len(workloads)], pod)
	}
	examples := s.Snapshot.Destinations
	s.Snapshot = &collector.Snapshot{
		Folded: 340, FoldedMore: true, Inbound: 2841,
		Node: &collector.NodeCounts{Read: pods, Skipped: 3, Failed: 1, Node: 1, Other: 2, HostNetwork: 9, Unnamed: 1},
	}
	service := services.Status{
		Name: "db-writer.payments.svc.cluster.local", Port: 5432, Resolver: netip.MustParseAddrPort("10.96.0.10:53"), Looked: ago(4 * time.Second),
		Current: []services.Address{address("10.20.0.6", 50, time.Time{})},
		Former:  []services.Address{address("10.20.0.5", 0, ago(4*time.Minute))},
	}
	for pod := range pods {
		namespace, name := podOf(pod)
		for i := range destinations {
			d := examples[(pod+i)%len(examples)]
			d.Namespace, d.Pod = namespace, name
			if i < destinations-1 {
				d.Address, d.Port = fmt.Sprintf("10.20.%d.%d", i, pod), "5432"
			}
			if pod%7 == 3 && i == 4 {
				d.Address = "2001:db8:1234:5678:9abc:def0:1234:5678"
			}
			s.Snapshot.Destinations = append(s.Snapshot.Destinations, d)
		}
		if pod%4 < 2 {
			service.Pods = append(service.Pods, services.PodSockets{Namespace: namespace, Pod: name, Sockets: pod, Shared: pod % 3, LongestIdle: time.Duration(pod) * 4 * time.Minute})
			service.Former[0].Sockets += pod
		}
	}
	s.Services = []services.Status{service}
	for i := range s.Decisions {
		r := &s.Decisions[i]
		r.Namespace, r.Pod = podOf(i / 40)
	}
	s.Receiver = alerts.Status{Mode: alerts.ModeArmed, HasCredentials: true, Policies: s.Receiver.Policies}
	s.Decisions = append(s.Decisions, audit.Record{Event: audit.EventEnd, Time: ago(time.Minute), Policy: "failover", Namespace: "payments", Result: "kept", Detail: "no flow is stale"})
	return s
}
