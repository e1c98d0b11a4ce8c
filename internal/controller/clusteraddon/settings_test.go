// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clusteraddon

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/apitest"
	"github.com/clusterstacks/cluster-stack-operator/internal/release/releasetest"
	"github.com/clusterstacks/cluster-stack-operator/internal/step"
)

func TestSettings(t *testing.T) {
	workload := workloadServer(t)
	for name, test := range map[string]func(*env){
		"GiveValues":                testGivesValues,
		"NameAnotherKey":            testNamesAnotherKey,
		"BoundValues":               testBoundsValues,
		"HideSecrets":               testHidesSecrets,
		"WaitForValues":             testWaitsForValues,
		"TellAllThatIsMissing":      testTellsAllThatIsMissing,
		"SwitchOff":                 testSwitchesOff,
		"ChangeDuringAnUpgrade":     testValuesChangeDuringAnUpgrade,
		"FromLegacyToStagesAndBack": testFromLegacyToStagesAndBack,
		"RememberRollouts":          testRemembersRollouts,
	} {
		t.Run(name, func(t *testing.T) { test(newEnv(t, workload)) })
	}
}

// set writes what the user of the cluster says about its addons.
func (e *env) set(spec v1alpha1.ClusterAddonSettingsSpec) {
	e.Helper()
	settings := &v1alpha1.ClusterAddonSettings{ObjectMeta: metav1.ObjectMeta{Namespace: e.ns, Name: e.key.Name}}
	err := e.client.Get(e.Context(), e.key, settings)
	if client.IgnoreNotFound(err) != nil {
		e.Fatal(err)
	}
	settings.Spec = spec
	if err == nil {
		err = e.client.Update(e.Context(), settings)
	} else {
		err = e.client.Create(e.Context(), settings)
	}
	if err != nil {
		e.Fatal(err)
	}
}

func (e *env) putSecret(name, values string) {
	e.Helper()
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: e.ns, Name: name},
		Data:       map[string][]byte{v1alpha1.DefaultValuesKey: []byte(values)},
	}
	e.write(secret)
}

func (e *env) putConfigMap(name, values string) {
	e.Helper()
	e.write(&corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: e.ns, Name: name},
		Data:       map[string]string{v1alpha1.DefaultValuesKey: values},
	})
}

// write creates or replaces an object of the management cluster.
func (e *env) write(obj client.Object) {
	e.Helper()
	stored, ok := obj.DeepCopyObject().(client.Object)
	if !ok {
		e.Fatal("not an object")
	}
	err := e.client.Get(e.Context(), client.ObjectKeyFromObject(obj), stored)
	if err == nil {
		obj.SetResourceVersion(stored.GetResourceVersion())
		err = e.client.Update(e.Context(), obj)
	} else {
		err = e.client.Create(e.Context(), obj)
	}
	if err != nil {
		e.Fatal(err)
	}
}

func valuesOf(addon string, refs ...v1alpha1.ValuesReference) v1alpha1.ClusterAddonSettingsSpec {
	return v1alpha1.ClusterAddonSettingsSpec{Addons: []v1alpha1.AddonSettings{{Name: addon, ValuesFrom: refs}}}
}

func fromConfigMap(name string) v1alpha1.ValuesReference {
	return v1alpha1.ValuesReference{Kind: v1alpha1.ValuesFromConfigMap, Name: name}
}

func fromSecret(name string) v1alpha1.ValuesReference {
	return v1alpha1.ValuesReference{Kind: v1alpha1.ValuesFromSecret, Name: name}
}

func testGivesValues(e *env) {
	e.publish(v1, both("cni", "csi"), addons{
		"cni": object("cni", "{{ .Values.colour }} {{ (.Values.size).a }} {{ (.Values.size).b }}"), "csi": object("csi", "{{ .Values.colour }}"),
	})
	e.running(v1, k135)
	e.putConfigMap("first", "colour: red\nsize: {a: 1, b: 2}\n")
	e.putSecret("second", "size: {b: 20000000}\n")
	optional := fromConfigMap("absent")
	optional.Optional = true
	e.set(valuesOf("cni", fromConfigMap("first"), optional, fromSecret("second")))
	o := e.start()
	o.settle()
	e.wantReady()
	e.wantObjects("cni: red 1 20000000", "csi: ")

	e.putSecret("second", "size: {b: 3}\ncolour: blue\n")
	o.settle()
	e.wantReady()
	e.wantObjects("cni: blue 1 3", "csi: ")

	before := e.versions()
	e.start().settle()
	if after := e.versions(); len(before) != len(after) || before["addon"] != after["addon"] {
		e.Error("written at rest")
	}

	e.set(v1alpha1.ClusterAddonSettingsSpec{})
	o.settle()
	e.wantObjects("cni:   ", "csi: ")
}

