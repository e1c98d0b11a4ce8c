// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package operatortest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/config"
	"github.com/clusterstacks/cluster-stack-operator/internal/apitest"
	"github.com/clusterstacks/cluster-stack-operator/internal/apitest/kinds"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/release/releasetest"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/faultproxy"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/standin"
)

// World is a management cluster in which only the operator does anything, and the workload clusters of it.
type World struct {
	t testing.TB
	// Client and Config are those of an administrator of the management cluster.
	Client client.WithWatch
	Config *rest.Config
	// Fates are those of the operator.
	Fates Fates
	// Releases is the folder that the operator has for its source.
	Releases string
	// Store is the folder in which the operators keep releases.
	Store string
	// Harm, if set, may answer a request of the operator to a workload cluster in its place; it returns true then.
	Harm atomic.Pointer[func(http.ResponseWriter, *http.Request) bool]
	// Goes, if set, is told that Cluster API was allowed to go on with the upgrade of a tenant, before it does.
	Goes func(*Tenant)

	standins *standin.Server
	mu       sync.Mutex
	tenants  []*Tenant
	looked   time.Time // when the objects were listed
	listed   map[string][]*unstructured.Unstructured
	writes   atomic.Int64
	kill     atomic.Pointer[kill]
}

// kill is an order to kill an operator.
type kill struct {
	operator *Operator
	point    Point
	write    int64
}

// user is who the operator is, with exactly the rights of its ClusterRole, and of its Role in Home.
const user = "cluster-stack-operator"

// Home is the namespace where an installation has the operator.
const Home = "cso-system"

// New makes a world without clusters. Of a world's management cluster there is one in a package of tests.
func New(t testing.TB) *World {
	t.Helper()
	return NewIn(t, sandboxtest.APIServer(t))
}

// NewIn is New with another management cluster, of which the caller is an administrator.
func NewIn(t testing.TB, cfg *rest.Config) *World {
	t.Helper()
	w := &World{t: t, Config: cfg, Releases: t.TempDir(), Store: t.TempDir()}
	w.Client = kinds.Client(t, w.Config)
	role := &rbacv1.ClusterRole{}
	if err := yaml.Unmarshal(config.ClusterRole(), role); err != nil {
		t.Fatal(err)
	}
	home := &rbacv1.Role{}
	if err := yaml.Unmarshal(config.Role(), home); err != nil {
		t.Fatal(err)
	}
	subjects := []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}}
	for _, object := range []client.Object{
		role, &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: role.Name},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name},
			Subjects:   subjects,
		},
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: home.Namespace}}, home, &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Namespace: home.Namespace, Name: home.Name},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: home.Name},
			Subjects:   subjects,
		},
	} {
		if err := w.Client.Create(t.Context(), object); client.IgnoreAlreadyExists(err) != nil {
			t.Fatal(err)
		}
	}
	var err error
	if w.standins, err = standin.Listen(w.harmed, w.Fates.Handler, w.counted); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.dismiss(context.WithoutCancel(t.Context()))
		_ = w.standins.Close()
	})
	return w
}

