// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/internal/snapshot"
)

func object(t *testing.T, manifest string) *unstructured.Unstructured {
	t.Helper()
	out := &unstructured.Unstructured{}
	data, err := yaml.YAMLToJSON([]byte(manifest))
	if err == nil {
		err = out.UnmarshalJSON(data)
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func source() Source {
	w := &dgmv1alpha1.ImprovementWorkspace{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cache", UID: "uid-1"}}
	w.Status.ImprovementID = "01234567-89ab-cdef-0123-456789abcdef"
	w.Spec.Sandbox = &dgmv1alpha1.Sandbox{}
	return Source{Improvement: w, OperatorNamespace: "dgm-system", OperatorAccount: "dgm-operator"}
}

func design(t *testing.T, s Source) *Design {
	t.Helper()
	d, err := New(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// copied finds the copy of a kind.
func copied[T Object](t *testing.T, d *Design) T {
	t.Helper()
	for _, object := range slices.Concat(d.Fence, d.Copies) {
		if typed, ok := object.(T); ok {
			return typed
		}
	}
	var none T
	t.Fatalf("there is no %T among the copies; left out: %q", none, d.LeftOut)
	return none
}

func TestNamespaceKeepsThePodSecurityOfItsSource(t *testing.T) {
	for name, test := range map[string]struct{ labels, want map[string]string }{
		"none":       {nil, map[string]string{"pod-security.kubernetes.io/enforce": "baseline"}},
		"privileged": {map[string]string{"pod-security.kubernetes.io/enforce": "privileged", "team": "shop"}, map[string]string{"pod-security.kubernetes.io/enforce": "baseline"}},
		"restricted": {
			map[string]string{"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/enforce-version": "v1.30"},
			map[string]string{"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/enforce-version": "v1.30"},
		},
	} {
		s := source()
		s.NamespaceLabels = test.labels
		namespace := design(t, s).Namespace
		test.want[dgmv1alpha1.LabelSandbox] = "uid-1"
		if diff := cmp.Diff(test.want, namespace.Labels); diff != "" || namespace.Name != "dgm-sandbox-0123456789abcdef0123" {
			t.Errorf("%s: namespace %s (-want +got):\n%s", name, namespace.Name, diff)
		}
	}
}

func TestTheChangeIsInTheCopyAndAddressesLeadToTheCopies(t *testing.T) {
	before := object(t, `{apiVersion: v1, kind: ConfigMap, metadata: {name: config, namespace: shop, uid: u1, labels: {argocd.argoproj.io/instance: shop, app: checkout}}, data: {TTL: "5", URL: "http://stock.shop.svc:80/ and mystock.shop.svc and stock.shop.svcx"}}`)
	after := before.DeepCopy()
	after.Object["data"].(map[string]any)["TTL"] = "60"
	change, err := snapshot.NewObjectPlan("cache", before, after, "dgm-operator")
	if err != nil {
		t.Fatal(err)
	}
	s := source()
	s.Plan.Objects = []snapshot.ObjectPlan{change}
	s.Included = []*unstructured.Unstructured{
		before, // it changes: what is included does not replace that
		object(t, `{apiVersion: v1, kind: Service, metadata: {name: stock, namespace: shop, annotations: {external-dns.alpha.kubernetes.io/hostname: shop.example.com}}, spec: {type: LoadBalancer, clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1], selector: {app: stock}, ports: [{port: 80, nodePort: 30080}]}}`),
	}
	d := design(t, s)
	config := copied[*corev1.ConfigMap](t, d)
	want := map[string]string{"TTL": "60", "URL": "http://stock.dgm-sandbox-0123456789abcdef0123.svc:80/ and mystock.shop.svc and stock.shop.svcx"}
	if diff := cmp.Diff(want, config.Data); diff != "" {
		t.Errorf("data (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]string{"app": "checkout"}, config.Labels); diff != "" || config.UID != "" {
		t.Errorf("labels (-want +got):\n%s", diff)
	}
	service := copied[*corev1.Service](t, d)
	if len(service.Annotations) != 0 {
		t.Errorf("the copy of a Service takes the live one's names: %v", service.Annotations)
	}
	if service.Spec.ClusterIP != "" || service.Spec.Type != corev1.ServiceTypeClusterIP || service.Spec.Ports[0].NodePort != 0 || len(service.Spec.Selector) != 1 {
		t.Errorf("the Service is %+v", service.Spec)
	}
}

const hostile = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: checkout, namespace: shop, ownerReferences: [{apiVersion: v1, kind: X, name: x, uid: u2}], finalizers: [a/b]}
spec:
  replicas: 7
  paused: true
  selector: {matchLabels: {app: checkout}}
  template:
    metadata:
      labels: {app: checkout, dgm.acgs.io/test: smoke, app.kubernetes.io/instance: shop}
      annotations: {prometheus.io/scrape: "true", team: shop}
      finalizers: [example.com/never]
    spec:
      terminationGracePeriodSeconds: 31536000
      serviceAccountName: admin
      automountServiceAccountToken: true
      priorityClassName: system-node-critical
      nodeName: node-1
      hostNetwork: true
      imagePullSecrets: [{name: registry}]
      affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: zone, namespaces: [shop, other]}]}}
      containers:
      - name: checkout
        image: shop/checkout:1
        ports: [{containerPort: 80, hostPort: 80}]
        env:
        - {name: PASSWORD, valueFrom: {secretKeyRef: {name: db, key: password}}}
        envFrom: [{secretRef: {name: more}}, {configMapRef: {name: missing}}]
      volumes:
      - {name: host, hostPath: {path: /}}
      - {name: nfs, nfs: {server: live, path: /}}
      - {name: secret, secret: {secretName: tls}}
      - {name: data, persistentVolumeClaim: {claimName: data}}
      - name: all
        projected: {sources: [{serviceAccountToken: {path: token}}, {secret: {name: tls}}, {configMap: {name: config, optional: true}}]}
status: {replicas: 7}
`

func TestP8_PodsGetNothingOfTheLiveOnes(t *testing.T) {
	s := source()
	s.Included = []*unstructured.Unstructured{object(t, hostile)}
	d := design(t, s)
	copied := copied[*appsv1.Deployment](t, d)
	pod := copied.Spec.Template.Spec
	if *copied.Spec.Replicas != 1 || copied.Spec.Paused || len(copied.OwnerReferences)+len(copied.Finalizers) != 0 {
		t.Errorf("the copy is %+v", copied.ObjectMeta)
	}
	if pod.ServiceAccountName != Account || *pod.AutomountServiceAccountToken || pod.PriorityClassName != "" || pod.NodeName != "" || pod.HostNetwork || pod.Containers[0].Ports[0].HostPort != 0 {
		t.Errorf("the pods are %+v", pod)
	}
	if len(copied.Spec.Template.Finalizers) != 0 || *pod.TerminationGracePeriodSeconds != 30 {
		t.Errorf("pods keep the sandbox from ending: finalizers %v, %d s", copied.Spec.Template.Finalizers, *pod.TerminationGracePeriodSeconds)
	}
	if diff := cmp.Diff(map[string]string{"app": "checkout", "app.kubernetes.io/instance": "shop"}, copied.Spec.Template.Labels); diff != "" {
		t.Errorf("labels of pods (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]string{"team": "shop"}, copied.Spec.Template.Annotations); diff != "" {
		t.Errorf("annotations of pods (-want +got):\n%s", diff)
	}
	if pod.Volumes[0].EmptyDir == nil || pod.Volumes[0].HostPath != nil || pod.Volumes[1].EmptyDir == nil || pod.Volumes[1].NFS != nil {
		t.Errorf("the volumes are %+v", pod.Volumes)
	}
	if sources := pod.Volumes[4].Projected.Sources; len(sources) != 1 || sources[0].ConfigMap == nil {
		t.Errorf("the projected volume has %+v", sources)
	}
	if !*pod.Volumes[2].Secret.Optional || !*pod.Containers[0].Env[0].ValueFrom.SecretKeyRef.Optional || !*pod.Containers[0].EnvFrom[0].SecretRef.Optional {
		t.Error("a pod would wait for a Secret that nobody copies")
	}
	if got := pod.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution[0].Namespaces; !slices.Equal(got, []string{d.Namespace.Name, "other"}) {
		t.Errorf("the namespaces are %v", got)
	}
	want := []string{
		"Deployment/checkout: it runs without the network and the processes of the node",
		"Secret/db, which Deployment/checkout uses: Secrets are not copied, it runs without",
		"Secret/more, which Deployment/checkout uses: Secrets are not copied, it runs without",
		"volume host of Deployment/checkout: it is not of the sandbox, an empty directory takes its place",
		"volume nfs of Deployment/checkout: it is not of the sandbox, an empty directory takes its place",
		"Secret/tls, which Deployment/checkout uses: Secrets are not copied, it runs without",
		"volume all of Deployment/checkout: pods of a sandbox get no token and no certificate",
		"PersistentVolumeClaim/data, which Deployment/checkout uses: name it in spec.sandbox.include",
		"ConfigMap/missing, which Deployment/checkout uses: name it in spec.sandbox.include",
	}
	if diff := cmp.Diff(want, d.LeftOut); diff != "" {
		t.Errorf("left out (-want +got):\n%s", diff)
	}
}

func TestP8_OfSecretsOnlyThoseToPullImagesByAreCopied(t *testing.T) {
	s := source()
	s.Included = []*unstructured.Unstructured{object(t, hostile)}
	d := design(t, s)
	if got := d.PullSecrets(); !slices.Equal(got, []string{"registry"}) {
		t.Fatalf("the pull secrets are %v", got)
	}
	data := map[string][]byte{corev1.DockerConfigJsonKey: []byte("{}"), "other": []byte("secret")}
	d.AddPullSecret(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "registry"}, Type: corev1.SecretTypeDockerConfigJson, Data: data}, false)
	d.AddPullSecret(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "db"}, Type: corev1.SecretTypeOpaque, Data: data}, true)
	secret := copied[*corev1.Secret](t, d)
	if secret.Name != "registry" || len(secret.Data) != 1 {
		t.Errorf("%s is copied with %d values; want registry with one", secret.Name, len(secret.Data))
	}
	for _, object := range d.Fence {
		if object.GetName() == "db" {
			t.Error("a Secret of another type is copied")
		}
	}
	if !strings.Contains(strings.Join(d.LeftOut, "\n"), "Secret/db: it is named to pull images by, but is of type Opaque") {
		t.Errorf("left out: %q", d.LeftOut)
	}
}

func TestOtherKinds(t *testing.T) {
	s := source()
	for _, manifest := range []string{
		`{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: db}, spec: {replicas: 3, serviceName: db, ordinals: {start: 2}, selector: {matchLabels: {app: db}}, template: {metadata: {labels: {app: db}}, spec: {containers: [{name: db, image: db}]}}, volumeClaimTemplates: [{metadata: {name: data}, spec: {accessModes: [ReadWriteOnce], volumeName: pv-live, dataSource: {kind: PersistentVolumeClaim, name: live}, resources: {requests: {storage: 1Gi}}}}]}}`,
		`{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: agent}, spec: {selector: {matchLabels: {app: agent}}, template: {metadata: {labels: {app: agent}}, spec: {containers: [{name: agent, image: agent}]}}}}`,
		`{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: data, annotations: {pv.kubernetes.io/bind-completed: "yes"}}, spec: {volumeName: pv-live, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}, status: {phase: Bound}}`,
		`{apiVersion: v1, kind: Service, metadata: {name: payments}, spec: {type: ExternalName, externalName: payments.example.com}}`,
		`{apiVersion: v1, kind: ConfigMap, metadata: {name: dgm-sandbox}, data: {leftOut: nothing}}`,
		`{apiVersion: example.com/v1, kind: Widget, metadata: {name: w}}`,
	} {
		s.Included = append(s.Included, object(t, manifest))
	}
	d := design(t, s)
	set := copied[*appsv1.StatefulSet](t, d)
	if claim := set.Spec.VolumeClaimTemplates[0].Spec; *set.Spec.Replicas != 1 || set.Spec.Ordinals != nil || claim.VolumeName != "" || claim.DataSource != nil || claim.Resources.Requests.Storage().String() != "1Gi" {
		t.Errorf("the StatefulSet is %+v", set.Spec)
	}
	if agent := copied[*appsv1.Deployment](t, d); agent.Name != "agent" || *agent.Spec.Replicas != 1 {
		t.Errorf("the DaemonSet becomes %+v", agent)
	}
	if claim := copied[*corev1.PersistentVolumeClaim](t, d); claim.Spec.VolumeName != "" || len(claim.Annotations) != 0 {
		t.Errorf("the claim is %+v", claim)
	}
	want := []string{
		"ConfigMap/dgm-sandbox: the sandbox has one of this name itself",
		"Service/payments: it leads out of the sandbox, to payments.example.com",
		"DaemonSet/agent: it is tried as a Deployment of one pod",
		"Widget/w: objects of this kind are not copied",
	}
	if diff := cmp.Diff(want, d.LeftOut); diff != "" {
		t.Errorf("left out (-want +got):\n%s", diff)
	}
}

func TestNetworkPoliciesDenyAllButWhatIsDeclared(t *testing.T) {
	s := source()
	s.Improvement.Spec.Sandbox.Egress = []dgmv1alpha1.SandboxEgress{
		{CIDR: "10.1.0.0/16", Ports: []int32{5432}}, {PodSelector: map[string]dgmv1alpha1.LabelValue{"app": "stock"}},
	}
	policies := map[string]networkingv1.NetworkPolicySpec{}
	for _, object := range design(t, s).Fence {
		if policy, ok := object.(*networkingv1.NetworkPolicy); ok {
			policies[policy.Name] = policy.Spec
		}
	}
	if deny := policies["deny-all"]; len(deny.PolicyTypes) != 2 || len(deny.Ingress)+len(deny.Egress)+len(deny.PodSelector.MatchLabels) != 0 {
		t.Errorf("deny-all is %+v", deny)
	}
	allow, err := yaml.Marshal(policies["allow-declared"])
	if err != nil {
		t.Fatal(err)
	}
	const want = `egress:
