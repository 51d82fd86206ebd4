package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/alecthomas/kingpin/v2"
	"golang.org/x/sys/unix"

	"tcphup/hangup"
	"tcphup/internal/text"
	"tcphup/namespaces"
)

// netnsFlag is the flag --netns.
type netnsFlag struct{ value string }

const allNetns = "all"

func (n *netnsFlag) addFlag(cmd *kingpin.CmdClause) {
	cmd.Flag("netns", "Network namespace: a process id, a name (of ip netns, or as in the column NETNS), a path such as /run/netns/NAME, or all. Needs CAP_SYS_ADMIN and CAP_SYS_PTRACE.").
		PlaceHolder("PID|NAME|PATH|all").HintOptions(allNetns).SetValue(n)
}

func (n *netnsFlag) String() string { return n.value }

// Set rejects "", the value of an unset variable of a shell: it must not select the namespace
// of this process.
func (n *netnsFlag) Set(text string) error {
	if text == "" {
		return errors.New("empty: write a process id, a name, a path or all")
	}
	n.value = text
	return nil
}

// find returns the selected namespaces, or the one of this process without the flag.
func (n *netnsFlag) find() (scope, error) {
	if n.value == "" {
		return scope{}, nil
	}
	found, err := namespaces.Discover()
	if err != nil {
		return scope{}, fmt.Errorf("--netns: %w", err)
	}
	selected, err := n.filter(label(found.Namespaces))
	if err != nil {
		return scope{}, err
	}
	var all scope
	for i := range selected {
		all.namespaces = append(all.namespaces, selected[i].request())
	}
	switch {
	case n.value == allNetns:
		all.unreadable, all.hidden = found.Unreadable, found.Hidden
	case len(selected) == 0:
		return scope{}, argumentErrorf("--netns: no network namespace %q: tcphup list --netns=all lists them%s", n.value, unknownNetns(found.Unreadable, found.Hidden))
	case len(selected) > 1:
		return scope{}, argumentErrorf("--netns: %d network namespaces match %q: use the id of a process", len(selected), n.value)
	}
	return all, nil
}

// filter returns the namespaces that the flag selects. A value with two meanings is an error.
func (n *netnsFlag) filter(labelled []netns) ([]netns, error) {
	named := slices.DeleteFunc(slices.Clone(labelled), func(l netns) bool { return !l.named(n.value) })
	pid, notPID := strconv.Atoi(n.value)
	switch {
	case n.value == allNetns && len(named) > 0:
		return nil, argumentErrorf("--netns: all is every network namespace and the name of one: for that one, write --netns=/run/netns/all")
	case n.value == allNetns:
		return labelled, nil
	case strings.HasPrefix(n.value, "/"):
		var st unix.Stat_t
		if err := unix.Stat(n.value, &st); err != nil {
			return nil, netnsError(fmt.Errorf("stat %q: %w", n.value, err), fmt.Sprintf("no file %q", n.value))
		}
		return withID(labelled, namespaces.ID{Device: st.Dev, Inode: st.Ino}), nil
	case notPID == nil:
		id, err := namespaces.OfProcess(pid)
		if err != nil {
			return nil, netnsError(err, fmt.Sprintf("no process %d", pid))
		}
		return ofProcess(labelled, id, n.value)
	default:
		return named, nil
	}
}

func withID(labelled []netns, id namespaces.ID) []netns {
	return slices.DeleteFunc(labelled, func(n netns) bool { return n.ID != id })
}

// ofProcess returns the namespace of a process. It returns an error if another namespace has
// the id of the process as its name.
func ofProcess(labelled []netns, id namespaces.ID, pid string) ([]netns, error) {
	for i := range labelled {
		if labelled[i].ID != id && labelled[i].named(pid) {
			return nil, argumentErrorf("--netns: %s is the id of a process and the name of another network namespace: use the id of a process in it, or write --netns=/run/netns/%[1]s", pid)
		}
	}
	return withID(labelled, id), nil
}

// netnsError returns a usage error with the text if err matches os.ErrNotExist.
func netnsError(err error, notFound string) error {
	if errors.Is(err, os.ErrNotExist) {
		return argumentErrorf("--netns: %s", notFound)
	}
	return fmt.Errorf("--netns: %w", err)
}

// hint returns a note about other network namespaces for a selection without a match; "" with
// the flag, or without such namespaces.
func (n *netnsFlag) hint() string {
	if n.value != "" {
		return ""
	}
	found, err := namespaces.Discover()
	if err != nil {
		return "; cannot look for other network namespaces: " + text.Printable(err.Error())
	}
	note := unknownNetns(found.Unreadable, found.Hidden)
	switch others := found.Others(); others {
	case 0:
	case 1:
		note = "; 1 other network namespace has processes: --netns=all" + note
	default:
		note = fmt.Sprintf("; %d other network namespaces have processes: --netns=all", others) + note
	}
	return note
}

// unknownNetns describes the processes whose namespace is unknown, or returns "".
func unknownNetns(unreadable int, hidden bool) string {
	switch {
	case hidden:
		return "; /proc hides processes of other users and their network namespaces"
	case unreadable == 1:
		return "; network namespace of 1 process unknown: permission denied"
	case unreadable > 0:
		return fmt.Sprintf("; network namespaces of %d processes unknown: permission denied", unreadable)
	default:
		return ""
	}
}

