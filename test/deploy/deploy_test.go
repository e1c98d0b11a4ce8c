// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	runtimev1 "sigs.k8s.io/cluster-api/api/runtime/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/apitest"
	"github.com/clusterstacks/cluster-stack-operator/internal/cli"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/binaries"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/process"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
	"github.com/clusterstacks/cluster-stack-operator/internal/story"
)

const (
	// patience is how long a test waits for what should take moments: the machine may be busy.
	patience = 5 * time.Minute

	namespace    = "cso-system"
	account      = "cso-controller-manager"
	user         = "system:serviceaccount:" + namespace + ":" + account
	minor35      = "docker-starter-1-35-v1"
	minor36      = "docker-starter-1-36-v1"
	kubernetes35 = "v1.35.4"
	kubernetes36 = "v1.36.3"
)

var demo = client.ObjectKey{Namespace: "quickstart", Name: "demo"}

// The manifests that `kubectl apply -k config/default` applies, in a real management cluster; the operator with the
// arguments of its Deployment and the token of its ServiceAccount; one cluster from its creation to its end. What
// cannot be as in an installation, for want of a network of Pods, is in adapt and in the arguments of run.
func TestInstallation(t *testing.T) {
	management := sandboxtest.Management(t, sandboxtest.WithAudit("system:serviceaccounts:"+namespace))
	s, err := story.New(management.Config(), story.NewReport(t.Output()))
	if err != nil {
		t.Fatal(err)
	}
	releases := t.TempDir()
	build(t, releases, "1-35")
	build(t, releases, "1-36")

	o := &installed{Client: s.Client, management: management, bin: compile(t), releases: releases}
	o.install(t, manifests(t))
	t.Run("AsWritten", func(t *testing.T) { o.asWritten(t) })
	t.Run("PodSecurity", func(t *testing.T) { o.podSecurity(t) })
	o.run(t)

	stacks := os.DirFS(filepath.Join(root, "docs/how-to/run-the-operator"))
	do := func(steps ...func() error) {
		t.Helper()
		for _, step := range steps {
			if err := step(); err != nil {
				t.Fatal(err)
			}
		}
	}
	do(
		func() error { return s.Apply(t.Context(), stacks, "clusterstack-1-35.yaml") },
		func() error { return s.Released(t.Context(), demo.Namespace, minor35, minor35) },
		func() error { return s.Apply(t.Context(), stacks, "clusterstack-1-36.yaml") },
		func() error { return s.Released(t.Context(), demo.Namespace, minor36, minor36) },
	)

	// A user names only the class, by server-side apply.
	cluster := func(class string) fstest.MapFS {
		file, err := os.ReadFile(filepath.Join(root, "docs/tutorial/quickstart/cluster.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		text := strings.Replace(string(file), "    version: "+kubernetes35+"\n", "", 1)
		text = strings.Replace(text, minor35, class, 1)
		return fstest.MapFS{"cluster.yaml": {Data: []byte(strings.Replace(text, "replicas: 2", "replicas: 1", 1))}}
	}
	do(
		func() error { return s.Apply(t.Context(), cluster(minor35), "cluster.yaml") },
		func() error {
			return s.Reached(t.Context(), demo, story.Goal{Class: minor35, Version: kubernetes35, Nodes: 2}, patience)
		},
	)
	t.Run("Admission", func(t *testing.T) { judge(t, s.Client) })
	t.Run("WhatIsInUseStays", func(t *testing.T) {
		stack := &v1alpha1.ClusterStack{}
		stack.Namespace, stack.Name = demo.Namespace, "starter-1-35"
		if err := s.Client.Delete(t.Context(), stack); err == nil || !strings.Contains(err.Error(), "release "+minor35+" is used by Cluster quickstart/demo") {
			t.Errorf("delete a ClusterStack in use: %v", err)
		}
	})

	do(
		func() error { return s.Apply(t.Context(), cluster(minor36), "cluster.yaml") },
		func() error {
			return s.Reached(t.Context(), demo, story.Goal{Class: minor36, Version: kubernetes36, Nodes: 2}, 2*patience)
		},
	)
	t.Run("Metrics", func(t *testing.T) { o.metrics(t) })
	t.Run("Events", func(t *testing.T) { o.events(t) })
	t.Run("AtRest", func(t *testing.T) { o.atRest(t) })

	t.Run("UsesRights", func(t *testing.T) { o.useRights(t) })

	// The operator goes, and comes back. Nobody notices.
	before := o.standing(t, s)
	o.remove(t)
	if diff := cmp.Diff(before, o.standing(t, s)); diff != "" {
		t.Errorf("removing the operator changed (-before +after):\n%s", diff)
	}
	o.install(t, manifests(t))
	o.run(t)
	do(
		func() error { return s.Apply(t.Context(), stacks, "clusterstack-1-35.yaml") },
		func() error { return s.Apply(t.Context(), stacks, "clusterstack-1-36.yaml") },
		func() error { return s.Released(t.Context(), demo.Namespace, minor36, minor36) },
		func() error {
			return s.Reached(t.Context(), demo, story.Goal{Class: minor36, Version: kubernetes36, Nodes: 2}, patience)
		},
	)
	if diff := cmp.Diff(before, o.standing(t, s)); diff != "" {
		t.Errorf("coming back, the operator changed (-before +after):\n%s", diff)
	}

	remove(t, s.Client, &clusterv1.Cluster{ObjectMeta: metav1.ObjectMeta{Namespace: demo.Namespace, Name: demo.Name}})
	for _, name := range []string{"starter-1-35", "starter-1-36"} {
		remove(t, s.Client, &v1alpha1.ClusterStack{ObjectMeta: metav1.ObjectMeta{Namespace: demo.Namespace, Name: name}})
	}
	for _, name := range []string{minor35, minor36} {
		gone(t, s.Client, &v1alpha1.ClusterStackRelease{ObjectMeta: metav1.ObjectMeta{Namespace: demo.Namespace, Name: name}})
	}
	o.stop(t)
	rights(t, s.Client, management)

	t.Run("CertManager", func(t *testing.T) { o.certManager(t) })
}

// judge tries the webhooks beside those of Cluster API, with clients of both versions and in both orders.
func judge(t *testing.T, c client.Client) {
	dry := client.NewDryRunClient(c)
	v1beta1 := func(name, class, version string) *unstructured.Unstructured {
		topology := map[string]any{"class": class, "controlPlane": map[string]any{"replicas": int64(1)}}
		if version != "" {
			topology["version"] = version
		}
		return &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "cluster.x-k8s.io/v1beta1", "kind": "Cluster",
			"metadata": map[string]any{"namespace": demo.Namespace, "name": name},
			"spec":     map[string]any{"topology": topology},
		}}
	}
	both := func(t *testing.T) {
		t.Helper()
		created := apitest.Cluster(demo.Namespace, "new", minor36, "")
		if err := dry.Create(t.Context(), created); err != nil || created.Spec.Topology.Version != kubernetes36 {
			t.Errorf("create with v1beta2: version %s, %v", created.Spec.Topology.Version, err)
		}
		older := v1beta1("new", minor35, "")
		err := dry.Create(t.Context(), older)
		if version, _, _ := unstructured.NestedString(older.Object, "spec", "topology", "version"); err != nil || version != kubernetes35 {
			t.Errorf("create with v1beta1: version %s, %v", version, err)
		}
		if err := dry.Create(t.Context(), v1beta1("new", minor35, "v1.35.1")); err == nil || !strings.Contains(err.Error(), "is made for Kubernetes "+kubernetes35) {
			t.Errorf("create with another version: %v", err)
		}
		if err := dry.Create(t.Context(), apitest.Cluster(demo.Namespace, "new", "docker-starter-1-36-v9", "")); err == nil || !strings.Contains(err.Error(), "there is no ClusterStackRelease docker-starter-1-36-v9") {
			t.Errorf("create with an unknown release: %v", err)
		}
		if err := dry.Create(t.Context(), apitest.Cluster(demo.Namespace, "new", "quick-start", "v1.33.0")); err != nil {
			t.Errorf("create with a foreign class: %v", err)
		}
		// As kubectl apply does after a change of the class: the version is in neither manifest.
		moved := &clusterv1.Cluster{ObjectMeta: metav1.ObjectMeta{Namespace: demo.Namespace, Name: demo.Name}}
		patch := client.RawPatch("application/merge-patch+json", []byte(`{"spec": {"topology": {"classRef": {"name": "`+minor36+`"}}}}`))
		if err := dry.Patch(t.Context(), moved, patch); err != nil || moved.Spec.Topology.Version != kubernetes36 {
			t.Errorf("change of the class: version %s, %v", moved.Spec.Topology.Version, err)
		}
		old := v1beta1(demo.Name, minor36, "")
		patch = client.RawPatch("application/merge-patch+json", []byte(`{"spec": {"topology": {"class": "`+minor36+`", "version": null}}}`))
		err = dry.Patch(t.Context(), old, patch)
		if version, _, _ := unstructured.NestedString(old.Object, "spec", "topology", "version"); err != nil || version != kubernetes36 {
			t.Errorf("change of the class with v1beta1 and no version: version %s, %v", version, err)
		}
	}
	t.Run("AfterClusterAPI", both)
	t.Run("BeforeClusterAPI", func(t *testing.T) {
		ours := &admissionregistrationv1.MutatingWebhookConfiguration{}
		if err := c.Get(t.Context(), client.ObjectKey{Name: "cso-mutating-webhook-configuration"}, ours); err != nil {
			t.Fatal(err)
		}
		first := &admissionregistrationv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "a-first"}, Webhooks: ours.Webhooks}
		if err := c.Create(t.Context(), first); err != nil {
			t.Fatal(err)
		}
		both(t)
		if err := c.Delete(t.Context(), first); err != nil {
			t.Fatal(err)
		}
	})
}

