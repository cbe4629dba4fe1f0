package snapshot_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/acgs/dgm-operator/internal/snapshot"
)

const reader = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop, namespace: shop, uid: u1, resourceVersion: "7", generation: 3,
  annotations: {kubectl.kubernetes.io/last-applied-configuration: '{"PASSWORD":"hunter2"}'}}
spec:
  template:
    spec:
      imagePullSecrets: [{name: pull}]
      initContainers: [{name: init, envFrom: [{configMapRef: {name: first}}, {secretRef: {name: keys}}]}]
      containers:
      - name: main
        env:
        - {name: PASSWORD, value: hunter2}
        - {name: A, valueFrom: {configMapKeyRef: {name: one, key: a}}}
        - {name: B, valueFrom: {secretKeyRef: {name: keys, key: b}}}
        - {name: C, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
      volumes:
      - {name: a, configMap: {name: settings}}
      - {name: b, secret: {secretName: tls}}
      - {name: c, projected: {sources: [{configMap: {name: one}}, {secret: {name: more}}]}}
status: {replicas: 1}
`

func object(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	o := &unstructured.Unstructured{}
	encoded, err := yaml.YAMLToJSON([]byte(text))
	if err == nil {
		err = o.UnmarshalJSON(encoded)
	}
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestReferences(t *testing.T) {
	configMaps, secrets := snapshot.References(object(t, reader))
	if diff := cmp.Diff([][]string{{"first", "one", "settings"}, {"keys", "more", "pull", "tls"}}, [][]string{configMaps, secrets}); diff != "" {
		t.Error(diff)
	}
	for _, other := range []string{
		"{apiVersion: v1, kind: Service, metadata: {name: shop}, spec: {ports: [{port: 80}]}}",
		"{apiVersion: v1, kind: ConfigMap, metadata: {name: shop}, data: {a: b}}",
	} {
		if configMaps, secrets := snapshot.References(object(t, other)); len(configMaps)+len(secrets) > 0 {
			t.Errorf("%s reads %v and %v", other, configMaps, secrets)
		}
	}
	job := "{apiVersion: batch/v1, kind: CronJob, metadata: {name: j}, spec: {jobTemplate: {spec: {template: {spec: {containers: [{name: a, envFrom: [{configMapRef: {name: c}}]}]}}}}}}"
	if configMaps, _ := snapshot.References(object(t, job)); !cmp.Equal(configMaps, []string{"c"}) {
		t.Errorf("the CronJob reads %v", configMaps)
	}
}

func TestEnvironmentHidesCredentials(t *testing.T) {
	e, err := snapshot.NewEnvironment(snapshot.Plan{})
	if err != nil {
		t.Fatal(err)
	}
	secret := object(t, "{apiVersion: v1, kind: Secret, metadata: {name: keys, uid: u2}, type: Opaque, data: {b: aHVudGVyMg==}}")
	for range 2 {
		if err := e.Add(snapshot.RoleTarget, object(t, reader)); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.AddSecret(secret); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	for _, hidden := range []string{"hunter2", "aHVudGVyMg", "resourceVersion", "status"} {
		if strings.Contains(string(text), hidden) {
			t.Errorf("it shows %s: %s", hidden, text)
		}
	}
	if len(e.Objects) != 1 || len(e.Objects[0].SHA256) != 64 || len(e.Secrets[0].SHA256) != 64 {
		t.Errorf("it holds %s", text)
	}
	changed := secret.DeepCopy()
	changed.Object["data"] = map[string]any{"b": "aHVudGVyMw=="}
	if err := e.AddSecret(changed); err != nil || e.Secrets[0].SHA256 == e.Secrets[1].SHA256 {
		t.Errorf("another value has the same digest: %+v, %v", e.Secrets, err)
	}
}

func TestEnvironmentIsBounded(t *testing.T) {
	e, err := snapshot.NewEnvironment(snapshot.Plan{})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "b", "c"} {
		large := object(t, "{apiVersion: v1, kind: ConfigMap, metadata: {name: "+name+"}}")
		large.Object["data"] = map[string]any{"text": strings.Repeat("x", 100<<10)}
		if err := e.Add(snapshot.RoleReferenced, large); err != nil {
			t.Fatal(err)
		}
	}
	text, err := json.Marshal(e)
	if err != nil || len(text) > 260<<10 {
		t.Errorf("it has %d bytes, %v", len(text), err)
	}
	if e.Objects[2].Object != nil || len(e.Objects[2].SHA256) != 64 || len(e.Notes) != 1 || !strings.Contains(e.Notes[0], "ConfigMap/c") {
		t.Errorf("of the last object there is %d bytes, %v", len(e.Objects[2].Object), e.Notes)
	}
}
