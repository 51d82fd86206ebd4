package alerts

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"syscall"

	"tcphup/internal/safefile"
)

const (
	// maxTokenFile is how much of a token file is read at most.
	maxTokenFile = 64 << 10
	// minToken keeps guessable tokens out.
	minToken = 16
)

// errUnauthorized means that the request showed no valid token.
var errUnauthorized = errors.New("a valid bearer token is needed")

// tokenFile is the path of a file with tokens, one a line; empty lines and lines
// that begin with # do not count. The file is read for every request, so that a
// rotation (add the new token, change the sender, remove the old token) needs no
// restart and a token that was removed is refused from that moment on.
type tokenFile string

// authorize returns nil when the request shows one of the file's tokens,
// errUnauthorized when it does not, and another error when the file cannot be
// used.
//
// What is compared is the SHA-256 digest of the token shown with those of all the
// tokens in the file, each compared to its end and none left out. The time taken
// therefore depends on the length of what the sender sent and on the file's size
// and never on how many leading bytes of a token are right.
func (f tokenFile) authorize(r *http.Request) error {
	tokens, err := f.read()
	if err != nil {
		return err
	}
	shown, ok := bearer(r)
	if !ok {
		return errUnauthorized
	}
	digest := sha256.Sum256([]byte(shown))
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

// read returns the digests of the tokens in the file. The error never quotes what
// the file holds.
func (f tokenFile) read() ([][sha256.Size]byte, error) {
	// Without O_NONBLOCK the open of a FIFO would wait for a writer.
	file, err := os.OpenFile(string(f), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("read token file: %w", err)
	}
	defer func() { _ = file.Close() }() // nothing was written
	// The rights are those of the file that is open, not of whatever has the name.
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("read token file: %w", err)
	}
	switch mode := info.Mode(); {
	case !mode.IsRegular():
		return nil, fmt.Errorf("token file %s is not a regular file", f)
	case mode.Perm()&0o007 != 0:
		return nil, fmt.Errorf("token file %s is open to every user (mode %#o): "+
			"chmod it to 0640 or less; for a Kubernetes secret set defaultMode: 0440", f, mode.Perm())
	case mode.Perm()&0o020 != 0:
		return nil, fmt.Errorf("token file %s may be written by its group (mode %#o): "+
			"chmod it to 0640 or less", f, mode.Perm())
	case info.Size() > maxTokenFile:
		return nil, fmt.Errorf("token file %s is larger than %d bytes", f, maxTokenFile)
	}
	if err := safefile.Check(file); err != nil {
		return nil, fmt.Errorf("read token file: %w", err)
	}
	content, err := io.ReadAll(io.LimitReader(file, maxTokenFile+1))
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
			return nil, fmt.Errorf("%s:%d: the token has %d characters, at least %d are needed: "+
				"make one with openssl rand -hex 32", f, line, len(token), minToken)
		}
		if i := bytes.IndexFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }); i >= 0 {
			return nil, fmt.Errorf("%s:%d: character %d of the token cannot be sent in a header", f, line, i+1)
		}
		tokens = append(tokens, sha256.Sum256(token))
	}
	if len(tokens) == 0 {
		return nil, fmt.Errorf("token file %s holds no token", f)
	}
	return tokens, nil
}
