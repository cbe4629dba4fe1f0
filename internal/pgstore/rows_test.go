// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
)

// One bad object among thousands fails alone, for whatever reason the database has.
func TestP3_PoisonedRowFailsAlone(t *testing.T) {
	t.Parallel()
	url := migratedDatabase(t)
	ctx := testContext(t)
	s := startReady(t, testConfig(url))
	poisons := map[int]func(*Improvement){
		100:  func(i *Improvement) { i.ComplianceScore = "1.5" },
		700:  func(i *Improvement) { i.ArchiveStatus = "no such status" },
		1300: func(i *Improvement) { i.ConstitutionalHash = "0123456789abcdef" },
		1900: func(i *Improvement) { i.Metadata = json.RawMessage(`{"n": 1e999999}`) },
		2500: func(i *Improvement) { i.Metadata = json.RawMessage(`{not json`) },
		2999: func(i *Improvement) { i.ComplianceScore = "NaN" },
	}
	err := mirrorAll(ctx, s.Store, 3000, func(i *Improvement) {
		for n, poison := range poisons {
			if i.Name == improvement(n).Name {
				poison(i)
			}
		}
	})
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok || len(joined.Unwrap()) != len(poisons) {
		t.Fatalf("errors = %v, want %d", err, len(poisons))
	}
	for _, one := range joined.Unwrap() {
		var rowErr *RowError
		if !errors.As(one, &rowErr) || rowErr.Message == "" {
			t.Errorf("error of a poisoned row = %v, want a RowError with a message", one)
		}
	}
	db := openDatabase(t, url)
	db.want("2994/2994", "SELECT (SELECT count(*) FROM dgm.dgm_archive) || '/' || (SELECT count(*) FROM dgm.improvement_workspaces)")
	must(t, s.Ready())
	must(t, s.MirrorImprovement(ctx, improvement(100)))
}

func TestPoisonedPolicyFailsAlone(t *testing.T) {
	t.Parallel()
	url := migratedDatabase(t)
	ctx := testContext(t)
	s := startReady(t, testConfig(url))
	bad := policy(1, "a", "b")
	bad.Arms[1].SafetyThreshold = "2"
	twice := policy(2, "a", "a")
	results := make(chan error, 3)
	for _, p := range []Policy{bad, twice, policy(3, "a")} {
		go func() { results <- s.MirrorPolicy(ctx, p) }()
	}
	var refused int
	for range 3 {
		var rowErr *RowError
		if err := <-results; errors.As(err, &rowErr) {
			refused++
		} else {
			must(t, err)
		}
	}
	if refused != 2 {
		t.Errorf("%d policies were refused, want the two bad ones", refused)
	}
	openDatabase(t, url).want("policy-003", "SELECT string_agg(name, ',') FROM dgm.bandit_states")
}

func TestAnyStringAndDocumentIsStored(t *testing.T) {
	t.Parallel()
	url := migratedDatabase(t)
	ctx, db := testContext(t), openDatabase(t, url)
	s := startReady(t, testConfig(url))
	texts := []string{
		"", "plain", "NUL \x00 inside", "␛ escape ␛0 mark", "invalid \xff\xfe UTF-8", "'; DROP TABLE dgm.dgm_archive; --",
		`$1 \ " ' {a,NULL,"b"} {}`, "NULL", "emoji 🙂 and \u2028", "\\u0000 written out", "tab\tnewline\n\r",
	}
	for n, text := range texts {
		i := improvement(n)
		doc, err := json.Marshal(map[string]string{"text": text, text: "as a key"})
		must(t, err)
		i.Description, i.TargetService, i.CreatedBy, i.Namespace, i.Name, i.UID, i.MaterialDigest = text, text, text, text, text+"n", text+"u", text
		i.Metadata, i.Configuration = doc, doc
		must(t, s.MirrorImprovement(ctx, i))
		if got := Unescape(db.text("SELECT description FROM dgm.dgm_archive WHERE improvement_id = $1", i.ImprovementID)); got != text {
			t.Errorf("description %.40q came back as %.40q", text, got)
		}
		var stored map[string]string
		must(t, json.Unmarshal([]byte(db.text("SELECT metadata FROM dgm.dgm_archive WHERE improvement_id = $1", i.ImprovementID)), &stored))
		want := strings.ToValidUTF8(text, "\ufffd\ufffd") // as encoding/json does, byte by byte
		if got := Unescape(stored["text"]); text != "invalid \xff\xfe UTF-8" && got != text || text == "invalid \xff\xfe UTF-8" && got != want {
			t.Errorf("document with %.40q came back as %.40q", text, got)
		}
		newest, err := s.NewestAttempt(ctx, text, text+"n")
		must(t, err)
		if newest == nil || newest.UID != text+"u" {
			t.Errorf("newest attempt of %.40q = %+v", text, newest)
		}
	}
	db.want(fmt.Sprint(len(texts)), "SELECT count(*) FROM dgm.dgm_archive")
	for _, text := range texts {
		must(t, s.Tombstone(ctx, KindImprovementWorkspace, text, text+"n", ""))
	}
	db.want("0", "SELECT count(*) FROM dgm.dgm_archive WHERE deleted_at IS NULL")

	large := improvement(1000)
	large.Description = strings.Repeat("x", 1<<20)
	large.Metadata = json.RawMessage(`"` + large.Description + `"`)
	must(t, s.MirrorImprovement(ctx, large))
	db.want("1048576/1048578", "SELECT length(description) || '/' || length(metadata::text) FROM dgm.dgm_archive WHERE improvement_id = $1", large.ImprovementID)
	large.ImprovementID, large.Name = uuid.New(), randomText(1<<20) // fits no index
	var rowErr *RowError
	if err := s.MirrorImprovement(ctx, large); !errors.As(err, &rowErr) {
		t.Errorf("MirrorImprovement of a name of 1 MiB = %v, want a RowError", err)
	}

	// Compared after a restart, they are recognised.
	i := improvement(2000)
	i.Metadata = json.RawMessage(`{"nul":"\u0000","lone":"\ud800","low":"\udc00x","pair":"\ud83d\ude42","backslash":"\\u0000","mark":"\u241b"}`)
	must(t, s.MirrorImprovement(ctx, i))
	again := startReady(t, testConfig(url))
	revision := db.text("SELECT writer_epoch || '/' || revision FROM dgm.dgm_archive WHERE improvement_id = $1", i.ImprovementID)
	must(t, again.MirrorImprovement(ctx, i))
	db.want(revision, "SELECT writer_epoch || '/' || revision FROM dgm.dgm_archive WHERE improvement_id = $1", i.ImprovementID)
	db.want("␛0|␛uD800|␛uDC00x|🙂|\\u0000|␛␛", `SELECT concat_ws('|', metadata->>'nul', metadata->>'lone', metadata->>'low', metadata->>'pair', metadata->>'backslash', metadata->>'mark')
		FROM dgm.dgm_archive WHERE improvement_id = $1`, i.ImprovementID)
}