// dismiss deletes what this world has for an operator to do: those of the next one in the package would try to reach its
// clusters, and to fetch its releases, again and again.
func (w *World) dismiss(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	let := client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`))
	for _, kind := range looked {
		if kind.Group != clusterv1.GroupVersion.Group && kind.Group != v1alpha1.GroupVersion.Group {
			continue
		}
		for _, n := range w.tenants {
			list := &unstructured.UnstructuredList{}
			list.SetGroupVersionKind(kind)
			err := w.Client.List(ctx, list, client.InNamespace(n.Namespace))
			for i := range list.Items {
				o := &list.Items[i]
				err = errors.Join(err, client.IgnoreNotFound(w.Client.Delete(ctx, o)), client.IgnoreNotFound(w.Client.Patch(ctx, o, let)))
			}
			if err != nil {
				w.t.Errorf("delete what is left of %s: %v", n.Namespace, err)
			}
		}
	}
}

// harmed does Harm.
func (w *World) harmed(next http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		harm := w.Harm.Load()
		if harm == nil || !strings.Contains(r.UserAgent(), "cluster-stack-operator") || !(*harm)(rw, r) {
			next.ServeHTTP(rw, r)
		}
	})
}

// counted counts what the operator sends to change something.
func (w *World) counted(next http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		question := strings.Contains(r.URL.Path, "/leases") || r.URL.Query().Has("dryRun")
		if r.Method == http.MethodGet || question || !strings.Contains(r.UserAgent(), "cluster-stack-operator") {
			next.ServeHTTP(rw, r)
			return
		}
		order := w.kill.Load()
		switch n := w.writes.Add(1); {
		case order == nil || n != order.write:
			next.ServeHTTP(rw, r)
		case order.point.Moment == Before:
			order.operator.End()
			panic(http.ErrAbortHandler)
		case order.point.Moment == Unanswered:
			next.ServeHTTP(unheard{rw}, r)
			order.operator.End()
			panic(http.ErrAbortHandler)
		default:
			next.ServeHTTP(rw, r)
			order.operator.End()
		}
	})
}

// KillAt kills the process of an operator with SIGKILL at a point, counted over all clusters from now.
func (w *World) KillAt(o *Operator, point Point) {
	w.kill.Store(&kill{operator: o, point: point, write: w.Writes() + int64(point.N)})
}

// Writes is how many requests to change something the operators have sent to any cluster.
func (w *World) Writes() int64 { return w.writes.Load() }

// Proxy is a way to the management cluster for one operator.
func (w *World) Proxy(t testing.TB, observe func(faultproxy.Event)) *faultproxy.Proxy {
	t.Helper()
	as := rest.CopyConfig(w.Config)
	as.Impersonate.UserName = user
	proxy, err := faultproxy.ListenKubernetes(t.Context(), as, faultproxy.Options{
		Observe: observe,
		Wrap:    func(next http.Handler) http.Handler { return w.counted(w.Fates.Handler(next)) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = proxy.Close() })
	return proxy
}

// Live starts an operator, and returns when it is ready.
func (w *World) Live(t testing.TB, args ...string) *Operator {
	t.Helper()
	o := w.Start(t, w.Proxy(t, nil), args...)
	o.AwaitReady(t)
	return o
}

// Start starts an operator that goes through a proxy.
func (w *World) Start(t testing.TB, proxy *faultproxy.Proxy, args ...string) *Operator {
	t.Helper()
	kubeconfig, err := proxy.Kubeconfig()
	if err != nil {
		t.Fatal(err)
	}
	return Launch(t, kubeconfig, w.Releases, w.Store, args...)
}

// Publish makes a release appear at the source, whole at once, or another content of one that is there.
func (w *World) Publish(t testing.TB, tag string, files fstest.MapFS) {
	t.Helper()
	aside, err := os.MkdirTemp(w.Releases, ".")
	if err != nil {
		t.Fatal(err)
	}
	for name, file := range files {
		if err := os.WriteFile(filepath.Join(aside, name), file.Data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	place := filepath.Join(w.Releases, tag)
	if err := os.RemoveAll(place); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(aside, place); err != nil {
		t.Fatal(err)
	}
}

// Release is a release with a class, and with addons that are applied in that order at creation and upgrade. Each is
// given by the templates of its chart; in them, .Values.cluster is the name of the Cluster.
func Release(t testing.TB, tag string, addons ...Addon) fstest.MapFS {
	t.Helper()
	name, err := release.ParseName(tag)
	if err != nil {
		t.Fatal(err)
	}
	files := releasetest.Multistage(tag)
	stages, archive := "", map[string]string{}
	for _, addon := range addons {
		stages += "    - {name: " + addon.Name + ", action: apply" + addon.Stage + "}\n"
		archive[addon.Name+"/Chart.yaml"] = releasetest.Chart(addon.Name, "v1")
		archive[addon.Name+"/overwrite.yaml"] = "cluster: \"{{ .Cluster.metadata.name }}\"\n"
		archive[addon.Name+"/templates/all.yaml"] = addon.Templates
	}
	files[release.StagesFile] = &fstest.MapFile{Data: []byte("apiVersion: clusteraddonconfig.x-k8s.io/v1alpha1\naddonStages:\n" +
		"  AfterControlPlaneInitialized:\n" + stages + "  BeforeClusterUpgrade:\n" + stages)}
	files[releasetest.AddonPackage(tag)] = &fstest.MapFile{Data: releasetest.Archive(archive)}
	files[releasetest.ClassPackage(tag)] = &fstest.MapFile{Data: releasetest.Archive(map[string]string{
		"c/Chart.yaml":           releasetest.Chart(name.Prefix()+"-cluster-class", name.Version.String()),
		"c/templates/class.yaml": class,
	})}
	return files
}

// Addon is an addon with the templates of its chart, and with what its stages say besides, such as ", key: value".
type Addon struct{ Name, Templates, Stage string }

// class is the least that a ClusterClass and its templates can be.
const class = `{{- $name := printf "%s-%s" .Release.Name .Chart.Version }}
apiVersion: cluster.x-k8s.io/v1beta2
kind: ClusterClass
metadata:
  name: {{ $name }}
spec:
  infrastructure:
    templateRef: {apiVersion: infrastructure.cluster.x-k8s.io/v1beta2, kind: DevClusterTemplate, name: {{ $name }}}
  controlPlane:
    templateRef: {apiVersion: controlplane.cluster.x-k8s.io/v1beta2, kind: KubeadmControlPlaneTemplate, name: {{ $name }}}
---
apiVersion: infrastructure.cluster.x-k8s.io/v1beta2
kind: DevClusterTemplate
metadata:
  name: {{ $name }}
spec: {template: {spec: {backend: {inMemory: {}}}}}
`

// Tenant is a namespace with one Cluster, for which the test plays Cluster API.
type Tenant struct {
	// Namespace is also the name of its stand-in.
	Namespace string
	// Workload is a client of an administrator of the workload cluster, and Config how to reach it.
	Workload client.WithWatch
	Config   *rest.Config

	w       *World
	cluster types.UID
	// kubeconfig makes a new one of an administrator of the workload cluster.
	kubeconfig func() ([]byte, error)
	// upgrading is what the tenant waits for to go on from one version to the other.
	upgrading *upgrade
	asked     asked
	askedAt   time.Time
	foreign   map[string]string
	generated map[string]string
}

type upgrade struct{ from, to string }

// asked is which operator was asked last, and in which state of the ClusterAddon: it says the same until that changes.
type asked struct {
	operator *Operator
	state    string
}

// ClusterName is the name of the Cluster of each tenant.
const ClusterName = "c"

// finalizer is Cluster API's on the Cluster.
const finalizer = "test/cluster-api"

// Tenant makes a namespace with ClusterStacks and with objects that are nobody's business.
func (w *World) Tenant(t testing.TB, stacks ...string) *Tenant {
	t.Helper()
	namespace := kinds.Namespace(t, w.Client)
	standin, err := w.standins.Add(namespace, "v1.36.3")
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := standin.Config()
	if err != nil {
		t.Fatal(err)
	}
	return w.tenant(t, namespace, cfg, standin.Kubeconfig, stacks...)
}

// TenantOn is Tenant with a workload cluster of the caller's, which no other tenant may have.
func (w *World) TenantOn(t testing.TB, workload *rest.Config, kubeconfig func() ([]byte, error), stacks ...string) *Tenant {
	t.Helper()
	return w.tenant(t, kinds.Namespace(t, w.Client), workload, kubeconfig, stacks...)
}

func (w *World) tenant(t testing.TB, namespace string, workload *rest.Config, kubeconfig func() ([]byte, error), stacks ...string) *Tenant {
	t.Helper()
	tenant := &Tenant{w: w, Namespace: namespace, Config: workload, kubeconfig: kubeconfig, foreign: map[string]string{}}
	var err error
	if tenant.Workload, err = client.NewWithWatch(workload, client.Options{Scheme: w.Client.Scheme()}); err != nil {
		t.Fatal(err)
	}
	labels := map[string]string{v1alpha1.InstanceLabel: v1alpha1.InstanceOwned}
	for where, c := range map[string]client.Client{"management": w.Client, "workload": tenant.Workload} {
		ns := map[string]string{"management": tenant.Namespace, "workload": metav1.NamespaceSystem}[where]
		for name, labels := range map[string]map[string]string{"foreign": nil, "foreign-with-our-label": labels} {
			object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, Labels: labels}}
			if err := c.Create(t.Context(), object); err != nil {
				t.Fatal(err)
			}
			tenant.foreign[where+" "+name] = object.ResourceVersion
		}
	}
	for _, minor := range stacks {
		tenant.Subscribe(t, Stack(minor, "v1"))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tenants = append(w.tenants, tenant)
	return tenant
}

// Forget ends the stand-in of a tenant that is gone.
func (n *Tenant) Forget() {
	n.w.standins.Remove(n.Namespace)
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	n.w.tenants = slices.DeleteFunc(n.w.tenants, func(other *Tenant) bool { return other == n })
}

// Stack is the ClusterStack docker-starter for a minor of Kubernetes, with some versions and without a provider.
func Stack(minor string, versions ...string) *v1alpha1.ClusterStack {
	return &v1alpha1.ClusterStack{
		ObjectMeta: metav1.ObjectMeta{Name: "starter-" + strings.ReplaceAll(minor, ".", "-")},
		Spec: v1alpha1.ClusterStackSpec{
			Provider: "docker", Name: "starter", KubernetesVersion: minor, Versions: versions, NoProvider: true,
		},
	}
}

// Subscribe creates a ClusterStack.
func (n *Tenant) Subscribe(t testing.TB, stack *v1alpha1.ClusterStack) {
	t.Helper()
	stack.Namespace = n.Namespace
	if err := n.w.Client.Create(t.Context(), stack); err != nil {
		t.Fatal(err)
	}
}

// Create creates the Cluster, whose control plane is there at once.
func (n *Tenant) Create(t testing.TB, class, version string) {
	t.Helper()
	n.CreateIn(t, "", class, version)
}

// CreateIn is Create with a class of another namespace.
func (n *Tenant) CreateIn(t testing.TB, namespace, class, version string) {
	t.Helper()
	ctx := t.Context()
	cluster := apitest.Cluster(n.Namespace, ClusterName, class, version)
	cluster.Spec.Topology.ClassRef.Namespace = namespace
	cluster.Finalizers = []string{finalizer}
	if err := n.w.Client.Create(ctx, cluster); err != nil {
		t.Fatal(err)
	}
	n.cluster = cluster.UID
	kubeconfig, err := n.kubeconfig()
	if err != nil {
		t.Fatal(err)
	}
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: n.Namespace, Name: ClusterName + "-kubeconfig", Labels: map[string]string{clusterv1.ClusterNameLabel: ClusterName},
		},
		Type: clusterv1.ClusterSecretType,
		Data: map[string][]byte{"value": kubeconfig},
	}
	if err := n.w.Client.Create(ctx, secret); err != nil {
		t.Fatal(err)
	}
	n.status(t, func(cluster *clusterv1.Cluster) {
		apitest.Initialize(cluster)
		setVersion(cluster, version)
	})
}

func setVersion(cluster *clusterv1.Cluster, version string) {
	cluster.Status.ControlPlane = &clusterv1.ClusterControlPlaneStatus{Versions: []clusterv1.StatusVersion{{Version: version, Replicas: 1}}}
}

func (n *Tenant) status(t testing.TB, change func(*clusterv1.Cluster)) {
	t.Helper()
	cluster := n.Cluster(t)
	change(cluster)
	if err := n.w.Client.Status().Update(t.Context(), cluster); err != nil {
		t.Fatal(err)
	}
}

// Cluster reads the Cluster.
func (n *Tenant) Cluster(t testing.TB) *clusterv1.Cluster {
	t.Helper()
	cluster := &clusterv1.Cluster{}
	if err := n.w.Client.Get(t.Context(), n.key(), cluster); err != nil {
		t.Fatal(err)
	}
	return cluster
}

func (n *Tenant) key() client.ObjectKey {
	return client.ObjectKey{Namespace: n.Namespace, Name: ClusterName}
}

// Use edits the topology of the Cluster as its user does. When the version is not the control plane's, Cluster API holds
// the upgrade until the hook lets it go on.
func (n *Tenant) Use(t testing.TB, class, version string) {
	t.Helper()
	cluster := n.Cluster(t)
	from := cluster.Status.ControlPlane.Versions[0].Version
	apitest.Use(cluster, class, version)
	if err := n.w.Client.Update(t.Context(), cluster); err != nil {
		t.Fatal(err)
	}
	if n.upgrading, n.asked = nil, (asked{}); from != version {
		n.upgrading = &upgrade{from: from, to: version}
	}
}

// Held tells whether an upgrade of Kubernetes waits for the hook.
func (n *Tenant) Held() bool { return n.upgrading != nil }

// Ask asks the hook whether a held upgrade may go on, if it was not asked yet in this state of the ClusterAddon.
// When it may, Cluster API replaces the control plane. An error is one of the management cluster, which may be down.
func (n *Tenant) Ask(ctx context.Context, o *Operator, addon *v1alpha1.ClusterAddon) error {
	if n.upgrading == nil || addon != nil && n.asked == (asked{o, addon.ResourceVersion}) && time.Since(n.askedAt) < askAgain {
		return nil
	}
	hold, err := n.AskOnce(ctx, o)
	if err != nil || hold != "" {
		// Asked again when something has changed. What asking itself changes is seen by then.
		if n.asked = (asked{}); err == nil && addon != nil {
			n.asked, n.askedAt = asked{o, addon.ResourceVersion}, time.Now()
		}
		return nil //nolint:nilerr // no answer, as after a kill, is none to go on
	}
	if n.w.Goes != nil {
		n.w.Goes(n)
	}
	cluster := &clusterv1.Cluster{}
	if err := n.w.Client.Get(ctx, n.key(), cluster); err != nil {
		return err
	}
	setVersion(cluster, n.upgrading.to)
	if err := n.w.Client.Status().Update(ctx, cluster); err != nil {
		return err
	}
	n.upgrading = nil
	return nil
}

// askAgain is how long after an answer Cluster API asks again, whether anything has changed or not: what the answer
// depends on may not have been known at the moment.
const askAgain = 5 * time.Second

// AskOnce asks the hook whether a held upgrade may go on, and does nothing about the answer. It says what the upgrade
// waits for; an error is no answer.
func (n *Tenant) AskOnce(ctx context.Context, o *Operator) (hold string, err error) {
	cluster := &clusterv1.Cluster{}
	if err := n.w.Client.Get(ctx, n.key(), cluster); err != nil {
		return "", err
	}
	return o.AskFor(ctx, cluster, n.upgrading.from, n.upgrading.to)
}

// Delete deletes the Cluster, and then all else.
func (n *Tenant) Delete(t testing.TB) {
	t.Helper()
	if err := n.w.Client.Delete(t.Context(), n.Cluster(t)); err != nil {
		t.Fatal(err)
	}
}

// Collect does once what Cluster API and Kubernetes do with what is deleted: the Cluster goes when its ClusterAddon is
// let go, then the ClusterStacks, and what they own with them. It returns what was left a moment ago.
func (n *Tenant) Collect(ctx context.Context) ([]string, error) {
	objects, err := n.w.recent(ctx)
	if err != nil {
		return nil, err
	}
	find := func(kind string) *unstructured.Unstructured {
		for _, o := range objects[n.Namespace] {
			if o.GetKind() == kind {
				return o
			}
		}
		return nil
	}
	if cluster := find(clusterv1.ClusterKind); cluster != nil {
		if addon := find(v1alpha1.ClusterAddonKind); addon != nil && slices.Contains(addon.GetFinalizers(), v1alpha1.ClusterAddonFinalizer) {
			return []string{"the operator holds the ClusterAddon"}, nil
		}
		patch := client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`))
		return []string{"the Cluster"}, client.IgnoreNotFound(n.w.Client.Patch(ctx, cluster, patch))
	}
	if find(v1alpha1.ClusterStackKind) != nil {
		return []string{"the ClusterStacks"}, n.w.Client.DeleteAllOf(ctx, &v1alpha1.ClusterStack{}, client.InNamespace(n.Namespace))
	}
	return n.garbage(ctx, objects[n.Namespace])
}