// testNamesAnotherKey: one Secret has the values of several environments, and a cluster goes from one to another.
func testNamesAnotherKey(e *env) {
	e.publish(v1, both("cni", "csi"), addons{"cni": object("cni", "{{ .Values.colour }}"), "csi": object("csi", "{{ .Values.colour }}")})
	e.running(v1, k135)
	e.write(&corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: e.ns, Name: "all"},
		Data:       map[string][]byte{"a.yaml": []byte("colour: red\n"), "b.yaml": []byte("colour: blue\n")},
	})
	a, b := fromSecret("all"), fromSecret("all")
	a.Key, b.Key = "a.yaml", "b.yaml"
	values := func(cni, csi v1alpha1.ValuesReference) {
		e.set(v1alpha1.ClusterAddonSettingsSpec{Addons: []v1alpha1.AddonSettings{
			{Name: "cni", ValuesFrom: []v1alpha1.ValuesReference{cni}}, {Name: "csi", ValuesFrom: []v1alpha1.ValuesReference{csi}},
		}})
	}
	values(a, a)
	o := e.start()
	o.settle()
	e.wantReady()
	e.wantObjects("cni: red", "csi: red")
	values(b, a)
	o.settle()
	e.wantReady()
	e.wantObjects("cni: blue", "csi: red")
	values(a, b)
	o.settle()
	e.wantReady()
	e.wantObjects("cni: red", "csi: blue")
}

// testBoundsValues: an object that several addons name is read once and given to each as it is; of many large ones so much
// is read, and the user is told.
func testBoundsValues(e *env) {
	e.publish(v1, both("cni", "csi"), addons{"cni": object("cni", "{{ .Values.map.a }} {{ .Values.map.b }}"), "csi": object("csi", "{{ .Values.map.a }} {{ .Values.map.b }}")})
	e.running(v1, k135)
	e.putConfigMap("both", "map: {a: 1, b: 1}\n")
	e.putConfigMap("over", "map: {b: 2}\n")
	spec := v1alpha1.ClusterAddonSettingsSpec{Addons: []v1alpha1.AddonSettings{
		{Name: "cni", ValuesFrom: []v1alpha1.ValuesReference{fromConfigMap("both"), fromConfigMap("over")}},
		{Name: "csi", ValuesFrom: []v1alpha1.ValuesReference{fromConfigMap("both")}},
	}}
	e.set(spec)
	o := e.start()
	o.settle()
	e.wantReady()
	e.wantObjects("cni: 1 2", "csi: 1 1")

	for i := range 5 {
		name := fmt.Sprintf("large-%d", i)
		e.putConfigMap(name, "ignored: "+strings.Repeat("x", 900_000)+"\n")
		spec.Addons[1].ValuesFrom = append(spec.Addons[1].ValuesFrom, fromConfigMap(name))
	}
	e.set(spec)
	_, _ = o.once()
	e.wantCondition(v1alpha1.HelmChartAppliedCondition, "False", v1alpha1.ValuesNotFoundReason, "have more than 4 MiB together")
	e.wantObjects("cni: 1 2", "csi: 1 1")
}

// oneConfigMap is a management cluster in which all ConfigMaps are alike.
type oneConfigMap struct {
	client.Reader
	text string
}

func (c oneConfigMap) Get(_ context.Context, key client.ObjectKey, obj client.Object, _ ...client.GetOption) error {
	into, ok := obj.(*corev1.ConfigMap)
	if !ok {
		return fmt.Errorf("no %T here", obj)
	}
	into.Name = key.Name
	into.Data = map[string]string{v1alpha1.DefaultValuesKey: c.text}
	if key.Name == "small" {
		into.Data[v1alpha1.DefaultValuesKey] = "small: {a: 1}\n"
	}
	return nil
}

