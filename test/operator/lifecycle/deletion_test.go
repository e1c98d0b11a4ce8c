// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/test/sandbox/clustertest"
)

// A Cluster is deleted before there is anything of it, while an upgrade of it is held, and right after that went on.
// Nobody waits for its addons, and nothing is left.
func TestDeletedInTheMiddle(t *testing.T) {
	held := stages{}
	for point, list := range always("name: base, action: apply" + gated("base")) {
		held[point] = list
	}
	begins := func(t *testing.T, name string) *flow {
		f := begin(t, name, nil)
		f.publish("1-35-v1", always("name: base, action: apply"), addon{"base", object("base", "1")})
		f.publish("1-36-v1", held, addon{"base", object("base", "2")})
		f.subscribe("1.35", "v1")
		f.subscribe("1.36", "v1")
		f.create(f.class("1-35-v1"), older, 1, 0)
		return f
	}
	upgrades := func(t *testing.T, name string) *flow {
		f := begins(t, name)
		f.reached(f.class("1-35-v1"))
		f.gates("base")
		f.use(f.class("1-36-v1"), newer)
		f.topology("stage base waits for")
		return f
	}
	ends := func(f *flow) {
		f.Helper()
		since := time.Now()
		f.gone(since)
		for _, r := range f.asked(since, f.name) {
			if r.code == http.StatusForbidden {
				f.Errorf("the operator was refused: %+v", r)
			}
		}
	}
	t.Run("BeforeItsControlPlane", func(t *testing.T) {
		f := begins(t, "early")
		f.AwaitCluster(t, patience, f.key(), func(c *clusterv1.Cluster) error {
			if !c.Spec.InfrastructureRef.IsDefined() {
				return fmt.Errorf("Cluster API has not begun")
			}
			return nil
		})
		ends(f)
	})
	t.Run("WhileAnUpgradeIsHeld", func(t *testing.T) { ends(upgrades(t, "held")) })
	t.Run("WhileItsControlPlaneIsReplaced", func(t *testing.T) {
		f := upgrades(t, "replaced")
		f.open("base")
		clustertest.Await(t, f, patience, &clusterv1.MachineList{}, func(machines *clusterv1.MachineList) error {
			if !slices.ContainsFunc(machines.Items, func(m clusterv1.Machine) bool { return m.Spec.Version == newer }) {
				return fmt.Errorf("no machine has the new version yet")
			}
			return nil
		}, client.InNamespace(f.name))
		ends(f)
	})
}

// Three namespaces are deleted at once: with a Cluster whose addons wait, with one that has just been made, and with
// releases that nobody uses. All goes, in whatever order it is deleted there, and nothing of anybody else.
func TestNamespacesAreDeleted(t *testing.T) {
	f := begin(t, "waits", nil)
	witness := join(t, "witness")
	early, unused := join(t, "fresh"), join(t, "unused")
	for _, other := range []*flow{early, unused, witness} {
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: other.name}}
		if err := f.Create(t.Context(), namespace); err != nil {
			t.Fatal(err)
		}
	}
	for _, has := range []*flow{f, early, unused, witness} {
		gate := ""
		if has == f {
			gate = gated("base")
		}
		has.publish("1-35-v1", always("name: base, action: apply"+gate), addon{"base", object("base", "1")})
		has.subscribe("1.35", "v1")
	}
	f.create(f.class("1-35-v1"), older, 1, 0)
	f.gates("base")
	f.waitsAt("base")
	early.create(early.class("1-35-v1"), older, 1, 0)

	before := witness.inventory()
	f.end(f.name, early.name, unused.name)
	if diff := cmp.Diff(before, witness.inventory()); diff != "" {
		t.Errorf("what is in another namespace:\n%s", diff)
	}
}

// inventory names what the operator has to do with in the namespace.
func (f *flow) inventory() []string {
	f.Helper()
	var found []string
	for _, list := range []client.ObjectList{
		&v1alpha1.ClusterStackList{}, &v1alpha1.ClusterStackReleaseList{}, &v1alpha1.ClusterAddonList{}, &clusterv1.ClusterClassList{}, &corev1.SecretList{},
	} {
		if err := f.List(f.Context(), list, client.InNamespace(f.name)); err != nil {
			f.Fatal(err)
		}
		for _, name := range clustertest.Names(f, list) {
			found = append(found, fmt.Sprintf("%T %s", list, name))
		}
	}
	return found
}

// end deletes namespaces and waits until they are gone. The operator makes nothing in them meanwhile, nor does it try
// again and again to.
func (f *flow) end(namespaces ...string) {
	f.Helper()
	since := time.Now()
	for _, name := range namespaces {
		if err := f.Delete(f.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}); err != nil {
			f.Fatal(err)
		}
	}
	deleted := time.Now()
	clustertest.Await(f, f, patience, &corev1.NamespaceList{}, func(list *corev1.NamespaceList) error {
		for _, namespace := range list.Items {
			if slices.Contains(namespaces, namespace.Name) {
				return fmt.Errorf("Namespace %s is still there: %+v", namespace.Name, namespace.Status.Conditions)
			}
		}
		return nil
	})
	took := time.Since(since)
	f.Logf("%v were gone after %s", namespaces, took.Round(time.Second))
	for _, name := range namespaces {
		for _, p := range f.Programs(f, (&flow{name: name}).key()) {
			f.Errorf("of a cluster in namespace %s, %s still runs", name, p.Name)
		}
	}
	// What is on its way when a namespace ends is refused; nobody insists.
	refused := map[request]int{}
	for _, r := range f.asked(deleted, namespaces...) {
		switch {
		case r.code == http.StatusForbidden && r.resource == "events":
			r.name = ""
			fallthrough
		case r.code == http.StatusForbidden:
			refused[r]++
		case r.code == http.StatusCreated && r.resource != "events":
			f.Errorf("the operator made something in a namespace that was being deleted: %+v", r)
		}
	}
	for r, times := range refused {
		// Each object is looked at again every ten seconds, for as long as it is there.
		most := map[bool]int{true: 20, false: 3}[r.resource == "events"] + int(took/(5*time.Second))
		if times > most {
			f.Errorf("the operator tried %d times what was refused in a namespace that was being deleted: %+v", times, r)
		}
	}
}
