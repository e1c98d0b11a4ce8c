// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"encoding/json"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/clusterstacks/cluster-stack-operator/internal/render"
	"github.com/clusterstacks/cluster-stack-operator/internal/sample"
)

// checkAddons renders every addon at all lifecycle points and checks what comes out.
func (l *linter) checkAddons(c class) {
	var objects []*unstructured.Unstructured
	if c.result != nil {
		objects = c.result.Objects
	}
	var addons []chart
	for _, name := range l.rel.Addons() {
		files, err := l.rel.AddonChart(name)
		if err != nil {
			continue // a stage without chart, reported as such
		}
		addon := chart{name: name, folder: l.where.addon(name), files: files}
		l.checkTemplates(addon)
		if l.renderAddon(&addon, objects); addon.result != nil {
			addons = append(addons, addon)
		}
	}
	for _, addon := range addons {
		l.checkTwice(addon)
		for _, object := range allObjects(addon.result) {
			l.checkObject(addon, object)
			l.checkWorkload(addon, object, addons)
		}
	}
	l.checkClashes(addons)
	l.checkNamespaces(addons)
}

func allObjects(result *render.Result) []*unstructured.Unstructured {
	all := slices.Clone(result.Objects)
	for _, hook := range result.Hooks {
		all = append(all, hook.Object)
	}
	return all
}

// renderAddon renders an addon for made-up clusters, at all points, and notes what it is for a usual one, unless it cannot
// be rendered at all.
func (l *linter) renderAddon(addon *chart, class []*unstructured.Unstructured) {
	values := l.where.values(addon.name)
	template, templated := l.rel.ValuesTemplate(addon.name)
	seen := map[string]bool{}
	for _, minimal := range []bool{false, true} {
		for _, point := range sample.Points {
			made, err := sample.Of(l.rel, class, sample.Options{Point: point, Minimal: minimal})
			if err != nil {
				return // what is wrong with a variable of the class has been said
			}
			facts, err := made.Facts()
			if err != nil {
				l.report("values-template", place{file: values}, "no cluster could be made up: %v", err)
				return
			}
			// Clusters for which the values are the same render the same.
			key := ""
			if templated {
				if made, err := render.Values(template, facts); err == nil {
					l.checkNoValue(values, template, made, minimal)
					key = encoded(made)
				} else {
					key = err.Error()
				}
			}
			if seen[key] {
				continue
			}
			seen[key] = true
			in, err := render.AddonInput(l.rel, addon.name, facts, nil)
			if err != nil {
				return // it has no chart, which was reported
			}
			result, from, err := in.RenderFiles()
			switch {
			case err != nil && minimal && addon.result != nil:
				l.report("values-minimal", place{values, 0}, "a Cluster without optional fields cannot be rendered: %s", strings.TrimPrefix(err.Error(), "addon "+addon.name+" of "+l.rel.Name.String()+": "))
			case err != nil:
				l.reportRender(*addon, values, err)
			case addon.result == nil:
				addon.result, addon.from = result, from
			}
		}
		if addon.result == nil {
			return // said once is enough
		}
	}
	if addon.result.NewValues {
		l.report("addon-generates", addon.at(chartFile, 0), "addon %s generates values by chance or by the clock", addon.name)
	}
}

func encoded(value any) string {
	data, err := json.Marshal(value)
	if err != nil {
		return err.Error()
	}
	return string(data)
}

const noValue = "<no value>"

// checkNoValue looks for what a values template prints of a field that is not there.
func (l *linter) checkNoValue(file string, template []byte, values map[string]any, minimal bool) {
	var walk func(path string, value any)
	walk = func(path string, value any) {
		switch value := value.(type) {
		case map[string]any:
			for key, v := range value {
				walk(strings.TrimPrefix(path+"."+key, "."), v)
			}
		case []any:
			for i, v := range value {
				walk(path+"["+strconv.Itoa(i)+"]", v)
			}
		case string:
			if strings.Contains(value, noValue) {
				whose := "a cluster"
				if minimal {
					whose = "a Cluster without optional fields"
				}
				key := path[strings.LastIndexByte(path, '.')+1:]
				l.report("values-missing", place{file, lineOfText(template, key+":")}, "%s is %q for %s", path, value, whose)
			}
		}
	}
	walk("", values)
}

