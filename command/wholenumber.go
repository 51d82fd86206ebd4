package command

import (
	"fmt"
	"strconv"
)

// wholeNumber is a flag with limits. kingpin's own takes 0.9 for 0, which of many flags
// means no limit at all.
type wholeNumber struct {
	into        *int
	least, most int
}

// String implements flag.Value.
func (n wholeNumber) String() string { return strconv.Itoa(*n.into) }

// Set implements flag.Value.
func (n wholeNumber) Set(text string) error {
	number, err := strconv.Atoi(text)
	if err != nil || number < n.least || number > n.most {
		return fmt.Errorf("%q is not a whole number from %d to %d", text, n.least, n.most)
	}
	*n.into = number
	return nil
}