// installed is an operator whose manifests are applied.
type installed struct {
	client.Client // of an administrator
	management    *sandboxtest.Instance
	bin, releases string

	config *rest.Config // of the ServiceAccount
	args   []string
	health string
	diag   string
	log    string
	proc   *process.Process
}

// compile builds the operator and returns its path.
func compile(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "cluster-stack-operator")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "./cmd/cluster-stack-operator")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", build, err, out)
	}
	return bin
}

// image is what the manifests are made for.
const image = "registry.example.com/team/cluster-stack-operator:v9"

// manifests renders what installs the operator, and returns the file.
func manifests(t *testing.T) string {
	t.Helper()
	render := exec.CommandContext(t.Context(), "make", "manifests", "IMAGE="+image)
	render.Dir = root
	render.Env = append(os.Environ(), "MAKEFLAGS=")
	if out, err := render.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", render, err, out)
	}
	return filepath.Join(root, "bin", "cluster-stack-operator.yaml")
}

// install applies manifests as a user does, as one file, and prepares the operator that a Pod of the Deployment would be.
func (o *installed) install(t *testing.T, file string) {
	t.Helper()
	o.shell(t, "kubectl apply --server-side --filename "+file)
	// A Pod that is faster than the definitions is started again; a process of a test is not.
	o.serves(t, v1alpha1.GroupVersion, v1alpha1.ClusterStackKind, v1alpha1.ClusterStackReleaseKind, v1alpha1.ClusterAddonKind, v1alpha1.ClusterAddonSettingsKind)
	manifests, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	o.health, o.diag = address(t), address(t)
	webhooks, hooks := port(t), port(t)
	deployment := &appsv1.Deployment{}
	for decoder := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(manifests), 4096); ; {
		object := &unstructured.Unstructured{}
		if err := decoder.Decode(object); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if object.GetKind() == "Deployment" {
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, deployment); err != nil {
				t.Fatal(err)
			}
		}
		if !adapt(t, object, webhooks, hooks) {
			continue
		}
		err := o.Apply(t.Context(), client.ApplyConfigurationFromUnstructured(object), client.FieldOwner("kubectl"), client.ForceOwnership)
		if err != nil {
			t.Fatalf("apply %s %s: %v", object.GetKind(), object.GetName(), err)
		}
	}
	var kubeconfig string
	o.config, kubeconfig = o.login(t, deployment.Spec.Template.Spec.ServiceAccountName)
	// What follows is what a process has instead of a Pod: an address of its own for each server, folders, and how to
	// reach the API server. 127.0.0.1 stands in the certificate for Cluster API, which calls by URL.
	o.args = append(slices.Clone(deployment.Spec.Template.Spec.Containers[0].Args),
		"--kubeconfig="+kubeconfig, "--source=directory", "--release-dir="+o.releases, "--store-dir="+t.TempDir(), "--allow-networks=127.0.0.0/8",
		"--health-addr="+o.health, "--diagnostics-address="+o.diag,
		"--webhook-bind-address=127.0.0.1", "--webhook-port="+strconv.Itoa(webhooks),
		"--hook-bind-address=127.0.0.1", "--hook-port="+strconv.Itoa(hooks),
		"--certificate-names=cso-webhook-service.cso-system.svc,cso-hook-server-svc.cso-system.svc,127.0.0.1",
	)
}

