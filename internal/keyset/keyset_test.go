// SPDX-License-Identifier: Apache-2.0

package keyset

import (
	"bytes"
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
)

var name = types.NamespacedName{Namespace: "dgm-system", Name: "keys"}

func TestRotationKeepsWhatWasEncrypted(t *testing.T) {
	ctx, c := t.Context(), fake.NewFakeClient()
	first, firstID, err := Load(ctx, c, c, name)
	if err != nil {
		t.Fatal(err)
	}
	old, err := first.Encrypt([]byte("plain"), []byte("of"))
	if err != nil {
		t.Fatal(err)
	}
	ids := []string{firstID}
	for range 3 {
		id, err := Rotate(ctx, c, c, name)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	keys, err := Keys(ctx, c, name)
	if err != nil || len(keys) != len(ids) {
		t.Fatalf("keys: %+v, %v", keys, err)
	}
	for i, key := range keys {
		if key.ID != ids[i] || key.Primary != (i == len(ids)-1) || !key.Enabled {
			t.Errorf("key %d is %+v, want %s", i, key, ids[i])
		}
	}
	last, lastID, err := Load(ctx, c, c, name)
	if err != nil || lastID != ids[len(ids)-1] {
		t.Fatalf("the primary key is %s, want %s: %v", lastID, ids[len(ids)-1], err)
	}
	if plain, err := last.Decrypt(old, []byte("of")); err != nil || string(plain) != "plain" {
		t.Errorf("what the first key encrypted: %q, %v", plain, err)
	}
	if _, err := last.Decrypt(old, []byte("another")); err == nil {
		t.Error("it was decrypted as something else's")
	}
	fresh, err := last.Encrypt([]byte("plain"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.Decrypt(fresh, nil); err == nil {
		t.Error("the new key is the old one")
	}
}

// racing is a client in whose reads the Secret changes right after.
type racing struct{ client.Client }

func (r racing) Get(ctx context.Context, key client.ObjectKey, object client.Object, options ...client.GetOption) error {
	if err := r.Client.Get(ctx, key, object, options...); err != nil {
		return err
	}
	changed := object.DeepCopyObject().(*corev1.Secret) //nolint:forcetypeassert // only Secrets are read
	changed.Labels = map[string]string{"changed": "meanwhile"}
	return r.Update(ctx, changed)
}

func TestRotationDoesNotWriteOverSomebodyElses(t *testing.T) {
	ctx, c := t.Context(), fake.NewFakeClient()
	_, before, err := Load(ctx, c, c, name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Rotate(ctx, racing{c}, c, name); !apierrors.IsConflict(err) {
		t.Errorf("rotate: %v, want a conflict", err)
	}
	if _, after, err := Load(ctx, c, c, name); err != nil || after != before {
		t.Errorf("the primary key was %s and is %s: %v", before, after, err)
	}
}

func TestKeysetThatCannotBeRead(t *testing.T) {
	ctx, c := t.Context(), fake.NewFakeClient()
	if _, err := Rotate(ctx, c, c, name); !apierrors.IsNotFound(err) {
		t.Errorf("rotate without a Secret: %v", err)
	}
	if _, err := Keys(ctx, c, name); !apierrors.IsNotFound(err) {
		t.Errorf("keys without a Secret: %v", err)
	}
	for _, content := range []string{"", "{}", "secret-bytes", `{"primaryKeyId": 1, "key": []}`} {
		secret := &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: name.Namespace, Name: name.Name}, Data: map[string][]byte{secretKey: []byte(content)},
		}
		c := fake.NewFakeClient(secret)
		_, _, loadErr := Load(ctx, c, c, name)
		_, rotateErr := Rotate(ctx, c, c, name)
		for what, err := range map[string]error{"load": loadErr, "rotate": rotateErr} {
			if err == nil || !strings.Contains(err.Error(), "dgm-system/keys") || (content != "" && strings.Contains(err.Error(), content)) {
				t.Errorf("%s of %q: %v", what, content, err)
			}
		}
		var after corev1.Secret
		if err := c.Get(ctx, name, &after); err != nil || !bytes.Equal(after.Data[secretKey], []byte(content)) {
			t.Errorf("the Secret was changed: %v", err)
		}
	}
}
