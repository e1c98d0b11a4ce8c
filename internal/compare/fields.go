// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package compare

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Field is a field of an object that changes.
type Field struct {
	// Path such as "spec.template.spec.containers[kindnet].image". Items of lists are named by what tells them apart, or
	// counted from 0.
	Path   string `json:"path"`
	Change Change `json:"change"`
	// Old and New are nil where there is no value, and in Secrets.
	Old any `json:"old,omitempty"`
	New any `json:"new,omitempty"`
	// Hidden says that the values may be secret.
	Hidden bool `json:"hidden,omitempty"`
	// VersionOnly says that only a name or a version of the release or its charts changes.
	VersionOnly bool `json:"versionOnly,omitempty"`
}

func (f *Field) hide() {
	if strings.HasPrefix(f.Path, "data") || strings.HasPrefix(f.Path, "stringData") {
		f.Old, f.New, f.Hidden = nil, nil, true
	}
}

// differences returns the fields in which two values differ.
func differences(old, next any) []Field {
	var d differ
	d.values("", old, next)
	return d.fields
}

type differ struct{ fields []Field }

func (d *differ) add(path string, change Change, old, next any) {
	d.fields = append(d.fields, Field{Path: path, Change: change, Old: old, New: next})
}

func (d *differ) values(path string, old, next any) {
	if reflect.DeepEqual(old, next) {
		return
	}
	switch a := old.(type) {
	case map[string]any:
		if b, is := next.(map[string]any); is {
			d.maps(path, a, b)
			return
		}
	case []any:
		if b, is := next.([]any); is {
			d.lists(path, a, b)
			return
		}
	}
	d.add(path, Changed, old, next)
}

func (d *differ) maps(path string, old, next map[string]any) {
	for _, key := range keysOf(old, next) {
		below := join(path, key)
		a, was := old[key]
		b, is := next[key]
		switch {
		case !was:
			d.add(below, Added, nil, b)
		case !is:
			d.add(below, Removed, a, nil)
		default:
			d.values(below, a, b)
		}
	}
}

func keysOf(all ...map[string]any) []string {
	var keys []string
	for _, m := range all {
		for key := range m {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

var plainKey = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

func join(path, key string) string {
	switch {
	case !plainKey.MatchString(key):
		return path + "[" + strconv.Quote(key) + "]"
	case path == "":
		return key
	}
	return path + "." + key
}

// tellingApart are the keys by which the items of a list are known, the best first.
var tellingApart = []string{"name", "class", "key", "mountPath", "containerPort", "port", "topologyKey", "hostname", "ip", "type", "path"}

func (d *differ) lists(path string, old, next []any) {
	if key := keyOf(old, next); key != "" {
		d.keyed(path, key, old, next)
		return
	}
	if sameItems(old, next) {
		d.add(path, Reordered, old, next)
		return
	}
	// What is in both keeps its order; what stands between is compared one by one.
	i, j := 0, 0
	for _, pair := range append(common(old, next), [2]int{len(old), len(next)}) {
		for i < pair[0] || j < pair[1] {
			switch {
			case i < pair[0] && j < pair[1]:
				d.values(fmt.Sprintf("%s[%d]", path, j), old[i], next[j])
				i, j = i+1, j+1
			case i < pair[0]:
				d.add(fmt.Sprintf("%s[%d]", path, i), Removed, old[i], nil)
				i++
			default:
				d.add(fmt.Sprintf("%s[%d]", path, j), Added, nil, next[j])
				j++
			}
		}
		i, j = pair[0]+1, pair[1]+1
	}
}

// keyOf returns the key that tells the items of both lists apart, empty if there is none.
func keyOf(lists ...[]any) string {
	for _, key := range tellingApart {
		if !slices.ContainsFunc(lists, func(list []any) bool { return !isKey(key, list) }) {
			return key
		}
	}
	return ""
}

func isKey(key string, list []any) bool {
	seen := map[string]bool{}
	for _, item := range list {
		m, _ := item.(map[string]any)
		value, has := m[key]
		text := fmt.Sprint(value)
		switch value.(type) {
		case map[string]any, []any, nil:
			return false
		}
		if !has || seen[text] {
			return false
		}
		seen[text] = true
	}
	return true
}

func (d *differ) keyed(path, key string, old, next []any) {
	nameOf := func(item any) string { return fmt.Sprint(item.(map[string]any)[key]) } //nolint:forcetypeassert // isKey has looked
	find := func(list []any, name string) any {
		i := slices.IndexFunc(list, func(item any) bool { return nameOf(item) == name })
		if i < 0 {
			return nil
		}
		return list[i]
	}
	var before, after []string
	for _, item := range old {
		name := nameOf(item)
		if other := find(next, name); other != nil {
			before = append(before, name)
			d.values(path+"["+name+"]", item, other)
		} else {
			d.add(path+"["+name+"]", Removed, item, nil)
		}
	}
	for _, item := range next {
		name := nameOf(item)
		if find(old, name) != nil {
			after = append(after, name)
		} else {
			d.add(path+"["+name+"]", Added, nil, item)
		}
	}
	if !slices.Equal(before, after) {
		d.add(path, Reordered, texts(before), texts(after))
	}
}

func texts(list []string) []any {
	all := make([]any, len(list))
	for i, s := range list {
		all[i] = s
	}
	return all
}

func sameItems(a, b []any) bool {
	left := slices.Clone(b)
	for _, item := range a {
		i := slices.IndexFunc(left, func(other any) bool { return reflect.DeepEqual(item, other) })
		if i < 0 {
			return false
		}
		left = slices.Delete(left, i, i+1)
	}
	return len(left) == 0
}

// maxCommon bounds the work for long lists: their items are then compared one by one.
const maxCommon = 2_000

// common returns the positions of a longest common subsequence.
func common[T any](a, b []T) [][2]int {
	if len(a) > maxCommon || len(b) > maxCommon {
		return nil
	}
	lengths := make([][]int, len(a)+1)
	for i := range lengths {
		lengths[i] = make([]int, len(b)+1)
	}
	equal := func(i, j int) bool { return reflect.DeepEqual(a[i], b[j]) }
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if equal(i, j) {
				lengths[i][j] = lengths[i+1][j+1] + 1
			} else {
				lengths[i][j] = max(lengths[i+1][j], lengths[i][j+1])
			}
		}
	}
	var pairs [][2]int
	for i, j := 0, 0; i < len(a) && j < len(b); {
		switch {
		case equal(i, j):
			pairs = append(pairs, [2]int{i, j})
			i, j = i+1, j+1
		case lengths[i+1][j] >= lengths[i][j+1]:
			i++
		default:
			j++
		}
	}
	return pairs
}