var (
	actionForm = regexp.MustCompile(`\{\{.*?\}\}|\{\{.*`)
	// quotedForm is what in an action calls nothing: comments, texts, and what is named by a dot or a dollar sign.
	quotedForm = regexp.MustCompile("/\\*.*?(?:\\*/|$)|\"(?:[^\"\\\\]|\\\\.)*\"|`[^`]*`|[.$][A-Za-z0-9_.]+")
	callForm   = regexp.MustCompile(`\b(lookup|getHostByName)\b`)
	hookForm   = regexp.MustCompile(`^[^#]*helm\.sh/hook["']?:\s*["']?([a-z-]+(?:\s*,\s*[a-z-]+)*)`)
	hooksRun   = []string{"pre-install", "post-install", "pre-upgrade", "post-upgrade", "pre-delete", "post-delete", "crd-install"}
)

// checkTemplates looks into the templates of a chart for what does something else here than in Helm. Charts that it
// depends on are others' to mend.
func (l *linter) checkTemplates(c chart) {
	for _, file := range c.files {
		if !strings.HasPrefix(file.Name, "templates/") {
			continue
		}
		for i, line := range strings.Split(string(file.Data), "\n") {
			for _, action := range actionForm.FindAllString(line, -1) {
				switch callForm.FindString(quotedForm.ReplaceAllString(action, "")) {
				case "lookup":
					l.report("lookup", c.at(file.Name, i+1), "lookup finds nothing: charts are rendered without a cluster")
				case "getHostByName":
					l.report("forbidden-function", c.at(file.Name, i+1), "getHostByName finds nothing: a render has no network")
				}
			}
			found := hookForm.FindStringSubmatch(line)
			if found == nil {
				continue
			}
			events := strings.FieldsFunc(found[1], func(r rune) bool { return r == ',' || r == ' ' })
			if !slices.ContainsFunc(events, func(event string) bool { return slices.Contains(hooksRun, event) }) {
				l.report("hook-ignored", c.at(file.Name, i+1), "the hook %s never runs", strings.Join(events, ", "))
			}
		}
	}
}

// identity is what tells objects of a cluster apart. Objects of namespaces and of clusters have different kinds.
func identity(object *unstructured.Unstructured) string {
	namespace := object.GetNamespace()
	if namespace == "" {
		namespace = render.AddonNamespace
	}
	return strings.Join([]string{object.GroupVersionKind().Group, object.GetKind(), namespace, object.GetName()}, "/")
}

// checkTwice looks for objects that a chart renders twice.
func (l *linter) checkTwice(c chart) {
	seen := map[string]bool{}
	for _, object := range c.result.Objects {
		if id := identity(object); seen[id] {
			l.report("object-twice", c.find(object), "%s is rendered twice: the later one wins", label(object))
		} else {
			seen[id] = true
		}
	}
}

// checkClashes looks for objects that two addons have.
func (l *linter) checkClashes(addons []chart) {
	owners := map[string]string{}
	for _, addon := range addons {
		for _, object := range addon.result.Objects {
			id := identity(object)
			if owner, taken := owners[id]; taken && owner != addon.name {
				l.report("object-clash", addon.find(object), "%s belongs to the addon %s, too", label(object), owner)
			} else {
				owners[id] = addon.name
			}
		}
	}
}

// Namespaces that every cluster has.
var namespaces = []string{"", "default", "kube-system", "kube-public", "kube-node-lease"}

// checkNamespaces looks for namespaces that nobody creates.
func (l *linter) checkNamespaces(addons []chart) {
	known := slices.Clone(namespaces)
	for _, addon := range addons {
		for _, object := range addon.result.Objects {
			if object.GetKind() == "Namespace" && object.GetAPIVersion() == "v1" {
				known = append(known, object.GetName())
			}
		}
	}
	for _, addon := range addons {
		for _, object := range addon.result.Objects {
			if !slices.Contains(known, object.GetNamespace()) {
				l.report("namespace-missing", addon.find(object, "namespace: "+object.GetNamespace(), "namespace:"),
					"%s is in namespace %s, which no addon creates", label(object), object.GetNamespace())
			}
		}
	}
}