// A user names as many objects for as many addons as he may, and has each say as much as it can. None of it takes more memory
// than there is for one cluster, neither while it is read nor afterwards.
func TestValuesTakeSoMuchMemory(t *testing.T) {
	const addons = 64
	var keys strings.Builder
	for i := range 30_000 {
		fmt.Fprintf(&keys, "%x:\n", i)
	}
	one := func(int) []v1alpha1.ValuesReference { return []v1alpha1.ValuesReference{fromConfigMap("one")} }
	for name, test := range map[string]struct {
		why, text string
		refs      func(addon int) []v1alpha1.ValuesReference
		refused   string
	}{
		"OneObjectForAll": {
			why: "it is shared", text: "list: [" + strings.Repeat("{},", 50_000) + "]\n", refs: one,
		},
		"OneObjectWithSomethingLaidOverIt": {
			why: "maps that are merged are copied", text: keys.String(), refused: "so many entries that they take more than 16 MiB",
			refs: func(int) []v1alpha1.ValuesReference {
				return []v1alpha1.ValuesReference{fromConfigMap("one"), fromConfigMap("small")}
			},
		},
		"AnObjectForEach": {
			why: "a list of empty maps takes twenty times its text", text: "list: [" + strings.Repeat("{},", 20_000) + "]\n", refused: "so many entries that they take more than 16 MiB",
			refs: func(addon int) []v1alpha1.ValuesReference {
				return []v1alpha1.ValuesReference{fromConfigMap(fmt.Sprintf("one-%d", addon))}
			},
		},
		"OneObjectOfMapsOnly": {
			why: "to parse it would take a hundred times its text", text: "list: [" + strings.Repeat("{a},", 250_000) + "]\n", refs: one,
			refused: "so many entries that they take more than 16 MiB",
		},
		"OneLongText": {
			why: "it is no entry", text: "text: |\n" + strings.Repeat("  {\"some key\": \"some text, and more\"}\n", 20_000), refs: one,
		},
	} {
		t.Run(name, func(t *testing.T) {
			settings := &v1alpha1.ClusterAddonSettings{}
			for i := range addons {
				settings.Spec.Addons = append(settings.Spec.Addons, v1alpha1.AddonSettings{Name: fmt.Sprint(i), ValuesFrom: test.refs(i)})
			}
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			values, err := readValues(t.Context(), oneConfigMap{text: test.text}, settings)
			if err != nil {
				t.Fatal(err)
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			// Each reading copies the text of the ConfigMap a few times, and that of a version too.
			const kept, taken = 24 << 20, 200 << 20
			if n := int64(after.HeapAlloc) - int64(before.HeapAlloc); n > kept {
				t.Errorf("%s: keeps %d MiB", test.why, n>>20)
			}
			if n := after.TotalAlloc - before.TotalAlloc; n > taken {
				t.Errorf("%s: took %d MiB", test.why, n>>20)
			}
			refused := values.missing[fmt.Sprint(addons-1)]
			if (refused == nil) != (test.refused == "") || refused != nil && !strings.Contains(refused.Error(), test.refused) {
				t.Errorf("%s: refused with %v, want %q", test.why, refused, test.refused)
			}
			if refused == nil && len(values.of) != addons {
				t.Errorf("%d addons have values", len(values.of))
			}
			runtime.KeepAlive(values)
		})
	}
}

func testHidesSecrets(e *env) {
	e.publish(v1, both("cni", "csi"), addons{
		"cni": "{{ fail .Values.password }}",
		"csi": "---\napiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: \"{{ .Values.cluster }}-x\"\n  labels: {x: \"{{ .Values.password }}!\"}\n",
	})
	e.running(v1, k135)
	const password = "hunter2hunter2"
	e.putSecret("values", "password: "+password+"\n")
	e.set(v1alpha1.ClusterAddonSettingsSpec{Addons: []v1alpha1.AddonSettings{
		{Name: "cni", ValuesFrom: []v1alpha1.ValuesReference{fromSecret("values")}},
		{Name: "csi", ValuesFrom: []v1alpha1.ValuesReference{fromSecret("values")}},
	}})
	o := e.start()
	_, err := o.once()
	e.wantCondition(v1alpha1.HelmChartAppliedCondition, "False", v1alpha1.RenderFailedReason, "stage cni")
	hidden := (&userValues{secrets: []string{password}}).hide(fmt.Errorf("not %s: %w", password, &valuesError{what: "x"}))
	if hidden.Error() != "not (hidden): x" || !step.Permanent(hidden) {
		e.Errorf("hidden is %q", hidden)
	}
	text, marshalErr := json.Marshal(e.addon())
	if marshalErr != nil {
		e.Fatal(marshalErr)
	}
	if strings.Contains(string(text), password) || err != nil && strings.Contains(err.Error(), password) {
		e.Errorf("a value of a Secret is told: %s\n%v", text, err)
	}
	for {
		select {
		case event := <-e.recorder.Events:
			if strings.Contains(event, password) {
				e.Errorf("a value of a Secret is told: %s", event)
			}
			continue
		default:
		}
		break
	}
	e.putSecret("values", "password: [\n")
	_, _ = o.once()
	e.wantCondition(v1alpha1.HelmChartAppliedCondition, "False", v1alpha1.ValuesNotFoundReason, "key values.yaml of Secret values is not a map in YAML")
}

func testWaitsForValues(e *env) {
	e.publish(v1, both("cni", "csi"), addons{"cni": object("cni", "{{ .Values.colour }}"), "csi": object("csi", "1")})
	e.running(v1, k135)
	e.set(valuesOf("cni", fromConfigMap("mine")))
	o := e.start()
	o.settle()
	e.wantCondition(v1alpha1.HelmChartAppliedCondition, "False", v1alpha1.ValuesNotFoundReason, "ConfigMap mine with values is missing")
	e.wantObjects("csi: 1")
	mistaken := fromConfigMap("mine")
	mistaken.Key = "other"
	e.set(valuesOf("cni", mistaken))
	e.putConfigMap("mine", "colour: red\n")
	o.settle()
	e.wantCondition(v1alpha1.HelmChartAppliedCondition, "False", v1alpha1.ValuesNotFoundReason, "ConfigMap mine has no key other with values")
	e.wantObjects("csi: 1")
	e.set(valuesOf("cni", fromConfigMap("mine")))
	o.settle()
	e.wantReady()
	e.wantObjects("cni: red", "csi: 1")

	// Later it goes. What is in the cluster stays, and the user is told.
	mine := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: e.ns, Name: "mine"}}
	if err := e.client.Delete(e.Context(), mine); err != nil {
		e.Fatal(err)
	}
	o.settle()
	e.wantCondition(v1alpha1.HelmChartAppliedCondition, "False", v1alpha1.ValuesNotFoundReason, "ConfigMap mine with values is missing")
	e.wantObjects("cni: red", "csi: 1")
}

