// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"github.com/clusterstacks/cluster-stack-operator/internal/controller/clusterstackrelease"
	"github.com/clusterstacks/cluster-stack-operator/internal/lint/clusterapi"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/render"
	"github.com/clusterstacks/cluster-stack-operator/internal/sample"
)

// class is what is known of the cluster class of the release.
type class struct {
	chart
	// object and parsed are nil where there is no sound ClusterClass.
	object *unstructured.Unstructured
	parsed *clusterv1.ClusterClass
}

// checkClass renders the cluster class and checks all that it consists of.
func (l *linter) checkClass(ctx context.Context) class {
	c := class{chart: chart{folder: l.where.class(), files: l.rel.ClassChart()}}
	l.checkTemplates(c.chart)
	result, from, err := render.ClassInput(l.rel, sample.Namespace).RenderFiles()
	if err != nil {
		l.reportRender(c.chart, "", err)
		return c
	}
	c.result, c.from = result, from
	if result.NewValues {
		l.report("class-generates", c.at(chartFile, 1), "the chart generates values by chance or by the clock, which differ from one render to the next")
	}
	objects := slices.Clone(result.Objects)
	for _, hook := range result.Hooks {
		objects = append(objects, hook.Object)
	}
	l.checkTwice(c.chart)
	sound := map[*unstructured.Unstructured]bool{}
	for _, object := range objects {
		sound[object] = l.checkClassObject(ctx, c, object)
	}
	for _, object := range objects {
		if object.GroupVersionKind().GroupKind() == clusterv1.GroupVersion.WithKind("ClusterClass").GroupKind() && object.GetName() == l.rel.Name.ClassName() {
			c.object = object
		}
	}
	if c.object == nil {
		l.report("class-missing", c.at(chartFile, 0), "no ClusterClass is called like the release in its form with dot (<provider>-<stack>-<major>-<minor>-<version>)")
		return c
	}
	l.checkReferences(c)
	// What its schema refuses, Cluster API would refuse in other words.
	if parsed, err := clusterapi.ReadClass(c.object); err == nil && sound[c.object] {
		c.parsed = parsed
		l.checkByClusterAPI(ctx, c)
	}
	return c
}

// checkClassObject checks one object of the class by itself, and reports whether its fields are sound.
func (l *linter) checkClassObject(ctx context.Context, c class, object *unstructured.Unstructured) (sound bool) {
	gvk := object.GroupVersionKind()
	kinds := clusterstackrelease.Kinds()
	switch {
	case gvk.Group == "" || !slices.Contains(kinds, gvk.Group) && !slices.Contains(kinds, gvk.Group+"/"+gvk.Kind):
		l.report("kind-refused", c.find(object, "kind: "+gvk.Kind), "a cluster class may not have a %s of %s", gvk.Kind, cmp.Or(gvk.Group, "the core API"))
	case object.GetNamespace() != "" && object.GetNamespace() != sample.Namespace:
		l.report("kind-refused", c.find(object, "namespace:"), "%s is in namespace %s: everything of a class is in the namespace of its ClusterStack", gvk.Kind, object.GetNamespace())
	}
	if name := object.GetName(); !strings.Contains(name, l.rel.Name.Version.String()) && !strings.Contains(name, l.rel.Name.Version.Dashed()) {
		l.report("name-without-version", c.find(object), "%s %s has the same name in all versions of the stack", gvk.Kind, name)
	}
	if strings.HasSuffix(gvk.Group, "cluster.x-k8s.io") && gvk.Version == "v1beta1" && gvk.Group != "infrastructure.cluster.x-k8s.io" {
		l.report("class-old-version", c.find(object, "apiVersion:"), "%s is written in %s", gvk.Kind, object.GetAPIVersion())
	}
	sound = true
	for _, problem := range l.schemas.Check(ctx, object) {
		sound = false
		if problem.Unknown {
			l.report("class-unknown-field", c.findField(object, problem.Field), "%s: %s is not a field", gvk.Kind, problem.Field)
		} else {
			l.report("class-schema", c.findField(object, problem.Field), "%s: %s: %s", gvk.Kind, problem.Field, problem.Message)
		}
	}
	if sound {
		for _, problem := range clusterapi.CheckTemplate(ctx, object) {
			l.report("template-invalid", c.findField(object, problem.Field), "%s: %s", gvk.Kind, problem.Message)
		}
	}
	l.checkVersionsIn(c, object)
	return sound
}

// Texts that name a version of Kubernetes: images of nodes and of its components.
var kubernetesIn = regexp.MustCompile(`(?i)(?:kube|capi|kindest/node)[a-z0-9/_.:-]*?v?1[.-](2[0-9]|3[0-9]|4[0-9])(?:[.-][0-9]+)?(?:[^0-9.]|$)`)

