package collector

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"tcphup/hangup"
	"tcphup/internal/address"
	"tcphup/sockdiag"
)

// Limits of the number of flows in a response of FlowsHandler.
const (
	DefaultFlowsLimit = 100
	MaxFlowsLimit     = 10_000
)

type flowsQuery struct {
	selector sockdiag.Selector
	protocol sockdiag.Protocol
	order    int // index into flowOrders
	limit    int
	pod      hangup.PodName // empty names match every pod
}

// flowJSON is one flow of the response.
type flowJSON struct {
	// Namespace and Pod are the labels namespace and pod; empty without Config.Node.
	Namespace string `json:"namespace,omitempty"`
	Pod       string `json:"pod,omitempty"`
	hangup.FlowJSON
	// AgeSeconds is the time since the flow was first seen; nil if unknown.
	AgeSeconds *float64 `json:"age_seconds,omitempty"`
}

// flowOrders are the values of the parameter sort.
var flowOrders = [...]string{"idle", "peer_silence", "age"}

// compare orders flows by the duration of the query's order, longest first and unknown ones
// last.
func (q *flowsQuery) compare(a, b *flowJSON) int {
	seconds := func(f *flowJSON) float64 {
		if s := [len(flowOrders)]*float64{f.IdleSeconds, f.PeerSilenceSeconds, f.AgeSeconds}[q.order]; s != nil {
			return *s
		}
		return -1
	}
	return cmp.Or(cmp.Compare(seconds(b), seconds(a)), cmp.Compare(a.Cookie, b.Cookie))
}

// FlowsHandler returns a handler for GET /api/v1/flows, which serves single flows as
// JSON. The response exposes the peers of the host: restrict it to loopback or to
// authenticated clients. All parameters are optional:
//
//	destination  address or prefix of the peer; empty means all
//	port         port of the service; 0 or empty means all
//	direction    outbound (default), inbound or either
//	protocol     tcp (default; includes subflows) or mptcp (connections)
//	sort         idle (default), peer_silence or age, longest first
//	limit        maximum number of flows; default 100, at most 10,000
//	namespace    label namespace of the pod; only with Config.Node
//	pod          label pod; only with Config.Node
//
// The response is an object with the flows, the number of matching flows, and whether
// the limit truncated them. With Config.Node it counts the namespaces that were read, failed to
// be read, or had ended. Requests are served one at a time.
func (c *Collector) FlowsHandler() http.Handler {
	slot := make(chan struct{}, 1)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q, err := parseFlowsQuery(r.URL.RawQuery, c.node != nil)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), c.timeout)
		defer cancel()
		select {
		case slot <- struct{}{}:
		case <-ctx.Done():
			http.Error(w, "timed out waiting for other requests", http.StatusServiceUnavailable)
			return
		}
		response, err := c.selectFlows(ctx, q)
		<-slot // before the write: a slow client must not block other requests
		if err != nil {
			c.logger.Log(ctx, errorLevel(err), "cannot read flows", "err", err)
			http.Error(w, "cannot read flows: "+err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		if err := json.NewEncoder(w).Encode(response); err != nil {
			c.logger.Debug("cannot send flows", "err", err)
		}
	})
}

func parseFlowsQuery(raw string, node bool) (flowsQuery, error) {
	q := flowsQuery{selector: sockdiag.Selector{Destinations: sockdiag.Everywhere()}, limit: DefaultFlowsLimit}
	parameters, err := url.ParseQuery(raw)
	if err != nil {
		return q, fmt.Errorf("malformed query: %w", err)
	}
	for name, values := range parameters {
		if len(values) > 1 {
			return q, fmt.Errorf("parameter %q is repeated", name)
		}
		if values[0] == "" {
			continue // an empty form field
		}
		switch {
		case node && name == "namespace":
			q.pod.Namespace = values[0]
		case node && name == "pod":
			q.pod.Pod = values[0]
		default:
			if err := q.set(name, values[0]); err != nil {
				return q, err
			}
		}
	}
	return q, nil
}

