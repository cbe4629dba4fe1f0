// SPDX-License-Identifier: Apache-2.0

package monitoring

import (
	"strings"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
)

// maxLabel bounds a label's value, in bytes. Services and arms have names of
// any length.
const maxLabel = 128

// instrument is a metric that may have series.
type instrument struct {
	description *prometheus.Desc
	kind        prometheus.ValueType
}

func gauge(description *prometheus.Desc) instrument {
	return instrument{description, prometheus.GaugeValue}
}

func counter(description *prometheus.Desc) instrument {
	return instrument{description, prometheus.CounterValue}
}

// series gathers values. One that Prometheus would refuse, because its labels
// are those of another one once they are shortened, is left out: it would make
// the whole scrape fail.
type series struct {
	metrics []prometheus.Metric
	seen    map[string]struct{}
}

func (s *series) set(i instrument, value float64, labels ...string) {
	shortened := make([]string, 0, len(labels))
	for _, label := range labels {
		shortened = append(shortened, shorten(label))
	}
	key := i.description.String() + "\x00" + strings.Join(shortened, "\x00")
	if _, twice := s.seen[key]; twice {
		return
	}
	metric, err := prometheus.NewConstMetric(i.description, i.kind, value, shortened...)
	if err != nil {
		return
	}
	if s.seen == nil {
		s.seen = map[string]struct{}{}
	}
	s.seen[key] = struct{}{}
	s.metrics = append(s.metrics, metric)
}

func shorten(label string) string {
	label = strings.ToValidUTF8(label, "�")
	if len(label) <= maxLabel {
		return label
	}
	end := maxLabel - len("…")
	for !utf8.RuneStart(label[end]) {
		end--
	}
	return label[:end] + "…"
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
