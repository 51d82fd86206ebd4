package actuator

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// kernelAtLeast6 reports whether the running kernel is Linux 6.minor or later.
func kernelAtLeast6(minor int) bool {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return false
	}
	return releaseAtLeast6(unix.ByteSliceToString(name.Release[:]), minor)
}

// releaseAtLeast6 reports whether a kernel release such as "6.1.0-18-amd64" is 6.minor or
// later. It returns false for other text.
func releaseAtLeast6(release string, minor int) bool {
	var a, b int
	if n, err := fmt.Sscanf(release, "%d.%d", &a, &b); n < 2 || err != nil {
		return false
	}
	return a > 6 || a == 6 && b >= minor
}
