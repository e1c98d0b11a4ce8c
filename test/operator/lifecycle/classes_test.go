// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	_ "embed"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	controlplanev1 "sigs.k8s.io/cluster-api/api/controlplane/kubeadm/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/apitest"
	"github.com/clusterstacks/cluster-stack-operator/test/sandbox/clustertest"
)

// olderClass is class in the version v1beta1 of Cluster API's kinds.
//
//go:embed testdata/class-v1beta1.yaml
var olderClass string

// Stacks of today have their class in v1beta1, which Cluster API stores in v1beta2. Clusters come up with it, nothing is
// applied again because it reads differently, the next release brings its own in v1beta2, and in the end the first one
// goes with its release.
func TestClassesOfTheOlderVersion(t *testing.T) {
	f := begin(t, "beta", nil)
	stage := always("name: base, action: apply")
	f.template = olderClass
	f.publish("1-35-v1", stage, addon{"base", object("base", "1")})
	f.template = class
	f.publish("1-35-v2", stage, addon{"base", object("base", "2")})
	f.subscribe("1.35", "v1", "v2")
	f.create(f.class("1-35-v1"), older, 1, 1)
	f.reached(f.class("1-35-v1"))
	f.AwaitCluster(t, patience, f.key(), available)
	f.workers("v1beta1")

	// The operator compares what is there with what the release has.
	since := time.Now()
	rel := apitest.ClusterStackRelease(f.name, f.tag("1-35-v1"))
	for _, paused := range []string{"true", ""} {
		f.annotate(rel, clusterv1.PausedAnnotation, paused)
		f.eventually("the release is looked at", func() error {
			if err := f.Get(t.Context(), client.ObjectKeyFromObject(rel), rel); err != nil {
				return err
			}
			if rel.Status.Conditions.IsTrue(v1alpha1.PausedCondition) != (paused != "") {
				return fmt.Errorf("%+v", rel.Status.Conditions)
			}
			return nil
		})
	}
	if !rel.Status.Ready {
		t.Errorf("the release is not ready any more: %+v", rel.Status.Conditions)
	}
	for _, r := range f.asked(since, f.name) {
		if r.resource != "clusterstackreleases" && r.resource != "events" {
			t.Errorf("written although nothing has changed: %+v", r)
		}
	}

	f.use(f.class("1-35-v2"), older)
	f.reached(f.class("1-35-v2"))
	f.AwaitCluster(t, patience, f.key(), available)
	f.workers("v1beta2")

	stack := &v1alpha1.ClusterStackList{}
	if err := f.List(t.Context(), stack, client.InNamespace(f.name)); err != nil {
		t.Fatal(err)
	}
	before := stack.Items[0].DeepCopy()
	stack.Items[0].Spec.Versions = []string{"v2"}
	if err := f.Patch(t.Context(), &stack.Items[0], client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
	clustertest.Await(t, f, patience, &clusterv1.ClusterClassList{}, func(list *clusterv1.ClusterClassList) error {
		if len(list.Items) != 1 || list.Items[0].Name != f.class("1-35-v2") {
			return fmt.Errorf("%d classes", len(list.Items))
		}
		return nil
	}, client.InNamespace(f.name))
	clustertest.Await(t, f, patience, &controlplanev1.KubeadmControlPlaneTemplateList{}, func(list *controlplanev1.KubeadmControlPlaneTemplateList) error {
		if len(list.Items) != 1 || list.Items[0].Name != f.class("1-35-v2") {
			return fmt.Errorf("%d templates of control planes", len(list.Items))
		}
		return nil
	}, client.InNamespace(f.name))
	f.gone(time.Now())
}

// workers waits until all nodes but those of the control plane have what a class says of their kubelets.
func (f *flow) workers(class string) {
	f.Helper()
	f.eventually("workers are made from the class in "+class, func() error {
		nodes := &corev1.NodeList{}
		if err := f.workload().List(f.Context(), nodes); err != nil {
			return err
		}
		found := 0
		for _, node := range nodes.Items {
			if _, is := node.Labels["node-role.kubernetes.io/control-plane"]; is {
				continue
			}
			if found++; node.Labels["test.example.com/class"] != class {
				return fmt.Errorf("node %s has the labels %v", node.Name, node.Labels)
			}
		}
		if found == 0 {
			return fmt.Errorf("there are none among %d nodes", len(nodes.Items))
		}
		return nil
	})
}
