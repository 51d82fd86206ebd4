// Package statuspage serves the HTML page with the state of tcphup serve.
package statuspage

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"html/template"
	"log/slog"
	"net/http"
	"time"

	"tcphup/internal/text"
)

// Parts of the page, all inlined. The page loads no other resources.
var (
	//go:embed page.html
	pageHTML string
	//go:embed page.css
	pageCSS string
	//go:embed page.js
	pageJS string
)

// Handler returns the handler for GET /, which renders the state of the source. In node
// mode the parameter namespace restricts it to the pods of a namespace. The script of the
// page only refreshes it; the page is complete without.
func Handler(source Source, logger *slog.Logger) http.Handler {
	return handler(func(r *http.Request) *pageData {
		return newPageData(source.State(r), r.URL.Query().Get("namespace"))
	}, logger)
}

func handler(data func(*http.Request) *pageData, logger *slog.Logger) http.Handler {
	page := template.Must(template.New("page").Funcs(template.FuncMap{
		"css":    func() template.CSS { return template.CSS(pageCSS) },
		"js":     func() template.JS { return template.JS(pageJS) },
		"plural": text.Plural,
		"shown":  text.Printable,
		"stamp":  func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
		"clock":  func(t time.Time) string { return t.UTC().Format(time.DateTime) },
	}).Parse(pageHTML))
	policy := contentPolicy()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var b bytes.Buffer
		if err := page.Execute(&b, data(r)); err != nil {
			logger.Error("cannot render status page", "err", err)
			http.Error(w, "cannot render status page: see the log", http.StatusInternalServerError)
			return
		}
		header := w.Header()
		header.Set("Content-Type", "text/html; charset=utf-8")
		header.Set("Content-Security-Policy", policy)
		header.Set("Cache-Control", "no-store")
		header.Set("Referrer-Policy", "no-referrer")
		header.Set("X-Content-Type-Options", "nosniff")
		_, _ = w.Write(b.Bytes()) // fails only if the client has disconnected
	})
}

// contentPolicy returns a Content-Security-Policy that allows only the style and the
// script of the page, so that injected markup has no effect.
func contentPolicy() string {
	hash := func(s string) string {
		sum := sha256.Sum256([]byte(s))
		return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
	}
	return "default-src 'none'; style-src " + hash(pageCSS) + "; script-src " + hash(pageJS) +
		"; img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}
