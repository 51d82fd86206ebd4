package sockdiag

import "context"

// Table reads the listeners, the ephemeral ports and the open MPTCP connections of the
// namespace, which must be the calling thread's: the ports are read from /proc.
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
