// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

func TestP4_AnObjectOlderThanTheLastOwnWriteIsBehind(t *testing.T) {
	at := func(version string) client.Object {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "a", ResourceVersion: version}}
	}
	w := newWritten()
	if w.Behind(at("5")) {
		t.Error("behind, with nothing written")
	}
	w.Record(at("100"))
	if !w.Behind(at("99")) {
		t.Error("99 is older than 100, and not behind")
	}
	if w.Behind(at("100")) || len(w.versions) != 0 {
		t.Errorf("caught up, and still remembered: %v", w.versions)
	}
	w.Record(at("200"))
	w.Forget(client.ObjectKeyFromObject(at("")))
	if len(w.versions) != 0 {
		t.Errorf("gone, and still remembered: %v", w.versions)
	}
}
