// SPDX-License-Identifier: Apache-2.0

// Package docs_test checks that the documents agree with the code beside them.
package docs_test

import (
	"cmp"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/internal/lifecycle"
)

const root = ".."

var phases = []string{
	string(dgmv1alpha1.PhasePending), string(dgmv1alpha1.PhasePreparing), string(dgmv1alpha1.PhaseTesting),
	string(dgmv1alpha1.PhaseValidating), string(dgmv1alpha1.PhaseAwaitingApproval), string(dgmv1alpha1.PhaseApplying),
	string(dgmv1alpha1.PhaseObserving), string(dgmv1alpha1.PhaseCompleted), string(dgmv1alpha1.PhaseRollingBack), string(dgmv1alpha1.PhaseRolledBack),
	string(dgmv1alpha1.PhaseFailed),
}

// documents are the Markdown files of the repository by path from its root.
func documents(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && path != root && strings.HasPrefix(entry.Name(), ".") {
			return fs.SkipDir
		}
		if entry.IsDir() || filepath.Ext(path) != ".md" {
			return nil
		}
		content, err := os.ReadFile(path)
		found[strings.TrimPrefix(path, root+"/")] = string(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

var link = regexp.MustCompile(`\]\(([^)\s#]+)(#[^)\s]*)?\)`)

func TestLinksResolve(t *testing.T) {
	for name, content := range documents(t) {
		for _, match := range link.FindAllStringSubmatch(content, -1) {
			if strings.Contains(match[1], "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(root, filepath.Dir(name), match[1])); err != nil {
				t.Errorf("%s links to %s, which is not there", name, match[1])
			}
		}
	}
}

var makeCommand = regexp.MustCompile("(?m)(?:^|`)make ([a-z][a-z-]*)")

func TestMakeTargetsExist(t *testing.T) {
	makefile := read(t, "Makefile")
	for name, content := range documents(t) {
		for _, match := range makeCommand.FindAllStringSubmatch(content, -1) {
			if !regexp.MustCompile(`(?m)^` + match[1] + `:`).MatchString(makefile) {
				t.Errorf("%s tells of `make %s`, which the Makefile does not have", name, match[1])
			}
		}
	}
}

var codePath = regexp.MustCompile("`((?:api|cmd|config|controllers|docs|examples|hack|internal|test)(?:/[A-Za-z0-9_./-]+)?)`")

func TestPathsExist(t *testing.T) {
	for _, name := range []string{"README.md", "CONTRIBUTING.md"} {
		for _, match := range codePath.FindAllStringSubmatch(read(t, name), -1) {
			if _, err := os.Stat(filepath.Join(root, match[1])); err != nil {
				t.Errorf("%s names the path %s, which is not there", name, match[1])
			}
		}
	}
}

var yamlBlock = regexp.MustCompile("(?s)```yaml\n(.*?)```")

// TestManifestsAreValid reads every example of our kinds strictly: a field that
// is not there is an error.
func TestManifestsAreValid(t *testing.T) {
	examples := 0
	for name, content := range documents(t) {
		for _, block := range yamlBlock.FindAllStringSubmatch(content, -1) {
			for _, manifest := range strings.Split(block[1], "\n---\n") {
				known, err := decodeManifest([]byte(manifest))
				if err != nil {
					t.Errorf("%s: %v in\n%s", name, err, manifest)
				}
				if known {
					examples++
				}
			}
		}
	}
	if examples == 0 {
		t.Error("the documents show no example of our kinds")
	}
}

// decodeManifest reads a manifest and reports whether it is of one of our kinds.
func decodeManifest(manifest []byte) (known bool, err error) {
	var head struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
	}
	if err := yaml.Unmarshal(manifest, &head); err != nil {
		return false, err
	}
	if head.APIVersion != dgmv1alpha1.GroupVersion.String() {
		return false, nil
	}
	switch head.Kind {
	case "ImprovementWorkspace":
		return true, yaml.UnmarshalStrict(manifest, &dgmv1alpha1.ImprovementWorkspace{})
	case "BanditPolicy":
		return true, yaml.UnmarshalStrict(manifest, &dgmv1alpha1.BanditPolicy{})
	case "SystemConfiguration":
		return true, yaml.UnmarshalStrict(manifest, &dgmv1alpha1.SystemConfiguration{})
	default:
		return false, fmt.Errorf("there is no kind %s", head.Kind)
	}
}

var (
	mermaidBlock = regexp.MustCompile("(?s)```mermaid\nstateDiagram-v2\n(.*?)```")
	transition   = regexp.MustCompile(`^    (\[\*\]|[A-Za-z]+) --> ([A-Za-z]+)(: [^:;]+)?$`)
)

// TestDiagramShowsTheTransitions holds the diagram to the phases and transitions
// of the code.
func TestDiagramShowsTheTransitions(t *testing.T) {
	block := mermaidBlock.FindStringSubmatch(read(t, "docs/lifecycle.md"))
	if block == nil {
		t.Fatal("docs/lifecycle.md has no mermaid state diagram")
	}
	var shown []string
	for _, line := range strings.Split(strings.TrimRight(block[1], "\n"), "\n") {
		match := transition.FindStringSubmatch(line)
		if match == nil {
			t.Errorf("not a transition: %q", line)
			continue
		}
		shown = append(shown, match[1]+" --> "+match[2])
	}
	var known []string
	for from, following := range lifecycle.Transitions {
		for _, to := range following {
			known = append(known, cmp.Or(string(from), "[*]")+" --> "+string(to))
		}
	}
	slices.Sort(shown)
	slices.Sort(known)
	if diff := gocmp.Diff(known, shown); diff != "" {
		t.Errorf("the diagram in docs/lifecycle.md is not what internal/lifecycle does (-code +diagram):\n%s", diff)
	}
}

// inWords are the transitions that the picture tells of in words: the next
// attempt, an object that is adopted, a namespace that is being deleted.
func inWords(from, to dgmv1alpha1.Phase) bool {
	return (from.IsTerminal() && to == dgmv1alpha1.PhasePending) || (from == "" && to != dgmv1alpha1.PhasePending) ||
		(from.MayHaveApplied() && to == dgmv1alpha1.PhaseFailed)
}

func TestPictureShowsThePhases(t *testing.T) {
	var texts, drawn, known []string
	for from, following := range lifecycle.Transitions {
		for _, to := range following {
			if !inWords(from, to) {
				known = append(known, cmp.Or(string(from), "created")+"-"+string(to))
			}
		}
	}
	decoder := xml.NewDecoder(strings.NewReader(read(t, "docs/images/lifecycle.svg")))
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("docs/images/lifecycle.svg: %v", err)
		}
		if path, ok := token.(xml.StartElement); ok && path.Name.Local == "path" {
			for _, attribute := range path.Attr {
				if attribute.Name.Local == "id" {
					drawn = append(drawn, attribute.Value)
				}
			}
		}
		if data, ok := token.(xml.CharData); ok {
			texts = append(texts, strings.TrimSpace(string(data)))
		}
	}
	for _, phase := range phases {
		if !slices.Contains(texts, phase) {
			t.Errorf("docs/images/lifecycle.svg does not show %s", phase)
		}
	}
	slices.Sort(drawn)
	slices.Sort(known)
	if diff := gocmp.Diff(known, drawn); diff != "" {
		t.Errorf("the arrows of docs/images/lifecycle.svg, by their ids, are not what internal/lifecycle does (-code +picture):\n%s", diff)
	}
}

