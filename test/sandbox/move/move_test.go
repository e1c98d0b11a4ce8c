// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package move proves that `clusterctl move` takes a cluster from one sandbox to another: the objects, which clusterctl
// moves, what they stand for, which the simulators hand over, and what the operators know of them.
package move

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	runtimev1 "sigs.k8s.io/cluster-api/api/runtime/v1beta2"
	"sigs.k8s.io/cluster-api/util/secret"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/cli"
	"github.com/clusterstacks/cluster-stack-operator/internal/ledger"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/binaries"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
	"github.com/clusterstacks/cluster-stack-operator/internal/story"
	"github.com/clusterstacks/cluster-stack-operator/test/operator/operatortest"
	"github.com/clusterstacks/cluster-stack-operator/test/sandbox/clustertest"
)

// TestMain lets the test binary be csctl for `sandbox up`, which starts its own executable once more.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "sandbox" {
		os.Exit(cli.Run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	sandboxtest.Main(m)
}

// patience is for one thing to happen, many times what it takes: the machine may be busy.
const patience = 5 * time.Minute

// root is the repository, seen from this package.
const root = "../../.."

var (
	cluster = types.NamespacedName{Namespace: "team", Name: "moved"}
	goal    = story.Goal{Class: "docker-starter-1-35-v1", Version: "v1.35.4", Nodes: 2}
)

// TestMove: a cluster goes to another management cluster with its stack, its releases, and what is remembered of its
// addons. The operators of both, and their webhooks, run all the time.
func TestMove(t *testing.T) {
	operator, releases := operatortest.Program(t), publish(t)
	from := sandboxtest.Management(t, sandboxtest.WithOperator(operator, releases))
	source, before := clustertest.New(t, from), tell(t, from)
	create(t, before)
	to := sandboxtest.NewManagement(t, sandboxtest.WithOperator(operator, releases)) // while the cluster comes up
	target, after := clustertest.New(t, to), tell(t, to)
	must(t, before.Reached(t.Context(), cluster, goal, 2*patience))

	workload := source.Workload(t, patience, cluster)
	data := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: "kept"},
		Data:       map[string]string{"written": "before the move"},
	}
	must(t, workload.Create(t.Context(), data))
	ca, secrets := authority(t, source), remembered(t, before.Client)

	move(t, from, to)
	must(t, after.Reached(t.Context(), cluster, goal, 2*patience))

	t.Run("HooksAreForClusterAPI", func(t *testing.T) { refusesStrangers(t, to) })
	t.Run("SourceHasNothing", func(t *testing.T) { wantNothing(t, source, from.Dir()) })
	t.Run("SameCluster", func(t *testing.T) {
		if diff := cmp.Diff(ca, authority(t, target)); diff != "" {
			t.Errorf("another certificate authority: %s", diff)
		}
		// Both with what users had before, and with what they are given now.
		for name, c := range map[string]client.Client{"before": workload, "now": target.Workload(t, patience, cluster)} {
			got := &corev1.ConfigMap{}
			if err := c.Get(t.Context(), client.ObjectKeyFromObject(data), got); err != nil || got.UID != data.UID {
				t.Errorf("by the kubeconfig of %s: %s, %v; want the object of before the move", name, got.UID, err)
			}
		}
	})
	t.Run("Addons", func(t *testing.T) { wantAddons(t, target, after.Client, secrets) })
	t.Run("Describe", func(t *testing.T) {
		out := clusterctl(t, "describe", "cluster", cluster.Name, "--namespace="+cluster.Namespace, "--kubeconfig="+to.Kubeconfig())
		for _, want := range []string{"Cluster " + cluster.String(), "DevCluster " + cluster.Namespace, "MachineDeployment " + cluster.Namespace} {
			if !strings.Contains(out, want) {
				t.Errorf("lacks %s:\n%s", want, out)
			}
		}
	})
	t.Run("Grows", func(t *testing.T) {
		c := &clusterv1.Cluster{}
		must(t, target.Get(t.Context(), cluster, c))
		before := c.DeepCopy()
		c.Spec.Topology.Workers.MachineDeployments[0].Replicas = ptr.To[int32](2)
		must(t, target.Patch(t.Context(), c, client.MergeFrom(before)))
		grown := goal
		grown.Nodes++
		must(t, after.Reached(t.Context(), cluster, grown, patience))
	})
	t.Run("NothingStaysBehind", func(t *testing.T) { deleteAll(t, target, after.Client) })
}

