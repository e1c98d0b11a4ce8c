// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package standin

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"time"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apimachinery/pkg/util/uuid"
)

// call is a request that changes one object.
type call struct {
	kind            *kind
	namespace, name string
	status          bool
	manager         string
	force, dryRun   bool
}

func (r *call) fields() *managedfields.FieldManager {
	if r.status {
		return r.kind.status
	}
	return r.kind.object
}

func (r *call) notFound() error { return apierrors.NewNotFound(r.kind.groupResource(), r.name) }

var namespaces = schema.GroupResource{Resource: "namespaces"}

// create makes an object.
func (c *Cluster) create(r *call, object *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if object.GetName() == "" && object.GetGenerateName() != "" {
		object.SetName(object.GetGenerateName() + rand.String(5))
	}
	r.name = object.GetName()
	if r.name == "" {
		return nil, apierrors.NewBadRequest("name or generateName is required")
	}
	if c.objects[r.kind.groupResource()][key(r.namespace, r.name)] != nil {
		return nil, apierrors.NewAlreadyExists(r.kind.groupResource(), r.name)
	}
	if object.GetResourceVersion() != "" {
		return nil, apierrors.NewBadRequest("resourceVersion should not be set on objects to be created")
	}
	object.SetManagedFields(nil)
	if err := c.place(r, object); err != nil {
		return nil, err
	}
	if r.kind.hasStatus {
		delete(object.Object, "status")
	}
	object, err := r.kind.tidy(object)
	if err != nil {
		return nil, err
	}
	return c.insert(r, object, func(empty, object *unstructured.Unstructured) (*unstructured.Unstructured, error) {
		return managed(r.fields().Update(empty, object, r.manager))
	})
}

// managed is what a keeper of managed fields answers.
func managed(object runtime.Object, err error) (*unstructured.Unstructured, error) {
	if err != nil {
		var status apierrors.APIStatus
		if errors.As(err, &status) {
			return nil, err
		}
		return nil, apierrors.NewInternalError(err)
	}
	return object.(*unstructured.Unstructured), nil
}

// insert stores an object that is not there yet. It needs the lock.
func (c *Cluster) insert(r *call, object *unstructured.Unstructured, manage func(empty, object *unstructured.Unstructured) (*unstructured.Unstructured, error)) (*unstructured.Unstructured, error) {
	if err := c.place(r, object); err != nil {
		return nil, err
	}
	empty, _ := emptyObjects{}.New(r.kind.GroupVersionKind) // it knows every kind
	object, err := manage(empty.(*unstructured.Unstructured), object)
	if err != nil {
		return nil, err
	}
	if r.kind.hasStatus {
		delete(object.Object, "status")
	}
	if object, err = r.kind.tidy(object); err != nil {
		return nil, err
	}
	object.SetUID(uuid.NewUUID())
	object.SetCreationTimestamp(metav1.Now())
	object.SetDeletionTimestamp(nil)
	if r.kind.counted {
		object.SetGeneration(1)
	}
	if r.kind.groupResource() == namespaces {
		beNamespace(object)
	}
	if r.dryRun {
		return object, nil
	}
	return object, c.store(r, object)
}

func (r *call) checkName(object *unstructured.Unstructured) error {
	if name := object.GetName(); name != "" && name != r.name {
		return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)", name, r.name))
	}
	return nil
}

// place sees to it that an object belongs where the request says.
func (c *Cluster) place(r *call, object *unstructured.Unstructured) error {
	if gvk := object.GroupVersionKind(); !gvk.Empty() && gvk != r.kind.GroupVersionKind {
		return apierrors.NewBadRequest(fmt.Sprintf("%s in the body does not match the %s of the request", gvk, r.kind.GroupVersionKind))
	}
	object.SetGroupVersionKind(r.kind.GroupVersionKind)
	if err := r.checkName(object); err != nil {
		return err
	}
	object.SetName(r.name)
	if !r.kind.namespaced {
		object.SetNamespace("")
		return nil
	}
	if ns := object.GetNamespace(); ns != "" && ns != r.namespace {
		return apierrors.NewBadRequest("the namespace of the provided object does not match the namespace sent on the request")
	}
	object.SetNamespace(r.namespace)
	if c.objects[namespaces][key("", r.namespace)] == nil {
		return apierrors.NewNotFound(namespaces, r.namespace)
	}
	return nil
}

