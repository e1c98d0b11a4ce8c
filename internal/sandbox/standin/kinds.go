// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package standin

import (
	"crypto/sha256"
	_ "embed" // for the kinds of an API server
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"weak"

	apidiscovery "k8s.io/api/apidiscovery/v2"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/applyconfigurations"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// kind is a kind in one version, as it is served.
type kind struct {
	schema.GroupVersionKind
	plural     string
	namespaced bool
	// hasStatus says that status is a subresource, written by itself.
	hasStatus bool
	// counted says that changes of the specification are counted in metadata.generation.
	counted bool
	// normalise brings an object into the form in which an API server keeps it.
	normalise func(map[string]any) (map[string]any, error)
	// object and status keep the managed fields of writes to the object and to its status.
	object, status *managedfields.FieldManager
	// strategic is an empty object of the Go type, whose tags say how to merge; nil if there is none.
	strategic any
}

func (k *kind) groupResource() schema.GroupResource {
	return schema.GroupResource{Group: k.Group, Resource: k.plural}
}

func (k *kind) resource() schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: k.Group, Version: k.Version, Resource: k.plural}
}

// kindSet is what a cluster serves.
type kindSet map[schema.GroupVersionResource]*kind

// builtinJSON are the kinds that a real API server serves, in the form in which it lists them. A test compares it
// with one.
//
//go:embed builtin.json
var builtinJSON []byte

// builtin are those kinds. Making them takes a moment, so only who uses a stand-in has them.
var builtin = sync.OnceValues(loadBuiltin)

type builtins struct {
	groups []apidiscovery.APIGroupDiscovery
	kinds  kindSet
	scheme *runtime.Scheme
}

func loadBuiltin() (*builtins, error) {
	b := &builtins{kinds: kindSet{}, scheme: runtime.NewScheme()}
	utilruntime.Must(clientgoscheme.AddToScheme(b.scheme))
	utilruntime.Must(apiextensionsv1.AddToScheme(b.scheme))
	if err := json.Unmarshal(builtinJSON, &b.groups); err != nil {
		return nil, fmt.Errorf("builtin.json: %w", err)
	}
	typed := applyconfigurations.NewTypeConverter(clientgoscheme.Scheme)
	for _, group := range b.groups {
		for _, version := range group.Versions {
			for _, r := range version.Resources {
				k := &kind{
					GroupVersionKind: schema.GroupVersionKind{Group: group.Name, Version: version.Version, Kind: r.ResponseKind.Kind},
					plural:           r.Resource,
					namespaced:       r.Scope == apidiscovery.ScopeNamespace,
					hasStatus:        len(r.Subresources) > 0,
					normalise:        func(o map[string]any) (map[string]any, error) { return o, nil },
				}
				k.counted = countsGenerations(k.GroupKind(), k.hasStatus)
				converter := typed
				probe := &unstructured.Unstructured{Object: map[string]any{}}
				probe.SetGroupVersionKind(k.GroupVersionKind)
				if _, err := typed.ObjectToTyped(probe); err != nil {
					// Kinds of the API extensions are not among the typed ones; their lists are atomic anyway.
					converter = managedfields.NewDeducedTypeConverter()
				}
				if b.scheme.Recognizes(k.GroupVersionKind) {
					if err := k.useGoType(b.scheme); err != nil {
						return nil, err
					}
				}
				if err := k.manageFields(converter, managedfields.NewDefaultFieldManager); err != nil {
					return nil, err
				}
				b.kinds[k.resource()] = k
			}
		}
	}
	return b, nil
}

// useGoType has objects take the way through their Go type, as in an API server: fields that it does not have are
// dropped, and what it always has is there.
func (k *kind) useGoType(scheme *runtime.Scheme) error {
	empty, err := scheme.New(k.GroupVersionKind)
	if err != nil {
		return err
	}
	k.strategic = empty
	k.normalise = func(object map[string]any) (map[string]any, error) {
		typed, err := scheme.New(k.GroupVersionKind)
		if err != nil {
			return nil, err
		}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object, typed); err != nil {
			return nil, err
		}
		return runtime.DefaultUnstructuredConverter.ToUnstructured(typed)
	}
	return nil
}

