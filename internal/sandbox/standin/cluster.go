// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package standin

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/endpoints/request"
)

// Cluster is the stand-in of one cluster.
type Cluster struct {
	server  *Server
	builtin *builtins
	name    string
	version string

	// ended is closed when the stand-in is removed.
	ended chan struct{}

	probes, reads, writes, watches atomic.Int64

	mu   sync.Mutex
	docs *documents
	// defined are the kinds of definitions, by the names of these.
	defined map[string]*definition
	// objects are at rest as JSON, which takes the least memory. Its bytes never change.
	objects map[schema.GroupResource]map[string][]byte
	last    uint64 // the newest resource version
	// history has the newest events; watches begin there.
	history []event
	// forgotten is the newest resource version that the history does not have any more.
	forgotten uint64
	changed   chan struct{} // closed and replaced at each change
}

// event is one change of an object. Before and after are nil when it was created and deleted.
type event struct {
	resource        schema.GroupResource
	key             string
	resourceVersion uint64
	before, after   []byte
	// last is the state in which the object was deleted, with the resource version of that.
	last []byte
}

// historyLength is how many events are kept for watches that come back. Who is further behind lists anew.
const historyLength = 100

func newCluster(s *Server, name, version string) (*Cluster, error) {
	b, err := builtin()
	if err != nil {
		return nil, err
	}
	docs, err := s.documentsFor(b, nil)
	if err != nil {
		return nil, err
	}
	c := &Cluster{
		server: s, builtin: b, name: name, version: version, docs: docs, ended: make(chan struct{}),
		defined: map[string]*definition{}, objects: map[schema.GroupResource]map[string][]byte{}, changed: make(chan struct{}),
	}
	namespaces := c.builtin.kinds[schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}]
	for _, ns := range []string{metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic, "kube-node-lease"} {
		object := &unstructured.Unstructured{Object: map[string]any{"metadata": map[string]any{"name": ns}}}
		if _, err := c.create(&call{kind: namespaces, name: ns, manager: "kube-apiserver"}, object); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (c *Cluster) close() { close(c.ended) }

// Name is the name of the cluster.
func (c *Cluster) Name() string { return c.name }

// Requests are how many requests have come to a cluster, whatever became of them.
type Requests struct {
	// Probes asked only whether the cluster is there, as Cluster API and the operator do from time to time.
	Probes int
	// Reads asked for objects, or for what the cluster is and serves.
	Reads int
	// Writes were to change something.
	Writes int
	// Watches are those that were begun.
	Watches int
}

// Requests are those so far.
func (c *Cluster) Requests() Requests {
	return Requests{Probes: int(c.probes.Load()), Reads: int(c.reads.Load()), Writes: int(c.writes.Load()), Watches: int(c.watches.Load())}
}

// count counts a request.
func (c *Cluster) count(info *request.RequestInfo) {
	switch {
	case !info.IsResourceRequest && isProbe(info.Path):
		c.probes.Add(1)
	case !info.IsResourceRequest || info.Verb == "get" || info.Verb == "list":
		c.reads.Add(1)
	case info.Verb == "watch":
		c.watches.Add(1)
	default:
		c.writes.Add(1)
	}
}

// isProbe says whether a path tells no more than that the cluster is there.
func isProbe(path string) bool {
	switch path {
	case "/", "/healthz", "/livez", "/readyz", "/version":
		return true
	default:
		return false
	}
}

// kind finds what is served; it needs the lock.
func (c *Cluster) kind(of schema.GroupVersionResource) *kind {
	if k := c.builtin.kinds[of]; k != nil {
		return k
	}
	for _, d := range c.defined {
		for _, k := range d.kinds {
			if k.resource() == of {
				return k
			}
		}
	}
	return nil
}

func key(namespace, name string) string { return namespace + "/" + name }

// load reads an object, nil if there is none. It needs the lock.
func (c *Cluster) load(k *kind, namespace, name string) (*unstructured.Unstructured, error) {
	found := c.objects[k.groupResource()][key(namespace, name)]
	if found == nil {
		return nil, nil
	}
	object, err := decode(found)
	if err != nil {
		return nil, err
	}
	object.SetGroupVersionKind(k.GroupVersionKind)
	return object, nil
}

// decode reads JSON with integers as integers.
func decode(raw []byte) (*unstructured.Unstructured, error) {
	object := &unstructured.Unstructured{}
	if err := utiljson.Unmarshal(raw, &object.Object); err != nil {
		return nil, err
	}
	return object, nil
}

// save keeps an object, or with nil forgets it, and tells the watches. It gives the object its resource version, and
// needs the lock.
func (c *Cluster) save(k *kind, namespace, name string, object *unstructured.Unstructured, gone *unstructured.Unstructured) error {
	c.last++
	e := event{resource: k.groupResource(), key: key(namespace, name), resourceVersion: c.last}
	of := c.objects[e.resource]
	if of == nil {
		of = map[string][]byte{}
		c.objects[e.resource] = of
	}
	e.before = of[e.key]
	state := object
	if state == nil {
		state = gone
	}
	state.SetResourceVersion(strconv.FormatUint(c.last, 10))
	raw, err := json.Marshal(state.Object)
	if err != nil {
		return err
	}
	if object == nil {
		delete(of, e.key)
		e.last = raw
	} else {
		e.after = raw
		of[e.key] = raw
	}
	if len(c.history) == historyLength {
		c.forgotten = c.history[0].resourceVersion
		c.history = append(c.history[:0], c.history[1:]...)
	}
	c.history = append(c.history, e)
	close(c.changed)
	c.changed = make(chan struct{})
	return nil
}

// selection says which objects of a kind are meant.
type selection struct {
	kind      *kind
	namespace string
	labels    labels.Selector
	fields    fields.Selector
}

// has says whether an object is meant.
func (s *selection) has(key string, raw []byte) bool {
	if s.namespace != "" && !strings.HasPrefix(key, s.namespace+"/") {
		return false
	}
	if s.labels.Empty() && s.fields.Empty() {
		return true
	}
	namespace, name, _ := strings.Cut(key, "/")
	object := &unstructured.Unstructured{}
	if !s.labels.Empty() || s.deepFields() {
		var err error
		if object, err = decode(raw); err != nil {
			return false
		}
	}
	if !s.labels.Matches(labels.Set(object.GetLabels())) {
		return false
	}
	if s.fields.Empty() {
		return true
	}
	found := fields.Set{"metadata.name": name, "metadata.namespace": namespace}
	for _, r := range s.fields.Requirements() {
		if _, known := found[r.Field]; !known {
			value, _, _ := unstructured.NestedFieldNoCopy(object.Object, strings.Split(r.Field, ".")...)
			if value != nil {
				found[r.Field] = fmt.Sprint(value)
			}
		}
	}
	return s.fields.Matches(found)
}

// deepFields says whether the selection asks for more than names.
func (s *selection) deepFields() bool {
	return slices.ContainsFunc(s.fields.Requirements(), func(r fields.Requirement) bool {
		return r.Field != "metadata.name" && r.Field != "metadata.namespace"
	})
}

// item is an object of a list.
type item struct {
	key  string
	json []byte
}

// list reads the objects of a selection in order, and how new it is.
func (c *Cluster) list(s *selection) (found []item, version uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	of := c.objects[s.kind.groupResource()]
	for _, key := range slices.Sorted(maps.Keys(of)) {
		if s.has(key, of[key]) {
			found = append(found, item{key, of[key]})
		}
	}
	return found, c.last
}

// change is an event as somebody sees it who watches a selection.
type change struct {
	kind watch.EventType
	json []byte
}

// since gives the changes of a selection after a resource version, the version to go on with, and what is closed when
// there is more. It is not ok when the history does not reach back so far.
func (c *Cluster) since(s *selection, version uint64) (changes []change, next uint64, more <-chan struct{}, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if version < c.forgotten || version > c.last {
		return nil, 0, nil, false
	}
	from, _ := slices.BinarySearchFunc(c.history, version+1, func(e event, v uint64) int { return int(int64(e.resourceVersion) - int64(v)) })
	for _, e := range c.history[from:] {
		if e.resource != s.kind.groupResource() {
			continue
		}
		was := e.before != nil && s.has(e.key, e.before)
		is := e.after != nil && s.has(e.key, e.after)
		switch {
		case is && was:
			changes = append(changes, change{watch.Modified, e.after})
		case is:
			changes = append(changes, change{watch.Added, e.after})
		case was && e.last != nil:
			changes = append(changes, change{watch.Deleted, e.last})
		case was:
			// It is there, but no longer meant: gone, for this watch, at this version.
			changes = append(changes, change{watch.Deleted, atVersion(e.before, e.resourceVersion)})
		}
	}
	return changes, c.last, c.changed, true
}

// atVersion is an object with another resource version.
func atVersion(raw []byte, version uint64) []byte {
	object, err := decode(raw)
	if err != nil {
		return raw
	}
	object.SetResourceVersion(strconv.FormatUint(version, 10))
	out, err := json.Marshal(object.Object)
	if err != nil {
		return raw
	}
	return out
}

// present is an object in the version that it was asked for, whole or only its metadata.
func present(raw []byte, k *kind, metadataOnly bool) []byte {
	if metadataOnly {
		var object struct {
			Metadata json.RawMessage `json:"metadata"`
		}
		if json.Unmarshal(raw, &object) != nil {
			return raw
		}
		return slices.Concat([]byte(`{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":`), object.Metadata, []byte("}"))
	}
	// The fields of what we keep are sorted, so the version comes first, or behind a few such as allowVolumeExpansion.
	version := []byte(`{"apiVersion":"` + k.GroupVersion().String() + `",`)
	if bytes.HasPrefix(raw, version) {
		return raw
	}
	object := map[string]json.RawMessage{}
	if json.Unmarshal(raw, &object) != nil {
		return raw
	}
	object["apiVersion"] = fmt.Appendf(nil, "%q", k.GroupVersion().String())
	out, err := json.Marshal(object)
	if err != nil {
		return raw
	}
	return out
}
