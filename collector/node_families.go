package collector

import (
	dto "github.com/prometheus/client_model/go"

	"tcphup/internal/exposition"
)

// nodeFamilies returns the metrics about the namespaces of a node.
func nodeFamilies() []family {
	results := [...]*dto.LabelPair{
		exposition.Label("result", "read"), exposition.Label("result", "skipped"), exposition.Label("result", "failed"),
		exposition.Label("result", "ended"), exposition.Label("result", "node"), exposition.Label("result", "other"),
	}
	counted := func(name, help string, write func(*exposition.Metrics, *NodeCounts)) family {
		return newFamily(name, help, func(to *exposition.Metrics, r *result) {
			if r.found() {
				write(to, &r.node.counts)
			}
		})
	}
	cpu := newFamily("node_scrape_cpu_seconds_total",
		"Processor time of finding the pods of the node and reading their network namespaces.",
		func(to *exposition.Metrics, r *result) {
			if r.node != nil {
				to.Counter(r.node.spent.Seconds())
			}
		})
	cpu.Type = dto.MetricType_COUNTER
	return []family{
		cpu,
		counted("node_namespaces",
			"Network namespaces of the node by result of the last scrape. Those of pods were read, skipped because the processor time was used up, failed to be entered or read, or ended before they were read. Only those that were read have metrics. The result is node for the network of the node and other for a namespace of no pod or of several.",
			func(to *exposition.Metrics, n *NodeCounts) {
				for i, count := range [...]int{n.Read, n.Skipped, n.Failed, n.Ended, n.Node, n.Other} {
					to.Gauge(float64(count), results[i])
				}
			}),
		counted("node_host_network_pods",
			"Pods that use the network of the node. They have no metrics, and their connections are not hung up.",
			func(to *exposition.Metrics, n *NodeCounts) { to.Gauge(float64(n.HostNetwork)) }),
		counted("node_unnamed_pods",
			"Pods whose name is unknown. Their label namespace is _unknown, and pod is the uid.",
			func(to *exposition.Metrics, n *NodeCounts) { to.Gauge(float64(n.Unnamed)) }),
	}
}
