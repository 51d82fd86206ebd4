package collector

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"tcphup/hangup"
	"tcphup/internal/boottime"
	"tcphup/internal/exposition"
	"tcphup/sockdiag"
)

// Defaults with Config.Node.
const (
	// DefaultMaxNodeDestinations is the default of Config.MaxDestinations.
	DefaultMaxNodeDestinations = 2000
	// DefaultMaxDestinationsPerPod is the default of NodeConfig.MaxDestinationsPerPod.
	DefaultMaxDestinationsPerPod = 20
)

// NodeConfig configures a Collector for the network namespaces of the pods of a node. All series
// of destinations and ports then have the labels namespace and pod. A namespace that a scan does
// not read completely has no series.
type NodeConfig struct {
	// Find returns the pods of the node. Each scan calls it once.
	Find func() (Found, error)
	// Budget is the processor time after which a scan begins to read no further namespace; 0
	// means no limit. The next scan begins with the namespaces whose last scan is longest ago.
	// A scan reads at least one. The time to find the pods does not count. Whatever the budget,
	// no namespace is begun after two thirds of the time that a scrape has.
	Budget time.Duration
	// MaxDestinationsPerPod limits the destinations, and the inbound ports, of each pod with
	// series of their own; 0 means DefaultMaxDestinationsPerPod. If all pods together exceed
	// Config.MaxDestinations, the limit of each pod is lower in that scan.
	MaxDestinationsPerPod int
	// Observer receives the flows of each scan and adds metrics; nil disables it.
	Observer NodeObserver
}

// Found has the network namespaces of a node.
type Found struct {
	// Pods are the namespaces of one pod each. Pod is never nil. Do is called on a thread that
	// enters one namespace after the other and ends afterwards, or when Do fails with an error
	// that does not match os.ErrNotExist. Do may leave it in the namespace. The processor time
	// of a scan is that of the calling thread, on which Do should call its function.
	Pods []hangup.Namespace
	// Node counts the node's own namespaces, and Other the namespaces of no pod or of several.
	Node, Other int
	// HostNetwork counts pods in the node's namespace, and Unnamed those without a known name.
	HostNetwork, Unnamed int
}

// NodeObserver is an Observer of the flows of pods.
type NodeObserver interface {
	// ObservePods begins a scan. Scans do not overlap. The Collector calls observe as described
	// for Observer, and done after all namespaces. complete reports whether no namespace was
	// skipped, failed or ended. The returned metrics become part of the scrape. Those with the
	// labels namespace and pod of a pod that was not read completely are dropped.
	ObservePods() (observe func(*hangup.Pod, *sockdiag.Flow), done func(complete bool) []prometheus.Metric)
}

// NodeCounts counts the network namespaces and pods of a scan.
type NodeCounts struct {
	// Read, Skipped, Failed and Ended are namespaces of pods: skipped to keep the budget,
	// failed to be entered or read, or ended before they were read.
	Read, Skipped, Failed, Ended int
	// Node, Other, HostNetwork and Unnamed are as in Found.
	Node, Other, HostNetwork, Unnamed int
}

// node is the state of a Collector with Config.Node.
type node struct {
	NodeConfig
	limit int // Config.MaxDestinations
	scans uint64
	spent time.Duration   // processor time of all scans
	table *sockdiag.Table // shared by the namespaces without MPTCP connections

	mu   sync.Mutex
	pods map[uint64]*podState // by inode of the namespace

	// Dependencies of a scan.
	clock     func() time.Duration // since boot
	cpuTime   func() time.Duration // processor time of the calling thread
	newReader func() *reader       // for FlowsHandler

	reader  *reader // of scans; replaced when it is blocked
	blocked sockdiag.BlockedCalls
}

// podState is the state of one pod between scans.
type podState struct {
	*namespaceState
	namespace hangup.Namespace // of the last Find
	labels    []*dto.LabelPair // namespace and pod
	table     *sockdiag.Table  // with its cache of MPTCP connections; nil without any
	scanned   [2]uint64        // the last scan that tried to read it: of scrapes, of snapshots
}

