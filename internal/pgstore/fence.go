// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/acgs/dgm-operator/internal/pgstore/internal/dbsql"
)

// fence is this leader's right to write for its cluster.
type fence struct {
	epoch int64
	token uuid.UUID
}

// server is where the fence was taken: a failover or a restore changes it.
type server struct {
	identity string
	// incarnation changes when the fence's row or a mirrored table is made anew.
	incarnation string
	walPosition int64
}

// fenceState is the fence as the database has it, and the server that says so.
type fenceState struct {
	Epoch       int64
	Token       uuid.UUID
	Identity    string
	InRecovery  bool
	WalPosition int64
	Incarnation string
}

// check says whether f, taken at a server, still gives the right to write. err
// is that of reading the state.
func (f fence) check(at server, state fenceState, err error) error {
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return errFenceLost
	case err != nil:
		return err
	case state.InRecovery:
		return errStandby
	case state.Epoch > f.epoch:
		return ErrDeposed
	case state.Identity != at.identity:
		return errServerChanged
	case state.Epoch != f.epoch || state.Token != f.token:
		return errFenceLost
	case state.Incarnation != at.incarnation:
		return errRestored
	}
	return nil
}

// takeFence makes this replica the one that writes, by an epoch above every
// other one and above floor, the epoch that it has held before. It returns
// ErrDeposed when another leader came after floor.
func (s *Store) takeFence(ctx context.Context, pool *pgxpool.Pool, floor int64) (fence, error) {
	taken := fence{token: uuid.New()}
	err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		q := dbsql.New(tx)
		if err := s.checkFenceRow(ctx, q, floor); err != nil {
			return err
		}
		epoch, err := nextEpoch(ctx, q, s.config.ClusterName, floor)
		if err != nil {
			return err
		}
		taken.epoch = epoch
		rows, err := q.TakeFence(ctx, dbsql.TakeFenceParams{
			Cluster: s.config.ClusterName, ClusterUid: s.config.ClusterUID, Epoch: epoch, Token: taken.token, Holder: s.config.Holder,
		})
		if err == nil && rows == 0 {
			return ErrDeposed // two leaders at once, and the other drew the later epoch
		}
		return err
	})
	return taken, err
}

// checkFenceRow refuses a cluster name that is bound to another cluster.
func (s *Store) checkFenceRow(ctx context.Context, q *dbsql.Queries, floor int64) error {
	row, err := q.LockFenceForTaking(ctx, s.config.ClusterName)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil
	case err != nil:
		return err
	case row.ClusterUid != s.config.ClusterUID && !s.config.AdoptCluster:
		return fmt.Errorf("%w: the database binds cluster name %q to the cluster whose kube-system namespace has UID %s, this one has %s: give this cluster a --cluster-name of its own, or, when it replaces the other one, start once with --adopt-cluster",
			ErrClusterMismatch, s.config.ClusterName, row.ClusterUid, s.config.ClusterUID)
	case floor > 0 && row.Epoch > floor:
		return ErrDeposed
	}
	return nil
}

func nextEpoch(ctx context.Context, q *dbsql.Queries, cluster string, floor int64) (int64, error) {
	highest, err := q.HighestEpoch(ctx, cluster)
	if err != nil {
		return 0, err
	}
	epoch, err := q.NextEpoch(ctx)
	if err != nil {
		return 0, err
	}
	if lowest := max(highest, floor) + 1; epoch < lowest {
		return lowest, q.RaiseEpoch(ctx, lowest)
	}
	return epoch, nil
}
