// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/acgs/dgm-operator/internal/pgstore/internal/dbsql"
	"github.com/acgs/dgm-operator/internal/settings"
)

const configurationTable = "system_configurations"

// Rules by which the database refuses a configuration, as RowError.Constraint
// names them.
const (
	RuleType         = "configuration_type"         // the value is not of its type
	RuleRules        = "configuration_rules"        // it breaks validation_rules
	RuleConstitution = "configuration_constitution" // the constitution does not allow it
	RuleReadOnly     = "configuration_readonly"     // only a migration changes the key
	RuleBuiltIn      = "configuration_builtin"      // so it is with type, rules and flags
	RuleSensitive    = "configuration_sensitive"    // a sensitive value in plain
)

// ErrKeyset says that a sensitive value can be neither encrypted nor compared,
// because the keyset cannot be read.
var ErrKeyset = errors.New("the keyset for sensitive values cannot be read")

// KeyTakenError says that the object of another cluster holds a key.
type KeyTakenError struct {
	Key, Cluster, Name string
}

func (e *KeyTakenError) Error() string {
	return fmt.Sprintf("configuration %q is held by the SystemConfiguration %s of cluster %s: delete one of the two objects", e.Key, e.Name, e.Cluster)
}

// Configuration is what a SystemConfiguration asks of its key.
type Configuration struct {
	Object

	Key, Value string
	// Sensitive: Value comes from a Secret, and is stored encrypted.
	Sensitive bool
	// ValueType, Description and Category leave what the row says when empty; the
	// type of a new key is string then. A built-in key keeps its own description
	// and category.
	ValueType, Description, Category string
}

// AppliedConfiguration is what ApplyConfiguration came to.
type AppliedConfiguration struct {
	// InForce: the database holds the value. It may do so beside an error, when
	// the constitution changed since.
	InForce bool
	// Differences are what was written over, without sensitive values; empty when
	// nothing was.
	Differences []string
	// Edited: they are not of the operator's writing. A sensitive value that was
	// encrypted with the keyset is: the Secret has another one now.
	Edited bool
	// Changed: something was written.
	Changed bool
	// KeyID is the key that a sensitive value is encrypted with.
	KeyID string
	// At is when the row last changed.
	At time.Time
}