// netns is a network namespace with its name in the output.
type netns struct {
	*namespaces.Namespace
	namespaces.Origin
	name  string // several may have it
	label string
}

// ownNetns is the label of the namespace of this process.
const ownNetns = "own"

// label names the namespaces. It adds the inode to a name that several have.
func label(found []namespaces.Namespace) []netns {
	// Without names of pods their uids are shown.
	pods, _ := namespaces.ReadPods(namespaces.PodLogs)
	all, used := make([]netns, len(found)), make(map[string]int)
	for i := range found {
		all[i] = netns{Namespace: &found[i], Origin: found[i].Origin()}
		all[i].name = text.Printable(all[i].shown(pods))
		used[all[i].name]++
	}
	for i := range all {
		all[i].label = all[i].name
		if used[all[i].name] > 1 {
			all[i].label += fmt.Sprintf(" (%d)", all[i].ID.Inode)
		}
	}
	return all
}

// shortID is the length of container ids in the output, as docker and crictl print them.
const shortID = 12

// shown returns the name of the pod, of ip netns, of the container or of the unit, or else the
// inode and a process id.
func (n *netns) shown(pods map[string]namespaces.Pod) string {
	pod, named := pods[n.PodUID]
	switch {
	case n.Own:
		return ownNetns
	case named:
		return pod.Namespace + "/" + pod.Name
	case n.PodUID != "":
		return "pod:" + n.PodUID
	case n.Name != "":
		return n.Name
	case n.Container != "":
		return "container:" + n.Container[:shortID]
	case n.Unit != "":
		return n.Unit
	default:
		return fmt.Sprintf("%d (pid %d)", n.ID.Inode, n.PID())
	}
}

// named reports whether the namespace has a name: the label or that without the inode, the name of ip netns, the uid of
// the pod, or the id of the container, which may be shortened.
func (n *netns) named(name string) bool {
	return slices.Contains([]string{n.label, n.name, n.Name, n.PodUID}, name) ||
		len(name) >= shortID && strings.HasPrefix(n.Container, name)
}

func (n *netns) request() hangup.Namespace {
	in := hangup.Namespace{Name: n.label, Inode: n.ID.Inode}
	if !n.Own {
		in.Do = n.Do
	}
	return in
}

// scope has the network namespaces of a command.
type scope struct {
	namespaces []hangup.Namespace // empty: the one of this process
	unread     []hangup.NamespaceError
	// unreadable processes and hidden ones may be in further namespaces.
	unreadable int
	hidden     bool
}

// each calls f in each namespace. An error in a namespace selected by the flag is added to
// unread; it is returned after the end of ctx.
func (s *scope) each(ctx context.Context, f func(in hangup.Namespace) error) error {
	if len(s.namespaces) == 0 {
		return f(hangup.Namespace{})
	}
	for _, in := range s.namespaces {
		err := f(in)
		if ctx.Err() != nil {
			return cmp.Or(err, ctx.Err())
		}
		if err != nil {
			s.unread = append(s.unread, hangup.NamespaceError{Name: in.Name, Err: err})
		}
	}
	return nil
}

// inodes returns the inodes of the namespaces.
func (s *scope) inodes() []uint64 {
	var inodes []uint64
	for _, in := range s.namespaces {
		inodes = append(inodes, in.Inode)
	}
	return inodes
}

// failed returns the namespaces that could not be read, without those that have ended.
func (s *scope) failed() []hangup.NamespaceError {
	return slices.DeleteFunc(slices.Clone(s.unread), func(e hangup.NamespaceError) bool { return errors.Is(e.Err, namespaces.ErrEnded) })
}

// incomplete reports whether connections in the selected namespaces may be unknown.
func (s *scope) incomplete() bool { return len(s.failed()) > 0 || s.unreadable > 0 || s.hidden }

// note describes the namespaces that were not read, or returns "".
func (s *scope) note() string {
	var note string
	failed := s.failed()
	if len(failed) > 0 {
		note = fmt.Sprintf("; %d of %s not read, %s: %s", len(failed), text.Plural(len(s.namespaces), "network namespace"), failed[0].Name, text.Printable(failed[0].Err.Error()))
	}
	if ended := len(s.unread) - len(failed); ended > 0 {
		note += fmt.Sprintf("; %s ended unread", text.Plural(ended, "network namespace"))
	}
	return note + unknownNetns(s.unreadable, s.hidden)
}

// netnsErrorJSON is a namespace that was not read.
type netnsErrorJSON struct {
	Netns string `json:"netns"`
	Error string `json:"error"`
}

func netnsErrorsJSON(unread []hangup.NamespaceError) []netnsErrorJSON {
	var out []netnsErrorJSON
	for _, e := range unread {
		out = append(out, netnsErrorJSON{Netns: e.Name, Error: e.Err.Error()})
	}
	return out
}

// addNetns prepends the column NETNS to a table, unless all names are empty.
func (t *table) addNetns(names []string) *table {
	if !slices.ContainsFunc(names, func(name string) bool { return name != "" }) {
		return t
	}
	if t.columns != nil {
		t.columns = append([]column{{name: "NETNS", shared: 2}}, t.columns...)
	}
	for i, name := range names {
		t.rows[i] = append([]cell{{text: name}}, t.rows[i]...)
	}
	return t
}
