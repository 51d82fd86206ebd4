package text

import (
	"fmt"
	"strconv"
	"time"
)

// Duration formats d with at most two units, rounded down: 0.4s, 41s, 12m3s, 5h, 3d4h.
func Duration(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d < 10*time.Second:
		return strconv.FormatFloat(d.Truncate(100*time.Millisecond).Seconds(), 'f', -1, 64) + "s"
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return twoUnits(d, time.Minute, "m", time.Second, "s")
	case d < day:
		return twoUnits(d, time.Hour, "h", time.Minute, "m")
	default:
		return twoUnits(d, day, "d", time.Hour, "h")
	}
}

// twoUnits omits the smaller unit if it is 0.
func twoUnits(d, large time.Duration, largeName string, small time.Duration, smallName string) string {
	whole := fmt.Sprintf("%d%s", d/large, largeName)
	if rest := d % large / small; rest > 0 {
		return fmt.Sprintf("%s%d%s", whole, rest, smallName)
	}
	return whole
}
