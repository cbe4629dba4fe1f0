// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"context"
	"time"
)

// chore is something the leader does for the database every so often. Several
// clusters may share the schema, and so may do it at the same time. A chore that
// finds nothing to do writes nothing (P12).
type chore struct {
	name  string
	every time.Duration
	do    func(*session, context.Context) error
}

// chores are done in this order, one at a time.
func chores() []chore {
	return []chore{
		{"read the settings", 30 * time.Second, (*session).pollConfigurations},
		{"re-encrypt sensitive configurations", time.Minute, (*session).reencrypt},
		{"look for schema drift", driftInterval, (*session).lookForDrift},
		{"make metric partitions", time.Hour, (*session).ensurePartitions},
		{"aggregate metrics", time.Minute, (*session).aggregateMetrics},
		{"drop expired metrics", time.Hour, (*session).dropExpiredMetrics},
		{"purge rollback bytes", time.Hour, (*session).purgeSnapshots},
		{"archive workspaces", 10 * time.Minute, (*session).archiveWorkspaces},
		{"refresh analytics", 5 * time.Minute, (*session).refreshAnalytics},
	}
}

// choreTick is how often it is looked whether a chore is due.
const choreTick = time.Second

// maintainLoop does the chores. One that fails is tried again at its next turn,
// or sooner: its failure is no reason to end the session, since the watch
// notices an outage by itself.
func (s *session) maintainLoop(ctx context.Context) error {
	tick := time.NewTicker(choreTick)
	defer tick.Stop()
	all := chores()
	due := make([]time.Time, len(all))
	for {
		for i, c := range all {
			if time.Now().Before(due[i]) {
				continue
			}
			wait := c.every
			if err := c.do(s, ctx); err != nil && ctx.Err() == nil {
				wait = min(wait, choreRetry)
				s.store.config.Log.Error(err, "Maintenance failed", "chore", c.name, "again in", wait.String())
			}
			due[i] = time.Now().Add(wait)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// choreRetry is how soon a chore that failed is tried again.
const choreRetry = time.Minute
