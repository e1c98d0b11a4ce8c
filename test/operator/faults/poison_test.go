// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/apitest"
	"github.com/clusterstacks/cluster-stack-operator/test/operator/operatortest"
)

// TestPoisonedObjects has a tenant write the largest and the most misleading objects that the API server takes. He is told
// what is wrong with them. The operator does not grow over it, and the cluster of another tenant is upgraded meanwhile.
func TestPoisonedObjects(t *testing.T) {
	w := operatortest.New(t)
	w.PublishLife(t)
	o := w.Live(t)
	other := w.Tenant(t)
	other.Install(t)
	w.Await(t, o, []*operatortest.Tenant{other}, operatortest.Reached(operatortest.First))
	before, err := o.Usage(t.Context())
	if err != nil {
		t.Fatal(err)
	}

	poisoner := w.Tenant(t)
	create := func(obj client.Object) {
		t.Helper()
		obj.SetNamespace(poisoner.Namespace)
		if err := w.Client.Create(t.Context(), obj); err != nil {
			t.Fatal(err)
		}
	}
	// Half a megabyte that is repeated a hundred thousand times, for each reference that there may be.
	bomb := "a: &a " + strings.Repeat("x", 500_000) + "\nl: [" + strings.Repeat("*a,", 100_000) + "]\n"
	create(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "bomb"}, Data: map[string]string{v1alpha1.DefaultValuesKey: bomb}})
	settings := &v1alpha1.ClusterAddonSettings{ObjectMeta: metav1.ObjectMeta{Name: operatortest.ClusterName}}
	for i := range 64 {
		addon := v1alpha1.AddonSettings{Name: fmt.Sprintf("addon-%d", i)}
		if i == 0 {
			addon.Name = "cni"
		}
		for range 16 {
			addon.ValuesFrom = append(addon.ValuesFrom, v1alpha1.ValuesReference{Kind: v1alpha1.ValuesFromConfigMap, Name: "bomb"})
		}
		settings.Spec.Addons = append(settings.Spec.Addons, addon)
	}
	create(settings)
	// As many versions as there may be, with names as long as they may be, none of which is there, and as many annotations.
	stack := operatortest.Stack("1.35")
	stack.Name, stack.Spec.Name, stack.Spec.Channel = strings.Repeat("s", 253), strings.Repeat("n", 40), v1alpha1.ChannelCustom
	stack.Annotations = map[string]string{"large": strings.Repeat("\u202e", 80_000)} // turns the text of a terminal round
	for i := range 128 {
		stack.Spec.Versions = append(stack.Spec.Versions, fmt.Sprintf("v1-%s.%03d", strings.Repeat("c", 56), i))
	}
	create(stack)
	// Many Clusters of classes that look like ours, and that nobody has.
	for i := range 20 {
		create(apitest.Cluster(poisoner.Namespace, fmt.Sprintf("cluster-%d", i), fmt.Sprintf("docker-%s-1-35-v%d", strings.Repeat("n", 40), i), operatortest.FirstVersion))
	}
	poisoner.Install(t)

	w.Await(t, o, []*operatortest.Tenant{poisoner}, func(_ *operatortest.Tenant, addon *v1alpha1.ClusterAddon) string {
		if addon == nil {
			return "no ClusterAddon"
		}
		ready := addon.Status.Conditions.Get(v1alpha1.ReadyCondition)
		if ready == nil || !strings.Contains(ready.Message, "ConfigMap bomb is not a map in YAML") {
			return operatortest.Describe(addon)
		}
		return ""
	})
	other.Upgrade(t)
	w.Await(t, o, []*operatortest.Tenant{other}, operatortest.Reached(operatortest.Next))
	w.Check(t, o, []*operatortest.Tenant{other}, operatortest.End{Texts: operatortest.NextTexts})

	after, err := o.Usage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("used %+v, and now %+v", before, after)
	if after.ResidentMiB > before.ResidentMiB+200 {
		t.Errorf("the operator has grown from %.0f to %.0f MiB", before.ResidentMiB, after.ResidentMiB)
	}
	if err := w.Client.Get(t.Context(), client.ObjectKeyFromObject(stack), stack); err != nil {
		t.Fatal(err)
	}
	for _, c := range stack.Status.Conditions {
		if len(c.Message) > 1024 || strings.Contains(c.Message, "\u202e") {
			t.Errorf("%s has a message of %d bytes: %.80q", c.Type, len(c.Message), c.Message)
		}
	}
	if len(stack.Status.Conditions) == 0 {
		t.Error("the ClusterStack is told nothing")
	}
}
