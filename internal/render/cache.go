// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"container/list"
	"crypto/sha256"
	"encoding/json"
	"slices"
	"sync"
	"weak"

	"github.com/santhosh-tekuri/jsonschema/v6"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
)

// Cache renders, and remembers what it needs again: results, loaded charts and compiled schemas.
// It may be used by several goroutines, and by none of them twice is anything shared that can change.
type Cache struct {
	results *Results
	digests *Digests
	charts  *recent[Digest, *chart.Chart]
	schemas *recent[Digest, *jsonschema.Schema]
	apis    *recent[Digest, []string]
}

// Digest names a chart, or a render, by all that is in it.
type Digest [sha256.Size]byte

const (
	// rememberedCharts bounds the charts: all addons of the few releases that are in use at a time.
	rememberedCharts = 32
	// maxCharts and maxResults bound the memory for charts and results, in bytes, roughly. As a rule they take a
	// megabyte or less each; but a chart can be a hundred times as large. Results are asked for again while a stage is
	// waited for, so those of the clusters that are on their way are enough.
	maxCharts  = 64 << 20
	maxResults = 32 << 20
)

// NewCache returns a cache that remembers at most so many results.
func NewCache(results int) *Cache {
	return &Cache{
		results: NewResults(results),
		digests: NewDigests(),
		charts:  newRecent[Digest, *chart.Chart](rememberedCharts, maxCharts),
		schemas: newRecent[Digest, *jsonschema.Schema](rememberedCharts, maxCharts),
		apis:    newRecent[Digest, []string](rememberedCharts, maxCharts),
	}
}

// Class does what the function Class does.
func (c *Cache) Class(rel *release.Release, namespace string) (*Result, error) {
	return c.Render(ClassInput(rel, namespace))
}

// Addon does what the function Addon does.
func (c *Cache) Addon(rel *release.Release, addon string, facts Facts, recorded Record) (*Result, error) {
	in, err := AddonInput(rel, addon, facts, recorded)
	if err != nil {
		return nil, err
	}
	return c.Render(in)
}

// Render does what Input.Render does.
func (c *Cache) Render(in Input) (*Result, error) {
	key, known := c.Key(in)
	if known {
		if result, ok := c.results.Get(key); ok {
			return result, nil
		}
	}
	result, err := c.RenderAnew(in)
	if err == nil && known {
		c.results.Put(key, result)
	}
	return result, err
}

// RenderAnew does what Input.Render does, and remembers charts and schemas but no results.
func (c *Cache) RenderAnew(in Input) (*Result, error) { return in.renderWith(c) }

// Results are results of renders by their keys, the ones that were asked for last.
type Results struct {
	recent *recent[Digest, *Result]
}

// NewResults remembers at most so many.
func NewResults(limit int) *Results {
	return &Results{newRecent[Digest, *Result](limit, maxResults)}
}

// Get returns a copy of the result that was put under the key.
func (r *Results) Get(key Digest) (result *Result, found bool) {
	if result, found = r.recent.get(key); found {
		result = result.copy()
	}
	return result, found
}

// Put remembers a copy of a result. What has just been generated belongs to one cluster; remembered, it
// would be handed to the next one with the same input. Such a result is not taken.
func (r *Results) Put(key Digest, result *Result) {
	if !result.NewValues {
		r.recent.put(key, result.copy(), result.size())
	}
}

// Charts are charts by their digests, the ones that were asked for last.
type Charts struct {
	recent *recent[Digest, release.Chart]
}

// NewCharts knows no chart yet.
func NewCharts() *Charts {
	return &Charts{newRecent[Digest, release.Chart](rememberedCharts, maxCharts)}
}

// Get returns the chart with a digest.
func (c *Charts) Get(digest Digest) (files release.Chart, found bool) { return c.recent.get(digest) }

// Put remembers a chart, which nobody may change any more.
func (c *Charts) Put(digest Digest, files release.Chart) {
	c.recent.put(digest, files, sizeOf(files))
}

// Digests are those of charts, each computed once while the chart is in memory.
type Digests struct {
	recent *recent[chartKey, Digest]
}

// chartKey stands for the files of a chart, which nobody changes, without keeping them in memory.
type chartKey struct {
	first weak.Pointer[release.File]
	files int
}

// NewDigests knows no digest yet.
func NewDigests() *Digests {
	const many = 1024
	return &Digests{newRecent[chartKey, Digest](many, many)}
}

// Of returns the digest of a chart.
func (d *Digests) Of(files release.Chart) Digest {
	if len(files) == 0 {
		return Digest{}
	}
	key := chartKey{weak.Make(&files[0]), len(files)}
	known, ok := d.recent.get(key)
	if !ok {
		known = digestOf(files)
		d.recent.put(key, known, 1)
	}
	return known
}

