// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/apitest/kinds"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/release/releasetest"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/faultproxy"
	"github.com/clusterstacks/cluster-stack-operator/test/operator/operatortest"
)

// audit is what an operator asked the management cluster for.
type audit struct {
	mu    sync.Mutex
	asked []faultproxy.Event
}

func (a *audit) note(e faultproxy.Event) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked = append(a.asked, e)
}

// about returns the requests since the first n for which want holds, and how many there are now.
func (a *audit) about(n int, want func(faultproxy.Event) bool) (found []string, now int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, e := range a.asked[n:] {
		if want(e) {
			found = append(found, e.String())
		}
	}
	return found, len(a.asked)
}

// TestTenantsAreApart has a tenant who may write anything in his own namespace, and whose releases say anything, reach for
// what is in two others: one that keeps secrets and has nothing to do with the operator, and one with a cluster of its
// own. The operator, which may read all of it, reads nothing of the first one, and changes nothing in either.
func TestTenantsAreApart(t *testing.T) {
	w := operatortest.New(t)
	w.PublishLife(t)
	log := &audit{}
	o := w.Start(t, w.Proxy(t, log.note))
	o.AwaitReady(t)
	neighbour := lives(t, w, o, 1)[0]
	vault := kinds.Namespace(t, w.Client)
	const secret = "treasure"
	for _, object := range []client.Object{
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: vault, Name: secret}, StringData: map[string]string{"username": "u", "password": secret, "values.yaml": "cluster: " + secret}},
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: vault, Name: secret}, Data: map[string]string{"values.yaml": "cluster: " + secret, "trusted_root.json": "{}"}},
	} {
		if err := w.Client.Create(t.Context(), object); err != nil {
			t.Fatal(err)
		}
	}
	w.Check(t, o, []*operatortest.Tenant{neighbour}, operatortest.End{Texts: operatortest.NextTexts})
	before := owned(t, w, neighbour.Namespace)
	_, began := log.about(0, func(faultproxy.Event) bool { return false })

	thief := w.Tenant(t)
	thief.Install(t)
	w.Publish(t, "docker-thief-1-35-v1", reaching(t, "docker-thief-1-35-v1", vault, neighbour.Namespace))
	of := func(name string, change func(*v1alpha1.ClusterStackSpec)) *v1alpha1.ClusterStack {
		stack := operatortest.Stack("1.35", "v1")
		stack.Namespace, stack.Name, stack.Spec.Name = thief.Namespace, name, name
		change(&stack.Spec)
		return stack
	}
	meta := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: thief.Namespace, Name: name} }
	for _, object := range []client.Object{
		// A release whose class is to be made elsewhere.
		of("thief", func(*v1alpha1.ClusterStackSpec) {}),
		// Credentials, and who is trusted, that are only there in another namespace.
		of("credentials", func(s *v1alpha1.ClusterStackSpec) {
			s.AutoSubscribe = true
			s.Source = &v1alpha1.ReleaseSource{OCI: &v1alpha1.OCISource{Repository: "registry.example.com/stacks"}, SecretRef: &v1alpha1.LocalReference{Name: secret}}
			s.Verify = &v1alpha1.Verification{TrustedRootRef: &v1alpha1.LocalReference{Name: secret}}
		}),
		// A provider's template in another namespace.
		of("provider", func(s *v1alpha1.ClusterStackSpec) {
			s.NoProvider = false
			s.ProviderRef = &corev1.ObjectReference{
				APIVersion: "infrastructure.clusterstack.x-k8s.io/v1alpha1", Kind: "DockerClusterStackReleaseTemplate", Namespace: vault, Name: secret,
			}
		}),
		// A provider's template that is no such thing.
		of("pods", func(s *v1alpha1.ClusterStackSpec) {
			s.NoProvider = false
			s.ProviderRef = &corev1.ObjectReference{APIVersion: "v1", Kind: "PodTemplate", Namespace: vault, Name: secret}
		}),
		// Values for an addon that are only there in another namespace.
		&v1alpha1.ClusterAddonSettings{ObjectMeta: meta(operatortest.ClusterName), Spec: v1alpha1.ClusterAddonSettingsSpec{Addons: []v1alpha1.AddonSettings{{
			Name: "cni", ValuesFrom: []v1alpha1.ValuesReference{{Kind: v1alpha1.ValuesFromSecret, Name: secret}},
		}}}},
		// The addons of somebody else's cluster.
		&v1alpha1.ClusterAddon{ObjectMeta: meta(v1alpha1.ClusterAddonName("other")), Spec: v1alpha1.ClusterAddonSpec{ClusterRef: &corev1.ObjectReference{
			APIVersion: "cluster.x-k8s.io/v1beta2", Kind: "Cluster", Namespace: neighbour.Namespace, Name: operatortest.ClusterName,
		}}},
		// A release that nobody asked for, under the name of the neighbour's.
		&v1alpha1.ClusterStackRelease{ObjectMeta: meta(operatortest.Next)},
	} {
		if err := w.Client.Create(t.Context(), object); err != nil {
			t.Logf("%T %s is refused: %v", object, object.GetName(), err)
		}
	}
	w.AwaitRelease(t, thief, "docker-thief-1-35-v1", func(ready bool, message string) bool {
		return !ready && strings.Contains(message, "is in another namespace than the release") && strings.Contains(message, "does not belong to a namespace")
	})
	w.Await(t, o, []*operatortest.Tenant{thief}, func(_ *operatortest.Tenant, addon *v1alpha1.ClusterAddon) string {
		if addon == nil || addon.Status.Conditions.Get(v1alpha1.HelmChartAppliedCondition) == nil {
			return "nothing is said of the addons"
		}
		if c := addon.Status.Conditions.Get(v1alpha1.HelmChartAppliedCondition); c.Reason != v1alpha1.ValuesNotFoundReason {
			return c.Reason + ": " + c.Message
		}
		return ""
	})
	w.AwaitRest(t, o)

	if found, _ := log.about(began, func(e faultproxy.Event) bool { return strings.Contains(e.Path, "/namespaces/"+vault+"/") }); len(found) > 0 {
		t.Errorf("asked for what is in a namespace that has nothing to do with it:\n%s", strings.Join(found, "\n"))
	}
	if found, _ := log.about(began, func(e faultproxy.Event) bool {
		return e.Method != http.MethodGet && strings.Contains(e.Path, "/namespaces/"+neighbour.Namespace+"/")
	}); len(found) > 0 {
		t.Errorf("changed something of another tenant:\n%s", strings.Join(found, "\n"))
	}
	if found, now := log.about(began, func(faultproxy.Event) bool { return true }); now == began {
		t.Errorf("no requests were seen, the test proves nothing: %q", found)
	}
	if diff := cmp.Diff(before, owned(t, w, neighbour.Namespace)); diff != "" {
		t.Errorf("what another tenant has (-before +after):\n%s", diff)
	}
	w.Check(t, o, []*operatortest.Tenant{neighbour}, operatortest.End{Texts: operatortest.NextTexts})
}

