// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/tools/clientcmd"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/render"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
	"github.com/clusterstacks/cluster-stack-operator/internal/story"
)

// ownedLabel is on every object that an addon has in a cluster, as on the wire today.
const ownedLabel = "clusterstack.x-k8s.io/instance"

// TestRealAddonsThroughAStackUpgrade brings up a cluster whose addons are public charts as people use them: a
// network that generates certificates while it renders, and metrics-server. The second version of the
// stack leaves a part of the network out, and the stack for the next minor of Kubernetes has it again.
func TestRealAddonsThroughUpgrades(t *testing.T) {
	charts := filepath.Join(root, "..", "shared", "charts")
	if _, err := os.Stat(charts); errors.Is(err, fs.ErrNotExist) {
		t.Skipf("the folder of public charts is not there: %s", charts)
	}
	bin := programs(t)
	releases := t.TempDir()
	management := sandboxtest.Management(t, sandboxtest.WithOperator(filepath.Join(bin, "cluster-stack-operator"), releases))
	s, err := story.New(management.Config(), story.NewReport(os.Stderr))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()

	stack := realStack(t, charts, "1-35")
	v1 := publish(t, bin, stack, releases, "1-35", "v1")
	appendTo(t, filepath.Join(stack, "cluster-addon", "cilium", "overwrite.yaml"), "  envoy:\n    enabled: false\n")
	v2 := publish(t, bin, stack, releases, "1-35", "v2")
	next := publish(t, bin, realStack(t, charts, "1-36"), releases, "1-36", "v1")

	const namespace = "real"
	key := client.ObjectKey{Namespace: namespace, Name: "real"}
	files := os.DirFS("testdata")

	s.Report.Chapter("A stack of public charts")
	apply(ctx, t, s, files, "real-stack.yaml")
	for _, r := range []release.Name{v1, v2, next} {
		if err := s.Released(ctx, namespace, r.String(), r.ClassName()); err != nil {
			t.Fatal(err)
		}
	}
	s.Report.Chapter("A Cluster of its first version")
	apply(ctx, t, s, files, "real-cluster.yaml")
	if err := s.Reached(ctx, key, story.Goal{Class: v1.ClassName(), Version: "v1.35.4", Nodes: 3}, 4*time.Minute); err != nil {
		t.Fatal(err)
	}
	workload := newWorkload(ctx, t, s, key)
	want := rendered(ctx, t, s, key, releases, v1, workload)
	if len(want) != 27 {
		t.Errorf("the charts render %d objects; the test was written for 27", len(want))
	}
	if diff := cmp.Diff(want, workload.owned(ctx, t)); diff != "" {
		t.Errorf("objects of the addons in the cluster (-rendered +there):\n%s", diff)
	}
	before := workload.secrets(ctx, t)
	if len(before) == 0 {
		t.Error("no Secret with generated certificates; the test proves nothing about their rotation")
	}

	s.Report.Chapter("The second version, which leaves a part out")
	if err := s.Upgrade(ctx, key, v2.ClassName(), "v1.35.4"); err != nil {
		t.Fatal(err)
	}
	if err := s.Reached(ctx, key, story.Goal{Class: v2.ClassName(), Version: "v1.35.4", Nodes: 3}, 4*time.Minute); err != nil {
		t.Fatal(err)
	}
	wantAfter := rendered(ctx, t, s, key, releases, v2, workload)
	if len(wantAfter) >= len(want) {
		t.Errorf("the second version renders %d objects, no fewer than the %d of the first; the test proves nothing about leftovers", len(wantAfter), len(want))
	}
	if diff := cmp.Diff(wantAfter, workload.owned(ctx, t)); diff != "" {
		t.Errorf("objects of the addons after the upgrade (-rendered +there):\n%s", diff)
	}
	if !cmp.Equal(before, workload.secrets(ctx, t)) {
		t.Errorf("generated certificates were rotated by the upgrade of the stack")
	}

	s.Report.Chapter("The next minor of Kubernetes, with the part again")
	if err := s.Upgrade(ctx, key, next.ClassName(), "v1.36.3"); err != nil {
		t.Fatal(err)
	}
	if err := s.Reached(ctx, key, story.Goal{Class: next.ClassName(), Version: "v1.36.3", Nodes: 3}, 5*time.Minute); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(rendered(ctx, t, s, key, releases, next, workload), workload.owned(ctx, t)); diff != "" {
		t.Errorf("objects of the addons after the upgrade of Kubernetes (-rendered +there):\n%s", diff)
	}
	if !cmp.Equal(before, workload.secrets(ctx, t)) {
		t.Errorf("generated certificates were rotated by the upgrade of Kubernetes")
	}

	s.Report.Chapter("The cluster is deleted")
	if err := s.Delete(ctx, key); err != nil {
		t.Fatal(err)
	}
	s.Report.Summary()
}

