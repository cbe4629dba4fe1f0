// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/acgs/dgm-operator/internal/pgstore"
)

// bareBatch is how many rows a statement of the bare client has, as many as a
// transaction of the writer may hold.
const bareBatch = 500

// table is what the bare client writes into.
type table struct {
	name    string
	columns []string
	// types of the columns' arrays.
	types  []string
	values func(pgstore.Improvement) []any
}

var bareTables = []table{
	{
		name: "dgm.dgm_archive",
		columns: []string{"id", "improvement_id", "attempt", "material_digest", `"timestamp"`, "description", "algorithm_changes", "status", "metadata",
			"created_by", "cluster", "namespace", "name", "uid", "generation", "writer_epoch", "revision", "constitutional_hash"},
		types: []string{"uuid", "uuid", "int", "text", "timestamptz", "text", "text", "text", "text",
			"text", "text", "text", "text", "text", "bigint", "bigint", "bigint", "text"},
		values: func(i pgstore.Improvement) []any {
			return []any{newID(), i.ImprovementID, i.Attempt, i.MaterialDigest, i.Timestamp, i.Description, string(i.AlgorithmChanges), i.ArchiveStatus, string(i.Metadata),
				i.CreatedBy, clusterName, i.Namespace, i.Name, i.UID, i.Generation, int64(1), int64(1), constitutionalHash}
		},
	},
	{
		name: "dgm.improvement_workspaces",
		columns: []string{"id", "improvement_id", "description", "status", "target_service", "improvement_type", "priority", "configuration",
			"created_by", "cluster", "namespace", "name", "uid", "generation", "writer_epoch", "revision", "constitutional_hash"},
		types: []string{"uuid", "uuid", "text", "text", "text", "text", "text", "text",
			"text", "text", "text", "text", "text", "bigint", "bigint", "bigint", "text"},
		values: func(i pgstore.Improvement) []any {
			return []any{newID(), i.ImprovementID, i.Description, i.WorkspaceStatus, i.TargetService, i.ImprovementType, i.Priority, string(i.Configuration),
				i.CreatedBy, clusterName, i.Namespace, i.Name, i.UID, i.Generation, int64(1), int64(1), constitutionalHash}
		},
	},
}

// constitutionalHash is the one that a new database knows.
const constitutionalHash = "cdd01ef066bc6cf2"

// statement inserts rows given as one array for each column, which PostgreSQL
// and pgx both handle faster than a parameter for each value; rows that are
// there are changed.
func (t table) statement() string {
	sources, changes := make([]string, len(t.columns)), make([]string, 0, len(t.columns))
	for i, column := range t.columns {
		sources[i] = fmt.Sprintf("unnest($%d::%s[])", i+1, t.types[i])
		if strings.HasPrefix(column, "algorithm_changes") || column == "metadata" || column == "configuration" {
			sources[i] += "::jsonb"
		}
		if column != "id" && column != "improvement_id" {
			changes = append(changes, column+" = excluded."+column)
		}
	}
	return fmt.Sprintf("INSERT INTO %s (%s) SELECT %s ON CONFLICT (improvement_id) DO UPDATE SET %s",
		t.name, strings.Join(t.columns, ", "), strings.Join(sources, ", "), strings.Join(changes, ", "))
}

func bareWrites(h *harness, improvements []pgstore.Improvement) (writeTimes, error) {
	url, err := h.migrated()
	if err != nil {
		return writeTimes{}, err
	}
	conn, err := pgx.Connect(h.ctx, url)
	if err != nil {
		return writeTimes{}, err
	}
	defer func() { _ = conn.Close(h.ctx) }()
	changed := make([]pgstore.Improvement, len(improvements))
	for i := range improvements {
		changed[i] = nextGeneration(improvements[i])
	}
	var times writeTimes
	if times.create, err = writeBatches(h.ctx, conn, improvements); err != nil {
		return times, err
	}
	times.change, err = writeBatches(h.ctx, conn, changed)
	return times, err
}

func writeBatches(ctx context.Context, conn *pgx.Conn, improvements []pgstore.Improvement) (time.Duration, error) {
	began := time.Now()
	for rest := improvements; len(rest) > 0; {
		n := min(bareBatch, len(rest))
		batch := rest[:n]
		rest = rest[n:]
		err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			for _, t := range bareTables {
				if _, err := tx.Exec(ctx, t.statement(), t.arrays(batch)...); err != nil {
					return fmt.Errorf("%s: %w", t.name, err)
				}
			}
			return nil
		})
		if err != nil {
			return 0, err
		}
	}
	return time.Since(began), nil
}

// arrays turns rows into one array for each column.
func (t table) arrays(batch []pgstore.Improvement) []any {
	arrays := make([][]any, len(t.columns))
	for _, i := range batch {
		for column, value := range t.values(i) {
			arrays[column] = append(arrays[column], value)
		}
	}
	out := make([]any, len(arrays))
	for i := range arrays {
		out[i] = typedArray(t.types[i], arrays[i])
	}
	return out
}

// typedArray makes an array that pgx encodes without looking at each value's type.
func typedArray(columnType string, values []any) any {
	switch columnType {
	case "uuid":
		return typed[uuid.UUID](values)
	case "int":
		return typed[int32](values)
	case "bigint":
		return typed[int64](values)
	case "timestamptz":
		return typed[time.Time](values)
	default:
		return typed[string](values)
	}
}

func typed[T any](values []any) []T {
	out := make([]T, len(values))
	for i, value := range values {
		out[i] = value.(T) //nolint:forcetypeassert // the tables above say so
	}
	return out
}

func newID() uuid.UUID {
	id, err := uuid.NewV7()
	if err != nil {
		panic(err) // no randomness
	}
	return id
}
