// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package simulator_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/cluster-api/util/conditions"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
)

func TestMain(m *testing.M) { sandboxtest.Main(m) }

const (
	namespace = "default"
	before    = "v1.35.4"
	after     = "v1.36.3"
)

// TestLifeOfACluster walks through what a user sees, with the managers of Cluster API above and all control plane
// programs being the real ones.
func TestLifeOfACluster(t *testing.T) {
	instance := management(t)
	mgmt := newClient(t, instance.Config())
	apply(t, mgmt, "testdata/clusterclass.yaml")
	created := time.Now()
	apply(t, mgmt, "testdata/cluster.yaml")
	cluster := types.NamespacedName{Namespace: namespace, Name: "one"}

	var workload client.WithWatch
	stage := func(name string, run func(t *testing.T)) {
		if !t.Run(name, run) {
			t.FailNow() // each stage goes on from where the one before has ended
		}
	}
	stage("NodesWaitForANetwork", func(t *testing.T) {
		workload = reach(t, mgmt, cluster)
		await(t, workload, &corev1.NodeList{}, func(nodes *corev1.NodeList) error {
			if len(nodes.Items) != 2 {
				return fmt.Errorf("%d nodes, want 2", len(nodes.Items))
			}
			return nil
		})
		for _, node := range list(t, workload, &corev1.NodeList{}).Items {
			ready := nodeCondition(node, corev1.NodeReady)
			if ready.Status != corev1.ConditionFalse || !strings.Contains(ready.Message, "cni plugin not initialized") {
				t.Errorf("node %s without a CNI has Ready=%s: %s", node.Name, ready.Status, ready.Message)
			}
			if node.Status.NodeInfo.KubeletVersion != before {
				t.Errorf("node %s runs %s, want %s", node.Name, node.Status.NodeInfo.KubeletVersion, before)
			}
			_, controlPlane := node.Labels["node-role.kubernetes.io/control-plane"]
			if waits := hasTaint(node, "node.cloudprovider.kubernetes.io/uninitialized"); waits == controlPlane {
				t.Errorf("node %s waits for a cloud provider: %t; only workers are told to", node.Name, waits)
			}
			if role := node.Labels["test.example.com/role"]; (role == "worker") == controlPlane {
				t.Errorf("node %s has the role label %q", node.Name, role)
			}
		}
		for _, pod := range list(t, workload, &corev1.PodList{}, client.MatchingLabels{"k8s-app": "kube-dns"}).Items {
			if pod.Status.Phase == corev1.PodRunning {
				t.Errorf("pod %s runs without a network", pod.Name)
			}
		}
		c := &clusterv1.Cluster{}
		get(t, mgmt, cluster, c)
		if conditions.IsTrue(c, clusterv1.ClusterAvailableCondition) {
			t.Error("a cluster without a CNI is Available")
		}
	})

	stage("AvailableWithANetwork", func(t *testing.T) {
		apply(t, workload, "testdata/cni.yaml")
		awaitAvailable(t, mgmt, cluster)
		t.Logf("Available %s after its creation", time.Since(created).Round(time.Second))
		awaitPods(t, workload, client.MatchingLabels{"k8s-app": "kube-dns"}, 2, func(p corev1.Pod) error {
			if p.Status.Phase != corev1.PodRunning || !strings.HasPrefix(p.Status.PodIP, "192.168.") {
				return fmt.Errorf("pod %s is %s at %q", p.Name, p.Status.Phase, p.Status.PodIP)
			}
			return nil
		})
		if minor := emulated(t, mgmt, cluster); minor != "35" {
			t.Errorf("the API server behaves like 1.%s", minor)
		}
	})

	stage("PodsTellTheTruth", func(t *testing.T) { pods(t, workload) })

	stage("NothingLeavesTheMachine", func(t *testing.T) {
		apply(t, workload, "testdata/apiservice.yaml")
		services := &unstructured.UnstructuredList{}
		services.SetAPIVersion("apiregistration.k8s.io/v1")
		services.SetKind("APIServiceList")
		await(t, workload, services, func(l *unstructured.UnstructuredList) error {
			for _, s := range l.Items {
				if s.GetName() != "v1beta1.metrics.k8s.io" {
					continue
				}
				status, _, _ := unstructured.NestedSlice(s.Object, "status", "conditions")
				if told := fmt.Sprint(status); !strings.Contains(told, "a sandbox has no network between pods") {
					return fmt.Errorf("the API server says %s", told)
				}
				return nil
			}
			return errors.New("there is no such APIService")
		})
	})

	stage("UpgradeByAMinor", func(t *testing.T) {
		begin := time.Now()
		c := &clusterv1.Cluster{ObjectMeta: metav1.ObjectMeta{Namespace: cluster.Namespace, Name: cluster.Name}}
		patch := client.RawPatch(types.MergePatchType, []byte(`{"spec":{"topology":{"version":"`+after+`"}}}`))
		if err := mgmt.Patch(t.Context(), c, patch); err != nil {
			t.Fatal(err)
		}
		await(t, mgmt, &clusterv1.MachineList{}, func(machines *clusterv1.MachineList) error {
			for _, m := range machines.Items {
				if m.Spec.Version != after || !conditions.IsTrue(&m, clusterv1.MachineAvailableCondition) {
					return fmt.Errorf("machine %s: %s, %s", m.Name, m.Spec.Version, m.Status.Phase)
				}
			}
			if len(machines.Items) != 2 {
				return fmt.Errorf("%d machines, want 2", len(machines.Items))
			}
			return nil
		})
		awaitAvailable(t, mgmt, cluster)
		t.Logf("upgraded in %s", time.Since(begin).Round(time.Second))
		if minor := emulated(t, mgmt, cluster); minor != "36" {
			t.Errorf("the API server behaves like 1.%s", minor)
		}
		programs := programsIn(t, clusterDir(instance, cluster))
		for _, name := range []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler"} {
			if args := programs[name]; len(args) != 1 || !strings.Contains(args[0], "--emulated-version=kube=1.36") {
				t.Errorf("%s: want one that behaves like 1.36, got %q", name, args)
			}
		}
		await(t, workload, &corev1.NodeList{}, func(nodes *corev1.NodeList) error {
			for _, node := range nodes.Items {
				if node.Status.NodeInfo.KubeletVersion != after {
					return fmt.Errorf("node %s is still there", node.Name)
				}
			}
			return nil
		})
		known := map[string]bool{"": true}
		for _, node := range list(t, workload, &corev1.NodeList{}).Items {
			known[node.Name] = true
		}
		for _, pod := range list(t, workload, &corev1.PodList{}).Items {
			if !known[pod.Spec.NodeName] {
				t.Errorf("pod %s/%s is left of node %s", pod.Namespace, pod.Name, pod.Spec.NodeName)
			}
		}
	})

	stage("DeleteLeavesNothing", func(t *testing.T) {
		begin := time.Now()
		if err := mgmt.Delete(t.Context(), &clusterv1.Cluster{ObjectMeta: metav1.ObjectMeta{Namespace: cluster.Namespace, Name: cluster.Name}}); err != nil {
			t.Fatal(err)
		}
		await(t, mgmt, &clusterv1.ClusterList{}, func(clusters *clusterv1.ClusterList) error {
			if len(clusters.Items) > 0 {
				return fmt.Errorf("cluster %s is still there", clusters.Items[0].Name)
			}
			return nil
		})
		t.Logf("deleted in %s", time.Since(begin).Round(time.Second))
		dir := clusterDir(instance, cluster)
		if programs := programsIn(t, dir); len(programs) > 0 {
			t.Errorf("still running: %v", programs)
		}
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there (%v)", dir, err)
		}
	})
}

