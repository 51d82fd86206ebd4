package namespaces

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
