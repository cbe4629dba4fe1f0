// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/uuid"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/internal/pgstore"
)

// Resync has every object compared with its rows when the database comes (back),
// after a failover and at an interval, and marks the rows of objects that are
// gone. It runs on the leader.
type Resync struct {
	// Client reads the cache.
	Client client.Client
	// Store is the database.
	Store *pgstore.Store
	// Outbox is flushed first.
	Outbox *Outbox
	// Interval is how often hand edits of rows are looked for.
	Interval time.Duration
	// Improvements, Policies and Configurations take what is to be compared.
	Improvements, Policies, Configurations func(context.Context, types.NamespacedName)
	// SnapshotLost takes an improvement whose snapshot the database has lost,
	// before Improvements takes it.
	SnapshotLost func(types.NamespacedName)
	// RecordsLost takes an improvement whose verdict or tests the database has lost,
	// before Improvements takes it.
	RecordsLost func(types.NamespacedName)
	// Replaced takes an improvement under whose name the database has live rows of
	// another object, before Improvements takes it.
	Replaced func(types.NamespacedName)
	// Sweep removes the sandboxes that nobody needs.
	Sweep func(context.Context) error
	// Log tells why it resyncs.
	Log logr.Logger
}

// retryResync is how soon a resync that failed is tried again.
const retryResync = 5 * time.Second

// Start runs until ctx ends.
func (r *Resync) Start(ctx context.Context) error {
	ticker := time.NewTicker(r.Interval)
	defer ticker.Stop()
	retry := make(<-chan time.Time)
	r.sweep(ctx)
	for {
		var why string
		select {
		case <-ctx.Done():
			return nil
		case keys := <-r.Store.ConfigurationChanged():
			if err := r.configurations(ctx, keys); err != nil {
				r.Log.Error(err, "Changed configurations are compared at the next resync")
			}
			continue
		case why = <-r.Store.Resyncs():
		case <-r.Store.SettingsChanged():
			if err := r.enqueueWaiting(ctx); err != nil {
				r.Log.Error(err, "Cannot look again at what waits; it looks again by itself")
			}
			continue
		case <-ticker.C:
			why = "interval"
			r.Store.ForgetAllSynced()
			r.sweep(ctx)
		case <-retry:
			why = "the last resync failed"
		}
		r.Log.Info("Comparing every object with its rows", "why", why)
		if err := r.all(ctx); err != nil {
			if errors.Is(err, context.Canceled) {
				return nil
			}
			r.Log.Error(err, "Resync failed; trying again", "after", retryResync)
			retry = time.After(retryResync)
		}
	}
}

// sweep needs no database.
func (r *Resync) sweep(ctx context.Context) {
	if err := r.Sweep(ctx); err != nil && ctx.Err() == nil {
		r.Log.Error(err, "Sandboxes that nobody needs are removed at the next resync")
	}
}

func (r *Resync) all(ctx context.Context) error {
	if err := r.Outbox.Flush(ctx, r.Store); err != nil {
		return err
	}
	var improvements dgmv1alpha1.ImprovementWorkspaceList
	var policies dgmv1alpha1.BanditPolicyList
	var configurations dgmv1alpha1.SystemConfigurationList
	for _, list := range []client.ObjectList{&improvements, &policies, &configurations} {
		if err := r.Client.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
			return err
		}
	}
	if err := r.findLostSnapshots(ctx, improvements.Items); err != nil {
		return err
	}
	if err := r.findLostRecords(ctx, improvements.Items); err != nil {
		return err
	}
	if err := r.one(ctx, pgstore.KindImprovementWorkspace, uidsOf(improvements.Items), r.Replaced, r.Improvements); err != nil {
		return err
	}
	// Mirroring marks or takes over all rows of the object's name that are not its own.
	ours := func(types.NamespacedName) {}
	if err := r.one(ctx, pgstore.KindBanditPolicy, uidsOf(policies.Items), ours, r.Policies); err != nil {
		return err
	}
	return r.one(ctx, pgstore.KindSystemConfiguration, uidsOf(configurations.Items), ours, r.Configurations)
}

