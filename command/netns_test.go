package command

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tcphup/hangup"
	"tcphup/namespaces"
)

func TestNetnsName(t *testing.T) {
	const uid = "0b6a3a7e-9c1f-4f0d-8a2b-5d1c2e3f4a5b"
	id := strings.Repeat("0123456789abcdef", 4)
	pods := map[string]namespaces.Pod{uid: {Namespace: "shop", Name: "web-0"}}
	of := func(inode uint64, name string) *namespaces.Namespace {
		return &namespaces.Namespace{ID: namespaces.ID{Inode: inode}, Name: name}
	}
	for _, tt := range []struct {
		netns netns
		want  string
	}{
		{netns{Namespace: &namespaces.Namespace{Own: true, Name: "web"}}, "own"},
		{netns{Namespace: of(1, "cni-1"), Origin: namespaces.Origin{PodUID: uid, Container: id}}, "shop/web-0"},
		{netns{Namespace: of(1, "cni-1"), Origin: namespaces.Origin{PodUID: "other", Container: id}}, "pod:other"},
		{netns{Namespace: of(1, "web"), Origin: namespaces.Origin{Container: id}}, "web"},
		{netns{Namespace: of(1, ""), Origin: namespaces.Origin{Container: id}}, "container:0123456789ab"},
		{netns{Namespace: of(1, ""), Origin: namespaces.Origin{Unit: "nginx.service"}}, "nginx.service"},
		{netns{Namespace: of(7, "")}, "7 (pid 0)"},
	} {
		if got := tt.netns.shown(pods); got != tt.want {
			t.Errorf("%+v: %q, want %q", tt.netns, got, tt.want)
		}
	}

	var labels []string
	for _, n := range label([]namespaces.Namespace{*of(1, "a"), *of(2, "b"), *of(3, "b"), *of(4, "x\x1b")}) {
		labels = append(labels, n.label)
	}
	if diff := cmp.Diff([]string{"a", "b (2)", "b (3)", `x\x1b`}, labels); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}

	n := netns{Namespace: of(1, "cni-1"), Origin: namespaces.Origin{PodUID: uid, Container: id}, label: "shop/web-0"}
	for name, want := range map[string]bool{"shop/web-0": true, "cni-1": true, uid: true, id: true, id[:12]: true, id[:11]: false, "web-0": false} {
		if got := n.named(name); got != want {
			t.Errorf("%q: %t", name, got)
		}
	}
	// A namespace without a name, a pod or a container matches none of these.
	n = netns{Namespace: of(1, ""), label: "1 (pid 1)"}
	if n.named("web") || n.named(id) {
		t.Error("a namespace without a name matches")
	}
}

// An id of a process that is also the name of another namespace selects neither.
func TestNetnsOfProcess(t *testing.T) {
	of := func(inode uint64, name string) netns {
		return netns{Namespace: &namespaces.Namespace{ID: namespaces.ID{Inode: inode}, Name: name}, label: name, name: name}
	}
	all := func() []netns { return []netns{of(1, "own"), of(2, "7"), of(3, "web")} }
	if got, err := ofProcess(all(), namespaces.ID{Inode: 3}, "8"); err != nil || len(got) != 1 || got[0].name != "web" {
		t.Errorf("process of web: %v, %v", got, err)
	}
	if got, err := ofProcess(all(), namespaces.ID{Inode: 2}, "7"); err != nil || len(got) != 1 || got[0].name != "7" {
		t.Errorf("name and process of one namespace: %v, %v", got, err)
	}
	if got, err := ofProcess(all(), namespaces.ID{Inode: 1}, "7"); !errors.Is(err, ErrUsage) || got != nil {
		t.Errorf("name of another namespace: %v, %v", got, err)
	}
}

// The flag is an argument for a shell in commands to copy.
func TestNetnsFilter(t *testing.T) {
	for value, want := range map[string]string{
		"all": "--netns=all", "shop/web-0": "--netns=shop/web-0", "pod:0b-6a": "--netns=pod:0b-6a",
		"7 (pid 8)": "--netns='7 (pid 8)'", "a'b": `--netns='a'\''b'`, "$(x)": "--netns='$(x)'",
	} {
		s := selection{netns: netnsFlag{value}}
		if got := s.filters(); !slices.Equal(got, []string{want}) {
			t.Errorf("%q: %q, want %q", value, got, want)
		}
	}
	if got := new(selection).filters(); len(got) != 0 {
		t.Errorf("without the flag: %q", got)
	}
}

// A namespace with an error does not stop the others. One that has ended is reported, and
// is no failure.
func TestScopeEach(t *testing.T) {
	ended, denied := fmt.Errorf("open: %w", namespaces.ErrEnded), fmt.Errorf("enter: %w", os.ErrPermission)
	s := scope{namespaces: []hangup.Namespace{{Name: "a"}, {Name: "b"}, {Name: "c"}}}
	if s.incomplete() || s.note() != "" {
		t.Errorf("before: %q", s.note())
	}
	var visited []string
	visit := func(errs map[string]error) func(hangup.Namespace) error {
		return func(in hangup.Namespace) error {
			visited = append(visited, in.Name)
			return errs[in.Name]
		}
	}
	if err := s.each(t.Context(), visit(map[string]error{"a": ended})); err != nil || s.incomplete() {
		t.Errorf("ended: %v, %+v", err, s)
	}
	if want := "; 1 network namespace ended unread"; s.note() != want {
		t.Errorf("%q, want %q", s.note(), want)
	}
	if err := s.each(t.Context(), visit(map[string]error{"b": denied})); err != nil || !s.incomplete() {
		t.Errorf("denied: %v, %+v", err, s)
	}
	if want := "; 1 of 3 network namespaces not read, b: enter: permission denied; 1 network namespace ended unread"; s.note() != want {
		t.Errorf("%q, want %q", s.note(), want)
	}
	if want := []string{"a", "b", "c", "a", "b", "c"}; !slices.Equal(visited, want) {
		t.Errorf("visited %v", visited)
	}
	absent := scope{unread: []hangup.NamespaceError{{Err: fmt.Errorf("read ephemeral ports: %w", os.ErrNotExist)}}}
	if !absent.incomplete() {
		t.Error("a file that does not exist counts as the end of the namespace")
	}
	if s := (scope{unreadable: 2}); !s.incomplete() || s.note() != "; network namespaces of 2 processes unknown: permission denied" {
		t.Errorf("unreadable: %q", s.note())
	}
	if s := (scope{unreadable: 1}); s.note() != "; network namespace of 1 process unknown: permission denied" {
		t.Errorf("unreadable: %q", s.note())
	}
	if s := (scope{hidden: true}); !s.incomplete() || s.note() == "" {
		t.Errorf("hidden: %q", s.note())
	}

	// Without the flag an error is returned.
	failed := errors.New("failed")
	if err := new(scope).each(t.Context(), func(hangup.Namespace) error { return failed }); !errors.Is(err, failed) {
		t.Errorf("own namespace: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.each(ctx, visit(nil)); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

func TestAddNetns(t *testing.T) {
	one := &table{columns: []column{{name: "A"}}}
	one.add(cell{text: "1"})
	if got := one.addNetns([]string{""}).layout(0, false); !slices.Equal(append(got.header, got.rows...), []string{"A", "1"}) {
		t.Errorf("without names: %q", got.rows)
	}
	if got := one.addNetns([]string{"web"}).layout(0, false); !slices.Equal(append(got.header, got.rows...), []string{"NETNS  A", "web    1"}) {
		t.Errorf("with names: %q", got.rows)
	}
}
