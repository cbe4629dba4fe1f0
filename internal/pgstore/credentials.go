// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// takeUpCredentials makes all connections anew when the URL, or a certificate
// that it names, was changed, so that the old credentials can be revoked. New
// ones that do not work are no reason to give up connections that do.
func (s *session) takeUpCredentials(ctx context.Context) {
	fresh, err := parseURL(s.store.config.URL)
	if err == nil && sameAddress(s.address, fresh.ConnConfig) {
		return
	}
	if err == nil {
		err = tryConnecting(ctx, fresh.ConnConfig)
	}
	if err != nil {
		if ctx.Err() == nil {
			s.store.sayOnce("The new database URL does not work: the connections that are there are kept while they last", "reason", reason(err))
		}
		return
	}
	s.address = fresh.ConnConfig
	s.pool.Reset()
	if relisten := s.relisten.Load(); relisten != nil {
		(*relisten)()
	}
	s.store.warnOfBlindTrust("url", fresh.ConnConfig)
	s.store.config.Log.Info("The database URL was changed: connections are made anew")
}

func tryConnecting(ctx context.Context, config *pgx.ConnConfig) error {
	ctx, cancel := context.WithTimeout(ctx, watchTimeout)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}

// warnOfBlindTrust says so when the server at an address could be another one.
func (s *Store) warnOfBlindTrust(which string, config *pgx.ConnConfig) {
	if trustsBlindly(config) {
		s.sayOnce("The database's certificate is not checked, so that somebody on the way could read and change all of it: write sslmode=verify-full&sslrootcert=FILE into the URL", "url", which, "host", config.Host)
	}
}

// sayOnce logs something that is found again at every attempt.
func (s *Store) sayOnce(message string, keysAndValues ...string) {
	key, values := message, make([]any, 0, len(keysAndValues))
	for _, v := range keysAndValues {
		key += "\x00" + v
		values = append(values, v)
	}
	if _, said := s.said.LoadOrStore(key, true); !said {
		s.config.Log.Info(message, values...)
	}
}