// testTellsAllThatIsMissing: a user who has forgotten several objects need not find out one after the other, and what of them
// appears is seen.
func testTellsAllThatIsMissing(e *env) {
	e.publish(v1, both("cni", "csi"), addons{"cni": object("cni", "{{ .Values.colour }} {{ .Values.size }}"), "csi": object("csi", "{{ .Values.colour }}")})
	e.running(v1, k135)
	e.set(v1alpha1.ClusterAddonSettingsSpec{Addons: []v1alpha1.AddonSettings{
		{Name: "cni", ValuesFrom: []v1alpha1.ValuesReference{fromConfigMap("first"), fromSecret("second"), fromConfigMap("first")}},
		{Name: "csi", ValuesFrom: []v1alpha1.ValuesReference{fromConfigMap("third")}},
	}})
	o := e.start()
	told := func(missing ...string) {
		e.Helper()
		o.settle()
		message := e.addon().Status.Conditions.Get(v1alpha1.HelmChartAppliedCondition).Message
		for _, name := range []string{"ConfigMap first", "Secret second", "ConfigMap third"} {
			want := 0
			if slices.Contains(missing, name) {
				want = 1
			}
			if strings.Count(message, name+" with values is missing") != want {
				e.Errorf("missing are %v, told is %s", missing, message)
			}
		}
	}
	for kind, object := range map[v1alpha1.ValuesKind]string{v1alpha1.ValuesFromConfigMap: "first", v1alpha1.ValuesFromSecret: "second"} {
		appeared := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: e.ns, Name: object}}
		if woken := o.addonsOfValues(kind)(e.Context(), appeared); len(woken) != 1 {
			e.Errorf("%s %s wakes %v", kind, object, woken)
		}
	}
	told("ConfigMap first", "Secret second", "ConfigMap third")
	e.putConfigMap("first", "colour: red\n")
	told("Secret second", "ConfigMap third")
	e.putConfigMap("third", "colour: blue\n")
	told("Secret second")
	e.wantObjects("csi: blue")
	e.putSecret("second", "size: 2\n")
	o.settle()
	e.wantReady()
	e.wantObjects("cni: red 2", "csi: blue")
}

func testSwitchesOff(e *env) {
	e.publish(v1, both("cni", "metrics"), starter1)
	e.publish(v2, both("cni", "metrics"), addons{"cni": object("cni", "2"), "metrics": object("metrics", "2")})
	e.running(v1, k135)
	o := e.start()
	o.settle()
	e.wantObjects("cni: 1", "extra: 1", "metrics: 1")
	e.set(v1alpha1.ClusterAddonSettingsSpec{Addons: []v1alpha1.AddonSettings{{Name: "metrics", Disabled: true}}})
	o.settle()
	e.wantReady()
	e.wantObjects("cni: 1")
	e.use(v2, k135)
	o.settle()
	e.wantReady()
	e.wantObjects("cni: 2")
	if stages := e.addon().Status.Stages; len(stages) != 2 || !strings.Contains(stages[1].Message, "switched off") {
		e.Errorf("stages are %+v", stages)
	}
	e.set(v1alpha1.ClusterAddonSettingsSpec{})
	o.settle()
	e.wantReady()
	e.wantObjects("cni: 2", "metrics: 2")
}

