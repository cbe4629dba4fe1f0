package snapshot

import (
	"errors"
	"reflect"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"pgregory.net/rapid"
)

// reapplied applies a patch and adds the ownership that the server would write.
func reapplied(t *rapid.T, live *unstructured.Unstructured, patch []byte) *unstructured.Unstructured {
	bare := &unstructured.Unstructured{Object: clone(live.Object).(map[string]any)}
	bare.SetManagedFields(nil)
	return owned(patchedObject(t, bare, patch).Object)
}

func randomPlan(t *rapid.T) (plan ObjectPlan, before, after *unstructured.Unstructured) {
	g := generator{t}
	state := g.object()
	before, after = owned(state), owned(g.edited(state))
	plan, err := NewObjectPlan("random", before, after, manager)
	if err != nil {
		t.Fatal(err)
	}
	return plan, before, after
}

func TestP2_InverseOfForwardIsIdentity(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		plan, before, after := randomPlan(t)
		if err := plan.Prove(); err != nil {
			t.Fatal(err)
		}
		forward, err := plan.Forward(before)
		if err != nil {
			t.Fatal(err)
		}
		applied := reapplied(t, before, forward)
		assertSame(t, applied, after)
		again, err := plan.Forward(applied)
		if again != nil || err != nil {
			t.Fatalf("applying twice: %s %v", again, err)
		}
		inverse, left, err := plan.Inverse(applied)
		if err != nil || len(left) > 0 {
			t.Fatal(err, left)
		}
		restored := reapplied(t, applied, inverse)
		assertSame(t, restored, before)
		again, left, err = plan.Inverse(restored)
		if again != nil || len(left) > 0 || err != nil {
			t.Fatalf("restoring twice: %s %v %v", again, left, err)
		}
	})
}

func TestP2_RestoreNeverOverwritesForeignEditsAndPutsBackTheRest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		plan, before, after := randomPlan(t)
		live := owned(generator{t}.edited(after.Object))
		inverse, left, err := plan.Inverse(live)
		if err != nil {
			t.Fatal(err)
		}
		restored := reapplied(t, live, inverse)
		assertRestored(t, leaves(before.Object), leaves(after.Object), leaves(live.Object), leaves(restored.Object), left)

		if comparison := plan.Compare(restored); comparison.After > 0 {
			t.Fatalf("%d paths still have the value after: %+v", comparison.After, comparison)
		}
		again, leftAgain, err := plan.Inverse(restored)
		if again != nil || err != nil || !slices.Equal(reported(left), reported(leftAgain)) {
			t.Fatalf("restoring twice: %s %v; left %v, then %v", again, err, left, leftAgain)
		}
	})
}

// assertRestored looks at each leaf: what another changed since the change is as that other left it, everything else
// is as before, unless it lies in a part that is reported as left alone.
func assertRestored(t *rapid.T, before, after, live, restored map[string]any, left []PathReport) {
	for _, leaf := range allKeys(before, after, live, restored) {
		theirs, ours := get(live, leaf), get(after, leaf)
		got := get(restored, leaf)
		if !theirs.equal(ours) {
			if !got.equal(theirs) {
				t.Fatalf("%s: another set %v, after the restore it is %v", leaf, theirs, got)
			}
			continue
		}
		if want := get(before, leaf); !got.equal(want) && !isLeft(left, leaf) {
			t.Fatalf("%s: was %v before, after the restore it is %v; left alone: %v", leaf, want, got, left)
		}
	}
}

func isLeft(left []PathReport, leaf string) bool {
	path, err := ParsePath(leaf)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(left, func(report PathReport) bool {
		reported, err := ParsePath(report.Path)
		return err == nil && (reported.Contains(path) || path.Contains(reported))
	})
}

func TestP2_ForwardIsRefusedOverForeignEdits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		plan, before, after := randomPlan(t)
		live := owned(generator{t}.edited(before.Object))
		forward, err := plan.Forward(live)
		if errors.Is(err, ErrForeign) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		applied := reapplied(t, live, forward)
		if !plan.Compare(applied).AllAfter() {
			t.Fatalf("applied in part: %+v", plan.Compare(applied))
		}
		was, goal, found, got := leaves(before.Object), leaves(after.Object), leaves(live.Object), leaves(applied.Object)
		for _, leaf := range allKeys(was, goal, found, got) {
			if foreign := !get(found, leaf).equal(get(was, leaf)); foreign && !get(got, leaf).equal(get(found, leaf)) {
				t.Fatalf("%s: another set %v, after applying it is %v", leaf, get(found, leaf), get(got, leaf))
			}
		}
	})
}