// ApplyConfiguration brings a key's row to what its object asks. It returns
// ErrUnavailable, ErrDeposed, ErrKeyset, a *KeyTakenError, or a *RowError in the
// database's own words, which are found out without writing where possible.
// Nothing is written when the row is that already.
func (s *Store) ApplyConfiguration(ctx context.Context, c Configuration) (AppliedConfiguration, error) {
	if !utf8.ValidString(c.Value) || strings.ContainsRune(c.Value, 0) {
		return AppliedConfiguration{}, refusedConfiguration(c.Key, RuleType,
			"the value holds U+0000 or bytes that are not UTF-8, which the database cannot hold: encode it, for example as base64")
	}
	sess, err := s.current()
	if err != nil {
		return AppliedConfiguration{}, err
	}
	var cipher *cipher
	if c.Sensitive {
		if cipher, err = s.cipher(ctx); err != nil {
			return AppliedConfiguration{}, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, transactionTimeout)
	defer cancel()
	deadline := time.Now().Add(retryFor)
	for wait := retryFirst; ; wait = min(2*wait, retrySlowest) {
		applied, err := sess.applyConfiguration(ctx, c, cipher)
		if err != nil && isContention(err) && time.Now().Add(wait).Before(deadline) {
			time.Sleep(wait)
			continue
		}
		return applied, s.configurationError(err)
	}
}

// errRowAppeared says that somebody else inserted the key in between.
var errRowAppeared = errors.New("the row appeared meanwhile")

func isContention(err error) bool {
	var row *RowError
	var taken *KeyTakenError
	if errors.As(err, &row) || errors.As(err, &taken) || isVerdict(err) {
		return false
	}
	return errors.Is(err, errRowAppeared) || classify(err) == failureContention
}

// configurationError turns what went wrong into what callers know.
func (s *Store) configurationError(err error) error {
	var row *RowError
	var taken *KeyTakenError
	switch {
	case err == nil, errors.As(err, &row), errors.As(err, &taken):
		return err
	case rowErrorOf(err) != nil:
		return newRowError(rowErrorOf(err))
	}
	return s.failure(err)
}

func refusedConfiguration(key, rule, problem string) *RowError {
	return &RowError{Table: configurationTable, Constraint: rule, Message: fmt.Sprintf("configuration %q: %s", key, problem)}
}

func (s *session) applyConfiguration(ctx context.Context, c Configuration, cipher *cipher) (AppliedConfiguration, error) {
	asked, err := digestOf(c)
	if err != nil {
		return AppliedConfiguration{}, err
	}
	now, err := readConfiguration(ctx, s.queries, c)
	if err != nil {
		return AppliedConfiguration{}, err
	}
	plan, err := s.planConfiguration(now, c, cipher)
	if err != nil || !plan.changed {
		return plan.applied(now), err
	}
	// What the database has refused it refuses again, as long as nothing else changed.
	if refused := s.store.refusals.get(c.UID, asked, now.Version); refused != nil {
		return AppliedConfiguration{}, refused
	}
	err = s.transaction(ctx, func(tx pgx.Tx) error {
		q := dbsql.New(tx)
		if err := q.LockConfiguration(ctx, c.Key); err != nil {
			return err
		}
		if now, err = readConfiguration(ctx, q, c); err != nil {
			return err
		}
		if plan, err = s.planConfiguration(now, c, cipher); err != nil || !plan.changed {
			return err
		}
		return s.writeConfiguration(ctx, q, plan)
	})
	if pgErr := rowErrorOf(err); pgErr != nil {
		err = newRowError(pgErr)
		s.store.refusals.set(c.UID, asked, now.Version, err)
	}
	if err != nil {
		return AppliedConfiguration{}, err
	}
	if now, err = readConfiguration(ctx, s.queries, c); err != nil {
		return AppliedConfiguration{}, err
	}
	applied := plan.applied(now)
	applied.InForce = true
	return applied, s.readSettings(ctx)
}

func readConfiguration(ctx context.Context, q *dbsql.Queries, c Configuration) (dbsql.ConfigurationRow, error) {
	p := dbsql.ConfigurationParams{Key: c.Key, ValueType: c.ValueType}
	if !c.Sensitive { // what is secret does not even pass through the server's log
		p.Value = pgtype.Text{String: c.Value, Valid: true}
	}
	return q.Configuration(ctx, p)
}

// configurationPlan is the row that is wanted.
type configurationPlan struct {
	row         dbsql.InsertConfigurationParams
	found       bool
	changed     bool
	edited      bool
	differences []string
}

func (p configurationPlan) applied(now dbsql.ConfigurationRow) AppliedConfiguration {
	return AppliedConfiguration{
		InForce: now.Found && !p.changed, Changed: p.changed, Differences: p.differences, Edited: p.edited,
		KeyID: p.row.KeyID, At: now.UpdatedAt.Time.UTC(),
	}
}

// planConfiguration compares the row with what is asked. An error beside a plan
// that changes nothing is of a value that stays in force.
func (s *session) planConfiguration(now dbsql.ConfigurationRow, c Configuration, cipher *cipher) (configurationPlan, error) {
	if now.Found && !now.Deleted {
		if err := s.checkHeld(now, c); err != nil {
			return configurationPlan{changed: true}, err
		}
	}
	plan := s.wantedConfiguration(now, c)
	if c.Sensitive {
		if err := plan.encrypt(now, c, cipher); err != nil {
			return configurationPlan{changed: true}, err
		}
	}
	plan.compare(now, c)
	if now.IsReadonly && len(plan.differences) == 0 {
		plan.changed = false // it has the value already, and nobody takes it over
	}
	return plan, checkConfiguration(now, c, plan.row.ValueType)
}

// checkHeld refuses what a live row does not let happen to it, before any
// sensitive value leaves this process.
func (s *session) checkHeld(now dbsql.ConfigurationRow, c Configuration) error {
	switch {
	case now.Cluster != "" && now.Cluster != s.cluster:
		return &KeyTakenError{Key: c.Key, Cluster: now.Cluster, Name: now.Name}
	case now.Cluster == s.cluster && now.WriterEpoch > s.fence.epoch:
		return ErrDeposed
	case now.IsSensitive && !c.Sensitive:
		return refusedConfiguration(c.Key, RuleSensitive,
			"it is sensitive, so that its value may not be given in plain: put it into a Secret and name that in spec.secretKeyRef; to have it in plain from now on, delete the SystemConfiguration and make it anew")
	case now.IsBuiltin && !now.IsSensitive && c.Sensitive:
		return refusedConfiguration(c.Key, RuleBuiltIn, "it is built in and not sensitive: give it by spec.value")
	case now.IsBuiltin && c.ValueType != "" && c.ValueType != now.ValueType:
		return refusedConfiguration(c.Key, RuleBuiltIn,
			fmt.Sprintf("it is built in, and its type %s changes only by a migration: leave spec.valueType out", now.ValueType))
	}
	return nil
}

// wantedConfiguration is the row without what a sensitive one adds.
func (s *session) wantedConfiguration(now dbsql.ConfigurationRow, c Configuration) configurationPlan {
	row := dbsql.InsertConfigurationParams{
		Key: c.Key, ValueType: firstOf(c.ValueType, now.ValueType, settings.TypeString), IsSensitive: c.Sensitive,
		Description: firstOf(escapeText(c.Description), now.Description), Category: firstOf(escapeText(c.Category), now.Category),
		Cluster: pgtype.Text{String: s.cluster, Valid: true}, Name: pgtype.Text{String: c.Name, Valid: true},
		Uid: pgtype.Text{String: c.UID, Valid: true}, Generation: pgtype.Int8{Int64: c.Generation, Valid: true},
		WriterEpoch: s.fence.epoch,
	}
	if now.IsBuiltin {
		row.Description, row.Category = now.Description, now.Category
	}
	if !c.Sensitive {
		row.Value = pgtype.Text{String: c.Value, Valid: true}
	}
	return configurationPlan{row: row, found: now.Found}
}

func firstOf(texts ...string) string {
	for _, text := range texts {
		if text != "" {
			return text
		}
	}
	return ""
}

// encrypt keeps the stored bytes when they are the same value: AEAD gives other
// ones each time.
func (p *configurationPlan) encrypt(now dbsql.ConfigurationRow, c Configuration, cipher *cipher) error {
	stored, err := cipher.open(c.Key, now.EncryptedValue)
	if err == nil && stored == c.Value {
		p.row.EncryptedValue, p.row.KeyID = now.EncryptedValue, now.KeyID
		return nil
	}
	p.edited = err != nil
	sealed, err := cipher.seal(c.Key, c.Value)
	if err != nil {
		return err
	}
	p.row.EncryptedValue, p.row.KeyID = sealed, cipher.keyID
	return nil
}

// compare notes what differs, in words for people.
func (p *configurationPlan) compare(now dbsql.ConfigurationRow, c Configuration) {
	differ := func(differs bool, format string, args ...any) {
		if differs && now.Found {
			p.differences = append(p.differences, fmt.Sprintf(format, args...))
			p.edited = true
		}
	}
	if !now.Found {
		p.differences, p.edited = append(p.differences, "the row was gone"), true
	}
	differ(now.Deleted, "the row was marked as deleted")
	switch {
	case c.Sensitive:
		if now.Found && string(p.row.EncryptedValue) != string(now.EncryptedValue) {
			p.differences = append(p.differences, "the value was another one")
		}
		differ(!now.IsSensitive, "it was not sensitive")
	case !now.Value.Valid:
		differ(true, "it had no value")
	default:
		differ(now.Value.String != c.Value, "the value was %s", strconv.Quote(cutText(now.Value.String, 100)))
	}
	differ(now.ValueType != p.row.ValueType, "the type was %s", now.ValueType)
	differ(now.Description != p.row.Description, "the description was another one")
	differ(now.Category != p.row.Category, "the category was another one")
	whose := now.Cluster == p.row.Cluster.String && now.Name == p.row.Name.String && now.Uid == p.row.Uid.String &&
		now.Generation == p.row.Generation.Int64
	p.changed = !whose || len(p.differences) > 0
}

func cutText(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}

// checkConfiguration is the database's judgement of a plain value, and this
// program's of a sensitive one. Rules that are not a migration's, anybody may write
// who writes to the table: their answers would give a sensitive value away, so
// they are not asked.
func checkConfiguration(now dbsql.ConfigurationRow, c Configuration, valueType string) error {
	if now.Problem != "" {
		return refusedConfiguration(c.Key, now.ProblemKind, now.Problem)
	}
	if !c.Sensitive {
		return nil
	}
	var rules string
	if now.IsBuiltin {
		rules = now.ValidationRules
	}
	if err := settings.CheckSensitive(c.Value, valueType, rules); err != nil {
		return refusedConfiguration(c.Key, RuleRules, err.Error()+", by its type and rules")
	}
	if err := settings.CheckSensitive(c.Value, valueType, now.ConstitutionRules); err != nil {
		return refusedConfiguration(c.Key, RuleConstitution, fmt.Sprintf("%v, by the constitution %s", err, now.Constitution))
	}
	return nil
}

func (s *session) writeConfiguration(ctx context.Context, q *dbsql.Queries, plan configurationPlan) error {
	row := plan.row
	row.Revision = s.store.revision.Add(1)
	if plan.found {
		return q.UpdateConfiguration(ctx, dbsql.UpdateConfigurationParams{
			Value: row.Value, ValueType: row.ValueType, Description: row.Description, Category: row.Category, IsSensitive: row.IsSensitive,
			EncryptedValue: row.EncryptedValue, KeyID: row.KeyID, Cluster: row.Cluster, Name: row.Name, Uid: row.Uid,
			Generation: row.Generation, WriterEpoch: row.WriterEpoch, Revision: row.Revision, Key: row.Key,
		})
	}
	id, err := uuid.NewV7()
	if err != nil {
		return err
	}
	row.ID = id
	inserted, err := q.InsertConfiguration(ctx, row)
	if err == nil && inserted == 0 {
		return errRowAppeared
	}
	return err
}

// ReleaseConfiguration lets go of what an object of this name held, but for
// keepUID: a built-in key returns to its default, another one becomes a tombstone.
// Nothing is written when nothing is held.
func (s *Store) ReleaseConfiguration(ctx context.Context, name, keepUID string) error {
	sess, err := s.current()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, transactionTimeout)
	defer cancel()
	held, err := sess.queries.HeldConfigurations(ctx, dbsql.HeldConfigurationsParams{Cluster: sess.cluster, Name: name, KeepUid: keepUID})
	if err != nil {
		return s.failure(err)
	}
	if len(held) == 0 {
		return nil
	}
	err = sess.transaction(ctx, func(tx pgx.Tx) error {
		return dbsql.New(tx).ReleaseConfigurations(ctx, dbsql.ReleaseConfigurationsParams{
			WriterEpoch: sess.fence.epoch, Revision: s.revision.Add(1), Cluster: sess.cluster, Name: name, KeepUid: keepUID,
		})
	})
	if err == nil {
		err = sess.readSettings(ctx)
	}
	return s.configurationError(err)
}

// refusals remembers what the database refused, by object.
type refusals struct {
	mu    sync.Mutex
	known map[string]refusal
}

type refusal struct {
	asked   digest
	version string
	err     error
}

func (r *refusals) get(uid string, asked digest, version string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if known, found := r.known[uid]; found && known.asked == asked && known.version == version {
		return known.err
	}
	delete(r.known, uid)
	return nil
}

func (r *refusals) set(uid string, asked digest, version string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.known == nil {
		r.known = map[string]refusal{}
	}
	r.known[uid] = refusal{asked, version, err}
}
