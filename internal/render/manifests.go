// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"sort"
	"strings"

	"helm.sh/helm/v4/pkg/chart/common"
	helmrelease "helm.sh/helm/v4/pkg/release/v1"
	releaseutil "helm.sh/helm/v4/pkg/release/v1/util"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/yaml"
)

// OwnedLabel and OwnedValue stand on every object of a cluster stack and on the pods of its workloads.
// They have always been there: to take the label off a pod template would restart every CNI pod.
const (
	OwnedLabel = "clusterstack.x-k8s.io/instance"
	OwnedValue = "owned"
)

const (
	maxRendered = 20 << 20 // bytes of all manifests of one render
	maxObjects  = 2_000
)

type valuesMap = common.Values

// hookEvents are the moments at which hooks run. Tests do not run.
var hookEvents = []helmrelease.HookEvent{
	helmrelease.HookPreInstall, helmrelease.HookPostInstall,
	helmrelease.HookPreUpgrade, helmrelease.HookPostUpgrade,
	helmrelease.HookPreRollback, helmrelease.HookPostRollback,
	helmrelease.HookPreDelete, helmrelease.HookPostDelete,
}

const notesFile = "NOTES.txt"

// readManifests turns rendered files, by their names, into objects in the order in which Helm installs
// them, and hooks in the order in which Helm runs them. It says which file each of them is from.
func readManifests(files map[string]string) ([]*unstructured.Unstructured, []Hook, Files, error) {
	size := 0
	for name, text := range files {
		if strings.HasSuffix(name, notesFile) {
			delete(files, name)
		}
		size += len(text)
	}
	if size > maxRendered {
		return nil, nil, nil, invalid("", "renders to more than %d MiB", maxRendered>>20)
	}
	documents, heads, err := readDocuments(files)
	if err != nil {
		return nil, nil, nil, err
	}
	found, manifests, err := releaseutil.SortManifests(heads, nil, releaseutil.InstallOrder)
	if err != nil {
		return nil, nil, nil, explainManifest(err)
	}

	var (
		objects []*unstructured.Unstructured
		hooks   []Hook
		from    = Files{}
	)
	for _, m := range manifests {
		read, err := documents.objects(m.Name, m.Content)
		if err != nil {
			return nil, nil, nil, err
		}
		from.add(m.Name, read)
		objects = append(objects, read...)
	}
	for _, h := range found {
		events := slices.DeleteFunc(slices.Clone(h.Events), func(e helmrelease.HookEvent) bool { return !slices.Contains(hookEvents, e) })
		if len(events) == 0 {
			continue
		}
		read, err := documents.objects(h.Path, h.Manifest)
		if err != nil {
			return nil, nil, nil, err
		}
		from.add(h.Path, read)
		if len(h.DeletePolicies) == 0 {
			h.DeletePolicies = []helmrelease.HookDeletePolicy{helmrelease.HookBeforeHookCreation}
		}
		for _, object := range read {
			hooks = append(hooks, Hook{Object: object, Events: texts(events), Weight: h.Weight, DeletePolicies: texts(h.DeletePolicies)})
		}
	}
	slices.SortStableFunc(hooks, func(a, b Hook) int {
		return cmp.Or(cmp.Compare(a.Weight, b.Weight), cmp.Compare(a.Object.GetName(), b.Object.GetName()))
	})
	if len(objects)+len(hooks) > maxObjects {
		return nil, nil, nil, invalid("", "renders to more than %d objects", maxObjects)
	}
	return objects, hooks, from, nil
}

func (f Files) add(file string, objects []*unstructured.Unstructured) {
	for _, object := range objects {
		f[object] = file
	}
}

// documents are YAML documents by their heads.
type documents map[string]any

