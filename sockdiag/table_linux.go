package sockdiag

import "context"

// ReadTable reads the listeners, the ephemeral ports and the open MPTCP connections. The
// calling thread must be in the network namespace of the Reader, because /proc provides the
// ports.
func ReadTable(ctx context.Context, from Reader) (*Table, error) {
	ephemeral, err := EphemeralPorts()
	if err != nil {
		return nil, err
	}
	t := &Table{Ephemeral: ephemeral}
	if err := t.ReadListeners(ctx, from); err != nil {
		return nil, err
	}
	if err := t.ReadConnections(ctx, from, Open); err != nil {
		return nil, err
	}
	return t, nil
}