func TestP1_StoredPlanIsTheSamePlan(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		object, before, after := randomPlan(t)
		plan := Plan{Version: Version, Objects: []ObjectPlan{object}}
		data, err := plan.Encode()
		if err != nil {
			t.Fatal(err)
		}
		decoded, err := Decode(data)
		if err != nil {
			t.Fatal(err)
		}
		again, err := decoded.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if string(again) != string(data) || decoded.BeforeDigest() != plan.BeforeDigest() {
			t.Fatalf("stored %s, read back %s", data, again)
		}
		assertSamePatches(t, object, decoded.Objects[0], before, after)
		if err := decoded.Objects[0].Prove(); err != nil {
			t.Fatal(err)
		}
	})
}

func assertSamePatches(t *rapid.T, a, b ObjectPlan, before, after *unstructured.Unstructured) {
	forwardA, errA := a.Forward(before)
	forwardB, errB := b.Forward(before)
	if string(forwardA) != string(forwardB) || errA != nil || errB != nil {
		t.Fatalf("forward: %s %v, decoded: %s %v", forwardA, errA, forwardB, errB)
	}
	inverseA, _, errA := a.Inverse(after)
	inverseB, _, errB := b.Inverse(after)
	if string(inverseA) != string(inverseB) || errA != nil || errB != nil {
		t.Fatalf("inverse: %s %v, decoded: %s %v", inverseA, errA, inverseB, errB)
	}
}

func TestPathTextRoundTrips(t *testing.T) {
	text := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"", "a.b", "[", `"`, "true", "null", "1", "a=b", "a,b", "]", "_", "é"}))
	rapid.Check(t, func(t *rapid.T) {
		path := Path{}
		for range rapid.IntRange(0, 4).Draw(t, "length") {
			switch rapid.IntRange(0, 2).Draw(t, "kind") {
			case 0:
				path = append(path, Element{Field: text.Draw(t, "field")})
			case 1:
				element, _ := elementOf(map[string]any{"name": text.Draw(t, "key"), "port": int64(8080)}, []string{"absent", "name", "port"})
				path = append(path, element)
			case 2:
				element, _ := elementOf(text.Draw(t, "item"), nil)
				path = append(path, element)
			}
		}
		parsed, err := ParsePath(path.String())
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(parsed, path) {
			t.Fatalf("%s is read as %#v, not %#v", path, parsed, path)
		}
	})
}

func assertSame(t *rapid.T, got, want *unstructured.Unstructured) {
	a, b := clone(got.Object).(map[string]any), clone(want.Object).(map[string]any)
	if difference := firstDifference(compared(a), compared(b)); !reflect.DeepEqual(compared(a), compared(b)) {
		t.Fatalf("at %s:\n%v\nis not\n%v", difference, compared(a), compared(b))
	}
}

func reported(left []PathReport) []string {
	var paths []string
	for _, report := range left {
		paths = append(paths, report.Path)
	}
	return paths
}

func allKeys(objects ...map[string]any) []string {
	var keys []string
	for _, object := range objects {
		keys = append(keys, unionKeys(object, nil)...)
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"version":1,"objects":[{"change":"c","ref":{"apiVersion":"v1","kind":"ConfigMap","name":"a","uid":"u"},"manager":"m","before":{},"afterDigest":"d","paths":[{"path":"data.a","before":null,"after":1}]}]}`))
	f.Add([]byte(`{"version":2}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		plan, err := Decode(data)
		if err != nil {
			return
		}
		again, err := plan.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if same, err := recode(data); err != nil || string(same) != string(again) {
			t.Fatalf("read %s, wrote %s", data, again)
		}
		_, _, _ = plan.Diff(), plan.Summary(100), plan.BeforeDigest()
		for _, object := range plan.Objects {
			_ = object.Prove()
		}
	})
}

func FuzzParsePath(f *testing.F) {
	f.Add(`spec.containers[name=checkout].ports[containerPort=8080,protocol="true"].x["a.b"][=1]`)
	f.Fuzz(func(t *testing.T, text string) {
		path, err := ParsePath(text)
		if err == nil && path.String() != text {
			t.Fatalf("%q is read as %q", text, path)
		}
	})
}