// readDocuments reads all documents of rendered files. Helm finds out from their heads which of them are hooks, and
// sorts them; in place of the files it is given these alone, as reading YAML is much of what a render costs.
func readDocuments(files map[string]string) (documents, map[string]string, error) {
	read, heads := documents{}, map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		split := releaseutil.SplitManifests(files[name])
		if strings.HasPrefix(path.Base(name), "_") {
			continue
		}
		keys := slices.Collect(maps.Keys(split))
		sort.Sort(releaseutil.BySplitManifestsOrder(keys))
		var text strings.Builder
		for _, key := range keys {
			content, err := readYAML(name, split[key])
			if err != nil {
				return nil, nil, err
			}
			head, err := json.Marshal(headOf(content, len(read)))
			if err != nil {
				return nil, nil, invalid(name, "does not render to an object")
			}
			read[string(head)] = content
			text.WriteString("---\n" + string(head) + "\n")
		}
		heads[name] = text.String()
	}
	return read, heads, nil
}

// headOf is what Helm reads of a document, and which one it is.
func headOf(content any, number int) any {
	object, ok := content.(map[string]any)
	if content != nil && !ok {
		return content // Helm says what it is instead
	}
	head := map[string]any{"document": number}
	for _, key := range []string{"apiVersion", "kind", "metadata"} {
		if value, found := object[key]; found {
			head[key] = value
		}
	}
	if metadata, is := object["metadata"].(map[string]any); is {
		head["metadata"] = map[string]any{"name": metadata["name"], "annotations": metadata["annotations"]}
	}
	return head
}

func (d documents) objects(file, head string) ([]*unstructured.Unstructured, error) {
	return objectsOf(file, d[strings.TrimSpace(head)])
}

func texts[T ~string](all []T) []string {
	converted := make([]string, len(all))
	for i, s := range all {
		converted[i] = string(s)
	}
	return converted
}

var manifestErrorForm = regexp.MustCompile(`(?s)^YAML parse error on (.*?): (.*)$`)

func explainManifest(err error) error {
	if parts := manifestErrorForm.FindStringSubmatch(err.Error()); parts != nil {
		return invalid(parts[1], "does not render to YAML: %s", explainYAML(errors.New(parts[2])))
	}
	return invalid("", "does not render to YAML: %s", explainYAML(err))
}

// readYAML reads one YAML document.
func readYAML(file, document string) (any, error) {
	data, err := yaml.YAMLToJSON([]byte(document))
	if err != nil {
		return nil, invalid(file, "does not render to YAML: %s", explainYAML(err))
	}
	var content any
	if err := utiljson.Unmarshal(data, &content); err != nil {
		return nil, invalid(file, "does not render to an object")
	}
	return content, nil
}

// objectsOf returns what a document stands for: a list for what is in it, a document without content for nothing.
func objectsOf(file string, content any) ([]*unstructured.Unstructured, error) {
	if content == nil {
		return nil, nil
	}
	if err := checkTree(content); err != nil {
		return nil, invalid(file, "renders to an object that is too large: %v", err)
	}
	object, ok := content.(map[string]any)
	if !ok {
		return nil, invalid(file, "renders to something that is no Kubernetes object")
	}
	if len(object) == 0 {
		return nil, nil
	}
	return flatten(file, &unstructured.Unstructured{Object: object})
}

func flatten(file string, object *unstructured.Unstructured) ([]*unstructured.Unstructured, error) {
	if object.GetAPIVersion() == "" || object.GetKind() == "" {
		return nil, invalid(file, "renders to an object without apiVersion or kind")
	}
	if items, isList := object.Object["items"].([]any); isList && strings.HasSuffix(object.GetKind(), "List") {
		var all []*unstructured.Unstructured
		for _, item := range items {
			content, ok := item.(map[string]any)
			if !ok {
				return nil, invalid(file, "renders to a %s with something in it that is no object", object.GetKind())
			}
			child := &unstructured.Unstructured{Object: content}
			// In a list of one kind, the items need not name it.
			if kind := strings.TrimSuffix(object.GetKind(), "List"); kind != "" && child.GetKind() == "" && child.GetAPIVersion() == "" {
				child.SetKind(kind)
				child.SetAPIVersion(object.GetAPIVersion())
			}
			flat, err := flatten(file, child)
			if err != nil {
				return nil, err
			}
			all = append(all, flat...)
		}
		return all, nil
	}
	if object.GetName() == "" && object.GetGenerateName() != "" {
		return nil, invalid(file, "renders to a %s with generateName: it would be another object each time, so give it a name", object.GetKind())
	}
	if object.GetName() == "" {
		return nil, invalid(file, "renders to a %s without a name", object.GetKind())
	}
	if err := markOwned(object); err != nil {
		return nil, invalid(file, "%s %s: %v", object.GetKind(), object.GetName(), err)
	}
	return []*unstructured.Unstructured{object}, nil
}

