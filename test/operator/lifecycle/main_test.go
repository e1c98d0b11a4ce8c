// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package lifecycle walks clusters of the real Cluster API through their lives with the real operator: what is asked of
// the operator when, what waits for it, and what is left. What needs no Cluster API is in test/operator/flows.
package lifecycle

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	controlplanev1 "sigs.k8s.io/cluster-api/api/controlplane/kubeadm/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	runtimev1 "sigs.k8s.io/cluster-api/api/runtime/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/apitest"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/release/releasetest"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
	"github.com/clusterstacks/cluster-stack-operator/test/operator/operatortest"
	"github.com/clusterstacks/cluster-stack-operator/test/sandbox/clustertest"
)

func TestMain(m *testing.M) {
	flag.Parse()
	// They wait for Cluster API more than they compute, so more than there are cores.
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	sandboxtest.Main(m)
}

const (
	older, newer = "v1.35.4", "v1.36.3"

	// patience is for one thing to happen, many times what it takes: the machine may be busy.
	patience = 5 * time.Minute

	// user is who the operator is in a sandbox.
	user = "cluster-stack-operator"

	// deaf is the label of namespaces of whose clusters Cluster API tells the operator nothing.
	deaf = "lifecycle.test/no-hooks"
)

//go:embed testdata/class.yaml
var class string

// flow is one test, with a namespace and a Cluster of the same name.
type flow struct {
	*testing.T
	*clustertest.Management
	instance *sandboxtest.Instance
	releases string
	name     string
	// template of the cluster class of what is published.
	template string
}

// world prepares what all tests share: the management cluster with the operator, and the folder where it finds releases.
var world struct {
	sync.Mutex
	releases string
}

func begin(t *testing.T, name string, labels map[string]string) *flow {
	t.Helper()
	t.Parallel()
	f := join(t, name)
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
	if err := f.Create(t.Context(), namespace); err != nil {
		t.Fatal(err)
	}
	return f
}

