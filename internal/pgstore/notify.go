// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"context"
	"encoding/json"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// eventQueueLength bounds what waits to be told; the rest is dropped, since
	// events are hints.
	eventQueueLength = 4096
	eventBatchSize   = 500
	// eventDelay is how long the first event waits for others.
	eventDelay   = 20 * time.Millisecond
	eventTimeout = 5 * time.Second
	// maxEvent is PostgreSQL's limit of a payload, in bytes.
	maxEvent = 7999
)

// Kinds of events.
const (
	eventImprovement   = "improvement"
	eventBanditPolicy  = "bandit_policy"
	eventConfiguration = "configuration"
	eventConstitution  = "constitution"
)

// event is what the channel dgm_events tells. Names are as the rows have them.
type event struct {
	Version       int       `json:"v"`
	Kind          string    `json:"kind"`
	Cluster       string    `json:"cluster,omitempty"`
	Namespace     string    `json:"namespace,omitempty"`
	Name          string    `json:"name,omitempty"`
	ImprovementID string    `json:"improvement_id,omitempty"`
	Status        string    `json:"status,omitempty"`
	ArchiveStatus string    `json:"archive_status,omitempty"`
	Deleted       bool      `json:"deleted,omitempty"`
	Epoch         int64     `json:"epoch,omitempty"`
	Revision      int64     `json:"revision,omitempty"`
	Keys          []string  `json:"keys,omitempty"`
	At            time.Time `json:"at"`
}

// announcements remembers the status that was told last of each object.
type announcements struct {
	mu   sync.Mutex
	told map[objectKey]standing
}

type standing struct{ attempt, archive, workspace string }

func newAnnouncements() *announcements { return &announcements{told: map[objectKey]standing{}} }

// isNews reports whether the status of what was written differs from what was
// told last, and takes it as told.
func (a *announcements) isNews(r *request) bool {
	key := objectKey{r.kind, r.object.UID}
	a.mu.Lock()
	defer a.mu.Unlock()
	if r.improvement == nil {
		return true
	}
	now := standing{r.improvement.ImprovementID.String(), r.improvement.ArchiveStatus, r.improvement.WorkspaceStatus}
	if a.told[key] == now {
		return false
	}
	a.told[key] = now
	return true
}

// forget lets go of an object that is gone.
func (a *announcements) forget(kind Kind, uid string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.told, objectKey{kind, uid})
}

// announce queues the state changes among requests that were committed. It never
// waits.
func (s *session) announce(written []*request) {
	at := time.Now().UTC()
	for _, r := range written {
		if r.err != nil || !s.store.announcements.isNews(r) {
			continue
		}
		payload, err := json.Marshal(s.eventOf(r, at))
		if err != nil || len(payload) > maxEvent {
			continue
		}
		select {
		case s.events <- string(payload):
		default:
			s.eventsDropped.Add(1)
		}
	}
}

func (s *session) eventOf(r *request, at time.Time) event {
	e := event{
		Version: 1, Kind: eventBanditPolicy, Cluster: s.cluster, Deleted: r.tombstone,
		Namespace: escapeText(r.object.Namespace), Name: escapeText(r.object.Name),
		Epoch: s.fence.epoch, Revision: r.revision, At: at,
	}
	if r.kind == KindImprovementWorkspace {
		e.Kind = eventImprovement
	}
	if i := r.improvement; i != nil {
		e.ImprovementID, e.Status, e.ArchiveStatus = i.ImprovementID.String(), i.WorkspaceStatus, i.ArchiveStatus
	}
	return e
}

// eventQueue is what waits to be told.
type eventQueue struct {
	events        chan string
	eventsDropped atomic.Int64
}

// notifyLoop tells what changed, outside of the transactions that changed it: a
// NOTIFY makes all transactions that use it commit one after the other. An event
// that cannot be told is lost: events are hints.
func (s *session) notifyLoop(ctx context.Context) error {
	for {
		payloads, err := s.collectEvents(ctx)
		if err != nil {
			return err
		}
		timed, cancel := context.WithTimeout(ctx, eventTimeout)
		err = s.queries.NotifyEvents(timed, payloads)
		cancel()
		dropped := s.eventsDropped.Swap(0)
		if err != nil {
			dropped += int64(len(payloads))
		}
		if dropped > 0 && ctx.Err() == nil {
			s.store.config.Log.Info("Events were not told", "events", dropped, "channel", "dgm_events", "reason", whyNotTold(err))
		}
	}
}

func whyNotTold(err error) string {
	if err == nil {
		return "too many at once"
	}
	return reason(err)
}

func (s *session) collectEvents(ctx context.Context) ([]string, error) {
	var payloads []string
	select {
	case e := <-s.events:
		payloads = append(payloads, e)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	delay := time.NewTimer(eventDelay)
	defer delay.Stop()
	for len(payloads) < eventBatchSize {
		select {
		case e := <-s.events:
			payloads = append(payloads, e)
		case <-delay.C:
			return payloads, nil
		}
	}
	return payloads, nil
}