// uidsOf are objects by name.
func uidsOf[T any, P interface {
	*T
	client.Object
}](items []T) map[types.NamespacedName]types.UID {
	uids := make(map[types.NamespacedName]types.UID, len(items))
	for i := range items {
		uids[client.ObjectKeyFromObject(P(&items[i]))] = P(&items[i]).GetUID()
	}
	return uids
}

// configurations enqueues the objects of keys, all when there are none. What
// only has a row left is not looked for: nobody but the operator made it.
func (r *Resync) configurations(ctx context.Context, keys []string) error {
	var list dgmv1alpha1.SystemConfigurationList
	if err := r.Client.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		return err
	}
	for i := range list.Items {
		if len(keys) == 0 || slices.Contains(keys, list.Items[i].Spec.Key) {
			r.Configurations(ctx, client.ObjectKeyFromObject(&list.Items[i]))
		}
	}
	return nil
}

// one enqueues the live objects of a kind, and those that only have rows left or
// whose rows are of another object of that name. Reconciling an object that is
// gone marks its rows; that way an object that is being created meanwhile is never
// taken for gone.
func (r *Resync) one(ctx context.Context, kind pgstore.Kind, live map[types.NamespacedName]types.UID,
	replaced func(types.NamespacedName), enqueue func(context.Context, types.NamespacedName),
) error {
	for key := range live {
		enqueue(ctx, key)
	}
	return r.Store.LiveObjects(ctx, kind, func(o pgstore.Object) error {
		key := types.NamespacedName{Namespace: o.Namespace, Name: o.Name}
		uid, lives := live[key]
		if lives && string(uid) == o.UID {
			return nil
		}
		if lives {
			replaced(key)
		}
		enqueue(ctx, key)
		return nil
	})
}

// enqueueWaiting has every improvement that has changed nothing yet look at the
// settings again.
func (r *Resync) enqueueWaiting(ctx context.Context) error {
	var improvements dgmv1alpha1.ImprovementWorkspaceList
	if err := r.Client.List(ctx, &improvements, client.UnsafeDisableDeepCopy); err != nil {
		return err
	}
	for i := range improvements.Items {
		if phase := improvements.Items[i].Status.Phase; phase == dgmv1alpha1.PhasePending || phase.BeforeApplying() {
			r.Improvements(ctx, client.ObjectKeyFromObject(&improvements.Items[i]))
		}
	}
	return nil
}

// findLostSnapshots notes the live improvements that name a snapshot which the
// database does not have.
func (r *Resync) findLostSnapshots(ctx context.Context, improvements []dgmv1alpha1.ImprovementWorkspace) error {
	named := map[uuid.UUID]types.NamespacedName{}
	for i := range improvements {
		if id := parseID(improvements[i].Status.ImprovementID); id.Valid && improvements[i].Status.Snapshot != nil {
			named[id.UUID] = client.ObjectKeyFromObject(&improvements[i])
		}
	}
	if len(named) == 0 {
		return nil
	}
	missing, err := r.Store.WithoutSnapshot(ctx, slices.Collect(maps.Keys(named)))
	for _, id := range missing {
		r.SnapshotLost(named[id])
	}
	return err
}

// findLostRecords notes the live improvements whose status tells of a verdict or
// of tests which the database does not have.
func (r *Resync) findLostRecords(ctx context.Context, improvements []dgmv1alpha1.ImprovementWorkspace) error {
	named := map[uuid.UUID]types.NamespacedName{}
	var told []pgstore.Recorded
	for i := range improvements {
		status := &improvements[i].Status
		id, tests := parseID(status.ImprovementID), len(endedTests(status))
		if id.Valid && (status.Compliance != nil || tests > 0) {
			named[id.UUID] = client.ObjectKeyFromObject(&improvements[i])
			told = append(told, pgstore.Recorded{ImprovementID: id.UUID, Judged: status.Compliance != nil, Tests: tests})
		}
	}
	if len(told) == 0 {
		return nil
	}
	missing, err := r.Store.WithoutRecords(ctx, told)
	for _, id := range missing {
		r.RecordsLost(named[id])
	}
	return err
}