// While a stage waits, the values of one that is done already change. The upgrade begins anew with them, and ends with
// the addons as the values say now.
func testValuesChangeDuringAnUpgrade(e *env) {
	gate := `{name: csi, action: apply, waitForPreCondition: {objects: [{key: o, apiVersion: v1, kind: ConfigMap, name: ` + e.key.Name + `-gate, namespace: kube-system}], conditions: o.data.text == "go"}}`
	charts := func(release string) addons {
		return addons{"cni": object("cni", release+" {{ .Values.colour }}") + "{{ if .Values.more }}\n" + object("more", release) + "{{ end }}", "csi": object("csi", release)}
	}
	e.publish(v1, both("cni", "csi"), charts("1"))
	e.publish(up, both("cni", gate), charts("2"))
	e.putConfigMap("mine", "colour: red\nmore: true\n")
	e.set(valuesOf("cni", fromConfigMap("mine")))
	e.running(v1, k135)
	o := e.start()
	o.settle()
	e.wantObjects("cni: 1 red", "csi: 1", "more: 1")

	e.use(up, k136)
	ask := e.ask(up, k135, k136)
	o.settle()
	e.wantObjects("cni: 2 red", "csi: 1", "more: 2")
	e.putConfigMap("mine", "colour: blue\nmore: false\n")
	o.settle()
	// What the values do not want any more stays until the upgrade is through.
	e.wantObjects("cni: 2 blue", "csi: 1", "more: 2")
	if e.record().Proves(ask) {
		e.Error("the upgrade is let go on although a stage waits")
	}
	e.put("gate", map[string]string{"text": "go"})
	o.settle()
	e.wantReady()
	e.wantObjects("cni: 2 blue", "csi: 2", "gate: go")
	if !e.record().Proves(ask) {
		e.Error("the upgrade is still held")
	}
}

func testFromLegacyToStagesAndBack(e *env) {
	e.publish(v1, both("cni", "metrics"), starter1)
	e.publishLegacy(v2, object("cni", "legacy")+object("only", "legacy"))
	e.running(v1, k135)
	o := e.start()
	o.settle()
	e.wantObjects("cni: 1", "extra: 1", "metrics: 1")
	uid := e.uid("cni")
	for range 2 {
		e.use(v2, k135)
		o.settle()
		e.wantReady()
		e.wantObjects("cni: legacy", "only: legacy")
		e.use(v1, k135)
		o.settle()
		e.wantReady()
		e.wantObjects("cni: 1", "extra: 1", "metrics: 1")
	}
	if e.uid("cni") != uid {
		e.Error("an object that all releases have was deleted and made anew")
	}
}

// publishLegacy makes a release whose only addon is one chart with that template.
func (e *env) publishLegacy(tag, template string) {
	e.Helper()
	files := releasetest.Legacy(tag)
	chart := tag[:strings.LastIndex(tag, "-")] + "-cluster-addon"
	files[releasetest.AddonPackage(tag)] = &fstest.MapFile{Mode: 0o644, Data: releasetest.Archive(map[string]string{
		chart + "/Chart.yaml": releasetest.Chart(chart, "v2"), chart + "/templates/all.yaml": template,
	})}
	e.source.Publish(tag, files)
	if err := e.client.Create(e.Context(), apitest.ClusterStackRelease(e.ns, tag)); err != nil {
		e.Fatal(err)
	}
}

func testRemembersRollouts(e *env) {
	e.publish(v1, both("cni"), addons{"cni": object("cni", "1")})
	e.publish(v2, both("cni"), addons{"cni": "{{ fail \"no\" }}"})
	e.publish(v3, both("cni"), addons{"cni": object("cni", "3")})
	e.running(v1, k135)
	o := e.start()
	o.settle()
	e.use(v2, k135)
	o.settle()
	e.use(v3, k135)
	o.settle()
	var got []string
	for _, h := range e.addon().Status.History {
		got = append(got, h.Release.Name+" "+string(h.Result))
	}
	if want := []string{v3 + " Completed", v2 + " Superseded", v1 + " Completed"}; !slices.Equal(got, want) {
		e.Errorf("history is %v, want %v", got, want)
	}
	for range 6 {
		e.use(v1, k135)
		o.settle()
		e.use(v3, k135)
		o.settle()
	}
	if got := e.addon().Status.History; len(got) != 10 || got[0].Release.Name != v3 {
		e.Errorf("history is %+v", got)
	}
}
