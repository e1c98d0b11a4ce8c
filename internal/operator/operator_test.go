// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package operator_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/client-go/util/retry"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/config"
	"github.com/clusterstacks/cluster-stack-operator/internal/apitest/kinds"
	"github.com/clusterstacks/cluster-stack-operator/internal/operator"
	"github.com/clusterstacks/cluster-stack-operator/internal/release/releasetest"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/pki"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
)

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard())
	sandboxtest.Main(m)
}

// patience is how long a test waits for what should take moments.
const patience = 3 * time.Minute

// shard are the labels of what the operator under test is to look at.
var shard = map[string]string{clusterv1.WatchLabel: "ours"}

// The whole operator, with exactly the rights of its ClusterRole: watches wake its controllers, none of
// which is called by the test. It is one of several that share the work by label. There can be only one in
// a process.
func TestWatchesWakeTheControllers(t *testing.T) {
	cfg := sandboxtest.APIServer(t)
	c := kinds.Client(t, cfg)
	namespace := kinds.Namespace(t, c)
	releases := t.TempDir()
	s := settings(t, kubeconfig(t, cfg, user), releases)
	s.WatchFilter = "ours"
	s.AllowNetworks = []string{"127.0.0.0/8"} // where the registry is
	start(t, c, s)

	others := &v1alpha1.ClusterStack{
		ObjectMeta: metav1.ObjectMeta{Namespace: kinds.Namespace(t, c), Name: "others"},
		Spec:       v1alpha1.ClusterStackSpec{Provider: "docker", Name: "starter", KubernetesVersion: "1.35", AutoSubscribe: true, NoProvider: true},
	}
	if err := c.Create(t.Context(), others); err != nil {
		t.Fatal(err)
	}
	stack := &v1alpha1.ClusterStack{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "s", Labels: shard},
		Spec:       v1alpha1.ClusterStackSpec{Provider: "docker", Name: "starter", KubernetesVersion: "1.35", AutoSubscribe: true, NoProvider: true},
	}
	if err := c.Create(t.Context(), stack); err != nil {
		t.Fatal(err)
	}
	usable := func(want string) {
		t.Helper()
		await(t, c, &v1alpha1.ClusterStackList{}, namespace, "ClusterStack with usable versions "+want, func(obj client.Object) bool {
			stack := obj.(*v1alpha1.ClusterStack)
			return stack.Status.UsableVersions == want && stack.Status.Conditions.IsTrue(v1alpha1.ReadyCondition)
		})
	}
	// A release is published.
	publish(t, releases, "docker-starter-1-35-v1")
	usable("v1")

	// Somebody deletes the class.
	class := &clusterv1.ClusterClass{}
	key := client.ObjectKey{Namespace: namespace, Name: "docker-starter-1-35-v1"}
	if err := c.Get(t.Context(), key, class); err != nil {
		t.Fatal(err)
	}
	if err := c.Delete(t.Context(), class); err != nil {
		t.Fatal(err)
	}
	await(t, c, &clusterv1.ClusterClassList{}, namespace, "the ClusterClass again", func(obj client.Object) bool {
		return obj.GetName() == key.Name && obj.GetUID() != class.UID
	})

	// A Cluster of another namespace uses the class while a new release comes, and leaves.
	cluster := &clusterv1.Cluster{
		ObjectMeta: metav1.ObjectMeta{Namespace: kinds.Namespace(t, c), Name: "c", Labels: shard},
		Spec: clusterv1.ClusterSpec{Topology: clusterv1.Topology{
			ClassRef: clusterv1.ClusterClassRef{Name: key.Name, Namespace: namespace}, Version: "v1.35.4",
		}},
	}
	if err := c.Create(t.Context(), cluster); err != nil {
		t.Fatal(err)
	}
	await(t, c, &v1alpha1.ClusterAddonList{}, cluster.Namespace, "a ClusterAddon", func(obj client.Object) bool {
		return obj.GetName() == v1alpha1.ClusterAddonName("c")
	})
	publish(t, releases, "docker-starter-1-35-v2")
	usable("v1, v2")
	if err := c.Delete(t.Context(), cluster); err != nil {
		t.Fatal(err)
	}
	usable("v2")
	awaitGone(t, c, &clusterv1.ClusterClassList{}, class)

	if err := c.Get(t.Context(), client.ObjectKeyFromObject(others), others); err != nil || len(others.Status.Conditions) > 0 {
		t.Errorf("what is for another operator was touched: %v, %v", others.Status.Conditions, err)
	}

	releasesAppearFromRegistry(t, c)

	// A user can name any kind as a template. That the operator may not watch it is no reason to stop
	// answering the hooks of all clusters.
	odd := &v1alpha1.ClusterStack{
		ObjectMeta: metav1.ObjectMeta{Namespace: kinds.Namespace(t, c), Name: "odd", Labels: shard},
		Spec: v1alpha1.ClusterStackSpec{
			Provider: "docker", Name: "odd", KubernetesVersion: "1.35", Versions: []string{"v1"},
			ProviderRef: &corev1.ObjectReference{APIVersion: "v1", Kind: "PodTemplate", Name: "t"},
		},
	}
	if err := c.Create(t.Context(), odd); err != nil {
		t.Fatal(err)
	}
	await(t, c, &v1alpha1.ClusterStackList{}, odd.Namespace, "a report", func(obj client.Object) bool {
		ready := obj.(*v1alpha1.ClusterStack).Status.Conditions.Get(v1alpha1.ReadyCondition)
		return ready != nil && ready.Reason == v1alpha1.InvalidSpecReason
	})
	for _, path := range []string{"/readyz", "/readyz/caches", "/readyz/hooks", "/readyz/webhooks", "/healthz", "/healthz/watchdog"} {
		if code, err := probe(t.Context(), s, path); err != nil || code != http.StatusOK {
			t.Errorf("%s answers %d, %v", path, code, err)
		}
	}
}

