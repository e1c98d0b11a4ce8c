// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package operatortest

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// State is what there is of a tenant in both clusters, without what differs from one tenant and one moment to another:
// it is the same for all that have come to the same end, whatever happened to them on the way.
type State map[string]any

// States are those of all tenants, by their namespaces.
func (w *World) States(ctx context.Context) (map[string]State, error) {
	managed, err := w.objects(ctx, "")
	if err != nil {
		return nil, err
	}
	states := map[string]State{}
	for _, n := range w.tenants {
		state := State{}
		for _, o := range managed[n.Namespace] {
			state.add("management", n, o)
		}
		for _, kind := range []string{"ConfigMap", "Secret", "ServiceAccount"} {
			list := &unstructured.UnstructuredList{}
			list.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind(kind))
			if err := n.Workload.List(ctx, list); err != nil {
				return nil, err
			}
			for i := range list.Items {
				state.add("workload", n, &list.Items[i])
			}
		}
		states[n.Namespace] = state
	}
	return states, nil
}

// Generated are the values that were generated for the addons of a tenant, by the names of their Secrets.
func (n *Tenant) Generated(ctx context.Context) (map[string]string, error) {
	list := &corev1.SecretList{}
	if err := n.Workload.List(ctx, list, client.InNamespace(metav1.NamespaceSystem)); err != nil {
		return nil, err
	}
	found := map[string]string{}
	for _, s := range list.Items {
		for key, value := range s.Data {
			found[s.Name+" "+key] = string(value)
		}
	}
	return found, nil
}

// Texts are what the ConfigMaps of addons say, each as "name: text".
func (n *Tenant) Texts(ctx context.Context) ([]string, error) {
	list := &corev1.ConfigMapList{}
	if err := n.Workload.List(ctx, list, client.InNamespace(metav1.NamespaceSystem)); err != nil {
		return nil, err
	}
	var found []string
	for _, o := range list.Items {
		if text, has := o.Data["text"]; has {
			found = append(found, o.Name+": "+text)
		}
	}
	return found, nil
}

func (s State) add(where string, n *Tenant, o *unstructured.Unstructured) {
	if o.GetKind() == "Secret" {
		// What is in them is random or compressed.
		data, _, _ := unstructured.NestedMap(o.Object, "data")
		o.Object["data"] = strings.Join(slices.Sorted(maps.Keys(data)), ",")
	}
	text, err := json.Marshal(normal(o.Object))
	if err != nil {
		panic(err) // it was JSON
	}
	var object any
	same := strings.ReplaceAll(string(text), n.Namespace, "TENANT")
	if n.cluster != "" {
		same = strings.ReplaceAll(same, string(n.cluster), "CLUSTER")
	}
	if err := json.Unmarshal([]byte(same), &object); err != nil {
		panic(err)
	}
	s[fmt.Sprintf("%s %s %s/%s", where, o.GetKind(), strings.ReplaceAll(o.GetNamespace(), n.Namespace, "TENANT"), o.GetName())] = object
}

// normal leaves out what API servers and clocks say.
func normal(value any) any {
	switch value := value.(type) {
	case map[string]any:
		kept := map[string]any{}
		for key, v := range value {
			switch {
			case slices.Contains([]string{"uid", "resourceVersion", "generation", "observedGeneration", "creationTimestamp", "managedFields"}, key),
				strings.HasSuffix(key, "Time"), key == "time":
			default:
				kept[key] = normal(v)
			}
		}
		return kept
	case []any:
		kept := make([]any, 0, len(value))
		for _, v := range value {
			kept = append(kept, normal(v))
		}
		return kept
	}
	return value
}

// Versions are the resource versions of the objects of a list.
func Versions(kind string, list client.ObjectList) map[string]string {
	found := map[string]string{}
	_ = meta.EachListItem(list, func(object runtime.Object) error {
		if o, is := object.(client.Object); is {
			found[fmt.Sprintf("%s %s/%s", kind, o.GetNamespace(), o.GetName())] = o.GetResourceVersion()
		}
		return nil
	})
	return found
}
