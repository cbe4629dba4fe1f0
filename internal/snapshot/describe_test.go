package snapshot

import (
	"errors"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func planOf(objects ...ObjectPlan) Plan { return Plan{Version: Version, Objects: objects} }

func TestDiffForPeople(t *testing.T) {
	before := object(t, `
apiVersion: v1
kind: ConfigMap
metadata: {name: checkout-config, uid: u1}
data: {CACHE_TTL: "5", GONE: x, DB_PASSWORD: hunter2, URL: "postgres://app:hunter2@db/shop", nginx.conf: "a\nb\nc\nd\n"}`)
	after := object(t, `
apiVersion: v1
kind: ConfigMap
metadata: {name: checkout-config, uid: u1}
data: {CACHE_TTL: "60", NEW: "<&>", DB_PASSWORD: hunter3, URL: "postgres://app:hunter3@db/shop2", nginx.conf: "a\nb\nX\nd\n"}`)
	got := planOf(newPlan(t, before, after)).Diff()
	want := `ConfigMap/checkout-config  data.CACHE_TTL: "5" → "60"
ConfigMap/checkout-config  data.DB_PASSWORD: (hidden, 7 bytes) → (hidden, 7 bytes)
ConfigMap/checkout-config  data.GONE: removed "x"
ConfigMap/checkout-config  data.NEW: added "<&>"
ConfigMap/checkout-config  data.URL: "postgres://app:***@db/shop" → "postgres://app:***@db/shop2"
ConfigMap/checkout-config  data["nginx.conf"]: 
    @@ -1,4 +1,4 @@
     a
     b
    -c
    +X
     d
`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestDescriptionsAreBoundedAndHideCredentials(t *testing.T) {
	huge := strings.Repeat("ü", 100_000)
	before := thing(t, `{}`)
	after := thing(t, `{a: "`+huge+`", keyed: [{name: API_TOKEN, value: hunter2}], map: {clientSecret: hunter2}}`)
	plan := planOf(newPlan(t, before, after))
	for _, text := range []string{plan.Diff(), plan.Summary(300)} {
		if strings.Contains(text, "hunter2") {
			t.Errorf("shows a credential: %s", text)
		}
	}
	if diff := plan.Diff(); len(diff) > 2000 {
		t.Errorf("%d bytes of diff", len(diff))
	}
	for limit := range 60 {
		if got := plan.Summary(limit); len(got) > limit {
			t.Errorf("a summary of %d bytes, at most %d were asked for: %q", len(got), limit, got)
		}
	}
	live := thing(t, `{keyed: [{name: API_TOKEN, value: hunter2, a: 1}]}`)
	for _, report := range plan.Objects[0].Compare(live).ForeignPaths {
		if strings.Contains(report.Live+report.After+report.Before, "hunter2") {
			t.Errorf("a report shows a credential: %+v", report)
		}
	}
}

func TestSummary(t *testing.T) {
	one := newPlan(t, thing(t, `{a: 1}`), thing(t, `{a: 2}`))
	if got := planOf(one).Summary(200); got != "Thing/thing spec.a: 1 → 2" {
		t.Error(got)
	}
	two := newPlan(t, thing(t, `{a: 1, b: 1}`), thing(t, `{a: 2}`))
	if got := planOf(two).Summary(200); got != "2 values in 1 objects: Thing/thing spec.a: 1 → 2; Thing/thing spec.b: removed 1" {
		t.Error(got)
	}
	if got := planOf().Summary(200); got != "nothing changes" {
		t.Error(got)
	}
}

func TestP13_Overlaps(t *testing.T) {
	plan := func(before, after string) ObjectPlan { return newPlan(t, thing(t, before), thing(t, after)) }
	image := plan(`{keyed: [{name: x, a: 1, b: 1}]}`, `{keyed: [{name: x, a: 2, b: 1}]}`)
	sibling := plan(`{keyed: [{name: x, a: 1, b: 1}]}`, `{keyed: [{name: x, a: 1, b: 2}]}`)
	item := plan(`{keyed: [{name: x, a: 1}]}`, `{keyed: []}`)
	prefix := plan(`{a: 1, "a2": 1}`, `{a: 1, "a2": 2}`)
	field := plan(`{a: 1}`, `{a: 2}`)
	elsewhere := field
	elsewhere.Ref.Namespace = "other"
	upgraded := field
	upgraded.Ref.APIVersion, upgraded.Ref.UID = "example.org/v2", "u9"
	for _, test := range []struct {
		name  string
		p, q  ObjectPlan
		count int
	}{
		{"the same path", field, field, 1},
		{"the same object in another version", field, upgraded, 1},
		{"another object", field, elsewhere, 0},
		{"siblings", image, sibling, 0},
		{"a part of a removed item", image, item, 1},
		{"a removed item around a part", item, image, 1},
		{"a longer name", field, prefix, 0},
	} {
		if shared := planOf(test.p).Overlaps(planOf(test.q)); len(shared) != test.count {
			t.Errorf("%s: %v", test.name, shared)
		}
	}
}

func TestApprovalDigestNamesWhatIsTouched(t *testing.T) {
	digest := func(before, after string) string {
		return planOf(newPlan(t, thing(t, before), thing(t, after))).BeforeDigest()
	}
	base := digest(`{a: 1, b: 1}`, `{a: 2, b: 1}`)
	if other := digest(`{a: 1, b: 9}`, `{a: 2, b: 9}`); other != base {
		t.Error("an untouched value changes the digest")
	}
	for name, other := range map[string]string{
		"value before": digest(`{a: 0, b: 1}`, `{a: 2, b: 1}`),
		"value after":  digest(`{a: 1, b: 1}`, `{a: 3, b: 1}`),
		"added null":   digest(`{b: 1}`, `{a: null, b: 1}`),
		"more paths":   digest(`{a: 1, b: 1}`, `{a: 2, b: 2}`),
	} {
		if other == base {
			t.Errorf("%s does not change the digest", name)
		}
	}
}

func TestTooLargePlansAreRefused(t *testing.T) {
	plan := planOf(newPlan(t, thing(t, `{}`), thing(t, `{a: "`+strings.Repeat("x", MaxBytes)+`"}`)))
	_, err := plan.Encode()
	if !errors.Is(err, ErrTooLarge) || !strings.Contains(err.Error(), "921600") {
		t.Errorf("answered %v", err)
	}
}

func TestDecodeRefuses(t *testing.T) {
	data, err := planOf(newPlan(t, thing(t, `{a: 1}`), thing(t, `{a: 2}`))).Encode()
	if err != nil {
		t.Fatal(err)
	}
	for name, replace := range map[string][2]string{
		"another version":    {`"version":1`, `"version":2`},
		"no version":         {`"version":1`, `"objects2":1`},
		"an unknown field":   {`"version":1`, `"version":1,"extra":1`},
		"an unknown part":    {`"path":"spec.a"`, `"path":"spec.a","extra":1`},
		"a repeated field":   {`"path":"spec.a"`, `"path":"spec.a","path":"spec.b"`},
		"another path form":  {`"path":"spec.a"`, `"path":"[\"spec\"].a"`},
		"an empty path":      {`"path":"spec.a"`, `"path":""`},
		"a broken state":     {`"before":{"apiVersion"`, `"before":[],"x":{"apiVersion"`},
		"something after it": {`"version":1}`, `"version":1}{}`},
	} {
		damaged := strings.Replace(string(data), replace[0], replace[1], 1)
		if damaged == string(data) {
			t.Fatalf("%s: nothing to replace in %s", name, data)
		}
		if _, err := Decode([]byte(damaged)); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func TestGitOpsOwner(t *testing.T) {
	build := func(metadata string) *unstructured.Unstructured {
		return object(t, "apiVersion: v1\nkind: ConfigMap\nmetadata: "+metadata+"\ndata: {a: \"1\"}")
	}
	owns := func(manager, operation, fields string) string {
		return `managedFields: [{manager: ` + manager + `, operation: ` + operation + `, apiVersion: v1, fieldsType: FieldsV1, fieldsV1: ` + fields + `}]`
	}
	for _, test := range []struct {
		name, metadata, owner, detail string
	}{
		{"nobody", `{name: c}`, "", ""},
		{"another tool", `{name: c, ` + owns("kubectl", "Apply", `{"f:data": {"f:a": {}}}`) + `}`, "", ""},
		{"Flux owns the field", `{name: c, ` + owns("kustomize-controller", "Apply", `{"f:data": {"f:a": {}}}`) + `}`, "Flux (Kustomization)", "data.a"},
		{
			"Flux applies, without this field",
			`{name: c, labels: {kustomize.toolkit.fluxcd.io/name: apps}, ` + owns("kustomize-controller", "Apply", `{"f:data": {"f:b": {}}}`) + `}`, "", "",
		},
		{"Argo CD tracks", `{name: c, annotations: {argocd.argoproj.io/tracking-id: "shop:/ConfigMap:shop/c"}}`, "Argo CD", "argocd.argoproj.io/tracking-id"},
		{
			"Argo CD updates, this field is another's",
			`{name: c, labels: {argocd.argoproj.io/instance: shop}, ` + owns("argocd-controller", "Update", `{"f:data": {"f:b": {}}}`) + `}`, "Argo CD", "label",
		},
		{"Helm controller tracks", `{name: c, labels: {helm.toolkit.fluxcd.io/name: x}}`, "Flux (HelmRelease)", "label"},
	} {
		t.Run(test.name, func(t *testing.T) {
			owner, detail, owned := GitOpsOwner(build(test.metadata), []PathChange{{Path: Path{{Field: "data"}, {Field: "a"}}}})
			if owner != test.owner || owned != (test.owner != "") || !strings.Contains(detail, test.detail) {
				t.Errorf("answered %q %q %v", owner, detail, owned)
			}
		})
	}
}

func TestPathText(t *testing.T) {
	for _, text := range []string{
		"spec.template.spec.containers[name=checkout].image",
		`spec.ports[port=53,protocol=UDP].name`,
		`metadata.annotations["example.org/x.y"]`,
		`spec.keyed[name="8080"]`, `spec.keyed[name="true"]`, `spec.keyed[name=null]`, `spec.set[=red]`, `spec.set[=1]`,
		`["a.b"][""].c`,
	} {
		if path, err := ParsePath(text); err != nil || path.String() != text {
			t.Errorf("%s: %s %v", text, path, err)
		}
	}
	for _, text := range []string{
		".a", "a.", "a..b", "a[", "a[]", "a[b", "a[b=", "a[b=1", "a[b=1,]", "a[b=1,a=2]", "a[=]", `a["b"]`, "a b", `a[b={"x":1 }]`, `a[b="x"]`, "a[b=1.0]",
	} {
		if path, err := ParsePath(text); err == nil {
			t.Errorf("%s is read as %s", text, path)
		}
	}
}

func TestCanonicalIsAFixedPoint(t *testing.T) {
	for input, want := range map[string]string{
		`{"b":1.0,"a":[1e3,-0,-0.0,1.5,1e400]}`: "",
		`{"b":1.0,"a":[1e3,-0,1.5,1e30]}`:       `{"a":[1000,0,1.5,1e+30],"b":1}`,
		`9223372036854775807`:                   `9223372036854775807`,
		`9223372036854775808`:                   `9223372036854776000`,
		`"<\u0000\u2028"`:                       `"\u003c\u0000\u2028"`,
	} {
		got, err := recode([]byte(input))
		if want == "" {
			if err == nil {
				t.Errorf("%s is read as %s", input, got)
			}
			continue
		}
		again, againErr := recode(got)
		if err != nil || againErr != nil || string(got) != want || string(again) != want {
			t.Errorf("%s: %s, then %s (%v %v)", input, got, again, err, againErr)
		}
	}
}
