// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/tink"
)

const secretValue = "hunter2-very-secret"

func configuration(key, value string) Configuration {
	name := strings.ReplaceAll(key, "_", "-")
	return Configuration{Object: Object{Name: name, UID: "uid-of-" + name, Generation: 1}, Key: key, Value: value}
}

func sensitive(key, value string) Configuration {
	c := configuration(key, value)
	c.Sensitive = true
	return c
}

// rotatingKeyset is a keyset as the Secret holds it.
type rotatingKeyset struct {
	mu      sync.Mutex
	manager *keyset.Manager
	err     error
}

func newRotatingKeyset(t testing.TB) *rotatingKeyset {
	t.Helper()
	r := &rotatingKeyset{manager: keyset.NewManager()}
	r.rotate(t)
	return r
}

func (r *rotatingKeyset) rotate(t testing.TB) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	id, err := r.manager.Add(aead.AES256GCMKeyTemplate())
	must(t, err)
	must(t, r.manager.SetPrimary(id))
}

func (r *rotatingKeyset) load(context.Context) (tink.AEAD, string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return nil, "", r.err
	}
	handle, err := r.manager.Handle()
	if err != nil {
		return nil, "", err
	}
	primitive, err := aead.New(handle)
	return primitive, fmt.Sprint(handle.KeysetInfo().GetPrimaryKeyId()), err
}

func (r *rotatingKeyset) primary() string {
	_, id, _ := r.load(context.Background())
	return id
}

// configurationStore leads, with settings that a migration brought.
func configurationStore(t *testing.T) (*leader, *observer, *rotatingKeyset) {
	t.Helper()
	url := migratedDatabase(t)
	keys := newRotatingKeyset(t)
	config := testConfig(url)
	config.AEAD = keys.load
	s := startReady(t, config)
	db := openDatabase(t, url)
	db.builtin()
	return s, db, keys
}

func wantRefused(t *testing.T, err error, rule string, parts ...string) {
	t.Helper()
	var row *RowError
	if !errors.As(err, &row) || row.Constraint != rule {
		t.Errorf("%v, want a refusal by %s", err, rule)
		return
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not say %q", err, part)
		}
	}
}

func TestApplyConfiguration(t *testing.T) {
	t.Parallel()
	s, db, _ := configurationStore(t)
	ctx := testContext(t)
	c := configuration("attempts", "20")
	c.Description = "ours"
	applied, err := s.ApplyConfiguration(ctx, c)
	must(t, err)
	if !applied.Changed || !applied.InForce || applied.At.IsZero() || applied.KeyID != "" {
		t.Errorf("applied: %+v", applied)
	}
	const row = `SELECT concat_ws(' ', value, value_type, description, is_builtin, cluster, name, uid, generation, writer_epoch = (SELECT epoch FROM dgm.writer_fences), revision > 0, deleted_at)
		FROM dgm.system_configurations WHERE key = $1`
	db.want("20 integer t test attempts uid-of-attempts 1 t t", row, "attempts") // a built-in key keeps its own description

	custom := configuration("mine_too", "text")
	custom.Description, custom.Category = "ours", "things"
	_, err = s.ApplyConfiguration(ctx, custom)
	must(t, err)
	db.want("text string ours f test mine-too uid-of-mine-too 1 t t", row, "mine_too")
	custom.Value, custom.ValueType, custom.Generation = "7", "integer", 2
	applied, err = s.ApplyConfiguration(ctx, custom)
	must(t, err)
	if got := strings.Join(applied.Differences, "; "); got != `the value was "text"; the type was string` {
		t.Errorf("differences: %s", got)
	}
	db.want("7 integer ours f test mine-too uid-of-mine-too 2 t t", row, "mine_too")

	must(t, s.ReleaseConfiguration(ctx, "attempts", ""))
	db.want("10 integer t t t", row, "attempts")
	must(t, s.ReleaseConfiguration(ctx, "mine-too", "uid-of-mine-too"))
	db.want("true", "SELECT deleted_at IS NULL FROM dgm.system_configurations WHERE key = 'mine_too'")
	must(t, s.ReleaseConfiguration(ctx, "mine-too", "another"))
	db.want("true", "SELECT deleted_at IS NOT NULL FROM dgm.system_configurations WHERE key = 'mine_too'")
	_, err = s.ApplyConfiguration(ctx, configuration("mine_too", "8"))
	must(t, err)
	db.want("8 integer ours f test mine-too uid-of-mine-too 1 t t", row, "mine_too")
}

