// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	registrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// liveGate sees every real (not dry-run) update of an object in its namespace,
// and the creation of each snapshot, before it is made: the API server asks it,
// as an admission webhook.
type liveGate struct {
	mu     sync.Mutex
	decide func(object string) gateAnswer
	seen   []string
	// request decides instead of decide, where it is set, and sees dry runs too.
	request func(*admissionv1.AdmissionRequest) gateAnswer
}

// gateAnswer is what becomes of an update.
type gateAnswer int

const (
	gateAllow gateAnswer = iota
	// gateDeny refuses, as a policy does: trying again changes nothing.
	gateDeny
	// gateBreak fails, as a webhook that is down does: trying again may help.
	gateBreak
)

const gateProbe = "gate-probe"

func asks(operation registrationv1.OperationType, group string, resources ...string) registrationv1.RuleWithOperations {
	return registrationv1.RuleWithOperations{
		Operations: []registrationv1.OperationType{operation},
		Rule:       registrationv1.Rule{APIGroups: []string{group}, APIVersions: []string{"*"}, Resources: resources},
	}
}

// gate puts a gate in front of the namespace and waits until it is in force.
func (w *world) gate(more ...registrationv1.RuleWithOperations) *liveGate {
	w.Helper()
	g := &liveGate{decide: func(string) gateAnswer { return gateAllow }}
	url, authority := g.serve(w)
	hook := &registrationv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "gate-" + w.namespace},
		Webhooks: []registrationv1.ValidatingWebhook{{
			Name:                    "gate.test.dgm.acgs.io",
			ClientConfig:            registrationv1.WebhookClientConfig{URL: &url, CABundle: authority},
			NamespaceSelector:       &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: w.namespace}},
			SideEffects:             new(registrationv1.SideEffectClassNone),
			AdmissionReviewVersions: []string{"v1"},
			Rules: append([]registrationv1.RuleWithOperations{
				asks(registrationv1.Update, "", "configmaps", "services"), asks(registrationv1.Update, "apps", "deployments"),
				asks(registrationv1.Create, "apps", "controllerrevisions"),
			}, more...),
		}},
	}
	w.create(hook)
	w.Cleanup(func() { _ = w.Delete(context.Background(), hook) })
	w.configMap(gateProbe, nil)
	w.eventually("the gate is in force", func() error {
		w.setData(gateProbe, "probe", time.Now().String())
		if len(g.updates(gateProbe)) == 0 {
			return errorf("the API server does not ask it")
		}
		return nil
	})
	return g
}

// rule replaces what the gate does; object is "Kind/name".
func (g *liveGate) rule(decide func(object string) gateAnswer) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.decide = decide
}

// hold breaks every update of one object, until open.
func (g *liveGate) hold(object string) {
	g.rule(func(asked string) gateAnswer {
		if asked == object {
			return gateBreak
		}
		return gateAllow
	})
}

func (g *liveGate) open() { g.rule(func(string) gateAnswer { return gateAllow }) }

// updates are the objects, in order, whose updates were asked for and whose
// name contains part.
func (g *liveGate) updates(part string) []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	var found []string
	for _, object := range g.seen {
		if strings.Contains(object, part) {
			found = append(found, object)
		}
	}
	return found
}

func (g *liveGate) answer(request *admissionv1.AdmissionRequest) gateAnswer {
	if g.request != nil {
		return g.request(request)
	}
	if request.DryRun != nil && *request.DryRun {
		return gateAllow
	}
	object := request.Kind.Kind + "/" + request.Name
	g.mu.Lock()
	g.seen = append(g.seen, object)
	decide := g.decide
	g.mu.Unlock()
	return decide(object)
}

func (g *liveGate) serve(w *world) (url string, authority []byte) {
	w.Helper()
	certificate, authority := selfSigned(w)
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS13})
	if err != nil {
		w.Fatal(err)
	}
	server := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(out http.ResponseWriter, in *http.Request) {
		var review admissionv1.AdmissionReview
		if err := json.NewDecoder(in.Body).Decode(&review); err != nil {
			http.Error(out, err.Error(), http.StatusBadRequest)
			return
		}
		answer := g.answer(review.Request)
		if answer == gateBreak {
			http.Error(out, "held by the test", http.StatusInternalServerError)
			return
		}
		review.Response = &admissionv1.AdmissionResponse{UID: review.Request.UID, Allowed: answer == gateAllow, Result: &metav1.Status{Message: "refused by the test"}}
		_ = json.NewEncoder(out).Encode(review)
	})}
	go func() { _ = server.Serve(listener) }()
	w.Cleanup(func() { _ = server.Close() })
	return "https://" + listener.Addr().String() + "/", authority
}

func selfSigned(w *world) (tls.Certificate, []byte) {
	w.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		w.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		w.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// setData sets one value of a ConfigMap, as somebody else than the operator.
func (w *world) setData(name, key, value string) {
	w.Helper()
	object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: name}}
	patch, err := json.Marshal(map[string]any{"data": map[string]string{key: value}})
	if err == nil {
		err = w.Patch(context.Background(), object, client.RawPatch("application/merge-patch+json", patch), client.FieldOwner("somebody"))
	}
	if err != nil {
		w.Fatal(err)
	}
}
