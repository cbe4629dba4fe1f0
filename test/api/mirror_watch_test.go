// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"sync"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"
)

// watchTruth looks all the time, until stop is called or the test ends, whether
// an object claims to be synced while its row says something else.
func (w *world) watchTruth() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for looked := 0; ctx.Err() == nil; looked++ {
			if err := w.findLie(); err != nil {
				w.Errorf("DatabaseSynced, look %d: %v", looked, err)
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
	})
	stop = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
	})
	w.Cleanup(stop)
	return stop
}

// findLie compares the rows with those objects that stayed the same while the
// rows were read; while the database is away there is nothing to compare with.
func (w *world) findLie() error {
	m, err := w.observeMirror()
	if err != nil {
		return nil //nolint:nilerr // the outage is the test's own
	}
	for i := range m.improvements {
		object := &m.improvements[i]
		if saysSynced(object.Status.Conditions, object.Generation) && w.unchanged(object) {
			if err := m.checkImprovement(object); err != nil && w.unchanged(object) {
				return err
			}
		}
	}
	for i := range m.policies {
		object := &m.policies[i]
		if saysSynced(object.Status.Conditions, object.Generation) {
			if err := m.checkPolicy(object); err != nil && w.unchanged(object) {
				return err
			}
		}
	}
	return nil
}

// unchanged reports whether an object is still as it was read.
func (w *world) unchanged(object client.Object) bool {
	fresh := object.DeepCopyObject().(client.Object) //nolint:forcetypeassert // a copy has the type of the original
	err := w.Get(context.Background(), client.ObjectKeyFromObject(object), fresh)
	return err == nil && fresh.GetUID() == object.GetUID() && fresh.GetResourceVersion() == object.GetResourceVersion()
}

// watchOrder has the database itself record every write that takes a row back:
// to a lower revision, an earlier state, an older generation, or by a leader
// that is not the current one.
func (w *world) watchOrder(t *testing.T) (check func()) {
	t.Helper()
	w.query(backwardsSQL)
	return func() {
		t.Helper()
		if got := w.query("SELECT what FROM public.backwards"); got != "" {
			t.Errorf("rows went backwards:\n%s", got)
		}
		if w.query("SELECT count(*) FROM public.watched_writes") == "0" {
			t.Error("nothing was written while the order was watched")
		}
	}
}

const backwardsSQL = `DO $do$ BEGIN
CREATE TABLE public.backwards (what text);
CREATE TABLE public.watched_writes (tab text, writer_epoch bigint);
CREATE FUNCTION public.state_rank(tab text, status text) RETURNS int LANGUAGE sql IMMUTABLE AS $$
	SELECT CASE tab WHEN 'dgm_archive' THEN array_position('{pending,running,completed,failed,rolled_back}'::text[], status)
		ELSE array_position('{created,active,validating,completed,failed}'::text[], status) END $$;
CREATE FUNCTION public.watch_order() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE fence bigint := (SELECT epoch FROM dgm.writer_fences WHERE cluster = NEW.cluster);
BEGIN
	INSERT INTO public.watched_writes VALUES (TG_TABLE_NAME, NEW.writer_epoch);
	IF NEW.writer_epoch <> fence THEN
		INSERT INTO public.backwards VALUES (format('%s %s: written under epoch %s, the fence has %s', TG_TABLE_NAME, NEW.name, NEW.writer_epoch, fence));
	END IF;
	IF TG_OP = 'UPDATE' AND (NEW.writer_epoch, NEW.revision) < (OLD.writer_epoch, OLD.revision) THEN
		INSERT INTO public.backwards VALUES (format('%s %s: revision (%s, %s) after (%s, %s)', TG_TABLE_NAME, NEW.name,
			NEW.writer_epoch, NEW.revision, OLD.writer_epoch, OLD.revision));
	END IF;
	IF TG_OP = 'UPDATE' AND NEW.uid = OLD.uid AND (NEW.generation < OLD.generation OR (OLD.deleted_at IS NOT NULL AND NEW.deleted_at IS NULL)) THEN
		INSERT INTO public.backwards VALUES (format('%s %s: generation %s deleted %s after generation %s deleted %s', TG_TABLE_NAME, NEW.name,
			NEW.generation, NEW.deleted_at, OLD.generation, OLD.deleted_at));
	END IF;
	IF TG_OP = 'UPDATE' AND TG_TABLE_NAME <> 'bandit_states' THEN
		IF public.state_rank(TG_TABLE_NAME, to_jsonb(NEW)->>'status') < public.state_rank(TG_TABLE_NAME, to_jsonb(OLD)->>'status') THEN
			INSERT INTO public.backwards VALUES (format('%s %s: %s after %s', TG_TABLE_NAME, NEW.name, to_jsonb(NEW)->>'status', to_jsonb(OLD)->>'status'));
		END IF;
	END IF;
	RETURN NULL;
END $$;
CREATE TRIGGER watch_order AFTER INSERT OR UPDATE ON dgm.dgm_archive FOR EACH ROW EXECUTE FUNCTION public.watch_order();
CREATE TRIGGER watch_order AFTER INSERT OR UPDATE ON dgm.improvement_workspaces FOR EACH ROW EXECUTE FUNCTION public.watch_order();
CREATE TRIGGER watch_order AFTER INSERT OR UPDATE ON dgm.bandit_states FOR EACH ROW EXECUTE FUNCTION public.watch_order();
END $do$`
