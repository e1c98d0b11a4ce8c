// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package compare

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Machines says what becomes of a part of a cluster's machines when its class and version change to those of the
// second release.
type Machines struct {
	// Set is "control plane", "worker class <name>", "machine pool class <name>" or "cluster infrastructure".
	Set    string `json:"set"`
	Effect Effect `json:"effect"`
	// Reasons say why, in sentences without end.
	Reasons []string `json:"reasons,omitempty"`
}

// Effect is what Cluster API does with machines.
type Effect string

// From the weakest to the strongest.
const (
	Untouched  Effect = "untouched"
	InPlace    Effect = "changed in place"
	MayReplace Effect = "may be replaced"
	Replaced   Effect = "replaced"
)

var strength = []Effect{Untouched, InPlace, MayReplace, Replaced}

func (m *Machines) because(effect Effect, format string, args ...any) {
	if slices.Index(strength, effect) > slices.Index(strength, m.Effect) {
		m.Effect = effect
	}
	m.Reasons = append(m.Reasons, fmt.Sprintf(format, args...))
}

// The sets of machines, and what stands behind them.
const (
	controlPlane   = "control plane"
	infrastructure = "cluster infrastructure"
	workerClass    = "worker class "
	poolClass      = "machine pool class "
)

// role is what a template is for in a class.
type role struct{ set, part string }

const (
	machinePart   = "infrastructure"
	bootstrapPart = "bootstrap"
	wholePart     = ""
)

// classOf is a ClusterClass with its templates.
type classOf struct {
	class     *unstructured.Unstructured
	templates map[role]*unstructured.Unstructured
	// kinds and names are those that the class refers to, also where the template is missing.
	kinds, names map[role]string
	// workers are the worker and machine pool classes, by the name of their set.
	workers map[string]map[string]any
	order   []role
}

func readClass(side Side) classOf {
	c := classOf{templates: map[role]*unstructured.Unstructured{}, kinds: map[role]string{}, names: map[role]string{}, workers: map[string]map[string]any{}}
	for _, obj := range side.Class.Objects {
		if obj.GetKind() == "ClusterClass" && (c.class == nil || obj.GetName() == side.Name.ClassName()) {
			c.class = obj
		}
	}
	if c.class == nil {
		return c
	}
	spec, _ := c.class.Object["spec"].(map[string]any)
	add := func(r role, parent any) {
		holder, _ := parent.(map[string]any)
		ref, is := holder["templateRef"].(map[string]any)
		if !is {
			ref, is = holder["ref"].(map[string]any) // v1beta1
		}
		if !is {
			return
		}
		wanted := &unstructured.Unstructured{Object: map[string]any{"apiVersion": ref["apiVersion"], "kind": ref["kind"]}}
		gk := wanted.GroupVersionKind().GroupKind()
		c.kinds[r] = gk.String()
		c.names[r], _ = ref["name"].(string)
		c.order = append(c.order, r)
		for _, obj := range side.Class.Objects {
			if obj.GroupVersionKind().GroupKind() == gk && obj.GetName() == ref["name"] {
				c.templates[r] = obj
			}
		}
	}
	add(role{infrastructure, wholePart}, spec["infrastructure"])
	add(role{controlPlane, wholePart}, spec["controlPlane"])
	if cp, is := spec["controlPlane"].(map[string]any); is {
		add(role{controlPlane, machinePart}, cp["machineInfrastructure"])
	}
	workers, _ := spec["workers"].(map[string]any)
	for _, kind := range []struct{ list, set string }{{"machineDeployments", workerClass}, {"machinePools", poolClass}} {
		list, _ := workers[kind.list].([]any)
		for _, item := range list {
			worker, _ := item.(map[string]any)
			set := kind.set + fmt.Sprint(worker["class"])
			c.workers[set] = worker
			if template, is := worker["template"].(map[string]any); is { // v1beta1
				worker = template
			}
			add(role{set, bootstrapPart}, worker["bootstrap"])
			add(role{set, machinePart}, worker["infrastructure"])
		}
	}
	return c
}

// matching pairs the objects of two cluster classes.
type matching struct {
	from, to classOf
	pairs    map[*unstructured.Unstructured]*unstructured.Unstructured
	hooks    map[*unstructured.Unstructured]*unstructured.Unstructured
}

