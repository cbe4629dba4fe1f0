// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/acgs/dgm-operator/test/pgtest"
)

// sample is a complete one; n tells it from others.
func sample(n int) Sample {
	return Sample{
		Name: "http_request_duration", Type: "latency", Scope: "service", Value: fmt.Sprintf("%d.125", n), Unit: "ms", Service: "checkout",
		ImprovementID: uuid.NullUUID{UUID: uuid.NewSHA1(uuid.NameSpaceURL, fmt.Append(nil, n%10)), Valid: true},
		Tags:          json.RawMessage(`{"route":"/products"}`), Timestamp: time.Now().UTC().Add(-time.Duration(n) * time.Millisecond),
	}
}

func samples(count int) []Sample {
	out := make([]Sample, count)
	for n := range out {
		out[n] = sample(n)
	}
	return out
}

func TestRecordMetricsKeepsWhatItWasGiven(t *testing.T) {
	t.Parallel()
	url := migratedDatabase(t)
	s := startReady(t, testConfig(url))
	db := openDatabase(t, url)
	full := sample(1)
	full.Dimensions, full.Metadata = json.RawMessage(`{"pod":"checkout-1"}`), json.RawMessage("null")
	full.ExperimentID = uuid.NullUUID{UUID: uuid.New(), Valid: true}
	full.ComplianceScore = "0.999"
	full.Object = Object{Namespace: "shop", Name: "checkout", UID: "uid-1", Generation: 3}
	must(t, s.RecordMetrics(testContext(t), []Sample{full}))
	db.want("http_request_duration|latency|service|1.125|ms|checkout|t|0.99|test|shop|checkout|uid-1|3|cdd01ef066bc6cf2|t", `SELECT
		concat_ws('|', metric_name, metric_type, metric_scope, value, unit, service_name, improvement_id IS NOT NULL AND experiment_id IS NOT NULL,
			constitutional_compliance_score, cluster, namespace, name, uid, generation, constitutional_hash,
			tags = '{"route":"/products"}' AND dimensions = '{"pod":"checkout-1"}' AND metadata IS NULL AND writer_epoch = (SELECT epoch FROM dgm.writer_fences))
		FROM dgm.performance_metrics WHERE metric_name NOT LIKE 'baseline%'`)
	db.want("true", "SELECT ingest_xid > '0'::xid8 AND substr(id::text, 15, 1) = '7' FROM dgm.performance_metrics WHERE metric_name NOT LIKE 'baseline%'")

	// Neither numeric(15,6) nor a double would keep these.
	for value, want := range map[string]string{
		"1e-7": "0.0000001", "100000000000000000000": "100000000000000000000", "1E20": "100000000000000000000",
		"-0.1234567890123456789012345678901234567890": "-0.1234567890123456789012345678901234567890",
		"+7": "7", ".5": "0.5", "-5.": "-5", "0": "0", "-0.000": "0", "123456789012345678901234567890.5": "123456789012345678901234567890.5",
		"1.5e300": "15" + strings.Repeat("0", 299), "9.99e-307": "0." + strings.Repeat("0", 306) + "999",
	} {
		one := sample(2)
		one.ID, one.Value = uuid.New(), value
		must(t, s.RecordMetrics(testContext(t), []Sample{one}))
		db.want("true", "SELECT value = $2::text::numeric FROM dgm.performance_metrics WHERE id = $1", one.ID, want)
		db.want("true", "SELECT value::text::float8 IS NOT NULL FROM dgm.performance_metrics WHERE id = $1", one.ID)
	}
}

