package collector

import "tcphup/sockdiag"

// multipathGroup is the sum of the MPTCP connections to one destination, and of
// the subflows to it. A connection's additional subflows may go to addresses of
// their own: each is counted where it goes.
type multipathGroup struct {
	states   [sockdiag.MaxState + 1][2]uint32 // by fallback, no and yes
	pathless uint32
	perConn  [len(subflowBuckets) + 1]uint32 // connections by their subflows
	perTotal uint64                          // subflows of these connections
	subflows [2][2]uint32                    // by role, initial and join; backup, no and yes
	hidden   [2]uint32                       // by role; the kernel does not tell whether backup
	idle     histogram
}

// subflowBuckets are the upper bounds of the histogram of subflows per
// connection.
var subflowBuckets = [...]int{0, 1, 2, 3, 4, 8}

func (m *multipathGroup) connections() uint64 {
	var n uint64
	for _, counts := range m.states {
		n += uint64(counts[0]) + uint64(counts[1])
	}
	return n
}

func (m *multipathGroup) merge(other *multipathGroup) {
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

// connection is an MPTCP connection of one pass.
type connection struct {
	flow  *sockdiag.Flow
	group int32 // index of its group; inbound or excluded where it has none
	paths int32 // subflows that were joined to it
}

// inbound is the group of a connection that was accepted, excluded the one of a
// connection to an address that is left out.
const (
	inbound  = -1
	excluded = -2
)

// closingStates are those of a connection that this side has closed.
var closingStates = sockdiag.States(sockdiag.FinWait1, sockdiag.FinWait2, sockdiag.Closing, sockdiag.LastAck, sockdiag.Close)

// addSubflow counts a TCP flow that is a path of an MPTCP connection. Where the
// kernel hides what kind of path it is, its addresses tell: the initial subflow
// has those of its connection, which may be nil if it is not known.
func (m *multipathGroup) addSubflow(f *sockdiag.Flow, of *connection) {
	if idle, known := f.Idle(); known {
		m.idle.observe(idle)
	}
	if f.IsSubflow {
		m.subflows[index(f.Subflow.Join())][index(f.Subflow.Backup())]++
		return
	}
	m.hidden[index(f.Local != of.flow.Local || f.Remote != of.flow.Remote)]++
}

// addPaths counts a connection's subflows when all of them are known.
func (m *multipathGroup) addPaths(c *connection) {
	i := 0
	for i < len(subflowBuckets) && int(c.paths) > subflowBuckets[i] {
		i++
	}
	m.perConn[i]++
	m.perTotal += uint64(c.paths)
	// Pathless are only those that an application holds open, which have an inode. A
	// connection may have lost its paths between the two dumps
	// because it ended; its own account of them is as old as its state.
	if c.flow.Inode != 0 && c.paths == 0 && c.flow.MPTCPInfo.SubflowsTotal == 0 {
		m.pathless++
	}
}

func index(b bool) int {
	if b {
		return 1
	}
	return 0
}