// tidy brings an object into the form of its kind. Managed fields stay as they are.
func (k *kind) tidy(object *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	metadata, _ := object.Object["metadata"].(map[string]any)
	fields := metadata["managedFields"]
	delete(metadata, "managedFields")
	if k.Group == "" && k.Kind == "Secret" {
		if err := keepAsBytes(object.Object); err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
	}
	tidied, err := k.normalise(object.Object)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if fields != nil {
		tidied["metadata"].(map[string]any)["managedFields"] = fields
	}
	out := &unstructured.Unstructured{Object: tidied}
	out.SetGroupVersionKind(k.GroupVersionKind)
	return out, nil
}

// keepAsBytes moves what a Secret says in plain text to where it is kept.
func keepAsBytes(secret map[string]any) error {
	if secret["stringData"] == nil {
		return nil
	}
	typed := corev1.Secret{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(secret, &typed); err != nil {
		return err
	}
	delete(secret, "stringData")
	for name, text := range typed.StringData {
		if err := unstructured.SetNestedField(secret, encodeBytes(text), "data", name); err != nil {
			return err
		}
	}
	return nil
}

func beNamespace(ns *unstructured.Unstructured) {
	labels := ns.GetLabels()
	if labels == nil {
		labels = map[string]string{}
	}
	labels[corev1.LabelMetadataName] = ns.GetName()
	ns.SetLabels(labels)
	ns.Object["spec"] = map[string]any{"finalizers": []any{string(corev1.FinalizerKubernetes)}}
	ns.Object["status"] = map[string]any{"phase": string(corev1.NamespaceActive)}
}

// apply is server-side apply.
func (c *Cluster) apply(r *call, patch *unstructured.Unstructured) (object *unstructured.Unstructured, created bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if patch.GetManagedFields() != nil {
		return nil, false, apierrors.NewBadRequest("metadata.managedFields must be nil")
	}
	live, err := c.load(r.kind, r.namespace, r.name)
	if err != nil {
		return nil, false, err
	}
	if live == nil {
		if r.status {
			return nil, false, r.notFound()
		}
		if uid := patch.GetUID(); uid != "" {
			return nil, false, apierrors.NewConflict(r.kind.groupResource(), r.name, fmt.Errorf("uid mismatch: the provided object specified uid %s, and no existing object was found", uid))
		}
		object, err = c.insert(r, patch, func(empty, patch *unstructured.Unstructured) (*unstructured.Unstructured, error) {
			return managed(r.fields().Apply(empty, patch, r.manager, r.force))
		})
		return object, true, err
	}
	if err := c.place(r, patch); err != nil {
		return nil, false, err
	}
	applied, err := managed(r.fields().Apply(live.DeepCopy(), patch, r.manager, r.force))
	if err != nil {
		return nil, false, err
	}
	object, err = c.replace(r, live, applied)
	return object, false, err
}

// modify changes an object that is there, as an update or one of the older patches does.
func (c *Cluster) modify(r *call, change func(live *unstructured.Unstructured) (*unstructured.Unstructured, error)) (*unstructured.Unstructured, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	live, err := c.load(r.kind, r.namespace, r.name)
	if err != nil {
		return nil, err
	}
	if live == nil {
		return nil, r.notFound()
	}
	object, err := change(live.DeepCopy())
	if err != nil {
		return nil, err
	}
	if err := c.place(r, object); err != nil {
		return nil, err
	}
	if object, err = r.kind.tidy(object); err != nil {
		return nil, err
	}
	if object, err = managed(r.fields().Update(live.DeepCopy(), r.kind.part(r.status, live, object), r.manager)); err != nil {
		return nil, err
	}
	return c.replace(r, live, object)
}

// part is the object with only that changed which the request may change.
func (k *kind) part(status bool, live, object *unstructured.Unstructured) *unstructured.Unstructured {
	if !k.hasStatus {
		return object
	}
	whole, piece := object, live
	if status {
		whole, piece = live.DeepCopy(), object
		whole.SetManagedFields(object.GetManagedFields())
		whole.SetResourceVersion(object.GetResourceVersion())
		whole.SetUID(object.GetUID())
	}
	delete(whole.Object, "status")
	if s, ok := piece.Object["status"]; ok {
		whole.Object["status"] = runtime.DeepCopyJSONValue(s)
	}
	return whole
}

// replace stores the new state of an object, if it is one. It needs the lock.
func (c *Cluster) replace(r *call, live, object *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	if uid := object.GetUID(); uid != "" && uid != live.GetUID() {
		return nil, apierrors.NewConflict(r.kind.groupResource(), r.name, fmt.Errorf("uid mismatch: the provided object specified uid %s, and the object has uid %s", uid, live.GetUID()))
	}
	if version := object.GetResourceVersion(); version != "" && version != live.GetResourceVersion() {
		return nil, apierrors.NewConflict(r.kind.groupResource(), r.name, errors.New("the object has been modified; please apply your changes to the latest version and try again"))
	}
	object = r.kind.part(r.status, live, object)
	object, err := r.kind.tidy(object)
	if err != nil {
		return nil, err
	}
	object.SetUID(live.GetUID())
	object.SetResourceVersion(live.GetResourceVersion())
	object.SetCreationTimestamp(live.GetCreationTimestamp())
	object.SetDeletionTimestamp(live.GetDeletionTimestamp())
	object.SetDeletionGracePeriodSeconds(live.GetDeletionGracePeriodSeconds())
	object.SetGeneration(live.GetGeneration())
	if r.kind.counted && !r.status && !sameSpecification(live, object) {
		object.SetGeneration(live.GetGeneration() + 1)
	}
	if r.kind.groupResource() == namespaces {
		status := live.Object["status"]
		beNamespace(object)
		object.Object["status"] = status
	}
	if same(live, object) {
		return live, nil
	}
	if r.dryRun {
		return object, nil
	}
	if object.GetDeletionTimestamp() != nil && len(object.GetFinalizers()) == 0 {
		return object, c.remove(r.kind, r.namespace, r.name, object.DeepCopy())
	}
	return object, c.store(r, object)
}

// sameSpecification compares objects without metadata and status.
func sameSpecification(a, b *unstructured.Unstructured) bool {
	for _, object := range []*unstructured.Unstructured{a, b} {
		other := a
		if object == a {
			other = b
		}
		for field, value := range object.Object {
			if field != "metadata" && field != "status" && !equality.Semantic.DeepEqual(value, other.Object[field]) {
				return false
			}
		}
	}
	return true
}

// same compares objects. When fields were set last is no difference if nothing was set.
func same(a, b *unstructured.Unstructured) bool {
	timeless := func(object *unstructured.Unstructured) map[string]any {
		copied := object.DeepCopy()
		entries, _, _ := unstructured.NestedSlice(copied.Object, "metadata", "managedFields")
		for _, entry := range entries {
			delete(entry.(map[string]any), "time")
		}
		if len(entries) > 0 {
			_ = unstructured.SetNestedSlice(copied.Object, entries, "metadata", "managedFields") // they were there
		}
		return copied.Object
	}
	return reflect.DeepEqual(timeless(a), timeless(b))
}

// delete deletes an object, or marks it when somebody wants to do something first.
func (c *Cluster) delete(r *call, preconditions *metav1.Preconditions) (object *unstructured.Unstructured, gone bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	live, err := c.load(r.kind, r.namespace, r.name)
	if err != nil {
		return nil, false, err
	}
	if live == nil {
		return nil, false, r.notFound()
	}
	if p := preconditions; p != nil {
		gk := schema.GroupResource{Group: r.kind.Group, Resource: r.kind.Kind} // an API server names the kind here
		if p.UID != nil && *p.UID != live.GetUID() {
			return nil, false, apierrors.NewConflict(gk, r.name, fmt.Errorf("the UID in the precondition (%s) does not match the UID in record (%s). The object might have been deleted and then recreated", *p.UID, live.GetUID()))
		}
		if p.ResourceVersion != nil && *p.ResourceVersion != live.GetResourceVersion() {
			return nil, false, apierrors.NewConflict(gk, r.name, fmt.Errorf("the ResourceVersion in the precondition (%s) does not match the ResourceVersion in record (%s). The object might have been modified", *p.ResourceVersion, live.GetResourceVersion()))
		}
	}
	waits := len(live.GetFinalizers()) > 0
	if r.dryRun || waits && live.GetDeletionTimestamp() != nil {
		return live, !waits, nil
	}
	if waits {
		now := metav1.NewTime(time.Now())
		live.SetDeletionTimestamp(&now)
		live.SetDeletionGracePeriodSeconds(new(int64))
		if live.GetGeneration() > 0 {
			live.SetGeneration(live.GetGeneration() + 1)
		}
		return live, false, c.save(r.kind, r.namespace, r.name, live, nil)
	}
	return live, true, c.remove(r.kind, r.namespace, r.name, live)
}

// remove forgets an object and what cannot be without it. It needs the lock.
func (c *Cluster) remove(k *kind, namespace, name string, last *unstructured.Unstructured) error {
	switch k.groupResource() {
	case namespaces:
		for gr := range c.objects {
			if err := c.removeAll(gr, name); err != nil {
				return err
			}
		}
	case definitions:
		if d := c.defined[name]; d != nil {
			for _, k := range d.kinds {
				if err := c.removeAll(k.groupResource(), ""); err != nil {
					return err
				}
			}
			delete(c.defined, name)
			if err := c.document(); err != nil {
				return err
			}
		}
	}
	return c.save(k, namespace, name, nil, last)
}

// removeAll forgets the objects of a resource, in one namespace or in all.
func (c *Cluster) removeAll(gr schema.GroupResource, namespace string) error {
	for at, found := range c.objects[gr] {
		object, err := decode(found)
		if err != nil {
			return err
		}
		if namespace != "" && object.GetNamespace() != namespace {
			continue
		}
		stored := &kind{GroupVersionKind: object.GroupVersionKind(), plural: gr.Resource}
		if err := c.save(stored, object.GetNamespace(), object.GetName(), nil, object); err != nil {
			return fmt.Errorf("remove %s %s: %w", gr, at, err)
		}
	}
	return nil
}

var definitions = schema.GroupResource{Group: apiextensionsv1.GroupName, Resource: "customresourcedefinitions"}

// store saves an object, and does what the controllers of an API server do about a definition of kinds. One that
// cannot be served is not stored. It needs the lock.
func (c *Cluster) store(r *call, object *unstructured.Unstructured) error {
	if r.kind.groupResource() != definitions {
		return c.save(r.kind, r.namespace, r.name, object, nil)
	}
	crd := &apiextensionsv1.CustomResourceDefinition{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, crd); err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	made, err := c.server.define(crd)
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	if err := c.save(r.kind, r.namespace, r.name, object, nil); err != nil {
		return err
	}
	if c.defined[crd.Name] == made {
		return nil
	}
	c.defined[crd.Name] = made
	if err := c.document(); err != nil {
		return err
	}
	// In a write of its own, as the real controllers do: the answer to whoever created it has no conditions.
	crd.Status.AcceptedNames = acceptedNames(crd.Spec.Names)
	crd.Status.StoredVersions = nil
	for _, v := range crd.Spec.Versions {
		if v.Storage {
			crd.Status.StoredVersions = append(crd.Status.StoredVersions, v.Name)
		}
	}
	now := metav1.Now()
	crd.Status.Conditions = []apiextensionsv1.CustomResourceDefinitionCondition{
		{Type: apiextensionsv1.NamesAccepted, Status: apiextensionsv1.ConditionTrue, Reason: "NoConflicts", Message: "no conflicts found", LastTransitionTime: now},
		{Type: apiextensionsv1.Established, Status: apiextensionsv1.ConditionTrue, Reason: "InitialNamesAccepted", Message: "the initial names have been accepted", LastTransitionTime: now},
	}
	status, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&crd.Status)
	if err != nil {
		return err
	}
	established := object.DeepCopy()
	established.Object["status"] = status
	if managedBy, err := managed(r.kind.status.Update(object.DeepCopy(), established, "kube-apiserver")); err == nil {
		established = managedBy
	}
	return c.save(r.kind, "", crd.Name, established, nil)
}

