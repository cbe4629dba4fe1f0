// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"slices"
	"sync"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	registrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/test/operatortest"
)

// writeKills ends the operator at each of its writes that was not seen before: once
// before the write is made, and once after.
type writeKills struct {
	mu    sync.Mutex
	w     *world
	armed bool
	dying bool // nothing more is written before the process ends
	seen  []string
}

// killAtEveryWrite puts an admission webhook in front of all that the operator
// writes of improvements and of sandboxes.
func (w *world) killAtEveryWrite() *writeKills {
	w.Helper()
	k := &writeKills{w: w}
	g := &liveGate{decide: func(string) gateAnswer { return gateAllow }, request: k.meet}
	url, authority := g.serve(w)
	every := func(group string, resources ...string) registrationv1.RuleWithOperations {
		rule := asks(registrationv1.Create, group, resources...)
		rule.Operations = []registrationv1.OperationType{registrationv1.Create, registrationv1.Update, registrationv1.Delete}
		return rule
	}
	hook := &registrationv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "kills-" + w.namespace},
		Webhooks: []registrationv1.ValidatingWebhook{{
			Name:                    "kills.test.dgm.acgs.io",
			ClientConfig:            registrationv1.WebhookClientConfig{URL: &url, CABundle: authority},
			SideEffects:             new(registrationv1.SideEffectClassNoneOnDryRun),
			AdmissionReviewVersions: []string{"v1"},
			MatchConditions:         []registrationv1.MatchCondition{{Name: "operator", Expression: "request.userInfo.username == '" + operatortest.User + "'"}},
			Rules: []registrationv1.RuleWithOperations{
				every("", "namespaces", "configmaps", "limitranges", "resourcequotas", "serviceaccounts", "services"), every("apps", "deployments"),
				every("batch", "jobs"), every("networking.k8s.io", "networkpolicies"), every("rbac.authorization.k8s.io", "rolebindings"),
				every("dgm.acgs.io", "improvementworkspaces", "improvementworkspaces/status"),
			},
		}},
	}
	w.create(hook)
	w.Cleanup(func() { _ = w.Delete(context.Background(), hook) })
	return k
}

// meet kills at a write that is met for the first or the second time: the first
// time the write fails with it, the second time it is made.
func (k *writeKills) meet(request *admissionv1.AdmissionRequest) gateAnswer {
	write := request.Kind.Kind + "/" + request.Name + " " + string(request.Operation) + " " + request.SubResource
	k.mu.Lock()
	defer k.mu.Unlock()
	times := 0
	for _, met := range k.seen {
		if met == write {
			times++
		}
	}
	if k.dying {
		return gateBreak
	}
	most := 2
	if request.Kind.Kind == "ImprovementWorkspace" {
		most = 24 // one write after the other looks the same
	}
	if !k.armed || (request.DryRun != nil && *request.DryRun) || times >= most {
		return gateAllow
	}
	k.armed, k.dying = false, true
	k.seen = append(k.seen, write)
	if times%2 == 0 {
		k.w.operator.Kill()
		return gateDeny
	}
	// After the write: the answer is on its way when the process ends.
	go func(operator *operatortest.Operator) {
		time.Sleep(5 * time.Millisecond)
		operator.Kill()
	}(k.w.operator)
	return gateAllow
}

func (k *writeKills) arm() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.armed, k.dying = true, false
}

func (k *writeKills) disarm() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.armed = false
}

func (k *writeKills) at() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.seen)
}

// through is closed when the improvement has ended.
func (k *writeKills) through(w *world, object *dgmv1alpha1.ImprovementWorkspace) <-chan struct{} {
	ended := make(chan struct{})
	operator := w.operator
	go func() {
		defer close(ended)
		for {
			select {
			case <-operator.Exited():
				return
			case <-time.After(50 * time.Millisecond):
			}
			fresh := &dgmv1alpha1.ImprovementWorkspace{}
			if err := w.Get(context.Background(), client.ObjectKeyFromObject(object), fresh); err == nil && fresh.Status.Phase.IsTerminal() {
				operator.Kill()
				w.removeLease()
				return
			}
		}
	}()
	return ended
}