// countsGenerations is what no document of an API server tells: kinds of the core group count no generations, but
// for a few; elsewhere those with a status do, and some without.
func countsGenerations(gk schema.GroupKind, hasStatus bool) bool {
	switch gk.Group {
	case "":
		return gk.Kind == "Pod" || gk.Kind == "ReplicationController"
	case "certificates.k8s.io", "storage.k8s.io", "apiregistration.k8s.io":
		return gk.Kind == "CSIDriver"
	case "autoscaling":
		return false
	case "networking.k8s.io":
		return gk.Kind == "Ingress" || gk.Kind == "IngressClass" || gk.Kind == "NetworkPolicy"
	case "admissionregistration.k8s.io":
		return true
	}
	return hasStatus
}

type newFieldManager = func(managedfields.TypeConverter, runtime.ObjectConvertor, runtime.ObjectDefaulter, runtime.ObjectCreater,
	schema.GroupVersionKind, schema.GroupVersion, string, map[fieldpath.APIVersion]fieldpath.Filter) (*managedfields.FieldManager, error)

// manageFields makes the keepers of managed fields. With a status subresource each of the two sees only its part.
func (k *kind) manageFields(converter managedfields.TypeConverter, create newFieldManager) error {
	version := fieldpath.APIVersion(k.GroupVersion().String())
	var ofObject, ofStatus map[fieldpath.APIVersion]fieldpath.Filter
	if k.hasStatus {
		ofObject = map[fieldpath.APIVersion]fieldpath.Filter{version: fieldpath.NewExcludeSetFilter(fieldpath.NewSet(fieldpath.MakePathOrDie("status")))}
		ofStatus = map[fieldpath.APIVersion]fieldpath.Filter{version: fieldpath.NewIncludeMatcherFilter(fieldpath.MakePrefixMatcherOrDie("status"))}
	}
	var err error
	if k.object, err = create(converter, convertor{}, noDefaults{}, emptyObjects{}, k.GroupVersionKind, k.GroupVersion(), "", ofObject); err != nil {
		return fmt.Errorf("%s: %w", k.GroupVersionKind, err)
	}
	if k.status, err = create(converter, convertor{}, noDefaults{}, emptyObjects{}, k.GroupVersionKind, k.GroupVersion(), "status", ofStatus); err != nil {
		return fmt.Errorf("%s: %w", k.GroupVersionKind, err)
	}
	return nil
}

// convertor takes an object to another version by its name only.
type convertor struct{}

func (convertor) Convert(_, _, _ any) error {
	return fmt.Errorf("stand-ins convert by name only")
}

func (convertor) ConvertToVersion(in runtime.Object, version runtime.GroupVersioner) (runtime.Object, error) {
	gvk := in.GetObjectKind().GroupVersionKind()
	to, ok := version.KindForGroupVersionKinds([]schema.GroupVersionKind{gvk})
	if gv, exact := version.(schema.GroupVersion); exact {
		to, ok = gv.WithKind(gvk.Kind), true
	}
	if !ok || to == gvk {
		return in, nil
	}
	out := in.DeepCopyObject()
	out.GetObjectKind().SetGroupVersionKind(to)
	return out, nil
}

func (convertor) ConvertFieldLabel(_ schema.GroupVersionKind, label, value string) (string, string, error) {
	return label, value, nil
}

type noDefaults struct{}

func (noDefaults) Default(runtime.Object) {}

type emptyObjects struct{}

func (emptyObjects) New(gvk schema.GroupVersionKind) (runtime.Object, error) {
	object := &unstructured.Unstructured{Object: map[string]any{}}
	object.SetGroupVersionKind(gvk)
	return object, nil
}

// definition is what a CustomResourceDefinition adds.
type definition struct {
	sum   [sha256.Size]byte
	group apidiscovery.APIGroupDiscovery
	kinds []*kind
}

// define reads a definition, or finds what another cluster has made of the same.
func (s *Server) define(crd *apiextensionsv1.CustomResourceDefinition) (*definition, error) {
	raw, err := json.Marshal(crd.Spec)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(raw)
	s.shared.Lock()
	defer s.shared.Unlock()
	if known := s.crds[sum]; known != nil {
		return known, nil
	}
	made, err := newDefinition(crd)
	if err != nil {
		return nil, fmt.Errorf("CustomResourceDefinition %s: %w", crd.Name, err)
	}
	made.sum = sum
	s.crds[sum] = made
	return made, nil
}

