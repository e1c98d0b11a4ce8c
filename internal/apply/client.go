// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package apply

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

const (
	// requestTimeout bounds one request, with the admission webhooks that are asked about it. Watches are
	// bounded by their caller.
	requestTimeout = 30 * time.Second

	// FieldManager is the name under which we apply.
	FieldManager = "cluster-stack-operator"

	// OwnedLabel with OwnedValue marks each object of a cluster stack.
	OwnedLabel = "clusterstack.x-k8s.io/instance"
	// OwnedValue is the value of [OwnedLabel].
	OwnedValue = "owned"
)

// Options of an [Applier]. The zero value works.
type Options struct {
	// FieldManager is the name under which objects are applied, by default [FieldManager].
	FieldManager string
	// Concurrency is how many objects of a wave are sent at a time, by default 8.
	Concurrency int
	// Timeout bounds one request, by default 30 seconds.
	Timeout time.Duration
	// Patience is how long one call waits for the Job or Pod of a hook. Then it answers with a
	// [*WaitingError], and the next call goes on. By default it waits until its context ends.
	Patience time.Duration
	// Allow, if set, is asked for each object before the first request that
	// changes anything; one error refuses them all. The namespace is empty
	// for objects that have none.
	Allow func(gk schema.GroupKind, namespace string) error
	// Catalog, if set, is shared by Appliers of many clusters.
	Catalog *Catalog
}

// Applier applies and prunes objects in one cluster. It is meant to live as
// long as the connection, so that what the cluster serves is asked once. It is
// safe for concurrent use; an [Inventory] is not.
type Applier struct {
	manager     string
	concurrency int
	patience    time.Duration
	timeout     time.Duration
	allow       func(gk schema.GroupKind, namespace string) error

	client  rest.Interface
	dynamic dynamic.Interface
	mapper  *mapper
	written *written
}

// New returns an Applier for the cluster of config. It sends no request yet.
// Rate limits of config are kept, its timeout is not: each request has its own.
func New(config *rest.Config, opts Options) (*Applier, error) {
	config = dynamic.ConfigFor(config)
	config.Timeout = 0 // It would cut watches too.
	if config.WarningHandler == nil && config.WarningHandlerWithContext == nil {
		config.WarningHandler = rest.NoWarnings{} // They would fill the log of the operator with a chart's style.
	}
	httpClient, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", config.Host, err)
	}
	guarded := *httpClient
	guarded.Transport = Wary(cmp.Or(guarded.Transport, http.DefaultTransport))
	httpClient = &guarded
	client, err := rest.UnversionedRESTClientForConfigAndClient(unversioned(config), httpClient)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", config.Host, err)
	}
	a := &Applier{
		manager:     opts.FieldManager,
		concurrency: opts.Concurrency,
		patience:    opts.Patience,
		timeout:     cmp.Or(opts.Timeout, requestTimeout),
		allow:       opts.Allow,
		client:      client,
		dynamic:     dynamic.New(client),
		written:     &written{versions: map[schema.GroupVersionResource]uint64{}},
	}
	// Requests for what is served are bounded here: client-go's way of asking group by group takes no context.
	bounded := *httpClient
	bounded.Timeout = a.timeout
	asking, err := rest.UnversionedRESTClientForConfigAndClient(config, &bounded)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", config.Host, err)
	}
	a.mapper = &mapper{client: asking, catalog: cmp.Or(opts.Catalog, &Catalog{})}
	if a.manager == "" {
		a.manager = FieldManager
	}
	if a.concurrency <= 0 {
		a.concurrency = 8
	}
	return a, nil
}

// As returns an Applier for the same cluster, with the same connection, that
// applies as another manager. Two owners of one object have to be two managers:
// only then does the API server tell them apart. A name that is too long for the
// API server is cut, and made unique by a digest.
func (a *Applier) As(manager string) *Applier {
	const limit = 128
	if len(manager) > limit {
		sum := digest([]byte(manager))
		manager = manager[:limit-len(sum)-1] + "-" + sum
	}
	other := *a
	other.manager = manager
	return &other
}

// unversioned makes a client whose requests all name their path in full.
func unversioned(config *rest.Config) *rest.Config {
	config.GroupVersion = nil
	config.APIPath = "/"
	return config
}

// APIVersions returns what the cluster serves now, as charts ask for it: "apps/v1" and "apps/v1/Deployment".
// It is an error when an API group does not answer: a chart would render as if there were none, and what it then
// leaves out would be deleted.
func (a *Applier) APIVersions(ctx context.Context) ([]string, error) {
	_, generation, err := a.mapper.kinds(ctx)
	if err != nil {
		return nil, err
	}
	known, err := a.mapper.refresh(ctx, generation)
	if err != nil {
		return nil, err
	}
	if len(known.failed) > 0 {
		return nil, fmt.Errorf("the cluster does not say what it serves: the API groups %s do not answer; see their APIServices",
			strings.Join(slices.Sorted(maps.Keys(known.failed)), ", "))
	}
	return known.versions(), nil
}

