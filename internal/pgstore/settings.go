// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"context"
	"fmt"
	"strings"

	"github.com/acgs/dgm-operator/internal/settings"
)

// Settings are the system configurations that the operator obeys, as last read:
// those that the database said, or the defaults while it never answered.
func (s *Store) Settings() settings.Settings { return *s.settings.Load() }

// SettingsChanged delivers a value after Settings has changed. Values that
// nobody has received yet are joined.
func (s *Store) SettingsChanged() <-chan struct{} { return s.settingsChanged }

// readSettings takes up what the rows say. A later call sees a later state: of two
// at once, the earlier must not have the last word.
func (s *session) readSettings(ctx context.Context) error {
	s.readingSettings.Lock()
	defer s.readingSettings.Unlock()
	rows, err := s.queries.SettingValues(ctx, settings.Keys())
	if err != nil {
		return fmt.Errorf("read dgm.system_configurations: %w", err)
	}
	values := make(map[string]string, len(rows))
	for _, row := range rows {
		values[row.Key] = row.Value
	}
	s.store.takeSettings(values)
	return nil
}

// pollConfigurations reads the settings and finds writes that no event told of.
func (s *session) pollConfigurations(ctx context.Context) error {
	if err := s.readSettings(ctx); err != nil {
		return err
	}
	fingerprint, err := s.queries.ConfigurationFingerprint(ctx)
	if err != nil {
		return fmt.Errorf("look for changed configurations: %w", err)
	}
	if before := s.fingerprint.Swap(&fingerprint); before != nil && *before != fingerprint {
		s.store.configurationMayHaveChanged(nil)
	}
	return nil
}

func (s *Store) takeSettings(values map[string]string) {
	before := s.settings.Load()
	after, problems := settings.Apply(*before, values)
	said := make([]string, 0, len(problems))
	for _, problem := range problems {
		said = append(said, problem.Error())
	}
	if complaint := strings.Join(said, "; "); complaint != "" && s.settingsComplaint.Swap(complaint) != complaint {
		s.config.Log.Info("Unusable system configurations", "problems", complaint)
	}
	if after == *before {
		return
	}
	s.settings.Store(&after)
	s.config.Log.Info("Settings changed", "settings", fmt.Sprintf("%+v", after))
	select {
	case s.settingsChanged <- struct{}{}:
	default: // one is waiting already
	}
}
