package alerts

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"tcphup/internal/safefile"
)

const (
	// maxTokenFile limits the size of a token file, in bytes.
	maxTokenFile = 64 << 10
	// minToken is the minimum length of a token in bytes, against guessing.
	minToken = 16
)

// errUnauthorized means that the request has no valid token.
var errUnauthorized = errors.New("valid bearer token required")

// tokenFile is the path of a file with one token per line; empty lines and lines that
// start with # are skipped. The file is read for every request: token rotation needs no
// restart, and a removed token is rejected at once.
type tokenFile string

// sender identifies the sender of a request by its token.
type sender struct {
	files   []string // the token files that have the token
	without []string // those that do not have it
	err     error    // of those that could not be read
}

// identify returns the token files that have the token of the request. The error is
// errUnauthorized if no file has it, and another one if an unusable file may have it.
//
// It compares the SHA-256 digest of the request's token with the digest of every token in
// the files, in constant time. The duration depends on the size of the request's token and
// of the files, not on the number of correct leading bytes.
func identify(r *http.Request, files []string) (sender, error) {
	var s sender
	token, ok := bearer(r)
	digest := sha256.Sum256([]byte(token))
	for _, file := range files {
		tokens, err := tokenFile(file).read()
		if err != nil {
			s.err = errors.Join(s.err, err)
			continue
		}
		found := 0
		for i := range tokens {
			found |= subtle.ConstantTimeCompare(tokens[i][:], digest[:])
		}
		if ok && found == 1 {
			s.files = append(s.files, file)
		} else {
			s.without = append(s.without, file)
		}
	}
	switch {
	case len(s.files) > 0:
		return s, nil
	case s.err != nil:
		return s, s.err
	default:
		return s, errUnauthorized
	}
}

// checkSender refuses an alert that arrived under no token of its policy.
func (r *Receiver) checkSender(p *Policy, s sender) *refusal {
	file := cmp.Or(p.TokenFile, r.config.TokenFile)
	switch {
	case file == "", slices.Contains(s.files, file):
		return nil
	case slices.Contains(s.without, file):
		return refuse(resultNotAllowed, "token of the request is not one of the policy")
	default: // it could not be read, or a reload has just set it
		return refuse(resultError, "token file of the policy cannot be read")
	}
}

// bearer returns the token of the request's only Authorization header.
func bearer(r *http.Request) (string, bool) {
	values := r.Header.Values("Authorization")
	if len(values) != 1 {
		return "", false
	}
	scheme, token, ok := strings.Cut(values[0], " ")
	return strings.TrimSpace(token), ok && strings.EqualFold(scheme, "Bearer")
}

// read returns the digests of the tokens in the file. Errors never quote its content.
func (f tokenFile) read() ([][sha256.Size]byte, error) {
	content, err := safefile.ReadSecret(string(f), maxTokenFile)
	if err != nil {
		return nil, fmt.Errorf("read token file: %w", err)
	}
	return f.parse(content)
}

func (f tokenFile) parse(content []byte) ([][sha256.Size]byte, error) {
	var tokens [][sha256.Size]byte
	line := 0
	for text := range bytes.Lines(content) {
		line++
		token := bytes.TrimSpace(text)
		if len(token) == 0 || token[0] == '#' {
			continue
		}
		if len(token) < minToken {
			return nil, fmt.Errorf("%s:%d: token has %d characters, want at least %d; "+
				"generate one with openssl rand -hex 32", f, line, len(token), minToken)
		}
		if i := bytes.IndexFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }); i >= 0 {
			return nil, fmt.Errorf("%s:%d: character %d of the token is not allowed in a header", f, line, i+1)
		}
		tokens = append(tokens, sha256.Sum256(token))
	}
	if len(tokens) == 0 {
		return nil, fmt.Errorf("parse token file %s: no token", f)
	}
	return tokens, nil
}