// join is a flow without a namespace yet.
func join(t *testing.T, name string) *flow {
	t.Helper()
	world.Lock()
	defer world.Unlock()
	program := operatortest.Program(t)
	fresh := world.releases == ""
	if fresh {
		world.releases = filepath.Join(filepath.Dir(program), "releases")
		if err := errors.Join(os.RemoveAll(world.releases), os.Mkdir(world.releases, 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	instance := sandboxtest.Management(t, sandboxtest.WithOperator(program, world.releases), sandboxtest.WithLite(), sandboxtest.WithAudit("system:authenticated"))
	f := &flow{T: t, Management: clustertest.New(t, instance), instance: instance, releases: world.releases, name: name, template: class}
	if fresh {
		// A hook can get lost in many ways. This one is in our hands.
		hooks := &runtimev1.ExtensionConfig{ObjectMeta: metav1.ObjectMeta{Name: "cso-hook-server-extensionconfig"}}
		selector := `{"spec":{"namespaceSelector":{"matchExpressions":[{"key":"` + deaf + `","operator":"DoesNotExist"}]}}}`
		if err := f.Patch(t.Context(), hooks, client.RawPatch(types.MergePatchType, []byte(selector))); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// addon is an addon with the templates of its chart.
type addon struct{ name, templates string }

func object(name, text string) string {
	return fmt.Sprintf("---\napiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: %s\ndata:\n  text: %q\n", name, text)
}

// gated is a condition before a stage: the ConfigMap gates in the cluster says that it is open.
func gated(gate string) string {
	return `, waitForPreCondition: {objects: [{key: o, apiVersion: v1, kind: ConfigMap, name: gates, namespace: kube-system}], conditions: 'o.data["` + gate + `"] == "open"'}`
}

// stages is what a release has at a lifecycle point, each stage as in YAML.
type stages map[release.Point][]string

// always has the same stages at creation and before an upgrade.
func always(list ...string) stages {
	return stages{release.AfterControlPlaneInitialized: list, release.BeforeClusterUpgrade: list}
}

// publish makes a release of the flow's own cluster stack appear at the source.
func (f *flow) publish(version string, at stages, addons ...addon) {
	f.Helper()
	tag := f.tag(version)
	name := f.release(version)
	files := releasetest.Multistage(tag)
	kubernetes := map[string]string{"1.35": older, "1.36": newer}[name.Kubernetes]
	files[release.MetadataFile] = &fstest.MapFile{Data: []byte(releasetest.Metadata(name.Version.String(), kubernetes))}
	list := "apiVersion: clusteraddonconfig.x-k8s.io/v1alpha1\naddonStages:\n"
	for _, point := range slices.Sorted(maps.Keys(at)) {
		list += "  " + string(point) + ":\n"
		for _, stage := range at[point] {
			list += "    - {" + stage + "}\n"
		}
	}
	files[release.StagesFile] = &fstest.MapFile{Data: []byte(list)}
	charts := map[string]string{}
	for _, a := range addons {
		charts[a.name+"/Chart.yaml"] = releasetest.Chart(a.name, "v1")
		charts[a.name+"/templates/all.yaml"] = a.templates
	}
	files[releasetest.AddonPackage(tag)] = &fstest.MapFile{Data: releasetest.Archive(charts)}
	files[releasetest.ClassPackage(tag)] = &fstest.MapFile{Data: releasetest.Archive(map[string]string{
		"c/Chart.yaml":           releasetest.Chart(name.Prefix()+"-cluster-class", name.Version.String()),
		"c/templates/class.yaml": f.template,
	})}
	aside, err := os.MkdirTemp(f.releases, ".")
	if err != nil {
		f.Fatal(err)
	}
	for name, file := range files {
		if err := os.WriteFile(filepath.Join(aside, name), file.Data, 0o600); err != nil {
			f.Fatal(err)
		}
	}
	if err := os.Rename(aside, filepath.Join(f.releases, tag)); err != nil {
		f.Fatal(err)
	}
}

func (f *flow) tag(version string) string { return "docker-" + f.name + "-" + version }

func (f *flow) release(version string) release.Name {
	f.Helper()
	name, err := release.ParseName(f.tag(version))
	if err != nil {
		f.Fatal(err)
	}
	return name
}

func (f *flow) class(version string) string { return f.release(version).ClassName() }

// subscribe makes releases that are published usable in the namespace of the flow.
func (f *flow) subscribe(minor string, versions ...string) {
	f.Helper()
	stack := operatortest.Stack(minor, versions...)
	stack.Namespace, stack.Spec.Name = f.name, f.name
	if err := f.Create(f.Context(), stack); err != nil {
		f.Fatal(err)
	}
	clustertest.Await(f, f, patience, &v1alpha1.ClusterStackList{}, func(list *v1alpha1.ClusterStackList) error {
		for i := range list.Items {
			if stack := &list.Items[i]; !stack.Status.Conditions.IsTrue(v1alpha1.ReadyCondition) || len(stack.Status.Summary) != len(stack.Spec.Versions) ||
				slices.ContainsFunc(stack.Status.Summary, func(s v1alpha1.ClusterStackReleaseSummary) bool { return !s.Ready }) {
				return fmt.Errorf("%+v", stack.Status)
			}
		}
		return nil
	}, client.InNamespace(f.name))
}

func (f *flow) key() types.NamespacedName {
	return types.NamespacedName{Namespace: f.name, Name: f.name}
}

// create creates the Cluster.
func (f *flow) create(class, version string, controlPlanes, workers int32) {
	f.Helper()
	cluster := clustertest.NewCluster(f.key(), version, controlPlanes, workers)
	cluster.Spec.Topology.ClassRef.Name = class
	if err := f.Create(f.Context(), cluster); err != nil {
		f.Fatal(err)
	}
}

// use edits the topology of the Cluster as its user does.
func (f *flow) use(class, version string) {
	f.Helper()
	cluster := f.cluster()
	before := cluster.DeepCopy()
	apitest.Use(cluster, class, version)
	if err := f.Patch(f.Context(), cluster, client.MergeFrom(before)); err != nil {
		f.Fatal(err)
	}
}

func (f *flow) cluster() *clusterv1.Cluster {
	f.Helper()
	cluster := &clusterv1.Cluster{}
	if err := f.Get(f.Context(), f.key(), cluster); err != nil {
		f.Fatal(err)
	}
	return cluster
}

// addons waits until the ClusterAddon is as wanted.
func (f *flow) addons(wanted func(*v1alpha1.ClusterAddon) error) *v1alpha1.ClusterAddon {
	f.Helper()
	list := clustertest.Await(f, f, patience, &v1alpha1.ClusterAddonList{}, func(list *v1alpha1.ClusterAddonList) error {
		if len(list.Items) != 1 {
			return fmt.Errorf("%d ClusterAddons", len(list.Items))
		}
		if err := wanted(&list.Items[0]); err != nil {
			return fmt.Errorf("%w: %s", err, operatortest.Describe(&list.Items[0]))
		}
		return nil
	}, client.InNamespace(f.name))
	return &list.Items[0]
}

// reached waits until the cluster has the addons of a class, and nothing is left to be done.
func (f *flow) reached(class string) *v1alpha1.ClusterAddon {
	f.Helper()
	return f.addons(func(a *v1alpha1.ClusterAddon) error {
		if a.Spec.ClusterStack != class || a.Status.ObservedGeneration != a.Generation || !a.Status.Ready || !a.Status.Conditions.IsTrue(v1alpha1.ReadyCondition) {
			return fmt.Errorf("the cluster has not come to %s", class)
		}
		return nil
	})
}

// waitsAt waits until a stage of the addons waits for its gate.
func (f *flow) waitsAt(stage string) {
	f.Helper()
	f.addons(func(a *v1alpha1.ClusterAddon) error {
		if c := a.Status.Conditions.Get(v1alpha1.ReadyCondition); c == nil || !strings.Contains(c.Message, "stage "+stage+" waits for") {
			return fmt.Errorf("stage %s does not wait", stage)
		}
		return nil
	})
}

// topology waits until Cluster API says something about the topology of the Cluster.
func (f *flow) topology(text string) {
	f.Helper()
	f.says(clusterv1.ClusterTopologyReconciledCondition, text)
}

// says waits until the message of a condition of the Cluster has a text.
func (f *flow) says(condition, text string) {
	f.Helper()
	f.AwaitCluster(f, patience, f.key(), func(c *clusterv1.Cluster) error {
		said := ""
		for _, has := range c.Status.Conditions {
			if has.Type == condition {
				said = has.Message
			}
		}
		if !strings.Contains(said, text) {
			return fmt.Errorf("condition %s does not say %q: %s", condition, text, said)
		}
		return nil
	})
}

// versions are those that Cluster API has given to the control plane and the workers, in this order.
func (f *flow) versions() []string {
	f.Helper()
	planes, workers := &controlplanev1.KubeadmControlPlaneList{}, &clusterv1.MachineDeploymentList{}
	if err := errors.Join(f.List(f.Context(), planes, client.InNamespace(f.name)), f.List(f.Context(), workers, client.InNamespace(f.name))); err != nil {
		f.Fatal(err)
	}
	var versions []string
	for _, plane := range planes.Items {
		versions = append(versions, plane.Spec.Version)
	}
	for _, worker := range workers.Items {
		versions = append(versions, worker.Spec.Template.Spec.Version)
	}
	return versions
}

// workload is a client of the workload cluster.
func (f *flow) workload() client.WithWatch {
	f.Helper()
	return f.Workload(f, patience, f.key())
}

// gates makes the gates of stages, all shut.
func (f *flow) gates(names ...string) *corev1.ConfigMap {
	f.Helper()
	gates := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: "gates"}, Data: map[string]string{}}
	for _, name := range names {
		gates.Data[name] = "shut"
	}
	if err := f.workload().Create(f.Context(), gates); err != nil {
		f.Fatal(err)
	}
	return gates
}

// open opens a gate. The API server may be on its way from one machine to the next.
func (f *flow) open(gate string) {
	f.Helper()
	patch := client.RawPatch(types.MergePatchType, []byte(`{"data":{"`+gate+`":"open"}}`))
	gates := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: "gates"}}
	f.eventually("the gate "+gate+" can be opened", func() error { return f.workload().Patch(f.Context(), gates, patch) })
}

// eventually looks again and again until something holds.
func (f *flow) eventually(what string, holds func() error) {
	f.Helper()
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for {
		err := holds()
		if err == nil {
			return
		}
		select {
		case <-deadline:
			f.Fatalf("waited in vain until %s: %v", what, err)
		case <-tick.C:
		}
	}
}

// gone waits until nothing of a Cluster that is being deleted is left, and tells how long it took from a moment.
func (f *flow) gone(since time.Time) time.Duration {
	f.Helper()
	f.DeleteCluster(f, patience, f.key())
	took := time.Since(since)
	clustertest.Await(f, f, patience, &v1alpha1.ClusterAddonList{}, func(list *v1alpha1.ClusterAddonList) error {
		if len(list.Items) > 0 {
			return fmt.Errorf("the ClusterAddon is still there: %s", operatortest.Describe(&list.Items[0]))
		}
		return nil
	}, client.InNamespace(f.name))
	clustertest.Await(f, f, patience, &corev1.SecretList{}, func(list *corev1.SecretList) error {
		for _, secret := range list.Items {
			if strings.HasPrefix(secret.Name, "cluster-addon-") {
				return fmt.Errorf("Secret %s is still there", secret.Name)
			}
		}
		return nil
	}, client.InNamespace(f.name))
	f.Logf("the Cluster was gone after %s", took.Round(time.Second))
	return took
}

// request is what the operator asked of the management cluster.
type request struct {
	verb, resource, namespace, name string
	code                            int32
}

// asked are the requests of the operator since a moment that were to change something, other than events, in namespaces.
func (f *flow) asked(since time.Time, namespaces ...string) []request {
	f.Helper()
	log, err := os.ReadFile(filepath.Join(f.instance.Dir(), sandbox.AuditLog))
	if err != nil {
		f.Fatal(err)
	}
	// The API server writes on for other tests: the last line may not be whole yet.
	log = log[:bytes.LastIndexByte(log, '\n')+1]
	var found []request
	for line := range bytes.Lines(log) {
		if !bytes.Contains(line, []byte(user)) {
			continue
		}
		event := auditv1.Event{}
		if err := json.Unmarshal(line, &event); err != nil {
			f.Fatal(err)
		}
		ref := event.ObjectRef
		if event.User.Username != user || ref == nil || event.ResponseStatus == nil || event.RequestReceivedTimestamp.Time.Before(since) ||
			!slices.Contains(namespaces, ref.Namespace) || slices.Contains([]string{"get", "list", "watch"}, event.Verb) {
			continue
		}
		found = append(found, request{event.Verb, ref.Resource, ref.Namespace, ref.Name, event.ResponseStatus.Code})
	}
	return found
}
