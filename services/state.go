package services

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path/filepath"
	"slices"
	"time"

	"tcphup/internal/boottime"
	"tcphup/internal/safefile"
)

const stateVersion = 1

// maxState limits the size of a state file, in bytes.
const maxState = 64 << 20

// StateFile is the name of the state file in Config.StateDirectory.
const StateFile = "services.json"

// stateFile is the path of a state file; empty disables it.
type stateFile string

func stateIn(directory string) stateFile {
	if directory == "" {
		return ""
	}
	return stateFile(filepath.Join(directory, StateFile))
}

type stateJSON struct {
	Version int `json:"version"`
	// Clock is boottime.ID: the clock of Asked, Had and Without, in nanoseconds.
	Clock    string        `json:"clock,omitempty"`
	Services []serviceJSON `json:"services"`
}

type serviceJSON struct {
	Name     string         `json:"name"`
	Port     uint16         `json:"port,omitempty"`
	Resolver netip.AddrPort `json:"resolver,omitzero"`
	Settle   time.Duration  `json:"settle,omitzero"`
	Changed  time.Time      `json:"changed,omitzero"`
	// Asked has the last successful lookup of each family.
	Asked     [len(families)]time.Duration `json:"asked,omitzero"`
	Addresses []addressJSON                `json:"addresses"`
}

type addressJSON struct {
	Address netip.Addr `json:"address"`
	// Former is set for a former address: the time of its last flow. Since is when it
	// became former.
	Former *time.Time `json:"former,omitempty"`
	Since  time.Time  `json:"since,omitzero"`
	// Missing is when a current address began to be missing from the responses, for
	// ReadState only.
	Missing time.Time `json:"missing,omitzero"`
	// Had and Without are as in address. Returned is set for a current address that was
	// former before.
	Had      time.Duration `json:"had,omitzero"`
	Without  time.Duration `json:"without,omitzero"`
	Returned bool          `json:"returned,omitempty"`
}

// read returns the content of the file. Errors match fs.ErrNotExist, or errDamaged or
// safefile.ErrUnsafe if the file must not be used.
func (f stateFile) read() (stateJSON, error) {
	content, err := safefile.Read(string(f), maxState)
	if err != nil {
		return stateJSON{}, fmt.Errorf("read state: %w", err)
	}
	return parseState(content)
}

// errDamaged matches invalid content and other versions.
var errDamaged = errors.New("not a service state file")

func parseState(content []byte) (stateJSON, error) {
	var s stateJSON
	if err := json.Unmarshal(content, &s); err != nil {
		return stateJSON{}, fmt.Errorf("read state: %w: %w", errDamaged, err)
	}
	if s.Version != stateVersion {
		return stateJSON{}, fmt.Errorf("read state: %w: version %d, want %d", errDamaged, s.Version, stateVersion)
	}
	for _, service := range s.Services {
		for i := range service.Addresses {
			a := &service.Addresses[i]
			usable := distinct([]netip.Addr{a.Address})
			if service.Name == "" || len(usable) == 0 {
				return stateJSON{}, fmt.Errorf("read state: %w: invalid address %q of service %q", errDamaged, a.Address, service.Name)
			}
			a.Address = usable[0]
		}
	}
	return s, nil
}

// write replaces the file.
func (f stateFile) write(s stateJSON) error {
	content, err := json.MarshalIndent(s, "", "\t")
	if err == nil {
		err = safefile.Replace(string(f), append(content, '\n'))
	}
	if err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	return nil
}

// load loads the addresses of the watched names from the state file. The responses without
// a current address are counted from zero: lookups between stop and start are missing.
func (w *Watcher) load() {
	if w.state == "" {
		return
	}
	s, err := w.state.read()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		w.logger.Error("cannot load service state, starting empty", "err", err)
		if !errors.Is(err, errDamaged) && !errors.Is(err, safefile.ErrUnsafe) {
			return
		}
		if aside, err := safefile.SetAside(string(w.state)); err != nil {
			w.logger.Error("cannot rename damaged state", "err", err)
		} else {
			w.logger.Error("damaged state renamed", "file", aside)
		}
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dirty = true // an unwritable file is logged now, not at the next change
	clock, now := clockID(), w.boottime()
	known := func(d time.Duration) time.Duration {
		if clock == "" || s.Clock != clock || d > now {
			return 0 // another boot
		}
		return d
	}
	for _, service := range s.Services {
		entry := w.watches[canonical(service.Name)]
		if entry == nil || entry.service.Resolver != service.Resolver {
			continue
		}
		entry.history.addresses, entry.history.loaded = make(map[netip.Addr]*address), true
		for _, a := range service.Addresses {
			loaded := &address{had: known(a.Had), without: known(a.Without)}
			if a.Former != nil {
				loaded.former, loaded.since, loaded.lastFlow = true, a.Since, *a.Former
			}
			if a.Former != nil || a.Returned {
				loaded.lost = never // flows may have been opened since the last scan
			}
			entry.history.addresses[a.Address] = loaded
		}
		for f, asked := range service.Asked {
			entry.history.asked[f] = known(asked)
		}
		entry.history.trim()
		entry.history.changed = service.Changed
	}
}

