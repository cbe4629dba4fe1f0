// SPDX-License-Identifier: Apache-2.0

// Package monitoring checks rules.yaml with the parser of Prometheus itself. It
// is a module of its own, since that brings much with it.
package monitoring

import (
	"os"
	"regexp"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/promql/parser"
	"go.yaml.in/yaml/v3"
)

type rule struct {
	Alert       string            `yaml:"alert"`
	Expr        string            `yaml:"expr"`
	For         string            `yaml:"for"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

type rules struct {
	Groups []struct {
		Name  string `yaml:"name"`
		Rules []rule `yaml:"rules"`
	} `yaml:"groups"`
}

var severities = map[string]bool{"critical": true, "warning": true, "info": true}

func load(t *testing.T) []rule {
	t.Helper()
	file, err := os.Open("rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	decoder := yaml.NewDecoder(file)
	decoder.KnownFields(true)
	var all rules
	if err := decoder.Decode(&all); err != nil {
		t.Fatal(err)
	}
	var out []rule
	for _, group := range all.Groups {
		out = append(out, group.Rules...)
	}
	return out
}

func TestEveryRuleParsesAndSaysWhatToDo(t *testing.T) {
	promql := parser.NewParser(parser.Options{})
	seen := map[string]bool{}
	for _, r := range load(t) {
		if seen[r.Alert] || !regexp.MustCompile(`^DGM[A-Za-z]+$`).MatchString(r.Alert) {
			t.Errorf("alert %q: its name is taken, or does not begin with DGM", r.Alert)
		}
		seen[r.Alert] = true
		expression, err := promql.ParseExpr(r.Expr)
		if err != nil {
			t.Errorf("%s: %v", r.Alert, err)
			continue
		}
		if kind := expression.Type(); kind != parser.ValueTypeVector {
			t.Errorf("%s: the expression is a %s, want an instant vector", r.Alert, kind)
		}
		if r.For != "" {
			if _, err := model.ParseDuration(r.For); err != nil {
				t.Errorf("%s: for: %v", r.Alert, err)
			}
		}
		if !severities[r.Labels["severity"]] || r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
			t.Errorf("%s: it lacks a severity, a summary or a description", r.Alert)
		}
	}
	for _, wanted := range []string{
		"DGMDatabaseDown", "DGMPartitionMissing", "DGMDefaultPartitionFilling", "DGMLongTransaction", "DGMAggregationBehind", "DGMSchemaDrift",
	} {
		if !seen[wanted] {
			t.Errorf("alert %s is missing", wanted)
		}
	}
}