// checkVersionsIn looks for another version of Kubernetes in an object.
func (l *linter) checkVersionsIn(c class, object *unstructured.Unstructured) {
	_, minor, _ := strings.Cut(l.rel.Name.Kubernetes, ".")
	var walk func(value any)
	walk = func(value any) {
		switch value := value.(type) {
		case map[string]any:
			for key, v := range value {
				if key != "description" && key != "example" {
					walk(v)
				}
			}
		case []any:
			for _, v := range value {
				walk(v)
			}
		case string:
			if found := kubernetesIn.FindStringSubmatch(value); found != nil && found[1] != minor {
				text, _, _ := strings.Cut(value, "\n")
				l.report("kubernetes-version-mismatch", c.find(object, text), "%s: %q speaks of Kubernetes 1.%s, the stack is for %s", object.GetKind(), text, found[1], l.rel.Name.Kubernetes)
			}
		}
	}
	walk(object.Object["spec"])
}

// checkReferences compares the references of the ClusterClass with the templates of its chart.
func (l *linter) checkReferences(c class) {
	used := map[string]bool{}
	var walk func(of *unstructured.Unstructured, value any, path string)
	walk = func(of *unstructured.Unstructured, value any, path string) {
		switch value := value.(type) {
		case map[string]any:
			kind, _ := value["kind"].(string)
			name, _ := value["name"].(string)
			apiVersion, _ := value["apiVersion"].(string)
			if strings.HasSuffix(kind, "Template") && name != "" && apiVersion != "" {
				group, _, _ := strings.Cut(apiVersion, "/")
				used[group+"/"+kind+"/"+name] = true
				if of.GetKind() == c.object.GetKind() && find(c.result.Objects, group, kind, name) == nil {
					l.report("template-missing", c.findField(of, path+".name"), "the class refers to %s %s, which is not in the chart", kind, name)
				}
				return
			}
			for key, v := range value {
				walk(of, v, path+"."+key)
			}
		case []any:
			for i, v := range value {
				walk(of, v, path+"["+strconv.Itoa(i)+"]")
			}
		}
	}
	// A chart may have further classes, and templates that refer to one another.
	for _, object := range c.result.Objects {
		spec, _ := object.Object["spec"].(map[string]any)
		for key, value := range spec {
			if object.GetKind() != c.object.GetKind() || key != "patches" && key != "variables" {
				walk(object, value, "spec."+key)
			}
		}
	}
	for _, object := range c.result.Objects {
		gvk := object.GroupVersionKind()
		isTemplate := strings.HasSuffix(gvk.Kind, "Template") && strings.HasSuffix(gvk.Group, ".cluster.x-k8s.io")
		if isTemplate && !used[gvk.Group+"/"+gvk.Kind+"/"+object.GetName()] {
			l.report("template-unused", c.find(object), "nothing refers to %s %s", gvk.Kind, object.GetName())
		}
	}
}

func find(objects []*unstructured.Unstructured, group, kind, name string) *unstructured.Unstructured {
	for _, object := range objects {
		if gvk := object.GroupVersionKind(); gvk.Group == group && gvk.Kind == kind && object.GetName() == name {
			return object
		}
	}
	return nil
}

// checkByClusterAPI asks Cluster API what it has against the class, and against its patches.
func (l *linter) checkByClusterAPI(ctx context.Context, c class) {
	sound := true
	for _, problem := range clusterapi.CheckClass(ctx, nil, c.parsed) {
		sound = false
		id := "class-invalid"
		switch {
		case strings.HasPrefix(problem.Field, "spec.variables"):
			id = "class-variable"
		case strings.HasPrefix(problem.Field, "spec.patches"):
			id = "class-patch"
		}
		l.report(id, c.findField(c.object, problem.Field), "%s: %s", problem.Field, problem.Message)
	}
	if !sound {
		return
	}
	for _, minimal := range []bool{false, true} {
		made, err := sample.Of(l.rel, c.result.Objects, sample.Options{Minimal: minimal})
		if err != nil {
			return // what is wrong with a variable has been said
		}
		template := func(ref clusterapi.Reference) *unstructured.Unstructured {
			return find(c.result.Objects, ref.Group, ref.Kind, ref.Name)
		}
		for _, problem := range l.schemas.Patch(ctx, c.parsed, template, made.Cluster) {
			l.report("patch-fails", c.find(c.object, "name: "+problem.Field), "patch %s fails: %s", problem.Field, problem.Message)
		}
	}
}