func (q *flowsQuery) set(name, value string) (err error) {
	oneOf := func(choices ...string) (int, error) {
		if i := slices.Index(choices, value); i >= 0 {
			return i, nil
		}
		return 0, fmt.Errorf("invalid parameter %s: %q is not one of %s", name, value, strings.Join(choices, ", "))
	}
	number := func(least, most int) (int, error) {
		n, err := strconv.Atoi(value)
		if err != nil || n < least || n > most {
			return 0, fmt.Errorf("invalid parameter %s: %q is not a number from %d to %d", name, value, least, most)
		}
		return n, nil
	}
	var n int
	switch name {
	case "destination":
		p, err := address.Parse(value)
		if err != nil {
			return fmt.Errorf("invalid parameter destination: %w", err)
		}
		q.selector.Destinations = []netip.Prefix{p}
	case "port":
		if n, err = number(0, 65535); n > 0 {
			q.selector.Ports = sockdiag.Ports(uint16(n))
		}
	case "direction":
		if _, err = oneOf("outbound", "inbound", "either"); err == nil {
			q.selector.Direction, err = sockdiag.ParseDirection(value)
		}
	case "protocol":
		n, err = oneOf("tcp", "mptcp")
		q.protocol = sockdiag.Protocol(n)
	case "sort":
		q.order, err = oneOf(flowOrders[:]...)
	case "limit":
		q.limit, err = number(1, MaxFlowsLimit)
	default:
		err = fmt.Errorf("unknown parameter %q", name)
	}
	return err
}

// selectFlows returns the response to a query. It buffers up to twice the limit.
func (c *Collector) selectFlows(ctx context.Context, q flowsQuery) (found *flowsJSON, err error) {
	found = &flowsJSON{Flows: []*flowJSON{}} // not null in JSON
	now := c.now()
	add := func(f *sockdiag.Flow, direction sockdiag.Direction, of hangup.PodName) {
		found.Matched++
		found.Flows = append(found.Flows, c.flowJSON(f, direction, of, now))
		if len(found.Flows) == 2*q.limit {
			found.truncate(&q)
		}
	}
	if c.node != nil {
		found.Namespaces, err = c.node.eachFlow(ctx, &q, add)
		if n := found.Namespaces; err == nil && n.err != nil {
			c.logger.Error("cannot read flows of pods", "failed", n.Failed, "err", n.err)
		}
	} else {
		x := &reader{dial: c.dial, ephemeralPorts: c.ephemeralPorts, mptcpInUse: func() bool { return true }}
		err = x.eachFlow(ctx, &q, 0, func(f *sockdiag.Flow, d sockdiag.Direction) { add(f, d, hangup.PodName{}) })
	}
	found.truncate(&q)
	found.Truncated = found.Matched > len(found.Flows)
	return found, err
}

// eachFlow calls add for each flow of the namespace that matches the query.
func (x *reader) eachFlow(ctx context.Context, q *flowsQuery, netns uint64, add func(*sockdiag.Flow, sockdiag.Direction)) error {
	conn, err := x.dial(netns)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	table := new(sockdiag.Table)
	if err := x.readTable(ctx, conn, table); err != nil {
		return err
	}
	if x.mptcpInUse() {
		if err := table.ReadConnections(ctx, conn, sockdiag.Open); err != nil {
			return err
		}
	}
	dump := sockdiag.Query{Protocol: q.protocol, States: q.selector.StateSet(), Selector: &q.selector, Info: true}
	for f, err := range conn.Flows(ctx, dump) {
		if err != nil {
			return err
		}
		if direction := table.Direction(&f); q.selector.Match(&f, direction) {
			add(&f, direction)
		}
	}
	return nil
}

func (c *Collector) flowJSON(f *sockdiag.Flow, direction sockdiag.Direction, of hangup.PodName, now time.Time) *flowJSON {
	out := &flowJSON{Namespace: of.Namespace, Pod: of.Pod, FlowJSON: hangup.NewFlowJSON(f, direction)}
	if first, known := c.FirstSeen(f); known {
		out.AgeSeconds = hangup.SecondsJSON(max(0, now.Sub(first)), true)
	}
	return out
}

type flowsJSON struct {
	Matched   int         `json:"matched"`
	Truncated bool        `json:"truncated"`
	Flows     []*flowJSON `json:"flows"`
	// Namespaces is nil without Config.Node.
	Namespaces *flowsNamespaces `json:"namespaces,omitempty"`
}

// flowsNamespaces counts the namespaces of matching pods. The flows of those that failed may
// be missing.
type flowsNamespaces struct {
	Read   int `json:"read"`
	Failed int `json:"failed"`
	Ended  int `json:"ended"`

	err error // the first one of those that failed
}

// truncate keeps the first flows in the order of the query.
func (r *flowsJSON) truncate(q *flowsQuery) {
	slices.SortFunc(r.Flows, q.compare)
	r.Flows = r.Flows[:min(len(r.Flows), q.limit)]
}