// recent are the objects of all tenants as they were a moment ago.
func (w *World) recent(ctx context.Context) (map[string][]*unstructured.Unstructured, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if time.Since(w.looked) < 500*time.Millisecond {
		return w.listed, nil
	}
	objects, err := w.objects(ctx, "")
	if err == nil {
		w.looked, w.listed = time.Now(), objects
	}
	return objects, err
}

// Garbage deletes what has owners, all of which are gone, as the garbage collector does.
func (n *Tenant) Garbage(ctx context.Context) error {
	objects, err := n.w.objects(ctx, n.Namespace)
	if err != nil {
		return err
	}
	_, err = n.garbage(ctx, objects[n.Namespace])
	return err
}

// garbage is Garbage among some objects. It returns what of the operator is left.
func (n *Tenant) garbage(ctx context.Context, objects []*unstructured.Unstructured) ([]string, error) {
	there := map[types.UID]bool{}
	for _, o := range objects {
		there[o.GetUID()] = true
	}
	var left []string
	for _, o := range objects {
		owners := o.GetOwnerReferences()
		if o.GetKind() == "ConfigMap" || o.GetKind() == "Secret" && len(owners) == 0 {
			continue // the test's
		}
		left = append(left, o.GetKind()+" "+o.GetName())
		orphan := len(owners) > 0 && !slices.ContainsFunc(owners, func(r metav1.OwnerReference) bool { return there[r.UID] })
		if orphan && o.GetDeletionTimestamp() == nil {
			if err := n.w.Client.Delete(ctx, o, client.Preconditions{UID: new(o.GetUID())}); client.IgnoreNotFound(err) != nil && !apierrors.IsConflict(err) {
				return nil, err
			}
		}
	}
	return left, nil
}

