// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/acgs/dgm-operator/internal/pgstore/internal/dbsql"
)

// Values of metric_type and metric_scope.
var (
	MetricTypes = []string{
		"latency", "throughput", "error_rate", "resource_usage", "constitutional_compliance",
		"improvement_success_rate", "bandit_reward", "system_health",
	}
	MetricScopes = []string{"service", "system", "improvement", "experiment"}
)

// Sample is one measured value: a row of performance_metrics. Empty strings and
// documents become null, but for those that are required.
type Sample struct {
	// ID identifies the sample, so that it is recorded once however often it is
	// handed over. RecordMetrics gives one (UUIDv7) to a sample that has none.
	ID uuid.UUID
	// Name of the metric; required, at most 1,024 bytes as it is stored (see
	// Unescape), as Service and Unit are.
	Name string
	// Type is one of MetricTypes, Scope one of MetricScopes.
	Type, Scope string
	// Value is a decimal, such as "-1.5" or "1e-7", and kept exactly. Its
	// magnitude is 0 or from 1e-307 to below 1e308, so that every reader can
	// compute with it.
	Value                       string
	Unit                        string
	Service                     string
	ImprovementID, ExperimentID uuid.NullUUID
	// Tags, Dimensions and Metadata are JSON. Samples with the same Tags are one
	// series.
	Tags, Dimensions, Metadata json.RawMessage
	// ComplianceScore is a decimal in [0,1], truncated to two digits.
	ComplianceScore string
	// Timestamp is when it was measured, to the microsecond; required.
	Timestamp time.Time
	// Object is the Kubernetes object that it is about, if any.
	Object Object
	// ConstitutionalHash is that of the active constitution when empty.
	ConstitutionalHash string
}

const (
	maxMetricText = 1024
	// PostgreSQL reads documents recursively, on a stack of its own size.
	maxJSONDepth = 512
	// Digits of a value: more than any double needs.
	maxValueDigits = 1000
)

// year range of timestamptz; its last year is not a whole one.
const firstYear, lastYear = -4712, 294275

var hashPattern = regexp.MustCompile(`^[0-9a-f]{16,64}$`)

// row checks a sample and returns it as it is sent. The constitutional hash is
// left empty when it is that of the active constitution.
func (s *Sample) row(cluster string, epoch int64) (dbsql.CopyMetricsParams, error) {
	if err := s.checkText(); err != nil {
		return dbsql.CopyMetricsParams{}, err
	}
	value, err := parseDecimal(s.Value)
	if err != nil {
		return dbsql.CopyMetricsParams{}, fmt.Errorf("value %.40q %w", s.Value, err)
	}
	score, err := parseScore(s.ComplianceScore)
	if err != nil {
		return dbsql.CopyMetricsParams{}, fmt.Errorf("constitutional_compliance_score %.40q %w", s.ComplianceScore, err)
	}
	out := dbsql.CopyMetricsParams{
		ID: s.ID, MetricName: escapeText(s.Name), MetricType: s.Type, MetricScope: s.Scope, Value: value,
		Unit: textOrNull(s.Unit), ServiceName: textOrNull(s.Service), ImprovementID: s.ImprovementID, ExperimentID: s.ExperimentID,
		ConstitutionalComplianceScore: score, Timestamp: pgtype.Timestamptz{Time: s.Timestamp, Valid: true},
		Cluster: textOrNull(cluster), Namespace: textOrNull(s.Object.Namespace), Name: textOrNull(s.Object.Name), Uid: textOrNull(s.Object.UID),
		Generation: pgtype.Int8{Int64: s.Object.Generation, Valid: s.Object.UID != ""}, WriterEpoch: pgtype.Int8{Int64: epoch, Valid: true},
		ConstitutionalHash: s.ConstitutionalHash,
	}
	for _, document := range []struct {
		name string
		from json.RawMessage
		to   *[]byte
	}{{"tags", s.Tags, &out.Tags}, {"dimensions", s.Dimensions, &out.Dimensions}, {"metadata", s.Metadata, &out.Metadata}} {
		if *document.to, err = documentOrNull(document.from); err != nil {
			return dbsql.CopyMetricsParams{}, fmt.Errorf("%s %w", document.name, err)
		}
	}
	return out, nil
}

func (s *Sample) checkText() error {
	switch {
	case s.Name == "":
		return errors.New("metric_name is empty")
	case !slices.Contains(MetricTypes, s.Type):
		return fmt.Errorf("metric_type %.40q is none of %s", s.Type, strings.Join(MetricTypes, ", "))
	case !slices.Contains(MetricScopes, s.Scope):
		return fmt.Errorf("metric_scope %.40q is none of %s", s.Scope, strings.Join(MetricScopes, ", "))
	case s.Timestamp.IsZero():
		return errors.New("timestamp is missing")
	case s.Timestamp.UTC().Year() < firstYear || s.Timestamp.UTC().Year() > lastYear:
		return fmt.Errorf("timestamp is in the year %d: PostgreSQL knows those from %d to %d", s.Timestamp.UTC().Year(), firstYear, lastYear)
	case s.ConstitutionalHash != "" && !hashPattern.MatchString(s.ConstitutionalHash):
		return fmt.Errorf("constitutional_hash %.80q is not 16 to 64 lower-case hexadecimal digits", s.ConstitutionalHash)
	}
	for name, text := range map[string]string{"metric_name": s.Name, "service_name": s.Service, "unit": s.Unit} {
		if stored := len(escapeText(text)); stored > maxMetricText {
			return fmt.Errorf("%s has %d bytes as it is stored, more than %d", name, stored, maxMetricText)
		}
	}
	return nil
}

