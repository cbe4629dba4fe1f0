// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"context"
	"net/url"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/test/operatortest"
)

const (
	attemptsKey   = "max_improvement_attempts"
	concurrentKey = "max_concurrent_improvements"
	settingsName  = "dgm-operator-settings"
	tokenValue    = "hunter2-very-secret"
)

// setting is an object that asks for a plain value.
func setting(key, value string) *dgmv1alpha1.SystemConfiguration {
	return &dgmv1alpha1.SystemConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: strings.ReplaceAll(key, "_", "-")},
		Spec:       dgmv1alpha1.SystemConfigurationSpec{Key: key, Value: &value},
	}
}

// secretSetting is one whose value a Secret has.
func secretSetting(key, secret, secretKey string) *dgmv1alpha1.SystemConfiguration {
	object := setting(key, "")
	object.Spec.Value, object.Spec.SecretKeyRef = nil, &dgmv1alpha1.SecretKeyReference{Name: secret, Key: secretKey}
	return object
}

// settingsSecret makes the Secret with sensitive values, or changes it.
func (w *world) settingsSecret(name string, data map[string]string) {
	w.Helper()
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "dgm-system", Name: name}, StringData: data}
	err := w.Create(context.Background(), secret)
	if apierrors.IsAlreadyExists(err) {
		err = w.Update(context.Background(), secret)
	}
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() {
		_ = w.Delete(context.Background(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "dgm-system", Name: name}})
	})
}

func (w *world) settingNow(name string) *dgmv1alpha1.SystemConfiguration {
	w.Helper()
	var object dgmv1alpha1.SystemConfiguration
	if err := w.Get(context.Background(), client.ObjectKey{Name: name}, &object); err != nil {
		w.Fatal(err)
	}
	return &object
}

// stands waits until an object's Ready has a reason, for its present generation.
func (w *world) stands(object *dgmv1alpha1.SystemConfiguration, reason string) *dgmv1alpha1.SystemConfiguration {
	w.Helper()
	var now *dgmv1alpha1.SystemConfiguration
	w.eventually(object.Name+" stands at "+reason, func() error {
		now = w.settingNow(object.Name)
		ready := meta.FindStatusCondition(now.Status.Conditions, dgmv1alpha1.ConditionReady)
		if ready == nil || ready.Reason != reason || now.Status.ObservedGeneration != now.Generation {
			return errorf("its status is %+v", now.Status)
		}
		return nil
	})
	return now
}

func settingCondition(object *dgmv1alpha1.SystemConfiguration, conditionType string) metav1.Condition {
	if c := meta.FindStatusCondition(object.Status.Conditions, conditionType); c != nil {
		return *c
	}
	return metav1.Condition{}
}

// schemaIntact waits until an object says that the schema was looked at.
func (w *world) schemaIntact(object *dgmv1alpha1.SystemConfiguration) {
	w.Helper()
	w.eventually("the schema is looked at", func() error {
		if c := settingCondition(w.settingNow(object.Name), dgmv1alpha1.ConditionSchemaIntact); c.Status != metav1.ConditionTrue {
			return errorf("SchemaIntact is %+v", c)
		}
		return nil
	})
}

// setValue edits an object as kubectl patch does.
func (w *world) setValue(object *dgmv1alpha1.SystemConfiguration, value string) error {
	patch := `{"spec":{"value":` + quoted(value) + `}}`
	return w.Patch(context.Background(), object.DeepCopy(), client.RawPatch("application/merge-patch+json", []byte(patch)))
}

func quoted(value string) string {
	text, _ := yaml.Marshal(value)
	json, _ := yaml.YAMLToJSON(text)
	return string(json)
}

// settingEvents are the notes of an object's events with a reason.
func (w *world) settingEvents(object *dgmv1alpha1.SystemConfiguration, reason string) []string {
	w.Helper()
	var list eventsv1.EventList
	if err := w.List(context.Background(), &list); err != nil {
		w.Fatal(err)
	}
	var notes []string
	for i := range list.Items {
		if e := &list.Items[i]; e.Regarding.UID == object.UID && e.Reason == reason {
			notes = append(notes, e.Note)
		}
	}
	return notes
}

const settingRow = `SELECT concat_ws(' ', value, cluster, name, (deleted_at IS NOT NULL)::text) FROM dgm.system_configurations WHERE key = $1`