// looked are the kinds in the management cluster that a tenant has.
var looked = []schema.GroupVersionKind{
	v1alpha1.GroupVersion.WithKind("ClusterStack"), v1alpha1.GroupVersion.WithKind("ClusterStackRelease"), v1alpha1.GroupVersion.WithKind("ClusterAddon"),
	clusterv1.GroupVersion.WithKind("Cluster"), clusterv1.GroupVersion.WithKind("ClusterClass"),
	{Group: "infrastructure.cluster.x-k8s.io", Version: "v1beta2", Kind: "DevClusterTemplate"},
	{Version: "v1", Kind: "Secret"}, {Version: "v1", Kind: "ConfigMap"},
}

// objects are those of the tenants in the management cluster, by namespace; of one namespace if it is given.
func (w *World) objects(ctx context.Context, namespace string) (map[string][]*unstructured.Unstructured, error) {
	found := map[string][]*unstructured.Unstructured{}
	for _, kind := range looked {
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(kind)
		if err := w.Client.List(ctx, list, client.InNamespace(namespace)); err != nil {
			return nil, err
		}
		for i := range list.Items {
			o := &list.Items[i]
			found[o.GetNamespace()] = append(found[o.GetNamespace()], o)
		}
	}
	return found, nil
}

// Await looks again and again until done has held once for each of some tenants, and plays Cluster API meanwhile. The
// function gets the ClusterAddon, nil if there is none, and says what is missing. It returns early when the operator
// was killed by KillAt.
func (w *World) Await(t testing.TB, o *Operator, tenants []*Tenant, done func(*Tenant, *v1alpha1.ClusterAddon) string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	finished := map[*Tenant]bool{}
	look := func() string {
		// A management cluster that does not answer is one of the faults. It is asked again.
		ctx, cancel := context.WithTimeout(ctx, Patience/6)
		defer cancel()
		addons := &v1alpha1.ClusterAddonList{}
		if err := w.Client.List(ctx, addons); err != nil {
			return err.Error()
		}
		missing := ""
		for _, n := range tenants {
			if finished[n] {
				continue
			}
			var addon *v1alpha1.ClusterAddon
			if i := slices.IndexFunc(addons.Items, func(a v1alpha1.ClusterAddon) bool { return a.Namespace == n.Namespace }); i >= 0 {
				addon = &addons.Items[i]
			}
			if err := n.Ask(ctx, o, addon); err != nil {
				return err.Error()
			}
			if what := done(n, addon); what != "" {
				missing = n.Namespace + ": " + what
				continue
			}
			finished[n] = true
		}
		return missing
	}
	for missing := ""; ; {
		if now := look(); now == "" {
			return
		} else if ctx.Err() == nil {
			missing = now
		}
		select {
		case <-o.Done():
			if order := w.kill.Load(); order != nil && order.operator == o {
				return
			}
			t.Fatalf("the operator ended by itself: %v", o.Err())
		case <-ctx.Done():
			t.Fatalf("waited in vain: %s", missing)
		case <-tick.C:
		}
	}
}

