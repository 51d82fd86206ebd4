package collector

// Histogram is a histogram that a Collector can export for each destination.
type Histogram string

// The values of Histogram.
const (
	IdleHistogram        Histogram = "idle"         // tcphup_socket_idle_seconds
	AgeHistogram         Histogram = "age"          // tcphup_socket_age_seconds
	PeerSilenceHistogram Histogram = "peer_silence" // tcphup_socket_peer_silence_seconds
	SubflowIdleHistogram Histogram = "subflow_idle" // tcphup_mptcp_subflow_idle_seconds
)

// Histograms returns all values of Histogram.
func Histograms() []Histogram {
	return []Histogram{IdleHistogram, AgeHistogram, PeerSilenceHistogram, SubflowIdleHistogram}
}

// histogramOf has the Histogram of each family that is exported on request only.
var histogramOf = map[string]Histogram{
	"tcphup_socket_idle_seconds":         IdleHistogram,
	"tcphup_socket_age_seconds":          AgeHistogram,
	"tcphup_socket_peer_silence_seconds": PeerSilenceHistogram,
	"tcphup_mptcp_subflow_idle_seconds":  SubflowIdleHistogram,
}
