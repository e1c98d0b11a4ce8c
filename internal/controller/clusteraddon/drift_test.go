// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clusteraddon

import (
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
)

// settings writes what a user says about the addons of the Cluster.
func (e *env) settings(spec v1alpha1.ClusterAddonSettingsSpec) {
	e.Helper()
	s := &v1alpha1.ClusterAddonSettings{ObjectMeta: metav1.ObjectMeta{Namespace: e.ns, Name: e.key.Name}}
	err := e.client.Get(e.Context(), client.ObjectKeyFromObject(s), s)
	s.Spec = spec
	if apierrors.IsNotFound(err) {
		err = e.client.Create(e.Context(), s)
	} else if err == nil {
		err = e.client.Update(e.Context(), s)
	}
	if err != nil {
		e.Fatal(err)
	}
}

func testWarnsOfDrift(e *env) {
	kept := strings.Replace(object("kept", "1"), "\ndata:", "\n  annotations: {clusterstack.x-k8s.io/drift: ignore}\ndata:", 1)
	e.publish(v1, both("cni", "metrics"), addons{"cni": object("cni", "1") + kept, "metrics": object("metrics", "1")})
	e.running(v1, k135)
	e.settings(v1alpha1.ClusterAddonSettingsSpec{Drift: v1alpha1.DriftWarn, Addons: []v1alpha1.AddonSettings{{Name: "metrics", Drift: v1alpha1.DriftCorrect}}})
	o := e.start()
	o.settle()
	e.wantCondition(v1alpha1.InSyncCondition, "True", v1alpha1.DoneReason, "")
	for _, name := range []string{"cni", "kept", "metrics"} {
		e.put(name, map[string]string{"text": "changed"})
	}
	e.clock.Step(o.options.Recheck * 2)
	o.settle()
	e.wantReady()
	e.wantObjects("cni: changed", "kept: changed", "metrics: 1")
	want := "ConfigMap kube-system/" + e.key.Name + "-cni of addon cni: fields of it were changed"
	e.wantCondition(v1alpha1.InSyncCondition, "False", v1alpha1.DriftedReason, want)
	if got := e.addon().Status.Conditions.Get(v1alpha1.InSyncCondition).Message; got != want {
		e.Errorf("message %q, want nothing about what is ignored or corrected", got)
	}
	told := 0
	for len(e.recorder.Events) > 0 {
		if strings.Contains(<-e.recorder.Events, v1alpha1.DriftedReason) {
			told++
		}
	}
	if told == 0 {
		e.Error("no event tells of the drift")
	}

	// Neither time nor another process tells it again.
	mutating, _, _ := o.faults.counts()
	e.clock.Step(o.options.Recheck * 2)
	o.settle()
	restarted := e.start()
	restarted.settle()
	after, _, _ := o.faults.counts()
	again, _, _ := restarted.faults.counts()
	if after != mutating || again != 0 {
		e.Errorf("%d and %d writes about drift that was told", after-mutating, again)
	}

	// Another policy makes up for it.
	e.settings(v1alpha1.ClusterAddonSettingsSpec{})
	e.clock.Step(o.options.Recheck * 2)
	o.settle()
	e.wantObjects("cni: 1", "kept: changed", "metrics: 1")
	e.wantCondition(v1alpha1.InSyncCondition, "True", v1alpha1.DoneReason, "")
}

func testWatchesForDrift(e *env) {
	e.publish(v1, both("cni"), addons{"cni": object("cni", "1")})
	e.running(v1, k135)
	e.settings(v1alpha1.ClusterAddonSettingsSpec{Watch: true})
	o := e.start()
	o.settle()
	if !slices.Contains(o.clusters.watches[forDrift], "ConfigMap") {
		e.Errorf("watches %v", o.clusters.watches)
	}
}
