package actuator

import (
	"context"
	"fmt"
	"slices"
)

// Owner is a process that holds a socket.
type Owner struct {
	PID     int
	Command string // "" when the process has just ended
}

// Owners is what a look for the owners of sockets has found.
type Owners struct {
	// ByInode holds one owner of each socket that has one to be seen: of several,
	// the one with the lowest pid.
	ByInode map[uint32]Owner
	// Processes were looked through; Unreadable ones of them kept their
	// descriptors secret from us.
	Processes, Unreadable int
}

// FindOwners looks once through /proc for the processes that hold the sockets with
// the given inodes, of which 0 is none. It needs the rights that Shutdown needs and
// changes nothing; where they are missing, sockets have no owner.
func FindOwners(ctx context.Context, inodes []uint32) (Owners, error) {
	wanted := slices.DeleteFunc(slices.Clone(inodes), func(inode uint32) bool { return inode == 0 })
	slices.Sort(wanted)
	found, err := findOwners(ctx, slices.Compact(wanted), nil)
	if err != nil {
		return Owners{}, fmt.Errorf("find owners: %w", err)
	}
	result := Owners{
		ByInode:    make(map[uint32]Owner, len(found.byInode)),
		Processes:  found.processes,
		Unreadable: found.unreadable,
	}
	var known processes
	for inode, holders := range found.byInode {
		pid := holders[0].pid
		result.ByInode[inode] = Owner{PID: pid, Command: known.process(pid).command}
	}
	return result, nil
}