// Key is the digest of all that the result of a render depends on. The facts count by the values that
// they make: most of them change all the time and mean nothing to the chart. There is no key where the
// values cannot be made, or are generated anew.
func (c *Cache) Key(in Input) (key Digest, known bool) {
	r := newRecorder(in.Addon, in.Recorded.of(in.Addon), nil)
	r.placeholders = in.Placeholders
	values, err := in.values(r)
	if err != nil || len(r.missed) > 0 {
		return Digest{}, false
	}
	charts := c.digests.Of(in.Chart)
	content, err := json.Marshal([]any{
		charts[:], c.neighbours(in.Neighbours, in.Folder), in.IncludeCRDs, in.ReleaseName, in.Namespace, in.Kubernetes, in.APIVersions,
		in.ValuesFile, values, in.Addon, r.recorded, in.Placeholders,
	})
	if err != nil {
		return Digest{}, false
	}
	return sha256.Sum256(content), true
}

// neighbours is the digest of several charts.
func (c *Cache) neighbours(charts []release.Chart, folder bool) Digest {
	all := sha256.New()
	if folder {
		all.Write([]byte{1})
	}
	for _, files := range charts {
		one := c.digests.Of(files)
		all.Write(one[:])
	}
	return Digest(all.Sum(nil))
}

func digestOf(files release.Chart) Digest {
	all := sha256.New()
	for _, f := range files {
		name, data := sha256.Sum256([]byte(f.Name)), sha256.Sum256(f.Data)
		all.Write(name[:])
		all.Write(data[:])
	}
	return Digest(all.Sum(nil))
}

func (r *Result) copy() *Result {
	copied := *r
	copied.Objects = slices.Clone(r.Objects)
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
	key := c.digests.Of(files)
	if folder {
		key[0]++
	}
	loaded, ok := c.charts.get(key)
	if !ok {
		var err error
		if loaded, err = loadChart(files, folder); err != nil {
			return nil, err
		}
		c.charts.put(key, loaded, sizeOf(files))
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
		c.schemas.put(key, schema, len(text))
	}
	return schema, err
}

// apiVersions finds out what charts add to the API. A nil cache remembers nothing.
func (c *Cache) apiVersions(charts []release.Chart, folder bool) []string {
	if c == nil || len(charts) == 0 {
		return apiVersionsOf(charts, folder)
	}
	key := c.neighbours(charts, folder)
	versions, ok := c.apis.get(key)
	if !ok {
		versions = apiVersionsOf(charts, folder)
		c.apis.put(key, versions, len(versions))
	}
	return versions
}

func sizeOf(files release.Chart) int {
	size := 0
	for _, f := range files {
		size += len(f.Data)
	}
	return size
}

// size says roughly how much memory the result takes, in bytes.
func (r *Result) size() int {
	size := 0
	for _, object := range r.Objects {
		size += sizeInMemory(object.Object)
	}
	for _, hook := range r.Hooks {
		size += sizeInMemory(hook.Object.Object)
	}
	for key, value := range r.Record {
		size += len(key) + len(value)
	}
	return size
}

// sizeInMemory counts what values hold and what it costs to hold them in maps and lists of anything.
func sizeInMemory(value any) int {
	const inMap, inList, header = 64, 16, 48
	switch value := value.(type) {
	case map[string]any:
		size := header
		for key, v := range value {
			size += inMap + len(key) + sizeInMemory(v)
		}
		return size
	case []any:
		size := header
		for _, v := range value {
			size += inList + sizeInMemory(v)
		}
		return size
	case string:
		return inList + len(value)
	default:
		return inList
	}
}

// recent is a map of bounded size that forgets what was not asked for the longest.
type recent[K comparable, V any] struct {
	limit   int // of entries
	bytes   int // that all entries together may take
	mu      sync.Mutex
	size    int
	entries map[K]*list.Element
	order   *list.List // of item[K, V], the latest first
}

type item[K comparable, V any] struct {
	key   K
	value V
	size  int
}

func newRecent[K comparable, V any](limit, bytes int) *recent[K, V] {
	return &recent[K, V]{limit: limit, bytes: bytes, entries: map[K]*list.Element{}, order: list.New()}
}

func (r *recent[K, V]) get(key K) (value V, found bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	element, found := r.entries[key]
	if !found {
		return value, false
	}
	r.order.MoveToFront(element)
	entry, _ := element.Value.(item[K, V])
	return entry.value, true
}

// put remembers a value that takes so many bytes.
func (r *recent[K, V]) put(key K, value V, size int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if element, found := r.entries[key]; found {
		r.forget(element)
	}
	r.entries[key] = r.order.PushFront(item[K, V]{key, value, size})
	r.size += size
	for r.order.Len() > r.limit || r.size > r.bytes {
		r.forget(r.order.Back())
	}
}

func (r *recent[K, V]) forget(element *list.Element) {
	entry, _ := r.order.Remove(element).(item[K, V])
	delete(r.entries, entry.key)
	r.size -= entry.size
}
