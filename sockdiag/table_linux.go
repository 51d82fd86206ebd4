package sockdiag

import "context"

// NamespaceReader is the source of ReadTable, usually a Conn.
type NamespaceReader interface {
	Reader
	// EphemeralPorts returns the ports of the namespace that Flows reads.
	EphemeralPorts() (PortRange, error)
}

// EphemeralPorts is the function EphemeralPorts for the namespace of the connection.
func (c *Conn) EphemeralPorts() (r PortRange, err error) {
	err = c.enter(func() error {
		r, err = EphemeralPorts()
		return err
	})
	return r, err
}

// ReadTable reads the listeners, the ephemeral ports and the open MPTCP connections.
func ReadTable(ctx context.Context, from NamespaceReader) (*Table, error) {
	ephemeral, err := from.EphemeralPorts()
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
