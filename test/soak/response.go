package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// responses are the response times of tcphup to alerts.
type responses struct {
	took    []time.Duration
	slowest time.Duration
	waited  time.Duration // during the slowest: how long threads of tcphup waited for a processor
}

func (r *responses) add(took, waited time.Duration) {
	r.took = append(r.took, took)
	if took > r.slowest {
		r.slowest, r.waited = took, waited
	}
}

func (r *responses) String() string {
	if len(r.took) == 0 {
		return "none"
	}
	sorted := slices.Sorted(slices.Values(r.took))
	return fmt.Sprintf("median %.3f s, slowest %.3f s; during the slowest, threads of tcphup waited for a processor for %.3f s",
		sorted[len(sorted)/2].Seconds(), r.slowest.Seconds(), r.waited.Seconds())
}

// waitedForProcessor returns how long the threads of a process were ready to run without
// running, from /proc/PID/task/TID/schedstat. It is 0 on a kernel without CONFIG_SCHED_INFO.
func waitedForProcessor(pid int) (sum time.Duration) {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	for _, file := range files {
		text, err := os.ReadFile(file)
		if fields := strings.Fields(string(text)); err == nil && len(fields) == 3 {
			n, _ := strconv.ParseInt(fields[1], 10, 64)
			sum += time.Duration(n)
		}
	}
	return sum
}
