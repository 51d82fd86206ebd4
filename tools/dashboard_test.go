package tools

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// npmPackages are Grafana's types of a dashboard and the compiler that checks them.
var npmPackages = []string{"@grafana/schema@13.2.3", "typescript@5.9.3"}

// prelude adapts the types to JSON, where enumerations are plain values, and adds
// Prometheus' annotation fields, which the schema lacks.
const prelude = `import type { AnnotationQuery, Dashboard } from '@grafana/schema';
import type * as heatmap from '@grafana/schema/dist/esm/raw/composable/heatmap/panelcfg/x/HeatmapPanelCfg_types.gen';
import type * as stat from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import type * as table from '@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen';
import type * as timeseries from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';

type Plain<T> =
  unknown extends T ? T :
  T extends string | number ? (` + "`${T}` extends `${infer N extends number}` ? T | N : T | `${T}`" + `) :
  T extends object ? { [K in keyof T]: Plain<T[K]> } :
  T;
type Annotation = Omit<AnnotationQuery, 'target'> & {
  target: { refId: string; expr: string; interval: string };
  titleFormat: string; textFormat: string; tagKeys: string;
};
export const dashboard: Plain<Omit<Dashboard, 'annotations'> & { annotations: { list: Annotation[] } }> = `

// TestDashboardTypes checks the dashboard and the options of each panel against Grafana's
// TypeScript types.
func TestDashboardTypes(t *testing.T) {
	text := read(t, deploy+"/dashboard.json")
	var dashboard struct {
		Panels []struct {
			ID          int
			Type        string
			Options     json.RawMessage
			FieldConfig struct {
				Defaults struct{ Custom json.RawMessage }
			}
		}
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	source := prelude + strings.TrimSpace(string(text)) + ";\n"
	for _, p := range dashboard.Panels {
		if p.Type == "row" {
			continue
		}
		source += fmt.Sprintf("export const options%d: Plain<%s.Options> = %s;\n", p.ID, p.Type, p.Options)
		if custom := p.FieldConfig.Defaults.Custom; custom != nil {
			source += fmt.Sprintf("export const custom%d: Plain<%s.FieldConfig> = %s;\n", p.ID, p.Type, custom)
		}
	}
	if out, err := typeCheck(t, source); err != nil {
		t.Errorf("deploy/dashboard.json does not match Grafana's types: %v\n%s", err, out)
	}
	// The check must detect errors.
	mistakes := []string{`"graphTooltip": 1`, `"graphTooltip": 7`, `"drawStyle": "bars"`, `"drawStyle": "bar"`, `"gridPos": {"x"`, `"gridPos": {"X"`}
	out, err := typeCheck(t, strings.NewReplacer(mistakes...).Replace(source))
	if err == nil || strings.Count(out, "error TS") < 3 {
		t.Errorf("errors not detected: %v\n%s", err, out)
	}
}

// typeCheck compiles TypeScript with the npm packages and returns the compiler's output.
func typeCheck(t *testing.T, source string) (string, error) {
	t.Helper()
	dir := installNPM(t)
	file, err := os.CreateTemp(dir, "dashboard-*.ts")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.Remove(file.Name()) }()
	if _, err := file.WriteString(source); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	tsc := exec.CommandContext(t.Context(), "node", filepath.Join(dir, "node_modules/typescript/bin/tsc"),
		"--noEmit", "--strict", "--skipLibCheck", "--module", "esnext", "--moduleResolution", "bundler", file.Name())
	tsc.Dir = dir
	out, err := tsc.CombinedOutput()
	return string(out), err
}

// installNPM returns a cached directory with the npm packages.
func installNPM(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	cache = filepath.Join(cache, "tcphup-tests")
	dir := filepath.Join(cache, strings.NewReplacer("/", "-", "@", "-").Replace(strings.Join(npmPackages, "")))
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		t.Fatal(err)
	}
	// Only a complete installation gets the final name.
	partial, err := os.MkdirTemp(cache, "partial")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(partial) }()
	args := append([]string{"install", "--prefix", partial, "--ignore-scripts", "--no-audit", "--no-fund"}, npmPackages...)
	if out, err := exec.CommandContext(t.Context(), "npm", args...).CombinedOutput(); err != nil {
		t.Fatalf("npm (apt-get install npm) %v: %v\n%s", args, err, out)
	}
	// Another run may have installed the same packages since the check.
	if err := os.Rename(partial, dir); err != nil && !errors.Is(err, fs.ErrExist) {
		t.Fatal(err)
	}
	return dir
}
