// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"errors"
	"fmt"
	"io"
	"strings"

	yamlv3 "go.yaml.in/yaml/v3"
	"sigs.k8s.io/yaml"
)

// maxExpandedPatch bounds, in bytes, a patch with its YAML aliases written out.
// A plan may hold less than that; some hundred kilobytes of aliases stand for
// gigabytes, which would end the operator for every tenant.
const maxExpandedPatch = 1 << 20

// decodePatch turns the text of a patch, YAML or JSON, into JSON.
func decodePatch(text string) ([]byte, error) {
	decoder := yamlv3.NewDecoder(strings.NewReader(text))
	var document, more yamlv3.Node
	if err := decoder.Decode(&document); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if err := decoder.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, errors.New("it has several documents: make it one, or a change for each object")
	}
	if expandedSize(&document, map[*yamlv3.Node]int{}) > maxExpandedPatch {
		return nil, fmt.Errorf("with its aliases written out it is larger than %d bytes", maxExpandedPatch)
	}
	return yaml.YAMLToJSONStrict([]byte(text))
}

// expandedSize counts the bytes of a node's scalars with aliases written out; it
// stops counting above maxExpandedPatch. sizes holds what was counted already; an
// alias to what encloses it has no end, and is left to the decoder to refuse.
func expandedSize(node *yamlv3.Node, sizes map[*yamlv3.Node]int) int {
	if node.Kind == yamlv3.AliasNode {
		return expandedSize(node.Alias, sizes)
	}
	if size, counted := sizes[node]; counted {
		return size
	}
	sizes[node] = 0
	size := len(node.Value) + 1
	for _, child := range node.Content {
		size = min(size+expandedSize(child, sizes), maxExpandedPatch+1)
	}
	sizes[node] = size
	return size
}
