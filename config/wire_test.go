// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/internal/apitest/kinds"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
)

func TestMain(m *testing.M) { sandboxtest.Main(m) }

// Objects as existing installations hold them. Every field of theirs is known to our schema, and their status
// can be written as it is.
func TestStoredObjectsStayValid(t *testing.T) {
	c := kinds.Client(t, sandboxtest.APIServer(t))
	strict := client.WithFieldValidation(c, metav1.FieldValidationStrict)
	for name, tc := range map[string]struct{ text, want string }{
		"ClusterStackDefaults": {
			text: `{"kind": "ClusterStack", "spec": {"provider": "openstack", "name": "scs", "kubernetesVersion": "1.30", "noProvider": true}}`,
			want: `{"provider": "openstack", "name": "scs", "kubernetesVersion": "1.30", "noProvider": true, "channel": "stable", "autoSubscribe": true}`,
		},
		"ClusterStack": {
			text: `{"kind": "ClusterStack",
				"spec": {"provider": "openstack", "name": "scs", "kubernetesVersion": "1.30", "channel": "custom", "autoSubscribe": false, "noProvider": false,
					"providerRef": {"apiVersion": "infrastructure.clusterstack.x-k8s.io/v1alpha1", "kind": "OpenStackClusterStackReleaseTemplate", "name": "t", "namespace": "elsewhere"},
					"versions": ["v1", "v0-sha.rwvgrna", "v0-custom.ABC_d"]},
				"status": {"latestRelease": "openstack-scs-1-30-v1 | v1.30.10", "usableVersions": "v1, v0-sha.rwvgrna",
					"summary": [{"name": "v1", "phase": "done", "ready": true}, {"name": "v0-sha-rwvgrna", "phase": "", "ready": false, "message": "x"}],
					"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2024-05-01T10:00:00Z"},
						{"type": "ReleasesSynced", "status": "False", "severity": "Warning", "reason": "FailedToSync", "message": "x", "lastTransitionTime": "2024-05-01T10:00:00Z"}]}}`,
		},
		"ClusterStackRelease": {
			text: `{"kind": "ClusterStackRelease",
				"spec": {"providerRef": {"apiVersion": "infrastructure.clusterstack.x-k8s.io/v1alpha1", "kind": "OpenStackClusterStackRelease", "name": "r", "namespace": "n", "uid": "1"}},
				"status": {"ready": true, "kubernetesVersion": "v1.30.10",
					"resources": [{"group": "cluster.x-k8s.io", "version": "v1beta1", "kind": "ClusterClass", "namespace": "n", "name": "c", "status": "synced"}, {"kind": "Secret", "status": "not-synced", "error": "x"}],
					"conditions": [{"type": "HelmChartApplied", "status": "True", "lastTransitionTime": "2024-05-01T10:00:00Z"}]}}`,
		},
		"ClusterStackReleaseOfNoProvider": {text: `{"kind": "ClusterStackRelease", "spec": {}, "status": {}}`},
		"ClusterAddonInTheMiddleOfAHook": {
			text: `{"kind": "ClusterAddon", "metadata": {"annotations": {"ClusterAddonStage": "created"}},
				"spec": {"clusterRef": {"apiVersion": "cluster.x-k8s.io/v1beta1", "kind": "Cluster", "name": "c", "namespace": "n", "uid": "1"},
					"clusterStack": "openstack-scs-1-30-v0-sha.rwvgrna", "version": "v0-sha-rwvgrna", "hook": "BeforeClusterUpgrade"},
				"status": {"ready": false, "resources": [{"kind": "DaemonSet", "group": "apps", "version": "v1", "namespace": "kube-system", "name": "cilium", "status": "synced"}],
					"stages": [{"name": "cni", "action": "apply", "phase": "done"}, {"name": "csi", "action": "apply", "phase": "waitingForPreCondition"}, {"name": "ccm", "action": "", "phase": ""}],
					"conditions": [{"type": "ClusterReady", "status": "False", "severity": "Info", "reason": "ControlPlaneNotReady", "lastTransitionTime": "2024-05-01T10:00:00Z"},
						{"type": "HelmChartFound", "status": "False", "severity": "Error", "reason": "HelmChartMissing", "message": "x", "lastTransitionTime": "2024-05-01T10:00:00Z"}]}}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			given := &unstructured.Unstructured{}
			if err := json.Unmarshal([]byte(tc.text), &given.Object); err != nil {
				t.Fatal(err)
			}
			given.SetAPIVersion("clusterstack.x-k8s.io/v1alpha1")
			given.SetNamespace(kinds.Namespace(t, c))
			given.SetName("x")
			stored := given.DeepCopy()
			if err := strict.Create(t.Context(), stored); err != nil {
				t.Fatal(err)
			}
			want := given.Object["spec"]
			if tc.want != "" {
				if err := json.Unmarshal([]byte(tc.want), &want); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(want, stored.Object["spec"]); diff != "" {
				t.Errorf("spec (-want +got):\n%s", diff)
			}
			status, has := given.Object["status"].(map[string]any)
			if !has {
				return
			}
			stored.Object["status"] = status
			if err := strict.Status().Update(t.Context(), stored); err != nil {
				t.Fatal(err)
			}
			if given.GetKind() != "ClusterStack" && status["ready"] == nil {
				status["ready"] = false
			}
			if diff := cmp.Diff(status, stored.Object["status"]); diff != "" {
				t.Errorf("status (-want +got):\n%s", diff)
			}
		})
	}
}

// Scripts read what kubectl prints.
func TestColumnsAndShortNames(t *testing.T) {
	c := kinds.Client(t, sandboxtest.APIServer(t))
	for plural, want := range map[string]string{
		"clusterstacks":        "csk: Provider .spec.provider, ClusterStack .spec.name, K8s .spec.kubernetesVersion, Channel .spec.channel, Autosubscribe .spec.autoSubscribe, Usable .status.usableVersions, Latest .status.latestRelease, Age .metadata.creationTimestamp, ",
		"clusterstackreleases": "cskr: K8s Version .status.kubernetesVersion, Ready .status.ready, Age .metadata.creationTimestamp, ",
		"clusteraddons":        `caddon: Cluster .metadata.ownerReferences[?(@.kind=="Cluster")].name, Hook .spec.hook, Ready .status.ready, Age .metadata.creationTimestamp, `,
	} {
		crd := &apiextensionsv1.CustomResourceDefinition{}
		if err := c.Get(t.Context(), client.ObjectKey{Name: plural + ".clusterstack.x-k8s.io"}, crd); err != nil {
			t.Fatal(err)
		}
		want += "Reason .status.conditions[?(@.type=='Ready')].reason, Message .status.conditions[?(@.type=='Ready')].message"
		var columns []string
		for _, column := range crd.Spec.Versions[0].AdditionalPrinterColumns {
			columns = append(columns, column.Name+" "+column.JSONPath)
		}
		got := fmt.Sprintf("%s: %s", strings.Join(crd.Spec.Names.ShortNames, ","), strings.Join(columns, ", "))
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", plural, diff)
		}
	}
}
