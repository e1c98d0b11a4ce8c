// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package standin

import (
	"context"
	"errors"
	"fmt"
	"io"
	goruntime "runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/apimachinery/pkg/watch"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/cluster-api/controllers/clustercache"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/clusterstacks/cluster-stack-operator/internal/apply"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/faultproxy"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
)

func newServer(t testing.TB) *Server {
	t.Helper()
	s, err := Listen()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *Server) mustAdd(t testing.TB, name string) (*Cluster, *rest.Config) {
	t.Helper()
	c, err := s.Add(name, "v1.35.4")
	if err != nil {
		t.Fatal(err)
	}
	config, err := c.Config()
	if err != nil {
		t.Fatal(err)
	}
	return c, config
}

func TestClustersAreApart(t *testing.T) {
	s := newServer(t)
	_, one := s.mustAdd(t, "one")
	_, two := s.mustAdd(t, "two")
	first, second := kubernetes.NewForConfigOrDie(one), kubernetes.NewForConfigOrDie(two)

	if _, err := first.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "only-here"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := second.CoreV1().Namespaces().Get(t.Context(), "only-here", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the other cluster has it too: %v", err)
	}
	stolen := rest.CopyConfig(one)
	stolen.Host = two.Host
	if _, err := kubernetes.NewForConfigOrDie(stolen).CoreV1().Namespaces().List(t.Context(), metav1.ListOptions{}); !apierrors.IsUnauthorized(err) {
		t.Errorf("the credentials of one cluster open another: %v", err)
	}
	if version, err := first.Discovery().ServerVersion(); err != nil || version.GitVersion != "v1.35.4" || version.Minor != "35" {
		t.Errorf("%v, %v", version, err)
	}
	if _, err := s.Add("one", "v1.36.3"); err == nil || !strings.Contains(err.Error(), "is there already") {
		t.Error(err)
	}

	w, err := second.CoreV1().Namespaces().Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	s.Remove("two")
	for range w.ResultChan() { // It ends.
	}
	if _, err := second.CoreV1().Namespaces().List(t.Context(), metav1.ListOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a cluster that was removed answers: %v", err)
	}
}

// Whoever maps kinds to resources must come to the same result as with the real one.
func TestRESTMappersAgree(t *testing.T) {
	real := sandboxtest.APIServer(t)
	stand := newStandin(t)
	mapper := func(config *rest.Config) meta.RESTMapper {
		http, err := rest.HTTPClientFor(config)
		if err != nil {
			t.Fatal(err)
		}
		m, err := apiutil.NewDynamicRESTMapper(config, http)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	a, b := mapper(real), mapper(stand)
	for gvr, k := range mustBuiltin(t).kinds {
		for _, versions := range [][]string{{k.Version}, nil} {
			want, err := a.RESTMapping(k.GroupKind(), versions...)
			if err != nil {
				t.Fatal(err)
			}
			got, err := b.RESTMapping(k.GroupKind(), versions...)
			if err != nil {
				t.Errorf("%s: %v", gvr, err)
				continue
			}
			if want.Resource != got.Resource || want.Scope.Name() != got.Scope.Name() {
				t.Errorf("%s is %v %s, want %v %s", k.GroupVersionKind, got.Resource, got.Scope.Name(), want.Resource, want.Scope.Name())
			}
		}
	}
	// Asked group by group, as older clients do.
	classic := discovery.NewDiscoveryClientForConfigOrDie(stand)
	classic.UseLegacyDiscovery = true
	_, lists, err := classic.ServerGroupsAndResources()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, list := range lists {
		for _, r := range list.APIResources {
			if !strings.Contains(r.Name, "/") {
				n++
			}
		}
	}
	if want := len(mustBuiltin(t).kinds); n != want {
		t.Errorf("group by group %d kinds are served, in one document %d", n, want)
	}
}

func mustBuiltin(t testing.TB) *builtins {
	t.Helper()
	b, err := builtin()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestTypedClientsSpeakProtobuf(t *testing.T) {
	config := newStandin(t)
	config.ContentType = "application/vnd.kubernetes.protobuf"
	client := kubernetes.NewForConfigOrDie(config)
	made, err := client.CoreV1().Secrets("default").Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Data: map[string][]byte{"a": {0, 1, 2}}}, metav1.CreateOptions{})
	if err != nil || made.Data["a"][2] != 2 || made.UID == "" {
		t.Fatalf("%v, %v", made, err)
	}
	if err := client.CoreV1().Secrets("default").Delete(t.Context(), "s", metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions("wrong")}); !apierrors.IsConflict(err) {
		t.Errorf("%v", err)
	}
	if err := client.CoreV1().Secrets("default").Delete(t.Context(), "s", *metav1.NewPreconditionDeleteOptions(string(made.UID))); err != nil {
		t.Error(err)
	}
}