// Get reads an object. A kind that the cluster does not serve, also because its
// definition is not there yet, gives an error for which [meta.IsNoMatchError]
// is true.
func (a *Applier) Get(ctx context.Context, gvk schema.GroupVersionKind, namespace, name string) (*unstructured.Unstructured, error) {
	known, generation, err := a.mapper.kinds(ctx)
	if err != nil {
		return nil, err
	}
	r, ok := known.lookup(gvk.GroupKind(), gvk.Version)
	if !ok || r.Version != gvk.Version {
		if known, err = a.mapper.refresh(ctx, generation); err != nil {
			return nil, err
		}
		if r, ok = known.lookup(gvk.GroupKind(), gvk.Version); !ok || r.Version != gvk.Version {
			return nil, &meta.NoKindMatchError{GroupKind: gvk.GroupKind(), SearchedVersions: []string{gvk.Version}}
		}
	}
	if r.namespaced && namespace == "" {
		return nil, apierrors.NewNotFound(r.GroupResource(), name)
	}
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	return a.at(r, namespace).Get(ctx, name, metav1.GetOptions{})
}

// at addresses the objects of a resource; the namespace of those that have none is ignored.
func (a *Applier) at(r resource, namespace string) dynamic.ResourceInterface {
	if !r.namespaced {
		return a.dynamic.Resource(r.GroupVersionResource)
	}
	return a.dynamic.Resource(r.GroupVersionResource).Namespace(namespace)
}

// path of a collection, or with a name of one object.
func path(r resource, namespace string, name ...string) []string {
	segments := []string{"apis", r.Group, r.Version}
	if r.Group == "" {
		segments = []string{"api", r.Version}
	}
	if r.namespaced && namespace != "" {
		segments = append(segments, "namespaces", namespace)
	}
	return append(append(segments, r.Resource), name...)
}

// Only metadata travels back: it has all that we record, and a cluster's
// Secrets never enter our memory.
const (
	acceptMetadata = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
	acceptList     = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
)

// answer is what the API server said about one object.
type answer struct {
	metav1.ObjectMeta
	created bool
}

func (a *Applier) do(ctx context.Context, request *rest.Request, secret bool) (answer, *RequestError) {
	bounded, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	var code int
	// Whether to try again, and when, is the caller's: a repeated request could
	// turn the 201 that makes an object ours into a 200.
	result := request.MaxRetries(0).SetHeader("Accept", acceptMetadata).Do(bounded).StatusCode(&code)
	if err := result.Error(); err != nil {
		return answer{}, requestError(ctx, err, secret)
	}
	body, err := result.Raw()
	if err != nil {
		return answer{}, requestError(ctx, err, secret)
	}
	var object metav1.PartialObjectMetadata
	if err := json.Unmarshal(body, &object); err != nil {
		return answer{}, &RequestError{Text: "the API server's answer is not an object"}
	}
	return answer{ObjectMeta: object.ObjectMeta, created: code == http.StatusCreated}, nil
}

// patch applies an object as our field manager.
func (a *Applier) patch(ctx context.Context, r resource, id ID, body []byte, force bool) (answer, *RequestError) {
	ans, failure := a.do(ctx, a.patchRequest(r, id, body, force), id.GroupKind() == secretKind)
	if failure == nil {
		a.written.note(r, ans.ResourceVersion)
	}
	return ans, failure
}

// written remembers the version of our last write to each resource. The cache of an
// API server may be behind it for a moment; what it then shows would look as if
// somebody had undone what we did.
type written struct {
	mu       sync.Mutex
	versions map[schema.GroupVersionResource]uint64
}

func (w *written) note(r resource, resourceVersion string) {
	version, err := strconv.ParseUint(resourceVersion, 10, 64)
	if err != nil {
		return // An API of its own counts in its own way.
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.versions[r.GroupVersionResource] = max(w.versions[r.GroupVersionResource], version)
}

// latest is what a list has to be as new as; "0" is anything that the cache has.
func (w *written) latest(r resource) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strconv.FormatUint(w.versions[r.GroupVersionResource], 10)
}

func (w *written) forget(r resource) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.versions, r.GroupVersionResource)
}

func (a *Applier) patchRequest(r resource, id ID, body []byte, force bool) *rest.Request {
	request := a.client.Patch(types.ApplyPatchType).
		AbsPath(path(r, id.Namespace, id.Name)...).
		Param("fieldManager", a.manager).
		Body(body)
	if force {
		request = request.Param("force", "true")
	}
	return request
}

