// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

// What a person sees and types.

// person is a user of the cluster at a shell.
type person struct {
	kubeconfig string
	name       string
}

func administrator() person { return person{filepath.Join(stack.local, "kubeconfig"), "admin"} }

// newPerson is a user with a ClusterRole in a namespace.
func newPerson(t *testing.T, name, namespace, clusterRole string) person {
	t.Helper()
	config, err := clientcmd.LoadFromFile(administrator().kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	for _, user := range config.AuthInfos {
		user.Impersonate = name
	}
	p := person{filepath.Join(t.TempDir(), "kubeconfig"), name}
	if err := clientcmd.WriteToFile(*config, p.kubeconfig); err != nil {
		t.Fatal(err)
	}
	administrator().types(t, "kubectl create rolebinding "+name+" --namespace="+namespace+" --clusterrole="+clusterRole+" --user="+name)
	return p
}

// tries runs a command line, and returns what it says.
func (p person) tries(t *testing.T, line string) (said string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", line)
	cmd.Env = append(os.Environ(), "PATH="+stack.path, "KUBECONFIG="+p.kubeconfig)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// types runs a command line that has to succeed.
func (p person) types(t *testing.T, line string) (said string) {
	t.Helper()
	said, err := p.tries(t, line)
	if err != nil {
		t.Fatalf("%s types %q: %v: %s", p.name, line, err, said)
	}
	return said
}

// expectFinished waits as a person or a script would: kubectl wait must not hang
// whichever way an improvement ends.
func expectFinished(t *testing.T, w *dgmv1alpha1.ImprovementWorkspace, phase dgmv1alpha1.Phase) {
	t.Helper()
	administrator().types(t, "kubectl wait --for=condition=Finished --timeout=170s -n "+w.Namespace+" improvement/"+w.Name)
	expectPhase(t, w, phase)
}

// readings is what kstatus, and so Argo CD, Flux and kubectl, read from each
// version of an improvement.
type readings struct {
	mu    sync.Mutex
	order []dgmv1alpha1.Phase
}

// phases are those that were seen, in order, each once for each stay.
func (r *readings) phases() []dgmv1alpha1.Phase {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]dgmv1alpha1.Phase(nil), r.order...)
}

// readEachVersion reads every version of the improvements of a namespace by the
// rules of kstatus, until the test ends.
func readEachVersion(t *testing.T, namespace string) *readings {
	t.Helper()
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(dgmv1alpha1.GroupVersion.WithKind("ImprovementWorkspaceList"))
	versions, err := stack.client.Watch(context.Background(), list, client.InNamespace(namespace))
	if err != nil {
		t.Fatal(err)
	}
	r := &readings{}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for version := range versions.ResultChan() {
			if object, ok := version.Object.(*unstructured.Unstructured); ok && version.Type != watch.Deleted {
				r.read(t, object)
			}
		}
	}()
	t.Cleanup(func() {
		versions.Stop()
		<-ended
	})
	return r
}

func (r *readings) read(t *testing.T, object *unstructured.Unstructured) {
	t.Helper()
	text, _, _ := unstructured.NestedString(object.Object, "status", "phase")
	observed, _, _ := unstructured.NestedInt64(object.Object, "status", "observedGeneration")
	phase := dgmv1alpha1.Phase(text)
	want := status.InProgressStatus
	if observed == object.GetGeneration() {
		switch phase {
		case dgmv1alpha1.PhaseCompleted, dgmv1alpha1.PhaseRolledBack:
			want = status.CurrentStatus
		case dgmv1alpha1.PhaseFailed:
			want = status.FailedStatus
		default:
		}
	}
	if got, err := status.Compute(object); err != nil || got.Status != want {
		t.Errorf("in phase %q, generation %d of which %d is observed, kstatus reads %+v (%v); want %s", phase, object.GetGeneration(), observed, got, err, want)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if phase != "" && (len(r.order) == 0 || r.order[len(r.order)-1] != phase) {
		r.order = append(r.order, phase)
	}
}