// serves waits until the API server serves kinds whose definitions were applied.
func (o *installed) serves(t *testing.T, version schema.GroupVersion, kinds ...string) {
	t.Helper()
	o.shell(t, "kubectl wait crd --all --for=condition=Established --timeout=120s")
	lookups, err := discovery.NewDiscoveryClientForConfig(o.management.Config())
	if err != nil {
		t.Fatal(err)
	}
	await(t, fmt.Sprintf("%s has %v", version, kinds), func(context.Context) (bool, error) {
		list, err := lookups.ServerResourcesForGroupVersion(version.String())
		if err != nil {
			return false, client.IgnoreNotFound(err)
		}
		for _, kind := range kinds {
			if !slices.ContainsFunc(list.APIResources, func(r metav1.APIResource) bool { return r.Kind == kind }) {
				return false, nil
			}
		}
		return true, nil
	})
}

// login returns how a ServiceAccount reaches the management cluster, also as a file.
func (o *installed) login(t *testing.T, account string) (*rest.Config, string) {
	t.Helper()
	admin := o.management.Config()
	clients, err := kubernetes.NewForConfig(admin)
	if err != nil {
		t.Fatal(err)
	}
	hours := int64(7200)
	token, err := clients.CoreV1().ServiceAccounts(namespace).CreateToken(t.Context(), account,
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &hours}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"c": {Server: admin.Host, CertificateAuthorityData: admin.CAData, CertificateAuthority: admin.CAFile}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"u": {Token: token.Status.Token}},
		Contexts:       map[string]*clientcmdapi.Context{"x": {Cluster: "c", AuthInfo: "u"}},
		CurrentContext: "x",
	}, kubeconfig); err != nil {
		t.Fatal(err)
	}
	return &rest.Config{Host: admin.Host, BearerToken: token.Status.Token, TLSClientConfig: rest.TLSClientConfig{CAData: admin.CAData, CAFile: admin.CAFile}}, kubeconfig
}

