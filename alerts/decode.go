package alerts

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
	"unicode/utf8"

	"tcphup/internal/text"
)

const (
	// maxBody is more than a thousand alerts take.
	maxBody = 1 << 20
	// maxDepth is far more than the four levels of a notification, so that fields
	// which are still to be invented have room.
	maxDepth = 32
	// payloadVersion is the one that Alertmanager has sent since 0.6.
	payloadVersion = "4"
)

// notification is what Alertmanager posts, as far as it decides anything here.
// Annotations and group labels are left out on purpose.
type notification struct {
	externalURL string
	groupKey    string
	truncated   uint64 // alerts that Alertmanager left out (max_alerts)
	alerts      []alert
}

type alert struct {
	status      string
	labels      map[string]string
	startsAt    time.Time
	fingerprint string
}

// decode reads a notification. Unknown fields are ignored, for newer versions of
// Alertmanager add some under the same version; everything that could be read in
// two ways is an error: invalid UTF-8, a key that appears twice, a second value.
func decode(body []byte) (*notification, error) {
	if err := checkJSON(body); err != nil {
		return nil, err
	}
	top, err := decodeObject(body)
	if err != nil {
		return nil, err
	}
	var version string
	n := new(notification)
	var list []json.RawMessage
	if err := errors.Join(
		top.read("version", &version),
		top.read("externalURL", &n.externalURL),
		top.read("groupKey", &n.groupKey),
		top.read("truncatedAlerts", &n.truncated),
		top.read("alerts", &list),
	); err != nil {
		return nil, err
	}
	if version != payloadVersion {
		return nil, fmt.Errorf("version is %s, want %q", text.Quote(version), payloadVersion)
	}
	if list == nil {
		return nil, errors.New("alerts is missing")
	}
	n.alerts = make([]alert, len(list))
	for i, raw := range list {
		if err := n.alerts[i].decode(raw); err != nil {
			return nil, fmt.Errorf("alert %d: %w", i, err)
		}
	}
	return n, nil
}

func (a *alert) decode(raw []byte) error {
	fields, err := decodeObject(raw)
	if err != nil {
		return err
	}
	return errors.Join(
		fields.read("status", &a.status),
		fields.read("labels", &a.labels),
		fields.read("startsAt", &a.startsAt),
		fields.read("fingerprint", &a.fingerprint),
	)
}

// object is a JSON object whose keys are compared exactly: encoding/json would
// take "Status" for "status".
type object map[string]json.RawMessage

func decodeObject(raw []byte) (object, error) {
	var o object
	if err := json.Unmarshal(raw, &o); err != nil {
		return nil, plain(err)
	}
	if o == nil {
		return nil, errors.New("is null, want an object")
	}
	return o, nil
}

// read decodes the field into the value that is pointed to, and leaves that alone
// when the field is absent.
func (o object) read(field string, to any) error {
	raw, ok := o[field]
	if !ok {
		return nil
	}
	if err := json.Unmarshal(raw, to); err != nil {
		return fmt.Errorf("%s: %w", field, plain(err))
	}
	return nil
}

// plain makes an error of encoding/json say what the sender did, without names of
// Go types and without quoting the input.
func plain(err error) error {
	var wrong *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &wrong):
		return fmt.Errorf("is of the wrong type: %s", wrong.Value)
	case errors.As(err, &syntax):
		return fmt.Errorf("not JSON at byte %d", syntax.Offset)
	default:
		return errors.New("cannot be read")
	}
}

// checkJSON refuses what is ambiguous or too deep. Whether the rest is JSON is for
// the decoder to say.
func checkJSON(body []byte) error {
	if !utf8.Valid(body) {
		return errors.New("not valid UTF-8")
	}
	type level struct {
		keys    map[string]struct{} // nil in an array
		wantKey bool
	}
	var stack []level
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	for {
		token, err := dec.Token()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return plain(err)
		}
		var top *level
		if len(stack) > 0 {
			top = &stack[len(stack)-1]
		}
		delim, isDelim := token.(json.Delim)
		if isDelim && (delim == '}' || delim == ']') {
			stack = stack[:len(stack)-1]
			continue
		}
		if top != nil && top.keys != nil {
			if top.wantKey {
				key, _ := token.(string)
				if _, twice := top.keys[key]; twice {
					return fmt.Errorf("the key %s appears twice", text.Quote(key))
				}
				top.keys[key] = struct{}{}
			}
			top.wantKey = !top.wantKey
		}
		if isDelim {
			if len(stack) == maxDepth {
				return fmt.Errorf("nested deeper than %d levels", maxDepth)
			}
			next := level{}
			if delim == '{' {
				next = level{keys: make(map[string]struct{}), wantKey: true}
			}
			stack = append(stack, next)
		}
	}
}
