package actuator

import (
	"time"

	"tcphup/hangup"
)

// begin reports the start of an activity for a number of flows.
func (x *action) begin(activity hangup.Activity, total int, until time.Time) {
	x.progress = hangup.Progress{Activity: activity, Total: total, Until: until}
	x.proceed(0)
}

// proceed reports how many flows are finished with the activity.
func (x *action) proceed(done int) {
	x.progress.Done = done
	if x.Progress != nil {
		x.Progress(x.progress)
	}
}
