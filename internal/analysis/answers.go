// SPDX-License-Identifier: Apache-2.0

package analysis

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"k8s.io/utils/clock"
)

// Question asks a source for the samples of a window. Equal questions have one
// answer.
type Question struct {
	// Source names the server; questions to different ones do not wait for each other.
	Source string
	// Query is what is asked, in the words of the source.
	Query string
	// Start and End are the ends of the window, in nanoseconds since 1970, so that
	// questions can be compared.
	Start, End int64
	// Step is the time between two points, for a source that computes them.
	Step time.Duration
}

// Window is the window of the question.
func (q Question) Window() Window {
	return Window{Start: time.Unix(0, q.Start).UTC(), End: time.Unix(0, q.End).UTC()}
}

// Source answers questions. Its errors say why there is no data.
type Source func(ctx context.Context, q Question) ([]Sample, error)

// Answer is what a source said.
type Answer struct {
	Samples []Sample
	// Problem says why there are none; empty when all is well.
	Problem string
	// asked is when the question was asked.
	asked time.Time
}

const (
	// perSource is how many questions a source is asked at a time.
	perSource = 4
	// maxAnswers and maxKept bound, in answers and in samples, what is kept.
	maxAnswers = 4096
	maxKept    = 1 << 19
	// maxWaiting bounds the questions of a namespace that wait for a source.
	maxWaiting = 1 << 14
	// answerTimeout bounds a question, should the source have no bound of its own.
	answerTimeout = time.Minute
)

// Answers asks sources in the background: a source that does not answer holds
// nobody up. A question that many ask at a time, or one after the other, is asked
// once.
type Answers struct {
	// Clock tells the time.
	Clock clock.PassiveClock

	mu      sync.Mutex
	kept    *simplelru.LRU[Question, Answer]
	samples int
	asking  map[Question]*asking
	queues  map[string]*queue
	counts  map[string]Count
}

// Count is what was asked of a source so far, and what waits for its answer now.
type Count struct {
	// Questions were asked by improvements; Answered and Failed are those that the
	// source itself was asked.
	Questions, Answered, Failed int
	// Waiting have no answer yet, the oldest of them for as long as Lag.
	Waiting int
	Lag     time.Duration
}

// Counts is the count of every source that was asked.
func (a *Answers) Counts() map[string]Count {
	a.mu.Lock()
	defer a.mu.Unlock()
	counts := maps.Clone(a.counts)
	for question, current := range a.asking {
		count := counts[question.Source]
		count.Waiting++
		count.Lag = max(count.Lag, a.Clock.Since(current.since))
		counts[question.Source] = count
	}
	return counts
}

// asking is a question that has no answer yet.
type asking struct {
	question Question
	source   Source
	// since is when it was first asked, begun when the source was.
	since, begun time.Time
	waiting      map[string]func()
}

// queue are the questions to one source, and how many are being asked. Namespaces
// take turns, so that one with many or slow questions does not hold up the others.
type queue struct {
	next    map[string][]*asking // by namespace
	turns   []string             // the namespaces that wait, in order
	running int
}

func (q *queue) add(namespace string, question *asking) {
	if len(q.next[namespace]) == 0 {
		q.turns = append(q.turns, namespace)
	}
	q.next[namespace] = append(q.next[namespace], question)
}

// take is the next question; nil when there is none.
func (q *queue) take() *asking {
	if len(q.turns) == 0 {
		return nil
	}
	namespace := q.turns[0]
	q.turns = q.turns[1:]
	question := q.next[namespace][0]
	if q.next[namespace] = q.next[namespace][1:]; len(q.next[namespace]) > 0 {
		q.turns = append(q.turns, namespace)
	} else {
		delete(q.next, namespace)
	}
	return question
}

// NewAnswers returns one that keeps nothing yet.
func NewAnswers(c clock.PassiveClock) *Answers {
	a := &Answers{Clock: c, asking: map[Question]*asking{}, queues: map[string]*queue{}, counts: map[string]Count{}}
	kept, err := simplelru.NewLRU(maxAnswers, func(_ Question, dropped Answer) { a.samples -= len(dropped.Samples) })
	if err != nil {
		panic("the size is positive: " + err.Error())
	}
	a.kept = kept
	return a
}

// Ask returns the answer to a question that was asked at that time or later. If
// there is none yet the source is asked, and wake is called once it has answered;
// of the same waiter, namespace/name, only the last wake.
func (a *Answers) Ask(q Question, source Source, notBefore time.Time, waiter string, wake func()) (answer Answer, known bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	count := a.counts[q.Source]
	count.Questions++
	a.counts[q.Source] = count
	if kept, found := a.kept.Get(q); found && !kept.asked.Before(notBefore) {
		return kept, true
	}
	if current, found := a.asking[q]; found {
		current.waiting[waiter] = wake
		return Answer{}, false
	}
	asked, found := a.queues[q.Source]
	if !found {
		asked = &queue{next: map[string][]*asking{}}
		a.queues[q.Source] = asked
	}
	namespace, _, _ := strings.Cut(waiter, "/")
	if len(asked.next[namespace]) >= maxWaiting {
		return Answer{Problem: fmt.Sprintf("%d questions of namespace %s wait for the source already", maxWaiting, namespace)}, true
	}
	current := &asking{question: q, source: source, since: a.Clock.Now(), waiting: map[string]func(){waiter: wake}}
	a.asking[q] = current
	asked.add(namespace, current)
	if asked.running < perSource {
		asked.running++
		go a.work(asked, q.Source)
	}
	return Answer{}, false
}

// work asks one question after the other until the queue is empty.
func (a *Answers) work(asked *queue, source string) {
	for {
		a.mu.Lock()
		current := asked.take()
		if current == nil {
			if asked.running--; asked.running == 0 {
				delete(a.queues, source)
			}
			a.mu.Unlock()
			return
		}
		current.begun = a.Clock.Now()
		a.mu.Unlock()
		a.keep(current, answerOf(current))
	}
}

func answerOf(current *asking) Answer {
	ctx, cancel := context.WithTimeout(context.Background(), answerTimeout)
	defer cancel()
	samples, err := current.source(ctx, current.question)
	answer := Answer{Samples: samples, asked: current.begun}
	if err != nil {
		answer.Samples, answer.Problem = nil, err.Error()
	}
	return answer
}

// keep stores an answer and wakes those who wait for it.
func (a *Answers) keep(current *asking, answer Answer) {
	a.mu.Lock()
	a.kept.Remove(current.question)
	a.kept.Add(current.question, answer)
	a.samples += len(answer.Samples)
	for a.samples > maxKept && a.kept.Len() > 1 {
		a.kept.RemoveOldest()
	}
	delete(a.asking, current.question)
	count := a.counts[current.question.Source]
	if answer.Problem == "" {
		count.Answered++
	} else {
		count.Failed++
	}
	a.counts[current.question.Source] = count
	a.mu.Unlock()
	for _, wake := range current.waiting {
		wake()
	}
}
