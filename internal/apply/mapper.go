// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package apply

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	apidiscovery "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"

	"github.com/clusterstacks/cluster-stack-operator/internal/panicked"
)

// resource is where the objects of a kind are found.
type resource struct {
	schema.GroupVersionResource
	namespaced bool
	verbs      []string
}

func (r resource) can(verb string) bool { return slices.Contains(r.verbs, verb) }

// kinds is what a cluster serves, as of one moment.
type kinds struct {
	// served has the versions of each kind, the preferred one first.
	served map[schema.GroupKind][]resource
	// failed are groups that could not be asked, by name: what they serve is unknown.
	failed map[string]bool
}

// lookup finds a kind, in the given version or, if that is empty or not served, the preferred one.
func (k *kinds) lookup(gk schema.GroupKind, version string) (resource, bool) {
	versions := k.served[gk]
	for _, r := range versions {
		if r.Version == version {
			return r, true
		}
	}
	if len(versions) == 0 {
		return resource{}, false
	}
	return versions[0], true
}

// kindsOf reads the discovery documents. Subresources are left out.
func kindsOf(groups []*metav1.APIGroup, lists map[schema.GroupVersion]*metav1.APIResourceList) map[schema.GroupKind][]resource {
	served := map[schema.GroupKind][]resource{}
	for _, group := range groups {
		versions := []string{group.PreferredVersion.Version}
		for _, v := range group.Versions {
			if v.Version != group.PreferredVersion.Version {
				versions = append(versions, v.Version)
			}
		}
		for _, version := range versions {
			gv := schema.GroupVersion{Group: group.Name, Version: version}
			list := lists[gv]
			if list == nil {
				continue
			}
			for _, r := range list.APIResources {
				if strings.Contains(r.Name, "/") {
					continue
				}
				gk := schema.GroupKind{Group: gv.Group, Kind: r.Kind}
				served[gk] = append(served[gk], resource{
					GroupVersionResource: gv.WithResource(r.Name), namespaced: r.Namespaced, verbs: r.Verbs,
				})
			}
		}
	}
	return served
}