// checkPrevious compares with the release from which clusters will come.
func (l *linter) checkPrevious(ctx context.Context, c class) {
	if l.Previous == nil {
		return
	}
	before, after := l.Previous.Name, l.rel.Name
	if before.Provider != after.Provider || before.Stack != after.Stack || minorOf(after)-minorOf(before) > 1 || minorOf(after) < minorOf(before) {
		l.report("previous-release", c.at(chartFile, 0), "clusters cannot come from %s: it has to be of the same stack, and of the same or the previous minor version of Kubernetes", before)
		return
	}
	for _, addon := range l.Previous.Addons() {
		if !slices.Contains(l.rel.Addons(), addon) {
			l.report("addon-removed", place{file: release.StagesFile}, "%s had the addon %s: an upgrade deletes it", before, addon)
		}
	}
	if c.parsed == nil {
		return
	}
	result, err := render.Class(l.Previous, sample.Namespace)
	if err != nil {
		l.report("previous-release", c.at(chartFile, 0), "the class of %s cannot be rendered: %v", before, err)
		return
	}
	object := find(result.Objects, clusterv1.GroupVersion.Group, "ClusterClass", before.ClassName())
	if object == nil {
		l.report("previous-release", c.at(chartFile, 0), "%s has no ClusterClass", before)
		return
	}
	previous, err := clusterapi.ReadClass(object)
	if err != nil {
		l.report("previous-release", c.at(chartFile, 0), "the ClusterClass of %s cannot be read: %v", before, err)
		return
	}
	l.compareClasses(ctx, c, previous)
}

func (l *linter) compareClasses(ctx context.Context, c class, previous *clusterv1.ClusterClass) {
	before := l.Previous.Name
	classes := func(of *clusterv1.ClusterClass) (names []string) {
		for _, worker := range of.Spec.Workers.MachineDeployments {
			names = append(names, worker.Class)
		}
		for _, pool := range of.Spec.Workers.MachinePools {
			names = append(names, pool.Class)
		}
		return names
	}
	now := classes(c.parsed)
	for _, name := range classes(previous) {
		if !slices.Contains(now, name) {
			l.report("worker-class-removed", c.findField(c.object, "spec.workers"), "%s has the worker class %s, this one has not", before, name)
		}
	}
	for _, variable := range previous.Spec.Variables {
		if !slices.ContainsFunc(c.parsed.Spec.Variables, func(v clusterv1.ClusterClassVariable) bool { return v.Name == variable.Name }) {
			l.report("variable-removed", c.findField(c.object, "spec.variables"), "%s has the variable %s, this one has not", before, variable.Name)
		}
	}
	for _, variable := range c.parsed.Spec.Variables {
		was := slices.IndexFunc(previous.Spec.Variables, func(v clusterv1.ClusterClassVariable) bool { return v.Name == variable.Name })
		required := variable.Required != nil && *variable.Required && variable.Schema.OpenAPIV3Schema.Default == nil
		wasRequired := was >= 0 && previous.Spec.Variables[was].Required != nil && *previous.Spec.Variables[was].Required
		if required && !wasRequired {
			l.report("variable-required", c.find(c.object, "name: "+variable.Name), "the variable %s is required and was not in %s", variable.Name, before)
		}
	}
	alone := clusterapi.CheckClass(ctx, nil, c.parsed)
	for _, problem := range clusterapi.CheckClass(ctx, previous, c.parsed) {
		if !slices.Contains(alone, problem) {
			l.report("class-incompatible", c.findField(c.object, problem.Field), "clusters cannot come from %s: %s: %s", before, problem.Field, problem.Message)
		}
	}
}

func minorOf(name release.Name) int {
	_, minor, _ := strings.Cut(name.Kubernetes, ".")
	n, _ := strconv.Atoi(minor) // of a name that was parsed
	return n
}

// reportRender reports why a chart cannot be rendered. The values template is reported under its own rules.
func (l *linter) reportRender(c chart, values string, err error) {
	var at *render.InvalidError
	if !errors.As(err, &at) {
		l.report("template", c.at("", 0), "%v", err)
		return
	}
	text := at.Reason
	id, where := "template", c.at(at.File, at.Line)
	switch {
	case values != "" && (at.File == release.OverwriteFile || at.File == release.LegacyValuesFile):
		id, where = "values-template", place{values, at.Line}
		if strings.Contains(text, "does not exist here") {
			id = "forbidden-function"
		}
	case strings.HasPrefix(text, "charts/ lacks"):
		if text, _, _ = strings.Cut(text, ": build the release"); l.outOfReach[c.folder] != nil {
			text += fmt.Sprintf(": %v", l.outOfReach[c.folder])
		}
		id, where = "dependency-missing", c.at(at.File, lineOfText(fileOf(c.files, chartFile), "dependencies:"))
	case strings.HasPrefix(text, "the chart wants Kubernetes"):
		id, where = "kubernetes-version", c.at(at.File, lineOfText(fileOf(c.files, chartFile), "kubeVersion:"))
	}
	l.report(id, where, "%s", text)
}

func fileOf(files release.Chart, name string) []byte {
	data, _ := files.File(name)
	return data
}

// label names an object in messages.
func label(object *unstructured.Unstructured) string {
	return fmt.Sprintf("%s %s", object.GetKind(), object.GetName())
}