func TestConfigurationIsAppliedAndPutBack(t *testing.T) {
	w := newWorld(t)
	w.start()
	before := time.Now()
	object := setting(concurrentKey, "7")
	w.create(object)
	now := w.stands(object, dgmv1alpha1.ReasonApplied)
	w.rows("7 test max-concurrent-improvements false", settingRow, concurrentKey)
	for conditionType, want := range map[string]metav1.ConditionStatus{
		dgmv1alpha1.ConditionReady: metav1.ConditionTrue, dgmv1alpha1.ConditionReconciling: metav1.ConditionFalse,
		dgmv1alpha1.ConditionStalled: metav1.ConditionFalse, dgmv1alpha1.ConditionDatabaseSynced: metav1.ConditionTrue,
	} {
		if got := settingCondition(now, conditionType); got.Status != want || got.ObservedGeneration != now.Generation {
			t.Errorf("%s is %+v, want %s", conditionType, got, want)
		}
	}
	if at := now.Status.LastAppliedTime; at.Time.Before(before.Add(-2*time.Second)) || at.Time.After(time.Now().Add(2*time.Second)) {
		t.Errorf("lastAppliedTime is %s", at)
	}
	w.eventually("the operator obeys the setting without a restart", func() error {
		if !strings.Contains(w.operator.Log(), "MaxConcurrent:7") {
			return errorf("its log does not say so")
		}
		return nil
	})
	w.schemaIntact(object)

	// An edit in the database is put back, and told.
	began := time.Now()
	w.query("UPDATE dgm.system_configurations SET value = '9', description = description WHERE key = $1", concurrentKey)
	w.rows("7 test max-concurrent-improvements false", settingRow, concurrentKey)
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("it took %s until the edit was put back", took)
	}
	w.eventually("an event tells", func() error {
		if notes := w.settingEvents(now, dgmv1alpha1.ReasonOverwritten); len(notes) != 1 || !strings.Contains(notes[0], `the value was "9"`) {
			return errorf("events: %q", notes)
		}
		return nil
	})

	// The spec is changed: no edit of anybody's row.
	if err := w.setValue(object, "8"); err != nil {
		t.Fatal(err)
	}
	w.rows("8 test max-concurrent-improvements false", settingRow, concurrentKey)
	w.stands(object, dgmv1alpha1.ReasonApplied)
	if notes := w.settingEvents(now, dgmv1alpha1.ReasonOverwritten); len(notes) != 1 {
		t.Errorf("events: %q", notes)
	}

	// A custom key, and its row deleted by hand.
	custom := setting("team.limit", "12")
	custom.Spec.ValueType, custom.Spec.Description, custom.Spec.Category = "integer", "of ours", "team"
	w.create(custom)
	w.stands(custom, dgmv1alpha1.ReasonApplied)
	w.rows("12 integer of ours team", `SELECT concat_ws(' ', value, value_type, description, category) FROM dgm.system_configurations WHERE key = 'team.limit'`)
	w.query("DELETE FROM dgm.system_configurations WHERE key = 'team.limit'")
	w.rows("12 test team.limit false", settingRow, "team.limit")

	// Deleted: the default comes back; a custom one becomes a tombstone.
	for _, o := range []*dgmv1alpha1.SystemConfiguration{object, custom} {
		if err := w.Delete(context.Background(), o); err != nil {
			t.Fatal(err)
		}
	}
	w.rows("3 false", settingRow, concurrentKey)
	w.rows("12 test team.limit true", settingRow, "team.limit")
}

