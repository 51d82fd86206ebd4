package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
)

// TestPicture checks that docs/benchmarks.svg is well-formed and matches docs/benchmarks.csv.
func TestPicture(t *testing.T) {
	figures, err := os.ReadFile("../../docs/benchmarks.csv")
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("../../docs/benchmarks.svg")
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if err := run(bytes.NewReader(figures), &got); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Error("docs/benchmarks.svg differs from the plot of docs/benchmarks.csv")
	}
	var texts strings.Builder
	for d := xml.NewDecoder(&got); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if text, ok := token.(xml.CharData); ok {
			texts.Write(text)
		}
	}
	for _, text := range []string{"Time to read all sockets, ms", "Memory, MB", "tcphup's scrape", "floor", "ss -tain", "1k", "200k", "prefers-color-scheme:dark"} {
		if !strings.Contains(texts.String(), text) {
			t.Errorf("picture without %q", text)
		}
	}
}

func TestBadSeries(t *testing.T) {
	const head = "reader,sockets,milliseconds,megabytes\n"
	for name, table := range map[string]string{
		"empty":            "",
		"nothing measured": head,
		"missing column":   head + "floor,1000,2\n",
		"not a number":     head + "floor,1000,2,–\n",
		"zero":             head + "floor,1000,0,8\n",
	} {
		t.Run(name, func(t *testing.T) {
			if err := run(strings.NewReader(table), io.Discard); err == nil {
				t.Error("no error")
			}
		})
	}
}
