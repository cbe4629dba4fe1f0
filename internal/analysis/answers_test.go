// SPDX-License-Identifier: Apache-2.0

package analysis

import (
	"context"
	"errors"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/utils/clock"
)

func TestManyAskTheSameOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answers := NewAnswers(clock.RealClock{})
		var asked, woken atomic.Int32
		source := func(context.Context, Question) ([]Sample, error) {
			asked.Add(1)
			time.Sleep(time.Second)
			return []Sample{{Value: 1}}, nil
		}
		q := Question{Source: "prometheus/default", Query: "up"}
		for i := range 1000 {
			if _, known := answers.Ask(q, source, time.Time{}, strconv.Itoa(i), func() { woken.Add(1) }); known {
				t.Fatal("known before it was answered")
			}
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if asked.Load() != 1 || woken.Load() != 1000 {
			t.Errorf("asked %d times, woke %d", asked.Load(), woken.Load())
		}
		answer, known := answers.Ask(q, source, time.Time{}, "1", func() {})
		if !known || len(answer.Samples) != 1 {
			t.Errorf("%v, known %t", answer, known)
		}
		if _, known := answers.Ask(q, source, time.Now(), "1", func() {}); known {
			t.Error("an older answer is taken for one of now")
		}
		synctest.Wait()
		time.Sleep(2 * time.Second)
	})
}

func TestASourceIsNotFloodedAndHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answers := NewAnswers(clock.RealClock{})
		var running, most, done atomic.Int32
		slow := func(context.Context, Question) ([]Sample, error) {
			now := running.Add(1)
			for old := most.Load(); now > old && !most.CompareAndSwap(old, now); old = most.Load() {
			}
			time.Sleep(time.Second)
			running.Add(-1)
			done.Add(1)
			return nil, errors.New("no series")
		}
		for i := range 40 {
			answers.Ask(Question{Source: "slow", Query: strconv.Itoa(i)}, slow, time.Time{}, "w", func() {})
		}
		fast := func(context.Context, Question) ([]Sample, error) { return nil, nil }
		answers.Ask(Question{Source: "fast"}, fast, time.Time{}, "w", func() {})
		synctest.Wait()
		if _, known := answers.Ask(Question{Source: "fast"}, fast, time.Time{}, "w", func() {}); !known {
			t.Error("one source waits for another")
		}
		time.Sleep(11 * time.Second)
		synctest.Wait()
		if most.Load() != perSource || done.Load() != 40 {
			t.Errorf("%d at a time, %d in all", most.Load(), done.Load())
		}
		if answer, known := answers.Ask(Question{Source: "slow", Query: "7"}, slow, time.Time{}, "w", func() {}); !known || answer.Problem != "no series" {
			t.Errorf("%+v, known %t", answer, known)
		}
	})
}

func TestNoNamespaceHoldsUpAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answers := NewAnswers(clock.RealClock{})
		slow := func(context.Context, Question) ([]Sample, error) {
			time.Sleep(10 * time.Second)
			return nil, errors.New("too slow")
		}
		ask := func(namespace string, i int, wake func()) (Answer, bool) {
			return answers.Ask(Question{Source: "prometheus/default", Query: namespace + strconv.Itoa(i)}, slow, time.Time{}, namespace+"/w", wake)
		}
		for i := range maxWaiting + perSource {
			if answer, known := ask("greedy", i, func() {}); known {
				t.Fatalf("question %d is refused: %s", i, answer.Problem)
			}
			if i < perSource {
				synctest.Wait() // it is being asked, and waits no more
			}
		}
		if answer, known := ask("greedy", -1, func() {}); !known || answer.Problem != "16384 questions of namespace greedy wait for the source already" {
			t.Errorf("one more: %+v, known %t", answer, known)
		}
		woken := make(chan struct{})
		ask("modest", 0, func() { close(woken) })
		began := time.Now()
		<-woken
		if waited := time.Since(began); waited > 20*time.Second {
			t.Errorf("it waited %s behind the questions of another namespace", waited)
		}
		time.Sleep(maxWaiting * 10 * time.Second)
		synctest.Wait()
	})
}

func TestAnswersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answers := NewAnswers(clock.RealClock{})
		many := func(context.Context, Question) ([]Sample, error) { return make([]Sample, 10_000), nil }
		for i := range 200 {
			answers.Ask(Question{Query: strconv.Itoa(i)}, many, time.Time{}, "w", func() {})
		}
		synctest.Wait()
		if answers.samples > maxKept || answers.samples != 10_000*answers.kept.Len() || answers.kept.Len() < 40 {
			t.Errorf("%d samples of %d answers are kept", answers.samples, answers.kept.Len())
		}
		if len(answers.asking) != 0 || len(answers.queues) != 0 {
			t.Errorf("%d questions and %d queues are left", len(answers.asking), len(answers.queues))
		}
	})
}

func TestWhatIsAskedIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answers := NewAnswers(clock.RealClock{})
		slow := func(_ context.Context, q Question) ([]Sample, error) {
			time.Sleep(time.Second)
			if q.Query == "wrong" {
				return nil, errors.New("no series")
			}
			return []Sample{{Value: 1}}, nil
		}
		// Four are asked at a time; the fifth waits for one of them.
		for _, query := range []string{"a", "a", "b", "c", "wrong", "d"} {
			answers.Ask(Question{Source: "prometheus/default", Query: query}, slow, time.Time{}, query, func() {})
		}
		time.Sleep(1500 * time.Millisecond)
		if got, want := answers.Counts()["prometheus/default"], (Count{Questions: 6, Answered: 3, Failed: 1, Waiting: 1, Lag: 1500 * time.Millisecond}); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
		time.Sleep(time.Second)
		if got, want := answers.Counts()["prometheus/default"], (Count{Questions: 6, Answered: 4, Failed: 1}); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	})
}
