// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/acgs/dgm-operator/internal/pgstore/internal/dbsql"
)

// FinishIndexes builds what is missing of indexes of partitioned tables,
// partition after partition, while rows are read and written, and returns how
// many it built. A build that was interrupted is begun again. Like Up, it waits
// for another process that migrates.
func (m *Migrator) FinishIndexes(ctx context.Context) (built int, err error) {
	conn, err := m.db.Conn(ctx)
	if err != nil {
		return 0, fmt.Errorf("connect to migrate: %w", err)
	}
	defer conn.Close() //nolint:errcheck // the pool notices a broken connection
	if err := m.locker.SessionLock(ctx, conn); err != nil {
		return 0, fmt.Errorf("migration lock: %w", err)
	}
	defer func() {
		err = errors.Join(err, m.locker.SessionUnlock(context.WithoutCancel(ctx), conn))
	}()
	err = conn.Raw(func(driver any) error {
		pg, ok := driver.(*stdlib.Conn)
		if !ok {
			return errors.New("not a connection of pgx")
		}
		built, err = finishIndexes(ctx, pg.Conn())
		return err
	})
	if err != nil {
		return built, fmt.Errorf("finish indexes: %w", err)
	}
	return built, nil
}

// finishIndexes takes one step after the other, as the database names them:
// drop what is left of an interrupted build, build, attach.
func finishIndexes(ctx context.Context, conn *pgx.Conn) (built int, err error) {
	q := dbsql.New(conn)
	// A concurrent build waits for every transaction that is older than it, and
	// holds up nobody meanwhile.
	if err := q.WaitForLocks(ctx, "0"); err != nil {
		return 0, err
	}
	defer func() {
		err = errors.Join(err, q.WaitForLocks(context.WithoutCancel(ctx), fmt.Sprintf("%dms", defaultPatience.timeout.Milliseconds())))
	}()
	for previous := ""; ; {
		steps, err := q.UnfinishedIndexes(ctx)
		if err != nil || len(steps) == 0 {
			return built, err
		}
		step := steps[0]
		if step.NextStatement == previous {
			return built, fmt.Errorf("%s changed nothing", previous)
		}
		previous = step.NextStatement
		if _, err := conn.Exec(ctx, step.NextStatement, pgx.QueryExecModeSimpleProtocol); err != nil {
			return built, fmt.Errorf("%s (it was %s): %w", step.NextStatement, step.State, err)
		}
		if step.State == "missing" {
			built++
		}
	}
}

// indexLoop finishes indexes beside everything else, since it may take long.
func (s *session) indexLoop(ctx context.Context) error {
	for {
		steps, err := s.queries.UnfinishedIndexes(ctx)
		if err == nil && len(steps) == 0 {
			return nil
		}
		if err == nil {
			s.store.config.Log.Info("Building indexes", "missing", len(steps), "first", steps[0].IndexName)
			err = s.store.finishIndexes(ctx)
		}
		if err != nil && ctx.Err() == nil {
			s.store.config.Log.Error(err, "Indexes are not finished", "again in", choreRetry.String())
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(choreRetry):
		}
	}
}

func (s *Store) finishIndexes(ctx context.Context) error {
	m, err := s.openMigrator(ctx)
	if err != nil {
		return err
	}
	defer m.Close() //nolint:errcheck // nothing is left to do on these connections
	built, err := m.FinishIndexes(ctx)
	if built > 0 {
		s.config.Log.Info("Built indexes", "partitions", built)
	}
	return err
}