// realStack is the starter stack with public charts for addons.
func realStack(t *testing.T, charts, minor string) string {
	t.Helper()
	stack := filepath.Join(t.TempDir(), "real")
	// As the stack's README says to copy it: what is linked becomes a copy.
	if out, err := exec.Command("cp", "-rL", filepath.Join(root, "stacks", "docker", "starter", minor), stack).CombinedOutput(); err != nil {
		t.Fatalf("copy the starter stack: %v\n%s", err, out)
	}
	if err := os.RemoveAll(filepath.Join(stack, "cluster-addon")); err != nil {
		t.Fatal(err)
	}
	for addon, archive := range map[string]string{"cilium": "cilium-1.16.6.tgz", "metrics-server": "metrics-server-3.12.2.tgz"} {
		unpack(t, filepath.Join(charts, archive), filepath.Join(stack, "cluster-addon"))
		if _, err := os.Stat(filepath.Join(stack, "cluster-addon", addon, "Chart.yaml")); err != nil {
			t.Fatal(err)
		}
	}
	replaceIn(t, filepath.Join(stack, "csctl.yaml"), "clusterStackName: starter", "clusterStackName: real")
	replaceIn(t, filepath.Join(stack, "cluster-class", "Chart.yaml"), "docker-starter-"+minor+"-cluster-class", "docker-real-"+minor+"-cluster-class")
	for name, content := range map[string]string{
		"clusteraddon.yaml": `apiVersion: clusteraddonconfig.x-k8s.io/v1alpha1
clusterAddonVersion: clusteraddons.clusterstack.x-k8s.io/v1alpha1
addonStages:
  AfterControlPlaneInitialized:
    - name: cilium
      action: apply
    - name: metrics-server
      action: apply
  BeforeClusterUpgrade:
    - name: cilium
      action: apply
    - name: metrics-server
      action: apply
`,
		"cluster-addon/cilium/overwrite.yaml": `values: |
  k8sServiceHost: {{ .Cluster.spec.controlPlaneEndpoint.host }}
  k8sServicePort: {{ .Cluster.spec.controlPlaneEndpoint.port }}
  ipam:
    operator:
      clusterPoolIPv4PodCIDRList: [{{ index .Cluster.spec.clusterNetwork.pods.cidrBlocks 0 }}]
`,
	} {
		if err := os.WriteFile(filepath.Join(stack, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return stack
}

func publish(t *testing.T, bin, stack, releases, minor, version string) release.Name {
	t.Helper()
	cmd := exec.Command(filepath.Join(bin, "csctl"), "create", stack, "--output", releases, "--mode", "custom",
		"--cluster-stack-version", version, "--cluster-addon-version", version, "--node-image-version", version)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("csctl create: %v", err)
	}
	name, err := release.ParseName("docker-real-" + minor + "-" + version)
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func apply(ctx context.Context, t *testing.T, s *story.Story, files fs.FS, name string) {
	t.Helper()
	if err := s.Apply(ctx, files, name); err != nil {
		t.Fatal(err)
	}
}

// object names an object whatever its API version.
type object struct {
	Kind            schema.GroupKind
	Namespace, Name string
}

// rendered are the objects that the addons of a release have for a cluster, by the namespaces they belong into.
func rendered(ctx context.Context, t *testing.T, s *story.Story, key client.ObjectKey, releases string, name release.Name, w workload) []object {
	t.Helper()
	rel, err := release.Open(os.DirFS(filepath.Join(releases, name.String())), name)
	if err != nil {
		t.Fatal(err)
	}
	cluster := &clusterv1.Cluster{}
	if err := s.Client.Get(ctx, key, cluster); err != nil {
		t.Fatal(err)
	}
	facts, err := render.ClusterFacts(cluster, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	all := map[object]bool{}
	for _, addon := range rel.Addons() {
		result, err := render.Addon(rel, addon, facts, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range result.Objects {
			id := object{Kind: o.GroupVersionKind().GroupKind(), Namespace: o.GetNamespace(), Name: o.GetName()}
			mapping, err := w.RESTMapper().RESTMapping(id.Kind, o.GroupVersionKind().Version)
			if err != nil {
				t.Fatal(err)
			}
			if id.Namespace == "" && mapping.Scope.Name() == meta.RESTScopeNameNamespace {
				id.Namespace = render.AddonNamespace
			}
			all[id] = true
		}
	}
	return sorted(all)
}

func sorted(all map[object]bool) []object {
	return slices.SortedFunc(maps.Keys(all), func(a, b object) int {
		return strings.Compare(fmt.Sprint(a), fmt.Sprint(b))
	})
}

// workload is a workload cluster as its administrator sees it.
type workload struct {
	client.Client
	discovery discovery.DiscoveryInterface
}

func newWorkload(ctx context.Context, t *testing.T, s *story.Story, key client.ObjectKey) workload {
	t.Helper()
	c, err := s.Workload(ctx, key)
	if err != nil {
		t.Fatal(err)
	}
	secret := &corev1.Secret{}
	if err := s.Client.Get(ctx, client.ObjectKey{Namespace: key.Namespace, Name: key.Name + "-kubeconfig"}, secret); err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.RESTConfigFromKubeConfig(secret.Data["value"])
	if err != nil {
		t.Fatal(err)
	}
	d, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return workload{Client: c, discovery: d}
}

// owned are the objects in the cluster that carry our label, of every kind. What controllers of the cluster
// made out of them (pods, replica sets, endpoints...) has an owner and is left out.
func (w workload) owned(ctx context.Context, t *testing.T) []object {
	t.Helper()
	lists, err := w.discovery.ServerPreferredResources()
	// metrics.k8s.io has an APIService whose backend is a pod that cannot run here.
	if err != nil && !discovery.IsGroupDiscoveryFailedError(err) {
		t.Fatal(err)
	}
	all := map[object]bool{}
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			t.Fatal(err)
		}
		for _, resource := range list.APIResources {
			if !slices.Contains([]string(resource.Verbs), "list") || strings.Contains(resource.Name, "/") {
				continue
			}
			objects := &unstructured.UnstructuredList{}
			objects.SetGroupVersionKind(gv.WithKind(resource.Kind + "List"))
			if err := w.List(ctx, objects, client.MatchingLabels{ownedLabel: "owned"}); err != nil {
				t.Fatalf("list %s: %v", resource.Name, err)
			}
			for _, o := range objects.Items {
				if metav1.GetControllerOf(&o) != nil || resource.Kind == "Endpoints" {
					continue
				}
				all[object{Kind: gv.WithKind(resource.Kind).GroupKind(), Namespace: o.GetNamespace(), Name: o.GetName()}] = true
			}
		}
	}
	return sorted(all)
}

// secrets are the contents of the Secrets that came with the addons.
func (w workload) secrets(ctx context.Context, t *testing.T) map[string]map[string][]byte {
	t.Helper()
	list := &corev1.SecretList{}
	if err := w.List(ctx, list, client.MatchingLabels{ownedLabel: "owned"}); err != nil {
		t.Fatal(err)
	}
	contents := map[string]map[string][]byte{}
	for _, s := range list.Items {
		contents[s.Namespace+"/"+s.Name] = s.Data
	}
	return contents
}

func unpack(t *testing.T, archive, dir string) {
	t.Helper()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	zipped, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	for reader := tar.NewReader(zipped); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(dir, filepath.FromSlash(header.Name))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(reader)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func replaceIn(t *testing.T, name, old, replacement string) {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(data), old) {
		t.Fatalf("%s does not contain %q", name, old)
	}
	if err := os.WriteFile(name, []byte(strings.ReplaceAll(string(data), old, replacement)), 0o644); err != nil {
		t.Fatal(err)
	}
}

func appendTo(t *testing.T, name, text string) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}
