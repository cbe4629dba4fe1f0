// SPDX-License-Identifier: Apache-2.0

// Package keyset keeps the keys that encrypt the exact rollback bytes and the
// sensitive configurations: a Tink keyset in a Secret of the operator's namespace.
package keyset

import (
	"bytes"
	"context"
	"fmt"
	"strconv"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	tinkkeyset "github.com/tink-crypto/tink-go/v2/keyset"
	tinkpb "github.com/tink-crypto/tink-go/v2/proto/tink_go_proto"
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
	handle, err := parse(encoded, name)
	if err != nil {
		return nil, "", err
	}
	primitive, err := aead.New(handle)
	if err != nil {
		return nil, "", fmt.Errorf("the keyset in Secret %s cannot encrypt: %w", name, err)
	}
	return primitive, keyID(handle.KeysetInfo().GetPrimaryKeyId()), nil
}

func keyID(id uint32) string { return strconv.FormatUint(uint64(id), 10) }

func parse(encoded []byte, name types.NamespacedName) (*tinkkeyset.Handle, error) {
	handle, err := insecurecleartextkeyset.Read(tinkkeyset.NewJSONReader(bytes.NewReader(encoded)))
	if err != nil {
		return nil, fmt.Errorf("the key %s of Secret %s is no Tink keyset in JSON", secretKey, name)
	}
	return handle, nil
}

// Key is one key of the keyset, without what is secret.
type Key struct {
	ID string
	// Primary: it encrypts; the others only decrypt what they encrypted before.
	Primary bool
	Enabled bool
}

// Keys lists the keys in their order of age, the oldest first.
func Keys(ctx context.Context, live client.Reader, name types.NamespacedName) ([]Key, error) {
	encoded, err := read(ctx, live, name)
	if err != nil {
		return nil, err
	}
	handle, err := parse(encoded, name)
	if err != nil {
		return nil, err
	}
	info := handle.KeysetInfo()
	keys := make([]Key, 0, len(info.GetKeyInfo()))
	for _, key := range info.GetKeyInfo() {
		keys = append(keys, Key{
			ID: keyID(key.GetKeyId()), Primary: key.GetKeyId() == info.GetPrimaryKeyId(),
			Enabled: key.GetStatus() == tinkpb.KeyStatusType_ENABLED,
		})
	}
	return keys, nil
}

// Rotate adds a new key to the keyset and makes it the primary one; all others
// stay, to decrypt with. It returns the id of the new key. A Secret that somebody
// else changes meanwhile is left alone, which is an error that passes.
func Rotate(ctx context.Context, live client.Reader, writer client.Writer, name types.NamespacedName) (string, error) {
	var secret corev1.Secret
	if err := live.Get(ctx, name, &secret); err != nil {
		return "", fmt.Errorf("read the keyset: %w", err)
	}
	handle, err := parse(secret.Data[secretKey], name)
	if err != nil {
		return "", err
	}
	manager := tinkkeyset.NewManagerFromHandle(handle)
	id, err := manager.Add(aead.AES256GCMKeyTemplate())
	if err != nil {
		return "", fmt.Errorf("make a key: %w", err)
	}
	if err := manager.SetPrimary(id); err != nil {
		return "", fmt.Errorf("make key %d the primary one: %w", id, err)
	}
	if handle, err = manager.Handle(); err != nil {
		return "", fmt.Errorf("make key %d the primary one: %w", id, err)
	}
	encoded, err := encode(handle)
	if err != nil {
		return "", err
	}
	secret.Data[secretKey] = encoded
	if err := writer.Update(ctx, &secret); err != nil { // refused when it is not the version that was read
		return "", fmt.Errorf("store the rotated keyset: %w", err)
	}
	return keyID(id), nil
}

func encode(handle *tinkkeyset.Handle) ([]byte, error) {
	var encoded bytes.Buffer
	if err := insecurecleartextkeyset.Write(handle, tinkkeyset.NewJSONWriter(&encoded)); err != nil {
		return nil, fmt.Errorf("encode the keyset: %w", err)
	}
	return encoded.Bytes(), nil
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
	encoded, err := encode(handle)
	if err != nil {
		return nil, err
	}
	err = writer.Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: name.Namespace, Name: name.Name},
		Data:       map[string][]byte{secretKey: encoded},
	})
	if apierrors.IsAlreadyExists(err) {
		return read(ctx, live, name)
	}
	if err != nil {
		return nil, fmt.Errorf("store a new keyset: %w", err)
	}
	return encoded, nil
}