// shell runs commands as an administrator types them.
func (o *installed) shell(t *testing.T, commands string) {
	t.Helper()
	programs, err := binaries.Ensure(t.Context(), func(line string) { t.Log(line) })
	if err != nil {
		t.Fatal(err)
	}
	shell := exec.CommandContext(t.Context(), "bash", "-o", "errexit", "-o", "nounset", "-o", "pipefail", "-c", commands)
	shell.Env = append(os.Environ(), "PATH="+filepath.Dir(programs.Kubectl)+string(os.PathListSeparator)+os.Getenv("PATH"),
		"KUBECONFIG="+o.management.Kubeconfig(), "KUBECACHEDIR="+t.TempDir())
	if out, err := shell.CombinedOutput(); err != nil {
		t.Fatalf("%s\n%v\n%s", commands, err, out)
	}
}

// remove removes the operator and its kinds as the documentation says, and stops it when its Deployment is gone.
func (o *installed) remove(t *testing.T) {
	t.Helper()
	page, err := os.ReadFile(filepath.Join(root, "docs/how-to/remove-the-operator.md"))
	if err != nil {
		t.Fatal(err)
	}
	typed := func(heading string) string {
		_, section, found := strings.Cut(string(page), "\n## "+heading+"\n")
		_, block, fenced := strings.Cut(section, "```sh\n")
		block, _, closed := strings.Cut(block, "```\n")
		if !found || !fenced || !closed {
			t.Fatalf("the page has no commands below %s", heading)
		}
		return block
	}
	o.shell(t, typed("The operator only"))
	o.stop(t)
	o.shell(t, typed("Its kinds, too"))
}

