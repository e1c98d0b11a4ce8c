// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"container/list"
	"crypto/sha256"
	"encoding/json"
	"slices"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
)

// Cache renders, and remembers what it needs again: results, loaded charts and compiled schemas.
// It may be used by several goroutines, and by none of them twice is anything shared that can change.
type Cache struct {
	results *recent[digest, *Result]
	charts  *recent[digest, *chart.Chart]
	schemas *recent[digest, *jsonschema.Schema]
	apis    *recent[apiKey, []string]
}

type digest = [sha256.Size]byte

type apiKey struct {
	release *release.Release
	except  string
}

// rememberedCharts bounds the charts, which take some megabytes each: all addons of the few releases
// that are in use at a time.
const rememberedCharts = 32

// NewCache returns a cache that remembers so many results.
func NewCache(results int) *Cache {
	return &Cache{
		results: newRecent[digest, *Result](results),
		charts:  newRecent[digest, *chart.Chart](rememberedCharts),
		schemas: newRecent[digest, *jsonschema.Schema](rememberedCharts),
		apis:    newRecent[apiKey, []string](rememberedCharts),
	}
}

// Class does what the function Class does.
func (c *Cache) Class(rel *release.Release, namespace string) (*Result, error) {
	return c.Render(ClassInput(rel, namespace))
}

// Addon does what the function Addon does.
func (c *Cache) Addon(rel *release.Release, addon string, facts Facts, recorded Record) (*Result, error) {
	in, err := addonInput(c, rel, addon, facts, recorded)
	if err != nil {
		return nil, err
	}
	return c.Render(in)
}

// Render does what Input.Render does.
func (c *Cache) Render(in Input) (*Result, error) {
	key, known := c.key(in)
	if known {
		if result, ok := c.results.get(key); ok {
			return result.copy(), nil
		}
	}
	result, err := in.renderWith(c)
	if err != nil {
		return nil, err
	}
	// What has just been generated belongs to one cluster. Remembered, it would be handed to the next
	// one with the same input.
	if known && !result.NewValues {
		c.results.put(key, result.copy())
	}
	return result, nil
}

// key is the digest of all that the result depends on. The facts count by the values that they make:
// most of them change all the time and mean nothing to the chart.
func (c *Cache) key(in Input) (digest, bool) {
	r := newRecorder(in.Addon, in.Recorded.of(in.Addon), nil)
	values, err := in.values(r)
	if err != nil || len(r.missed) > 0 {
		return digest{}, false
	}
	chartDigest := digestOf(in.Chart)
	content, err := json.Marshal([]any{
		chartDigest[:], in.Folder, in.IncludeCRDs, in.ReleaseName, in.Namespace, in.Kubernetes, in.APIVersions,
		in.ValuesFile, values, in.Addon, r.recorded,
	})
	if err != nil {
		return digest{}, false
	}
	return sha256.Sum256(content), true
}

func digestOf(files release.Chart) digest {
	all := sha256.New()
	for _, f := range files {
		name, data := sha256.Sum256([]byte(f.Name)), sha256.Sum256(f.Data)
		all.Write(name[:])
		all.Write(data[:])
	}
	return digest(all.Sum(nil))
}

func (r *Result) copy() *Result {
	copied := *r
	copied.Objects = make([]*unstructured.Unstructured, len(r.Objects))
	for i, object := range r.Objects {
		copied.Objects[i] = object.DeepCopy()
	}
	copied.Hooks = slices.Clone(r.Hooks)
	for i := range copied.Hooks {
		hook := &copied.Hooks[i]
		hook.Object = hook.Object.DeepCopy()
		hook.Events = slices.Clone(hook.Events)
		hook.DeletePolicies = slices.Clone(hook.DeletePolicies)
	}
	copied.Record, copied.Unused = r.Record.copy(), r.Unused.copy()
	return &copied
}

// chart loads a chart. The result belongs to the caller. A nil cache remembers nothing.
func (c *Cache) chart(files release.Chart, folder bool) (*chart.Chart, error) {
	if c == nil {
		return loadChart(files, folder)
	}
	key := digestOf(files)
	if folder {
		key[0]++
	}
	loaded, ok := c.charts.get(key)
	if !ok {
		var err error
		if loaded, err = loadChart(files, folder); err != nil {
			return nil, err
		}
		c.charts.put(key, loaded)
	}
	return copyChart(loaded), nil
}

// copyChart copies what Helm and templates change in a chart: its values, and what it says about its
// dependencies.
func copyChart(c *chart.Chart) *chart.Chart {
	copied := *c
	metadata := *c.Metadata
	metadata.Dependencies = slices.Clone(metadata.Dependencies)
	for i, d := range metadata.Dependencies {
		dependency := *d
		metadata.Dependencies[i] = &dependency
	}
	copied.Metadata = &metadata
	if c.Values != nil {
		copied.Values = runtime.DeepCopyJSON(c.Values)
	}
	copied.SetDependencies()
	for _, d := range c.Dependencies() {
		copied.AddDependency(copyChart(d))
	}
	return &copied
}

// schema compiles a schema. A nil cache remembers nothing.
func (c *Cache) schema(text []byte) (*jsonschema.Schema, error) {
	if c == nil {
		return compileSchema(text)
	}
	key := sha256.Sum256(text)
	if schema, ok := c.schemas.get(key); ok {
		return schema, nil
	}
	schema, err := compileSchema(text)
	if err == nil {
		c.schemas.put(key, schema)
	}
	return schema, err
}

// apiVersions finds out what other addons add to the API. A nil cache remembers nothing.
func (c *Cache) apiVersions(rel *release.Release, except string) ([]string, error) {
	if c == nil {
		return apiVersionsOf(rel, except)
	}
	key := apiKey{rel, except}
	if versions, ok := c.apis.get(key); ok {
		return versions, nil
	}
	versions, err := apiVersionsOf(rel, except)
	if err == nil {
		c.apis.put(key, versions)
	}
	return versions, err
}

// recent is a map of bounded size that forgets what was not asked for the longest.
type recent[K comparable, V any] struct {
	limit   int
	mu      sync.Mutex
	entries map[K]*list.Element
	order   *list.List // of pair[K, V], the latest first
}

type pair[K comparable, V any] struct {
	key   K
	value V
}

func newRecent[K comparable, V any](limit int) *recent[K, V] {
	return &recent[K, V]{limit: limit, entries: map[K]*list.Element{}, order: list.New()}
}

func (r *recent[K, V]) get(key K) (value V, found bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	element, found := r.entries[key]
	if !found {
		return value, false
	}
	r.order.MoveToFront(element)
	entry, _ := element.Value.(pair[K, V])
	return entry.value, true
}

func (r *recent[K, V]) put(key K, value V) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if element, found := r.entries[key]; found {
		element.Value = pair[K, V]{key, value}
		r.order.MoveToFront(element)
		return
	}
	r.entries[key] = r.order.PushFront(pair[K, V]{key, value})
	for r.order.Len() > r.limit {
		entry, _ := r.order.Remove(r.order.Back()).(pair[K, V])
		delete(r.entries, entry.key)
	}
}
