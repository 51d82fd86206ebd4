package alerts

// The results of an alert: the values of the label result of tcphup_alerts_total.
const (
	resultDone           = "done"            // no open flow meets the evidence
	resultKept           = "kept"            // no flow closed and some spared, or an age or the name of a pod is unknown, or an address is shared
	resultShadow         = "shadow"          // planned and reported, no flow closed
	resultResolved       = "resolved"        // the alert is resolved
	resultUnmatched      = "unmatched"       // no policy matched
	resultMalformed      = "malformed"       // status or startsAt is invalid, or a label is too long or replaced by the scrape
	resultNoNamespace    = "no_namespace"    // no namespace label, in node mode
	resultNoDestination  = "no_destination"  // no destination label
	resultBadDestination = "bad_destination" // invalid destination label
	resultBadPort        = "bad_port"        // invalid port label
	resultNotAllowed     = "not_allowed"     // destination, port, namespace or token not allowed by the policy
	resultDenied         = "denied"          // the whole destination is on the never list
	resultTooOld         = "too_old"         // firing for longer than max_alert_age
	resultFuture         = "future"          // startsAt is in the future
	resultCooldown       = "cooldown"        // an earlier action on the destination is too recent
	resultBreakerOpen    = "breaker_open"    // a circuit breaker is open
	resultOverBudget     = "over_budget"     // more flows than the budget: none closed
	resultRefused        = "refused"         // a safety check refused some flows, or the pod is that of tcphup
	resultFailed         = "failed"          // a system call failed; a retry is useless
	resultError          = "error"           // not attempted; a retry may succeed
	resultUnfinished     = "unfinished"      // time, descriptors or memory ran out
	resultPaused         = "paused"          // alert actions are paused
)

var allResults = []string{
	resultDone, resultKept, resultShadow, resultResolved, resultUnmatched, resultMalformed, resultNoNamespace, resultNoDestination,
	resultBadDestination, resultBadPort, resultNotAllowed, resultDenied, resultTooOld, resultFuture,
	resultCooldown, resultBreakerOpen, resultOverBudget, resultRefused, resultFailed, resultError,
	resultUnfinished, resultPaused,
}

// retryable reports whether the response is 503, on which Alertmanager retries.
func retryable(result string) bool {
	return result == resultError || result == resultUnfinished || result == resultPaused
}
