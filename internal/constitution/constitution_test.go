// SPDX-License-Identifier: Apache-2.0

package constitution

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/internal/expression"
	"github.com/acgs/dgm-operator/internal/snapshot"
)

const deployment = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: checkout, namespace: shop, uid: "1"}
spec:
  replicas: 3
  template:
    spec:
      serviceAccountName: checkout
      securityContext: {runAsNonRoot: true}
      containers:
      - name: checkout
        image: shop/checkout:1
        env:
        - {name: CACHE_TTL, value: "5"}
        livenessProbe: {httpGet: {path: /healthz, port: 8080}}
        resources: {limits: {memory: 512Mi, cpu: "1"}, requests: {memory: 256Mi}}
        securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
`

const configMap = `
apiVersion: v1
kind: ConfigMap
metadata: {name: checkout-config, namespace: shop, uid: "2"}
data:
  CACHE_TTL: "5"
  app.properties: |
    cache.ttl=5
    db.password=hunter2hunter2
`

func object(t *testing.T, manifest string) map[string]any {
	t.Helper()
	var value map[string]any
	if err := yaml.Unmarshal([]byte(manifest), &value); err != nil {
		t.Fatal(err)
	}
	return value
}

// improvement is a good one; edits make it worse.
func improvement() *dgmv1alpha1.ImprovementWorkspaceSpec {
	return &dgmv1alpha1.ImprovementWorkspaceSpec{
		Description: "Serve the product list from cache for 60 s instead of 5 s",
		Type:        dgmv1alpha1.ConfigurationUpdate,
		Target:      dgmv1alpha1.Target{Service: "checkout"},
		Metrics:     []dgmv1alpha1.Metric{{Name: "p99"}},
	}
}

func risk(level dgmv1alpha1.RiskLevel, notes string) *dgmv1alpha1.Risk {
	return &dgmv1alpha1.Risk{Level: level, Notes: notes}
}

func approval(policy dgmv1alpha1.ApprovalPolicy) *dgmv1alpha1.Approval {
	return &dgmv1alpha1.Approval{Policy: policy}
}

func judge(t *testing.T, spec *dgmv1alpha1.ImprovementWorkspaceSpec, before, after string) Verdict {
	t.Helper()
	from, to := &unstructured.Unstructured{Object: object(t, before)}, &unstructured.Unstructured{Object: object(t, after)}
	plan := snapshot.Plan{Version: snapshot.Version}
	change, err := snapshot.NewObjectPlan("change", from, to, "dgm-operator")
	if err != nil {
		t.Fatal(err)
	}
	plan.Objects = append(plan.Objects, change)
	facts, err := expression.NewFacts(expression.Evidence{Spec: spec, Plan: plan})
	if err != nil {
		t.Fatal(err)
	}
	c, err := Default()
	if err != nil {
		t.Fatal(err)
	}
	verdict, err := c.Judge(context.Background(), facts, "0.8")
	if err != nil {
		t.Fatal(err)
	}
	return verdict
}

// edit is a replacement in a manifest.
func edit(manifest string, pairs ...string) string {
	return strings.NewReplacer(pairs...).Replace(manifest)
}

func TestVerdictsOnTheSpec(t *testing.T) {
	after := edit(configMap, `CACHE_TTL: "5"`, `CACHE_TTL: "60"`)
	for name, test := range map[string]struct {
		edit     func(*dgmv1alpha1.ImprovementWorkspaceSpec)
		violated string
		level    Level
		score    string
		accepted bool
	}{
		"the sample":            {func(*dgmv1alpha1.ImprovementWorkspaceSpec) {}, "", LevelExemplary, "1.00", true},
		"without metrics":       {func(s *dgmv1alpha1.ImprovementWorkspaceSpec) { s.Metrics = nil }, "beneficence", LevelCompliant, "0.95", true},
		"a trivial description": {func(s *dgmv1alpha1.ImprovementWorkspaceSpec) { s.Description = "test" }, "transparency", LevelWarning, "0.85", true},
		"a longer one":          {func(s *dgmv1alpha1.ImprovementWorkspaceSpec) { s.Description = "Some minor improvements. " }, "transparency", LevelWarning, "0.85", true},
		"one in Chinese": {func(s *dgmv1alpha1.ImprovementWorkspaceSpec) {
			s.Description = "将产品列表缓存六十秒而不是五秒"
		}, "", LevelExemplary, "1.00", true},
		"hidden characters": {func(s *dgmv1alpha1.ImprovementWorkspaceSpec) { s.Description += "\u202egnihton" }, "transparency", LevelWarning, "0.85", true},
		"high risk, unmeasured": {func(s *dgmv1alpha1.ImprovementWorkspaceSpec) {
			s.Risk, s.Metrics = risk(dgmv1alpha1.RiskHigh, "prices may be stale"), nil
		}, "accountability beneficence", LevelWarning, "0.80", true},
		"high risk, no notes": {func(s *dgmv1alpha1.ImprovementWorkspaceSpec) { s.Risk = risk(dgmv1alpha1.RiskHigh, "") }, "accountability", LevelWarning, "0.85", true},
		"high risk, done well": {func(s *dgmv1alpha1.ImprovementWorkspaceSpec) {
			s.Risk = risk(dgmv1alpha1.RiskHigh, "prices may be stale")
		}, "", LevelExemplary, "1.00", true},
		"high risk, nobody asked": {func(s *dgmv1alpha1.ImprovementWorkspaceSpec) {
			s.Risk, s.Approval = risk(dgmv1alpha1.RiskHigh, "prices may be stale"), approval(dgmv1alpha1.ApprovalNever)
		}, "human_autonomy", LevelCriticalViolation, "0.80", false},
		"critical risk, asked on a warning only": {func(s *dgmv1alpha1.ImprovementWorkspaceSpec) {
			s.Risk = risk(dgmv1alpha1.RiskCritical, "prices may be stale")
		}, "human_autonomy", LevelCriticalViolation, "0.80", false},
		"critical risk, asked always": {func(s *dgmv1alpha1.ImprovementWorkspaceSpec) {
			s.Risk, s.Approval = risk(dgmv1alpha1.RiskCritical, "prices may be stale"), approval(dgmv1alpha1.ApprovalAlways)
		}, "", LevelExemplary, "1.00", true},
		"careless twice": {func(s *dgmv1alpha1.ImprovementWorkspaceSpec) {
			s.Description, s.Risk = "todo", risk(dgmv1alpha1.RiskHigh, "")
		}, "transparency accountability", LevelMinorViolation, "0.70", false},
		"understated": {func(s *dgmv1alpha1.ImprovementWorkspaceSpec) {
			s.Type, s.Risk = dgmv1alpha1.ArchitectureChange, risk(dgmv1alpha1.RiskLow, "")
		}, "justice", LevelCompliant, "0.97", true},
		"writes over GitOps": {func(s *dgmv1alpha1.ImprovementWorkspaceSpec) { s.OnGitOpsOwned = dgmv1alpha1.GitOpsProceed }, "respect", LevelCompliant, "0.98", true},
	} {
		t.Run(name, func(t *testing.T) {
			spec := improvement()
			test.edit(spec)
			v := judge(t, spec, configMap, after)
			if got := strings.Join(v.Violated(), " "); got != test.violated || v.Level != test.level || v.Score != test.score || v.Accepted != test.accepted {
				t.Errorf("violated %q, %s, %s, accepted %v; want %q, %s, %s, %v", got, v.Level, v.Score, v.Accepted, test.violated, test.level, test.score, test.accepted)
			}
		})
	}
}

func TestVerdictsOnTheChange(t *testing.T) {
	const env = `- {name: CACHE_TTL, value: "5"}`
	for name, test := range map[string]struct {
		before, after string
		violated      string
	}{
		"an environment variable":    {deployment, edit(deployment, `value: "5"`, `value: "60"`), ""},
		"fewer replicas":             {deployment, edit(deployment, "replicas: 3", "replicas: 1"), ""},
		"no replicas":                {deployment, edit(deployment, "replicas: 3", "replicas: 0"), "safety"},
		"another probe":              {deployment, edit(deployment, "httpGet: {path: /healthz, port: 8080}", "exec: {command: [check]}"), ""},
		"no probe":                   {deployment, edit(deployment, "livenessProbe: {httpGet: {path: /healthz, port: 8080}}", "stdin: false"), "safety"},
		"a greater limit":            {deployment, edit(deployment, "memory: 512Mi", "memory: 1Gi"), ""},
		"no limit of memory":         {deployment, edit(deployment, "memory: 512Mi, ", ""), "safety"},
		"no limits":                  {deployment, edit(deployment, `limits: {memory: 512Mi, cpu: "1"}, `, ""), "safety"},
		"no resources":               {deployment, edit(deployment, `resources: {limits: {memory: 512Mi, cpu: "1"}, requests: {memory: 256Mi}}`, ""), "safety"},
		"privileged":                 {deployment, edit(deployment, "allowPrivilegeEscalation: false", "allowPrivilegeEscalation: false, privileged: true"), "non_maleficence"},
		"escalation":                 {deployment, edit(deployment, "allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true"), "non_maleficence"},
		"a capability":               {deployment, edit(deployment, "drop: [ALL]", "drop: [ALL], add: [NET_ADMIN]"), "non_maleficence"},
		"no capability dropped":      {deployment, edit(deployment, ", capabilities: {drop: [ALL]}", ""), "non_maleficence"},
		"no security context":        {deployment, edit(deployment, "      securityContext: {runAsNonRoot: true}\n", ""), "non_maleficence"},
		"root":                       {deployment, edit(deployment, "{runAsNonRoot: true}", "{runAsNonRoot: true, runAsUser: 0}"), "non_maleficence"},
		"a writable root":            {deployment, edit(deployment, "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false"), "non_maleficence"},
		"a stricter context":         {deployment, edit(deployment, "{runAsNonRoot: true}", "{runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}"), ""},
		"unconfined":                 {deployment, edit(deployment, "{runAsNonRoot: true}", "{runAsNonRoot: true, seccompProfile: {type: Unconfined}}"), "non_maleficence"},
		"the host's network":         {deployment, edit(deployment, "serviceAccountName: checkout", "serviceAccountName: checkout\n      hostNetwork: true"), "non_maleficence"},
		"a path of the host":         {deployment, edit(deployment, "serviceAccountName: checkout", "serviceAccountName: checkout\n      volumes: [{name: host, hostPath: {path: /}}]"), "non_maleficence"},
		"another account":            {deployment, edit(deployment, "serviceAccountName: checkout", "serviceAccountName: admin"), "non_maleficence"},
		"a new privileged container": {deployment, deployment + "      - {name: more, image: x, securityContext: {privileged: true}}\n", "non_maleficence"},
		"a priority":                 {deployment, edit(deployment, "serviceAccountName: checkout", "serviceAccountName: checkout\n      priorityClassName: system-node-critical"), "fairness"},
		"a port of the host":         {deployment, edit(deployment, env, env+"\n        ports: [{containerPort: 8080, hostPort: 80}]"), "fairness"},
		"a password":                 {deployment, edit(deployment, env, env+"\n        - {name: DB_PASSWORD, value: hunter2hunter2}"), "privacy"},
		"a password from a Secret":   {deployment, edit(deployment, env, env+"\n        - {name: DB_PASSWORD, valueFrom: {secretKeyRef: {name: database, key: password}}}"), ""},
		"a file with a password":     {deployment, edit(deployment, env, env+"\n        - {name: DB_PASSWORD_FILE, value: /run/secrets/password}"), ""},
		"a number of tokens":         {deployment, edit(deployment, env, env+"\n        - {name: MAX_TOKENS, value: \"4096000\"}"), ""},
		"a lifetime of tokens":       {deployment, edit(deployment, env, env+"\n        - {name: ACCESS_TOKEN_TTL, value: 3600s}"), ""},
		"a key of a cloud":           {configMap, edit(configMap, `CACHE_TTL: "5"`, `CACHE_TTL: "AKIAIOSFODNN7EXAMPLE"`), "privacy"},
		"a private key":              {configMap, edit(configMap, `CACHE_TTL: "5"`, `CACHE_TTL: "-----BEGIN RSA PRIVATE KEY-----"`), "privacy"},
		"a URL with a password":      {configMap, edit(configMap, `CACHE_TTL: "5"`, `CACHE_TTL: "postgres://app:hunter2@db/shop"`), "privacy"},
		"a URL that refers to it":    {configMap, edit(configMap, `CACHE_TTL: "5"`, `CACHE_TTL: "postgres://app:${PASSWORD}@db/shop"`), ""},
		"a line beside a password":   {configMap, edit(configMap, "cache.ttl=5", "cache.ttl=60"), ""},
		"another password":           {configMap, edit(configMap, "hunter2hunter2", "hunter3hunter3"), "privacy"},
		"a key named api-key":        {configMap, edit(configMap, `CACHE_TTL: "5"`, `CACHE_TTL: "5", api-key: abcdef123456`, "data:\n  ", "data: {", "\"5\"\n  app", "\"5\"}\n#"), ""},
		"a quota":                    {"{apiVersion: v1, kind: ResourceQuota, metadata: {name: q, uid: \"3\"}, spec: {hard: {pods: \"10\"}}}", "{apiVersion: v1, kind: ResourceQuota, metadata: {name: q, uid: \"3\"}, spec: {hard: {pods: \"100\"}}}", "fairness"},
		"a role":                     {"{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: q, uid: \"3\"}, rules: []}", "{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: q, uid: \"3\"}, rules: [{verbs: [get]}]}", "non_maleficence"},
		"a network policy":           {"{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: q, uid: \"3\"}, spec: {policyTypes: [Egress]}}", "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: q, uid: \"3\"}, spec: {policyTypes: []}}", "non_maleficence"},
		"a disruption budget":        {"{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: q, uid: \"3\"}, spec: {minAvailable: 2}}", "{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: q, uid: \"3\"}, spec: {minAvailable: 0}}", "safety"},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "a key named api-key" {
				test.before = edit(configMap, "  app.properties: |\n    cache.ttl=5\n    db.password=hunter2hunter2\n", "")
				test.after, test.violated = test.before+"  api-key: abcdef123456\n", "privacy"
			}
			v := judge(t, improvement(), test.before, test.after)
			if got := strings.Join(v.Violated(), " "); got != test.violated {
				t.Errorf("violated %q, want %q", got, test.violated)
			}
			critical := test.violated != "" && test.violated != "fairness"
			if v.Accepted == critical {
				t.Errorf("accepted is %v at %s", v.Accepted, v.Level)
			}
		})
	}
}

// TestDefaultNeverChangesSilently: who changes a principle raises the version, and
// updates this file with it.
func TestDefaultNeverChangesSilently(t *testing.T) {
	c, err := Default()
	if err != nil {
		t.Fatal(err)
	}
	const golden = "testdata/default.digest"
	got := c.Version + " " + c.Hash + " " + c.Digest() + "\n"
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil || string(want) != got {
		t.Errorf("the default constitution is %swhile %s says %s(%v)", got, golden, want, err)
	}
	if c.Hash != "cdd01ef066bc6cf2" || len(c.Principles) != 10 {
		t.Errorf("it is %s with %d principles", c.Hash, len(c.Principles))
	}
}

func TestParseRefuses(t *testing.T) {
	for old, with := range map[string]string{
		`weight: "0.20"`:         `weight: "0.30"`,
		`threshold: "0.8"`:       `threshold: "1.8"`,
		`hash: cdd01ef066bc6cf2`: `has: cdd01ef066bc6cf2`,
		`risk.rank < 2 ||`:       `rsk.rank < 2 ||`,
		`weight: "0.15"`:         `weight: "1e-2"`,
	} {
		if _, err := Parse([]byte(strings.Replace(string(defaultContent), old, with, 1))); err == nil {
			t.Errorf("%s instead of %s is accepted", with, old)
		}
	}
	reformatted, err := Parse([]byte("# a comment\n" + string(defaultContent)))
	if c, _ := Default(); err != nil || reformatted.Digest() != c.Digest() {
		t.Errorf("a comment makes another constitution: %v", err)
	}
}

func TestP7_NoVerdictIsNoVerdict(t *testing.T) {
	c, err := Default()
	if err != nil {
		t.Fatal(err)
	}
	facts, err := expression.NewFacts(expression.Evidence{Spec: improvement()})
	if err != nil {
		t.Fatal(err)
	}
	broken := expression.Facts{}
	for name, value := range facts {
		broken[name] = value
	}
	broken[expression.VariablePlan] = map[string]any{"objects": []any{}}
	if v, err := c.Judge(context.Background(), broken, "0.8"); !errors.Is(err, ErrNoVerdict) || v.Accepted {
		t.Errorf("without facts: %+v, %v", v, err)
	}
	if _, err := c.Judge(context.Background(), facts, "NaN"); !errors.Is(err, ErrNoVerdict) {
		t.Errorf("without a threshold: %v", err)
	}
	touched := make([]any, 300_000)
	for i := range touched {
		touched[i] = map[string]any{"kind": "ConfigMap", "path": "data.x", "field": "x", "before": nil, "after": strings.Repeat("x", 3), "added": "xxx"}
	}
	facts[expression.VariablePlan] = map[string]any{"objects": []any{}, "touched": touched}
	began := time.Now()
	if _, err := c.Judge(context.Background(), facts, "0.8"); !errors.Is(err, expression.ErrCost) || time.Since(began) > 30*time.Second {
		t.Errorf("a huge plan: %v after %s", err, time.Since(began))
	}
}

func TestThreshold(t *testing.T) {
	c, err := Default()
	if err != nil {
		t.Fatal(err)
	}
	spec := improvement()
	spec.Metrics = nil // 0.95
	facts, err := expression.NewFacts(expression.Evidence{Spec: spec})
	if err != nil {
		t.Fatal(err)
	}
	for threshold, want := range map[string]bool{"0.1": true, "0.95": true, "0.95000000000000000001": false, "1": false} {
		v, err := c.Judge(context.Background(), facts, threshold)
		if err != nil || v.Accepted != want {
			t.Errorf("at %s accepted is %v, %v", threshold, v.Accepted, err)
		}
		if threshold == "0.1" && v.Threshold != "0.8" {
			t.Errorf("the threshold went below the constitution's: %s", v.Threshold)
		}
	}
}

func TestLevels(t *testing.T) {
	for text, want := range map[string]Level{
		"1": LevelExemplary, "0.999999": LevelCompliant, "0.9": LevelCompliant, "0.8999": LevelWarning, "0.8": LevelWarning,
		"0.79": LevelMinorViolation, "0.7": LevelMinorViolation, "0.5": LevelMajorViolation, "0.49": LevelCriticalViolation, "0": LevelCriticalViolation,
	} {
		score, _ := fraction(text)
		if got := levelOf(score, nil); got != want {
			t.Errorf("%s is %s, want %s", text, got, want)
		}
	}
	score, _ := fraction("0.98765")
	if truncated(score) != "0.98" || decimal(score) != "0.98765" {
		t.Errorf("%s, %s", truncated(score), decimal(score))
	}
	if !slices.Contains([]bool{LevelWarning.NeedsPerson()}, true) || LevelCompliant.NeedsPerson() {
		t.Error("a warning needs a person, compliant does not")
	}
}

// TestWhatWeShipIsCompliant: the sample and the examples are judged as they stand,
// with what their patches set.
func TestWhatWeShipIsCompliant(t *testing.T) {
	c, err := Default()
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("../../examples/improvements/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	for _, file := range append(files, "../../config/samples/improvementworkspace.yaml") {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for manifest := range strings.SplitSeq(string(content), "\n---\n") {
			var w dgmv1alpha1.ImprovementWorkspace
			if err := yaml.Unmarshal([]byte(manifest), &w); err != nil || w.Kind != "ImprovementWorkspace" {
				continue
			}
			facts, err := expression.NewFacts(expression.Evidence{Spec: &w.Spec, Plan: planOf(t, &w)})
			if err != nil {
				t.Fatal(err)
			}
			verdict, err := c.Judge(context.Background(), facts, "0.8")
			if err != nil || !verdict.Accepted || verdict.Level.NeedsPerson() {
				t.Errorf("%s: %s: %s, %v", file, w.Name, verdict.Summary(), err)
			}
		}
	}
}

// patched is what a patch sets in an empty object.
func patched(t *testing.T, change dgmv1alpha1.Change) map[string]any {
	t.Helper()
	if change.Type != dgmv1alpha1.PatchJSON {
		return object(t, change.Patch)
	}
	var operations []struct {
		Path  string
		Value any
	}
	if err := yaml.Unmarshal([]byte(change.Patch), &operations); err != nil {
		t.Fatal(err)
	}
	set := map[string]any{}
	for _, operation := range operations {
		if err := unstructured.SetNestedField(set, operation.Value, strings.Split(operation.Path, "/")[1:]...); err != nil {
			t.Fatal(err)
		}
	}
	return set
}

// planOf is what the patches of an improvement do to empty objects.
func planOf(t *testing.T, w *dgmv1alpha1.ImprovementWorkspace) snapshot.Plan {
	t.Helper()
	plan := snapshot.Plan{Version: snapshot.Version}
	for _, change := range w.Spec.Changes {
		before := object(t, fmt.Sprintf("{apiVersion: %s, kind: %s, metadata: {name: %s, uid: u}}", change.TargetRef.APIVersion, change.TargetRef.Kind, change.TargetRef.Name))
		after := patched(t, change)
		for key, value := range before {
			after[key] = value
		}
		planned, err := snapshot.NewObjectPlan(change.Name, &unstructured.Unstructured{Object: before}, &unstructured.Unstructured{Object: after}, "dgm-operator")
		if err != nil {
			t.Fatal(err)
		}
		plan.Objects = append(plan.Objects, planned)
	}
	return plan
}
