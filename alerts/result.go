package alerts

// The results of one alert, the closed set of the label result of
// tcphup_alerts_total.
const (
	resultDone           = "done"            // the state holds
	resultShadow         = "shadow"          // planned and reported, nothing closed
	resultResolved       = "resolved"        // the alert does not fire any more
	resultUnmatched      = "unmatched"       // no policy is for it
	resultMalformed      = "malformed"       // its status or startsAt is missing or unknown
	resultNoDestination  = "no_destination"  // it names none
	resultBadDestination = "bad_destination" // it names something else
	resultBadPort        = "bad_port"        // its port is not a port
	resultNotAllowed     = "not_allowed"     // its policy does not allow that
	resultDenied         = "denied"          // the never list holds all of it
	resultTooOld         = "too_old"         // firing for longer than max_alert_age
	resultFuture         = "future"          // startsAt is in the future
	resultCooldown       = "cooldown"        // its destination was hung up just now
	resultBreakerOpen    = "breaker_open"    // its policy has acted too often
	resultOverBudget     = "over_budget"     // too many flows: nothing was closed
	resultRefused        = "refused"         // a guard refused some of the flows
	resultFailed         = "failed"          // the kernel refused, and will again
	resultError          = "error"           // could not be tried; worth another try
	resultUnfinished     = "unfinished"      // time ran out
	resultPaused         = "paused"          // the pause switch is on
)

var allResults = []string{
	resultDone, resultShadow, resultResolved, resultUnmatched, resultMalformed, resultNoDestination,
	resultBadDestination, resultBadPort, resultNotAllowed, resultDenied, resultTooOld, resultFuture,
	resultCooldown, resultBreakerOpen, resultOverBudget, resultRefused, resultFailed, resultError,
	resultUnfinished, resultPaused,
}

// again reports whether the sender should send the notification again soon.
func again(result string) bool {
	return result == resultError || result == resultUnfinished || result == resultPaused
}