const clusters = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: clusters.cluster.x-k8s.io}
spec:
  group: cluster.x-k8s.io
  scope: Namespaced
  names: {plural: clusters, kind: Cluster}
  versions: [{name: v1beta2, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]
---
apiVersion: cluster.x-k8s.io/v1beta2
kind: Cluster
metadata: {name: workload, namespace: default}
status: {initialization: {infrastructureProvisioned: true}}
`

// Cluster API's own connections to workload clusters, with another stand-in in the role of the management cluster.
func TestClusterAPIConnects(t *testing.T) {
	s := newServer(t)
	_, management := s.mustAdd(t, "management")
	workload, _ := s.mustAdd(t, "workload")
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), clusterv1.AddToScheme(scheme), apiextensionsv1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	direct, err := client.New(management, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	kubeconfig, err := workload.Kubeconfig()
	if err != nil {
		t.Fatal(err)
	}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "workload-kubeconfig", Namespace: "default"}, Data: map[string][]byte{"value": kubeconfig}}
	objects := []client.Object{secret}
	for _, o := range parse(t, clusters) {
		objects = append(objects, o)
	}
	for _, o := range objects {
		if err := direct.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}

	mgr, err := ctrl.NewManager(management, ctrl.Options{Scheme: scheme, Metrics: metricsserver.Options{BindAddress: "0"}, Logger: logr.Discard()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	connections, err := clustercache.SetupWithManager(ctx, mgr, clustercache.Options{SecretClient: mgr.GetAPIReader(), Client: clustercache.ClientOptions{UserAgent: "test"}}, controller.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- mgr.Start(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()

	var c client.Client
	err = wait.PollUntilContextTimeout(ctx, 20*time.Millisecond, patience, true, func(context.Context) (bool, error) {
		var err error
		c, err = connections.GetClient(ctx, client.ObjectKey{Namespace: "default", Name: "workload"})
		return err == nil, nil
	})
	if err != nil {
		t.Fatalf("Cluster API does not connect: %v", err)
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}
	if err := c.Create(ctx, node); err != nil {
		t.Fatal(err)
	}
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	if err := c.Status().Update(ctx, node); err != nil {
		t.Fatal(err)
	}
	// From the cache, which has a watch open.
	err = wait.PollUntilContextTimeout(ctx, 20*time.Millisecond, patience, true, func(context.Context) (bool, error) {
		nodes := &corev1.NodeList{}
		err := c.List(ctx, nodes)
		return len(nodes.Items) == 1 && len(nodes.Items[0].Status.Conditions) == 1, err
	})
	if err != nil {
		t.Errorf("the cache does not see the node: %v", err)
	}
}

func TestRequestsAreCountedByWhatTheyAreFor(t *testing.T) {
	cluster, config := newServer(t).mustAdd(t, "one")
	c := kubernetes.NewForConfigOrDie(config)
	for _, path := range []string{"/", "/readyz", "/version", "/apis", "/apis/none.example.com/v1/things", "/api/v1/namespaces", "/api/v1/namespaces/default"} {
		_, _ = c.CoreV1().RESTClient().Get().AbsPath(path).DoRaw(t.Context()) // refused or not, it is counted
	}
	w, err := c.CoreV1().Namespaces().Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w.Stop()
	for range 2 { // The second is refused.
		_, _ = c.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "n"}}, metav1.CreateOptions{})
	}
	if diff := cmp.Diff(Requests{Probes: 3, Reads: 4, Writes: 2, Watches: 1}, cluster.Requests()); diff != "" {
		t.Error(diff)
	}
}

func TestAnInformerThatFallsBehindListsAnew(t *testing.T) {
	s := newServer(t)
	_, config := s.mustAdd(t, "one")
	c := kubernetes.NewForConfigOrDie(config)
	factory := informers.NewSharedInformerFactory(c, 0)
	informer := factory.Core().V1().ConfigMaps()
	ctx, cancel := context.WithCancel(t.Context())
	factory.Start(ctx.Done())
	informer.Informer()
	factory.Start(ctx.Done())
	t.Cleanup(factory.Shutdown)
	t.Cleanup(cancel)
	if !cache.WaitForCacheSync(ctx.Done(), informer.Informer().HasSynced) {
		t.Fatal("no sync")
	}
	for i := range 3 * historyLength {
		data := applycorev1.ConfigMap("c", "default").WithData(map[string]string{"i": fmt.Sprint(i)})
		if _, err := c.CoreV1().ConfigMaps("default").Apply(ctx, data, metav1.ApplyOptions{FieldManager: "test"}); err != nil {
			t.Fatal(err)
		}
	}
	last := fmt.Sprint(3*historyLength - 1)
	err := wait.PollUntilContextTimeout(ctx, 20*time.Millisecond, patience, true, func(context.Context) (bool, error) {
		cm, err := informer.Lister().ConfigMaps("default").Get("c")
		return err == nil && cm.Data["i"] == last, nil
	})
	if err != nil {
		t.Fatalf("the informer does not arrive at the last state: %v", err)
	}
	// Too old is too old.
	w, err := c.CoreV1().ConfigMaps("default").Watch(ctx, metav1.ListOptions{ResourceVersion: "1"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	if event := <-w.ResultChan(); !apierrors.IsResourceExpired(apierrors.FromObject(event.Object)) {
		t.Errorf("%v", event)
	}
}

func TestAWatchEndsWithABookmark(t *testing.T) {
	c := kubernetes.NewForConfigOrDie(newStandin(t)).CoreV1()
	cm, err := c.ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pods, err := c.Pods("").Watch(t.Context(), metav1.ListOptions{ResourceVersion: "1", TimeoutSeconds: new(int64(1)), AllowWatchBookmarks: true})
	if err != nil {
		t.Fatal(err)
	}
	defer pods.Stop()
	// It tells of what the watch has no events of.
	event := <-pods.ResultChan()
	if pod, ok := event.Object.(*corev1.Pod); !ok || event.Type != watch.Bookmark || pod.ResourceVersion != cm.ResourceVersion {
		t.Errorf("%v, the newest resource version is %s", event, cm.ResourceVersion)
	}
}

func TestADefinitionAndItsObjectsGoTogether(t *testing.T) {
	s := newServer(t)
	cluster, config := s.mustAdd(t, "one")
	other, _ := s.mustAdd(t, "two")
	c := dynamic.NewForConfigOrDie(config)
	crds := schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	gvr := schema.GroupVersionResource{Group: "NS.example.com", Version: "v1", Resource: "widgets"}
	crd := parse(t, strings.ReplaceAll(widgets, "$NS", "NS"))[0]
	if _, err := c.Resource(crds).Create(t.Context(), crd, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	widget := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "NS.example.com/v1", "kind": "Widget", "metadata": map[string]any{"name": "w"}}}
	if _, err := c.Resource(gvr).Namespace("default").Create(t.Context(), widget, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	mapper := func() error {
		groups, err := discovery.NewDiscoveryClientForConfigOrDie(config).ServerResourcesForGroupVersion("NS.example.com/v1")
		if err == nil && groups.APIResources[0].Kind != "Widget" {
			t.Errorf("%v", groups)
		}
		return err
	}
	if err := mapper(); err != nil {
		t.Error(err)
	}
	if cluster.docs == other.docs {
		t.Error("another cluster says that it serves the kind, too")
	}
	if err := c.Resource(crds).Delete(t.Context(), crd.GetName(), metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := mapper(); !apierrors.IsNotFound(err) {
		t.Errorf("a kind without definition is served: %v", err)
	}
	if _, err := c.Resource(crds).Create(t.Context(), crd, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Resource(gvr).Namespace("default").Get(t.Context(), "w", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("an object has survived its definition: %v", err)
	}
}

func TestFieldsThatSortBeforeTheVersionAreRead(t *testing.T) {
	c := dynamic.NewForConfigOrDie(newStandin(t))
	for resource, object := range map[schema.GroupVersionResource]string{
		{Group: "storage.k8s.io", Version: "v1", Resource: "storageclasses"}: `
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: o}
allowVolumeExpansion: true
provisioner: example.com/p
`,
		{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterroles"}: `
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: o}
aggregationRule:
  clusterRoleSelectors: [{matchLabels: {a: b, c: d}}]
