// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

// operatorRole is who the operator works as in the local stack.
const operatorRole = "dgm_operator"

// The run-time password is changed as docs/database.md has it: the role, then the
// Secret. The pod stays, and its connections are made anew.
func TestP3_DatabaseCredentialsAreRotatedWithoutRestart(t *testing.T) {
	before, after := cacheImprovement(newShop(t), "cache", "60"), cacheImprovement(newShop(t), "cache", "60")
	create(t, before)
	expectPhase(t, before, dgmv1alpha1.PhaseCompleted)
	pods, err := operatorPods(t.Context())
	if err != nil || len(pods) != 1 {
		t.Fatalf("%d pods of the operator, %v; want 1", len(pods), err)
	}
	old := databaseURL(t)
	oldPassword, _ := old.User.Password()
	t.Cleanup(func() { rotatePassword(t, oldPassword) })

	changed := rotatePassword(t, "rotated-"+oldPassword)
	expectRow(t, []string{"0", "true"}, `SELECT count(*) FILTER (WHERE backend_start < $1)::text, (count(*) FILTER (WHERE backend_start >= $1) > 0)::text
		FROM pg_stat_activity WHERE usename = $2 AND application_name = 'dgm-operator'`, changed, operatorRole)
	t.Logf("the operator's connections are all new after %s", time.Since(changed).Round(100*time.Millisecond))
	var refused *pgconn.PgError
	if conn, err := connectAs(t.Context(), old); !errors.As(err, &refused) || refused.Code != "28P01" {
		if err == nil {
			_ = conn.Close(t.Context())
		}
		t.Errorf("the old password: %v; want it refused", err)
	}

	create(t, after)
	expectPhase(t, after, dgmv1alpha1.PhaseCompleted)
	expectRows(t, after, "completed", "completed", "false")
	if first, second := epochOf(t, before), epochOf(t, after); first != second {
		t.Errorf("epoch %d became %d; want the same leader throughout", first, second)
	}
	now, err := operatorPods(t.Context())
	if err != nil || len(now) != 1 || now[0].UID != pods[0].UID || now[0].Status.ContainerStatuses[0].RestartCount != pods[0].Status.ContainerStatuses[0].RestartCount {
		t.Errorf("the operator was restarted (%v)", err)
	}
}

// rotatePassword gives the operator's role another password, and the Secret the
// URL with it. It returns when, by the database's clock.
func rotatePassword(t *testing.T, password string) (changed time.Time) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	u := databaseURL(t)
	conn, err := connectAs(ctx, u)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx) //nolint:errcheck // nothing depends on it
	// Who rotates needs no other right: a role may change its own password.
	if _, err := conn.Exec(ctx, fmt.Sprintf("ALTER ROLE %s PASSWORD '%s'", operatorRole, password)); err != nil {
		t.Fatal(err)
	}
	if err := conn.QueryRow(ctx, "SELECT clock_timestamp()").Scan(&changed); err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(operatorRole, password)
	secret := &corev1.Secret{}
	secret.Namespace, secret.Name = systemNS, "dgm-database"
	patch := fmt.Sprintf(`{"stringData":{"url":%q}}`, u)
	if err := stack.client.Patch(ctx, secret, client.RawPatch("application/merge-patch+json", []byte(patch))); err != nil {
		t.Fatal(err)
	}
	return changed
}

// databaseURL is the operator's own, from its Secret.
func databaseURL(t *testing.T) *url.URL {
	t.Helper()
	secret := &corev1.Secret{}
	if err := stack.client.Get(context.Background(), client.ObjectKey{Namespace: systemNS, Name: "dgm-database"}, secret); err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(string(secret.Data["url"]))
	if err != nil || u.User.Username() != operatorRole || u.Query().Get("sslmode") != "verify-full" {
		t.Fatalf("the Secret's url is not that of %s with sslmode=verify-full (%v)", operatorRole, err)
	}
	return u
}

// connectAs connects from this machine, where the CA's certificate is not where
// the pod has it.
func connectAs(ctx context.Context, u *url.URL) (*pgx.Conn, error) {
	here := *u
	query := here.Query()
	query.Set("sslrootcert", filepath.Join(stack.local, "postgres", "ca.crt"))
	here.RawQuery = query.Encode()
	return pgx.Connect(ctx, here.String())
}