- to:
  - podSelector: {}
- ports:
  - port: 53
    protocol: UDP
  - port: 53
    protocol: TCP
  to:
  - namespaceSelector:
      matchLabels:
        kubernetes.io/metadata.name: kube-system
- ports:
  - port: 5432
    protocol: TCP
  to:
  - ipBlock:
      cidr: 10.1.0.0/16
- to:
  - namespaceSelector:
      matchLabels:
        kubernetes.io/metadata.name: shop
    podSelector:
      matchLabels:
        app: stock
ingress:
- from:
  - podSelector: {}
podSelector: {}
policyTypes:
- Ingress
- Egress
`
	if diff := cmp.Diff(want, string(allow)); diff != "" {
		t.Errorf("allow-declared (-want +got):\n%s", diff)
	}
}

func TestP8_NoSandboxReachesTheCredentialsOfANode(t *testing.T) {
	s := source()
	s.Improvement.Spec.Sandbox.Egress = []dgmv1alpha1.SandboxEgress{{CIDR: "0.0.0.0/0"}, {CIDR: "169.254.169.254/32"}, {CIDR: "::/0"}, {CIDR: "169.254.20.10/32"}}
	d := design(t, s)
	var blocks []networkingv1.IPBlock
	for _, rule := range copied[*networkingv1.NetworkPolicy](t, &Design{Fence: d.Fence[2:]}).Spec.Egress[2:] {
		blocks = append(blocks, *rule.To[0].IPBlock)
	}
	want := []networkingv1.IPBlock{
		{CIDR: "0.0.0.0/0", Except: []string{"169.254.169.254/32", "100.100.100.200/32"}},
		{CIDR: "::/0", Except: []string{"fd00:ec2::254/128", "fd20:ce::254/128"}},
		{CIDR: "169.254.20.10/32"},
	}
	if diff := cmp.Diff(want, blocks); diff != "" {
		t.Errorf("what is open (-want +got):\n%s", diff)
	}
	if !slices.Equal(d.LeftOut, []string{"egress to 169.254.169.254/32: clouds hand out credentials there, no sandbox reaches it"}) {
		t.Errorf("left out: %q", d.LeftOut)
	}
}

func TestP8_PodsStayOnTheNodesOfTheirNamespace(t *testing.T) {
	s := source()
	s.NamespaceAnnotations = map[string]string{
		"scheduler.alpha.kubernetes.io/node-selector": "pool=shop", "scheduler.alpha.kubernetes.io/tolerationsWhitelist": "[]",
		"openshift.io/node-selector": "pool=shop", "team": "shop", dgmv1alpha1.AnnotationSandboxOf: "other/one",
	}
	want := map[string]string{
		"scheduler.alpha.kubernetes.io/node-selector": "pool=shop", "scheduler.alpha.kubernetes.io/tolerationsWhitelist": "[]",
		"openshift.io/node-selector": "pool=shop", dgmv1alpha1.AnnotationSandboxOf: "shop/cache", dgmv1alpha1.AnnotationImprovementID: s.Improvement.Status.ImprovementID,
	}
	if diff := cmp.Diff(want, design(t, s).Namespace.Annotations); diff != "" {
		t.Errorf("annotations (-want +got):\n%s", diff)
	}
}
