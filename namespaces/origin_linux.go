package namespaces

import (
	"errors"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// maxOrigins limits the processes whose cgroup Origin reads.
const maxOrigins = 8

// Origin returns the origin of the processes with the lowest ids in the namespace. A pod is
// returned if it is the only one, and its container if that is the only one in the pod; a
// container or a unit outside of pods is that of the first process. It is the zero Origin if
// the processes are in several pods, or have ended.
func (n *Namespace) Origin() Origin {
	var origin Origin
	for _, m := range n.members[:min(len(n.members), maxOrigins)] {
		o, err := n.originOf(m)
		switch {
		case err != nil, o == Origin{}:
		case o.PodUID == "":
			if origin == (Origin{}) {
				origin = o
			}
		case origin.PodUID == "":
			origin = o
		case origin.PodUID != o.PodUID:
			return Origin{}
		case origin.Container != o.Container:
			origin.Container = ""
		}
	}
	return origin
}

// originOf returns the origin of a process that is still in the namespace. The directory
// refers to one process: another one with the same id is not read.
func (n *Namespace) originOf(m member) (Origin, error) {
	dir, err := unix.Open("/proc/"+strconv.Itoa(m.tid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return Origin{}, err
	}
	defer unix.Close(dir)
	fd, err := unix.Openat(dir, "cgroup", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return Origin{}, err
	}
	file := os.NewFile(uintptr(fd), "cgroup")
	defer file.Close()
	text, err := io.ReadAll(file)
	if err != nil {
		return Origin{}, err
	}
	if id, err := statID(dir, "ns/net"); err != nil || id != n.ID {
		return Origin{}, errors.New("process has ended or left the namespace")
	}
	return ParseOrigin(string(text)), nil
}