func TestConfigurationObjectsAreValidated(t *testing.T) {
	w := newWorld(t)
	for name, c := range map[string]struct {
		edit func(*dgmv1alpha1.SystemConfiguration)
		says string
	}{
		"another name": {func(o *dgmv1alpha1.SystemConfiguration) { o.Name = "other" }, "metadata.name must be spec.key"},
		"both": {func(o *dgmv1alpha1.SystemConfiguration) {
			o.Spec.SecretKeyRef = secretSetting("k", "s", "k").Spec.SecretKeyRef
		}, "either spec.value or spec.secretKeyRef"},
		"neither":          {func(o *dgmv1alpha1.SystemConfiguration) { o.Spec.Value = nil }, "either spec.value or spec.secretKeyRef"},
		"upper-case key":   {func(o *dgmv1alpha1.SystemConfiguration) { o.Spec.Key = "Max" }, "spec.key"},
		"unknown type":     {func(o *dgmv1alpha1.SystemConfiguration) { o.Spec.ValueType = "text" }, "spec.valueType"},
		"huge value":       {func(o *dgmv1alpha1.SystemConfiguration) { o.Spec.Value = new(strings.Repeat("x", 32769)) }, "spec.value"},
		"huge category":    {func(o *dgmv1alpha1.SystemConfiguration) { o.Spec.Category = strings.Repeat("x", 64) }, "spec.category"},
		"path as Secret":   {func(o *dgmv1alpha1.SystemConfiguration) { o.Spec = secretSetting(attemptsKey, "../x", "k").Spec }, "secretKeyRef.name"},
		"huge description": {func(o *dgmv1alpha1.SystemConfiguration) { o.Spec.Description = strings.Repeat("x", 1025) }, "spec.description"},
	} {
		object := setting(attemptsKey, "5")
		c.edit(object)
		if err := w.Create(context.Background(), object); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want it refused for %s", name, err, c.says)
		}
	}
	object := setting(attemptsKey, "5")
	w.create(object)
	if got := w.settingNow(object.Name).Status.ObservedGeneration; got != -1 {
		t.Errorf("observedGeneration of a new object is %d, want -1", got)
	}
	patch := client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"key":"other"}}`))
	if err := w.Patch(context.Background(), object.DeepCopy(), patch); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "spec.key cannot be changed") {
		t.Errorf("another key: %v", err)
	}
}

func TestConfigurationThatTheDatabaseRefusesIsStalled(t *testing.T) {
	w := newWorld(t)
	w.start()
	for _, c := range []struct {
		object *dgmv1alpha1.SystemConfiguration
		reason string
		says   []string
	}{
		{setting(attemptsKey, "many"), dgmv1alpha1.ReasonInvalidValue, []string{attemptsKey, `"many"`, "is not an integer of 64 bits"}},
		{setting(concurrentKey, "0"), dgmv1alpha1.ReasonInvalidValue, []string{"is less than min"}},
		{setting("safety_threshold", "0.3"), dgmv1alpha1.ReasonConstitutionViolated, []string{"constitution cdd01ef066bc6cf2"}},
		{setting("constitutional_hash", "aaaaaaaaaaaaaaaa"), dgmv1alpha1.ReasonReadOnly, []string{"only a migration"}},
		{setting("custom_nul", "a\x00b"), dgmv1alpha1.ReasonInvalidValue, []string{"U+0000"}},
		{secretSetting("bandit_exploration_rate", settingsName, "rate"), dgmv1alpha1.ReasonBuiltIn, []string{"not sensitive", "spec.value"}},
	} {
		w.settingsSecret(settingsName, map[string]string{"rate": "0.2"})
		w.create(c.object)
		now := w.stands(c.object, c.reason)
		stalled := settingCondition(now, dgmv1alpha1.ConditionStalled)
		if stalled.Status != metav1.ConditionTrue {
			t.Errorf("%s: Stalled is %+v", c.object.Name, stalled)
		}
		w.says(stalled.Message, c.says...)
		if synced := settingCondition(now, dgmv1alpha1.ConditionDatabaseSynced); synced.Status != metav1.ConditionFalse {
			t.Errorf("%s: DatabaseSynced is %+v", c.object.Name, synced)
		}
	}
	w.rows("10 false", settingRow, attemptsKey)
	// The words stay, nothing is written any more, and a correction is taken up.
	versions, rows := w.settingVersions(), w.query(`SELECT string_agg(concat(key, xmin, ctid), ' ' ORDER BY key) FROM dgm.system_configurations`)
	w.query("UPDATE dgm.known_constitutions SET version = version WHERE active") // wakes them all
	time.Sleep(3 * time.Second)
	if diff := cmp.Diff(versions, w.settingVersions()); diff != "" {
		t.Errorf("objects that stay refused were written (-before +after):\n%s", diff)
	}
	if after := w.query(`SELECT string_agg(concat(key, xmin, ctid), ' ' ORDER BY key) FROM dgm.system_configurations`); after != rows {
		t.Errorf("rows were written:\n%s\n%s", rows, after)
	}
	object := setting(attemptsKey, "")
	if err := w.setValue(object, "11"); err != nil {
		t.Fatal(err)
	}
	w.stands(object, dgmv1alpha1.ReasonApplied)
	// What the constitution allows now is applied without anybody's asking again.
	w.query(`UPDATE dgm.known_constitutions SET configuration_rules = '{}' WHERE active`)
	w.stands(setting("safety_threshold", ""), dgmv1alpha1.ReasonApplied)
	w.rows("0.3 test safety-threshold false", settingRow, "safety_threshold")
	// And what it allows no longer is complained about, but stays.
	w.query(`UPDATE dgm.known_constitutions SET configuration_rules = '{"safety_threshold": {"min": 0.5}}' WHERE active`)
	now := w.stands(setting("safety_threshold", ""), dgmv1alpha1.ReasonConstitutionViolated)
	w.says(settingCondition(now, dgmv1alpha1.ConditionStalled).Message, "stays in force")
	w.rows("0.3 test safety-threshold false", settingRow, "safety_threshold")
}

func (w *world) settingVersions() map[string]string {
	w.Helper()
	var list dgmv1alpha1.SystemConfigurationList
	if err := w.List(context.Background(), &list); err != nil {
		w.Fatal(err)
	}
	versions := map[string]string{}
	for i := range list.Items {
		versions[list.Items[i].Name] = list.Items[i].ResourceVersion
	}
	return versions
}

func TestSensitiveConfigurationIsNowhereInPlain(t *testing.T) {
	w := newWorld(t)
	w.settingsSecret(settingsName, map[string]string{"token": tokenValue})
	w.start("--development-logs")
	object := secretSetting("webhook_token", settingsName, "token")
	w.create(object)
	now := w.stands(object, dgmv1alpha1.ReasonApplied)
	w.rows("true", `SELECT (is_sensitive AND key_id = $1 AND value IS NULL)::text FROM dgm.system_configurations WHERE key = 'webhook_token'`, now.Status.KeyID)
	w.settingsSecret(settingsName, map[string]string{"token": tokenValue + "\xff\x00"})

	// In plain, for a setting that is sensitive.
	patch := `[{"op":"remove","path":"/spec/secretKeyRef"},{"op":"add","path":"/spec/value","value":"in-plain"}]`
	if err := w.Patch(context.Background(), object.DeepCopy(), client.RawPatch("application/json-patch+json", []byte(patch))); err != nil {
		t.Fatal(err)
	}
	now = w.stands(object, dgmv1alpha1.ReasonSensitive)
	w.says(settingCondition(now, dgmv1alpha1.ConditionStalled).Message, "spec.secretKeyRef")
	w.rows("1", "SELECT count(*) FROM dgm.system_configurations WHERE key = 'webhook_token' AND value IS NULL AND deleted_at IS NULL")

	// Back, to a value that cannot be text.
	patch = `[{"op":"remove","path":"/spec/value"},{"op":"add","path":"/spec/secretKeyRef","value":{"name":"` + settingsName + `","key":"token"}}]`
	if err := w.Patch(context.Background(), object.DeepCopy(), client.RawPatch("application/json-patch+json", []byte(patch))); err != nil {
		t.Fatal(err)
	}
	w.stands(object, dgmv1alpha1.ReasonInvalidValue)
	w.settingsSecret(settingsName, map[string]string{"token": tokenValue})
	w.query("UPDATE dgm.system_configurations SET encrypted_value = '\\x01', key_id = 'x' WHERE key = 'webhook_token'") // wakes it
	now = w.stands(object, dgmv1alpha1.ReasonApplied)

	// Rotated by an administrator: the row moves to the new key, and says so.
	before := now.Status.KeyID
	output, err := operatortest.RunAsAdmin(w, "keyset", "rotate")
	if err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	w.eventuallyIn(2*time.Minute, "the row is under the new key", func() error {
		now = w.settingNow(object.Name)
		if now.Status.KeyID == before || !strings.Contains(output, now.Status.KeyID) {
			return errorf("keyId is %s", now.Status.KeyID)
		}
		return nil
	})
	status, err := operatortest.RunAsAdmin(w, "keyset", "status")
	if err != nil {
		t.Fatalf("%v: %s", err, status)
	}
	w.says(status, before, now.Status.KeyID, "PRIMARY")
	w.says(w.operator.Log(), "encrypted with the primary key now")

	w.nowhere(tokenValue)
	if err := w.Delete(context.Background(), object); err != nil {
		t.Fatal(err)
	}
	w.rows("true", "SELECT encrypted_value IS NULL AND deleted_at IS NOT NULL FROM dgm.system_configurations WHERE key = 'webhook_token'")
}

// nowhere fails the test when a value shows in a dump of the database, the
// operator's log, an event or an object.
func (w *world) nowhere(value string) {
	w.Helper()
	dump, err := exec.Command(filepath.Join(postgresPrograms(w), "pg_dump"), w.url).Output()
	if err != nil {
		w.Fatalf("pg_dump: %v", err)
	}
	var events eventsv1.EventList
	var settings dgmv1alpha1.SystemConfigurationList
	for _, list := range []client.ObjectList{&events, &settings} {
		if err := w.List(context.Background(), list); err != nil {
			w.Fatal(err)
		}
	}
	shown := func(object any) []byte {
		text, err := yaml.Marshal(object)
		if err != nil {
			w.Fatal(err)
		}
		return text
	}
	for where, text := range map[string][]byte{
		"a dump of the database": dump, "the operator's log": []byte(w.operator.Log()), "events": shown(events), "objects": shown(settings),
	} {
		if len(text) == 0 || bytes.Contains(text, []byte(value)) {
			w.Errorf("%s, %d bytes, hold the value, or nothing", where, len(text))
		}
	}
}

func postgresPrograms(w *world) string {
	w.Helper()
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil || len(found) == 0 {
		w.Fatal("no PostgreSQL programs are installed")
	}
	slices.Sort(found)
	return found[len(found)-1]
}

func TestConfigurationSecretsThatCannotBeRead(t *testing.T) {
	w := newWorld(t)
	w.start()
	for _, c := range []struct {
		object *dgmv1alpha1.SystemConfiguration
		reason string
		says   []string
	}{
		{secretSetting("no_secret", settingsName, "token"), dgmv1alpha1.ReasonSecretNotFound, []string{"dgm-system/" + settingsName, "create it"}},
		{secretSetting("no_right", "other-secret", "token"), dgmv1alpha1.ReasonForbidden, []string{
			"kubectl create role dgm-operator-read-other-secret --namespace dgm-system --verb=get --resource=secrets --resource-name=other-secret",
			"kubectl create rolebinding dgm-operator-read-other-secret --namespace dgm-system --role=dgm-operator-read-other-secret --serviceaccount=dgm-system:dgm-operator",
		}},
		{secretSetting("the_keyset", "dgm-operator-keyset", "keyset.json"), dgmv1alpha1.ReasonSecretRefused, []string{"holds the encryption keys"}},
	} {
		w.create(c.object)
		now := w.stands(c.object, c.reason)
		w.says(settingCondition(now, dgmv1alpha1.ConditionStalled).Message, c.says...)
	}
	w.rows("0", "SELECT count(*) FROM dgm.system_configurations WHERE is_sensitive")
}

func TestConfigurationWaitsForTheDatabaseAndIsFoundDeleted(t *testing.T) {
	w := newWorld(t)
	w.start(quickTakeover...)
	kept, gone := setting(concurrentKey, "7"), setting("team.gone", "x")
	w.create(kept)
	w.create(gone)
	w.stands(kept, dgmv1alpha1.ReasonApplied)
	w.stands(gone, dgmv1alpha1.ReasonApplied)
	versions := w.settingVersions()

	// Away: what is in force stays so, what is new waits.
	good := w.url
	nobody, err := url.Parse(good)
	if err != nil {
		t.Fatal(err)
	}
	nobody.Host = unusedAddress(t)
	w.crash()
	w.url = nobody.String()
	w.operator = w.launch("replica-1", quickTakeover...)
	waiting := setting("team.waiting", "x")
	w.create(waiting)
	now := w.stands(waiting, dgmv1alpha1.ReasonDatabaseUnavailable)
	if c := settingCondition(now, dgmv1alpha1.ConditionReconciling); c.Status != metav1.ConditionTrue {
		t.Errorf("Reconciling is %+v", c)
	}
	if got := w.settingVersions()[kept.Name]; got != versions[kept.Name] {
		t.Error("an outage changed what is in force")
	}
	if err := w.Delete(context.Background(), gone); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * time.Second)
	w.operator.SetDatabaseURL(t, good)
	w.url = good
	w.stands(waiting, dgmv1alpha1.ReasonApplied)
	w.rows("x test team.gone true", settingRow, "team.gone")

	w.schemaIntact(kept)

	// P12: a restart writes nothing, and finds what was deleted meanwhile.
	w.crash()
	if err := w.Delete(context.Background(), waiting); err != nil {
		t.Fatal(err)
	}
	versions = w.settingVersions()
	const rows = "SELECT concat(xmin, ctid) FROM dgm.system_configurations WHERE key = $1"
	row := w.query(rows, concurrentKey)
	w.start(quickTakeover...)
	w.rows("x test team.waiting true", settingRow, "team.waiting")
	time.Sleep(2 * time.Second)
	if diff := cmp.Diff(versions, w.settingVersions()); diff != "" {
		t.Errorf("P12: a restart wrote objects (-before +after):\n%s", diff)
	}
	if got := w.query(rows, concurrentKey); got != row {
		t.Errorf("P12: a restart wrote the row: %s, then %s", row, got)
	}
}