// badSamples are refused, each with a reason that says what is wrong.
func badSamples() map[string]func(*Sample) {
	return map[string]func(*Sample){
		"is not finite": func(s *Sample) { s.Value = "NaN" }, `value "-Infinity" is not finite`: func(s *Sample) { s.Value = "-Infinity" },
		"out of range": func(s *Sample) { s.Value = "1e308" }, "magnitude must be": func(s *Sample) { s.Value = "-1e-308" },
		"is not a decimal": func(s *Sample) { s.Value = "1'; DROP TABLE dgm.performance_metrics; --" }, `value "" is not`: func(s *Sample) { s.Value = "" },
		`"0x10" is not`: func(s *Sample) { s.Value = "0x10" }, `"1_000" is not`: func(s *Sample) { s.Value = "1_000" }, `"+-1" is not`: func(s *Sample) { s.Value = "+-1" },
		`"1e" is not`: func(s *Sample) { s.Value = "1e" }, "more than 1000 digits": func(s *Sample) { s.Value = strings.Repeat("1", 1001) },
		`metric_type "speed" is none of latency`:        func(s *Sample) { s.Type = "speed" },
		`metric_scope "galaxy" is none of service`:      func(s *Sample) { s.Scope = "galaxy" },
		"metric_name is empty":                          func(s *Sample) { s.Name = "" },
		"metric_name has 1025 bytes":                    func(s *Sample) { s.Name = strings.Repeat("n", 1025) },
		"metric_name has 1032 bytes as it is stored":    func(s *Sample) { s.Name = strings.Repeat("\x00", 258) },
		"service_name has 1025 bytes":                   func(s *Sample) { s.Service = strings.Repeat("n", 1025) },
		"timestamp is missing":                          func(s *Sample) { s.Timestamp = time.Time{} },
		"timestamp is in the year 300000":               func(s *Sample) { s.Timestamp = time.Date(300000, 1, 1, 0, 0, 0, 0, time.UTC) },
		"tags is not JSON":                              func(s *Sample) { s.Tags = json.RawMessage(`{"a":`) },
		"dimensions is not JSON":                        func(s *Sample) { s.Dimensions = json.RawMessage("\"a\x00b\"") },
		"metadata is nested 600 deep":                   func(s *Sample) { s.Metadata = json.RawMessage(strings.Repeat("[", 600) + strings.Repeat("]", 600)) },
		"constitutional_compliance_score":               func(s *Sample) { s.ComplianceScore = "1.001" },
		`constitutional_compliance_score "-0.1"`:        func(s *Sample) { s.ComplianceScore = "-0.1" },
		"constitutional_hash \"none\"":                  func(s *Sample) { s.ConstitutionalHash = "none" },
		"the database refuses the row: value overflows": func(s *Sample) { s.Tags = json.RawMessage(`{"a":1e999999}`) },
	}
}

func TestRecordMetricsNamesTheBadAndKeepsTheGood(t *testing.T) {
	t.Parallel()
	url := migratedDatabase(t)
	s := startReady(t, testConfig(url))
	reasons, spoil := []string{}, badSamples()
	for reason := range spoil {
		reasons = append(reasons, reason)
	}
	slices.Sort(reasons)
	all := samples(20 * len(reasons))
	for i, reason := range reasons {
		spoil[reason](&all[20*i+7])
	}
	err := s.RecordMetrics(testContext(t), all)
	var rejected RejectedSamples
	if !errors.As(err, &rejected) || len(rejected) != len(reasons) {
		t.Fatalf("RecordMetrics = %v, want %d samples to be rejected", err, len(reasons))
	}
	slices.SortFunc(rejected, func(a, b RejectedSample) int { return a.Index - b.Index })
	for i, r := range rejected {
		if r.Index != 20*i+7 || !strings.Contains(r.Reason.Error(), reasons[i]) {
			t.Errorf("rejected sample %d because %q, want %d because %q", r.Index, r.Reason, 20*i+7, reasons[i])
		}
	}
	db := openDatabase(t, url)
	db.want(fmt.Sprint(19*len(reasons)), "SELECT count(*) FROM dgm.performance_metrics WHERE metric_name NOT LIKE 'baseline%'")
	must(t, s.Ready())

	// Handed over again, the good ones are known, however they are cut.
	if err := s.RecordMetrics(testContext(t), all[3:]); !errors.As(err, &rejected) || len(rejected) != len(reasons) {
		t.Errorf("RecordMetrics again = %v, want the same rejected", err)
	}
	db.want(fmt.Sprint(19*len(reasons)), "SELECT count(*) FROM dgm.performance_metrics WHERE metric_name NOT LIKE 'baseline%'")
}