// head reads the metadata of an object.
func (a *Applier) head(ctx context.Context, r resource, id ID) (answer, *RequestError) {
	return a.do(ctx, a.client.Get().AbsPath(path(r, id.Namespace, id.Name)...), false)
}

// remove deletes an object if it still has the UID; its dependents go after it.
func (a *Applier) remove(ctx context.Context, r resource, id ID, uid types.UID) *RequestError {
	return a.removeWith(ctx, r, id, uid, metav1.DeletePropagationBackground)
}

func (a *Applier) removeWith(ctx context.Context, r resource, id ID, uid types.UID, dependents metav1.DeletionPropagation) *RequestError {
	body, err := json.Marshal(metav1.DeleteOptions{
		TypeMeta:          metav1.TypeMeta{APIVersion: "v1", Kind: "DeleteOptions"},
		Preconditions:     &metav1.Preconditions{UID: &uid},
		PropagationPolicy: &dependents,
	})
	if err != nil {
		return &RequestError{Text: err.Error()}
	}
	bounded, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	request := a.client.Delete().AbsPath(path(r, id.Namespace, id.Name)...).SetHeader("Content-Type", "application/json").Body(body)
	if err := request.MaxRetries(0).Do(bounded).Error(); err != nil {
		return requestError(ctx, err, id.GroupKind() == secretKind)
	}
	return nil
}

// list reads the metadata of objects, page by page.
func (a *Applier) list(ctx context.Context, r resource, namespace string, opts metav1.ListOptions, each func(*metav1.PartialObjectMetadata) (more bool)) *RequestError {
	for {
		page, err := a.page(ctx, r, namespace, opts)
		if err != nil {
			return err
		}
		for i := range page.Items {
			if !each(&page.Items[i]) {
				return nil
			}
		}
		if page.Continue == "" {
			return nil
		}
		opts.Continue, opts.ResourceVersion = page.Continue, ""
	}
}

func (a *Applier) page(ctx context.Context, r resource, namespace string, opts metav1.ListOptions) (*metav1.PartialObjectMetadataList, *RequestError) {
	bounded, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	request := a.client.Get().AbsPath(path(r, namespace)...).SetHeader("Accept", acceptList).
		VersionedParams(&opts, metav1.ParameterCodec).MaxRetries(0)
	result := request.Do(bounded)
	if err := result.Error(); err != nil {
		return nil, requestError(ctx, err, false)
	}
	body, err := result.Raw()
	if err != nil {
		return nil, requestError(ctx, err, false)
	}
	var page metav1.PartialObjectMetadataList
	if err := json.Unmarshal(body, &page); err != nil {
		return nil, &RequestError{Text: "the API server's answer is not a list"}
	}
	return &page, nil
}

// errGone tells a waiter that its object was deleted.
var errGone = errors.New("it was deleted meanwhile")

// await watches one object until done answers true or an error. It begins with
// the state at resourceVersion, or with the present one if that is empty.
func (a *Applier) await(ctx context.Context, r resource, id ID, resourceVersion string, done func(*unstructured.Unstructured) (bool, error)) error {
	for {
		finished, err := a.watchOnce(ctx, r, id, resourceVersion, done)
		if finished || err != nil {
			return err
		}
		// The API server ends watches now and then. Where the last one stood may be
		// forgotten by now, and a deletion could be missed: look again from the start.
		if _, failure := a.head(ctx, r, id); failure != nil {
			if failure.notFound() {
				return errGone
			}
			return failure
		}
		resourceVersion = ""
	}
}

func (a *Applier) watchOnce(ctx context.Context, r resource, id ID, resourceVersion string, done func(*unstructured.Unstructured) (bool, error)) (bool, error) {
	w, err := a.at(r, id.Namespace).Watch(ctx, metav1.ListOptions{
		FieldSelector:   fields.OneTermEqualSelector(metav1.ObjectNameField, id.Name).String(),
		ResourceVersion: resourceVersion,
	})
	if err != nil {
		return false, requestError(ctx, err, false)
	}
	defer w.Stop()
	for event := range w.ResultChan() {
		obj, ok := event.Object.(*unstructured.Unstructured)
		switch {
		case event.Type == watch.Error:
			return false, nil
		case !ok || event.Type == watch.Bookmark:
		case event.Type == watch.Deleted:
			return false, errGone
		default:
			if finished, err := done(obj); finished || err != nil {
				return finished, err
			}
		}
	}
	if err := ctx.Err(); err != nil {
		return false, &RequestError{Text: "the wait ended before it was ready", cause: err}
	}
	return false, nil
}