// One API server, which lacks one thing after the other. What only Cluster API's managers can say, such as which features
// are on, is tried with these in test/deploy.
func TestStartSaysWhatIsMissing(t *testing.T) {
	cfg := sandboxtest.NewAPIServer(t)
	settings := settings(t, kubeconfig(t, cfg, ""), t.TempDir())
	says := func(state, want string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if err := operator.Run(ctx, settings); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", state, err, want)
		}
	}
	says("no Cluster API", "does not serve the kind Cluster of cluster.x-k8s.io/v1beta2: install Cluster API 1.12 or newer")

	c := kinds.Client(t, cfg)
	with := func(name string, change func(*apiextensionsv1.CustomResourceDefinition), test func()) {
		t.Helper()
		// The API server writes into the status at the same time.
		edit := func(change func(*apiextensionsv1.CustomResourceDefinition)) {
			t.Helper()
			if err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
				crd := &apiextensionsv1.CustomResourceDefinition{}
				if err := c.Get(t.Context(), client.ObjectKey{Name: name}, crd); err != nil {
					return err
				}
				change(crd)
				return c.Update(t.Context(), crd)
			}); err != nil {
				t.Fatal(err)
			}
		}
		var before apiextensionsv1.CustomResourceDefinitionSpec
		edit(func(crd *apiextensionsv1.CustomResourceDefinition) {
			before = *crd.Spec.DeepCopy()
			change(crd)
		})
		test()
		edit(func(crd *apiextensionsv1.CustomResourceDefinition) { crd.Spec = before })
	}
	lookups, err := discovery.NewDiscoveryClientForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	serves := func(groupVersion, kind string, want bool) {
		t.Helper()
		if err := wait.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, patience, true, func(context.Context) (bool, error) {
			list, err := lookups.ServerResourcesForGroupVersion(groupVersion)
			if apierrors.IsNotFound(err) { // none of its kinds is
				return !want, nil
			}
			return err == nil && slices.ContainsFunc(list.APIResources, func(r metav1.APIResource) bool { return r.Kind == kind }) == want, nil
		}); err != nil {
			t.Fatalf("%s of %s is served: want %t: %v", kind, groupVersion, want, err)
		}
	}
	of := func(crd *apiextensionsv1.CustomResourceDefinition, version string) *apiextensionsv1.CustomResourceDefinitionVersion {
		for i := range crd.Spec.Versions {
			if crd.Spec.Versions[i].Name == version {
				return &crd.Spec.Versions[i]
			}
		}
		t.Fatalf("%s has no version %s", crd.Name, version)
		return nil
	}
	with("clusters.cluster.x-k8s.io", func(crd *apiextensionsv1.CustomResourceDefinition) { of(crd, "v1beta2").Served = false }, func() {
		serves("cluster.x-k8s.io/v1beta2", "Cluster", false)
		says("Cluster API before v1beta2", "does not serve the kind Cluster of cluster.x-k8s.io/v1beta2: upgrade Cluster API to 1.12 or newer")
	})
	serves("cluster.x-k8s.io/v1beta2", "Cluster", true)
	with("clusterclasses.cluster.x-k8s.io", func(crd *apiextensionsv1.CustomResourceDefinition) {
		delete(of(crd, "v1beta2").Schema.OpenAPIV3Schema.Properties["spec"].Properties, "kubernetesVersions")
	}, func() {
		says("Cluster API 1.11", "has a Cluster API older than 1.12: upgrade Cluster API to 1.12 or newer, for example by: clusterctl upgrade apply")
	})
	with("extensionconfigs.runtime.cluster.x-k8s.io", func(crd *apiextensionsv1.CustomResourceDefinition) { of(crd, "v1beta2").Served = false }, func() {
		serves("runtime.cluster.x-k8s.io/v1beta2", "ExtensionConfig", false)
		says("no ExtensionConfigs", "does not serve the kind ExtensionConfig of runtime.cluster.x-k8s.io/v1beta2: install Cluster API 1.12 or newer")
	})
	serves("runtime.cluster.x-k8s.io/v1beta2", "ExtensionConfig", true)
	// Definitions of the existing operator were applied over ours.
	with("clusterstacks.clusterstack.x-k8s.io", func(crd *apiextensionsv1.CustomResourceDefinition) {
		delete(of(crd, "v1alpha1").Schema.OpenAPIV3Schema.Properties["spec"].Properties, "verify")
	}, func() {
		says("definitions that know less", "has the CustomResourceDefinition of another operator, which drops the field spec.verify of every ClusterStack: apply the CustomResourceDefinitions of this operator, or of a newer one")
	})
	with("clusteraddons.clusterstack.x-k8s.io", func(crd *apiextensionsv1.CustomResourceDefinition) {
		delete(of(crd, "v1alpha1").Schema.OpenAPIV3Schema.Properties["status"].Properties["stages"].Items.Schema.Properties, "message")
	}, func() {
		says("definitions that know less of lists", "drops the field status.stages[].message of every ClusterAddon")
	})
	own := &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: "clusteraddonsettings.clusterstack.x-k8s.io"}}
	if err := c.Delete(t.Context(), own); err != nil {
		t.Fatal(err)
	}
	serves("clusterstack.x-k8s.io/v1alpha1", v1alpha1.ClusterAddonSettingsKind, false)
	says("definitions of an older operator", "does not serve the kind ClusterAddonSettings of clusterstack.x-k8s.io/v1alpha1: apply the operator's CustomResourceDefinitions")
}