// versions are what is served as charts ask for it: "apps/v1" and "apps/v1/Deployment". Sorted.
func (k *kinds) versions() []string {
	var all []string
	for kind, resources := range k.served {
		for _, r := range resources {
			version := r.GroupVersion().String()
			all = append(all, version, version+"/"+kind.Kind)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Catalog remembers what clusters serve by what they said about it, so that of many clusters with the same
// answer only the first is read, and all share what was read. The zero value is ready to use, by several goroutines.
type Catalog struct {
	mu    sync.Mutex
	known map[edition]*kinds
}

// edition identifies the two documents in which a cluster says what it serves.
type edition [2][sha256.Size]byte

// editions and maxEdition, in bytes, bound the memory of a Catalog. A fleet has a few answers: one for each version of
// Kubernetes with one set of definitions. A cluster has its own when it is so large, and whoever owns a cluster can have
// it give another one each time.
const (
	editions   = 32
	maxEdition = 1 << 20
)

func (c *Catalog) find(e edition) *kinds {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.known[e]
}

func (c *Catalog) enter(e edition, k *kinds) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known == nil || len(c.known) >= editions {
		c.known = map[edition]*kinds{} // Those who use one keep it.
	}
	c.known[e] = k
}

// mapper knows the kinds of one cluster. It asks when first needed and again
// only when told that something is missing, so that all users of the cluster
// share two requests.
type mapper struct {
	client  rest.Interface
	catalog *Catalog

	mu sync.Mutex
	// known is shared with others: nobody changes it.
	known *kinds
	// generation counts the questions, so that several users who miss
	// something at once ask once.
	generation int
}

// kinds returns what is known, and a number to pass to refresh.
func (m *mapper) kinds(ctx context.Context) (*kinds, int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.known == nil {
		if err := m.load(ctx); err != nil {
			return nil, 0, err
		}
	}
	return m.known, m.generation, nil
}

// refresh asks again, unless somebody did since the generation that missed something.
func (m *mapper) refresh(ctx context.Context, generation int) (*kinds, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.known == nil || m.generation == generation {
		if err := m.load(ctx); err != nil {
			return nil, err
		}
	}
	return m.known, nil
}

func (m *mapper) load(ctx context.Context) error {
	known, err := m.discover(ctx)
	if err != nil {
		return fmt.Errorf("ask for the kinds that the cluster serves: %w", requestError(ctx, err, false))
	}
	m.known = known
	m.generation++
	return nil
}

// accept asks for everything in one document; a server that does not know that
// form answers in the older one.
const accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"

func (m *mapper) discover(ctx context.Context) (*kinds, error) {
	var documents [2][]byte
	var e edition
	for i, path := range []string{"/api", "/apis"} {
		document, aggregated, err := m.document(ctx, path)
		if err != nil {
			return nil, err
		}
		if !aggregated {
			return m.discoverByGroup(ctx)
		}
		documents[i], e[i] = document, sha256.Sum256(document)
	}
	if known := m.catalog.find(e); known != nil {
		return known, nil
	}
	if len(documents[0])+len(documents[1]) > maxDiscovery {
		return nil, errTooManyKinds
	}
	known := &kinds{served: map[schema.GroupKind][]resource{}, failed: map[string]bool{}}
	for _, document := range documents {
		if err := known.read(document); err != nil {
			return nil, err
		}
	}
	if len(documents[0])+len(documents[1]) <= maxEdition {
		m.catalog.enter(e, known)
	}
	return known, nil
}

// read adds what a document says.
func (k *kinds) read(document []byte) error {
	var list apidiscovery.APIGroupDiscoveryList
	if err := json.Unmarshal(document, &list); err != nil {
		return err
	}
	groups, lists, failed := discovery.SplitGroupsAndResources(list)
	pointers := make([]*metav1.APIGroup, len(groups.Groups))
	for i := range groups.Groups {
		pointers[i] = &groups.Groups[i]
	}
	for gk, resources := range kindsOf(pointers, lists) {
		k.served[gk] = append(k.served[gk], resources...)
	}
	for gv := range failed {
		k.failed[gv.Group] = true
	}
	return nil
}

// document asks for everything below a path, and tells whether the answer has all of it.
func (m *mapper) document(ctx context.Context, path string) (document []byte, aggregated bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var contentType string
	result := m.client.Get().AbsPath(path).SetHeader("Accept", accept).Do(ctx).ContentType(&contentType)
	if err := result.Error(); err != nil {
		return nil, false, err
	}
	v2 := apidiscovery.SchemeGroupVersion.WithKind("APIGroupDiscoveryList")
	if is, err := discovery.ContentTypeIsGVK(contentType, v2); err != nil || !is {
		return nil, false, err
	}
	document, err = result.Raw()
	return document, err == nil, err
}

const (
	// discoveries is how many versions are asked about at a time.
	discoveries = 8
	// maxVersions and maxDiscovery, in bytes, bound what a cluster may say that it serves, which is kept as long as it is
	// connected. With ten thousand CustomResourceDefinitions it says half as much.
	maxVersions  = 5000
	maxDiscovery = 8 << 20
)

var errTooManyKinds = fmt.Errorf("it says that it serves more than %d versions of API groups, or what it says takes more than %d MiB; "+
	"remove CustomResourceDefinitions or APIServices that are not needed", maxVersions, maxDiscovery>>20)

// discoverByGroup asks version by version, as servers and proxies need that do
// not know the aggregated form.
func (m *mapper) discoverByGroup(ctx context.Context) (*kinds, error) {
	var core metav1.APIVersions
	var named metav1.APIGroupList
	var total atomic.Int64 // bytes
	if err := m.read(ctx, "/api", &core, &total); err != nil {
		return nil, err
	}
	if err := m.read(ctx, "/apis", &named, &total); err != nil {
		return nil, err
	}
	groups := []*metav1.APIGroup{{}}
	for _, version := range core.Versions {
		groups[0].Versions = append(groups[0].Versions, metav1.GroupVersionForDiscovery{GroupVersion: version, Version: version})
	}
	if len(core.Versions) > 0 {
		groups[0].PreferredVersion = groups[0].Versions[0]
	}
	for i := range named.Groups {
		groups = append(groups, &named.Groups[i])
	}

	count := 0
	for _, group := range groups {
		count += len(group.Versions)
	}
	if count > maxVersions {
		return nil, errTooManyKinds
	}

	var mu sync.Mutex
	lists, failed := map[schema.GroupVersion]*metav1.APIResourceList{}, map[string]bool{}
	var defect *panicked.Error
	asking := make(chan struct{}, discoveries)
	var wg sync.WaitGroup
	for _, group := range groups {
		for _, version := range group.Versions {
			gv := schema.GroupVersion{Group: group.Name, Version: version.Version}
			where := "/apis/" + gv.String()
			if gv.Group == "" {
				where = "/api/" + gv.Version
			}
			asking <- struct{}{}
			if total.Load() > maxDiscovery {
				wg.Wait()
				return nil, errTooManyKinds
			}
			wg.Go(func() {
				defer func() { <-asking }()
				list := &metav1.APIResourceList{}
				err := func() (err error) {
					defer panicked.Into(&err)
					return m.read(ctx, where, list, &total)
				}()
				mu.Lock()
				defer mu.Unlock()
				errors.As(err, &defect)
				if lists[gv] = list; err != nil {
					delete(lists, gv)
					failed[gv.Group] = true
				}
			})
		}
	}
	wg.Wait()
	if defect != nil {
		return nil, defect
	}
	if total.Load() > maxDiscovery {
		return nil, errTooManyKinds
	}
	// That there was no time to ask says nothing about what is served.
	return &kinds{served: kindsOf(groups, lists), failed: failed}, ctx.Err()
}

// read gets a document of the older form, unless those before were too much already, and adds its size to the total.
func (m *mapper) read(ctx context.Context, path string, into any, total *atomic.Int64) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	body, err := m.client.Get().AbsPath(path).SetHeader("Accept", "application/json").MaxRetries(0).Do(ctx).Raw()
	if err != nil {
		return err
	}
	if total.Add(int64(len(body))) > maxDiscovery {
		return errTooManyKinds
	}
	return json.Unmarshal(body, into)
}

// Watchable returns the names under which the cluster serves kinds, such as "deployments". Those that it does not serve in
// that version are left out, after it was asked again about them once, and those that cannot be watched.
func (a *Applier) Watchable(ctx context.Context, gvks []schema.GroupVersionKind) (map[schema.GroupVersionKind]string, error) {
	known, generation, err := a.mapper.kinds(ctx)
	if err != nil {
		return nil, err
	}
	watchable, complete := known.watchable(gvks)
	if !complete {
		if known, err = a.mapper.refresh(ctx, generation); err != nil {
			return nil, err
		}
		watchable, _ = known.watchable(gvks)
	}
	return watchable, nil
}

// watchable returns the names of resources by their kinds, and whether all kinds are served.
func (k *kinds) watchable(gvks []schema.GroupVersionKind) (watchable map[schema.GroupVersionKind]string, complete bool) {
	watchable, complete = map[schema.GroupVersionKind]string{}, true
	for _, gvk := range gvks {
		found, ok := k.lookup(gvk.GroupKind(), gvk.Version)
		switch {
		case !ok || found.Version != gvk.Version:
			complete = false
		case found.can("list") && found.can("watch"):
			watchable[gvk] = found.Resource
		}
	}
	return watchable, complete
}

// definedKinds reads what CustomResourceDefinitions among the objects will
// serve. Their instances can be addressed from it without asking the cluster,
// which takes a while to list a new kind.
func definedKinds(objects []*unstructured.Unstructured) map[schema.GroupKind][]resource {
	defined := map[schema.GroupKind][]resource{}
	for _, obj := range objects {
		if obj.GroupVersionKind().GroupKind() != crdKind {
			continue
		}
		group, _, _ := unstructured.NestedString(obj.Object, "spec", "group")
		kind, _, _ := unstructured.NestedString(obj.Object, "spec", "names", "kind")
		plural, _, _ := unstructured.NestedString(obj.Object, "spec", "names", "plural")
		scope, _, _ := unstructured.NestedString(obj.Object, "spec", "scope")
		versions, _, _ := unstructured.NestedSlice(obj.Object, "spec", "versions")
		gk := schema.GroupKind{Group: group, Kind: kind}
		for _, v := range versions {
			version, _ := v.(map[string]any)
			name, _, _ := unstructured.NestedString(version, "name")
			if served, _, _ := unstructured.NestedBool(version, "served"); !served || name == "" {
				continue
			}
			defined[gk] = append(defined[gk], resource{
				GroupVersionResource: schema.GroupVersionResource{Group: group, Version: name, Resource: plural},
				namespaced:           scope == "Namespaced",
				verbs:                []string{"get", "list", "watch", "patch", "delete"},
			})
		}
	}
	return defined
}