// gone says in which minor version of Kubernetes 1 an API version stopped being served, by group and version, and kind
// where only some are gone. Source: https://kubernetes.io/docs/reference/using-api/deprecation-guide/
var gone = map[string]int{
	"extensions/v1beta1": 22, "apps/v1beta1": 16, "apps/v1beta2": 16, "networking.k8s.io/v1beta1": 22,
	"rbac.authorization.k8s.io/v1beta1": 22, "apiextensions.k8s.io/v1beta1": 22, "admissionregistration.k8s.io/v1beta1": 22,
	"apiregistration.k8s.io/v1beta1": 22, "scheduling.k8s.io/v1beta1": 22, "coordination.k8s.io/v1beta1": 22,
	"certificates.k8s.io/v1beta1": 22, "policy/v1beta1": 25, "batch/v1beta1": 25, "discovery.k8s.io/v1beta1": 25,
	"autoscaling/v2beta1": 25, "autoscaling/v2beta2": 26, "storage.k8s.io/v1beta1": 27, "flowcontrol.apiserver.k8s.io/v1beta1": 26,
	"authentication.k8s.io/v1beta1": 22, "authorization.k8s.io/v1beta1": 22, "events.k8s.io/v1beta1": 25, "node.k8s.io/v1beta1": 25,
	"flowcontrol.apiserver.k8s.io/v1beta2": 29, "flowcontrol.apiserver.k8s.io/v1beta3": 32,
}

var strict = serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()

// checkObject checks one object of an addon by itself.
func (l *linter) checkObject(c chart, object *unstructured.Unstructured) {
	if minor, is := gone[object.GetAPIVersion()]; is && minorOf(l.rel.Name) >= minor && !newlyServed(object) {
		l.report("api-removed", c.find(object, "apiVersion: "+object.GetAPIVersion()),
			"%s is written in %s, which Kubernetes serves no more since 1.%d", label(object), object.GetAPIVersion(), minor)
		return
	}
	data, err := json.Marshal(object.Object)
	if err != nil {
		return // it was JSON before
	}
	_, _, err = strict.Decode(data, nil, nil)
	switch problems, isStrict := runtime.AsStrictDecodingError(err); {
	case err == nil:
	case runtime.IsNotRegisteredError(err):
		// Kinds of others are unknown here, but those of Kubernetes are all there.
		if scheme.Scheme.IsVersionRegistered(object.GroupVersionKind().GroupVersion()) {
			l.report("object-field", c.find(object, "kind: "+object.GetKind(), "kind:"), "there is no kind %q in %s", object.GetKind(), object.GetAPIVersion())
		}
	case isStrict:
		for _, problem := range problems.Errors() {
			_, field, _ := strings.Cut(problem.Error(), `"`)
			l.report("object-field", c.findField(object, strings.TrimSuffix(field, `"`)), "%s: %v", label(object), problem)
		}
	default:
		reason := err.Error()
		if _, inner, is := strings.Cut(reason, "json: "); is {
			reason = inner
		}
		l.report("object-field", c.findField(object, fieldIn(reason)), "%s: %s", label(object), reason)
	}
}

// newlyServed tells kinds that came to a version after it was gone for others.
func newlyServed(object *unstructured.Unstructured) bool {
	return slices.Contains([]string{"VolumeAttributesClass", "IPAddress", "ServiceCIDR", "ClusterTrustBundle", "PodCertificateRequest", "MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding", "LeaseCandidate"},
		object.GetKind())
}

var goFieldForm = regexp.MustCompile(`Go struct field [A-Za-z0-9]+\.([A-Za-z0-9_.]+)`)

func fieldIn(message string) string {
	if parts := goFieldForm.FindStringSubmatch(message); parts != nil {
		return parts[1]
	}
	return ""
}
