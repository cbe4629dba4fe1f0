// SPDX-License-Identifier: Apache-2.0

package prometheus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"strings"

	v1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"

	"github.com/acgs/dgm-operator/internal/analysis"
)

// Source answers questions by range queries of the server of that name. Its
// errors say, for people, why there is no data.
func (s *Servers) Source(name string) analysis.Source {
	return func(ctx context.Context, q analysis.Question) ([]analysis.Sample, error) {
		return s.query(ctx, name, q)
	}
}

func (s *Servers) query(ctx context.Context, name string, q analysis.Question) ([]analysis.Sample, error) {
	asked, err := s.find(name)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, asked.timeout)
	defer cancel()
	window := q.Window()
	value, warnings, _, err := asked.api.QueryRange(ctx, q.Query,
		v1.Range{Start: window.Start, End: window.End, Step: q.Step},
		v1.WithTimeout(asked.timeout), v1.WithLimit(maxSeries))
	if err != nil {
		return nil, fmt.Errorf("metric source %s: %s", asked.name, asked.reason(ctx, err))
	}
	samples, err := samplesOf(value, int(window.End.Sub(window.Start)/q.Step)+1)
	switch {
	case err != nil:
		return nil, fmt.Errorf("metric source %s: %w", asked.name, err)
	case len(warnings) > 0:
		// A warning mostly means that a part of the data was not reached.
		return nil, fmt.Errorf("metric source %s warns, so its answer may be incomplete: %s", asked.name, cut(strings.Join(warnings, "; ")))
	}
	return samples, nil
}

// maxSeries is one more than a query may answer, so that it is seen to.
const maxSeries = 2

// samplesOf are the points of the one series that is expected, of as many as the
// window has room for.
func samplesOf(value model.Value, expected int) ([]analysis.Sample, error) {
	matrix, ok := value.(model.Matrix)
	switch {
	case value == nil:
		return nil, errors.New("it does not answer as Prometheus does")
	case !ok:
		return nil, fmt.Errorf("the query answers a %s: a number over time is expected", value.Type())
	case len(matrix) == 0:
		return nil, errors.New("the query answers nothing: no series matches in this window")
	case len(matrix) > 1:
		return nil, errors.New("the query answers several series, and one is expected: aggregate them, by sum(…) or max(…)")
	case len(matrix[0].Histograms) > 0:
		return nil, errors.New("the query answers histograms, and numbers are expected: take histogram_quantile(…) of them")
	}
	samples, numbers := make([]analysis.Sample, len(matrix[0].Values)), 0
	for i, point := range matrix[0].Values {
		samples[i] = analysis.Sample{At: point.Timestamp.Time().UTC(), Value: float64(point.Value)}
		if !math.IsNaN(samples[i].Value) && !math.IsInf(samples[i].Value, 0) {
			numbers++
		}
	}
	if 2*numbers < expected {
		return nil, fmt.Errorf("the series has %d of the %d points of the window%s: the rest is missing", numbers, expected, besides(len(samples)-numbers))
	}
	return samples, nil
}

func besides(others int) string {
	if others == 0 {
		return ""
	}
	return fmt.Sprintf(" (and %d that are no numbers)", others)
}

// reason is what an error means, without the address, which is the platform's own.
func (s *server) reason(ctx context.Context, err error) string {
	var answered *v1.Error
	var unreachable *url.Error
	var connection *net.OpError
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded) || errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("it did not answer within %s", s.timeout)
	case errors.Is(err, errTooLarge):
		return errTooLarge.Error()
	case errors.As(err, &answered):
		detail := ""
		// Only what the server says of the query is for its author.
		if answered.Type == v1.ErrBadData || answered.Type == v1.ErrExec || answered.Type == v1.ErrTimeout {
			detail = ": " + cut(answered.Msg)
		}
		return fmt.Sprintf("it answers with an error (%s%s)", answered.Type, statusOf(answered)) + detail
	case errors.As(err, &connection):
		return "it cannot be reached: " + connection.Err.Error()
	case errors.As(err, &unreachable):
		return "it cannot be reached: " + cut(unreachable.Err.Error())
	default:
		return "its answer cannot be read: " + cut(err.Error())
	}
}

// statusOf is the HTTP status that the client notes in its message.
func statusOf(err *v1.Error) string {
	for _, prefix := range []string{"server error: ", "client error: ", "bad response code "} {
		if code, found := strings.CutPrefix(err.Msg, prefix); found {
			return " " + cut(code)
		}
	}
	return ""
}

const maxDetail = 200

func cut(text string) string {
	if len(text) <= maxDetail {
		return text
	}
	return strings.ToValidUTF8(text[:maxDetail], "") + " …"
}

// maxAnswer bounds an answer: ten thousand points are below one MiB.
const maxAnswer = 4 << 20

var errTooLarge = fmt.Errorf("its answer has more than %d MiB: ask for one series", maxAnswer>>20)

// limited bounds the answers, since users write the queries.
type limited struct{ http.RoundTripper }

func (l *limited) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := l.RoundTripper.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	response.Body = &limitedBody{ReadCloser: response.Body, left: maxAnswer}
	return response, nil
}

type limitedBody struct {
	io.ReadCloser
	left int64
}

func (b *limitedBody) Read(into []byte) (int, error) {
	if b.left <= 0 {
		return 0, errTooLarge
	}
	if int64(len(into)) > b.left {
		into = into[:b.left]
	}
	n, err := b.ReadCloser.Read(into)
	b.left -= int64(n)
	return n, err
}