`,
	} {
		want := parse(t, object)[0]
		if _, err := c.Resource(resource).Apply(t.Context(), "o", want, metav1.ApplyOptions{FieldManager: "test"}); err != nil {
			t.Errorf("%s: %v", resource.Resource, err)
			continue
		}
		got, err := c.Resource(resource).Get(t.Context(), "o", metav1.GetOptions{})
		if err != nil {
			t.Errorf("%s: %v", resource.Resource, err)
			continue
		}
		for field, value := range want.Object {
			if diff := cmp.Diff(value, got.Object[field]); diff != "" && field != "metadata" {
				t.Errorf("%s: %s:\n%s", resource.Resource, field, diff)
			}
		}
	}
}

func TestADefinitionThatCannotBeServedIsNotStored(t *testing.T) {
	c := dynamic.NewForConfigOrDie(newStandin(t)).Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	crd := parse(t, strings.ReplaceAll(widgets, "$NS", "NS"))[0]
	broken := crd.DeepCopy()
	versions, _, _ := unstructured.NestedSlice(broken.Object, "spec", "versions")
	versions[0].(map[string]any)["schema"] = map[string]any{"openAPIV3Schema": map[string]any{"type": "object", "properties": map[string]any{"spec": map[string]any{"$ref": "#/elsewhere"}}}}
	if err := unstructured.SetNestedSlice(broken.Object, versions, "spec", "versions"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := c.Apply(t.Context(), crd.GetName(), broken, metav1.ApplyOptions{FieldManager: "test"}); !apierrors.IsBadRequest(err) {
			t.Errorf("%v", err)
		}
	}
	if _, err := c.Get(t.Context(), crd.GetName(), metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("it is there: %v", err)
	}
	if _, err := c.Apply(t.Context(), crd.GetName(), crd, metav1.ApplyOptions{FieldManager: "test"}); err != nil {
		t.Error(err)
	}
}

// A thousand clusters that get twenty kinds, each in an order of its own, would otherwise fill the memory with what
// they served on the way.
func TestWhatNoClusterServesAnyMoreIsForgotten(t *testing.T) {
	s := newServer(t)
	_, config := s.mustAdd(t, "one")
	c := dynamic.NewForConfigOrDie(config).Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	for i := range 5 {
		if _, err := c.Create(t.Context(), parse(t, strings.ReplaceAll(widgets, "$NS", fmt.Sprintf("ns%d", i)))[0], metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	kept := 0
	err := wait.PollUntilContextTimeout(t.Context(), 20*time.Millisecond, patience, true, func(context.Context) (bool, error) {
		goruntime.GC()
		s.shared.Lock()
		defer s.shared.Unlock()
		kept = 0
		for _, documents := range s.docs {
			if documents.Value() != nil {
				kept++
			}
		}
		return kept == 1, nil
	})
	if err != nil {
		t.Errorf("%d documents are kept for one cluster", kept)
	}
}

// What goes wrong on the way to a cluster is the business of the fault proxy.
func TestFaultsBeforeAStandin(t *testing.T) {
	proxy, err := faultproxy.ListenKubernetes(t.Context(), newStandin(t), faultproxy.Options{Plan: faultproxy.MustParse("write /** #1 drop-answer")})
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	c := kubernetes.NewForConfigOrDie(proxy.RESTConfig())
	if _, err := c.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c"}}, metav1.CreateOptions{}); err == nil {
		t.Error("the answer has come")
	}
	if _, err := c.CoreV1().ConfigMaps("default").Get(t.Context(), "c", metav1.GetOptions{}); err != nil {
		t.Errorf("it was not done: %v", err)
	}
}

func TestANamespaceTakesAlongWhatIsInIt(t *testing.T) {
	c := kubernetes.NewForConfigOrDie(newStandin(t))
	if _, err := c.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := c.CoreV1().Namespaces().Delete(t.Context(), "default", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.CoreV1().ConfigMaps("default").Get(t.Context(), "c", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Error(err)
	}
	if _, err := c.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c"}}, metav1.CreateOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("an object is created where no namespace is: %v", err)
	}
}

func TestConcurrentWritersLoseNothing(t *testing.T) {
	c := kubernetes.NewForConfigOrDie(newStandin(t))
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			name := fmt.Sprintf("k%d", i)
			config := applycorev1.ConfigMap("shared", "default").WithData(map[string]string{name: "v"})
			if _, err := c.CoreV1().ConfigMaps("default").Apply(t.Context(), config, metav1.ApplyOptions{FieldManager: name}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if cm, err := c.CoreV1().ConfigMaps("default").Get(t.Context(), "shared", metav1.GetOptions{}); err != nil || len(cm.Data) != 20 || len(cm.ManagedFields) != 20 {
		t.Errorf("%v, %v", cm, err)
	}
}

// parse reads objects.
func parse(t testing.TB, manifests string) []*unstructured.Unstructured {
	t.Helper()
	var all []*unstructured.Unstructured
	decoder := yaml.NewYAMLOrJSONDecoder(strings.NewReader(manifests), 4096)
	for {
		object := &unstructured.Unstructured{}
		err := decoder.Decode(&object.Object)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		if object.Object != nil {
			all = append(all, object)
		}
	}
}

// addon has 31 objects of all waves, of the sizes that a CNI and a metrics-server have.
func addon(t testing.TB) []*unstructured.Unstructured {
	t.Helper()
	text := &strings.Builder{}
	object := func(apiVersion, kind, name, rest string) {
		fmt.Fprintf(text, "---\napiVersion: %s\nkind: %s\nmetadata: {name: %s, labels: {app.kubernetes.io/name: %[3]s, app.kubernetes.io/part-of: addon}}\n%s\n", apiVersion, kind, name, rest)
	}
	const rbac = "rbac.authorization.k8s.io/v1"
	container := func(name string) string {
		env := ""
		for i := range 12 {
			env += fmt.Sprintf(", {name: %s_%d, valueFrom: {configMapKeyRef: {name: agent-config, key: key-%d, optional: true}}}", strings.ToUpper(name), i, i)
		}
		return fmt.Sprintf(`{name: %[1]s, image: "registry.example.com/%[1]s:v1.17.4", command: [/bin/%[1]s, --config=/etc/config], env: [%[2]s],
  ports: [{name: health, containerPort: 9879, protocol: TCP}, {name: metrics, containerPort: 9962}],
  livenessProbe: {httpGet: {path: /healthz, port: 9879}, periodSeconds: 30}, readinessProbe: {httpGet: {path: /readyz, port: 9879}, periodSeconds: 10},
  resources: {requests: {cpu: 100m, memory: 200Mi}}, securityContext: {capabilities: {add: [NET_ADMIN, SYS_MODULE, IPC_LOCK], drop: [ALL]}},
  volumeMounts: [{name: cni, mountPath: /host/etc/cni/net.d}, {name: run, mountPath: /var/run/%[1]s}, {name: config, mountPath: /etc/config, readOnly: true}]}`, name, env[2:])
	}
	pods := func(name string, containers ...string) string {
		return fmt.Sprintf(`  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec: {serviceAccountName: %[1]s, hostNetwork: true, tolerations: [{operator: Exists}], containers: [%[2]s],
      volumes: [{name: cni, hostPath: {path: /etc/cni/net.d}}, {name: run, hostPath: {path: /var/run/%[1]s, type: DirectoryOrCreate}}, {name: config, configMap: {name: agent-config}}]}`,
			name, strings.Join(containers, ", "))
	}
	for _, name := range []string{"agent", "agent-operator", "metrics"} {
		object("v1", "ServiceAccount", name, "")
		object(rbac, "ClusterRole", name, `rules:
