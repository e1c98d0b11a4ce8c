// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package stacks_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/klog/v2"

	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"github.com/clusterstacks/cluster-stack-operator/internal/build"
	"github.com/clusterstacks/cluster-stack-operator/internal/chartrepo"
	"github.com/clusterstacks/cluster-stack-operator/internal/observe"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/render"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
	"github.com/clusterstacks/cluster-stack-operator/stacks/stackstest"
)

func TestMain(m *testing.M) { sandboxtest.Main(m) }

// folders returns the folders of all stacks that we ship.
func folders(t *testing.T) []string {
	t.Helper()
	configs, err := filepath.Glob("*/*/*/csctl.yaml")
	if err != nil || len(configs) == 0 {
		t.Fatalf("found %v, %v", configs, err)
	}
	for i, config := range configs {
		configs[i] = filepath.Dir(config)
	}
	return configs
}

// foldersOf returns the folders of the stacks for a provider.
func foldersOf(t *testing.T, provider string) []string {
	t.Helper()
	ours := slices.DeleteFunc(folders(t), func(folder string) bool { return !strings.HasPrefix(folder, provider+string(filepath.Separator)) })
	if len(ours) == 0 {
		t.Fatalf("there is no stack for %s", provider)
	}
	return ours
}

// open builds and opens a release of the stack in a folder.
func open(t *testing.T, folder, version string) *release.Release {
	t.Helper()
	root, err := os.OpenRoot(filepath.Dir(folder))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = root.Close() }()
	stack, err := build.Read(root.FS(), filepath.Base(folder))
	if err != nil {
		t.Fatal(err)
	}
	charts := chartrepo.New(chartrepo.Options{MirrorClient: http.DefaultClient, Mirrors: stackstest.Charts(t, ".")})
	if err := stack.Complete(t.Context(), charts.Complete); err != nil {
		t.Fatal(err)
	}
	v, err := release.ParseVersion(version)
	if err != nil {
		t.Fatal(err)
	}
	built, err := stack.Build(build.Versions{ClusterStack: v, ClusterAddon: v, NodeImage: v})
	if err != nil {
		t.Fatal(err)
	}
	written, err := built.Write(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	rel, err := release.Open(os.DirFS(written.Folder), built.Name)
	if err != nil {
		t.Fatal(err)
	}
	return rel
}