// pods checks what kubelets report of pods in a cluster with a network.
func pods(t *testing.T, workload client.WithWatch) {
	tolerateAll := []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
	labels := func(app string) map[string]string { return map[string]string{"app": app} }
	container := func(image string) []corev1.Container { return []corev1.Container{{Name: "main", Image: image}} }

	fails := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "fails"},
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels("fails")},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels("fails")},
				Spec:       corev1.PodSpec{Tolerations: tolerateAll, Containers: container("example.com/app:fail")},
			},
		},
	}
	job := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "once"},
		Spec: batchv1.JobSpec{Template: corev1.PodTemplateSpec{
			Spec: corev1.PodSpec{Tolerations: tolerateAll, RestartPolicy: corev1.RestartPolicyNever, Containers: container("example.com/job:1")},
		}},
	}
	waits := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "waits", Labels: labels("waits")},
		Spec: corev1.PodSpec{
			Tolerations: tolerateAll, Containers: container("example.com/app:1"),
			Volumes: []corev1.Volume{{Name: "s", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "later"}}}},
		},
	}
	for _, object := range []client.Object{fails, job, waits} {
		create(t, workload, object)
	}

	awaitPods(t, workload, client.MatchingLabels(labels("fails")), 1, waitsFor("ImagePullBackOff"))
	awaitPods(t, workload, client.MatchingLabels(labels("waits")), 1, waitsFor("ContainerCreating"))
	create(t, workload, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "later"}})
	awaitPods(t, workload, client.MatchingLabels(labels("waits")), 1, func(p corev1.Pod) error {
		if p.Status.Phase != corev1.PodRunning {
			return fmt.Errorf("pod %s is %s", p.Name, p.Status.Phase)
		}
		return nil
	})
	await(t, workload, &batchv1.JobList{}, func(jobs *batchv1.JobList) error {
		if len(jobs.Items) != 1 || jobs.Items[0].Status.Succeeded != 1 {
			return errors.New("the job has not succeeded")
		}
		return nil
	})
	// A pod that was to have 30 s for its end is gone at once: nothing of it runs.
	begin := time.Now()
	if err := workload.Delete(t.Context(), waits); err != nil {
		t.Fatal(err)
	}
	awaitPods(t, workload, client.MatchingLabels(labels("waits")), 0, nil)
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("the pod took %s to go", took)
	}
	for _, pod := range list(t, workload, &corev1.PodList{}, client.MatchingLabels(labels("fails"))).Items {
		if err := waitsFor("ImagePullBackOff")(pod); err != nil {
			t.Error(err)
		}
	}
	for _, object := range []client.Object{fails, job} {
		if err := workload.Delete(t.Context(), object, client.PropagationPolicy(metav1.DeletePropagationBackground)); err != nil {
			t.Fatal(err)
		}
	}
	awaitPods(t, workload, client.MatchingLabels(labels("fails")), 0, nil)
	awaitPods(t, workload, client.MatchingLabels{batchv1.JobNameLabel: job.Name}, 0, nil)
}