// Reached is what Await waits for: the tenant's cluster has the addons of a class, and all is as it should be.
func Reached(class string) func(*Tenant, *v1alpha1.ClusterAddon) string {
	return func(n *Tenant, addon *v1alpha1.ClusterAddon) string {
		switch {
		case addon == nil:
			return "there is no ClusterAddon"
		case n.Held():
			return "the upgrade is held: " + Describe(addon)
		case addon.Spec.ClusterStack != class || addon.Status.ObservedGeneration != addon.Generation || !addon.Status.Ready || !addon.Status.Conditions.IsTrue(v1alpha1.ReadyCondition):
			return Describe(addon)
		}
		return ""
	}
}

// Describe puts the state of a ClusterAddon in words.
func Describe(addon *v1alpha1.ClusterAddon) string {
	lines := []string{"has " + addon.Spec.ClusterStack}
	for _, c := range addon.Status.Conditions {
		lines = append(lines, fmt.Sprintf("%s=%s %s: %s", c.Type, c.Status, c.Reason, c.Message))
	}
	return strings.Join(append(lines, addon.Annotations[v1alpha1.RolloutAnnotation]), "; ")
}

// AwaitRelease waits until a release in the namespace of a tenant is as it should be, by what its status says.
func (w *World) AwaitRelease(t testing.TB, n *Tenant, name string, done func(ready bool, message string) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		rel := &v1alpha1.ClusterStackRelease{}
		err := w.Client.Get(ctx, client.ObjectKey{Namespace: n.Namespace, Name: name}, rel)
		message := ""
		if ready := rel.Status.Conditions.Get(v1alpha1.ReadyCondition); ready != nil {
			message = ready.Message
		}
		if err == nil && done(rel.Status.Ready, message) {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("waited in vain for release %s of %s: ready is %t, %s, %v", name, n.Namespace, rel.Status.Ready, message, err)
		case <-tick.C:
		}
	}
}