func TestRecordMetricsOfHostileText(t *testing.T) {
	t.Parallel()
	url := migratedDatabase(t)
	s := startReady(t, testConfig(url))
	db := openDatabase(t, url)
	for _, text := range []string{"a\x00b", "a\xffb", "␛0", `'; DROP SCHEMA dgm CASCADE; --`, `\.`, "\\N", "tab\tline\n", "Ω𝄞"} {
		one := sample(1)
		one.Name, one.Unit, one.Service = text, text, text
		encoded, err := json.Marshal(map[string]string{"k": text})
		must(t, err)
		one.Tags = encoded
		must(t, s.RecordMetrics(testContext(t), []Sample{one}))
	again:
		for _, column := range []string{"metric_name", "unit", "service_name"} {
			if got := Unescape(db.text("SELECT " + column + " FROM dgm.performance_metrics WHERE metric_name NOT LIKE 'baseline%' ORDER BY id DESC LIMIT 1")); got != text {
				t.Errorf("%s = %q, want %q", column, got, text)
				break again
			}
		}
	}
	one := sample(1)
	one.Tags = json.RawMessage(`{"a":"\u0000","b":"\ud800"}`)
	one.Metadata = json.RawMessage(`"` + strings.Repeat("x", 1<<20) + `"`)
	one.ID = uuid.New()
	must(t, s.RecordMetrics(testContext(t), []Sample{one}))
	db.want("␛0 ␛uD800 1048578", "SELECT (tags->>'a') || ' ' || (tags->>'b') || ' ' || length(metadata::text) FROM dgm.performance_metrics WHERE id = $1", one.ID)
}

func TestRecordMetricsWithoutConstitutionSaysSo(t *testing.T) {
	t.Parallel()
	url := migratedDatabase(t)
	s := startReady(t, testConfig(url))
	db := openDatabase(t, url)
	db.exec("UPDATE dgm.known_constitutions SET active = false")
	if err := s.RecordMetrics(testContext(t), samples(2)); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "no constitution is active") {
		t.Errorf("RecordMetrics = %v, want ErrUnavailable and why", err)
	}
	db.want("0", "SELECT count(*) FROM dgm.performance_metrics WHERE metric_name NOT LIKE 'baseline%'")
}

func TestP4_ADeposedLeaderRecordsNothing(t *testing.T) {
	t.Parallel()
	url := migratedDatabase(t)
	first := startReady(t, testConfig(url))
	startReady(t, testConfig(url))
	if err := first.RecordMetrics(testContext(t), samples(1)); !errors.Is(err, ErrDeposed) {
		t.Errorf("RecordMetrics of the first leader = %v, want ErrDeposed", err)
	}
	openDatabase(t, url).want("0", "SELECT count(*) FROM dgm.performance_metrics WHERE metric_name NOT LIKE 'baseline%'")
}

// commitEater forwards connections to a server. While it eats, it cuts each
// connection that sends COMMIT just when the server has answered.
type commitEater struct {
	net.Listener
	server string
	eat    atomic.Int32 // how many more
	eaten  atomic.Int32
}

func startCommitEater(t *testing.T, server string) *commitEater {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	e := &commitEater{Listener: listener, server: server}
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			go e.serve(client)
		}
	}()
	return e
}