func newDefinition(crd *apiextensionsv1.CustomResourceDefinition) (*definition, error) {
	d := &definition{group: apidiscovery.APIGroupDiscovery{ObjectMeta: metav1.ObjectMeta{Name: crd.Spec.Group}}}
	for _, v := range crd.Spec.Versions {
		if !v.Served {
			continue
		}
		names := acceptedNames(crd.Spec.Names)
		k := &kind{
			GroupVersionKind: schema.GroupVersionKind{Group: crd.Spec.Group, Version: v.Name, Kind: names.Kind},
			plural:           names.Plural,
			namespaced:       crd.Spec.Scope == apiextensionsv1.NamespaceScoped,
			hasStatus:        v.Subresources != nil && v.Subresources.Status != nil,
			counted:          true,
		}
		if err := k.useSchema(v.Schema); err != nil {
			return nil, fmt.Errorf("version %s: %w", v.Name, err)
		}
		d.kinds = append(d.kinds, k)

		served := apidiscovery.APIResourceDiscovery{
			Resource: names.Plural, SingularResource: names.Singular, ShortNames: names.ShortNames, Categories: names.Categories,
			ResponseKind: &metav1.GroupVersionKind{Group: k.Group, Version: k.Version, Kind: k.Kind},
			Scope:        apidiscovery.ScopeCluster, Verbs: allVerbs,
		}
		if k.namespaced {
			served.Scope = apidiscovery.ScopeNamespace
		}
		if k.hasStatus {
			served.Subresources = []apidiscovery.APISubresourceDiscovery{{Subresource: "status", ResponseKind: served.ResponseKind, Verbs: metav1.Verbs{"get", "patch", "update"}}}
		}
		d.group.Versions = append(d.group.Versions, apidiscovery.APIVersionDiscovery{
			Version: v.Name, Freshness: apidiscovery.DiscoveryFreshnessCurrent, Resources: []apidiscovery.APIResourceDiscovery{served},
		})
	}
	// The version that is preferred comes first.
	slices.SortFunc(d.group.Versions, func(a, b apidiscovery.APIVersionDiscovery) int {
		return version.CompareKubeAwareVersionStrings(b.Version, a.Version)
	})
	return d, nil
}

var allVerbs = metav1.Verbs{"delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"}

// acceptedNames are the names with those that follow from the others.
func acceptedNames(names apiextensionsv1.CustomResourceDefinitionNames) apiextensionsv1.CustomResourceDefinitionNames {
	if names.Singular == "" {
		names.Singular = strings.ToLower(names.Kind)
	}
	if names.ListKind == "" {
		names.ListKind = names.Kind + "List"
	}
	return names
}

// useSchema has objects pruned and merged by a schema.
func (k *kind) useSchema(validation *apiextensionsv1.CustomResourceValidation) error {
	if validation == nil || validation.OpenAPIV3Schema == nil {
		k.normalise = func(o map[string]any) (map[string]any, error) { return o, nil }
		return k.manageFields(managedfields.NewDeducedTypeConverter(), managedfields.NewDefaultCRDFieldManager)
	}
	internal := &apiextensions.JSONSchemaProps{}
	if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(validation.OpenAPIV3Schema, internal, nil); err != nil {
		return err
	}
	structural, err := structuralschema.NewStructural(internal)
	if err != nil {
		return err
	}
	k.normalise = func(object map[string]any) (map[string]any, error) {
		pruning.Prune(object, structural, true)
		return object, nil
	}
	open := structural.ToKubeOpenAPI()
	open.SetProperty("apiVersion", *spec.StringProperty())
	open.SetProperty("kind", *spec.StringProperty())
	open.SetProperty("metadata", objectMeta())
	open.AddExtension("x-kubernetes-group-version-kind", []any{map[string]any{"group": k.Group, "version": k.Version, "kind": k.Kind}})
	converter, err := managedfields.NewTypeConverter(map[string]*spec.Schema{"object": open}, false)
	if err != nil {
		return err
	}
	return k.manageFields(converter, managedfields.NewDefaultCRDFieldManager)
}

