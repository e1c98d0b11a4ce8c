// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clusteraddon

import (
	"slices"
	"strings"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/apply"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/render"
)

// What the existing operator applied: pods with its label, keys that were generated when it did, and a field
// and an object that the next release does not have.
const cni = `---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: "{{ .Values.cluster }}-agent"
  annotations: {example.com/release: one}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec: {containers: [{name: agent, image: "agent:v1", env: [{name: OLD, value: "1"}]}]}
---
{{ $ca := genCA "ca" 365 }}
{{ $cert := genSignedCert "hubble" nil nil 365 $ca }}
apiVersion: v1
kind: Secret
metadata: {name: "{{ .Values.cluster }}-ca"}
data: {ca.crt: {{ $ca.Cert | b64enc }}, ca.key: {{ $ca.Key | b64enc }}}
---
apiVersion: v1
kind: Secret
metadata: {name: "{{ .Values.cluster }}-certs"}
data: {tls.crt: {{ $cert.Cert | b64enc }}, tls.key: {{ $cert.Key | b64enc }}}
stringData: {config: 'token={{ randAlphaNum 20 }};end'}
`

// formerly puts a cluster into the state in which the existing operator leaves it after a finished rollout.
func (e *env) formerly(tag string) {
	e.Helper()
	e.running(tag, k135)
	name, err := release.ParseName(tag)
	if err != nil {
		e.Fatal(err)
	}
	rel, _, err := e.start().releases.Open(e.Context(), e.ns, name)
	if err != nil {
		e.Fatal(err)
	}
	facts, err := render.ClusterFacts(e.getCluster(), nil, nil)
	if err != nil {
		e.Fatal(err)
	}
	for _, addon := range rel.Addons() {
		result, err := render.Addon(rel, addon, facts, nil)
		if err != nil {
			e.Fatal(err)
		}
		for _, obj := range result.Objects {
			obj.SetNamespace(render.AddonNamespace)
			if err := e.workload.Apply(e.Context(), client.ApplyConfigurationFromUnstructured(obj), client.FieldOwner("kubectl"), client.ForceOwnership); err != nil {
				e.Fatal(err)
			}
		}
	}
	addon := e.addon()
	addon.Spec.ClusterStack, addon.Spec.Version = name.ClassName(), "v1"
	addon.Finalizers = []string{v1alpha1.ClusterAddonFinalizer}
	addon.Annotations = map[string]string{v1alpha1.ClusterAddonStageAnnotation: v1alpha1.ClusterAddonStageCreated}
	if err := e.client.Update(e.Context(), addon); err != nil {
		e.Fatal(err)
	}
}

func (e *env) live(obj client.Object, name string) {
	e.Helper()
	if err := e.workload.Get(e.Context(), client.ObjectKey{Namespace: render.AddonNamespace, Name: e.key.Name + "-" + name}, obj); err != nil {
		e.Fatal(err)
	}
}

// taken is what a take-over must not change.
func (e *env) taken() map[string]any {
	e.Helper()
	deployment, ca, certs := &appsv1.Deployment{}, &corev1.Secret{}, &corev1.Secret{}
	e.live(deployment, "agent")
	e.live(ca, "ca")
	e.live(certs, "certs")
	return map[string]any{
		"uid": deployment.UID, "generation": deployment.Generation, "pod labels": deployment.Spec.Template.Labels,
		"ca": ca.Data, "certs": certs.Data, "objects": e.has(),
	}
}

func managersOf(obj client.Object) []string {
	var names []string
	for _, m := range obj.GetManagedFields() {
		names = append(names, m.Manager)
	}
	slices.Sort(names)
	return names
}

