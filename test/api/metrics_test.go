// SPDX-License-Identifier: Apache-2.0

package api

import (
	"testing"

	"github.com/acgs/dgm-operator/test/pgtest"
)

// scrape reads /metrics as Prometheus does, and returns the value of a series
// without labels.
func scrape(address string) (func(name string) (float64, bool), error) {
	families, err := metricsOf(address)
	if err != nil {
		return nil, err
	}
	return func(name string) (float64, bool) {
		family, found := families[name]
		if !found {
			return 0, false
		}
		return family.Metric[0].GetGauge().GetValue(), true
	}, nil
}

func TestMetricsOfTheDatabaseAreServed(t *testing.T) {
	server := pgtest.Start(t)
	w := newWorldOn(t, server, server.Database(t))
	address := unusedAddress(t)
	w.start(append(quickTakeover, "--metrics-bind-address="+address, "--metrics-secure=false")...)
	shows := func(check func(value func(string) (float64, bool)) error) func() error {
		return func() error {
			value, err := scrape(address)
			if err != nil {
				return err
			}
			return check(value)
		}
	}
	w.eventually("the database's metrics are served", shows(func(value func(string) (float64, bool)) error {
		up, _ := value("dgm_database_up")
		ahead, _ := value("dgm_database_partition_months_ahead")
		concurrent, _ := value("dgm_settings_concurrent_improvements_limit")
		if up != 1 || ahead < 6 || concurrent < 1 {
			return errorf("up is %v, months ahead %v, concurrent improvements %v", up, ahead, concurrent)
		}
		return nil
	}))
	server.Stop(t)
	w.eventually("they say that it is away", shows(func(value func(string) (float64, bool)) error {
		up, found := value("dgm_database_up")
		if _, stale := value("dgm_database_partition_months_ahead"); !found || up != 0 || stale {
			return errorf("up is %v (found: %t), old values show: %t", up, found, stale)
		}
		return nil
	}))
	server.Start(t)
	w.eventually("they say that it is back", shows(func(value func(string) (float64, bool)) error {
		up, _ := value("dgm_database_up")
		if _, back := value("dgm_database_partition_months_ahead"); up != 1 || !back {
			return errorf("up is %v, other values show: %t", up, back)
		}
		return nil
	}))
}
