package collector

// NodeCounts counts the network namespaces and pods of a scan.
type NodeCounts struct {
	// Read, Skipped, Failed and Ended are namespaces of pods: skipped to keep the budget,
	// failed to be entered or read, or ended before they were read.
	Read, Skipped, Failed, Ended int
	// Node, Other, HostNetwork and Unnamed are as in Found.
	Node, Other, HostNetwork, Unnamed int
}
