// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

const (
	defaultCacheTTL = 5 * time.Second
	maxCacheTTL     = time.Hour
)

// Settings are what an operator of the service may tune.
type Settings struct {
	// CacheTTL is how long a computed product list is served again; file CACHE_TTL, in whole seconds from 0 to 3600, default 5.
	CacheTTL time.Duration
}

// readSettings reads a directory that holds one file for each setting. A file that is not there means the default.
func readSettings(dir string) (Settings, error) {
	s := Settings{CacheTTL: defaultCacheTTL}
	content, err := os.ReadFile(filepath.Join(dir, "CACHE_TTL"))
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return Settings{}, err
	}
	value := strings.TrimSpace(string(content))
	seconds, err := strconv.Atoi(value)
	if err != nil || seconds < 0 || seconds > int(maxCacheTTL.Seconds()) {
		return Settings{}, fmt.Errorf("CACHE_TTL is %q; want whole seconds from 0 to %.0f", value, maxCacheTTL.Seconds())
	}
	s.CacheTTL = time.Duration(seconds) * time.Second
	return s, nil
}

// watcher holds the settings in effect: the last ones that were valid.
type watcher struct {
	dir     string
	metrics *metrics
	log     *slog.Logger
	current atomic.Pointer[state]
}

// state is the settings in effect and, while the files hold something else, why that was rejected.
type state struct {
	settings Settings
	rejected string
}

func newWatcher(dir string, m *metrics, log *slog.Logger) *watcher {
	w := &watcher{dir: dir, metrics: m, log: log}
	w.current.Store(&state{settings: Settings{CacheTTL: defaultCacheTTL}})
	m.cacheTTL.Set(defaultCacheTTL.Seconds())
	w.poll()
	return w
}

func (w *watcher) state() state { return *w.current.Load() }

func (w *watcher) follow(ctx context.Context, interval time.Duration) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			w.poll()
		}
	}
}

// poll takes valid settings over; it counts and logs a rejected value once, not at every look.
func (w *watcher) poll() {
	before := w.state()
	settings, err := readSettings(w.dir)
	if err != nil {
		if err.Error() != before.rejected {
			w.metrics.settingsRejected.Inc()
			w.log.Warn("settings rejected, the last valid ones stay", "error", err)
		}
		w.current.Store(&state{settings: before.settings, rejected: err.Error()})
		return
	}
	if settings != before.settings {
		w.log.Info("settings changed", "cacheTTL", settings.CacheTTL)
	}
	w.metrics.cacheTTL.Set(settings.CacheTTL.Seconds())
	w.current.Store(&state{settings: settings})
}
