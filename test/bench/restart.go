// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	dto "github.com/prometheus/client_model/go"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/test/kubetest"
	"github.com/acgs/dgm-operator/test/operatortest"
	"github.com/acgs/dgm-operator/test/pgtest"
)

// measureRestart restarts the operator over objects that it has mirrored before
// and counts what it writes.
func measureRestart(h *harness, o options) ([]result, error) {
	c, err := newClient(h)
	if err != nil {
		return nil, err
	}
	database, namespace := h.database(), kubetest.Namespace(h)
	operator := startOperator(h, database, o)
	if err := waitForFirst(h, c, operator); err != nil {
		return nil, err
	}
	o.objects = o.unchanged
	if _, err := createAndWait(h, c, o, operator, database, namespace); err != nil {
		return nil, err
	}
	peakBusy, _, err := memory(operator.Pid())
	if err != nil {
		return nil, err
	}
	operator.Stop(h)
	h.progress("restart: %d workspaces are there", o.unchanged)
	if err := catchUp(h.ctx, database); err != nil {
		return nil, err
	}

	before, err := observe(h, c, database, namespace)
	if err != nil {
		return nil, err
	}
	rest, err := restart(h, o, database)
	if err != nil {
		return nil, err
	}
	after, err := observe(h, c, database, namespace)
	if err != nil {
		return nil, err
	}
	h.progress("restart: compared after %.1f s", rest.took.Seconds())
	return append(restartResults(o, before, after, rest), result{
		name: "memory while they were created", value: peakBusy, unit: "MiB", detail: "peak resident",
	}), remove(h.ctx, c, namespace)
}

// catchUp does what the operator does every few minutes about what has changed,
// and what its successor would otherwise do in its place.
func catchUp(ctx context.Context, database string) error {
	conn, err := pgx.Connect(ctx, pgtest.ServiceURL(database))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	_, err = conn.Exec(ctx, "SELECT dgm.refresh_analytics()")
	return err
}

func restartResults(o options, before, after observation, rest restarted) []result {
	none, most := 0.0, 200.0
	apiWrites, apiList := after.writes.since(before.writes)
	rowChanges, rowList := after.rows.since(before.rows)
	changed := 0
	for name, version := range after.versions {
		if before.versions[name] != version {
			changed++
		}
	}
	return []result{
		{name: "restart: API writes", value: apiWrites, unit: "writes", atMost: &none, detail: orNone(apiList)},
		{name: "restart: objects with a new version", value: float64(changed), unit: "objects", atMost: &none, detail: fmt.Sprintf("of %d", len(after.versions))},
		{name: "restart: row changes", value: rowChanges, unit: "rows", atMost: &none, detail: fmt.Sprintf("%s; WAL grew by %d bytes, with the new leader's fence", orNone(rowList), after.wal-before.wal)},
		{name: "restart: memory", value: rest.peak, unit: "MiB", atMost: &most,
			detail: fmt.Sprintf("peak resident; %.0f MiB at rest; %d objects compared in %.1f s with %.1f s of CPU", rest.resident, o.unchanged, rest.took.Seconds(), rest.cpu.Seconds())},
	}
}

func orNone(list string) string {
	if list == "" {
		return "none"
	}
	return list
}

// observation is all that an operator could have changed.
type observation struct {
	writes   requests
	versions map[string]string
	rows     requests
	wal      int64
}

func observe(h *harness, c client.Client, database, namespace string) (observation, error) {
	var o observation
	var err error
	config := kubetest.Start(h)
	if o.writes, err = writesOf(h.ctx, config); err != nil {
		return o, err
	}
	elections, err := elections(h.ctx, config)
	if err != nil {
		return o, err
	}
	o.writes["POST events"] -= elections
	var list dgmv1alpha1.ImprovementWorkspaceList
	if err := c.List(h.ctx, &list, client.InNamespace(namespace)); err != nil {
		return o, err
	}
	o.versions = map[string]string{}
	for i := range list.Items {
		o.versions[list.Items[i].Name] = list.Items[i].ResourceVersion
	}
	if err := waitForSessions(h.ctx, database); err != nil {
		return o, err
	}
	o.rows, o.wal, err = rowChanges(h.ctx, database)
	return o, err
}

