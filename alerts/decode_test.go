package alerts

import (
	"errors"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Grafana's webhook contact point posts version "1" with more fields.
func TestReceiverGrafana(t *testing.T) {
	f := newFixture(t, DefaultRules(), nil)
	f.post(t, recorded(t, "grafana-webhook.json")).want(t, 200, map[string]int{resultDone: 1, resultResolved: 1})
	if diff := cmp.Diff([]string{"labelled 10.0.0.5/32 5432"}, f.hang.seen()); diff != "" {
		t.Errorf("actions (-want +got):\n%s", diff)
	}
}

// The size of annotations and of labels that no policy names does not affect the alerts of
// the group.
func TestLargeAlertInGroup(t *testing.T) {
	large := strings.Repeat("x\n", 600_000)
	annotated, labelled, tooLong := staleAlert("10.0.0.5", "80"), staleAlert("10.0.0.6", "80"), staleAlert("10.0.0.7", "80")
	annotated.Annotations = map[string]string{"description": large}
	labelled.Labels["query"] = large
	tooLong.Labels["port"] = large
	f := newFixture(t, DefaultRules(), func(c *Config) { c.MaxActions = 1 })
	f.post(t, notify(annotated, labelled, tooLong, staleAlert("10.0.0.8", "80"))).
		want(t, 200, map[string]int{resultDone: 3, resultMalformed: 1})
	if diff := cmp.Diff([]string{"labelled 10.0.0.5/32 80", "labelled 10.0.0.6/32 80", "labelled 10.0.0.8/32 80"}, f.hang.seen()); diff != "" {
		t.Errorf("actions (-want +got):\n%s", diff)
	}
}

// repeated reads text n times.
func repeated(text string, n int) io.Reader {
	readers := make([]io.Reader, n)
	for i := range readers {
		readers[i] = strings.NewReader(text)
	}
	return io.MultiReader(readers...)
}

// readerFunc is a function as an io.Reader.
type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// liveHeap returns the bytes in use on the heap.
func liveHeap() uint64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}

// The memory of a notification is bounded, whatever it holds.
func TestDecodeMemory(t *testing.T) {
	kilobyte := strings.Repeat("x", 1024)
	const many = 15 << 10
	tests := []struct {
		name                  string
		before, repeat, after string
		kept                  int // bytes of labels
	}{
		{"annotation", `[{"annotations":{"a":"`, kilobyte, `"}}]`, 0},
		{"annotations", `[{"annotations":{`, `"` + kilobyte + `":"",`, `"":""}}]`, 0},
		{"label", `[{"labels":{"a":"`, kilobyte, `"}}]`, 0},
		{"needed label", `[{"labels":{"destination":"`, kilobyte, `"}}]`, 0},
		{"label name", `[{"labels":{"`, kilobyte, `":""}}]`, 0},
		{"labels", `[{"labels":{`, `"` + kilobyte + `":"",`, `"":""}}]`, 0},
		{"status", `[{"status":"`, kilobyte, `"}]`, 0},
		{"field", `[],"new":[`, `"` + kilobyte + `",`, `0]`, 0},
		{"alerts", `[`, `{"labels":{"destination":"` + strings.Repeat("x", 1000) + `"}},`, `{}]`, maxKept},
		{"empty alerts", `[`, strings.Repeat("{},", 300), `{}]`, maxKept},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			// The heap is measured at the end of the repeated part, or 3 MiB into it where the
			// notification becomes too large.
			repeats, want := many, error(nil)
			if tt.kept > 0 {
				repeats, want = many/5, errTooLarge
			}
			before, live := liveHeap(), uint64(0)
			_, err := decode(io.MultiReader(
				strings.NewReader(`{"version":"4","alerts":`+tt.before), repeated(tt.repeat, repeats),
				readerFunc(func([]byte) (int, error) { live = liveHeap(); return 0, io.EOF }),
				repeated(tt.repeat, many-repeats), strings.NewReader(tt.after+"}"),
			), among("destination"))
			if !errors.Is(err, want) {
				t.Errorf("got %v, want %v", err, want)
			}
			if most := before + uint64(3*tt.kept) + 1<<20; live > most {
				t.Errorf("%d bytes in use, want at most %d", live, most)
			}
		})
	}
}

// Parameters of Content-Type and values without case are accepted in any case.
func TestContentType(t *testing.T) {
	for value, ok := range map[string]bool{
		"application/json":                  true,
		"Application/JSON":                  true,
		"application/json; charset=UTF-8":   true,
		`application/json;CHARSET="utf-8"`:  true,
		"application/json; Charset=UtF-8 ;": true,
		"application/json; charset=utf-16":  false,
		"application/jsonp":                 false,
	} {
		err := checkType(http.Header{"Content-Type": {value}, "Content-Encoding": {"Identity"}})
		if (err == nil) != ok {
			t.Errorf("%q: %v", value, err)
		}
	}
}
