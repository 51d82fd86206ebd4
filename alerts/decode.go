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
	// maxBody limits the request body, in bytes; a thousand alerts need less.
	maxBody = 1 << 20
	// maxDepth limits JSON nesting; notifications have four levels, new fields may have
	// more.
	maxDepth = 32
	// payloadVersion is the webhook payload version of Alertmanager 0.6 and later.
	payloadVersion = "4"
)

// notification has the fields of Alertmanager's webhook payload that select an action.
// Annotations and group labels are ignored by design.
type notification struct {
	externalURL string
	groupKey    string
	truncated   uint64 // alerts omitted because of max_alerts
	alerts      []alert
}

type alert struct {
	status      string
	labels      map[string]string
	startsAt    time.Time
	fingerprint string
}

// decode parses a notification. Unknown fields are ignored: newer Alertmanagers add fields
// under the same version. Ambiguous input is an error: invalid UTF-8, duplicate keys, more
// than one value.
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
		return nil, fmt.Errorf("version %s, want %q", text.Quote(version), payloadVersion)
	}
	if list == nil {
		return nil, errors.New("alerts missing")
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

// object is a JSON object with case-sensitive keys: encoding/json matches "Status" to
// "status".
type object map[string]json.RawMessage

func decodeObject(raw []byte) (object, error) {
	var o object
	if err := json.Unmarshal(raw, &o); err != nil {
		return nil, plain(err)
	}
	if o == nil {
		return nil, errors.New("null, want an object")
	}
	return o, nil
}

// read decodes a field into the value that to points to; an absent field leaves it
// unchanged.
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

// plain converts an error of encoding/json to one without Go type names and without quoted
// input.
func plain(err error) error {
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fmt.Errorf("wrong type: %s", wrong.Value)
	}
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("not JSON at byte %d", syntax.Offset)
	}
	return errors.New("invalid value")
}

// checkJSON rejects invalid UTF-8, duplicate keys and deep nesting. It does not validate
// the rest, which the decoder does.
func checkJSON(body []byte) error {
	if !utf8.Valid(body) {
		return errors.New("not valid UTF-8")
	}
	type level struct {
		keys    map[string]struct{} // nil in an array
		wantKey bool
	}
	stack := []level{{}} // around the top-level value
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
		top := &stack[len(stack)-1]
		delim, isDelim := token.(json.Delim)
		if isDelim && (delim == '}' || delim == ']') {
			stack = stack[:len(stack)-1]
			continue
		}
		if top.keys != nil {
			if top.wantKey {
				key, _ := token.(string)
				if _, ok := top.keys[key]; ok {
					return fmt.Errorf("duplicate key %s", text.Quote(key))
				}
				top.keys[key] = struct{}{}
			}
			top.wantKey = !top.wantKey
		}
		if isDelim {
			if len(stack) > maxDepth {
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
