// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/klauspost/compress/zstd"

	"github.com/acgs/dgm-operator/internal/pgstore/internal/dbsql"
)

const (
	// snapshotFormat names how bytes are made; see the column's comment.
	snapshotFormat = "v1"
	// maxSnapshotSize bounds what a stored row can decompress to. Plans are
	// refused far below it.
	maxSnapshotSize = 64 << 20
)

// SaveSnapshot commits the rows of an attempt together with the exact bytes that
// a rollback needs (P1), compressed and encrypted, and returns their SHA-256.
// The same bytes again are fine; other bytes under the same id are ErrIntegrity.
func (s *Store) SaveSnapshot(ctx context.Context, i Improvement, canonical []byte) (string, error) {
	sum := sha256.Sum256(canonical)
	digest := hex.EncodeToString(sum[:])
	stored, err := s.storedDigest(ctx, i.ImprovementID)
	if err != nil {
		return "", err
	}
	if stored != "" {
		if stored != digest {
			return "", differentSnapshot(i.ImprovementID)
		}
		return digest, s.MirrorImprovement(ctx, i)
	}
	r, err := improvementRequest(i)
	if err != nil {
		return "", err
	}
	if r.snapshot, err = s.seal(ctx, i, canonical, digest); err != nil {
		return "", err
	}
	return digest, s.mirror(ctx, r)
}

func differentSnapshot(id uuid.UUID) error {
	return fmt.Errorf("%w: other bytes are stored already for improvement %s: they are kept", ErrIntegrity, id)
}

// storedDigest returns the SHA-256 of what is stored, empty when nothing is.
func (s *Store) storedDigest(ctx context.Context, id uuid.UUID) (string, error) {
	sess, err := s.current()
	if err != nil {
		return "", err
	}
	digest, err := sess.queries.SnapshotDigest(ctx, id)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return "", nil
	case err != nil:
		return "", s.failure(err)
	}
	return digest, nil
}

// WithoutSnapshot returns those of the improvements whose bytes are not stored:
// after a failover that lost commits they are to be saved again.
func (s *Store) WithoutSnapshot(ctx context.Context, ids []uuid.UUID) ([]uuid.UUID, error) {
	sess, err := s.current()
	if err != nil {
		return nil, err
	}
	missing, err := sess.queries.WithoutSnapshot(ctx, ids)
	if err != nil {
		return nil, s.failure(err)
	}
	return missing, nil
}

func (s *Store) seal(ctx context.Context, i Improvement, canonical []byte, digest string) (*dbsql.InsertSnapshotParams, error) {
	aead, keyID, err := s.config.AEAD(ctx)
	if err != nil {
		return nil, fmt.Errorf("key for the snapshot: %w", err)
	}
	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		return nil, err
	}
	defer encoder.Close() //nolint:errcheck // it writes nowhere
	sealed, err := aead.Encrypt(encoder.EncodeAll(canonical, nil), i.ImprovementID[:])
	if err != nil {
		return nil, fmt.Errorf("encrypt the snapshot: %w", err)
	}
	return &dbsql.InsertSnapshotParams{
		ImprovementID: i.ImprovementID, Format: snapshotFormat, Sha256: digest, PlainSize: int64(len(canonical)),
		KeyID: keyID, Bytes: sealed, ConstitutionalHash: escapeText(i.ConstitutionalHash),
	}, nil
}

// LoadSnapshot returns the exact bytes that were saved, after checking that they
// are. ErrIntegrity means that there are none, or that they were altered or
// cannot be decrypted with the keys at hand.
func (s *Store) LoadSnapshot(ctx context.Context, improvementID uuid.UUID) ([]byte, error) {
	sess, err := s.current()
	if err != nil {
		return nil, err
	}
	row, err := sess.queries.Snapshot(ctx, improvementID)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, fmt.Errorf("%w: no bytes are stored for improvement %s", ErrIntegrity, improvementID)
	case err != nil:
		return nil, s.failure(err)
	case row.PurgedAt.Valid:
		return nil, fmt.Errorf("%w: the bytes of improvement %s were purged on %s, after the days that rollback_retention_days says; their SHA-256 was %s",
			ErrIntegrity, improvementID, row.PurgedAt.Time.UTC().Format(time.DateOnly), row.Sha256)
	case row.Format != snapshotFormat:
		return nil, fmt.Errorf("%w: improvement %s is stored in format %q, which this operator does not know: install a newer one",
			ErrIntegrity, improvementID, row.Format)
	}
	return s.open(ctx, improvementID, row)
}

func (s *Store) open(ctx context.Context, id uuid.UUID, row dbsql.SnapshotRow) ([]byte, error) {
	aead, _, err := s.config.AEAD(ctx)
	if err != nil {
		return nil, fmt.Errorf("key for the snapshot: %w", err)
	}
	compressed, err := aead.Decrypt(row.Bytes, id[:])
	if err != nil {
		return nil, fmt.Errorf("%w: the bytes of improvement %s cannot be decrypted: they were altered, or key %s is missing from the keyset",
			ErrIntegrity, id, row.KeyID)
	}
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(maxSnapshotSize), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	defer decoder.Close()
	plain, err := decoder.DecodeAll(compressed, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: the bytes of improvement %s cannot be decompressed: %w", ErrIntegrity, id, err)
	}
	if sum := sha256.Sum256(plain); hex.EncodeToString(sum[:]) != row.Sha256 {
		return nil, fmt.Errorf("%w: the bytes of improvement %s are not those that were saved", ErrIntegrity, id)
	}
	return plain, nil
}