func (e *commitEater) serve(client net.Conn) {
	defer client.Close() //nolint:errcheck // it is cut either way
	server, err := net.Dial("tcp", e.server)
	if err != nil {
		return
	}
	defer server.Close() //nolint:errcheck // it is cut either way
	var cut atomic.Bool
	go func() {
		buffer := make([]byte, 32<<10)
		for {
			n, err := client.Read(buffer)
			if err != nil {
				_ = server.Close()
				return
			}
			if strings.HasSuffix(string(buffer[:n]), "commit\x00") && e.eat.Add(-1) >= 0 {
				cut.Store(true)
			}
			if _, err := server.Write(buffer[:n]); err != nil {
				return
			}
		}
	}()
	buffer := make([]byte, 32<<10)
	for {
		n, err := server.Read(buffer)
		if err != nil {
			return
		}
		if cut.Load() { // the server has committed
			e.eaten.Add(1)
			return
		}
		if _, err := client.Write(buffer[:n]); err != nil {
			return
		}
	}
}

func TestP3_SamplesAreNotDoubledWhenTheAnswerToCommitIsLost(t *testing.T) {
	t.Parallel()
	direct := migratedDatabase(t)
	parsed, err := url.Parse(direct)
	must(t, err)
	eater := startCommitEater(t, parsed.Host)
	parsed.Host = eater.Addr().String()
	c := testConfig(parsed.String())
	c.MigrationURL = func() (string, error) { return direct, nil }
	s := startReady(t, c)
	db := openDatabase(t, direct)

	// Within one call.
	eater.eat.Store(1)
	must(t, s.RecordMetrics(testContext(t), samples(500)))
	if eater.eaten.Load() != 1 {
		t.Fatalf("%d answers were lost, want 1", eater.eaten.Load())
	}
	db.want("500 500", "SELECT count(*) || ' ' || count(DISTINCT id) FROM dgm.performance_metrics WHERE metric_name NOT LIKE 'baseline%'")

	// By the caller, after the store has given up.
	eater.eat.Store(1000)
	more := samples(500)
	if err := s.RecordMetrics(testContext(t), more); err == nil {
		t.Error("RecordMetrics succeeded although no answer ever came")
	}
	eater.eat.Store(0)
	eventually(t, "the samples are handed over again", func() error { return s.RecordMetrics(testContext(t), more) })
	db.want("1000 1000", "SELECT count(*) || ' ' || count(DISTINCT id) FROM dgm.performance_metrics WHERE metric_name NOT LIKE 'baseline%'")
	db.want("1000 2", "SELECT sum(rows) || ' ' || count(*) FROM dgm.metric_batches")
}

func TestP3_SamplesSurviveKillsDuringCopy(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	url := server.Database(t)
	s := startReady(t, testConfig(url))
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	var group sync.WaitGroup
	var recorded atomic.Int64
	for range 3 {
		group.Go(func() {
			for ctx.Err() == nil {
				some := samples(2000)
				for err := io.EOF; err != nil; {
					if err = s.RecordMetrics(testContext(t), some); err != nil {
						time.Sleep(20 * time.Millisecond)
					}
				}
				recorded.Add(2000)
			}
		})
	}
	waitFor := func(more int64) {
		from := recorded.Load()
		eventually(t, "more samples are recorded", func() error {
			if recorded.Load() < from+more {
				return errors.New("too few")
			}
			return nil
		})
	}
	for range 2 {
		waitFor(6000)
		db := openDatabase(t, url)
		for range 5 {
			db.exec(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query ILIKE 'copy %' AND state = 'active'`)
			time.Sleep(30 * time.Millisecond)
		}
		waitFor(6000)
		server.Kill(t)
		server.Start(t)
	}
	waitFor(6000)
	cancel()
	group.Wait()
	db := openDatabase(t, url)
	db.want(fmt.Sprintf("%d %[1]d", recorded.Load()), "SELECT count(*) || ' ' || count(DISTINCT id) FROM dgm.performance_metrics WHERE metric_name NOT LIKE 'baseline%'")
	db.want(fmt.Sprint(recorded.Load()), "SELECT sum(rows) FROM dgm.metric_batches")
}