// document makes anew what the cluster says that it serves. It needs the lock.
func (c *Cluster) document() error {
	var all []*definition
	for _, d := range c.defined {
		all = append(all, d)
	}
	docs, err := c.server.documentsFor(c.builtin, all)
	if err != nil {
		return err
	}
	c.docs = docs
	return nil
}

// patched carries out one of the older patches.
func (k *kind) patched(live *unstructured.Unstructured, form types.PatchType, patch []byte) (*unstructured.Unstructured, error) {
	before, err := json.Marshal(live.Object)
	if err != nil {
		return nil, err
	}
	var after []byte
	switch form {
	case types.JSONPatchType:
		decoded, failed := jsonpatch.DecodePatch(patch)
		if failed != nil {
			return nil, apierrors.NewBadRequest(failed.Error())
		}
		if after, err = decoded.Apply(before); err != nil {
			return nil, apierrors.NewGenericServerResponse(http.StatusUnprocessableEntity, "", schema.GroupResource{}, "", err.Error(), 0, false)
		}
	case types.MergePatchType:
		if after, err = jsonpatch.MergePatch(before, patch); err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
	case types.StrategicMergePatchType:
		if k.strategic == nil {
			return nil, k.unknownPatch()
		}
		if after, err = strategicpatch.StrategicMergePatch(before, patch, k.strategic); err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
	default:
		return nil, k.unknownPatch()
	}
	out, err := decode(after)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	return out, nil
}
