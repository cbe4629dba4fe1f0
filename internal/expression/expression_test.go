// SPDX-License-Identifier: Apache-2.0

package expression

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

func language(t *testing.T) *Language {
	t.Helper()
	l, err := New(UserLimit)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func spec() *dgmv1alpha1.ImprovementWorkspaceSpec {
	return &dgmv1alpha1.ImprovementWorkspaceSpec{
		Description: "Serve the product list from cache",
		Target:      dgmv1alpha1.Target{Service: "checkout"},
		Changes:     []dgmv1alpha1.Change{{Name: "cache", Patch: `data: {CACHE_TTL: "60"}`}, {Name: "more-cache"}},
		Tests:       []dgmv1alpha1.Test{{Name: "smoke"}},
	}
}

func facts(t *testing.T) Facts {
	t.Helper()
	object := map[string]any{"data": map[string]any{"CACHE_TTL": "60"}}
	f, err := NewFacts(Evidence{
		Spec: spec(), Unchanged: map[string]map[string]any{"cache": object, "more-cache": object},
		Target: map[string]any{"spec": map[string]any{"replicas": int64(3)}},
		Tests:  map[string]TestResult{"smoke": {Outcome: dgmv1alpha1.TestPassed, ExitCode: new(int32(0)), Results: []byte(`{"p99": 12.5, "errors": 0}`)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestHolds(t *testing.T) {
	l, f := language(t), facts(t)
	for source, want := range map[string]string{
		`int(after.cache.data.CACHE_TTL) <= 300`:                                                       "true",
		`after["more-cache"].data.CACHE_TTL == before.cache.data.CACHE_TTL`:                            "true",
		`target.spec.replicas >= 2`:                                                                    "true",
		`tests.smoke.outcome == "Passed" && tests.smoke.exitCode == 0 && tests.smoke.results.p99 < 20`: "true",
		`tests.smoke.results.errors == 0.0`:                                                            "true",
		`risk.level == "Medium" && risk.rank == 1`:                                                     "true",
		`spec.?risk.?level.orValue("none") == "none"`:                                                  "true",
		`quantity("512Mi").isLessThan(quantity("1Gi"))`:                                                "true",
		`after.cache.data.CACHE_TTL.matches("^[0-9]+$")`:                                               "true",
		`matches(after.cache.data.CACHE_TTL, "^[0-9]$")`:                                               "false",
		`[1, 2].map(x, x + 1) == [2, 3] && 3 in [1, 3] && 1 != 2 && "a" + "b" == "ab"`:                 "true",
		`"CACHE_TTL" in after.cache.data`:                                                              "true",
		`plan.touched.all(t, t.after != null)`:                                                         "true",
		`target.spec.replicas`:                                                                         "must be true or false",
		`after.cache.data.MISSING == "1"`:                                                              "no such key: MISSING",
		`int(after.cache.data.CACHE_TTL + "x") > 1`:                                                    "type conversion error",
		`1 / (target.spec.replicas - 3) == 1`:                                                          "division by zero",
	} {
		expression, err := l.Compile(source)
		if err != nil {
			t.Errorf("%s: %v", source, err)
			continue
		}
		holds, _, err := expression.Holds(context.Background(), f)
		switch {
		case err != nil && !strings.Contains(err.Error(), want):
			t.Errorf("%s: %v, want %s", source, err, want)
		case err == nil && want != map[bool]string{true: "true", false: "false"}[holds]:
			t.Errorf("%s is %v, want %s", source, holds, want)
		}
	}
}

func TestCompileRefuses(t *testing.T) {
	l := language(t)
	for source, want := range map[string]string{
		`after.cache.data.CACHE_TTL <`:                         "Syntax error",
		`afer.cache == 1`:                                      "undeclared reference to 'afer'",
		`"yes"`:                                                "must be true or false",
		`spec.description.size(`:                               "Syntax error",
		`spec.description.matches("(")`:                        "invalid matches argument",
		`"a".replace("a", "b") == "b"`:                         "replace is not offered",
		`"ab".indexOf("b") == 1`:                               "indexOf is not offered",
		`"ab".lastIndexOf("b", 1) == 1`:                        "lastIndexOf is not offered",
		`[1].all(a, [1].all(b, [1].all(c, [1].all(d, true))))`: "nesting limit",
		`authorizer.group("").resource("pods").check("get").allowed()`: "undeclared reference",
	} {
		if _, err := l.Compile(source); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", source, err, want)
		}
	}
}

func TestCheckNames(t *testing.T) {
	l := language(t)
	for source, want := range map[string]string{
		`int(after.cache.data.CACHE_TTL) <= 300 && spec.target.service == "checkout"`: "",
		`tests.smoke.exitCode == 0 && tests["smoke"].results.x > 1`:                   "",
		`after.cahce.data.CACHE_TTL == "1"`:                                           `after has no "cahce": it has cache, more-cache`,
		`before["cahce"].data.CACHE_TTL == "1"`:                                       `before has no "cahce"`,
		`before.?cahce.hasValue()`:                                                    `before has no "cahce"`,
		`spec.descr != ""`:                                                            `spec has no "descr"`,
		`has(spec.descr)`:                                                             `spec has no "descr"`,
		`tests.smok.exitCode == 0`:                                                    `tests has no "smok": it has smoke`,
		`tests.smoke.exit == 0`:                                                       `tests.smoke has no "exit": it has outcome, exitCode, results`,
		`risk.lvl == ""`:                                                              `risk has no "lvl"`,
	} {
		expression, err := l.Compile(source)
		if err != nil {
			t.Fatalf("%s: %v", source, err)
		}
		err = expression.CheckNames(spec())
		if (want == "") != (err == nil) || (err != nil && !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %s", source, err, want)
		}
	}
	expression, err := l.Compile(`spec.tests.exists(t, t.name == "x") || has(tests.smoke)`)
	if err != nil || !expression.Uses(VariableTests) || !expression.Uses(VariableSpec) || expression.Uses(VariableAfter) {
		t.Errorf("the variables that are used are not found: %v", err)
	}
}

// TestP7_BombsEndAtTheLimit: no expression of a user takes long, whatever it asks for.
func TestP7_BombsEndAtTheLimit(t *testing.T) {
	l, f := language(t), facts(t)
	megabyte := strings.Repeat("ab", 1<<19)
	many := make([]any, 100_000)
	for i := range many {
		many[i] = map[string]any{"after": "x", "before": megabyte}
	}
	f[VariableSpec].(map[string]any)["description"] = megabyte
	f[VariableTarget] = map[string]any{"many": many, "few": many[:100], "zeros": strings.Repeat("0", 1<<20)}
	doubled := func(innermost string) string {
		sum := strings.TrimSuffix(strings.Repeat("%[1]s+", 60), "+")
		level := func(name string) string { return strings.ReplaceAll(sum, "%[1]s", name) }
		return `[` + level("target.many") + `].exists(a, [` + level("a") + `].exists(b, [` + level("b") + `].exists(c, ` + innermost + `)))`
	}
	for name, source := range map[string]string{
		"nested loops":          `target.many.all(a, target.many.all(b, target.many.all(c, a == b && b == c)))`,
		"a list of itself":      `target.many.map(a, target.many) == target.many.map(b, target.many)`,
		"in a list of itself":   `target.many in target.many.map(a, target.many)`,
		"joined lists":          doubled(`9 in c`),
		"text that doubles":     `["x"].all(a, [a + spec.description + spec.description].all(b, [b+b+b+b+b+b+b+b].all(c, (c+c+c+c+c+c+c+c).size() > 0)))`,
		"a large pattern":       `target.many.all(a, a.after.matches("((a{0,100}){0,100}){0,100}"))`,
		"a pattern of 900 a":    `spec.description.matches("a{900}b{900}")`,
		"a pattern made by it":  `spec.description.matches(spec.description)`,
		"backtracking":          `spec.description.matches("(a|b|ab)*(a|b|ab)*(a|b|ab)*c")`,
		"every pair of texts":   `target.many.all(a, target.many.all(b, !a.before.contains(b.before + "c")))`,
		"a comparison repeated": `target.many.all(a, [target.few, target.few] == [target.few, target.few])`,
		"a match repeated":      `target.many.all(a, !target.zeros.matches("(0{0,30}1)+2"))`,
		"swallowed":             `target.many.all(a, target.many.all(b, a == b)) || true`,
		"split over and over":   `target.many.all(a, a.before.split("").size() > 0)`,
		"quantities":            `quantity("1e999999999").isGreaterThan(quantity("1e-999999999"))`,
		"a long quantity":       `quantity(target.zeros + "1").isGreaterThan(quantity("1"))`,
		"a duration of a text":  `target.many.all(a, duration(target.zeros + "1s") == duration("1s"))`,
		"a large number":        `int(target.zeros) == 1 && double(target.zeros) == 1.0 && false`,
		"a macro that doubles":  `optional.of(target)` + strings.Repeat(`.optMap(a, a)`, 30) + `.hasValue()`,
		"another one":           `optional.of(target)` + strings.Repeat(`.optFlatMap(a, optional.of(a))`, 30) + `.hasValue()`,
		"a text in a text":      `(target.zeros + target.zeros).indexOf(target.zeros + "1") == 0`,
		"and from its end":      `(target.zeros + target.zeros).lastIndexOf("1" + target.zeros) == 0`,
		"bytes that double":     `[bytes(target.zeros)].all(a, [a+a+a+a+a+a+a+a].all(b, [b+b+b+b+b+b+b+b].all(c, (c+c+c+c+c+c+c+c).size() > 0)))`,
		"optional lists":        `target.many.all(a, optional.of(target.many) == optional.of(target.many))`,
		"pieces that are kept":  `[target.zeros.split(""), target.zeros.split(""), target.zeros.split("")].size() == 3`,
		"deeply nested":         strings.Repeat("(", 200) + "true" + strings.Repeat(")", 200) + ` && target.many.all(a, target.many.all(b, true))`,
	} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			expression, err := l.Compile(source)
			if err == nil {
				_, _, err = expression.Holds(context.Background(), f)
			}
			took := time.Since(began)
			if err == nil && name != "a large number" && name != "backtracking" {
				t.Errorf("it came to an end")
			}
			if took > 3*time.Second {
				t.Errorf("it took %s", took)
			}
			t.Logf("%s: %.120v", took, err)
		})
	}
}

func TestCostIsReported(t *testing.T) {
	l, f := language(t), facts(t)
	f[VariableTarget] = map[string]any{"many": make([]any, 100_000)}
	expression, err := l.Compile(`target.many.all(a, target.many.all(b, a == b))`)
	if err != nil {
		t.Fatal(err)
	}
	_, cost, err := expression.Holds(context.Background(), f)
	if !errors.Is(err, ErrCost) || cost == 0 {
		t.Errorf("cost %d, %v, want ErrCost", cost, err)
	}
	if again, err := l.Compile(`target.many.all(a, target.many.all(b, a == b))`); err != nil || again != expression {
		t.Errorf("it was compiled again: %v", err)
	}
}
