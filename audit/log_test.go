package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var testNow = time.Date(2026, 11, 22, 7, 20, 0, 0, time.UTC)

func TestAuditKeepsLast(t *testing.T) {
	l := New(nil)
	for i := range MaxRecords + 250 {
		if err := l.Add(Record{Time: testNow.Add(time.Duration(i) * time.Second)}); err != nil {
			t.Fatal(err)
		}
	}
	records := l.Records()
	if len(records) != MaxRecords {
		t.Fatalf("%d records", len(records))
	}
	for i, r := range records {
		if want := testNow.Add(time.Duration(i+250) * time.Second); !r.Time.Equal(want) {
			t.Fatalf("record %d: time %s, want %s", i, r.Time, want)
		}
	}
}

// An action has its counts of reconnects for as long as its end record is in memory.
func TestReconnects(t *testing.T) {
	l := New(nil)
	add := func(event Event, action string) {
		t.Helper()
		if err := l.Add(Record{Event: event, Action: action}); err != nil {
			t.Fatal(err)
		}
	}
	l.CountReconnect("a", true) // before the begin record
	add(EventBegin, "a")
	l.CountReconnect("a", true)
	add(EventEnd, "a")
	l.CountReconnect("a", false)
	l.CountReconnect("a", false)
	if got, want := l.Records()[1].Reconnects, (&Reconnects{SameAddress: 1, OtherAddress: 2}); *got != *want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for i := range 2 * MaxRecords {
		action := strconv.Itoa(i)
		add(EventBegin, action)
		add(EventEnd, action)
		l.CountReconnect("a", true)
	}
	if n := len(l.reconnects); n != MaxRecords/2 {
		t.Errorf("counts of %d actions in memory, want %d", n, MaxRecords/2)
	}
}

// nearlyFull accepts room more bytes, like a file on an almost full disk.
type nearlyFull struct {
	bytes.Buffer
	room int
}

func (w *nearlyFull) Write(b []byte) (int, error) {
	n, _ := w.Buffer.Write(b[:min(w.room, len(b))])
	if w.room -= n; n < len(b) {
		return n, syscall.ENOSPC
	}
	return n, nil
}

// On a full disk only the partial record and the records without space are lost; earlier
// and later records stay readable.
func TestAuditTornLine(t *testing.T) {
	file := &nearlyFull{room: 230}
	l := New(file)
	l.EndLine() // a previous process wrote half a line
	file.WriteString(`{"time":"20`)
	for i, room := range []int{230, 0, 1, 1000, 1000} {
		file.room = room
		err := l.Add(Record{Time: testNow, Fingerprint: strconv.Itoa(i), Result: "done", Detail: strings.Repeat("x", 200)})
		if full := i < 3; errors.Is(err, syscall.ENOSPC) != full {
			t.Errorf("record %d: %v", i, err)
		}
	}
	var whole []string
	for line := range strings.Lines(file.String()) {
		var r Record
		if json.Unmarshal([]byte(line), &r) == nil {
			whole = append(whole, r.Fingerprint)
		}
	}
	if diff := cmp.Diff([]string{"3", "4"}, whole); diff != "" || l.Errors() != 3 {
		t.Errorf("%d errors, readable records (-want +got):\n%s\n%s", l.Errors(), diff, file.String())
	}
}
