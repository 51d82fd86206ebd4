package actuator

import (
	"errors"
	"os"

	"tcphup/hangup"
	"tcphup/sockdiag"
)

// watchedNamespace is a network namespace of a watch, and the connection to it. Of a pod conn
// is nil: each dump has a connection of its own, because an open one would keep the namespace
// after the end of the pod.
type watchedNamespace struct {
	hangup.Namespace
	conn *sockdiag.Conn
}

// errEnded means that a watched namespace has ended.
var errEnded = errors.New("network namespace has ended")

// dump calls read with a connection to the namespace.
func (n *watchedNamespace) dump(blocked *sockdiag.BlockedCalls, read func(*sockdiag.Conn) error) error {
	conn := n.conn
	if conn == nil {
		var err error
		conn, err = dial(n.Namespace, blocked)
		if errors.Is(err, os.ErrNotExist) {
			return errEnded
		}
		if err != nil {
			return err
		}
		if n.Pod != nil {
			defer conn.Close()
		} else {
			n.conn = conn
		}
	}
	return read(conn)
}

func (n *watchedNamespace) close() {
	if n.conn != nil {
		_ = n.conn.Close()
	}
}
