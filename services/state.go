package services

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"tcphup/internal/safefile"
)

// stateVersion is that of the state file's form.
const stateVersion = 1

// maxState bounds what is read of a state file, in bytes.
const maxState = 64 << 20

// StateFile is the name of the state file in its directory.
const StateFile = "services.json"

// stateFile is the path of a state file; empty means that there is none.
type stateFile string

// stateIn returns the path of the state file in a directory.
func stateIn(directory string) stateFile {
	if directory == "" {
		return ""
	}
	return stateFile(filepath.Join(directory, StateFile))
}

// stateJSON is what a state file holds.
type stateJSON struct {
	Version  int           `json:"version"`
	Services []serviceJSON `json:"services"`
}

type serviceJSON struct {
	Name      string        `json:"name"`
	Port      uint16        `json:"port,omitempty"`
	Changed   *time.Time    `json:"changed,omitempty"`
	Addresses []addressJSON `json:"addresses"`
}

type addressJSON struct {
	Address netip.Addr `json:"address"`
	// Former is set for an address that the name had before, and says when a flow to
	// it was last seen. Since is when it became former.
	Former *time.Time `json:"former,omitempty"`
	Since  time.Time  `json:"since,omitzero"`
}

// read returns what the file holds; nothing when it does not exist.
func (f stateFile) read() (stateJSON, error) {
	content, err := safefile.Read(string(f), maxState)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return stateJSON{Version: stateVersion}, nil
	case err != nil:
		return stateJSON{}, fmt.Errorf("read state: %w", err)
	}
	return parseState(content)
}

// errDamaged says that a file is no state, or none of a version known here.
var errDamaged = errors.New("not the state of services")

func parseState(content []byte) (stateJSON, error) {
	var s stateJSON
	if err := json.Unmarshal(content, &s); err != nil {
		return stateJSON{}, fmt.Errorf("read state: %w: %w", errDamaged, err)
	}
	if s.Version != stateVersion {
		return stateJSON{}, fmt.Errorf("read state: %w: version %d, and %d is known", errDamaged, s.Version, stateVersion)
	}
	for _, service := range s.Services {
		for i := range service.Addresses {
			a := &service.Addresses[i]
			usable := distinct([]netip.Addr{a.Address})
			if service.Name == "" || len(usable) == 0 {
				return stateJSON{}, fmt.Errorf("read state: %w: address %q of service %q", errDamaged, a.Address, service.Name)
			}
			a.Address = usable[0]
		}
	}
	return s, nil
}

// setAside renames a file that is damaged or that others may change, so that it
// can be looked at and a new one takes its place.
func (f stateFile) setAside() (string, error) {
	aside := string(f) + ".damaged"
	if err := os.Rename(string(f), aside); err != nil {
		return "", fmt.Errorf("set state aside: %w", err)
	}
	return aside, nil
}

// write replaces the file as a whole: who reads it finds the old or the new one. A
// process that is killed meanwhile leaves one more file behind, which the next write
// takes the place of.
func (f stateFile) write(s stateJSON) (err error) {
	content, err := json.MarshalIndent(s, "", "\t")
	if err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	name := string(f) + ".new"
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("write state: %w", err)
	}
	temporary, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	_, err = temporary.Write(append(content, '\n'))
	err = errors.Join(err, temporary.Sync(), temporary.Close())
	if err == nil {
		err = os.Rename(name, string(f))
	}
	if err != nil {
		return fmt.Errorf("write state: %w", errors.Join(err, os.Remove(name)))
	}
	return nil
}

// load takes what the state file knows of the watched names. A current address
// has to be missed anew before it is former: what happened to it while nobody
// watched is not known.
func (w *Watcher) load() {
	if w.state == "" {
		return
	}
	s, err := w.state.read()
	if err != nil {
		w.logger.Error("cannot load service state, starting empty", "err", err)
		if !errors.Is(err, errDamaged) && !errors.Is(err, safefile.ErrUnsafe) {
			return
		}
		if aside, err := w.state.setAside(); err != nil {
			w.logger.Error("cannot set state aside", "err", err)
		} else {
			w.logger.Error("state set aside", "file", aside)
		}
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dirty = true // whether it can be written is found out now, not when it has to be
	for _, service := range s.Services {
		known := w.watches[canonical(service.Name)]
		if known == nil {
			continue
		}
		known.history.addresses, known.history.loaded = make(map[netip.Addr]*address), true
		for _, a := range service.Addresses {
			loaded := &address{}
			if a.Former != nil {
				loaded.former, loaded.since, loaded.lastFlow = true, a.Since, *a.Former
			}
			known.history.addresses[a.Address] = loaded
		}
		known.history.trim()
		if service.Changed != nil {
			known.history.changed = *service.Changed
		}
	}
}

// save writes the state file if it has to be. What cannot be written is logged once
// and tried again.
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
	if err != nil && !w.unsaved {
		w.logger.Error("cannot save state of services", "err", err)
	}
	w.unsaved = err != nil
	w.dirty = w.dirty || w.unsaved
}

func (w *Watcher) snapshot() stateJSON {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := stateJSON{Version: stateVersion, Services: []serviceJSON{}}
	for _, name := range w.sorted() {
		known := w.watches[name]
		service := serviceJSON{Name: name, Port: known.service.Port, Addresses: []addressJSON{}}
		if changed := known.history.changed; !changed.IsZero() {
			service.Changed = &changed
		}
		current, former := known.history.list()
		for _, addr := range current {
			service.Addresses = append(service.Addresses, addressJSON{Address: addr})
		}
		for _, addr := range former {
			a := known.history.addresses[addr]
			last := a.lastFlow
			service.Addresses = append(service.Addresses, addressJSON{Address: addr, Former: &last, Since: a.since})
		}
		s.Services = append(s.Services, service)
	}
	return s
}

// Known is what a state file knows of a service.
type Known struct {
	Port            uint16 // 0: the service has none
	Current, Former []netip.Addr
}

// ErrUnknown says that a state file does not know a name.
var ErrUnknown = errors.New("the state file does not know the name")

// ReadState returns what the state file in a directory knows of a service. A file that
// does not exist is an error, and so is a name that is not in it: ErrUnknown.
func ReadState(directory, name string) (Known, error) {
	file := stateIn(directory)
	if _, err := os.Stat(string(file)); err != nil {
		return Known{}, fmt.Errorf("read state: %w", err)
	}
	s, err := file.read()
	if err != nil {
		return Known{}, err
	}
	for _, service := range s.Services {
		if service.Name != canonical(name) {
			continue
		}
		known := Known{Port: service.Port}
		for _, a := range service.Addresses {
			if a.Former != nil {
				known.Former = append(known.Former, a.Address)
			} else {
				known.Current = append(known.Current, a.Address)
			}
		}
		return known, nil
	}
	return Known{}, fmt.Errorf("%w %s", ErrUnknown, name)
}