// user is who the operator is, with exactly the rights of its ClusterRole.
const user = "cluster-stack-operator"

// start gives the operator its rights, runs it until the test ends, and returns when it is ready.
func start(t *testing.T, c client.Client, settings operator.Config) {
	t.Helper()
	role := &rbacv1.ClusterRole{}
	if err := yaml.Unmarshal(config.ClusterRole(), role); err != nil {
		t.Fatal(err)
	}
	for _, obj := range []client.Object{role, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: role.Name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}},
	}} {
		if err := c.Create(t.Context(), obj); err != nil {
			t.Fatal(err)
		}
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- operator.Run(ctx, settings) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("the operator ended with: %v", err)
		}
	})
	ready, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for tick := time.NewTicker(50 * time.Millisecond); ; {
		select {
		case err := <-done:
			done <- err
			t.Fatalf("the operator ended at start: %v", err)
		case <-ready.Done():
			t.Fatal("the operator does not become ready")
		case <-tick.C: // a process can only be asked whether it listens yet
		}
		if code, err := readiness(ready, settings); err == nil && code == http.StatusOK {
			return
		}
	}
}

// readiness asks an operator whether it is ready.
func readiness(ctx context.Context, settings operator.Config) (int, error) {
	return probe(ctx, settings, "/readyz")
}

// probe asks an operator as a kubelet does, or for a part of what a kubelet asks.
func probe(ctx context.Context, settings operator.Config, path string) (int, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+settings.HealthAddress+path, http.NoBody)
	if err != nil {
		return 0, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err
	}
	return response.StatusCode, response.Body.Close()
}

