// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"sync"
	"time"
)

// load sends requests at a fixed rate, whatever the answers take (so slow answers are not hidden by fewer requests), and
// prints what they took.
func load(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("checkout load", flag.ExitOnError)
	url := flags.String("url", "http://checkout/products", "address of the product list")
	rate := flags.Float64("rate", 20, "requests per second, taking the categories in turn")
	duration := flags.Duration("duration", 10*time.Second, "how long; 0 means until stopped, with a line every 10 s")
	_ = flags.Parse(args) // ExitOnError
	if !(*rate > 0 && *rate <= 10000) || *duration < 0 {
		return errors.New("-rate must be above 0 and at most 10000, -duration not negative")
	}
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 100}}
	period := *duration
	if period == 0 {
		period = 10 * time.Second
	}
	for ctx.Err() == nil {
		s := send(ctx, client, *url, *rate, period)
		fmt.Println(s)
		if *duration == 0 {
			continue
		}
		if s.requests == s.errors {
			return fmt.Errorf("no request was answered; the last error: %w", s.lastError)
		}
		break
	}
	return nil
}

// summary is what a period of load showed. Times are of the answered requests.
type summary struct {
	requests, errors, hits int
	lastError              error
	times                  []time.Duration // sorted
}

func (s summary) String() string {
	return fmt.Sprintf("%d requests, %d errors, %d from cache: mean %s, p50 %s, p95 %s, p99 %s", s.requests, s.errors, s.hits,
		milliseconds(s.mean()), milliseconds(s.quantile(.5)), milliseconds(s.quantile(.95)), milliseconds(s.quantile(.99)))
}

func (s summary) mean() time.Duration {
	if len(s.times) == 0 {
		return 0
	}
	var sum time.Duration
	for _, t := range s.times {
		sum += t
	}
	return sum / time.Duration(len(s.times))
}

// quantile returns the smallest time that at least the share q of the requests did not exceed.
func (s summary) quantile(q float64) time.Duration {
	if len(s.times) == 0 {
		return 0
	}
	return s.times[max(0, int(math.Ceil(q*float64(len(s.times))))-1)]
}

func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
}

// send requests at the rate for the duration and waits for every answer.
func send(ctx context.Context, client *http.Client, url string, rate float64, duration time.Duration) summary {
	ctx, cancel := context.WithTimeout(ctx, duration)
	defer cancel()
	var (
		s    summary
		mu   sync.Mutex
		wait sync.WaitGroup
		tick = time.NewTicker(time.Duration(float64(time.Second) / rate))
	)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			wait.Wait()
			slices.Sort(s.times)
			return s
		case <-tick.C:
		}
		wait.Go(func() {
			took, hit, err := request(context.WithoutCancel(ctx), client, fmt.Sprintf("%s?category=%d", url, i%categories))
			mu.Lock()
			defer mu.Unlock()
			s.requests++
			if err != nil {
				s.errors++
				s.lastError = err
				return
			}
			s.times = append(s.times, took)
			if hit {
				s.hits++
			}
		})
	}
}

func request(ctx context.Context, client *http.Client, url string) (took time.Duration, hit bool, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, false, err
	}
	start := time.Now()
	resp, err := client.Do(req)
	if err != nil {
		return 0, false, err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return 0, false, err
	}
	if resp.StatusCode != http.StatusOK {
		return 0, false, fmt.Errorf("%s: %s", url, resp.Status)
	}
	return time.Since(start), resp.Header.Get("X-Cache") == "hit", nil
}