func textOrNull(s string) pgtype.Text { return pgtype.Text{String: escapeText(s), Valid: s != ""} }

// documentOrNull checks JSON and escapes what PostgreSQL has no form for.
func documentOrNull(doc json.RawMessage) ([]byte, error) {
	if len(doc) == 0 {
		return nil, nil
	}
	if !json.Valid(doc) {
		return nil, fmt.Errorf("is not JSON: %.40q", doc)
	}
	if depth := jsonDepth(doc); depth > maxJSONDepth {
		return nil, fmt.Errorf("is nested %d deep, more than %d", depth, maxJSONDepth)
	}
	escaped := escapeJSON(doc)
	if escaped == "" { // null
		return nil, nil
	}
	return []byte(escaped), nil
}

// jsonDepth is how deep a valid document nests.
func jsonDepth(doc []byte) (deepest int) {
	depth, quoted := 0, false
	for i := 0; i < len(doc); i++ {
		switch c := doc[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{', c == '[':
			depth++
			deepest = max(deepest, depth)
		case c == '}', c == ']':
			depth--
		}
	}
	return deepest
}

var errNoDecimal = errors.New(`is not a decimal such as "-1.5" or "1e-7"`)

// parseDecimal reads a decimal exactly.
func parseDecimal(s string) (pgtype.Numeric, error) {
	switch strings.ToLower(strings.TrimLeft(s, "+-")) {
	case "nan", "inf", "infinity":
		return pgtype.Numeric{}, errors.New("is not finite")
	}
	if len(s) > maxValueDigits {
		return pgtype.Numeric{}, fmt.Errorf("has more than %d digits", maxValueDigits)
	}
	mantissa, exponent := s, 0
	if at := strings.IndexAny(s, "eE"); at >= 0 {
		var err error
		if exponent, err = strconv.Atoi(s[at+1:]); err != nil {
			return pgtype.Numeric{}, errNoDecimal
		}
		mantissa = s[:at]
	}
	whole, fraction, _ := strings.Cut(mantissa, ".")
	digits := whole + fraction
	if !onlyDigits(strings.TrimLeft(digits[:min(1, len(digits))], "+-") + digits[min(1, len(digits)):]) {
		return pgtype.Numeric{}, errNoDecimal
	}
	n, ok := new(big.Int).SetString(digits, 10)
	if !ok {
		return pgtype.Numeric{}, errNoDecimal
	}
	if n.Sign() == 0 {
		return pgtype.Numeric{Int: n, Valid: true}, nil
	}
	magnitude := len(strings.TrimLeft(digits, "+-0")) - len(fraction) + exponent - 1
	if exponent > maxValueDigits || exponent < -maxValueDigits || magnitude > 307 || magnitude < -307 {
		return pgtype.Numeric{}, errors.New("is out of range: its magnitude must be 0 or from 1e-307 to below 1e308")
	}
	return pgtype.Numeric{Int: n, Exp: int32(exponent - len(fraction)), Valid: true}, nil //nolint:gosec // within 2,000
}

func onlyDigits(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' || r >= utf8.RuneSelf }) < 0
}

// parseScore reads a decimal in [0,1] and truncates it to two digits. An empty
// one is null.
func parseScore(s string) (pgtype.Numeric, error) {
	if s == "" {
		return pgtype.Numeric{}, nil
	}
	n, err := parseDecimal(s)
	if err != nil {
		return n, err
	}
	if n.Int.Sign() < 0 {
		return n, errors.New("is not from 0 to 1")
	}
	hundredths := new(big.Int).Set(n.Int)
	scale := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(max(n.Exp+2, -n.Exp-2))), nil)
	if n.Exp >= -2 {
		hundredths.Mul(hundredths, scale)
	} else {
		hundredths.Quo(hundredths, scale)
	}
	// What was cut off may be what is above 1.
	if above := hundredths.Cmp(big.NewInt(100)); above > 0 || above == 0 && !isOne(n) {
		return n, errors.New("is not from 0 to 1")
	}
	return pgtype.Numeric{Int: hundredths, Exp: -2, Valid: true}, nil
}

func isOne(n pgtype.Numeric) bool {
	one := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(max(0, -n.Exp))), nil)
	value := new(big.Int).Mul(n.Int, new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(max(0, n.Exp))), nil))
	return value.Cmp(one) == 0
}
