package collector

import (
	"slices"

	"tcphup/sockdiag"
)

// mptcpAggregate is the sum of the MPTCP connections to one destination and of the
// subflows to it. Additional subflows of a connection may have other destinations; each
// counts at its own. The zero value is empty.
type mptcpAggregate struct {
	states   [sockdiag.MaxState + 1][2]uint32 // by fallback: false, true
	pathless uint32                           // connections without subflows
	perConn  [len(subflowBuckets) + 1]uint32  // connections by number of subflows
	perTotal uint64                           // subflows of these connections
	subflows [2][2]uint32                     // by role (initial, join) and backup (false, true)
	hidden   [2]uint32                        // by role; backup flag unknown
	idle     histogram
}

// subflowBuckets are the upper bounds of the histogram of subflows per connection.
var subflowBuckets = [...]int{0, 1, 2, 3, 4, 8}

func (m *mptcpAggregate) connections() uint64 {
	var n uint64
	for _, counts := range m.states {
		n += uint64(counts[0]) + uint64(counts[1])
	}
	return n
}

func (m *mptcpAggregate) merge(other *mptcpAggregate) {
	for i, counts := range other.states {
		m.states[i][0] += counts[0]
		m.states[i][1] += counts[1]
	}
	m.pathless += other.pathless
	for i, n := range other.perConn {
		m.perConn[i] += n
	}
	m.perTotal += other.perTotal
	for role := range other.subflows {
		for backup, n := range other.subflows[role] {
			m.subflows[role][backup] += n
		}
		m.hidden[role] += other.hidden[role]
	}
	m.idle.merge(&other.idle)
}

// connection is an MPTCP connection of the current scan.
type connection struct {
	flow      *sockdiag.Flow
	aggregate int32 // index, or inbound or excluded
	subflows  int32 // TCP flows that belong to it
}

// Values of connection.aggregate for an accepted connection, and for one to an address
// that Config.Include or Config.Exclude leaves out.
const (
	inbound  = -1
	excluded = -2
)

// closingStates are the states of a connection that the local side has closed.
var closingStates = sockdiag.States(sockdiag.FinWait1, sockdiag.FinWait2, sockdiag.Closing, sockdiag.LastAck, sockdiag.Close)

// addSubflow counts a subflow of an outbound connection. Without CAP_NET_ADMIN the
// kernel does not report roles. Then a flow with the addresses of its connection is the
// initial subflow. parent may be nil if the kernel reports the flow as a subflow.
func (m *mptcpAggregate) addSubflow(f *sockdiag.Flow, parent *connection) {
	if idle, known := f.Idle(); known {
		m.idle.observe(idle)
	}
	if f.IsSubflow {
		m.subflows[toInt(f.Subflow.Join())][toInt(f.Subflow.Backup())]++
		return
	}
	m.hidden[toInt(f.Local != parent.flow.Local || f.Remote != parent.flow.Remote)]++
}

// addConnection counts a connection by its number of subflows. It needs complete dumps
// of both protocols.
func (m *mptcpAggregate) addConnection(c *connection) {
	i, _ := slices.BinarySearch(subflowBuckets[:], int(c.subflows))
	m.perConn[i]++
	m.perTotal += uint64(c.subflows)
	// An inode means that an application holds the connection open. SubflowsTotal is as old
	// as the connection's state: above 0, the connection has ended between the two dumps.
	if c.flow.Inode != 0 && c.subflows == 0 && c.flow.MPTCPInfo.SubflowsTotal == 0 {
		m.pathless++
	}
}