func testTakesOver(e *env) {
	e.publish(v1, both("cni", "metrics"), addons{"cni": cni, "metrics": object("metrics", "1") + object("extra", "1")})
	e.formerly(v1)
	before := e.taken()

	o := e.start()
	o.settle()
	e.wantReady()
	if diff := cmp.Diff(before, e.taken()); diff != "" {
		e.Errorf("the take-over has changed (-before +after):\n%s", diff)
	}
	deployment := &appsv1.Deployment{}
	e.live(deployment, "agent")
	if diff := cmp.Diff([]string{apply.FieldManager}, managersOf(deployment)); diff != "" {
		e.Errorf("managers of the Deployment (-want +got):\n%s", diff)
	}
	if applied := e.record().Applied; applied == nil || applied.Class != classOf(e.T, v1) || applied.Version != k135 || !applied.Pruned {
		e.Errorf("record is %s", e.record())
	}
	if got := e.addon().Status.Inventory; got == nil || got.Objects != 5 || got.Shared != 0 {
		e.Errorf("inventory is %+v, want five objects of ours", got)
	}
	mutating, _, _ := o.faults.counts()
	if _, err := o.once(); err != nil {
		e.Error(err)
	}
	if after, _, _ := o.faults.counts(); after != mutating {
		e.Errorf("%d writes at rest after the take-over", after-mutating)
	}

	// What an upgrade takes away goes, and what was generated stays.
	next := strings.NewReplacer("  annotations: {example.com/release: one}\n", "", `, env: [{name: OLD, value: "1"}]`, "").Replace(cni)
	e.publish(v2, both("cni", "metrics"), addons{"cni": next, "metrics": object("metrics", "2")})
	e.use(v2, k135)
	o.settle()
	e.wantReady()
	e.wantObjects("metrics: 2")
	e.live(deployment, "agent")
	if env := deployment.Spec.Template.Spec.Containers[0].Env; len(env) != 0 || deployment.Annotations["example.com/release"] != "" {
		e.Errorf("what the release does not have is still there: %v, %v", env, deployment.Annotations)
	}
	after := e.taken()
	for _, what := range []string{"uid", "pod labels", "ca", "certs"} {
		if diff := cmp.Diff(before[what], after[what]); diff != "" {
			e.Errorf("%s changed by the upgrade:\n%s", what, diff)
		}
	}
	// The operator before us would still find its way.
	if got := e.addon().Spec; got.ClusterStack != classOf(e.T, v2) || got.Version != "v2" || got.Hook != "" {
		e.Errorf("spec is %+v", got)
	}
}

// The user wants another release by the time that we come.
func testTakesOverInTheMiddle(e *env) {
	e.publish(v1, both("cni", "metrics"), addons{"cni": object("cni", "1"), "metrics": object("metrics", "1")})
	e.publish(v2, both("cni", "csi"), addons{"cni": object("cni", "2"), "csi": object("csi", "2")})
	e.formerly(v1)
	e.use(v2, k135)
	addon := e.addon()
	addon.Spec.Hook = string(release.BeforeClusterUpgrade)
	if err := e.client.Update(e.Context(), addon); err != nil {
		e.Fatal(err)
	}
	e.start().settle()
	e.wantReady()
	e.wantObjects("cni: 2", "csi: 2")
	if record := e.record(); record.Rollout == nil || record.Rollout.Point != release.BeforeClusterUpgrade {
		e.Errorf("record is %s, want an upgrade", record)
	}
}

func testTakesOverWhateverDies(e *env) {
	e.publish(v1, both("cni", "metrics"), addons{"cni": cni, "metrics": object("metrics", "1")})
	e.formerly(v1)
	before := e.taken()
	for dieAt := 1; ; dieAt++ {
		o := e.start()
		o.faults.dieAt, o.faults.unanswered = dieAt, dieAt%2 == 0
		_, _ = o.once()
		if !o.faults.dead {
			break
		}
		if diff := cmp.Diff(before, e.taken()); diff != "" {
			e.Fatalf("a death at change %d has changed (-before +after):\n%s", dieAt, diff)
		}
	}
	e.start().settle()
	e.wantReady()
	if got := e.addon().Status.Inventory; got == nil || got.Objects != 4 || got.Shared != 0 {
		e.Errorf("inventory is %+v, want four objects of ours", got)
	}
	if diff := cmp.Diff(before, e.taken()); diff != "" {
		e.Errorf("the take-over has changed (-before +after):\n%s", diff)
	}
}
