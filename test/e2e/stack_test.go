// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

const (
	repository   = "../.."
	systemNS     = "dgm-system"
	operatorName = "dgm-operator"
	// patience is longer than anything here should take on a busy machine with two cores.
	patience = 3 * time.Minute
)

// stack is the running product.
var stack struct {
	local  string // DGM_LOCAL
	path   string // PATH with kubectl
	client client.WithWatch
}

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(1)
	}
	os.Exit(code)
}

// run lets more improvements be active at once than a cluster does by default: the tests share one.
func run(m *testing.M) (code int, err error) {
	if err := connect(); err != nil {
		return 0, err
	}
	limit := &dgmv1alpha1.SystemConfiguration{
		TypeMeta:   metav1.TypeMeta{APIVersion: dgmv1alpha1.GroupVersion.String(), Kind: "SystemConfiguration"},
		ObjectMeta: metav1.ObjectMeta{Name: "max-concurrent-improvements"},
		Spec:       dgmv1alpha1.SystemConfigurationSpec{Key: "max_concurrent_improvements", Value: new("50")},
	}
	apply, err := json.Marshal(limit)
	if err != nil {
		return 0, err
	}
	owner := []client.PatchOption{client.FieldOwner("e2e"), client.ForceOwnership}
	if err := stack.client.Patch(context.Background(), limit, client.RawPatch(types.ApplyYAMLPatchType, apply), owner...); err != nil {
		return 0, err
	}
	defer func() {
		err = errors.Join(err, client.IgnoreNotFound(stack.client.Delete(context.Background(), limit)))
	}()
	return m.Run(), nil
}

func connect() error {
	local, err := filepath.Abs(os.Getenv("DGM_LOCAL"))
	if err != nil || os.Getenv("DGM_LOCAL") == "" {
		return fmt.Errorf("DGM_LOCAL must name the state directory of a running stack; hack/test.sh starts one: %w", err)
	}
	config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(local, "kubeconfig"))
	if err != nil {
		return fmt.Errorf("no stack runs in DGM_LOCAL; start one with `make up`: %w", err)
	}
	config.QPS, config.Burst = 200, 400
	scheme := runtime.NewScheme()
	if err := clientgoscheme.AddToScheme(scheme); err != nil {
		return err
	}
	if err := dgmv1alpha1.AddToScheme(scheme); err != nil {
		return err
	}
	stack.local = local
	stack.client, err = client.NewWithWatch(config, client.Options{Scheme: scheme})
	if err != nil {
		return err
	}
	stack.path = os.Getenv("PATH")
	if kind, err := os.ReadFile(filepath.Join(local, "kind")); err != nil {
		return err
	} else if strings.TrimSpace(string(kind)) == "onenode" {
		built, err := exec.CommandContext(context.Background(), filepath.Join(repository, "hack", "onenode", "build.sh")).Output()
		if err != nil {
			return fmt.Errorf("hack/onenode/build.sh: %w", err)
		}
		stack.path = strings.TrimSpace(string(built)) + string(os.PathListSeparator) + stack.path
	}
	return script("stack.sh", "load", "./examples/checkout", "shop/checkout:1")
}

// script runs one of the scripts in hack/ on the stack.
func script(name string, args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join("hack", name), args...)
	cmd.Dir = repository
	cmd.Env = append(os.Environ(), "POSTGRES_DIR="+filepath.Join(stack.local, "postgres"),
		"POSTGRES_LOG="+filepath.Join(stack.local, "logs", "postgres.log"))
	// A file, not a pipe: a server that the script starts keeps it open.
	out, err := os.CreateTemp("", "dgm-e2e-*.log")
	if err != nil {
		return err
	}
	defer os.Remove(out.Name()) //nolint:errcheck // a temporary file
	defer out.Close()           //nolint:errcheck // only read
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		said, _ := os.ReadFile(out.Name())
		return fmt.Errorf("hack/%s %s: %w\n%s", name, strings.Join(args, " "), err, said)
	}
	return nil
}

// eventually tries until check returns nil, and fails with what it said last.
func eventually(t *testing.T, what string, check func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var err error
	for {
		if err = check(ctx); err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: after %s: %v", what, patience, err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// row returns the only row of a query as text, "" for NULL; no row or several are an error.
func row(ctx context.Context, sql string, args ...any) ([]string, error) {
	url, err := os.ReadFile(filepath.Join(stack.local, "postgres-url"))
	if err != nil {
		return nil, err
	}
	conn, err := pgx.Connect(ctx, strings.TrimSpace(string(url)))
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // only read
	rows, err := conn.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectExactlyOneRow(rows, func(r pgx.CollectableRow) ([]string, error) {
		values, err := r.Values()
		texts := make([]string, len(values))
		for i, v := range values {
			if v != nil {
				texts[i] = fmt.Sprint(v)
			}
		}
		return texts, err
	})
}

// expectRow waits until the query gives exactly these values.
func expectRow(t *testing.T, want []string, sql string, args ...any) {
	t.Helper()
	eventually(t, "in the database", func(ctx context.Context) error {
		got, err := row(ctx, sql, args...)
		if err != nil {
			return err
		}
		if strings.Join(got, "|") != strings.Join(want, "|") {
			return fmt.Errorf("%s gives %q; want %q", sql, got, want)
		}
		return nil
	})
}