// matchClass pairs templates by what they are for in the class, and everything else by its name without the version of
// the release: names of templates carry it, since a template never changes.
func matchClass(from, to Side, names versions) matching {
	m := matching{
		from: readClass(from), to: readClass(to),
		pairs: map[*unstructured.Unstructured]*unstructured.Unstructured{},
		hooks: map[*unstructured.Unstructured]*unstructured.Unstructured{},
	}
	taken := map[*unstructured.Unstructured]bool{}
	pair := func(pairs map[*unstructured.Unstructured]*unstructured.Unstructured, a, b *unstructured.Unstructured) {
		if a != nil && b != nil && pairs[a] == nil && !taken[b] {
			pairs[a], taken[b] = b, true
		}
	}
	pair(m.pairs, m.from.class, m.to.class)
	for _, r := range m.from.order {
		if m.from.kinds[r] == m.to.kinds[r] {
			pair(m.pairs, m.from.templates[r], m.to.templates[r])
		}
	}
	byName := func(pairs map[*unstructured.Unstructured]*unstructured.Unstructured, olds, news []*unstructured.Unstructured) {
		for _, exact := range []bool{true, false} {
			for _, a := range olds {
				for _, b := range news {
					if a.GroupVersionKind().GroupKind() == b.GroupVersionKind().GroupKind() &&
						(a.GetName() == b.GetName() || !exact && names.sameName(a.GetName(), b.GetName())) {
						pair(pairs, a, b)
					}
				}
			}
		}
	}
	byName(m.pairs, from.Class.Objects, to.Class.Objects)
	byName(m.hooks, from.Class.Hooks, to.Class.Hooks)
	return m
}

func (m matching) partner(obj *unstructured.Unstructured, hook bool) *unstructured.Unstructured {
	if hook {
		return m.hooks[obj]
	}
	return m.pairs[obj]
}

// class says what follows from the changes of the cluster class.
//
// Cluster API copies the templates of a class for each cluster. When the class changes, it compares the copy with the
// new template under the name of the copy: where spec is the same, the copy stays and no machine is replaced, whatever
// the template is called now; where only metadata differ, the copy is patched. Another spec makes a new copy, and
// machines that were made from the old one are replaced.
func (c *Comparison) class(from, to Side, m matching, names versions) {
	sets := map[string]*Machines{}
	var order []string
	set := func(name string) *Machines {
		if sets[name] == nil {
			sets[name] = &Machines{Set: name, Effect: Untouched}
			order = append(order, name)
		}
		return sets[name]
	}
	for _, r := range m.from.order {
		if m.from.workers[r.set] == nil || m.to.workers[r.set] != nil {
			set(r.set)
		}
	}
	if k := c.Kubernetes; k != nil {
		for _, name := range order {
			switch {
			case name == infrastructure:
			case to.Metadata.Allows(k.From):
				sets[name].because(MayReplace, "Kubernetes goes from %s to %s where a Cluster asks for that: it may keep its version", k.From, k.To)
			default:
				sets[name].because(Replaced, "Kubernetes goes from %s to %s", k.From, k.To)
			}
		}
	}
	for _, r := range m.from.order {
		if _, stays := m.to.kinds[r]; !stays {
			if _, worker := m.from.workers[r.set]; worker && m.to.workers[r.set] == nil {
				continue
			}
		}
		c.template(set(r.set), r, m, names)
	}
	for _, name := range keysOfSets(m.from.workers) {
		next, stays := m.to.workers[name]
		if !stays {
			c.problem(subject(name), "it is gone: Cluster API refuses the new class for Clusters that use it")
			continue
		}
		if a, b := m.from.workers[name]["failureDomain"], next["failureDomain"]; !equal(a, b) {
			set(name).because(Replaced, "the class has another failure domain, for Clusters that choose none")
		}
	}
	c.patches(m, names, func(name string) *Machines {
		if _, known := sets[name]; !known && m.from.workers[name] == nil && name != controlPlane {
			return &Machines{}
		}
		return set(name)
	})
	for _, name := range order {
		c.Machines = append(c.Machines, *sets[name])
	}
	c.variables(m, names)
	for _, obj := range from.Class.Objects {
		next := m.pairs[obj]
		if next != nil && next.GetName() == obj.GetName() && !equal(obj.Object, next.Object) {
			c.problem(describe(next, false, Changed), "it has the same name in both releases and another content: as long as both are there, the second one gets a conflict (reason Conflict); put the version of the release into its name")
		}
	}
}

