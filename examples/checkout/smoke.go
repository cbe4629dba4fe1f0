// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"time"
)

// results is what a test of the service measured. Times are in milliseconds.
type results struct {
	Requests int     `json:"requests"`
	Errors   int     `json:"errors"`
	HitRatio float64 `json:"hitRatio"`
	P50      float64 `json:"p50"`
	P99      float64 `json:"p99"`
}

// smoke sends requests as load does, writes what they took as JSON to a file (of a pod: its termination message), and fails
// when an answer is missing or the slowest take too long.
func smoke(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("checkout smoke", flag.ExitOnError)
	url := flags.String("url", "http://checkout/products", "address of the product list")
	rate := flags.Float64("rate", 20, "requests per second, taking the categories in turn")
	duration := flags.Duration("duration", 5*time.Second, "how long")
	maxP50 := flags.Duration("max-p50", 0, "what half of the requests may take at most; 0 means that it does not matter")
	maxP99 := flags.Duration("max-p99", 0, "what 99 of 100 requests may take at most; 0 means that it does not matter")
	file := flags.String("results", "/dev/termination-log", "where to write the results")
	_ = flags.Parse(args) // ExitOnError
	if !(*rate > 0 && *rate <= 10000) || *duration <= 0 {
		return errors.New("-rate must be above 0 and at most 10000, -duration above 0")
	}
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 100}}
	s := send(ctx, client, *url, *rate, *duration)
	fmt.Println(s)
	r := results{Requests: s.requests, Errors: s.errors, P50: inMilliseconds(s.quantile(.5)), P99: inMilliseconds(s.quantile(.99))}
	if answered := len(s.times); answered > 0 {
		r.HitRatio = float64(s.hits) / float64(answered)
	}
	content, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := os.WriteFile(*file, content, 0o600); err != nil {
		return fmt.Errorf("write the results: %w", err)
	}
	return s.judge(*maxP50, *maxP99)
}

// judge says what is wrong with a summary; limits of 0 are none.
func (s summary) judge(maxP50, maxP99 time.Duration) error {
	switch p50, p99 := s.quantile(.5), s.quantile(.99); {
	case s.requests == 0:
		return errors.New("no request was sent")
	case s.errors > 0:
		return fmt.Errorf("%d of %d requests were not answered; the last error: %w", s.errors, s.requests, s.lastError)
	case maxP50 > 0 && p50 > maxP50:
		return fmt.Errorf("p50 is %s; at most %s is allowed", milliseconds(p50), milliseconds(maxP50))
	case maxP99 > 0 && p99 > maxP99:
		return fmt.Errorf("p99 is %s; at most %s is allowed", milliseconds(p99), milliseconds(maxP99))
	}
	return nil
}

func inMilliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
