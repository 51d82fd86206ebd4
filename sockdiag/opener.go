package sockdiag

// Opener is the side that sent the SYN of a flow. The zero value is OpenerUnknown.
type Opener uint8

const (
	OpenerUnknown Opener = iota // no TCPInfo, neither established nor close_wait, or data in flight
	OpenedHere                  // the local side
	OpenedByPeer                // the peer; also reported for a socket restored by CRIU
)

// Direction returns the direction of a flow with the opener. Unknown counts as outbound.
func (o Opener) Direction() Direction {
	if o == OpenedByPeer {
		return Inbound
	}
	return Outbound
}

// fins is the set of states in which the local side has queued a FIN.
const fins StateSet = 1<<FinWait1 | 1<<FinWait2 | 1<<Closing | 1<<LastAck

// inFlight returns the bytes sent and not acknowledged, a FIN included.
func (f *Flow) inFlight() int64 { return int64(f.SendQueue) - int64(f.TCPInfo.NotSent) }

// controlBytes returns the number of SYN and FIN bytes in the sequence numbers that a flow
// has used. These count among the acknowledged bytes and the bytes in flight, but not among
// the sent bytes.
func (f *Flow) controlBytes() int64 {
	i := &f.TCPInfo
	return int64(i.BytesAcked) + f.inFlight() - int64(i.BytesSent-i.BytesRetransmitted)
}

// openerOfDump derives the opener of a flow from a single message.
//
// The kernel reads the queues of f a moment before the counters. An acknowledgement in
// between makes an accepted flow resemble an opened flow, never the reverse. The result is
// OpenerUnknown where such an acknowledgement is possible, and after a FIN. It is also
// OpenerUnknown while a single byte is being retransmitted: see openerOfPair.
func (f *Flow) openerOfDump() Opener {
	if !f.TCPInfo.HasBytes || f.State != Established && f.State != CloseWait {
		return OpenerUnknown
	}
	switch c := f.controlBytes(); {
	case c == 0 && f.TCPInfo.NotSent == 0 && (f.inFlight() != 1 || f.TCPInfo.Retransmits == 0):
		return OpenedByPeer
	case c == 1 && (f.SendQueue == 0 || f.TCPInfo.Retransmits > 0):
		return OpenedHere
	default:
		return OpenerUnknown
	}
}

// openerOfPair derives the opener of a flow from two messages in a row. If the counters are
// equal in both, the queue of the second one belongs to them, and agree is true.
//
// A transmission that fails locally counts as sent. If it had a single byte, an opened flow
// then resembles an accepted flow: the result is OpenerUnknown for what may be one, with
// unsent bytes or one byte in flight. After more bytes no opener fits the counters.
func openerOfPair(before, f *Flow) (opener Opener, agree bool) {
	a, b := &before.TCPInfo, &f.TCPInfo
	if !b.HasBytes || f.State != before.State || a.BytesAcked != b.BytesAcked || a.BytesSent != b.BytesSent ||
		a.BytesRetransmitted != b.BytesRetransmitted || a.NotSent != b.NotSent {
		return OpenerUnknown, false
	}
	control, inFlight := f.controlBytes(), f.inFlight()
	switch {
	case f.State == Established || f.State == CloseWait:
	case !fins.Has(f.State):
		return OpenerUnknown, true
	case b.NotSent == 0: // the FIN was sent after all data
		control--
		if f.State != FinWait2 {
			inFlight--
		}
	}
	switch {
	case control == 0 && inFlight != 1 && b.NotSent == 0:
		return OpenedByPeer, true
	case control == 1:
		return OpenedHere, true
	default:
		return OpenerUnknown, true
	}
}
