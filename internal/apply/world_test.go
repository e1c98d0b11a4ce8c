// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package apply_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/clusterstacks/cluster-stack-operator/internal/apply"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
)

func TestMain(m *testing.M) { sandboxtest.Main(m) }

// objects reads manifests as a chart renders them: with our label, and $NS replaced.
func objects(t testing.TB, ns, manifests string) []*unstructured.Unstructured {
	t.Helper()
	var objs []*unstructured.Unstructured
	decoder := yaml.NewYAMLOrJSONDecoder(strings.NewReader(strings.ReplaceAll(manifests, "$NS", ns)), 4096)
	for {
		obj := &unstructured.Unstructured{}
		err := decoder.Decode(&obj.Object)
		if errors.Is(err, io.EOF) {
			return objs
		}
		if err != nil {
			t.Fatal(err)
		}
		if obj.Object == nil {
			continue
		}
		labels := obj.GetLabels()
		if labels == nil {
			labels = map[string]string{}
		}
		labels[apply.OwnedLabel] = apply.OwnedValue
		obj.SetLabels(labels)
		objs = append(objs, obj)
	}
}

func object(t testing.TB, ns, manifest string) *unstructured.Unstructured {
	t.Helper()
	objs := objects(t, ns, manifest)
	if len(objs) != 1 {
		t.Fatalf("%d objects in the manifest", len(objs))
	}
	return objs[0]
}

// world is an API server as somebody else than us sees it.
type world struct {
	t      testing.TB
	config *rest.Config
	client dynamic.Interface
}

func newWorld(t testing.TB, config *rest.Config) *world {
	t.Helper()
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return &world{t: t, config: config, client: client}
}

var plurals = map[string]schema.GroupVersionResource{
	"Namespace":                        {Version: "v1", Resource: "namespaces"},
	"ConfigMap":                        {Version: "v1", Resource: "configmaps"},
	"Secret":                           {Version: "v1", Resource: "secrets"},
	"Service":                          {Version: "v1", Resource: "services"},
	"ServiceAccount":                   {Version: "v1", Resource: "serviceaccounts"},
	"PersistentVolumeClaim":            {Version: "v1", Resource: "persistentvolumeclaims"},
	"Deployment":                       {Group: "apps", Version: "v1", Resource: "deployments"},
	"Job":                              {Group: "batch", Version: "v1", Resource: "jobs"},
	"CustomResourceDefinition":         {Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"},
	"DaemonSet":                        {Group: "apps", Version: "v1", Resource: "daemonsets"},
	"StatefulSet":                      {Group: "apps", Version: "v1", Resource: "statefulsets"},
	"StorageClass":                     {Group: "storage.k8s.io", Version: "v1", Resource: "storageclasses"},
	"PriorityClass":                    {Group: "scheduling.k8s.io", Version: "v1", Resource: "priorityclasses"},
	"RuntimeClass":                     {Group: "node.k8s.io", Version: "v1", Resource: "runtimeclasses"},
	"IngressClass":                     {Group: "networking.k8s.io", Version: "v1", Resource: "ingressclasses"},
	"ValidatingAdmissionPolicy":        {Group: "admissionregistration.k8s.io", Version: "v1", Resource: "validatingadmissionpolicies"},
	"ValidatingAdmissionPolicyBinding": {Group: "admissionregistration.k8s.io", Version: "v1", Resource: "validatingadmissionpolicybindings"},
	"APIService":                       {Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"},
}

func (w *world) in(obj *unstructured.Unstructured) dynamic.ResourceInterface {
	gvr, ok := plurals[obj.GetKind()]
	if !ok {
		gvk := obj.GroupVersionKind()
		gvr = gvk.GroupVersion().WithResource(strings.ToLower(gvk.Kind) + "s")
	}
	if obj.GetNamespace() == "" {
		return w.client.Resource(gvr)
	}
	return w.client.Resource(gvr).Namespace(obj.GetNamespace())
}

// namespace makes one for the test and returns its name.
func (w *world) namespace(prefix string) string {
	w.t.Helper()
	ns := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"generateName": prefix + "-"}}}
	made, err := w.in(ns).Create(w.t.Context(), ns, metav1.CreateOptions{FieldManager: "admin"})
	if err != nil {
		w.t.Fatal(err)
	}
	return made.GetName()
}

// create makes an object as somebody else.
func (w *world) create(manager string, obj *unstructured.Unstructured) *unstructured.Unstructured {
	w.t.Helper()
	made, err := w.in(obj).Create(w.t.Context(), obj, metav1.CreateOptions{FieldManager: manager})
	if err != nil {
		w.t.Fatal(err)
	}
	return made
}

// serverSideApply applies an object as somebody else, with force.
func (w *world) serverSideApply(manager string, obj *unstructured.Unstructured) *unstructured.Unstructured {
	w.t.Helper()
	made, err := w.in(obj).Apply(w.t.Context(), obj.GetName(), obj, metav1.ApplyOptions{FieldManager: manager, Force: true})
	if err != nil {
		w.t.Fatal(err)
	}
	return made
}