func newNode(config Config, limit int) (*node, error) {
	n := &node{
		NodeConfig: *config.Node, limit: limit, table: new(sockdiag.Table),
		clock: boottime.Now, cpuTime: threadTime, newReader: newPodReader, blocked: sockdiag.BlockedCalls{Limit: blockedAfter},
	}
	n.MaxDestinationsPerPod = cmp.Or(n.MaxDestinationsPerPod, DefaultMaxDestinationsPerPod)
	switch {
	case n.Find == nil:
		return nil, errors.New("configure collector: no function to find pods")
	case config.Observer != nil:
		return nil, errors.New("configure collector: observer of one namespace for a node")
	case n.MaxDestinationsPerPod < 0:
		return nil, fmt.Errorf("configure collector: negative maximum of destinations per pod: %d", n.MaxDestinationsPerPod)
	case n.Budget < 0:
		return nil, fmt.Errorf("configure collector: negative processor time: %v", n.Budget)
	}
	return n, nil
}

// newPodReader returns a reader for the network namespace of the calling thread at each dial. It
// reuses its buffers.
func newPodReader() *reader {
	conn, usage := new(sockdiag.Conn), new(sockdiag.MPTCPUsage)
	inUse := func() bool {
		defer func() { _ = usage.Close() }()
		return usage.InUse()
	}
	inUse() // in the own namespace, so that it opens no socket in those of pods
	return &reader{
		oneDump:        true,
		dial:           func(netns uint64) (source, error) { return conn, conn.Reopen(netns) },
		ephemeralPorts: sockdiag.EphemeralPorts,
		mptcpInUse:     inUse,
		now:            time.Now,
		progress:       new(atomic.Uint64),
	}
}

// stateOf returns the state of a namespace by its inode; nil without one.
func (n *node) stateOf(inode uint64) *namespaceState {
	n.mu.Lock()
	defer n.mu.Unlock()
	if p := n.pods[inode]; p != nil {
		return p.namespaceState
	}
	return nil
}

// update keeps the state of the pods that are still the same, drops all others, and returns
// the pods of a scan in its order: those that wait longest come first. A new pod counts as
// read by the last scan. Of pods with equal names, which replace each other, it returns the
// one that started last, and counts the duplicates.
func (n *node) update(namespaces []hangup.Namespace, kind int) (pods []*podState, duplicates int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	old := n.pods
	n.pods = make(map[uint64]*podState, len(namespaces))
	byName := make(map[hangup.PodName]int, len(namespaces)) // index in pods
	for _, ns := range namespaces {
		p := old[ns.Inode]
		if p == nil || p.namespace.Pod.UID != ns.Pod.UID || !p.namespace.Pod.Started.Equal(ns.Pod.Started) {
			p = &podState{namespaceState: newNamespaceState(n.MaxDestinationsPerPod, n.clock), scanned: [2]uint64{n.scans, n.scans}}
		}
		p.setNamespace(ns)
		i, duplicate := byName[p.name()]
		switch {
		case !duplicate:
			byName[p.name()] = len(pods)
			pods = append(pods, p)
		case ns.Pod.Started.After(pods[i].namespace.Pod.Started):
			pods[i] = p
		}
		duplicates += toInt(duplicate)
	}
	for _, p := range pods {
		n.pods[p.namespace.Inode] = p
	}
	n.scans++
	slices.SortStableFunc(pods, func(a, b *podState) int { return cmp.Compare(a.scanned[kind], b.scanned[kind]) })
	return pods, duplicates
}

// drop removes the state of a pod whose namespace has ended.
func (n *node) drop(p *podState) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.pods, p.namespace.Inode)
}

func (p *podState) setNamespace(ns hangup.Namespace) {
	if name := ns.Pod.Labels(); p.labels == nil || p.name() != name {
		p.labels = []*dto.LabelPair{exposition.Label("namespace", name.Namespace), exposition.Label("pod", name.Pod)}
	}
	p.namespace = ns
}

func (p *podState) name() hangup.PodName { return p.namespace.Pod.Labels() }

// share returns the largest limit for which the sum of min(size, limit) is at most bound, or
// the largest size if all fit.
func share(sizes []int, bound int) int {
	sizes = slices.Sorted(slices.Values(sizes))
	for i, size := range sizes {
		if rest := len(sizes) - i; size*rest > bound {
			return bound / rest
		}
		bound -= size
	}
	if len(sizes) == 0 {
		return 0
	}
	return sizes[len(sizes)-1]
}