func TestP12_UnchangedConfigurationsWriteNothing(t *testing.T) {
	t.Parallel()
	s, db, _ := configurationStore(t)
	ctx := testContext(t)
	db.exec("UPDATE dgm.system_configurations SET value = 'x' WHERE false")
	all := []Configuration{configuration("attempts", "20"), configuration("custom", "x"), sensitive("token", secretValue)}
	refused := []Configuration{configuration("share", "0.6"), configuration("hash", "else"), sensitive("attempts", "20"), configuration("token", "plain")}
	round := func() {
		for _, c := range all {
			_, err := s.ApplyConfiguration(ctx, c)
			must(t, err)
		}
		for _, c := range refused {
			if _, err := s.ApplyConfiguration(ctx, c); err == nil {
				t.Errorf("%s was accepted", c.Key)
			}
		}
		must(t, s.ReleaseConfiguration(ctx, "no-such", ""))
	}
	round()
	const state = `SELECT (SELECT string_agg(concat_ws(' ', key, xmin, ctid), ', ' ORDER BY key) FROM dgm.system_configurations) || ' ' || pg_snapshot_xmax(pg_current_snapshot())`
	// Others may write when a session begins: partitions, for one.
	eventually(t, "a round writes nothing", func() error {
		before := db.text(state)
		round()
		must(t, s.session.Load().reencrypt(ctx))
		if after := db.text(state); after != before {
			return fmt.Errorf("before %s\nafter  %s", before, after)
		}
		return nil
	})
}