// standing identifies what a cluster has from its stack, on both sides.
func (o *installed) standing(t *testing.T, s *story.Story) map[string]string {
	t.Helper()
	found := map[string]string{}
	look := func(where string, c client.Reader, gvk schema.GroupVersionKind, opts ...client.ListOption) {
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(gvk)
		if err := c.List(t.Context(), list, opts...); err != nil {
			t.Fatal(err)
		}
		if len(list.Items) == 0 {
			t.Errorf("%s: no %s", where, gvk.Kind)
		}
		for _, item := range list.Items {
			if item.GetDeletionTimestamp() != nil {
				continue // a Machine of the upgrade
			}
			// What is sent again and changes nothing leaves the generation as it is.
			found[fmt.Sprintf("%s: %s %s", where, gvk.Kind, item.GetName())] = fmt.Sprintf("%s, generation %d", item.GetUID(), item.GetGeneration())
		}
	}
	owned := client.MatchingLabels{v1alpha1.InstanceLabel: v1alpha1.InstanceOwned}
	workload, err := s.Workload(t.Context(), demo)
	if err != nil {
		t.Fatal(err)
	}
	for _, gvk := range []schema.GroupVersionKind{
		{Group: "apps", Version: "v1", Kind: "Deployment"}, {Group: "apps", Version: "v1", Kind: "DaemonSet"},
		{Version: "v1", Kind: "ServiceAccount"}, {Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "ClusterRole"},
	} {
		look("workload cluster", workload, gvk, owned)
	}
	here := client.InNamespace(demo.Namespace)
	look("management cluster", o.Client, clusterv1.GroupVersion.WithKind("ClusterClass"), here, owned)
	look("management cluster", o.Client, schema.GroupVersionKind{Group: "controlplane.cluster.x-k8s.io", Version: "v1beta2", Kind: "KubeadmControlPlaneTemplate"}, here, owned)
	look("management cluster", o.Client, clusterv1.GroupVersion.WithKind("Cluster"), here)
	look("management cluster", o.Client, clusterv1.GroupVersion.WithKind("Machine"), here)
	return found
}

// adapt changes what needs a network of Pods: the Service of the webhooks points to the loopback interface, where the
// port is another one, and Cluster API, which does not resolve Services itself, gets a URL. It tells whether it did.
func adapt(t *testing.T, object *unstructured.Unstructured, webhooks, hooks int) bool {
	t.Helper()
	var err error
	switch {
	case object.GetKind() == "Service" && object.GetName() == "cso-webhook-service":
		err = unstructured.SetNestedMap(object.Object, map[string]any{"type": "ExternalName", "externalName": "127.0.0.1"}, "spec")
	case strings.HasSuffix(object.GetKind(), "WebhookConfiguration"):
		list, _, _ := unstructured.NestedSlice(object.Object, "webhooks")
		for _, w := range list {
			if e := unstructured.SetNestedField(w.(map[string]any), int64(webhooks), "clientConfig", "service", "port"); e != nil {
				err = e
			}
		}
		if err == nil {
			err = unstructured.SetNestedSlice(object.Object, list, "webhooks")
		}
	case object.GetKind() == "ExtensionConfig":
		err = unstructured.SetNestedMap(object.Object, map[string]any{"url": fmt.Sprintf("https://127.0.0.1:%d", hooks)}, "spec", "clientConfig")
	default:
		return false
	}
	if err != nil {
		t.Fatal(err)
	}
	return true
}