// markOwned puts the owned label on an object, and on its pods if it is a workload.
func markOwned(object *unstructured.Unstructured) error {
	if err := label(object.Object, "metadata"); err != nil {
		return err
	}
	if !hasOwnedPods(object) {
		return nil
	}
	template, _, err := unstructured.NestedFieldNoCopy(object.Object, "spec", "template")
	if _, isMap := template.(map[string]any); !isMap || err != nil {
		return errors.New("spec.template is not a map")
	}
	return label(object.Object, "spec", "template", "metadata")
}

// hasOwnedPods tells the workloads whose pods carry the label. Those of CronJobs never did.
func hasOwnedPods(object *unstructured.Unstructured) bool {
	group := object.GroupVersionKind().Group
	switch object.GetKind() {
	case "Deployment", "ReplicaSet", "StatefulSet", "DaemonSet":
		return group == "apps" || group == "extensions"
	case "Job":
		return group == "batch"
	}
	return false
}

func label(object map[string]any, metadata ...string) error {
	parent, _, err := unstructured.NestedFieldNoCopy(object, metadata...)
	if err != nil {
		return fmt.Errorf("%s is not a map", strings.Join(metadata, "."))
	}
	if parent == nil {
		// A key without a value is null in YAML, and means the same as none.
		unstructured.RemoveNestedField(object, metadata...)
	}
	fields := append(slices.Clone(metadata), "labels")
	found, _, err := unstructured.NestedFieldNoCopy(object, fields...)
	if err != nil {
		return fmt.Errorf("%s is not a map", strings.Join(metadata, "."))
	}
	switch labels := found.(type) {
	case nil:
		return unstructured.SetNestedField(object, map[string]any{OwnedLabel: OwnedValue}, fields...)
	case map[string]any:
		labels[OwnedLabel] = OwnedValue
		return nil
	default:
		return fmt.Errorf("%s is not a map", strings.Join(fields, "."))
	}
}

// readCRDs reads the files of a chart's crds folders, in the order in which they are given.
func readCRDs(files []crdFile) ([]*unstructured.Unstructured, error) {
	var all []*unstructured.Unstructured
	for _, f := range files {
		documents := releaseutil.SplitManifests(string(f.data))
		keys := make([]string, 0, len(documents))
		for key := range documents {
			keys = append(keys, key)
		}
		slices.SortFunc(keys, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) })
		for _, key := range keys {
			content, err := readYAML(f.name, documents[key])
			if err != nil {
				return nil, err
			}
			read, err := objectsOf(f.name, content)
			if err != nil {
				return nil, err
			}
			all = append(all, read...)
		}
	}
	return all, nil
}

// crdFile is a file in a folder crds, which Helm does not take for a template.
type crdFile struct {
	name string
	data []byte
}

// servedBy returns the API versions that a CustomResourceDefinition adds, as .Capabilities.APIVersions
// names them: "group/version" and "group/version/Kind".
func servedBy(crd *unstructured.Unstructured) []string {
	if crd.GetKind() != "CustomResourceDefinition" {
		return nil
	}
	group, _, _ := unstructured.NestedString(crd.Object, "spec", "group")
	kind, _, _ := unstructured.NestedString(crd.Object, "spec", "names", "kind")
	versions, _, _ := unstructured.NestedSlice(crd.Object, "spec", "versions")
	var served []string
	for _, v := range versions {
		version, _ := v.(map[string]any)
		name, _ := version["name"].(string)
		if is, _ := version["served"].(bool); is && name != "" {
			served = append(served, path.Join(group, name), path.Join(group, name, kind))
		}
	}
	return served
}