func TestConfigurationRefusals(t *testing.T) {
	t.Parallel()
	s, db, _ := configurationStore(t)
	ctx := testContext(t)
	_, err := s.ApplyConfiguration(ctx, sensitive("token", secretValue))
	must(t, err)
	other := func(key, value, valueType string) Configuration {
		c := configuration(key, value)
		c.ValueType = valueType
		return c
	}
	for _, c := range []struct {
		name  string
		c     Configuration
		rule  string
		parts []string
	}{
		{"type", configuration("attempts", "many"), RuleType, []string{`configuration "attempts": the value "many" is not an integer of 64 bits`}},
		{"range", configuration("attempts", "1001"), RuleRules, []string{"is more than max 1000"}},
		{"constitution", configuration("share", "0.6"), RuleConstitution, []string{"max 0.5", "constitution cdd01ef066bc6cf2"}},
		{"constitution, a new key", configuration("level", "middle"), RuleConstitution, []string{"enum"}},
		{"read-only", configuration("hash", "aaaaaaaaaaaaaaaa"), RuleReadOnly, []string{"only a migration"}},
		{"built-in type", other("attempts", "5", "string"), RuleBuiltIn, []string{"by a migration", "spec.valueType"}},
		{"sensitive in plain", configuration("token", secretValue), RuleSensitive, []string{"spec.secretKeyRef"}},
		{"plain one as a secret", sensitive("attempts", "5"), RuleBuiltIn, []string{"not sensitive"}},
		{"NUL", configuration("custom", "a\x00b"), RuleType, []string{"U+0000", "base64"}},
		{"not UTF-8", configuration("custom", "a\xffb"), RuleType, []string{"UTF-8"}},
		{"NUL in JSON", other("custom", `{"a":"\u0000"}`, "json"), RuleType, []string{"JSON"}},
		{"lone surrogate in JSON", other("custom", `"\ud800"`, "json"), RuleType, []string{"JSON"}},
		{"nested JSON", other("custom", strings.Repeat("[", 100_000), "json"), RuleType, []string{"nested too deeply"}},
		{"huge", configuration("custom", strings.Repeat("x", 1<<20+1)), RuleType, []string{"more than 1 MiB"}},
		{"unknown type", other("custom", "x", "text"), "system_configurations_value_type_check", nil},
		{"sensitive constitution", sensitive("level", "middle"), RuleConstitution, []string{"enum", "constitution cdd01ef066bc6cf2"}},
		{"sensitive type", func() Configuration { c := other("other", secretValue, "integer"); c.Sensitive = true; return c }(), RuleRules, []string{"not of type integer"}},
	} {
		_, err := s.ApplyConfiguration(ctx, c.c)
		wantRefused(t, err, c.rule, c.parts...)
		if err != nil && (strings.Contains(err.Error(), secretValue) || len(err.Error()) > 1000) {
			t.Errorf("%s: the error holds too much: %s", c.name, cutForTest(err.Error()))
		}
	}
	// What it is, it may stay, though it be read-only; nobody takes it over.
	applied, err := s.ApplyConfiguration(ctx, configuration("hash", "cdd01ef066bc6cf2"))
	if err != nil || !applied.InForce || applied.Changed {
		t.Errorf("the value that it has: %+v, %v", applied, err)
	}
	db.want("", "SELECT cluster FROM dgm.system_configurations WHERE key = 'hash'")
	_, err = s.ApplyConfiguration(ctx, configuration("custom", "'; DROP TABLE dgm.dgm_archive; -- ␛ 🙂"))
	must(t, err)
	db.want("'; DROP TABLE dgm.dgm_archive; -- ␛ 🙂", "SELECT value FROM dgm.system_configurations WHERE key = 'custom'")

	// A value that was allowed stays in force, and is complained about, when the constitution changes.
	_, err = s.ApplyConfiguration(ctx, configuration("share", "0.5"))
	must(t, err)
	db.exec(`UPDATE dgm.known_constitutions SET configuration_rules = '{"share": {"max": 0.4}, "token": {"maxLength": 3}}' WHERE active`)
	for _, c := range []Configuration{configuration("share", "0.5"), sensitive("token", secretValue)} {
		applied, err = s.ApplyConfiguration(ctx, c)
		wantRefused(t, err, RuleConstitution)
		if !applied.InForce {
			t.Errorf("%s is not in force", c.Key)
		}
	}
	// P7: nobody judges.
	db.exec("UPDATE dgm.known_constitutions SET active = false")
	for _, c := range []Configuration{configuration("attempts", "9"), sensitive("new", "x")} {
		_, err = s.ApplyConfiguration(ctx, c)
		wantRefused(t, err, RuleConstitution, "no constitution is active")
	}
}

func TestConfigurationOfAnotherCluster(t *testing.T) {
	t.Parallel()
	s, db, keys := configurationStore(t)
	ctx := testContext(t)
	config := s.config
	config.ClusterName, config.ClusterUID, config.AEAD = "other", "uid-of-other", keys.load
	other := startReady(t, config)
	_, err := other.ApplyConfiguration(ctx, configuration("custom", "theirs"))
	must(t, err)
	_, err = s.ApplyConfiguration(ctx, configuration("custom", "ours"))
	var taken *KeyTakenError
	if !errors.As(err, &taken) || taken.Cluster != "other" || taken.Name != "custom" {
		t.Fatalf("applied: %v, want KeyTakenError", err)
	}
	must(t, s.ReleaseConfiguration(ctx, "custom", ""))
	db.want("theirs", "SELECT value FROM dgm.system_configurations WHERE key = 'custom' AND deleted_at IS NULL")
	// Once they let go, a leader of an earlier epoch may have it.
	must(t, other.ReleaseConfiguration(ctx, "custom", ""))
	_, err = s.ApplyConfiguration(ctx, configuration("custom", "ours"))
	must(t, err)
	db.want("ours test", "SELECT concat_ws(' ', value, cluster, deleted_at) FROM dgm.system_configurations WHERE key = 'custom'")
}