// run starts the operator and waits until it is ready and Cluster API knows its hooks.
func (o *installed) run(t *testing.T) {
	t.Helper()
	o.log = filepath.Join(t.TempDir(), "cluster-stack-operator.log")
	var err error
	if o.proc, err = process.Start(process.Spec{Name: "cluster-stack-operator", Path: o.bin, Args: o.args, LogFile: o.log}); err != nil {
		t.Fatal(err)
	}
	proc := o.proc
	t.Cleanup(func() {
		// The test's own context has ended by now.
		if err := proc.Stop(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	await(t, "the operator is ready", func(ctx context.Context) (bool, error) {
		if err := o.proc.Err(); err != nil {
			return false, err
		}
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+o.health+"/readyz", http.NoBody)
		if err != nil {
			return false, err
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return false, nil
		}
		return response.StatusCode == http.StatusOK, response.Body.Close()
	})
	scheme := runtime.NewScheme()
	if err := runtimev1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	c, err := client.New(o.management.Config(), client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	await(t, "Cluster API knows the hooks", func(ctx context.Context) (bool, error) {
		extension := &runtimev1.ExtensionConfig{}
		if err := c.Get(ctx, client.ObjectKey{Name: "cso-hook-server-extensionconfig"}, extension); err != nil {
			return false, err
		}
		return len(extension.Spec.ClientConfig.CABundle) > 0 && len(extension.Status.Handlers) > 0, nil
	})
}

func (o *installed) stop(t *testing.T) {
	t.Helper()
	if err := o.proc.Stop(t.Context()); err != nil {
		t.Errorf("stop the operator: %v", err)
	}
}

// build makes a release of the starter stack.
func build(t *testing.T, releases, minor string) {
	t.Helper()
	var out bytes.Buffer
	if code := cli.Run([]string{
		"create", filepath.Join(root, "stacks/docker/starter", minor), "--output", releases, "--mode", "custom",
		"--cluster-stack-version", "v1", "--cluster-addon-version", "v1", "--node-image-version", "v1",
	}, strings.NewReader(""), &out, &out); code != 0 {
		t.Fatalf("csctl create: exit code %d\n%s", code, &out)
	}
}

// remove deletes an object and waits for its end.
func remove(t *testing.T, c client.Client, object client.Object) {
	t.Helper()
	// Until a moment after the last user is gone, a webhook may deny it.
	await(t, "delete "+object.GetName(), func(ctx context.Context) (bool, error) {
		err := client.IgnoreNotFound(c.Delete(ctx, object))
		if apierrors.IsForbidden(err) {
			return false, nil
		}
		return err == nil, err
	})
	gone(t, c, object)
}

func gone(t *testing.T, c client.Client, object client.Object) {
	t.Helper()
	await(t, "the end of "+object.GetName(), func(ctx context.Context) (bool, error) {
		err := c.Get(ctx, client.ObjectKeyFromObject(object), object)
		return apierrors.IsNotFound(err), client.IgnoreNotFound(err)
	})
}

func await(t *testing.T, what string, done wait.ConditionWithContextFunc) {
	t.Helper()
	if err := wait.PollUntilContextTimeout(t.Context(), 200*time.Millisecond, patience, true, done); err != nil {
		t.Fatalf("waited in vain: %s: %v", what, err)
	}
}

func port(t *testing.T) int {
	t.Helper()
	_, text, err := net.SplitHostPort(address(t))
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// address is a free one. Its port is none of those that the system chooses for connections and for who takes any: such a
// one may be taken when the operator listens, which is a while later.
func address(t *testing.T) string {
	t.Helper()
	var last error
	for range 100 {
		at := net.JoinHostPort("127.0.0.1", strconv.Itoa(20000+rand.IntN(10000)))
		listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", at)
		if last = err; err == nil {
			_ = listener.Close()
			return at
		}
	}
	t.Fatal(last)
	return ""
}