func facts(t *testing.T) render.Facts {
	t.Helper()
	facts, err := render.ClusterFacts(&clusterv1.Cluster{
		ObjectMeta: metav1.ObjectMeta{Name: "one", Namespace: "default"},
		Spec: clusterv1.ClusterSpec{
			ClusterNetwork:       clusterv1.ClusterNetwork{Pods: clusterv1.NetworkRanges{CIDRBlocks: []string{"10.96.0.0/16", "fd00:96::/56"}}},
			ControlPlaneEndpoint: clusterv1.APIEndpoint{Host: "172.18.0.3", Port: 6443},
		},
	}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return facts
}

// objects returns all that a release applies, to the management cluster and to workload clusters.
func objects(t *testing.T, rel *release.Release) []*unstructured.Unstructured {
	t.Helper()
	class, err := render.Class(rel, "default")
	if err != nil {
		t.Fatal(err)
	}
	all := class.Objects
	for _, addon := range rel.Addons() {
		result, err := render.Addon(rel, addon, facts(t), nil)
		if err != nil {
			t.Fatal(err)
		}
		if result.NewValues {
			t.Errorf("addon %s generates values, which our stacks do without", addon)
		}
		all = append(all, result.Objects...)
	}
	return all
}

func find(t *testing.T, objects []*unstructured.Unstructured, kind, name string) *unstructured.Unstructured {
	t.Helper()
	i := slices.IndexFunc(objects, func(o *unstructured.Unstructured) bool { return o.GetKind() == kind && o.GetName() == name })
	if i < 0 {
		t.Fatalf("%s %s is not there", kind, name)
	}
	return objects[i]
}

func TestReleasesAreSound(t *testing.T) {
	for _, folder := range folders(t) {
		t.Run(folder, func(t *testing.T) {
			rel := open(t, folder, "v1")
			if len(rel.Warnings) > 0 {
				t.Errorf("warnings: %q", rel.Warnings)
			}
			if lacking, err := rel.Incomplete(); err != nil || len(lacking) > 0 {
				t.Errorf("it lacks charts: %+v, %v", lacking, err)
			}
			find(t, objects(t, rel), "ClusterClass", rel.Name.ClassName())
			for _, point := range []release.Point{release.AfterControlPlaneInitialized, release.BeforeClusterUpgrade} {
				var names []string
				for _, stage := range rel.Stages(point) {
					names = append(names, stage.Name)
					for _, condition := range []*release.Condition{stage.PreCondition, stage.PostCondition} {
						if condition == nil {
							continue
						}
						if _, err := observe.CompileGate(condition); err != nil {
							t.Errorf("%s, stage %s: %v", point, stage.Name, err)
						}
					}
				}
				slices.Sort(names)
				// Elsewhere an addon that is missing in the list of upgrades would be deleted by one.
				if diff := cmp.Diff(rel.Addons(), names); diff != "" {
					t.Errorf("%s does not list all addons: %s", point, diff)
				}
			}
		})
	}
}

// A user of the stacks must be able to see that an upgrade has happened.
func TestVersionsDiffer(t *testing.T) {
	for _, folder := range folders(t) {
		t.Run(folder, func(t *testing.T) {
			one, two := open(t, folder, "v1"), open(t, folder, "v2")
			for kind, name := range map[string]string{"KubeadmControlPlaneTemplate": "-control-plane", "KubeadmConfigTemplate": "-default-worker"} {
				before := find(t, objects(t, one), kind, one.Name.ClassName()+name)
				after := find(t, objects(t, two), kind, two.Name.ClassName()+name)
				if cmp.Diff(before.Object["spec"], after.Object["spec"]) == "" {
					t.Errorf("%s is the same in v1 and v2, so no machine is replaced", kind)
				}
			}
		})
	}
}

func TestNewVersionLeavesTheNetworkAlone(t *testing.T) {
	for _, folder := range foldersOf(t, "docker") {
		t.Run(folder, func(t *testing.T) {
			one, two := open(t, folder, "v1"), open(t, folder, "v2")
			before, after := find(t, objects(t, one), "DaemonSet", "kindnet"), find(t, objects(t, two), "DaemonSet", "kindnet")
			if got := after.GetLabels()["helm.sh/chart"]; got != "cni-v2" {
				t.Errorf("the addon of v2 says that it is %s", got)
			}
			if diff := cmp.Diff(before.Object["spec"], after.Object["spec"]); diff != "" {
				t.Errorf("a new version alone restarts the network: %s", diff)
			}
		})
	}
}

func TestAddonsKnowTheirCluster(t *testing.T) {
	for provider, want := range map[string]map[string][]string{
		"docker": {"kindnet": {"10.96.0.0/16,fd00:96::/56", "172.18.0.3:6443"}},
		"openstack": {
			"cilium": {"value:172.18.0.3", "value:6443", "value:kubernetes"},
			// Two clusters of one name in two namespaces are not one in OpenStack.
			"openstack-cloud-controller-manager": {"--cluster-name=default-one", "secretName:cloud-config", "--controllers=cloud-node,cloud-node-lifecycle,service"},
			"openstack-cinder-csi-nodeplugin":    {"--cluster=default-one", "secretName:cloud-config"},
		},
	} {
		for _, folder := range foldersOf(t, provider) {
			t.Run(folder, func(t *testing.T) {
				all := objects(t, open(t, folder, "v1"))
				for name, texts := range want {
					spec := fmt.Sprint(find(t, all, "DaemonSet", name).Object["spec"])
					for _, text := range texts {
						if !strings.Contains(spec, text) {
							t.Errorf("%s: %s is missing in %s", name, text, spec)
						}
					}
				}
			})
		}
	}
}

// A new node has these taints until somebody has taken them away, who is an addon.
func TestAddonsRunOnNewNodes(t *testing.T) {
	taints := []corev1.Taint{
		{Key: "node.cloudprovider.kubernetes.io/uninitialized", Value: "true", Effect: corev1.TaintEffectNoSchedule},
		{Key: "node.cluster.x-k8s.io/uninitialized", Effect: corev1.TaintEffectNoSchedule},
		{Key: "node-role.kubernetes.io/control-plane", Effect: corev1.TaintEffectNoSchedule},
		{Key: "node.kubernetes.io/not-ready", Effect: corev1.TaintEffectNoSchedule},
	}
	for _, folder := range foldersOf(t, "openstack") {
		all := objects(t, open(t, folder, "v1"))
		for _, name := range []string{"cilium", "openstack-cloud-controller-manager"} {
			list, _, err := unstructured.NestedSlice(find(t, all, "DaemonSet", name).Object, "spec", "template", "spec", "tolerations")
			if err != nil {
				t.Fatal(err)
			}
			for _, taint := range taints {
				if !slices.ContainsFunc(list, func(item any) bool {
					var toleration corev1.Toleration
					err := runtime.DefaultUnstructuredConverter.FromUnstructured(item.(map[string]any), &toleration)
					return err == nil && toleration.ToleratesTaint(klog.Background(), &taint, true)
				}) {
					t.Errorf("%s: %s does not tolerate %s", folder, name, taint.ToString())
				}
			}
		}
	}
}

// API servers take every object, with all its fields, and so do the webhooks of Cluster API.
func TestAPIServersTakeAllObjects(t *testing.T) {
	config := sandboxtest.Management(t, sandboxtest.WithCRDs(openStackCRDs)).Config()
	for _, folder := range folders(t) {
		t.Run(folder, func(t *testing.T) {
			for _, object := range objects(t, open(t, folder, "v1")) {
				if err := dryRun(t, config, object); err != nil {
					t.Errorf("%s %s: %v", object.GetKind(), object.GetName(), err)
				}
			}
		})
	}
}

func dryRun(t *testing.T, config *rest.Config, object *unstructured.Unstructured) error {
	t.Helper()
	server, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return err
	}
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return err
	}
	gvk := object.GroupVersionKind()
	mapping, err := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(server)).RESTMapping(gvk.GroupKind(), gvk.Version)
	if err != nil {
		return err
	}
	data, err := object.MarshalJSON()
	if err != nil {
		return err
	}
	resource := client.Resource(mapping.Resource).Namespace(object.GetNamespace())
	if object.GetNamespace() == "" && mapping.Scope.Name() == "namespace" {
		resource = client.Resource(mapping.Resource).Namespace("default")
	}
	_, err = resource.Patch(t.Context(), object.GetName(), types.ApplyPatchType, data, metav1.PatchOptions{
		FieldManager:    "test",
		FieldValidation: metav1.FieldValidationStrict,
		DryRun:          []string{metav1.DryRunAll},
	})
	return err
}