func waitsFor(reason string) func(corev1.Pod) error {
	return func(p corev1.Pod) error {
		for _, c := range p.Status.ContainerStatuses {
			if c.State.Waiting != nil && c.State.Waiting.Reason == reason && !c.Ready && p.Status.Phase == corev1.PodPending {
				return nil
			}
		}
		return fmt.Errorf("pod %s is %s, its containers do not wait for %s: %+v", p.Name, p.Status.Phase, reason, p.Status.ContainerStatuses)
	}
}

func management(t *testing.T) *sandboxtest.Instance {
	t.Helper()
	return sandboxtest.Management(t)
}

func clusterDir(i *sandboxtest.Instance, cluster types.NamespacedName) string {
	return filepath.Join(i.Dir(), "machines", cluster.Namespace, cluster.Name)
}

// programsIn gives the command lines of processes that use files of a folder, by the name of the program.
func programsIn(t *testing.T, dir string) map[string][]string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string][]string{}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		args := strings.Split(string(bytes.TrimRight(data, "\x00")), "\x00")
		line := strings.Join(args, " ")
		if strings.Contains(line, dir+"/") {
			found[filepath.Base(args[0])] = append(found[filepath.Base(args[0])], line)
		}
	}
	return found
}

func newClient(t *testing.T, config *rest.Config) client.WithWatch {
	t.Helper()
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{scheme.AddToScheme, clusterv1.AddToScheme} {
		if err := add(s); err != nil {
			t.Fatal(err)
		}
	}
	c, err := client.NewWithWatch(config, client.Options{Scheme: s})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// kubeconfig reads what Cluster API gives to users.
func kubeconfig(t *testing.T, mgmt client.WithWatch, cluster types.NamespacedName) *rest.Config {
	t.Helper()
	var config *rest.Config
	await(t, mgmt, &corev1.SecretList{}, func(secrets *corev1.SecretList) error {
		for _, s := range secrets.Items {
			if s.Namespace == cluster.Namespace && s.Name == cluster.Name+"-kubeconfig" {
				var err error
				config, err = clientcmd.RESTConfigFromKubeConfig(s.Data["value"])
				return err
			}
		}
		return errors.New("there is no kubeconfig")
	})
	config.QPS = -1
	return config
}

// reach gives a client once the cluster answers.
func reach(t *testing.T, mgmt client.WithWatch, cluster types.NamespacedName) client.WithWatch {
	t.Helper()
	config := kubeconfig(t, mgmt, cluster)
	await(t, mgmt, &clusterv1.ClusterList{}, func(clusters *clusterv1.ClusterList) error {
		for _, c := range clusters.Items {
			if c.Name == cluster.Name && conditions.IsTrue(&c, clusterv1.ClusterControlPlaneInitializedCondition) {
				return nil
			}
		}
		return errors.New("the control plane is not initialized")
	})
	return newClient(t, config)
}

// emulated is the minor that the API server says it behaves like.
func emulated(t *testing.T, mgmt client.WithWatch, cluster types.NamespacedName) string {
	t.Helper()
	config := rest.CopyConfig(kubeconfig(t, mgmt, cluster))
	config.NegotiatedSerializer = scheme.Codecs.WithoutConversion()
	c, err := rest.UnversionedRESTClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := c.Get().AbsPath("/version").DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		EmulationMinor string `json:"emulationMinor"`
	}
	if err := utilyaml.Unmarshal(raw, &v); err != nil {
		t.Fatal(err)
	}
	return v.EmulationMinor
}

