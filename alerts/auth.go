package alerts

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
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

// authorize returns nil if the request has one of the file's tokens, errUnauthorized if
// not, and another error if the file cannot be used.
//
// It compares the SHA-256 digest of the request's token with the digest of every token in
// the file, in constant time. The duration depends on the size of the request's token and
// of the file, not on the number of correct leading bytes.
func (f tokenFile) authorize(r *http.Request) error {
	tokens, err := f.read()
	if err != nil {
		return err
	}
	token, ok := bearer(r)
	if !ok {
		return errUnauthorized
	}
	digest := sha256.Sum256([]byte(token))
	found := 0
	for i := range tokens {
		found |= subtle.ConstantTimeCompare(tokens[i][:], digest[:])
	}
	if found != 1 {
		return errUnauthorized
	}
	return nil
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