// save writes the state file if the state has changed. The first of consecutive errors is
// logged, and the next save retries.
func (w *Watcher) save() {
	w.mu.Lock()
	dirty := w.dirty
	w.dirty = false
	w.mu.Unlock()
	if !dirty || w.state == "" {
		return
	}
	err := w.state.write(w.snapshot())
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil && !w.saveFailed {
		w.logger.Error("cannot save service state", "err", err)
	}
	w.saveFailed = err != nil
	w.dirty = w.dirty || w.saveFailed
}

func (w *Watcher) snapshot() stateJSON {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := stateJSON{Version: stateVersion, Clock: clockID(), Services: []serviceJSON{}}
	for _, name := range w.sorted() {
		entry := w.watches[name]
		h := &entry.history
		service := serviceJSON{name, entry.service.Port, entry.service.Resolver, h.settle, h.changed, h.asked, []addressJSON{}}
		current, former := h.list()
		for _, addr := range append(current, former...) {
			a := h.addresses[addr]
			saved := addressJSON{Address: addr, Had: a.had, Without: a.without}
			if a.former {
				saved.Former, saved.Since = new(a.lastFlow), a.since
			} else {
				saved.Missing, saved.Returned = a.absent, a.lost != 0
			}
			service.Addresses = append(service.Addresses, saved)
		}
		s.Services = append(s.Services, service)
	}
	return s
}

// clockID returns boottime.ID; "" on an error.
func clockID() string {
	id, _ := boottime.ID()
	return id
}

// Known has the addresses of a service in a state file.
type Known struct {
	Port            uint16         // 0 without a port
	Resolver        netip.AddrPort // see Service
	Settle          time.Duration  // see Service; 0 if unknown
	Current, Former []netip.Addr
	// Missing is when a current address began to be missing from the responses; without an entry,
	// the last response had it.
	Missing map[netip.Addr]time.Time

	others []serviceJSON
}

// SharedWith returns the name of another service with the port that has the address; ""
// without one. Port 0 means every port.
func (k *Known) SharedWith(a netip.Addr, port uint16) string {
	for _, other := range k.others {
		if other.Port != 0 && (port == 0 || port == other.Port) && slices.ContainsFunc(other.Addresses,
			func(b addressJSON) bool { return b.Address == a && b.Former == nil }) {
			return other.Name
		}
	}
	return ""
}

// ErrUnknown means that a state file does not have the name.
var ErrUnknown = errors.New("name is not in the state file")

// ReadState returns the addresses of a service from the state file in a directory. Errors
// match fs.ErrNotExist for a missing file and ErrUnknown for a missing name.
func ReadState(directory, name string) (Known, error) {
	s, err := stateIn(directory).read()
	if err != nil {
		return Known{}, err
	}
	i := slices.IndexFunc(s.Services, func(service serviceJSON) bool { return service.Name == canonical(name) })
	if i < 0 {
		return Known{}, fmt.Errorf("read state: %w: %s", ErrUnknown, name)
	}
	found := &s.Services[i]
	saved := Known{Port: found.Port, Resolver: found.Resolver, Settle: found.Settle, Missing: make(map[netip.Addr]time.Time)}
	saved.others = slices.Delete(slices.Clone(s.Services), i, i+1)
	for _, a := range found.Addresses {
		if a.Former != nil {
			saved.Former = append(saved.Former, a.Address)
			continue
		}
		saved.Current = append(saved.Current, a.Address)
		if !a.Missing.IsZero() {
			saved.Missing[a.Address] = a.Missing
		}
	}
	return saved, nil
}
