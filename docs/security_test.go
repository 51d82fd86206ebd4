package docs

import (
	"os"
	"strings"
	"testing"
)

// Every attempt that the security review lists has a test beside it.
func TestSecurityReviewShowsTests(t *testing.T) {
	review, err := os.ReadFile("security.md")
	if err != nil {
		t.Fatal(err)
	}
	attempts := 0
	for line := range strings.Lines(string(review)) {
		if strings.Count(line, "|") != 5 || strings.HasPrefix(line, "| who |") || strings.HasPrefix(line, "| ---") {
			continue
		}
		attempts++
		if cells := strings.Split(line, "|"); !strings.Contains(cells[4], "`Test") {
			t.Errorf("no test shows %s", line)
		}
	}
	if attempts < 40 {
		t.Errorf("%d attempts", attempts)
	}
}
