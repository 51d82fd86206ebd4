package collector

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"math/bits"
	"path/filepath"
	"time"

	"tcphup/internal/boottime"
	"tcphup/internal/safefile"
)

const (
	// firstSeenInterval is the minimum time between writes of the file.
	firstSeenInterval = 30 * time.Second

	// maxSavedFlows limits the flows of each protocol in the file, and so its size to
	// 4 MiB. After a restart, the ages of the other flows are unknown.
	maxSavedFlows = 1 << 17
	maxFirstSeen  = 8 << 20 // bytes

	firstSeenVersion = 1
	firstSeenRow     = 12 // bytes: key and first of an entry
)

// firstSeenFile is the path of the file with the first-seen times; empty disables it.
type firstSeenFile string

func firstSeenFileIn(directory string) firstSeenFile {
	if directory == "" {
		return ""
	}
	return firstSeenFile(filepath.Join(directory, "firstseen.json"))
}

type firstSeenJSON struct {
	Version int `json:"version"`
	// Clock is boottime.ID. The times and cookies of another boot have no meaning.
	Clock string       `json:"clock"`
	TCP   firstSeenSet `json:"tcp"`
	MPTCP firstSeenSet `json:"mptcp"`
}

// firstSeenSet is the content of a table: rows of firstSeenRow bytes.
type firstSeenSet struct {
	Secret [2]uint64 `json:"secret"`
	Flows  []byte    `json:"flows"`
}

// errDamaged matches invalid content and other versions.
var errDamaged = errors.New("not a file of first-seen times")

// Run writes the first-seen times of flows to the state directory, at most every 30 s, and
// when ctx ends. Without a state directory it returns at once.
func (c *Collector) Run(ctx context.Context) {
	if c.state == "" {
		return
	}
	tick := time.NewTicker(firstSeenInterval)
	defer tick.Stop()
	changed, failed := false, false
	for running := true; running; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			running = false
		}
		tcp, newTCP := c.own.tcp.snapshot()
		mptcp, newMPTCP := c.own.mptcp.snapshot()
		if changed = changed || newTCP || newMPTCP; !changed {
			continue
		}
		err := c.state.write(firstSeenJSON{TCP: tcp, MPTCP: mptcp})
		if err != nil && !failed {
			c.logger.Error("cannot save first-seen times", "err", err)
		}
		changed, failed = err != nil, err != nil
	}
}

// write replaces the file.
func (f firstSeenFile) write(s firstSeenJSON) (err error) {
	var content []byte
	s.Version = firstSeenVersion
	if s.Clock, err = boottime.ID(); err == nil {
		content, err = json.Marshal(s)
	}
	if err == nil {
		err = safefile.Replace(string(f), content)
	}
	if err != nil {
		return fmt.Errorf("write first-seen times: %w", err)
	}
	return nil
}

// read returns the content of the file; empty if it is of another boot.
func (f firstSeenFile) read() (s firstSeenJSON, err error) {
	content, err := safefile.Read(string(f), maxFirstSeen)
	if err != nil {
		return s, fmt.Errorf("read first-seen times: %w", err)
	}
	clock, err := boottime.ID()
	if err != nil {
		return s, fmt.Errorf("read first-seen times: %w", err)
	}
	if err := json.Unmarshal(content, &s); err != nil {
		return s, fmt.Errorf("read first-seen times: %w: %w", errDamaged, err)
	}
	if s.Version != firstSeenVersion {
		return s, fmt.Errorf("read first-seen times: %w: version %d, want %d", errDamaged, s.Version, firstSeenVersion)
	}
	if s.Clock != clock {
		return firstSeenJSON{}, nil
	}
	if latest := boottime.Now() + firstSeenStep; !s.TCP.valid(latest) || !s.MPTCP.valid(latest) {
		return s, fmt.Errorf("read first-seen times: %w: invalid rows", errDamaged)
	}
	return s, nil
}

// valid reports whether the rows are complete and no time is later.
func (s *firstSeenSet) valid(latest time.Duration) bool {
	for e := range s.entries() {
		if e.key == 0 || e.timestamp() > latest {
			return false
		}
	}
	return len(s.Flows)%firstSeenRow == 0
}

// loadFirstSeen fills the tables from the file. A damaged or unsafe file is renamed.
func (c *Collector) loadFirstSeen() {
	if c.state == "" {
		return
	}
	s, err := c.state.read()
	if err == nil {
		c.own.tcp.restore(&s.TCP)
		c.own.mptcp.restore(&s.MPTCP)
		return
	}
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	c.logger.Error("cannot load first-seen times, starting empty", "err", err)
	if !errors.Is(err, errDamaged) && !errors.Is(err, safefile.ErrUnsafe) {
		return
	}
	if aside, err := safefile.SetAside(string(c.state)); err != nil {
		c.logger.Error("cannot rename damaged first-seen times", "err", err)
	} else {
		c.logger.Error("damaged first-seen times renamed", "file", aside)
	}
}

// snapshot returns up to maxSavedFlows live entries, and whether there are new ones since
// the last snapshot.
func (t *firstSeenTable) snapshot() (s firstSeenSet, changed bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	changed, t.changed = t.changed, false
	s.Secret = t.secret
	for i := range t.entries {
		if e := &t.entries[i]; t.live(e) && len(s.Flows) < maxSavedFlows*firstSeenRow {
			s.Flows = binary.BigEndian.AppendUint64(s.Flows, e.key)
			s.Flows = binary.BigEndian.AppendUint32(s.Flows, e.first)
		}
	}
	return s, changed
}

// restore fills an empty table. The entries are live until the first complete scan.
func (t *firstSeenTable) restore(s *firstSeenSet) {
	if len(s.Flows) == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.secret = s.Secret
	t.entries = make([]firstSeenEntry, max(minEntries, 1<<bits.Len(uint(2*len(s.Flows)/firstSeenRow))))
	for e := range s.entries() {
		slot := &t.entries[t.slot(e.key)]
		t.used += toInt(slot.key == 0)
		*slot = e
	}
}

// entries yields the rows.
func (s *firstSeenSet) entries() iter.Seq[firstSeenEntry] {
	return func(yield func(firstSeenEntry) bool) {
		for rows := s.Flows; len(rows) >= firstSeenRow; rows = rows[firstSeenRow:] {
			e := firstSeenEntry{key: binary.BigEndian.Uint64(rows), first: binary.BigEndian.Uint32(rows[8:])}
			if !yield(e) {
				return
			}
		}
	}
}
