// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/test/pgtest"
)

// Two clusters share the schema and ask for the same key: the first one has it,
// the other one says whose it is, until it is free.
func TestConfigurationKeyOfAnotherClusterIsTaken(t *testing.T) {
	w := newWorld(t)
	w.lead()
	w.query(`INSERT INTO dgm.system_configurations (key, value, cluster, name, uid, generation) VALUES ('shared_flag', 'theirs', 'other', 'shared-flag', 'uid-there', 1)`)
	object := setting("shared_flag", "ours")
	w.create(object)
	now := w.stands(object, dgmv1alpha1.ReasonKeyTaken)
	stalled := settingCondition(now, dgmv1alpha1.ConditionStalled)
	if stalled.Status != metav1.ConditionTrue {
		t.Errorf("Stalled is %+v", stalled)
	}
	w.says(stalled.Message, "shared_flag", "other", "shared-flag")
	w.rows("theirs other shared-flag false", settingRow, "shared_flag")
	w.query(`UPDATE dgm.system_configurations SET deleted_at = now() WHERE key = 'shared_flag'`) // as its operator does
	w.stands(object, dgmv1alpha1.ReasonApplied)
	w.rows("ours test shared-flag false", settingRow, "shared_flag")
}

// A schema that somebody has changed is told by condition and metric, until it is
// mended.
func TestDriftOfTheSchemaIsToldByConditionAndMetric(t *testing.T) {
	w := newWorld(t)
	first := w.start()
	object := setting(attemptsKey, "12")
	w.create(object)
	w.schemaIntact(object)
	first.Stop(t)
	index := w.query("SELECT pg_get_indexdef('dgm.idx_workspaces_status_created'::regclass)")
	w.query("DROP INDEX dgm.idx_workspaces_status_created")

	address := unusedAddress(t)
	serving := append(slices.Clone(quickTakeover), "--metrics-bind-address="+address, "--metrics-secure=false")
	shows := func(objects float64) {
		t.Helper()
		w.eventually("the metric shows the drift", func() error {
			value, err := scrape(address)
			if err != nil {
				return err
			}
			if got, found := value("dgm_database_schema_drift_objects"); !found || got != objects {
				return errorf("dgm_database_schema_drift_objects is %v (found: %t), want %v", got, found, objects)
			}
			return nil
		})
	}
	second := w.start(serving...)
	w.eventually("the object tells the drift", func() error {
		c := settingCondition(w.settingNow(object.Name), dgmv1alpha1.ConditionSchemaIntact)
		if c.Status != metav1.ConditionFalse || c.Reason != dgmv1alpha1.ReasonSchemaDrift || !strings.Contains(c.Message, "index dgm.idx_workspaces_status_created is missing") {
			return errorf("SchemaIntact is %+v", c)
		}
		return nil
	})
	shows(1)
	second.Stop(t)
	w.query(index)
	w.start(serving...)
	w.schemaIntact(object)
	shows(0)
}

// --analytics-url-file leads the analytics to a standby, and --analytics-max-lag
// says how far behind it may be: here further than by default.
func TestAnalyticsFlagsLeadToTheStandby(t *testing.T) {
	t.Parallel()
	primary := pgtest.Start(t)
	url := primary.Database(t)
	standby := primary.Standby(t)
	w := newOwnWorldOn(t, primary, url)
	replica := standby.URL(url[strings.LastIndex(url, "/")+1 : strings.Index(url, "?")])
	file := filepath.Join(t.TempDir(), "analytics-url")
	if err := os.WriteFile(file, []byte(pgtest.ServiceURL(replica)), 0o600); err != nil {
		t.Fatal(err)
	}
	address := unusedAddress(t)
	operator := w.start(append(quickTakeover, "--metrics-bind-address="+address, "--metrics-secure=false", "--analytics-url-file="+file, "--analytics-max-lag=10m")...)
	used := func(atLeast float64) {
		t.Helper()
		w.eventuallyIn(100*time.Second, "the replica answers", func() error { // it is asked once a minute
			value, err := scrape(address)
			if err != nil {
				return err
			}
			inUse, _ := value("dgm_database_replica_in_use")
			if lag, found := value("dgm_database_replica_lag_seconds"); inUse != 1 || !found || lag < atLeast {
				return errorf("in use: %v, lag %v (found: %t), want a lag of %v", inUse, lag, found, atLeast)
			}
			return nil
		})
	}
	const byThePrimary = "Analytics are read from the primary"
	used(0)
	before := strings.Count(operator.Log(), byThePrimary)
	conn, err := pgx.Connect(context.Background(), replica)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background()) //nolint:errcheck // nothing depends on it
	if _, err := conn.Exec(context.Background(), "SELECT pg_wal_replay_pause()"); err != nil {
		t.Fatal(err)
	}
	w.query("SELECT pg_logical_emit_message(true, 'test', 'what the standby does not replay')")
	used(35)
	if strings.Count(operator.Log(), byThePrimary) != before {
		t.Errorf("the database itself was asked:\n%s", operator.Log())
	}
}