func awaitAvailable(t *testing.T, mgmt client.WithWatch, cluster types.NamespacedName) {
	t.Helper()
	await(t, mgmt, &clusterv1.ClusterList{}, func(clusters *clusterv1.ClusterList) error {
		for _, c := range clusters.Items {
			if client.ObjectKeyFromObject(&c) == cluster {
				if condition := conditions.Get(&c, clusterv1.ClusterAvailableCondition); condition != nil && condition.Status != metav1.ConditionTrue {
					return errors.New(condition.Message)
				}
				return nil
			}
		}
		return errors.New("there is no such cluster")
	})
}

// awaitPods waits until there are so many pods, each as wanted.
func awaitPods(t *testing.T, c client.WithWatch, labels client.MatchingLabels, count int, wanted func(corev1.Pod) error) {
	t.Helper()
	await(t, c, &corev1.PodList{}, func(pods *corev1.PodList) error {
		if len(pods.Items) != count {
			return fmt.Errorf("%d pods with %v, want %d", len(pods.Items), labels, count)
		}
		for _, p := range pods.Items {
			if err := wanted(p); err != nil {
				return err
			}
		}
		return nil
	}, labels)
}

// await lists again with every event until the list is as wanted.
func await[L client.ObjectList](t *testing.T, c client.WithWatch, into L, wanted func(L) error, opts ...client.ListOption) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var last error
	for ctx.Err() == nil {
		// Watched before it is listed: what happens in between is an event.
		watcher, err := c.Watch(ctx, into.DeepCopyObject().(client.ObjectList), opts...)
		if err != nil {
			last = err
			pause(ctx)
			continue
		}
		for open := true; open; {
			if last = c.List(ctx, into, opts...); last == nil {
				last = wanted(into)
			}
			if last == nil {
				watcher.Stop()
				return
			}
			select {
			case _, open = <-watcher.ResultChan():
			case <-ctx.Done():
				open = false
			}
		}
		watcher.Stop()
	}
	t.Fatalf("in vain: %v", last)
}

// pause waits a moment before a server that did not answer is asked again.
func pause(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(200 * time.Millisecond):
	}
}

func list[L client.ObjectList](t *testing.T, c client.Client, into L, opts ...client.ListOption) L {
	t.Helper()
	if err := c.List(t.Context(), into, opts...); err != nil {
		t.Fatal(err)
	}
	return into
}

func get(t *testing.T, c client.Client, name types.NamespacedName, into client.Object) {
	t.Helper()
	if err := c.Get(t.Context(), name, into); err != nil {
		t.Fatal(err)
	}
}

func create(t *testing.T, c client.Client, object client.Object) {
	t.Helper()
	if err := c.Create(t.Context(), object); err != nil {
		t.Fatalf("create %s: %v", object.GetName(), err)
	}
}

// apply creates the objects of a file.
func apply(t *testing.T, c client.Client, file string) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	decoder := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096)
	for {
		object := &unstructured.Unstructured{}
		switch err := decoder.Decode(object); {
		case errors.Is(err, io.EOF):
			return
		case err != nil:
			t.Fatalf("%s: %v", file, err)
		}
		create(t, c, object)
	}
}

func nodeCondition(node corev1.Node, kind corev1.NodeConditionType) corev1.NodeCondition {
	for _, c := range node.Status.Conditions {
		if c.Type == kind {
			return c
		}
	}
	return corev1.NodeCondition{}
}

func hasTaint(node corev1.Node, key string) bool {
	for _, taint := range node.Spec.Taints {
		if taint.Key == key {
			return true
		}
	}
	return false
}