func TestP4_DeposedLeaderWritesNoConfiguration(t *testing.T) {
	t.Parallel()
	s, db, _ := configurationStore(t)
	ctx := testContext(t)
	_, err := s.ApplyConfiguration(ctx, configuration("attempts", "20"))
	must(t, err)
	db.exec("UPDATE dgm.writer_fences SET epoch = epoch + 1, token = gen_random_uuid()")
	if _, err := s.ApplyConfiguration(ctx, configuration("attempts", "21")); !errors.Is(err, ErrDeposed) {
		t.Errorf("apply: %v, want ErrDeposed", err)
	}
	db.want("20", "SELECT value FROM dgm.system_configurations WHERE key = 'attempts'")
}

func TestSensitiveConfigurationIsNowhereInPlain(t *testing.T) {
	t.Parallel()
	s, db, keys := configurationStore(t)
	ctx := testContext(t)
	applied, err := s.ApplyConfiguration(ctx, sensitive("token", secretValue))
	must(t, err)
	if applied.KeyID != keys.primary() {
		t.Errorf("key %q, want %q", applied.KeyID, keys.primary())
	}
	db.want("0", "SELECT count(*) FROM dgm.system_configurations c WHERE c::text LIKE '%' || $1 || '%'", secretValue)
	db.want("-1", "SELECT position($1::bytea IN encrypted_value) - 1 FROM dgm.system_configurations WHERE key = 'token'", []byte(secretValue))
	value, found, err := s.SensitiveConfiguration(ctx, "token")
	if err != nil || !found || value != secretValue {
		t.Errorf("read back: %q %v %v", value, found, err)
	}
	if _, found, err := s.SensitiveConfiguration(ctx, "attempts"); found || err != nil {
		t.Errorf("a plain one as a sensitive one: %v %v", found, err)
	}
	// One setting's bytes cannot pass for another's.
	db.exec(`INSERT INTO dgm.system_configurations (key, is_sensitive, encrypted_value, key_id) SELECT 'stolen', true, encrypted_value, key_id FROM dgm.system_configurations WHERE key = 'token'`)
	if _, _, err := s.SensitiveConfiguration(ctx, "stolen"); !errors.Is(err, ErrIntegrity) {
		t.Errorf("moved bytes: %v, want ErrIntegrity", err)
	}
	// An edit is put back.
	db.exec(`UPDATE dgm.system_configurations SET encrypted_value = '\x00', key_id = 'nobody' WHERE key = 'token'`)
	applied, err = s.ApplyConfiguration(ctx, sensitive("token", secretValue))
	if err != nil || strings.Join(applied.Differences, "") != "the value was another one" {
		t.Errorf("put back: %+v %v", applied, err)
	}
	// Nor do rules that another service writes tell, by whether they are kept, what the value is.
	for _, guess := range []string{`{"pattern": "^wrong"}`, `{"enum": ["wrong"]}`, `{"maxLength": 1}`} {
		db.exec("UPDATE dgm.system_configurations SET validation_rules = $1::text::jsonb, encrypted_value = '\\x00' WHERE key = 'token'", guess)
		if applied, err := s.ApplyConfiguration(ctx, sensitive("token", secretValue)); err != nil || !applied.Changed {
			t.Errorf("with rules %s of another service: %+v %v", guess, applied, err)
		}
	}
	must(t, s.ReleaseConfiguration(ctx, "token", ""))
	db.want("true", "SELECT encrypted_value IS NULL AND key_id IS NULL AND deleted_at IS NOT NULL FROM dgm.system_configurations WHERE key = 'token'")
	keys.mu.Lock()
	keys.err = errors.New("no Secret")
	keys.mu.Unlock()
	if _, err := s.ApplyConfiguration(ctx, sensitive("token", secretValue)); !errors.Is(err, ErrKeyset) {
		t.Errorf("without a keyset: %v, want ErrKeyset", err)
	}
}

