// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package foreignyaml reads YAML of whom nobody trusts, as sigs.k8s.io/yaml does.
//
// An alias repeats what its anchor names. Where all of it becomes JSON, a hundred kilobytes become gigabytes by that, and
// the limits of the parser, which count values and not their sizes, let it happen. So a document is measured first, and
// refused when its aliases add more to it than MaxRepeated.
package foreignyaml

import (
	"bytes"
	"fmt"

	node "go.yaml.in/yaml/v3"
	"sigs.k8s.io/yaml"
)

// MaxRepeated is how much the aliases of a document may add to it, in bytes.
const MaxRepeated = 1 << 20

// Unmarshal reads a document into a value by the tags for JSON of its type.
func Unmarshal(document []byte, into any) error {
	if err := check(document); err != nil {
		return err
	}
	return yaml.Unmarshal(document, into)
}

// YAMLToJSON returns a document as JSON.
func YAMLToJSON(document []byte) ([]byte, error) {
	if err := check(document); err != nil {
		return nil, err
	}
	return yaml.YAMLToJSON(document)
}

// YAMLToJSONStrict is YAMLToJSON that refuses keys that stand twice.
func YAMLToJSONStrict(document []byte) ([]byte, error) {
	if err := check(document); err != nil {
		return nil, err
	}
	return yaml.YAMLToJSONStrict(document)
}

// check reports a document whose aliases add too much.
func check(document []byte) error {
	if !bytes.ContainsRune(document, '*') {
		return nil // there is no alias
	}
	root := &node.Node{}
	if err := node.Unmarshal(document, root); err != nil {
		return err
	}
	m := measure{sizes: map[*node.Node]int{}}
	m.size(root)
	switch {
	case m.endless:
		return fmt.Errorf("an alias repeats what it stands in")
	case m.repeated > MaxRepeated:
		return fmt.Errorf("aliases repeat more than %d MiB", MaxRepeated>>20)
	}
	return nil
}

// measure measures a document as it is when each alias is what its anchor names.
type measure struct {
	sizes    map[*node.Node]int // of what aliases name, -1 while it is being measured
	repeated int
	endless  bool
}

// each is what a value costs besides its text.
const each = 16

func (m *measure) size(n *node.Node) int {
	if m.endless || m.repeated > MaxRepeated {
		return 0 // it is refused anyway
	}
	if n.Kind == node.AliasNode {
		size, measured := m.sizes[n.Alias]
		if size < 0 || !measured {
			m.endless = true // an anchor comes before its aliases
			return 0
		}
		m.repeated += size
		return size
	}
	if n.Anchor != "" {
		m.sizes[n] = -1
	}
	size := len(n.Value) + each
	for _, below := range n.Content {
		size += m.size(below)
	}
	if n.Anchor != "" {
		m.sizes[n] = size
	}
	return size
}