// owned are the resource versions of what the operator writes for a tenant.
func owned(t *testing.T, w *operatortest.World, namespace string) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, list := range []client.ObjectList{&v1alpha1.ClusterStackList{}, &v1alpha1.ClusterStackReleaseList{}, &v1alpha1.ClusterAddonList{}, &corev1.SecretList{}} {
		if err := w.Client.List(t.Context(), list, client.InNamespace(namespace)); err != nil {
			t.Fatal(err)
		}
		maps.Copy(found, operatortest.Versions(fmt.Sprintf("%T", list), list))
	}
	return found
}

// reaching is a release whose class has objects in other namespaces, and in none.
func reaching(t *testing.T, tag string, namespaces ...string) fstest.MapFS {
	t.Helper()
	files := operatortest.Release(t, tag, operatortest.Addon{Name: "cni", Templates: operatortest.ConfigMap("cni", "1")})
	name, err := release.ParseName(tag)
	if err != nil {
		t.Fatal(err)
	}
	templates := []string{"apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {name: thief}\n" +
		"roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}\nsubjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: thief}]\n"}
	for _, ns := range namespaces {
		templates = append(templates, "apiVersion: infrastructure.cluster.x-k8s.io/v1beta2\nkind: DevClusterTemplate\nmetadata: {name: thief, namespace: "+ns+"}\n"+
			"spec: {template: {spec: {backend: {inMemory: {}}}}}\n")
	}
	files[releasetest.ClassPackage(tag)] = &fstest.MapFile{Data: releasetest.Archive(map[string]string{
		"c/Chart.yaml":           releasetest.Chart(name.Prefix()+"-cluster-class", name.Version.String()),
		"c/templates/class.yaml": strings.Join(templates, "---\n"),
	})}
	return files
}
