package sockdiag

import (
	"fmt"
	"regexp"
	"strconv"
	"testing"
)

// FuzzPortRange parses the kernel's form of any two ports, and rejects any other text.
func FuzzPortRange(f *testing.F) {
	for _, text := range []string{"32768\t60999\n", "", "1024", "1024 70000", "0x400 2000", "-1 5", "1 2 3", "5,6"} {
		f.Add(uint16(32768), uint16(60999), text)
	}
	const space = `[\s\v\x{85}\pZ]`
	twoNumbers := regexp.MustCompile("^" + space + `*0*(\d+)` + space + `+0*(\d+)` + space + "*$")
	f.Fuzz(func(t *testing.T, first, last uint16, text string) {
		want := PortRange{First: first, Last: last}
		if got, err := parsePortRange(fmt.Sprintf("%d\t%d\n", first, last)); got != want || err != nil {
			t.Errorf("got %v, %v; want %v", got, err, want)
		}
		got, err := parsePortRange(text)
		if err != nil {
			return
		}
		m := twoNumbers.FindStringSubmatch(text)
		if m == nil || m[1] != strconv.Itoa(int(got.First)) || m[2] != strconv.Itoa(int(got.Last)) {
			t.Errorf("%q parsed as %v", text, got)
		}
	})
}