// settings are those of an operator that listens on free ports of the loopback interface.
func settings(t *testing.T, kubeconfig, releases string) operator.Config {
	t.Helper()
	certs := t.TempDir()
	ca, err := pki.NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := ca.Issue(pki.Request{CommonName: "hooks", IPs: []net.IP{net.IPv4(127, 0, 0, 1)}, Server: true})
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"tls.crt": pair.CertPEM, "tls.key": pair.KeyPEM} {
		if err := os.WriteFile(filepath.Join(certs, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := operator.Defaults()
	c.Kubeconfig = kubeconfig
	c.LeaderElect = false
	c.Source, c.ReleaseDir, c.StoreDir = operator.SourceDirectory, releases, t.TempDir()
	c.SourcePollInterval = 100 * time.Millisecond
	c.HookBindAddress, c.HookCertDir, c.HookPort = "127.0.0.1", certs, freePort(t)
	c.WebhookBindAddress, c.WebhookCertDir, c.WebhookPort = "127.0.0.1", certs, freePort(t)
	c.HealthAddress = fmt.Sprintf("127.0.0.1:%d", freePort(t))
	c.Diagnostics.DiagnosticsAddress, c.Diagnostics.InsecureDiagnostics = "127.0.0.1:0", true
	c.Diagnostics.TLSMinVersion = "VersionTLS12"
	return c
}

func freePort(t *testing.T) int {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	return listener.Addr().(*net.TCPAddr).Port
}

// kubeconfig writes a kubeconfig file, in the name of another user if one is given.
func kubeconfig(t *testing.T, cfg *rest.Config, user string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "kubeconfig")
	err := clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters: map[string]*clientcmdapi.Cluster{"c": {Server: cfg.Host, CertificateAuthorityData: cfg.CAData, CertificateAuthority: cfg.CAFile}},
		AuthInfos: map[string]*clientcmdapi.AuthInfo{"u": {
			ClientCertificateData: cfg.CertData, ClientKeyData: cfg.KeyData, ClientCertificate: cfg.CertFile, ClientKey: cfg.KeyFile,
			Token: cfg.BearerToken, Impersonate: user,
		}},
		Contexts:       map[string]*clientcmdapi.Context{"x": {Cluster: "c", AuthInfo: "u"}},
		CurrentContext: "x",
	}, file)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// publish writes a release with a cluster class into the folder of a source.
func publish(t *testing.T, folder, tag string) {
	t.Helper()
	files := releasetest.Multistage(tag)
	version := tag[strings.LastIndex(tag, "-")+1:]
	files[releasetest.ClassPackage(tag)] = &fstest.MapFile{Data: releasetest.Archive(map[string]string{
		"c/Chart.yaml": releasetest.Chart("docker-starter-1-35-cluster-class", version),
		"c/templates/class.yaml": `
apiVersion: cluster.x-k8s.io/v1beta2
kind: ClusterClass
metadata:
  name: {{ .Release.Name }}-{{ .Chart.Version }}
spec:
  infrastructure:
    templateRef: {apiVersion: infrastructure.cluster.x-k8s.io/v1beta2, kind: DevClusterTemplate, name: {{ .Release.Name }}-{{ .Chart.Version }}}
  controlPlane:
    templateRef: {apiVersion: controlplane.cluster.x-k8s.io/v1beta2, kind: KubeadmControlPlaneTemplate, name: {{ .Release.Name }}-{{ .Chart.Version }}}
---
apiVersion: infrastructure.cluster.x-k8s.io/v1beta2
kind: DevClusterTemplate
metadata:
  name: {{ .Release.Name }}-{{ .Chart.Version }}
spec: {template: {spec: {backend: {inMemory: {}}}}}
`,
	})}
	// As somebody would who knows that the folder is being read: aside first, then in place with one rename.
	aside := filepath.Join(folder, "."+tag)
	if err := os.Mkdir(aside, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, file := range files {
		if err := os.WriteFile(filepath.Join(aside, name), file.Data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Rename(aside, filepath.Join(folder, tag)); err != nil {
		t.Fatal(err)
	}
}

// await watches the objects of a namespace until one is as wanted.
func await(t *testing.T, c client.WithWatch, list client.ObjectList, namespace, what string, want func(client.Object) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	watch, err := c.Watch(ctx, list, client.InNamespace(namespace))
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Stop()
	var last client.Object
	for event := range watch.ResultChan() {
		obj, ok := event.Object.(client.Object)
		if !ok {
			break
		}
		if last = obj; event.Type != "DELETED" && want(obj) {
			return
		}
	}
	text, _ := yaml.Marshal(last)
	t.Fatalf("waited in vain for %s; last seen:\n%s", what, text)
}

// awaitGone returns when an object does not exist.
func awaitGone(t *testing.T, c client.WithWatch, list client.ObjectList, obj client.Object) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	watch, err := c.Watch(ctx, list, client.InNamespace(obj.GetNamespace()))
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Stop()
	// Asked after the watch has begun, so that the end is seen by one of them.
	if err := c.Get(ctx, client.ObjectKeyFromObject(obj), obj); apierrors.IsNotFound(err) {
		return
	} else if err != nil {
		t.Fatal(err)
	}
	for event := range watch.ResultChan() {
		if gone, ok := event.Object.(client.Object); ok && event.Type == "DELETED" && gone.GetUID() == obj.GetUID() {
			return
		}
	}
	t.Fatalf("waited in vain for the end of %s", obj.GetName())
}