func randomText(n int) string {
	b := make([]byte, n/2)
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)
}

func FuzzEscapeTextIsReversible(f *testing.F) {
	for _, seed := range []string{"", "\x00", "␛", "␛0", "␛x", "\xff", "␛xFF", "␛u0000", "a\x00␛\xe2\x90"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		escaped := escapeText(s)
		if strings.Contains(escaped, "\x00") || strings.ToValidUTF8(escaped, "") != escaped {
			t.Errorf("%q escaped is %q, which PostgreSQL refuses", s, escaped)
		}
		if got := Unescape(escaped); got != s {
			t.Errorf("%q came back as %q", s, got)
		}
	})
}

func FuzzEscapeJSONKeepsDocumentsValid(f *testing.F) {
	for _, seed := range []string{`{}`, `"\u0000"`, `"\ud800\ud800"`, `"\\u0000"`, `["␛",1e5]`, `"\ud83d\ude42"`, `"\u241b"`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		if !json.Valid(doc) {
			return
		}
		if strings.TrimSpace(string(doc)) == "null" {
			return
		}
		escaped := escapeJSON(doc)
		if !json.Valid([]byte(escaped)) {
			t.Errorf("%q escaped is %q, which is not JSON", doc, escaped)
		}
		if strings.Contains(strings.ReplaceAll(escaped, `\\`, ""), `\u0000`) {
			t.Errorf("%q escaped is %q, which PostgreSQL refuses", doc, escaped)
		}
	})
}

func TestNullDocumentIsNoDocument(t *testing.T) {
	t.Parallel()
	url := migratedDatabase(t)
	s, ctx := startReady(t, testConfig(url)), testContext(t)
	encoded, err := json.Marshal(improvement(1))
	must(t, err)
	var decoded Improvement
	must(t, json.Unmarshal(encoded, &decoded))
	must(t, s.MirrorImprovement(ctx, decoded))
	openDatabase(t, url).want("true", "SELECT rollback_data IS NULL FROM dgm.dgm_archive")
}

func TestP1_SnapshotIsCommittedWithItsArchiveRow(t *testing.T) {
	t.Parallel()
	url := migratedDatabase(t)
	ctx, db := testContext(t), openDatabase(t, url)
	s := startReady(t, testConfig(url))
	i := improvement(1)
	canonical := append(bytes.Repeat([]byte(`{"data":{"CACHE_TTL":"5","nul":"\u0000"}}`), 20_000), 0, 0xff)

	digest, err := s.SaveSnapshot(ctx, i, canonical)
	must(t, err)
	db.want(digest, "SELECT sha256 FROM dgm.rollback_snapshots s JOIN dgm.dgm_archive USING (improvement_id) JOIN dgm.improvement_workspaces USING (improvement_id)")
	db.want("true", "SELECT octet_length(bytes) < 20000 AND position('CACHE_TTL'::bytea IN bytes) = 0 AND key_id = 'key-1' FROM dgm.rollback_snapshots")
	loaded, err := s.LoadSnapshot(ctx, i.ImprovementID)
	must(t, err)
	if !bytes.Equal(loaded, canonical) {
		t.Error("the bytes that came back are not those that were saved")
	}
	newest, err := s.NewestAttempt(ctx, i.Namespace, i.Name)
	must(t, err)
	if !newest.HasSnapshot {
		t.Error("the newest attempt has no snapshot")
	}

	again, err := s.SaveSnapshot(ctx, i, canonical)
	must(t, err)
	if again != digest {
		t.Errorf("digest of the same bytes = %s, want %s", again, digest)
	}
	if _, err := s.SaveSnapshot(ctx, i, []byte("other")); !errors.Is(err, ErrIntegrity) {
		t.Errorf("SaveSnapshot of other bytes = %v, want ErrIntegrity", err)
	}
	if _, err := s.LoadSnapshot(ctx, uuid.New()); !errors.Is(err, ErrIntegrity) {
		t.Errorf("LoadSnapshot of nothing = %v, want ErrIntegrity", err)
	}
}

