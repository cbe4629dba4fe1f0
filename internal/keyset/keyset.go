// SPDX-License-Identifier: Apache-2.0

// Package keyset keeps the keys that encrypt the exact rollback bytes: a Tink
// keyset in a Secret of the operator's namespace.
package keyset

import (
	"bytes"
	"context"
	"fmt"
	"strconv"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	tinkkeyset "github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/tink"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// secretKey is the key within the Secret; its value is Tink's JSON form.
const secretKey = "keyset.json"

// +kubebuilder:rbac:groups="",namespace=dgm-system,resources=secrets,verbs=create
// +kubebuilder:rbac:groups="",namespace=dgm-system,resources=secrets,resourceNames=dgm-operator-keyset,verbs=get

// Load reads the keyset from a Secret and makes the Secret, with a new AES-256-GCM
// key, when there is none. It returns what encrypts with it and the id of the
// primary key. Whoever loses the Secret loses the copies in the database; back it up.
func Load(ctx context.Context, live client.Reader, writer client.Writer, name types.NamespacedName) (tink.AEAD, string, error) {
	encoded, err := read(ctx, live, name)
	if apierrors.IsNotFound(err) {
		encoded, err = create(ctx, live, writer, name)
	}
	if err != nil {
		return nil, "", err
	}
	handle, err := insecurecleartextkeyset.Read(tinkkeyset.NewJSONReader(bytes.NewReader(encoded)))
	if err != nil {
		return nil, "", fmt.Errorf("the key %s of Secret %s is no Tink keyset in JSON", secretKey, name)
	}
	primitive, err := aead.New(handle)
	if err != nil {
		return nil, "", fmt.Errorf("the keyset in Secret %s cannot encrypt: %w", name, err)
	}
	return primitive, strconv.FormatUint(uint64(handle.KeysetInfo().GetPrimaryKeyId()), 10), nil
}

func read(ctx context.Context, live client.Reader, name types.NamespacedName) ([]byte, error) {
	var secret corev1.Secret
	if err := live.Get(ctx, name, &secret); err != nil {
		return nil, fmt.Errorf("read the keyset: %w", err)
	}
	return secret.Data[secretKey], nil
}

// create makes the Secret; when another replica was faster, its keyset counts.
func create(ctx context.Context, live client.Reader, writer client.Writer, name types.NamespacedName) ([]byte, error) {
	handle, err := tinkkeyset.NewHandle(aead.AES256GCMKeyTemplate())
	if err != nil {
		return nil, fmt.Errorf("make a keyset: %w", err)
	}
	var encoded bytes.Buffer
	if err := insecurecleartextkeyset.Write(handle, tinkkeyset.NewJSONWriter(&encoded)); err != nil {
		return nil, fmt.Errorf("encode the keyset: %w", err)
	}
	err = writer.Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: name.Namespace, Name: name.Name},
		Data:       map[string][]byte{secretKey: encoded.Bytes()},
	})
	if apierrors.IsAlreadyExists(err) {
		return read(ctx, live, name)
	}
	if err != nil {
		return nil, fmt.Errorf("store a new keyset: %w", err)
	}
	return encoded.Bytes(), nil
}