func keysOfSets[V any](m map[string]V) []string {
	var keys []string
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// template says what follows from the change of one template.
func (c *Comparison) template(set *Machines, r role, m matching, names versions) {
	if a, b := m.from.kinds[r], m.to.kinds[r]; a != b && r.part != bootstrapPart {
		c.problem(subject(r.set), "its template goes from %s to %s: Cluster API refuses the new class for Clusters of the old one", orNone(a), orNone(b))
		return
	}
	if a, b := m.from.kinds[r], m.to.kinds[r]; a != b {
		set.because(Replaced, "its template goes from %s to %s", orNone(a), orNone(b))
		return
	}
	a, b := m.from.templates[r], m.to.templates[r]
	if a == nil || b == nil {
		// Somebody else brings them.
		if before, after := m.from.names[r], m.to.names[r]; before != after || a != b {
			set.because(MayReplace, "%s %s is not in the release: what is in it is not known", m.to.kinds[r], after)
		}
		return
	}
	fields := names.mark(differences(map[string]any{"spec": a.Object["spec"]}, map[string]any{"spec": b.Object["spec"]}))
	name := b.GetKind()
	if len(fields) == 0 {
		if !equal(a.GetLabels(), b.GetLabels()) || !equal(a.GetAnnotations(), b.GetAnnotations()) {
			set.because(InPlace, "%s has other labels or annotations", name)
		}
		return
	}
	what := summary(fields)
	switch {
	case a.GetAPIVersion() != b.GetAPIVersion():
		set.because(MayReplace, "%s is written in %s instead of %s: whether it means the same, only Cluster API knows", name, b.GetAPIVersion(), a.GetAPIVersion())
	case r.set == infrastructure:
		set.because(InPlace, "%s: %s", name, what)
	case r.set == controlPlane && r.part == wholePart:
		c.controlPlane(set, b, fields)
	case strings.HasPrefix(r.set, poolClass):
		set.because(MayReplace, "%s: %s; its provider decides", name, what)
	default:
		set.because(Replaced, "%s: %s", name, what)
	}
}

// later are fields of kubeadm's configuration that Cluster API does not compare with what its machines have: they count for
// the next machine, or are changed in the cluster itself.
var later = regexp.MustCompile(`^(clusterConfiguration\.(dns|controlPlaneEndpoint)|joinConfiguration\.discovery)\b` +
	`|^(init|join)Configuration\.timeouts\.controlPlaneComponentHealthCheckSeconds$|^clusterConfiguration\.apiServer\.timeoutForControlPlane$`)

// controlPlane says what a change of the control plane's template comes to. Of kubeadm's it is known.
func (c *Comparison) controlPlane(set *Machines, template *unstructured.Unstructured, fields []Field) {
	const kubeadm = "spec.template.spec.kubeadmConfigSpec"
	var machines, first, others []Field
	for _, f := range leaves(fields) {
		below, _ := strings.CutPrefix(f.Path, kubeadm+".")
		switch {
		case later.MatchString(below):
			others = append(others, f)
		case strings.HasPrefix(f.Path, kubeadm+".initConfiguration"):
			first = append(first, f)
		case strings.HasPrefix(f.Path, kubeadm):
			machines = append(machines, f)
		default:
			others = append(others, f)
		}
	}
	name := template.GetKind()
	if name != "KubeadmControlPlaneTemplate" {
		set.because(MayReplace, "%s: %s; its provider decides", name, summary(fields))
		return
	}
	switch {
	case len(machines) > 0:
		set.because(Replaced, "%s: %s", name, summary(machines))
	case len(first) > 0:
		set.because(MayReplace, "%s: %s; that concerns the first machine only, if it is still there", name, summary(first))
	}
	if len(others) > 0 {
		set.because(InPlace, "%s: %s", name, summary(others))
	}
}

// leaves takes maps apart that come or go as a whole.
func leaves(fields []Field) []Field {
	var all []Field
	for _, f := range fields {
		old, oldMap := f.Old.(map[string]any)
		next, nextMap := f.New.(map[string]any)
		if len(old)+len(next) == 0 || f.Old != nil && !oldMap || f.New != nil && !nextMap {
			all = append(all, f)
			continue
		}
		for _, key := range keysOf(old, next) {
			all = append(all, leaves([]Field{{Path: join(f.Path, key), Change: f.Change, Old: old[key], New: next[key], VersionOnly: f.VersionOnly}})...)
		}
	}
	return all
}

// summary names the first fields that change.
func summary(fields []Field) string {
	const shown = 3
	var paths []string
	only := true
	for _, f := range fields {
		only = only && f.VersionOnly
		paths = append(paths, strings.TrimPrefix(f.Path, "spec.template.spec."))
	}
	more := ""
	if len(paths) > shown {
		more = fmt.Sprintf(" and %d more", len(paths)-shown)
		paths = paths[:shown]
	}
	verb := "changes"
	if len(fields) > 1 {
		verb = "change"
	}
	text := strings.Join(paths, ", ") + more + " " + verb
	if only {
		text += ", though only because the version of the release stands there"
	}
	return text
}

func orNone(s string) string { return cmp.Or(s, "none") }

// patches says which machines the patches of the class may change. What they make depends on the variables of a Cluster.
func (c *Comparison) patches(m matching, names versions, set func(string) *Machines) {
	if m.from.class == nil || m.to.class == nil {
		return
	}
	before, after := patchesOf(m.from.class), patchesOf(m.to.class)
	for _, name := range keysOf(before, after) {
		a, b := before[name], after[name]
		if !slices.ContainsFunc(names.mark(differences(map[string]any{"patch": a}, map[string]any{"patch": b})), func(f Field) bool { return !f.VersionOnly }) {
			continue
		}
		verb := "changes"
		switch {
		case a == nil:
			verb = "is new"
		case b == nil:
			verb = "is gone"
		}
		for _, where := range unique(append(touches(a, m), touches(b, m)...)) {
			if where == infrastructure {
				set(where).because(InPlace, "patch %s of the class %s: what it makes depends on the variables of the Cluster", name, verb)
				continue
			}
			set(where).because(MayReplace, "patch %s of the class %s: what it makes depends on the variables of the Cluster", name, verb)
		}
	}
}

func patchesOf(class *unstructured.Unstructured) map[string]any {
	list, _, _ := unstructured.NestedSlice(class.Object, "spec", "patches")
	all := map[string]any{}
	for _, item := range list {
		if patch, is := item.(map[string]any); is {
			all[fmt.Sprint(patch["name"])] = patch
		}
	}
	return all
}

// touches returns the sets of machines whose templates a patch selects.
func touches(patch any, m matching) []string {
	all := append([]string{infrastructure, controlPlane}, keysOfSets(m.from.workers)...)
	p, _ := patch.(map[string]any)
	if p == nil {
		return nil
	}
	definitions, _ := p["definitions"].([]any)
	if len(definitions) == 0 {
		return all // an extension decides
	}
	var sets []string
	for _, item := range definitions {
		definition, _ := item.(map[string]any)
		match, _, _ := unstructured.NestedMap(definition, "selector", "matchResources")
		if is, _ := match["controlPlane"].(bool); is {
			sets = append(sets, controlPlane)
		}
		if is, _ := match["infrastructureCluster"].(bool); is {
			sets = append(sets, infrastructure)
		}
		for key, prefix := range map[string]string{"machineDeploymentClass": workerClass, "machinePoolClass": poolClass} {
			of, _, _ := unstructured.NestedStringSlice(match, key, "names")
			for _, name := range of {
				for _, set := range all {
					if set == prefix+name || strings.HasPrefix(set, prefix) && strings.Contains(name, "*") {
						sets = append(sets, set)
					}
				}
			}
		}
	}
	slices.Sort(sets)
	return sets
}

func unique(list []string) []string {
	slices.Sort(list)
	return slices.Compact(list)
}

// Variable is a variable of the ClusterClass that changes.
type Variable struct {
	Name   string `json:"name"`
	Change Change `json:"change"`
	// Required says that the second release demands it.
	Required bool `json:"required,omitempty"`
	// Consequence says what somebody has to do, empty if nothing.
	Consequence string `json:"consequence,omitempty"`
	// Note says what is good to know.
	Note   string  `json:"note,omitempty"`
	Fields []Field `json:"fields,omitempty"`
}

func (c *Comparison) variables(m matching, names versions) {
	if m.from.class == nil || m.to.class == nil {
		return
	}
	before, after := variablesOf(m.from.class), variablesOf(m.to.class)
	for _, name := range keysOf(before, after) {
		a, _ := before[name].(map[string]any)
		b, _ := after[name].(map[string]any)
		v := Variable{Name: name, Change: Changed}
		v.Required, _ = b["required"].(bool)
		was, _ := a["required"].(bool)
		_, given, _ := unstructured.NestedFieldNoCopy(b, "schema", "openAPIV3Schema", "default")
		switch {
		case a == nil:
			v.Change = Added
		case b == nil:
			v.Change = Removed
			v.Consequence = "Clusters that set it must take it out when they change to the new class"
		default:
			if v.Fields = names.mark(differences(a, b)); len(v.Fields) == 0 {
				continue
			}
		}
		if v.Required && !was && !given {
			v.Consequence = "Clusters that do not set it must do so when they change to the new class"
		} else if rules := narrowed(v.Fields); len(rules) > 0 {
			v.Consequence = fmt.Sprintf("Clusters with a value that the new schema refuses (%s) must change it when they change to the new class", strings.Join(rules, ", "))
		}
		if slices.ContainsFunc(v.Fields, func(f Field) bool { return ofDefault(f.Path) }) {
			v.Note = "another default counts for new Clusters only: Cluster API has written the one before into those that are there"
		}
		c.Variables = append(c.Variables, v)
	}
}

// ofDefault reports whether a path is that of the default of a variable, or of what is in it.
func ofDefault(path string) bool {
	below, inSchema := strings.CutPrefix(path, "schema.openAPIV3Schema.")
	before := ""
	for part := range strings.SplitSeq(below, ".") {
		name, _, _ := strings.Cut(part, "[")
		if inSchema && name == "default" && before != "properties" {
			return true
		}
		before = name
	}
	return false
}

// narrowed returns the rules of a schema by which values that were allowed before may be refused.
func narrowed(fields []Field) []string {
	var rules []string
	for _, f := range fields {
		path, inSchema := strings.CutPrefix(f.Path, "schema.openAPIV3Schema.")
		if !inSchema || ofDefault(f.Path) {
			continue
		}
		parts := strings.Split(path, ".")
		last, _, isItem := strings.Cut(parts[len(parts)-1], "[")
		isProperty := len(parts) > 1 && parts[len(parts)-2] == "properties"
		from, isNumber1 := asNumber(f.Old)
		to, isNumber2 := asNumber(f.New)
		narrower := false
		switch {
		case isProperty: // fields that a schema does not know are refused
			narrower = f.Change == Removed
			last = "properties"
		case last == "enum":
			narrower = isItem && f.Change != Added || !isItem && f.Change == Added
		case last == "required":
			narrower = f.Change == Added || isItem && f.Change == Changed
		case strings.HasPrefix(last, "min") || strings.HasPrefix(last, "max"):
			up := strings.HasPrefix(last, "min")
			narrower = f.Change == Added || isNumber1 && isNumber2 && (up && to > from || !up && to < from)
		case slices.Contains([]string{"exclusiveMinimum", "exclusiveMaximum", "uniqueItems"}, last):
			narrower = f.New == true
		case slices.Contains([]string{"type", "pattern", "format", "multipleOf"}, last):
			narrower = f.Change != Removed
		case strings.Contains(path, "x-kubernetes-validations"):
			last, narrower = "x-kubernetes-validations", f.Change != Removed
		case last == "additionalProperties" || last == "x-kubernetes-preserve-unknown-fields":
			narrower = f.Change == Removed || f.New == false
		}
		if narrower {
			rules = append(rules, last)
		}
	}
	return unique(rules)
}

func asNumber(value any) (float64, bool) {
	switch n := value.(type) {
	case int64:
		return float64(n), true
	case float64:
		return n, true
	}
	return 0, false
}

func variablesOf(class *unstructured.Unstructured) map[string]any {
	list, _, _ := unstructured.NestedSlice(class.Object, "spec", "variables")
	all := map[string]any{}
	for _, item := range list {
		if variable, is := item.(map[string]any); is {
			all[fmt.Sprint(variable["name"])] = variable
		}
	}
	return all
}