// rowChanges counts the rows that were ever inserted, updated or deleted, by
// table. The fence is left out: a new leader takes it.
func rowChanges(ctx context.Context, database string) (requests, int64, error) {
	conn, err := pgx.Connect(ctx, database)
	if err != nil {
		return nil, 0, err
	}
	defer func() { _ = conn.Close(ctx) }()
	var wal int64
	if err := conn.QueryRow(ctx, `SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint`).Scan(&wal); err != nil {
		return nil, 0, err
	}
	rows, err := conn.Query(ctx, `SELECT relname, (n_tup_ins + n_tup_upd + n_tup_del)::float8 FROM pg_stat_user_tables
		WHERE schemaname = 'dgm' AND relname <> 'writer_fences'`)
	if err != nil {
		return nil, 0, err
	}
	counted := requests{}
	var table string
	var n float64
	_, err = pgx.ForEachRow(rows, []any{&table, &n}, func() error {
		counted[table] = n
		return nil
	})
	return counted, wal, err
}

// waitForSessions waits until nobody else is connected: sessions report what
// they have changed when they end.
func waitForSessions(ctx context.Context, database string) error {
	conn, err := pgx.Connect(ctx, database)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	for {
		var others int
		err := conn.QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity
			WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'`).Scan(&others)
		if err != nil || others == 0 {
			return err
		}
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}

// restarted is what is known of the second run of an operator.
type restarted struct {
	took, cpu      time.Duration
	peak, resident float64
}

// restart runs an operator until it has compared everything.
func restart(h *harness, o options, database string) (restarted, error) {
	metrics := freeAddress(h)
	o.managerArgs += " --metrics-secure=false --metrics-bind-address=" + metrics
	began := time.Now()
	operator := startOperator(h, database, o)
	operator.WaitReady(h)
	if err := waitForRest(h.ctx, operator, "http://"+metrics+"/metrics", o.unchanged); err != nil {
		return restarted{}, err
	}
	r := restarted{took: time.Since(began) - idleTime, cpu: cpuTime(operator.Pid())}
	var err error
	r.peak, r.resident, err = memory(operator.Pid())
	operator.Stop(h)
	return r, err
}

// idleTime is how long an operator must have had nothing to do.
const idleTime = 2 * time.Second

// waitForRest waits until an operator has reconciled as many objects and then
// rests.
func waitForRest(ctx context.Context, operator *operatortest.Operator, metrics string, objects int) error {
	var since time.Time
	var last float64
	for deadline := time.Now().Add(syncTimeout); time.Now().Before(deadline); {
		if err := sleep(ctx, 200*time.Millisecond); err != nil {
			return err
		}
		done, waiting, err := reconciled(ctx, metrics)
		if err != nil {
			return err
		}
		if done < float64(objects) || waiting > 0 || done != last {
			last, since = done, time.Now()
			continue
		}
		if time.Since(since) > idleTime {
			return nil
		}
	}
	return fmt.Errorf("the operator does not come to rest; its log ends:\n%s", operator.LogTail())
}

// reconciled reads how often an operator has reconciled workspaces and how many
// wait for it.
func reconciled(ctx context.Context, metrics string) (done, waiting float64, err error) {
	families, err := scrape(ctx, metrics)
	if err != nil {
		return 0, 0, err
	}
	for _, m := range families["controller_runtime_reconcile_total"].GetMetric() {
		if slices.Contains(slices.Collect(maps.Values(labelsOf(m))), "improvementworkspace") {
			done += m.GetCounter().GetValue()
		}
	}
	for _, m := range families["workqueue_depth"].GetMetric() {
		if strings.HasPrefix(labelsOf(m)["name"], "improvementworkspace") {
			waiting += m.GetGauge().GetValue()
		}
	}
	for _, m := range families["controller_runtime_active_workers"].GetMetric() {
		waiting += m.GetGauge().GetValue()
	}
	return done, waiting, nil
}

// scrape reads the metrics of an operator.
func scrape(ctx context.Context, metrics string) (map[string]*dto.MetricFamily, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, metrics, nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	return parseMetrics(text)
}

func freeAddress(h *harness) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		h.Fatalf("%v", err)
	}
	defer func() { _ = listener.Close() }()
	return listener.Addr().String()
}
