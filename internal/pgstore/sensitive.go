// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/acgs/dgm-operator/internal/pgstore/internal/dbsql"
)

// cipher encrypts sensitive values.
type cipher struct {
	aead  tink.AEAD
	keyID string
}

// cipher reads the keyset anew, so that a rotated one is in force at once.
func (s *Store) cipher(ctx context.Context) (*cipher, error) {
	aead, keyID, err := s.config.AEAD(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKeyset, err)
	}
	return &cipher{aead, keyID}, nil
}

// associated binds a ciphertext to its key: one setting's cannot pass for
// another's.
func associated(key string) []byte { return []byte("system_configurations/" + key) }

func (c *cipher) seal(key, value string) ([]byte, error) {
	sealed, err := c.aead.Encrypt([]byte(value), associated(key))
	if err != nil {
		return nil, fmt.Errorf("%w: encrypt configuration %q: %w", ErrKeyset, key, err)
	}
	return sealed, nil
}

func (c *cipher) open(key string, sealed []byte) (string, error) {
	plain, err := c.aead.Decrypt(sealed, associated(key))
	if err != nil {
		return "", fmt.Errorf("%w: configuration %q cannot be decrypted: it was altered, or its key is missing from the keyset", ErrIntegrity, key)
	}
	return string(plain), nil
}

// SensitiveConfiguration returns the value of a sensitive setting; found says
// whether there is one. It returns ErrUnavailable, ErrKeyset, or ErrIntegrity when
// the value was altered or its key is gone. The value is for use, not for showing.
func (s *Store) SensitiveConfiguration(ctx context.Context, key string) (value string, found bool, err error) {
	sess, err := s.current()
	if err != nil {
		return "", false, err
	}
	row, err := sess.queries.Configuration(ctx, dbsql.ConfigurationParams{Key: key})
	if err != nil {
		return "", false, s.failure(err)
	}
	if !row.Found || row.Deleted || len(row.EncryptedValue) == 0 {
		return "", false, nil
	}
	cipher, err := s.cipher(ctx)
	if err != nil {
		return "", false, err
	}
	value, err = cipher.open(key, row.EncryptedValue)
	return value, err == nil, err
}

// reencryptBatch bounds the rows of one transaction.
const reencryptBatch = 100

// reencrypt brings sensitive values under the primary key of the keyset, and
// encrypts those that stood in plain before there was encryption.
func (s *session) reencrypt(ctx context.Context) error {
	s.reencrypting.Lock()
	defer s.reencrypting.Unlock()
	if some, err := s.queries.HasSensitive(ctx, s.cluster); err != nil || !some {
		return err
	}
	cipher, err := s.store.cipher(ctx)
	if err != nil {
		return err
	}
	total := 0
	for {
		stale, err := s.queries.StaleSensitive(ctx, dbsql.StaleSensitiveParams{
			KeyID: cipher.keyID, Cluster: s.cluster, Without: s.undecryptable, PageSize: reencryptBatch,
		})
		if err != nil {
			return err
		}
		if len(stale) == 0 {
			break
		}
		ids := make([]uuid.UUID, len(stale))
		for i, row := range stale {
			ids[i] = row.ID
		}
		done, err := s.reencryptRows(ctx, cipher, ids)
		if err != nil {
			return err
		}
		total += done
	}
	if total > 0 {
		s.store.config.Log.Info("Sensitive configurations are encrypted with the primary key now", "rows", total, "key", cipher.keyID)
	}
	return nil
}

// reencryptRows returns how many rows it wrote. A row that cannot be decrypted is
// left as it is, reported and not tried again in this session.
func (s *session) reencryptRows(ctx context.Context, cipher *cipher, ids []uuid.UUID) (int, error) {
	done := 0
	err := s.transaction(ctx, func(tx pgx.Tx) error {
		done = 0
		q := dbsql.New(tx)
		rows, err := q.LockStaleSensitive(ctx, ids)
		if err != nil {
			return err
		}
		for _, row := range rows {
			plain := row.Value.String
			if !row.Value.Valid {
				if plain, err = cipher.open(row.Key, row.EncryptedValue); err != nil {
					s.undecryptable = append(s.undecryptable, row.Key+"/"+row.KeyID)
					s.store.config.Log.Error(err, "A sensitive configuration stays under its old key", "configuration", row.Key, "key", row.KeyID)
					continue
				}
			}
			sealed, err := cipher.seal(row.Key, plain)
			if err != nil {
				return err
			}
			if again, err := cipher.open(row.Key, sealed); err != nil || again != plain {
				return errors.Join(fmt.Errorf("%w: configuration %q does not survive encryption", ErrIntegrity, row.Key), err)
			}
			if err := q.ReencryptSensitive(ctx, dbsql.ReencryptSensitiveParams{EncryptedValue: sealed, KeyID: cipher.keyID, ID: row.ID}); err != nil {
				return err
			}
			done++
		}
		return nil
	})
	return done, err
}
