package alerts

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"tcphup/internal/text"
)

const (
	// maxBody limits the request body of an authorized sender, in bytes: its annotations
	// are skipped, so their size costs time and no memory.
	maxBody = 16 << 20
	// maxLabel limits the value of a label that the rules name, in bytes. A longer one makes
	// its alert malformed.
	maxLabel = 2048
	// maxKept limits the memory of a notification, in bytes; alertCost is the part of an
	// alert without its labels. More than 10,000 alerts have room.
	maxKept   = 4 << 20
	alertCost = 256
)

// payloadVersions are the webhook payload versions of Alertmanager 0.6 and later, and of
// Grafana's webhook contact point, which adds fields.
var payloadVersions = []string{"4", "1"}

// errTooLarge means that a notification exceeds maxKept.
var errTooLarge = errors.New("too many alerts")

// notification has the fields of the webhook payload that select an action. Annotations
// and group labels are ignored by design.
type notification struct {
	from        sender
	externalURL string
	truncated   uint64 // alerts omitted because of max_alerts
	alerts      []alert
}

type alert struct {
	status      string
	labels      map[string]string // those that the rules name
	startsAt    time.Time
	fingerprint string
	longLabel   string // name of a label whose value exceeds maxLabel; empty if none does
}

// decode reads a notification as a stream. It keeps the labels that needed reports and skips
// unknown fields: senders add fields under the same version. Ambiguous input is an error:
// invalid UTF-8, duplicate keys, more than one value. An error matches errRead if the
// body could not be read, and errTooLarge if the notification exceeds maxKept.
func decode(body io.Reader, needed func(label string) bool) (*notification, error) {
	d := decoder{jsonReader: newJSONReader(body), needed: needed}
	n := new(notification)
	var version string
	err := d.object(among("version", "externalURL", "truncatedAlerts", "alerts"), func(key string) (err error) {
		switch key {
		case "version":
			version, err = d.text(maxKey)
		case "externalURL":
			n.externalURL, err = d.text(clipLimit)
		case "truncatedAlerts":
			n.truncated, err = d.count()
		default:
			n.alerts, err = d.alerts()
		}
		return inField(key, err)
	})
	if err == nil {
		err = d.end()
	}
	switch {
	case err != nil:
		return nil, err
	case !slices.Contains(payloadVersions, version):
		return nil, fmt.Errorf("version %s, want one of %q", text.Quote(version), payloadVersions)
	case n.alerts == nil:
		return nil, errors.New("alerts missing")
	}
	return n, nil
}

// decoder decodes the parts of a notification.
type decoder struct {
	*jsonReader
	needed func(label string) bool
	kept   int // bytes
}

func (d *decoder) alerts() ([]alert, error) {
	list := []alert{}
	err := d.array(func() error {
		a, err := d.alert()
		if err != nil {
			return fmt.Errorf("alert %d: %w", len(list), err)
		}
		list = append(list, a)
		return nil
	})
	return list, err
}

func (d *decoder) alert() (a alert, err error) {
	if err := d.keep(alertCost); err != nil {
		return a, err
	}
	return a, d.object(among("status", "labels", "startsAt", "fingerprint"), func(key string) (err error) {
		switch key {
		case "status":
			a.status, err = d.text(maxScalar)
		case "labels":
			err = d.labels(&a)
		case "startsAt":
			var at string
			if at, err = d.text(maxScalar); err == nil && a.startsAt.UnmarshalText([]byte(at)) != nil {
				err = errors.New("invalid time")
			}
		default:
			a.fingerprint, err = d.text(clipLimit)
		}
		return inField(key, err)
	})
}

func (d *decoder) labels(a *alert) error {
	a.labels = make(map[string]string)
	return d.object(d.needed, func(name string) error {
		value, err := d.text(maxLabel)
		if err != nil {
			return inField(text.Quote(name), err)
		}
		if len(value) > maxLabel {
			a.longLabel, value = name, ""
		}
		a.labels[name] = value
		return d.keep(len(name) + len(value))
	})
}

// count reads a number of at least 0.
func (d *decoder) count() (uint64, error) {
	raw, err := d.scalar()
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(string(raw), 10, 64)
	if err != nil {
		return 0, errors.New("want a number of at least 0")
	}
	return n, nil
}

// keep adds to the memory of the notification.
func (d *decoder) keep(size int) error {
	if d.kept += size; d.kept > maxKept {
		return errTooLarge
	}
	return nil
}

// inField adds the name of the field to an error.
func inField(name string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func among(keys ...string) func(string) bool {
	return func(key string) bool { return slices.Contains(keys, key) }
}
