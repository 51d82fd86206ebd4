// Package statuspage serves the page at /, which shows the state of tcphup serve.
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
)

// The parts of the status page. It has no other: nothing is fetched from elsewhere.
var (
	//go:embed page.html
	pageHTML string
	//go:embed page.css
	pageCSS string
	//go:embed page.js
	pageJS string
)

// Handler returns the handler of GET /, a page with what the source supplies. The page
// is complete without its script, which only fetches it again and again.
func Handler(source Source, logger *slog.Logger) http.Handler {
	return handler(func(r *http.Request) *pageData { return newPageData(source.State(r)) }, logger)
}

func handler(data func(*http.Request) *pageData, logger *slog.Logger) http.Handler {
	page := template.Must(template.New("page").Funcs(template.FuncMap{
		"css":   func() template.CSS { return template.CSS(pageCSS) },
		"js":    func() template.JS { return template.JS(pageJS) },
		"stamp": func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
		"clock": func(t time.Time) string { return t.UTC().Format(time.DateTime) },
	}).Parse(pageHTML))
	policy := contentPolicy()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var b bytes.Buffer
		if err := page.Execute(&b, data(r)); err != nil {
			logger.Error("cannot make status page", "err", err)
			http.Error(w, "cannot make the page; the log says why", http.StatusInternalServerError)
			return
		}
		header := w.Header()
		header.Set("Content-Type", "text/html; charset=utf-8")
		header.Set("Content-Security-Policy", policy)
		header.Set("Cache-Control", "no-store")
		header.Set("Referrer-Policy", "no-referrer")
		header.Set("X-Content-Type-Options", "nosniff")
		_, _ = w.Write(b.Bytes()) // that the client is gone is its own loss
	})
}

// contentPolicy lets a browser apply the style and run the script that are part of
// the page, and nothing else, whatever may have got into it.
func contentPolicy() string {
	hash := func(s string) string {
		sum := sha256.Sum256([]byte(s))
		return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
	}
	return "default-src 'none'; style-src " + hash(pageCSS) + "; script-src " + hash(pageJS) +
		"; img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}