- {apiGroups: [""], resources: [pods, nodes, services, endpoints, namespaces], verbs: [get, list, watch]}
- {apiGroups: [networking.k8s.io], resources: [networkpolicies], verbs: [get, list, watch]}
- {apiGroups: [example.com], resources: ["*"], verbs: ["*"]}`)
		object(rbac, "ClusterRoleBinding", name, fmt.Sprintf("roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: %s}\nsubjects: [{kind: ServiceAccount, name: %[1]s, namespace: kube-system}]", name))
		object(rbac, "Role", name, `rules: [{apiGroups: [""], resources: [configmaps], verbs: [get, list, watch]}]`)
		object(rbac, "RoleBinding", name, fmt.Sprintf("roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: %s}\nsubjects: [{kind: ServiceAccount, name: %[1]s, namespace: kube-system}]", name))
		object("v1", "Service", name, fmt.Sprintf("spec: {selector: {app: %s}, ports: [{name: https, port: 443, targetPort: 9962}, {name: metrics, port: 9962}]}", name))
		object("v1", "Secret", name, "type: Opaque\nstringData: {tls.crt: \""+strings.Repeat("c", 1100)+"\", tls.key: \""+strings.Repeat("k", 1700)+"\"}")
		object("policy/v1", "PodDisruptionBudget", name, fmt.Sprintf("spec: {minAvailable: 1, selector: {matchLabels: {app: %s}}}", name))
	}
	data := ""
	for i := range 120 {
		data += fmt.Sprintf("  key-%d: %q\n", i, strings.Repeat("v", 20))
	}
	object("v1", "ConfigMap", "agent-config", "data:\n"+data)
	object("apps/v1", "DaemonSet", "agent", "spec:\n"+pods("agent", container("agent"), container("mount"), container("clean")))
	object("apps/v1", "Deployment", "agent-operator", "spec:\n  replicas: 2\n"+pods("agent-operator", container("operator")))
	object("apps/v1", "Deployment", "metrics", "spec:\n  replicas: 1\n"+pods("metrics", container("metrics")))
	object("autoscaling/v2", "HorizontalPodAutoscaler", "metrics", "spec: {maxReplicas: 3, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: metrics}}")
	object("networking.k8s.io/v1", "NetworkPolicy", "metrics", "spec: {podSelector: {matchLabels: {app: metrics}}, policyTypes: [Ingress]}")
	object("apiregistration.k8s.io/v1", "APIService", "v1beta1.metrics.k8s.io", "spec: {group: metrics.k8s.io, version: v1beta1, groupPriorityMinimum: 100, versionPriority: 100, insecureSkipTLSVerify: true, service: {name: metrics, namespace: kube-system}}")

	objects := parse(t, text.String())
	for _, o := range objects {
		labels := o.GetLabels()
		labels[apply.OwnedLabel] = apply.OwnedValue
		o.SetLabels(labels)
	}
	return objects
}

type memory struct{ saves int }

func (m *memory) Save(context.Context, *apply.Inventory) error { m.saves++; return nil }

// What the operator does in a workload cluster, it does here.
func TestTheEngineOfAddonsWorksWithAStandin(t *testing.T) {
	s := newServer(t)
	cluster, config := s.mustAdd(t, "one")
	applier, err := apply.New(config, apply.Options{})
	if err != nil {
		t.Fatal(err)
	}
	objects := addon(t)
	inventory := apply.NewInventory()
	set := apply.Set{Name: "addon", Namespace: "kube-system", Objects: objects}
	report, err := applier.Apply(t.Context(), set, inventory, &memory{})
	if err != nil || len(report.Applied) != len(objects) {
		t.Fatalf("%d of %d objects applied: %v", len(report.Applied), len(objects), err)
	}
	if drift, err := applier.Drift(t.Context(), inventory); err != nil || len(drift.IDs()) != 0 {
		t.Errorf("drift: %v, %v", drift, err)
	}

	// Nothing unchanged is sent again.
	before := cluster.Requests().Writes
	set.Verified = func(apply.ID) bool { return true }
	if _, err := applier.Apply(t.Context(), set, inventory, &memory{}); err != nil {
		t.Fatal(err)
	}
	if after := cluster.Requests().Writes; after != before {
		t.Errorf("%d writes for what is unchanged", after-before)
	}

	// Somebody takes a field, and deletes an object.
	client := kubernetes.NewForConfigOrDie(config)
	if _, err := client.AppsV1().DaemonSets("kube-system").Patch(t.Context(), "agent", types.MergePatchType, []byte(`{"spec":{"template":{"spec":{"hostNetwork":false}}}}`), metav1.PatchOptions{FieldManager: "person"}); err != nil {
		t.Fatal(err)
	}
	if err := client.CoreV1().ConfigMaps("kube-system").Delete(t.Context(), "agent-config", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	drift, err := applier.Drift(t.Context(), inventory)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, id := range drift.IDs() {
		names = append(names, id.String())
	}
	if diff := cmp.Diff([]string{"ConfigMap kube-system/agent-config", "DaemonSet.apps kube-system/agent"}, names); diff != "" {
		t.Errorf("drift: %s", diff)
	}

	if _, err := applier.Prune(t.Context(), inventory, func(apply.ID) bool { return false }, &memory{}); err != nil {
		t.Error(err)
	}
	if _, err := client.AppsV1().DaemonSets("kube-system").Get(t.Context(), "agent", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("pruned, and still there: %v", err)
	}
}

// BenchmarkIdle measures what a thousand clusters with an addon each take of the heap at rest.
func BenchmarkIdle(b *testing.B) {
	const clusters = 1000
	objects := addon(b)
	mustBuiltin(b)
	for b.Loop() {
		s, err := Listen()
		if err != nil {
			b.Fatal(err)
		}
		before := heap()
		begin := time.Now()
		all := make([]*Cluster, clusters)
		for i := range all {
			if all[i], err = s.Add(fmt.Sprintf("c%d", i), "v1.36.3"); err != nil {
				b.Fatal(err)
			}
			fill(b, all[i], objects)
		}
		b.ReportMetric(float64(time.Since(begin).Milliseconds())/clusters, "ms/cluster")
		b.ReportMetric(float64(heap()-before)/1024/clusters, "KiB/cluster")
		goruntime.KeepAlive(all)
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

func heap() uint64 {
	goruntime.GC()
	goruntime.GC()
	var m goruntime.MemStats
	goruntime.ReadMemStats(&m)
	return m.HeapAlloc
}

// fill applies objects without a client in between.
func fill(b *testing.B, c *Cluster, objects []*unstructured.Unstructured) {
	b.Helper()
	for _, o := range objects {
		gvk := o.GroupVersionKind()
		c.mu.Lock()
		var k *kind
		for gvr, known := range c.builtin.kinds {
			if known.GroupVersionKind == gvk {
				k = c.kind(gvr)
			}
		}
		c.mu.Unlock()
		if k == nil {
			b.Fatalf("%s is not served", gvk)
		}
		r := &call{kind: k, name: o.GetName(), manager: apply.FieldManager}
		if k.namespaced {
			r.namespace = "kube-system"
		}
		if _, _, err := c.apply(r, o.DeepCopy()); err != nil {
			b.Fatalf("%s %s: %v", gvk, o.GetName(), err)
		}
	}
}

// BenchmarkRequests sends applies of a small object to a thousand clusters, from eight clients at a time.
func BenchmarkRequests(b *testing.B) {
	const clusters, workers = 1000, 8
	s, err := Listen()
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	clients := make([]*kubernetes.Clientset, clusters)
	for i := range clients {
		_, config := s.mustAdd(b, fmt.Sprintf("c%d", i))
		clients[i] = kubernetes.NewForConfigOrDie(config)
	}
	for name, ask := range map[string]func(*kubernetes.Clientset, int64) error{
		"Apply": func(c *kubernetes.Clientset, n int64) error {
			config := applycorev1.ConfigMap("c", "default").WithData(map[string]string{"n": fmt.Sprint(n)})
			_, err := c.CoreV1().ConfigMaps("default").Apply(b.Context(), config, metav1.ApplyOptions{FieldManager: "bench"})
			return err
		},
		"Get": func(c *kubernetes.Clientset, _ int64) error {
			_, err := c.CoreV1().Namespaces().Get(b.Context(), "default", metav1.GetOptions{})
			return err
		},
	} {
		b.Run(name, func(b *testing.B) {
			for i, c := range clients { // the handshakes are not what is measured
				if err := ask(c, int64(-i)); err != nil {
					b.Fatal(err)
				}
			}
			var next atomic.Int64
			var all sync.WaitGroup
			b.ResetTimer()
			for range workers {
				all.Go(func() {
					for {
						n := next.Add(1)
						if n > int64(b.N) {
							return
						}
						if err := ask(clients[n%clusters], n); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			all.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
		})
	}
}
