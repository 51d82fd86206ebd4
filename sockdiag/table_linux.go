package sockdiag

import "context"

// Table reads the listeners, the ephemeral ports and the open MPTCP connections. The calling
// thread must be in the network namespace of the Conn, because /proc provides the ports.
func (c *Conn) Table(ctx context.Context) (*Table, error) {
	ephemeral, err := EphemeralPorts()
	if err != nil {
		return nil, err
	}
	t := &Table{Ephemeral: ephemeral}
	if err := t.ReadListeners(ctx, c); err != nil {
		return nil, err
	}
	if err := t.ReadConnections(ctx, c, Open); err != nil {
		return nil, err
	}
	return t, nil
}