// AwaitWrites waits until operators have sent so many requests to change something.
func (w *World) AwaitWrites(t testing.TB, o *Operator, number int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for w.Writes() < number {
		select {
		case <-o.Done():
			t.Fatalf("the operator ended by itself: %v", o.Err())
		case <-ctx.Done():
			t.Fatalf("the operator has sent %d requests to change something, waited in vain for %d", w.Writes(), number)
		case <-tick.C:
		}
	}
}

// AwaitRest waits until the operator has nothing to do any more.
func (w *World) AwaitRest(t testing.TB, o *Operator) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	// Looked at more than once: between a change and the event about it all queues are empty. And for longer than
	// anything that is soon to be tried again waits for that; no queue counts it.
	for quiet, writes := 0, w.Writes(); quiet < 15; quiet++ {
		busy, err := o.Busy(ctx)
		if now := w.Writes(); busy || err != nil || now != writes {
			quiet, writes = -1, now
		}
		select {
		case <-o.Done():
			t.Fatalf("the operator ended by itself: %v", o.Err())
		case <-ctx.Done():
			t.Fatalf("the operator does not come to rest: busy is %t, %d requests to change something, %v", busy, writes, err)
		case <-tick.C:
		}
	}
}

// CheckForeign checks that nobody has touched what is not the operator's.
func (n *Tenant) CheckForeign(t testing.TB) {
	t.Helper()
	for what, version := range n.foreign {
		where, name, _ := strings.Cut(what, " ")
		c, key := n.w.Client, client.ObjectKey{Namespace: n.Namespace, Name: name}
		if where == "workload" {
			c, key.Namespace = n.Workload, metav1.NamespaceSystem
		}
		object := &corev1.ConfigMap{}
		if err := c.Get(t.Context(), key, object); err != nil || object.ResourceVersion != version {
			t.Errorf("%s: ConfigMap %s in the %s cluster was touched: %v", n.Namespace, name, where, err)
		}
	}
}

// CheckEvents checks that no transition was told more often than it may have been.
func (n *Tenant) CheckEvents(t testing.TB, most int) {
	t.Helper()
	list := &eventsv1.EventList{}
	if err := n.w.Client.List(t.Context(), list, client.InNamespace(n.Namespace)); err != nil {
		t.Fatal(err)
	}
	told := map[string]int{}
	for _, e := range list.Items {
		if e.Reason != v1alpha1.RolloutStartedReason && e.Reason != v1alpha1.RolloutFinishedReason {
			continue
		}
		times := 1
		if e.Series != nil {
			times = int(e.Series.Count)
		}
		told[e.Regarding.Kind+" "+e.Reason+": "+e.Note] += times
	}
	for what, times := range told {
		if times > most {
			t.Errorf("%s: told %d times: %s", n.Namespace, times, what)
		}
	}
}