// TestDecisionsAreListed holds the index of decisions to the records.
func TestDecisionsAreListed(t *testing.T) {
	index := read(t, "docs/adr/README.md")
	records, err := filepath.Glob("adr/[0-9][0-9][0-9][0-9]-*.md")
	if err != nil || len(records) == 0 {
		t.Fatalf("no records in docs/adr: %v", err)
	}
	for _, record := range records {
		name := filepath.Base(record)
		content := read(t, "docs/"+record)
		if !strings.Contains(index, "("+name+")") {
			t.Errorf("docs/adr/README.md does not list %s", name)
		}
		if !strings.HasPrefix(content, "# "+name[:4]+". ") {
			t.Errorf("docs/adr/%s does not begin with its number and title", name)
		}
		if name[:4] != "0000" && !regexp.MustCompile(`(?m)^Date: \d{4}-\d{2}-\d{2}\. Status: (accepted|proposed|replaced by \d{4})\.$`).MatchString(content) {
			t.Errorf("docs/adr/%s does not say its date and status", name)
		}
	}
}

// TestNamesInDocumentsAreOurs holds the annotations, labels and reasons that the
// documents name to the constants of the API.
func TestNamesInDocumentsAreOurs(t *testing.T) {
	known := []string{
		dgmv1alpha1.AnnotationRollback, dgmv1alpha1.AnnotationAbort, dgmv1alpha1.AnnotationRetry,
		dgmv1alpha1.AnnotationRollback + dgmv1alpha1.AnnotationReasonSuffix,
		dgmv1alpha1.AnnotationAbort + dgmv1alpha1.AnnotationReasonSuffix,
		dgmv1alpha1.AnnotationRetry + dgmv1alpha1.AnnotationReasonSuffix,
		dgmv1alpha1.AnnotationKeep, dgmv1alpha1.AnnotationKeptBy, dgmv1alpha1.AnnotationKeep + dgmv1alpha1.AnnotationReasonSuffix,
		dgmv1alpha1.LabelFreeze, dgmv1alpha1.AnnotationCreatedBy, dgmv1alpha1.AnnotationApprove, dgmv1alpha1.AnnotationApprovedBy,
		dgmv1alpha1.LabelImprovement, dgmv1alpha1.Finalizer, dgmv1alpha1.LabelSandbox, dgmv1alpha1.LabelTest,
		dgmv1alpha1.AnnotationRestartedFor, dgmv1alpha1.GroupVersion.String(),
	}
	name := regexp.MustCompile(dgmv1alpha1.GroupVersion.Group + `/[a-z][a-z0-9-]*`)
	for document, content := range documents(t) {
		for _, match := range name.FindAllString(content, -1) {
			if !slices.Contains(known, strings.TrimSuffix(match, "-")) { // kubectl takes it off so
				t.Errorf("%s names %s, which the API does not know", document, match)
			}
		}
	}
}