// objectMeta is the schema of metadata as far as merging depends on it.
func objectMeta() spec.Schema {
	object := func() *spec.Schema {
		return &spec.Schema{SchemaProps: spec.SchemaProps{Type: spec.StringOrArray{"object"}}}
	}
	strings := *spec.MapProperty(spec.StringProperty())
	meta := object()
	for _, name := range []string{"name", "generateName", "namespace", "uid", "resourceVersion", "creationTimestamp", "deletionTimestamp", "selfLink"} {
		meta.SetProperty(name, *spec.StringProperty())
	}
	meta.SetProperty("generation", *spec.Int64Property())
	meta.SetProperty("deletionGracePeriodSeconds", *spec.Int64Property())
	meta.SetProperty("labels", strings)
	meta.SetProperty("annotations", strings)
	finalizers := spec.ArrayProperty(spec.StringProperty())
	finalizers.AddExtension("x-kubernetes-list-type", "set")
	meta.SetProperty("finalizers", *finalizers)
	owner := object()
	for _, name := range []string{"apiVersion", "kind", "name", "uid"} {
		owner.SetProperty(name, *spec.StringProperty())
	}
	owner.SetProperty("controller", *spec.BooleanProperty())
	owner.SetProperty("blockOwnerDeletion", *spec.BooleanProperty())
	owner.AddExtension("x-kubernetes-map-type", "atomic")
	owners := spec.ArrayProperty(owner)
	owners.AddExtension("x-kubernetes-list-type", "map")
	owners.AddExtension("x-kubernetes-list-map-keys", []any{"uid"})
	meta.SetProperty("ownerReferences", *owners)
	entry := object()
	entry.AddExtension("x-kubernetes-preserve-unknown-fields", true)
	meta.SetProperty("managedFields", *spec.ArrayProperty(entry))
	return *meta
}

// documents are the answers to who asks what a cluster serves.
type documents struct {
	// api and apis are the aggregated forms of the core group and of all others.
	api, apis []byte
	groups    []apidiscovery.APIGroupDiscovery
}

// documentsFor makes the documents for definitions besides the builtin kinds, or finds those of another cluster.
func (s *Server) documentsFor(b *builtins, definitions []*definition) (*documents, error) {
	slices.SortFunc(definitions, func(x, y *definition) int { return slices.Compare(x.sum[:], y.sum[:]) })
	hash := sha256.New()
	for _, d := range definitions {
		_, _ = hash.Write(d.sum[:]) // a hash takes all that is written
	}
	key := [sha256.Size]byte(hash.Sum(nil))
	s.shared.Lock()
	defer s.shared.Unlock()
	if known := s.docs[key].Value(); known != nil {
		return known, nil
	}
	made := &documents{groups: slices.Clone(b.groups)}
	for _, d := range definitions {
		made.groups = join(made.groups, d.group)
	}
	var err error
	if made.api, err = aggregated(made.groups[:1]); err != nil {
		return nil, err
	}
	if made.apis, err = aggregated(made.groups[1:]); err != nil {
		return nil, err
	}
	s.docs[key] = weak.Make(made)
	return made, nil
}

// serve says whether anything of a group is served in a version.
func (d *documents) serve(gv schema.GroupVersion) bool {
	return slices.ContainsFunc(d.groups, func(g apidiscovery.APIGroupDiscovery) bool {
		return g.Name == gv.Group && slices.ContainsFunc(g.Versions, func(v apidiscovery.APIVersionDiscovery) bool { return v.Version == gv.Version })
	})
}

// join adds a group's resources to the groups that there are.
func join(groups []apidiscovery.APIGroupDiscovery, added apidiscovery.APIGroupDiscovery) []apidiscovery.APIGroupDiscovery {
	at := slices.IndexFunc(groups, func(g apidiscovery.APIGroupDiscovery) bool { return g.Name == added.Name })
	if at < 0 {
		return append(groups, added)
	}
	group := *groups[at].DeepCopy()
	for _, version := range added.Versions {
		v := slices.IndexFunc(group.Versions, func(v apidiscovery.APIVersionDiscovery) bool { return v.Version == version.Version })
		if v < 0 {
			group.Versions = append(group.Versions, version)
		} else {
			group.Versions[v].Resources = append(group.Versions[v].Resources, version.Resources...)
		}
	}
	groups[at] = group
	return groups
}

func aggregated(groups []apidiscovery.APIGroupDiscovery) ([]byte, error) {
	return json.Marshal(apidiscovery.APIGroupDiscoveryList{
		TypeMeta: metav1.TypeMeta{APIVersion: apidiscovery.SchemeGroupVersion.String(), Kind: "APIGroupDiscoveryList"},
		Items:    groups,
	})
}