// clusterctl runs the real program and returns what it prints.
func clusterctl(t *testing.T, args ...string) string {
	t.Helper()
	path, err := binaries.Clusterctl(t.Context(), func(line string) { t.Log(line) })
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Env = append(os.Environ(), "CLUSTERCTL_DISABLE_VERSIONCHECK=true", "XDG_CONFIG_HOME="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("clusterctl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// authority is the certificate authority of the cluster.
func authority(t *testing.T, mgmt *clustertest.Management) string {
	t.Helper()
	s := &corev1.Secret{}
	key := types.NamespacedName{Namespace: cluster.Namespace, Name: secret.Name(cluster.Name, secret.ClusterCA)}
	if err := mgmt.Get(t.Context(), key, s); err != nil {
		t.Fatal(err)
	}
	return string(s.Data[corev1.TLSCertKey])
}

// wantNothing looks for objects, programs and files of the cluster where it was.
func wantNothing(t *testing.T, source *clustertest.Management, dir string) {
	t.Helper()
	awaitNothing(t, source, patience)
	for _, p := range source.Programs(t, cluster) {
		t.Errorf("%s still runs (pid %d)", p.Name, p.Pid)
	}
	left, err := filepath.Glob(filepath.Join(dir, "machines", "*", "*"))
	if err != nil || len(left) > 0 {
		t.Errorf("files left: %v, %v", left, err)
	}
}

// awaitNothing waits until the namespace has nothing of a cluster and its stack, but for what a user made beside them.
func awaitNothing(t *testing.T, mgmt *clustertest.Management, limit time.Duration) {
	t.Helper()
	var left []string
	err := wait.PollUntilContextTimeout(t.Context(), 200*time.Millisecond, limit, true, func(ctx context.Context) (bool, error) {
		left = nil
		for _, kind := range []schema.GroupVersionKind{
			clusterv1.GroupVersion.WithKind("Cluster"), clusterv1.GroupVersion.WithKind("ClusterClass"), clusterv1.GroupVersion.WithKind("Machine"),
			{Group: "controlplane.cluster.x-k8s.io", Version: "v1beta2", Kind: "KubeadmControlPlane"},
			{Group: "controlplane.cluster.x-k8s.io", Version: "v1beta2", Kind: "KubeadmControlPlaneTemplate"},
			{Group: "bootstrap.cluster.x-k8s.io", Version: "v1beta2", Kind: "KubeadmConfig"},
			{Group: "bootstrap.cluster.x-k8s.io", Version: "v1beta2", Kind: "KubeadmConfigTemplate"},
			{Group: "infrastructure.cluster.x-k8s.io", Version: "v1beta2", Kind: "DevCluster"},
			{Group: "infrastructure.cluster.x-k8s.io", Version: "v1beta2", Kind: "DevClusterTemplate"},
			{Group: "infrastructure.cluster.x-k8s.io", Version: "v1beta2", Kind: "DevMachine"},
			{Group: "infrastructure.cluster.x-k8s.io", Version: "v1beta2", Kind: "DevMachineTemplate"},
			v1alpha1.GroupVersion.WithKind("ClusterStack"), v1alpha1.GroupVersion.WithKind("ClusterStackRelease"), v1alpha1.GroupVersion.WithKind("ClusterAddon"),
			corev1.SchemeGroupVersion.WithKind("Secret"),
		} {
			list := &unstructured.UnstructuredList{}
			list.SetGroupVersionKind(kind)
			if err := mgmt.List(ctx, list, client.InNamespace(cluster.Namespace)); err != nil {
				return false, err
			}
			for _, o := range list.Items {
				if o.GetKind() != "Secret" || o.GetName() != "values" {
					left = append(left, o.GetKind()+" "+o.GetName())
				}
			}
		}
		return len(left) == 0, nil
	})
	if err != nil {
		t.Errorf("%v; left: %v", err, left)
	}
}

// publish builds the starter stack, with an addon that generates a key, and returns the folder with its release.
func publish(t *testing.T) string {
	t.Helper()
	stack, releases := filepath.Join(t.TempDir(), "stack"), t.TempDir()
	// As the stack's README says to copy it: what is linked becomes a copy.
	if out, err := exec.CommandContext(t.Context(), "cp", "-rL", filepath.Join(root, "stacks/docker/starter/1-35"), stack).CombinedOutput(); err != nil {
		t.Fatalf("copy the starter stack: %v\n%s", err, out)
	}
	must(t, os.WriteFile(filepath.Join(stack, "cluster-addon/metrics-server/templates/generated.yaml"), []byte(generated), 0o600))
	var out bytes.Buffer
	if code := cli.Run([]string{
		"create", stack, "--output", releases, "--mode", "custom",
		"--cluster-stack-version", "v1", "--cluster-addon-version", "v1", "--node-image-version", "v1",
	}, strings.NewReader(""), &out, &out); code != 0 {
		t.Fatalf("csctl create: exit code %d\n%s", code, &out)
	}
	return releases
}

// generated has something that no two renders have alike, and a value that the settings of the cluster set.
const generated = `apiVersion: v1
kind: Secret
metadata:
  name: generated
data:
  tls.crt: {{ (genCA "moved" 365).Cert | b64enc }}
  set: {{ .Values.set | default "nothing" | b64enc }}
`

// manifests are what a user has: a stack, a cluster, and values for an addon of it.
var manifests = fstest.MapFS{"all.yaml": {Data: []byte(`apiVersion: v1
kind: Namespace
metadata:
  name: team
---
apiVersion: clusterstack.x-k8s.io/v1alpha1
kind: ClusterStack
metadata:
  name: starter
  namespace: team
spec:
  provider: docker
  name: starter
  kubernetesVersion: "1.35"
  versions: [v1]
  autoSubscribe: false
  noProvider: true
---
apiVersion: v1
kind: Secret
metadata:
  name: values
  namespace: team
  labels:
    clusterctl.cluster.x-k8s.io/move: ""
stringData:
  values.yaml: "set: by its user"
---
apiVersion: clusterstack.x-k8s.io/v1alpha1
kind: ClusterAddonSettings
metadata:
  name: moved
  namespace: team
spec:
  addons:
  - name: metrics-server
    valuesFrom:
    - kind: Secret
      name: values
`)}, "cluster.yaml": {Data: []byte(`apiVersion: cluster.x-k8s.io/v1beta2
kind: Cluster
metadata:
  name: moved
  namespace: team
spec:
  clusterNetwork:
    pods:
      cidrBlocks: ["10.244.0.0/16"]
  topology:
    classRef:
      name: docker-starter-1-35-v1
    controlPlane:
      replicas: 1
    workers:
      machineDeployments:
      - class: default-worker
        name: workers
        replicas: 1
`)}}

func tell(t *testing.T, management *sandboxtest.Instance) *story.Story {
	t.Helper()
	s, err := story.New(management.Config(), story.NewReport(t.Output()))
	must(t, err)
	return s
}

// create makes the stack and the cluster. The webhook fills in the version of Kubernetes.
func create(t *testing.T, s *story.Story) {
	t.Helper()
	must(t, s.Apply(t.Context(), manifests, "all.yaml"))
	must(t, s.Released(t.Context(), cluster.Namespace, goal.Class, goal.Class))
	must(t, s.Apply(t.Context(), manifests, "cluster.yaml"))
}

// move is `clusterctl move`, which takes both to be in peace.
func move(t *testing.T, from, to *sandboxtest.Instance) {
	t.Helper()
	start := time.Now()
	clusterctl(t, "move", "--namespace="+cluster.Namespace, "--kubeconfig="+from.Kubeconfig(), "--to-kubeconfig="+to.Kubeconfig())
	t.Logf("clusterctl move took %s", time.Since(start).Round(time.Second))
}

// refusesStrangers: the hook server answers nobody who shows no certificate. That Cluster API does is seen in all else.
func refusesStrangers(t *testing.T, management *sandboxtest.Instance) {
	t.Helper()
	scheme := runtime.NewScheme()
	must(t, runtimev1.AddToScheme(scheme))
	c, err := client.New(management.Config(), client.Options{Scheme: scheme})
	must(t, err)
	list := &runtimev1.ExtensionConfigList{}
	must(t, c.List(t.Context(), list))
	if len(list.Items) != 1 {
		t.Fatalf("%d ExtensionConfigs", len(list.Items))
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(list.Items[0].Spec.ClientConfig.CABundle)
	stranger := &http.Client{Timeout: time.Minute, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}}
	defer stranger.CloseIdleConnections()
	response, err := stranger.Get(list.Items[0].Spec.ClientConfig.URL + "/hooks.runtime.cluster.x-k8s.io/v1alpha1/discovery")
	if err == nil {
		_ = response.Body.Close()
		t.Fatalf("answered %s", response.Status)
	}
	if !strings.Contains(err.Error(), "certificate required") {
		t.Errorf("got %v", err)
	}
}

// remembered is what the operator must not lose: by name, what the Secrets hold that ClusterAddon and release own.
func remembered(t *testing.T, c client.Client) map[string]map[string][]byte {
	t.Helper()
	list := &corev1.SecretList{}
	must(t, c.List(t.Context(), list, client.InNamespace(cluster.Namespace)))
	found := map[string]map[string][]byte{}
	for _, s := range list.Items {
		if s.Type == ledger.SecretType {
			found[s.Name] = s.Data
		}
	}
	return found
}

// wantAddons finds that the operator at the other end knows all of what is in the cluster, and applied none of it again.
func wantAddons(t *testing.T, mgmt *clustertest.Management, c client.Client, before map[string]map[string][]byte) {
	t.Helper()
	after := remembered(t, c)
	for name, data := range before {
		// That of the release has the UIDs of the objects of its class, which are others now.
		if _, ok := after[name]; !ok {
			t.Errorf("Secret %s is not there", name)
		} else if !strings.HasPrefix(name, goal.Class) && !cmp.Equal(data, after[name]) {
			t.Errorf("Secret %s was changed", name)
		}
	}
	stack := &v1alpha1.ClusterStack{}
	if err := wait.PollUntilContextTimeout(t.Context(), 200*time.Millisecond, patience, true, func(ctx context.Context) (bool, error) {
		err := c.Get(ctx, types.NamespacedName{Namespace: cluster.Namespace, Name: "starter"}, stack)
		return stack.Status.Conditions.IsTrue(v1alpha1.ReadyCondition) && stack.Status.UsableVersions == "v1", err
	}); err != nil {
		t.Errorf("the ClusterStack is not ready: %v, %+v", err, stack.Status)
	}
	settings := &v1alpha1.ClusterAddonSettings{}
	must(t, c.Get(t.Context(), cluster, settings))
	for _, line := range applied(t, mgmt) {
		t.Errorf("applied again: %s", line)
	}
}

// applied lists the requests by server-side apply that the API server of the cluster has counted. It was started when the
// cluster was taken over.
func applied(t *testing.T, mgmt *clustertest.Management) []string {
	t.Helper()
	c, err := kubernetes.NewForConfig(mgmt.Kubeconfig(t, patience, cluster))
	must(t, err)
	raw, err := c.Discovery().RESTClient().Get().AbsPath("/metrics").Do(t.Context()).Raw()
	must(t, err)
	var found []string
	counts := 0
	for lines := bufio.NewScanner(bytes.NewReader(raw)); lines.Scan(); {
		if line := lines.Text(); strings.HasPrefix(line, "apiserver_request_total{") {
			counts++
			if strings.Contains(line, `verb="APPLY"`) {
				found = append(found, line)
			}
		}
	}
	if counts == 0 {
		t.Fatal("the API server counts no requests")
	}
	return found
}

// deleteAll deletes the cluster and the stack, and then finds nothing of the class: what was moved is known to be ours.
func deleteAll(t *testing.T, mgmt *clustertest.Management, c client.Client) {
	t.Helper()
	mgmt.DeleteCluster(t, patience, cluster)
	must(t, c.Delete(t.Context(), &v1alpha1.ClusterStack{ObjectMeta: metav1.ObjectMeta{Namespace: cluster.Namespace, Name: "starter"}}))
	awaitNothing(t, mgmt, patience)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
