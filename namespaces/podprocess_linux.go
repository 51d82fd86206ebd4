package namespaces

import (
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// settled is the age from which a process outside of pods stays outside: a container runtime
// moves a new process to its pod before it starts the program.
const settled = 10 * time.Second

// podProcess is the pod of a process.
type podProcess struct {
	inode   uint64        // of its directory in /proc; the kernel does not reuse it
	uid     string        // of its pod; empty outside of pods
	started time.Duration // since boot
}

// podProcesses reads the pods of processes, and keeps them from one discovery to the next: a
// node has hundreds of processes that do not change.
type podProcesses struct {
	now             time.Duration      // since boot
	former, current map[int]podProcess // by id of the process or thread
}

// begin starts a discovery.
func (c *podProcesses) begin() {
	c.former, c.current = c.current, make(map[int]podProcess, len(c.current))
	c.now = sinceBoot()
}

// of returns the pod of a process that is still in the network namespace.
func (c *podProcesses) of(m member, id ID) (podProcess, error) {
	if p, ok := c.former[m.tid]; ok {
		var st unix.Stat_t
		if err := unix.Stat("/proc/"+strconv.Itoa(m.tid), &st); err != nil {
			return podProcess{}, err
		}
		if st.Ino == p.inode {
			c.current[m.tid] = p
			return p, nil
		}
	}
	p, err := readPodProcess(m, id)
	if err == nil && (p.uid != "" || c.now-p.started > settled) {
		c.current[m.tid] = p
	}
	return p, err
}

func readPodProcess(m member, id ID) (podProcess, error) {
	p, err := openProcess(m)
	if err != nil {
		return podProcess{}, err
	}
	defer p.close()
	var st unix.Stat_t
	if err := unix.Fstat(p.dir, &st); err != nil {
		return podProcess{}, err
	}
	origin, err := p.origin()
	if err != nil {
		return podProcess{}, err
	}
	started, err := p.started()
	if err != nil {
		return podProcess{}, err
	}
	return podProcess{st.Ino, origin.PodUID, started}, p.in(id)
}
