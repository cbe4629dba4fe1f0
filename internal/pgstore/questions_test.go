// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/acgs/dgm-operator/test/pgtest"
	"github.com/acgs/dgm-operator/test/questions"
)

// The named indexes answer what they are there for, asked by the roles that ask:
// from the months and the rows that it is about alone. How long that takes is
// measured by test/bench, over a hundred times as many rows.
func TestNamedIndexesAnswerTheirQuestions(t *testing.T) {
	url := migratedDatabase(t)
	pool, err := pgxpool.New(testContext(t), url)
	must(t, err)
	defer pool.Close()
	_, err = pool.Exec(testContext(t), "SELECT dgm.ensure_metric_partitions(4, 1)")
	must(t, err)
	volume := questions.Volume{Samples: 100_000, Improvements: 50_000, Assessments: 50_000, Arms: 20_000, Hash: "cdd01ef066bc6cf2"}.Ending(time.Now())
	must(t, volume.LoadSamples(testContext(t), pool, 0, volume.Samples))
	must(t, volume.Load(testContext(t), pool))
	_, err = pool.Exec(testContext(t), `VACUUM ANALYZE dgm.performance_metrics, dgm.dgm_archive, dgm.improvement_workspaces,
		dgm.constitutional_compliance_logs, dgm.bandit_states`)
	must(t, err)

	named := map[string]bool{}
	for _, q := range questions.All {
		named[q.Index] = true
		t.Run(q.Name, func(t *testing.T) {
			asker := pgtest.ReadonlyURL(url)
			if q.Service {
				asker = pgtest.ServiceURL(url)
			}
			conn, err := pgx.Connect(testContext(t), asker)
			must(t, err)
			defer conn.Close(testContext(t)) //nolint:errcheck // nothing depends on it
			for n := range 20 {
				_, err := q.Check(testContext(t), conn, volume, n)
				must(t, err)
			}
		})
	}
	if len(named) != 5 {
		t.Errorf("the questions are about %d indexes, the contract names 5", len(named))
	}
}
