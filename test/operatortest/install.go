// SPDX-License-Identifier: Apache-2.0

package operatortest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/acgs/dgm-operator/test/kubetest"
)

// Install makes what config/default makes, but for the Deployment: the kinds,
// the roles and the admission policies, and waits until the policies are in force.
func Install(t TB) {
	t.Helper()
	kubetest.InstallCRDs(t)
	if err := install(kubetest.Start(t)); err != nil {
		t.Fatalf("operatortest: install: %v", err)
	}
}

func install(config *rest.Config) error {
	root, err := moduleRoot()
	if err != nil {
		return err
	}
	c, err := client.New(config, client.Options{})
	if err != nil {
		return err
	}
	ctx := context.Background()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "dgm-system"}}
	if err := c.Create(ctx, namespace); err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	for _, dir := range []string{"config/rbac", "config/admission"} {
		files, err := filepath.Glob(filepath.Join(root, dir, "*.yaml"))
		if err != nil {
			return err
		}
		for _, file := range files {
			if filepath.Base(file) == "kustomization.yaml" {
				continue
			}
			if err := ApplyFile(ctx, c, file); err != nil {
				return err
			}
		}
	}
	return waitForAdmission(ctx, config)
}

// ApplyFile makes or changes every object of a file, by server-side apply.
func ApplyFile(ctx context.Context, c client.Client, file string) error {
	content, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(content), 4096)
	for {
		var object unstructured.Unstructured
		if err := decoder.Decode(&object); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		if len(object.Object) == 0 {
			continue
		}
		apply := client.ApplyConfigurationFromUnstructured(&object)
		if err := c.Apply(ctx, apply, client.FieldOwner("install"), client.ForceOwnership); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
}

// waitForAdmission waits until the API server enforces the policies: it takes
// them up a moment after they are made.
func waitForAdmission(ctx context.Context, config *rest.Config) error {
	probe := rest.CopyConfig(config)
	probe.Impersonate = rest.ImpersonationConfig{UserName: "nobody", Groups: []string{"probe"}}
	admin, err := client.New(config, client.Options{})
	if err != nil {
		return err
	}
	if err := allowProbe(ctx, admin); err != nil {
		return err
	}
	c, err := client.New(probe, client.Options{})
	if err != nil {
		return err
	}
	if err := waitForSandboxPolicy(ctx, admin); err != nil {
		return err
	}
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		object := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "dgm.acgs.io/v1alpha1", "kind": "ImprovementWorkspace",
			"metadata": map[string]any{"name": "admission-probe", "namespace": "default"},
			"spec": map[string]any{
				"description": "probe", "type": "ParameterTuning", "serviceAccountName": "default",
				"target":  map[string]any{"service": "probe", "ref": map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "name": "probe"}},
				"changes": []any{map[string]any{"name": "probe", "targetRef": map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "name": "probe"}, "patch": "{}"}},
			},
		}}
		err = c.Create(ctx, object, client.DryRunAll)
		if apierrors.IsForbidden(err) && bytes.Contains([]byte(err.Error()), []byte("may not act as ServiceAccount")) {
			return nil
		}
	}
	return fmt.Errorf("the admission policies do not come into force: the last answer was %w", err)
}

// waitForSandboxPolicy waits until not even an administrator may make a sandbox.
func waitForSandboxPolicy(ctx context.Context, admin client.Client) error {
	var err error
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		err = admin.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "dgm-sandbox-probe"}}, client.DryRunAll)
		if apierrors.IsForbidden(err) {
			return nil
		}
	}
	return fmt.Errorf("the admission policy of sandboxes does not come into force: the last answer was %w", err)
}

func allowProbe(ctx context.Context, c client.Client) error {
	binding := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
		"metadata": map[string]any{"name": "admission-probe"},
		"roleRef":  map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "dgm-editor"},
		"subjects": []any{map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "probe"}},
	}}
	return c.Apply(ctx, client.ApplyConfigurationFromUnstructured(binding), client.FieldOwner("install"), client.ForceOwnership)
}

func kubeconfigOf(config *rest.Config) ([]byte, error) {
	return clientcmd.Write(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"test": {Server: config.Host, CertificateAuthorityData: config.CAData}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"test": {ClientCertificateData: config.CertData, ClientKeyData: config.KeyData, Token: config.BearerToken}},
		Contexts:       map[string]*clientcmdapi.Context{"test": {Cluster: "test", AuthInfo: "test"}},
		CurrentContext: "test",
	})
}