func TestRotationReencryptsSensitiveConfigurations(t *testing.T) {
	t.Parallel()
	s, db, keys := configurationStore(t)
	ctx := testContext(t)
	const many = 2*reencryptBatch + 50
	for i := range many {
		_, err := s.ApplyConfiguration(ctx, sensitive(fmt.Sprintf("token_%03d", i), fmt.Sprint(secretValue, i)))
		must(t, err)
	}
	db.exec(`INSERT INTO dgm.system_configurations (key, is_sensitive, encrypted_value, key_id) VALUES ('broken', true, '\x00', 'gone')`)
	// A value of before there was encryption, and one of another cluster, whose keys are not ours.
	must(t, db.tryExec(`ALTER TABLE dgm.system_configurations DISABLE TRIGGER check_value, DROP CONSTRAINT system_configurations_sensitive;
		INSERT INTO dgm.system_configurations (key, is_sensitive, value, is_readonly) VALUES ('legacy', true, 'legacy-plain', true);
		INSERT INTO dgm.system_configurations (key, is_sensitive, encrypted_value, key_id, cluster) VALUES ('theirs', true, '\x00', 'theirs', 'other');
		ALTER TABLE dgm.system_configurations ENABLE ALWAYS TRIGGER check_value`))
	old := keys.primary()
	keys.rotate(t)
	db.want(int64Text(many), "SELECT count(*) FROM dgm.system_configurations WHERE key_id = $1", old)
	db.exec("INSERT INTO dgm.known_constitutions (hash, version) VALUES ('bbbbbbbbbbbbbbbb', '2')")
	must(t, s.session.Load().reencrypt(ctx))
	db.want(int64Text(many+1), "SELECT count(*) FROM dgm.system_configurations WHERE key_id = $1", keys.primary())
	db.want("gone theirs", "SELECT string_agg(key_id, ' ' ORDER BY key_id) FROM dgm.system_configurations WHERE key_id <> $1", keys.primary())
	for i := range many {
		value, found, err := s.SensitiveConfiguration(ctx, fmt.Sprintf("token_%03d", i))
		if err != nil || !found || value != fmt.Sprint(secretValue, i) {
			t.Fatalf("token %d: %q %v %v", i, value, found, err)
		}
	}
	if value, _, err := s.SensitiveConfiguration(ctx, "legacy"); value != "legacy-plain" || err != nil {
		t.Errorf("the one of before encryption: %q %v", value, err)
	}
	db.want("0", "SELECT count(*) FROM dgm.system_configurations WHERE is_sensitive AND value IS NOT NULL")
	db.want("cdd01ef066bc6cf2", "SELECT DISTINCT constitutional_hash FROM dgm.system_configurations")
}

func TestConfigurationChangesAreFoundWithoutEvents(t *testing.T) {
	t.Parallel()
	s, db, _ := configurationStore(t)
	ctx := testContext(t)
	must(t, s.session.Load().pollConfigurations(ctx))
	db.exec("ALTER TABLE dgm.system_configurations DISABLE TRIGGER notify_update")
	drained := time.After(500 * time.Millisecond) // events of what happened before
	for waiting := true; waiting; {
		select {
		case <-s.ConfigurationChanged():
		case <-drained:
			waiting = false
		}
	}
	must(t, s.session.Load().pollConfigurations(ctx))
	select {
	case keys := <-s.ConfigurationChanged():
		t.Errorf("told of %v although nothing was written", keys)
	default:
	}
	db.exec("UPDATE dgm.system_configurations SET value = '12' WHERE key = 'attempts'")
	must(t, s.session.Load().pollConfigurations(ctx))
	select {
	case <-s.ConfigurationChanged():
	case <-time.After(5 * time.Second):
		t.Error("a write was not found")
	}
}