func TestP1_SnapshotOfRefusedRowIsNotStored(t *testing.T) {
	t.Parallel()
	url := migratedDatabase(t)
	s, ctx := startReady(t, testConfig(url)), testContext(t)
	i := improvement(1)
	i.ArchiveStatus = "no such status"
	var rowErr *RowError
	if _, err := s.SaveSnapshot(ctx, i, []byte("before")); !errors.As(err, &rowErr) {
		t.Errorf("SaveSnapshot = %v, want a RowError", err)
	}
	openDatabase(t, url).want("0", "SELECT count(*) FROM dgm.rollback_snapshots")
}

func TestP2_AlteredSnapshotIsRefused(t *testing.T) {
	t.Parallel()
	url := migratedDatabase(t)
	ctx, db := testContext(t), openDatabase(t, url)
	s := startReady(t, testConfig(url))
	for n := range 2 {
		_, err := s.SaveSnapshot(ctx, improvement(n), fmt.Appendf(nil, "before %d", n))
		must(t, err)
	}
	for _, sql := range []string{"UPDATE dgm.rollback_snapshots SET key_id = 'x'", "TRUNCATE dgm.rollback_snapshots"} {
		if _, err := db.conn.Exec(ctx, sql); err == nil || !strings.Contains(err.Error(), "insert-only") {
			t.Errorf("%s = %v, want it refused", sql, err)
		}
	}
	// Even who can switch triggers off cannot pass one snapshot off as another.
	db.exec("ALTER TABLE dgm.rollback_snapshots DISABLE TRIGGER refuse_update")
	db.exec(`UPDATE dgm.rollback_snapshots s SET bytes = o.bytes, sha256 = o.sha256 FROM dgm.rollback_snapshots o WHERE s.improvement_id = $1 AND o.improvement_id = $2`,
		improvement(0).ImprovementID, improvement(1).ImprovementID)
	if _, err := s.LoadSnapshot(ctx, improvement(0).ImprovementID); !errors.Is(err, ErrIntegrity) {
		t.Errorf("LoadSnapshot of swapped bytes = %v, want ErrIntegrity", err)
	}
	db.exec("UPDATE dgm.rollback_snapshots SET sha256 = repeat('0', 64) WHERE improvement_id = $1", improvement(1).ImprovementID)
	if _, err := s.LoadSnapshot(ctx, improvement(1).ImprovementID); !errors.Is(err, ErrIntegrity) {
		t.Errorf("LoadSnapshot with another digest = %v, want ErrIntegrity", err)
	}
}

// Of all tables, and of partitions whenever they were made.
func TestLargeDocumentsAreCompressedWithLZ4(t *testing.T) {
	t.Parallel()
	url := migratedDatabase(t)
	ctx, s, db := testContext(t), startReady(t, testConfig(url)), openDatabase(t, url)
	large := json.RawMessage(`{"log":"` + strings.Repeat("a line of a log; ", 4096) + `"}`)
	i := improvement(1)
	i.Metadata, i.TestResults = large, large
	must(t, s.MirrorImprovement(ctx, i))
	db.want("lz4", "SELECT pg_column_compression(metadata) FROM dgm.dgm_archive WHERE improvement_id = $1", i.ImprovementID)
	db.want("lz4", "SELECT pg_column_compression(test_results) FROM dgm.improvement_workspaces WHERE improvement_id = $1", i.ImprovementID)
	db.text("SELECT dgm.ensure_metric_partitions(1, 8)")
	for _, at := range []time.Time{month(0), month(8), month(200)} { // made by the first migrations, made just now, the default one
		one := sample(1)
		one.ID, one.Timestamp, one.Metadata = uuid.New(), at, large
		must(t, s.RecordMetrics(ctx, []Sample{one}))
		db.want("lz4", "SELECT pg_column_compression(metadata) FROM dgm.performance_metrics WHERE id = $1", one.ID)
	}
	db.want("", `SELECT string_agg(a.attrelid::regclass || '.' || a.attname, ' ') FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
		WHERE c.relnamespace = 'dgm'::regnamespace AND c.relkind IN ('r', 'p', 'm') AND a.atttypid = 'jsonb'::regtype AND a.attcompression <> 'l'`)
}