func (w *world) mergePatch(manager string, obj *unstructured.Unstructured, patch string, subresources ...string) {
	w.t.Helper()
	if _, err := w.in(obj).Patch(w.t.Context(), obj.GetName(), types.MergePatchType, []byte(patch), metav1.PatchOptions{FieldManager: manager}, subresources...); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) delete(obj *unstructured.Unstructured) {
	w.t.Helper()
	if err := w.in(obj).Delete(w.t.Context(), obj.GetName(), metav1.DeleteOptions{}); err != nil {
		w.t.Fatal(err)
	}
}

// get returns nil for what is not there.
func (w *world) get(obj *unstructured.Unstructured) *unstructured.Unstructured {
	w.t.Helper()
	live, err := w.in(obj).Get(w.t.Context(), obj.GetName(), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return live
}

func (w *world) mustGet(obj *unstructured.Unstructured) *unstructured.Unstructured {
	w.t.Helper()
	live := w.get(obj)
	if live == nil {
		w.t.Fatalf("%s %s/%s does not exist", obj.GetKind(), obj.GetNamespace(), obj.GetName())
	}
	return live
}

// applier is one life of the operator's process, with its own transport.
func (w *world) applier(transport *wire, opts apply.Options) *apply.Applier {
	w.t.Helper()
	config := rest.CopyConfig(w.config)
	if transport != nil {
		config.Wrap(func(next http.RoundTripper) http.RoundTripper {
			transport.next = next
			return transport
		})
	}
	a, err := apply.New(config, opts)
	if err != nil {
		w.t.Fatal(err)
	}
	return a
}

var errDead = errors.New("the process is dead")

// wire counts requests and can end the life of the process at one of them.
type wire struct {
	next http.RoundTripper

	mu       sync.Mutex
	requests []string
	changes  int
	dead     bool

	// killAt is the number of the changing request to die at, counted from 1; 0 is never.
	killAt int
	how    death
	// fail, if set, answers requests in place of the API server.
	fail func(*http.Request) *http.Response
}

type death string

const (
	beforeRequest death = "before the request"
	beforeAnswer  death = "before the answer"
	afterAnswer   death = "after the answer"
)

func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	change := r.Method != http.MethodGet
	w.mu.Lock()
	if w.dead {
		w.mu.Unlock()
		return nil, errDead
	}
	watch := r.URL.Query().Get("watch") != ""
	if !watch {
		w.requests = append(w.requests, r.Method+" "+r.URL.Path)
	}
	kill := w.dies(change)
	w.mu.Unlock()
	if kill && w.how == beforeRequest {
		return nil, errDead
	}
	if w.fail != nil {
		if resp := w.fail(r); resp != nil {
			return resp, nil
		}
	}
	resp, err := w.next.RoundTrip(r)
	if !kill || err != nil {
		return resp, err
	}
	// The API server has done it. Nothing that happens at the same time may get its answer first.
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	_ = resp.Body.Close()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dead = true
	if w.how == beforeAnswer {
		return nil, errDead
	}
	resp.Body = io.NopCloser(strings.NewReader(string(body)))
	return resp, nil
}

// dies counts a change and tells whether the life ends with it. The lock is held.
func (w *wire) dies(change bool) bool {
	if !change {
		return false
	}
	w.changes++
	kill := w.changes == w.killAt
	w.dead = w.dead || kill && w.how != afterAnswer
	return kill
}

// journal keeps bytes, as a ledger does. With a wire its writing is a change like
// a request, at which the process can die.
type journal struct {
	wire *wire

	mu    sync.Mutex
	data  []byte
	saves int
}

func (j *journal) Save(_ context.Context, inv *apply.Inventory) error {
	data, err := inv.Encode()
	if err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.wire == nil {
		j.data = data
		j.saves++
		return nil
	}
	j.wire.mu.Lock()
	defer j.wire.mu.Unlock()
	if j.wire.dead {
		return errDead
	}
	kill := j.wire.dies(true)
	if kill && j.wire.how == beforeRequest {
		return errDead
	}
	j.data = data
	j.saves++
	j.wire.dead = j.wire.dead || kill
	if kill && j.wire.how == beforeAnswer {
		return errDead
	}
	return nil
}

// load is what the next life of the process knows.
func (j *journal) load(t testing.TB) *apply.Inventory {
	t.Helper()
	inv, err := apply.DecodeInventory(j.data)
	if err != nil {
		t.Fatal(err)
	}
	return inv
}

// names prints what a report lists, for comparison.
func names(ids []apply.ID) []string {
	out := []string{}
	for _, id := range ids {
		out = append(out, id.String())
	}
	return out
}

func origins(inv *apply.Inventory) map[string]apply.Origin {
	out := map[string]apply.Origin{}
	for _, e := range inv.Entries() {
		out[e.String()] = e.Origin
	}
	return out
}

func nothing(apply.ID) bool { return false }

// crd defines a kind with a namespaced scope in group and plural.
func crd(group, kind string) string {
	plural := strings.ToLower(kind) + "s"
	return fmt.Sprintf(`
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: %[2]s.%[1]s}
spec:
  group: %[1]s
  scope: Namespaced
  names: {plural: %[2]s, singular: %[4]s, kind: %[3]s, listKind: %[3]sList}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties: {spec: {type: object, properties: {size: {type: integer, minimum: 1}}}}
`, group, plural, kind, strings.ToLower(kind))
}

// release fills in which release a chart is of.
func release(manifests, name string) string { return strings.ReplaceAll(manifests, "RELEASE", name) }
