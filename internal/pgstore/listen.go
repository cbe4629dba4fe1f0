// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/acgs/dgm-operator/internal/pgstore/internal/dbsql"
)

const (
	listenCheck   = 30 * time.Second
	listenTimeout = 5 * time.Second
	listenFirst   = time.Second
	listenSlowest = time.Minute
	// Events that come so close together are taken as one, up to so many.
	listenPause  = 10 * time.Millisecond
	listenJoined = 100
	// More keys than this mean any.
	mostKeys = 1000
)

// ConfigurationChanged delivers keys of system configurations that somebody may
// have written, within a moment of it; none means any, as when a constitution
// changed or the connection was made anew. Deliveries that nobody has received yet
// are joined. Behind a pooler in transaction mode it comes within half a minute.
func (s *Store) ConfigurationChanged() <-chan []string { return s.configurationChanged }

func (s *Store) configurationMayHaveChanged(keys []string) {
	s.joiningKeys.Lock()
	defer s.joiningKeys.Unlock()
	select {
	case waiting := <-s.configurationChanged:
		keys = joinKeys(waiting, keys)
	default:
	}
	s.configurationChanged <- keys // has room for one, and nobody else sends now
}

// joinKeys is what two deliveries together mean.
func joinKeys(a, b []string) []string {
	if len(a) == 0 || len(b) == 0 {
		return nil
	}
	all := append(slices.Clone(a), b...)
	slices.Sort(all)
	if all = slices.Compact(all); len(all) > mostKeys {
		return nil
	}
	return all
}

// listenLoop hears of written configurations at once instead of at the next
// poll, which goes on all the same. It makes do without: its trouble is no reason
// to end the session.
func (s *session) listenLoop(ctx context.Context) error {
	wait := listenFirst
	for ctx.Err() == nil {
		began := time.Now()
		err := s.listen(ctx)
		if ctx.Err() != nil {
			break
		}
		s.store.config.Log.V(1).Info("Listening for events ended", "reason", reason(err))
		if time.Since(began) > listenSlowest {
			wait = listenFirst
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
		wait = min(2*wait, listenSlowest)
	}
	return ctx.Err()
}

// listen serves one connection, of its own since a pool hands them around, and
// returns why it ended.
func (s *session) listen(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.relisten.Store(&cancel) // before the URL is read, lest a change go unnoticed
	config, err := parseURL(s.store.config.URL)
	if err != nil {
		return err
	}
	conn, err := pgx.ConnectConfig(ctx, config.ConnConfig)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing depends on it
	if err := dbsql.New(conn).Listen(ctx); err != nil {
		return err
	}
	s.heard(ctx, nil) // what happened before was not heard
	for {
		payload, err := waitForNotification(ctx, conn, listenCheck)
		switch {
		case err != nil:
			return err
		case payload != "":
			keys, configures, err := judgeAll(ctx, conn, payload)
			if configures {
				s.heard(ctx, keys)
			}
			if err != nil {
				return err
			}
			continue
		}
		// Nothing for a while: is the connection alive?
		if err := ping(ctx, conn); err != nil {
			return err
		}
	}
}

// waitForNotification returns an empty payload when none came for a while.
func waitForNotification(ctx context.Context, conn *pgx.Conn, most time.Duration) (string, error) {
	timed, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	notification, err := conn.WaitForNotification(timed)
	switch {
	case err == nil:
		return notification.Payload, nil
	case ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) && !conn.IsClosed():
		return "", nil
	}
	return "", err
}

func ping(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, listenTimeout)
	defer cancel()
	return conn.Ping(ctx)
}

// judgeAll judges a payload, and with it those that follow at its heels: anybody
// may send any number, and the settings are read once for all of them.
func judgeAll(ctx context.Context, conn *pgx.Conn, payload string) (keys []string, configures bool, err error) {
	for left := listenJoined - 1; ; left-- {
		if more, does := judge(payload); does && configures {
			keys = joinKeys(keys, more)
		} else if does {
			keys, configures = more, true
		}
		if left == 0 {
			return keys, configures, nil
		}
		if payload, err = waitForNotification(ctx, conn, listenPause); err != nil || payload == "" {
			return keys, configures, err
		}
	}
}

// judge says which keys a payload, which anybody may have sent, tells of.
func judge(payload string) (keys []string, configures bool) {
	var e event
	if json.Unmarshal([]byte(payload), &e) != nil || e.Version != 1 {
		return nil, false
	}
	switch e.Kind {
	case eventConfiguration:
		return e.Keys, true
	case eventConstitution:
		return nil, true
	}
	return nil, false
}

func (s *session) heard(ctx context.Context, keys []string) {
	timed, cancel := context.WithTimeout(ctx, listenTimeout)
	defer cancel()
	if err := s.readSettings(timed); err != nil && ctx.Err() == nil {
		s.store.config.Log.V(1).Info("Settings could not be read after an event", "reason", reason(err))
	}
	s.store.configurationMayHaveChanged(keys)
}
