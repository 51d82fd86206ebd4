package alerts

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"tcphup/hangup"
	"tcphup/internal/text"
)

// The labels of an alert that name pods, in node mode.
const (
	namespaceLabel = "namespace"
	podLabel       = "pod"
)

// exportedPodLabels are like exportedLabels, in node mode.
var exportedPodLabels = []string{"exported_namespace", "exported_pod"}

var (
	namespaceForm = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	podForm       = regexp.MustCompile(`^[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?$`)
)

// CheckNamespace returns an error for text that cannot be the name of a Kubernetes namespace.
func CheckNamespace(name string) error {
	if !namespaceForm.MatchString(name) {
		return fmt.Errorf("%q is not the name of a Kubernetes namespace: write exact names, of up to 63 lower-case letters, digits and -", name)
	}
	return nil
}

// podsOf returns the namespace and the pod that an alert names, or a refusal. An empty pod
// means every pod of the namespace.
func (p *Policy) podsOf(alert map[string]string) (namespace, pod string, r *refusal) {
	if r := p.checkReplaced(alert, exportedPodLabels); r != nil {
		return "", "", r
	}
	namespace, pod = alert[namespaceLabel], alert[podLabel]
	switch {
	case namespace == "":
		r = refuse(resultNoNamespace, "label %s is missing", namespaceLabel)
	case namespace == hangup.UnknownNamespace:
		r = refuse(resultNotAllowed, "namespace %s has the pods without a known name, which are left alone", namespace)
	case !slices.Contains(p.Namespaces, namespace):
		r = refuse(resultNotAllowed, "namespace %s is not allowed by the policy", text.Quote(namespace))
	case pod != "" && !podForm.MatchString(pod):
		r = refuse(resultMalformed, "label %s: %s is not the name of a pod", podLabel, text.Quote(pod))
	}
	return namespace, pod, r
}

// targetOf returns the target of Policy.target, in node mode with the pods of the alert.
func (r *Receiver) targetOf(j *job, rules *Rules) (*target, *refusal) {
	var namespace, pod string
	if r.config.Pods != nil {
		var refusal *refusal
		if namespace, pod, refusal = j.policy.podsOf(j.alert.labels); refusal != nil {
			return nil, refusal
		}
	}
	t, refusal := j.policy.target(j.alert.labels, rules.Services, r.config.Names)
	if t != nil {
		t.namespace, t.pod = namespace, pod
	}
	return t, refusal
}

// pods are the pods of a target on this node, at the time of an action.
type pods struct {
	namespaces []hangup.Namespace // those that the action applies to
	// younger counts the pods that had not started startMargin before the alert, and ageless
	// those whose start is unknown: both are left out.
	younger, ageless int
	// unnamed counts the pods of this node without a known name.
	unnamed int
	// own is 1 if the pod of tcphup itself is left out: the actuator refuses to act in it.
	own int
}

// startMargin is how long before the alert a pod must have started: start times have a
// resolution of 10 ms, and the clocks of hosts differ.
const startMargin = time.Second

// selectPods returns the pods that one of the targets includes and that had started
// startMargin before the alert.
func selectPods(all []hangup.Namespace, startsAt time.Time, targets ...*target) pods {
	var p pods
	for _, in := range all {
		if in.Pod == nil {
			continue // not the namespace of a pod
		}
		name := in.Pod.Labels()
		switch started := in.Pod.Started; {
		case name.Namespace == hangup.UnknownNamespace:
			p.unnamed++
		case !slices.ContainsFunc(targets, func(t *target) bool { return t.includesPod(name) }):
		case started.IsZero():
			p.ageless++
		case started.After(startsAt.Add(-startMargin)):
			p.younger++
		case in.Pod.Own:
			p.own++
		default:
			in.Name = name.String()
			p.namespaces = append(p.namespaces, in)
		}
	}
	return p
}

// mayBeUnnamed reports whether a pod without a known name may be one that the target includes.
func (p *pods) mayBeUnnamed(t *target) bool {
	return p.unnamed > 0 && (t.pod == "" || len(p.namespaces)+p.younger+p.ageless+p.own == 0)
}

func (t *target) includesPod(p hangup.PodName) bool {
	return p.Namespace == t.namespace && (t.pod == "" || p.Pod == t.pod)
}

// includesNamed is includesPod for a name NAMESPACE/POD. Without node mode it is true.
func (t *target) includesNamed(name string) bool {
	namespace, pod, _ := strings.Cut(name, "/")
	return t.namespace == "" || t.includesPod(hangup.PodName{Namespace: namespace, Pod: pod})
}

// summary counts the pods of a target as text.
func (p *pods) summary(failures []hangup.NamespaceError) string {
	var ended, failed int
	for _, f := range failures {
		if errors.Is(f.Err, os.ErrNotExist) {
			ended++
		} else {
			failed++
		}
	}
	s := text.Plural(len(p.namespaces), "pod")
	for _, count := range []struct {
		n    int
		what string
	}{
		{ended, "ended before"}, {failed, "could not be read"}, {p.younger, "younger than the alert left out"},
		{p.ageless, "of unknown age left out"}, {p.own, "of tcphup itself left out"}, {p.unnamed, "of this node without a known name left out"},
	} {
		if count.n > 0 {
			s += fmt.Sprintf(", %d %s", count.n, count.what)
		}
	}
	return s
}

// findPods sets the pods of the job. Without one it decides the result and returns false.
func (r *Receiver) findPods(ctx context.Context, j *job) bool {
	all, err := r.config.Pods()
	if err != nil {
		j.classify(ctx, fmt.Errorf("find pods: %w", err))
		return false
	}
	// If startsAt is in the future by clock skew, the limit is now.
	j.pods = selectPods(all, earlier(j.alert.startsAt, r.config.Now()), j.target)
	if len(j.pods.namespaces) > 0 {
		return true
	}
	what := "no pod of that name on this node"
	if j.pods.younger+j.pods.ageless > 0 {
		what = "no pod of that name is known to be older than the alert"
	}
	result := resultDone
	switch {
	case j.pods.own > 0:
		result, what = resultRefused, "the pod is that of tcphup itself, in which no alert acts"
	case j.keeps():
		result = resultKept
	}
	j.decide(result, "%s; %s", what, j.pods.summary(nil))
	return false
}

// firstUnread returns the first error of a namespace that has not ended, or nil.
func firstUnread(failures []hangup.NamespaceError) error {
	for _, f := range failures {
		if !errors.Is(f.Err, os.ErrNotExist) {
			return fmt.Errorf("read pod %s: %w", f.Name, f.Err)
		}
	}
	return nil
}

// errNoPod means that a request of node mode has a network namespace that is not of a pod.
var errNoPod = errors.New("check request: node mode acts in the network namespaces of pods alone")

// hangUp calls HangUp of the HangUpper. A request without namespaces would apply to the
// network namespace of this process, which may be that of the node.
func (r *Receiver) hangUp(ctx context.Context, request hangup.Request) (*hangup.Report, error) {
	notOfPod := func(in hangup.Namespace) bool { return in.Pod == nil || in.Do == nil }
	if r.config.Pods != nil && (len(request.Namespaces) == 0 || slices.ContainsFunc(request.Namespaces, notOfPod)) {
		return nil, fmt.Errorf("%w: %w", errNoPod, errors.ErrUnsupported)
	}
	return r.hang.HangUp(ctx, request)
}
