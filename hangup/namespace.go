package hangup

// Namespace is a network namespace. The zero value is the namespace of this process.
type Namespace struct {
	// Name is the value of Result.Namespace for its flows.
	Name string
	// Inode is the inode of /proc/PID/ns/net; 0 is that of this process.
	Inode uint64
	// Do calls open on a thread in the namespace and returns its error. Sockets that open
	// creates belong to the namespace. An error that matches os.ErrNotExist means that the
	// namespace has ended. nil calls open directly.
	Do func(open func() error) error
}

// Enter calls open in the namespace; see Do.
func (n Namespace) Enter(open func() error) error {
	if n.Do == nil {
		return open()
	}
	return n.Do(open)
}

// NamespaceError is the cause for which no flow of a namespace was selected.
type NamespaceError struct {
	Name string
	Err  error
}
