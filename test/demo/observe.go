package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// pollInterval is the interval of all polls and thus the resolution of printed times.
const pollInterval = 50 * time.Millisecond

// progressInterval is the interval of progress lines while no event occurs.
const progressInterval = 10 * time.Second

// get returns the body of a response; any status but 200 is an error.
func get(ctx context.Context, url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("get %s: %s", url, response.Status)
	}
	return io.ReadAll(response.Body)
}

// getJSON returns a page that is JSON.
func getJSON[T any](ctx context.Context, url string) (page T, err error) {
	body, err := get(ctx, url)
	if err != nil {
		return page, err
	}
	return page, json.Unmarshal(body, &page)
}

// sample returns the value of the first series in /metrics with this prefix; 0 when there
// is none.
func sample(ctx context.Context, address, series string) float64 {
	page, err := get(ctx, "http://"+address+"/metrics")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(page)) {
		if strings.HasPrefix(line, series) {
			value := line[strings.LastIndex(line, " ")+1:]
			n, _ := strconv.ParseFloat(strings.TrimSpace(value), 64)
			return n
		}
	}
	return 0
}

// resolvesTo reports whether the DNS resolves the service name to the site's address.
func resolvesTo(ctx context.Context, s *site) bool {
	resolver := net.Resolver{PreferGo: true}
	addresses, err := resolver.LookupHost(ctx, serviceName)
	return err == nil && slices.Equal(addresses, []string{s.address})
}

// hasResult reports whether a PromQL query has a result.
func hasResult(ctx context.Context, query string) bool {
	page, err := getJSON[struct{ Data struct{ Result []any } }](ctx, "http://"+prometheusAddress+"/api/v1/query?query="+url.QueryEscape(query))
	return err == nil && len(page.Data.Result) > 0
}

// hasAlertmanager reports whether Prometheus has an active Alertmanager.
func hasAlertmanager(ctx context.Context) bool {
	page, err := getJSON[struct {
		Data struct{ ActiveAlertmanagers []any }
	}](ctx, "http://"+prometheusAddress+"/api/v1/alertmanagers")
	return err == nil && len(page.Data.ActiveAlertmanagers) > 0
}

// alertState returns the state of the alert in Prometheus: inactive, pending or firing.
func alertState(ctx context.Context) (string, error) {
	page, err := getJSON[struct {
		Data struct {
			Alerts []struct {
				Labels map[string]string
				State  string
			}
		}
	}](ctx, "http://"+prometheusAddress+"/api/v1/alerts")
	if err != nil {
		return "", err
	}
	for _, a := range page.Data.Alerts {
		if a.Labels["alertname"] == alertName {
			return a.State, nil
		}
	}
	return "inactive", nil
}

// alertReceivers returns the receivers of the alert in Alertmanager.
func alertReceivers(ctx context.Context) ([]string, error) {
	alerts, err := getJSON[[]struct {
		Labels    map[string]string
		Receivers []struct{ Name string }
	}](ctx, "http://"+alertmanagerAddress+"/api/v2/alerts")
	var names []string
	for _, a := range alerts {
		if a.Labels["alertname"] == alertName {
			for _, r := range a.Receivers {
				names = append(names, r.Name)
			}
		}
	}
	return names, err
}

// flow is a hung-up flow in tcphup's audit records.
type flow struct {
	PID                      int
	Command, Method, Outcome string
}

// hungUp returns the flows that tcphup has hung up for an alert.
func hungUp(ctx context.Context) ([]flow, error) {
	page, err := getJSON[struct {
		Records []struct {
			Flow *flow // nil in the record of an alert
		}
	}](ctx, "http://"+tcphupAddress+"/api/v1/hangups")
	var flows []flow
	for _, r := range page.Records {
		if r.Flow != nil && slices.Contains([]string{"closed", "half_closed", "gone"}, r.Flow.Outcome) {
			flows = append(flows, *r.Flow)
		}
	}
	return flows, err
}
