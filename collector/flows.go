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
}

// flowJSON is one flow of the response.
type flowJSON struct {
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
//
// The response is an object with the flows, the number of matching flows, and whether
// the limit truncated them. Requests are served one at a time.
func (c *Collector) FlowsHandler() http.Handler {
	slot := make(chan struct{}, 1)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q, err := parseFlowsQuery(r.URL.RawQuery)
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
		flows, matched, err := c.selectFlows(ctx, q)
		<-slot // before the write: a slow client must not block other requests
		if err != nil {
			c.logger.Log(ctx, errorLevel(err), "cannot read flows", "err", err)
			http.Error(w, "cannot read flows: "+err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		response := flowsJSON{Matched: matched, Truncated: matched > len(flows), Flows: flows}
		if err := json.NewEncoder(w).Encode(response); err != nil {
			c.logger.Debug("cannot send flows", "err", err)
		}
	})
}

func parseFlowsQuery(raw string) (flowsQuery, error) {
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
		if err := q.set(name, values[0]); err != nil {
			return q, err
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

// selectFlows returns the first matching flows in the order of the query, and the number
// of all matching flows. It buffers up to twice the limit.
func (c *Collector) selectFlows(ctx context.Context, q flowsQuery) (flows []*flowJSON, matched int, err error) {
	conn, err := c.dial()
	if err != nil {
		return nil, 0, err
	}
	defer func() { _ = conn.Close() }()
	table := new(sockdiag.Table)
	if err := c.readTable(ctx, conn, table); err != nil {
		return nil, 0, err
	}
	if err := table.ReadConnections(ctx, conn, sockdiag.Open); err != nil {
		return nil, 0, err
	}
	now := c.now()
	flows = []*flowJSON{} // not null in JSON
	truncate := func() {
		slices.SortFunc(flows, q.compare)
		flows = flows[:min(len(flows), q.limit)]
	}
	dump := sockdiag.Query{Protocol: q.protocol, States: q.selector.StateSet(), Selector: &q.selector, Info: true}
	for f, err := range conn.Flows(ctx, dump) {
		if err != nil {
			return nil, 0, err
		}
		direction := table.Direction(&f)
		if !q.selector.Match(&f, direction) {
			continue
		}
		matched++
		flows = append(flows, c.flowJSON(&f, direction, now))
		if len(flows) == 2*q.limit {
			truncate()
		}
	}
	truncate()
	return flows, matched, nil
}

func (c *Collector) flowJSON(f *sockdiag.Flow, direction sockdiag.Direction, now time.Time) *flowJSON {
	out := &flowJSON{FlowJSON: hangup.NewFlowJSON(f, direction)}
	if first, known := c.FirstSeen(f); known {
		out.AgeSeconds = hangup.SecondsJSON(max(0, now.Sub(first)), true)
	}
	return out
}

type flowsJSON struct {
	Matched   int         `json:"matched"`
	Truncated bool        `json:"truncated"`
	Flows     []*flowJSON `json:"flows"`
}
