// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/clusterstacks/cluster-stack-operator/internal/apitest"
	"github.com/clusterstacks/cluster-stack-operator/internal/apitest/kinds"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/standin"
)

const limit = 30 * time.Second

// world is a management cluster with one Cluster, whose API server a stand-in plays.
type world struct {
	*testing.T
	client   client.WithWatch
	ns       string
	standins *standin.Server
	standin  *standin.Cluster
	// refuse is the status that the API server answers with to everything, if it is not 0.
	refuse atomic.Int32
	// events counts what Changes has told.
	events   atomic.Int32
	clusters *Clusters
	stop     func()
}

func newWorld(t *testing.T, o Options) *world {
	t.Helper()
	w := &world{T: t, client: kinds.Client(t, sandboxtest.APIServer(t))}
	w.ns = kinds.Namespace(t, w.client)
	var err error
	w.standins, err = standin.Listen(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
			if status := w.refuse.Load(); status != 0 {
				out.WriteHeader(int(status))
				return
			}
			next.ServeHTTP(out, r)
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.standins.Close() })
	if w.standin, err = w.standins.Add("one", "v1.36.0"); err != nil {
		t.Fatal(err)
	}

	api, yes := rest.CopyConfig(sandboxtest.APIServer(t)), true
	api.QPS = -1
	mgr, err := ctrl.NewManager(api, ctrl.Options{
		Scheme: kinds.Scheme(t), Metrics: metricsserver.Options{BindAddress: "0"},
		Cache:      cache.Options{DefaultNamespaces: map[string]cache.Config{w.ns: {}}},
		Controller: config.Controller{SkipNameValidation: &yes},
	})
	if err != nil {
		t.Fatal(err)
	}
	o.Retry, o.Probe, o.Compare = 20*time.Millisecond, 20*time.Millisecond, 20*time.Millisecond
	w.clusters = New(mgr.GetClient(), mgr.GetAPIReader(), o)
	if err := w.clusters.SetupWithManager(mgr, controller.Options{}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- mgr.Start(ctx) }()
	go func() {
		for {
			select {
			case <-w.clusters.Changes():
				w.events.Add(1)
			case <-ctx.Done():
				return
			}
		}
	}()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(w.stop)
	return w
}

// cluster makes a Cluster, with machines or without.
func (w *world) cluster(name string, provisioned bool) *clusterv1.Cluster {
	w.Helper()
	made := apitest.Cluster(w.ns, name, "docker-starter-1-36-v1", "v1.36.0")
	if err := w.client.Create(w.Context(), made); err != nil {
		w.Fatal(err)
	}
	if provisioned {
		w.provision(made)
	}
	return made
}

func (w *world) provision(of *clusterv1.Cluster) {
	w.Helper()
	of.Status.Initialization.InfrastructureProvisioned = ptr.To(true)
	if err := w.client.Status().Update(w.Context(), of); err != nil {
		w.Fatal(err)
	}
}

// kubeconfig makes the Secret by which a Cluster is reached, or replaces its content.
func (w *world) kubeconfig(name string, to *standin.Cluster) {
	w.Helper()
	content, err := to.Kubeconfig()
	if err != nil {
		w.Fatal(err)
	}
	w.secret(name, content)
}

func (w *world) secret(name string, content []byte) {
	w.Helper()
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: name + "-kubeconfig"}, Data: map[string][]byte{"value": content}}
	err := w.client.Create(w.Context(), secret)
	if client.IgnoreAlreadyExists(err) == nil && err != nil {
		err = w.client.Patch(w.Context(), secret, client.Merge)
		if err == nil {
			secret.Data = map[string][]byte{"value": content}
			err = w.client.Update(w.Context(), secret)
		}
	}
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) eventually(what string, holds func() bool) {
	w.Helper()
	for deadline := time.Now().Add(limit); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.Fatalf("waiting for %s", what)
		}
	}
}

// connected waits for a connection that is not the one with the given configuration.
func (w *world) connected(of *clusterv1.Cluster, before *rest.Config) (now *rest.Config) {
	w.Helper()
	w.eventually("a connection", func() bool {
		var err error
		now, err = w.clusters.Config(of)
		return err == nil && now != before
	})
	return now
}

// says waits until there is no connection for a cause.
func (w *world) says(of *clusterv1.Cluster, cause string) {
	w.Helper()
	var err error
	for deadline := time.Now().Add(limit); ; time.Sleep(5 * time.Millisecond) {
		if _, err = w.clusters.Config(of); errors.Is(err, ErrNotConnected) && strings.Contains(err.Error(), cause) {
			return
		}
		if time.Now().After(deadline) {
			w.Fatalf("says %v, want %q", err, cause)
		}
	}
}

func TestConnectsOnceThereAreMachinesAndAKubeconfig(t *testing.T) {
	w := newWorld(t, Options{UserAgent: "test", QPS: 7, Burst: 8})
	of := w.cluster("one", false)
	if w.clusters.Tried(of) {
		t.Error("tried to connect to a cluster without machines")
	}
	if _, err := w.clusters.Config(of); !errors.Is(err, ErrNotConnected) {
		t.Errorf("says %v", err)
	}
	w.provision(of)
	w.says(of, "there is no Secret "+w.ns+"/one-kubeconfig yet")
	if !w.clusters.Tried(of) {
		t.Error("does not say that it has tried")
	}
	w.eventually("the failure to be told", func() bool { return w.events.Load() == 1 })
	w.kubeconfig("one", w.standin)
	got := w.connected(of, nil)
	w.eventually("the connection to be told", func() bool { return w.events.Load() == 2 })
	if got.QPS != 7 || got.Burst != 8 || got.UserAgent != "test" {
		t.Errorf("the configuration is %v", got)
	}
	if _, err := kubernetes.NewForConfigOrDie(got).CoreV1().Namespaces().List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Error(err)
	}
	// It stays, and is asked for nothing but its version.
	w.eventually("some probes", func() bool { return w.standin.Requests().Probes > 5 })
	if r := w.standin.Requests(); r.Reads > 1 || r.Writes > 0 || r.Watches > 0 {
		t.Errorf("requests at rest are %+v", r)
	}
	if again, _ := w.clusters.Config(of); again != got {
		t.Error("another connection was made")
	}

	// What goes with the Cluster.
	if err := w.client.Delete(t.Context(), of); err != nil {
		t.Fatal(err)
	}
	w.eventually("the connection to end", func() bool { _, err := w.clusters.Config(of); return err != nil })
}

func TestGivesUpWhoDoesNotAnswerAndComesBack(t *testing.T) {
	w := newWorld(t, Options{})
	w.kubeconfig("one", w.standin)
	of := w.cluster("one", true)
	first := w.connected(of, nil)
	w.refuse.Store(http.StatusServiceUnavailable)
	w.says(of, "it answers 503")
	w.refuse.Store(0)
	w.connected(of, first)

	// One answer that is missing is no reason.
	second, _ := w.clusters.Config(of)
	w.refuse.Store(http.StatusServiceUnavailable)
	time.Sleep(time.Millisecond)
	w.refuse.Store(0)
	before := w.standin.Requests().Probes
	w.eventually("some probes", func() bool { return w.standin.Requests().Probes > before+3 })
	if now, err := w.clusters.Config(of); now != second {
		t.Errorf("another connection, or none (%v), after a short silence", err)
	}
}

func TestNewCredentialsAreTakenUpAtOnce(t *testing.T) {
	for name, how := range map[string]func(w *world){
		"the old server goes on":      func(*world) {},
		"the old ones may do nothing": func(w *world) { w.refuse.Store(http.StatusForbidden) },
		"the old ones are refused":    func(w *world) { w.refuse.Store(http.StatusUnauthorized) },
		"the old server is gone":      func(w *world) { w.standins.Remove("one") },
		"the old server is unwilling": func(w *world) { w.refuse.Store(http.StatusBadGateway) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, Options{})
			w.kubeconfig("one", w.standin)
			of := w.cluster("one", true)
			first := w.connected(of, nil)
			elsewhere, err := standin.Listen()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = elsewhere.Close() })
			next, err := elsewhere.Add("one", "v1.36.0")
			if err != nil {
				t.Fatal(err)
			}
			w.kubeconfig("one", next)
			how(w)
			if second := w.connected(of, first); second.Host == first.Host {
				t.Errorf("still connected to %s", second.Host)
			}
		})
	}
}

func TestSaysThatCredentialsAreRefused(t *testing.T) {
	w := newWorld(t, Options{})
	w.kubeconfig("one", w.standin)
	of := w.cluster("one", true)
	w.connected(of, nil)
	w.refuse.Store(http.StatusUnauthorized)
	w.says(of, "does not accept the credentials of the kubeconfig")
}

// What is wrong with a kubeconfig is not blamed on an API server that nobody has asked.
func TestSaysThatAKubeconfigIsRefused(t *testing.T) {
	w := newWorld(t, Options{})
	w.secret("one", []byte(`{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c, user: me}}],
clusters: [{name: c, cluster: {server: "https://127.0.0.1:1"}}], users: [{name: me, user: {tokenFile: /token}}]}`))
	of := w.cluster("one", true)
	w.says(of, "names a file in tokenFile")
	if _, err := w.clusters.Config(of); err == nil || strings.Contains(err.Error(), "answer") {
		t.Errorf("says %v", err)
	}
}

// A Cluster that was made anew under the name of another one must not be taken for it: what is installed
// would go to the old one's API server as long as that answers.
func TestNobodyInheritsAConnection(t *testing.T) {
	w := newWorld(t, Options{})
	w.kubeconfig("one", w.standin)
	old := w.cluster("one", true)
	w.connected(old, nil)
	if err := w.client.Delete(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	heir := w.cluster("one", false)
	for range 50 {
		if config, err := w.clusters.Config(heir); err == nil {
			t.Fatalf("the heir is connected to %s", config.Host)
		}
		time.Sleep(time.Millisecond)
	}
	w.provision(heir)
	w.connected(heir, nil)
	if _, err := w.clusters.Config(old); err == nil {
		t.Error("the old one is still connected")
	}
}

func TestConnectsOnlyToClustersOfItsShard(t *testing.T) {
	w := newWorld(t, Options{WatchFilter: "mine"})
	w.kubeconfig("one", w.standin)
	of := w.cluster("one", true)
	mine := w.cluster("mine", false)
	mine.Labels = map[string]string{clusterv1.WatchLabel: "mine"}
	if err := w.client.Update(t.Context(), mine); err != nil {
		t.Fatal(err)
	}
	w.provision(mine)
	w.kubeconfig("mine", w.standin)
	w.connected(mine, nil)
	if w.clusters.Tried(of) {
		t.Error("tried to connect to a Cluster of another shard")
	}
	// It leaves.
	mine.Labels = nil
	if err := w.client.Update(t.Context(), mine); err != nil {
		t.Fatal(err)
	}
	w.eventually("the connection to end", func() bool { _, err := w.clusters.Config(mine); return err != nil })
}

func TestWatchesWhatItIsAskedTo(t *testing.T) {
	w := newWorld(t, Options{})
	w.kubeconfig("one", w.standin)
	of := w.cluster("one", true)
	c := kubernetes.NewForConfigOrDie(w.connected(of, nil))
	configMaps := map[schema.GroupVersionKind]string{{Version: "v1", Kind: "ConfigMap"}: "configmaps"}
	seen := make(chan string, 100)
	watch := func(kinds map[schema.GroupVersionKind]string) {
		t.Helper()
		if err := w.clusters.Watch(of, "test", "manager", kinds, func(kind schema.GroupVersionKind, obj metav1.Object, gone bool) bool {
			what := kind.Kind + " " + obj.GetName()
			if gone {
				what += " gone"
			}
			for _, e := range obj.GetManagedFields() {
				what += " of " + e.Manager
			}
			if len(obj.GetAnnotations())+len(obj.GetLabels())+len(obj.GetFinalizers()) > 0 {
				what += " with more than anybody asks for"
			}
			seen <- what
			return true
		}); err != nil {
			t.Fatal(err)
		}
	}
	want := func(what string) {
		t.Helper()
		select {
		case got := <-seen:
			if got != what {
				t.Errorf("saw %s, want %s", got, what)
			}
		case <-time.After(limit):
			t.Fatalf("saw nothing, want %s", what)
		}
	}
	put := func(name, manager string) {
		t.Helper()
		cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{"a": "b"}, Labels: map[string]string{"a": "b"}, Finalizers: []string{"example.com/a"}}}
		if _, err := c.CoreV1().ConfigMaps("default").Create(t.Context(), cm, metav1.CreateOptions{FieldManager: manager}); err != nil {
			t.Fatal(err)
		}
	}

	put("before", "somebody")
	told := w.events.Load()
	watch(configMaps)
	want("ConfigMap before")
	w.eventually("that to be told", func() bool { return w.events.Load() == told+1 })
	put("after", "manager")
	want("ConfigMap after of manager")
	watch(configMaps) // the same goes on
	if _, err := c.CoreV1().ConfigMaps("default").Patch(t.Context(), "before", types.MergePatchType, []byte(`{"metadata": {"finalizers": null}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	want("ConfigMap before")
	if err := c.CoreV1().ConfigMaps("default").Delete(t.Context(), "before", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	want("ConfigMap before gone")

	watch(map[schema.GroupVersionKind]string{{Version: "v1", Kind: "Secret"}: "secrets"})
	put("late", "somebody")
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}}
	if _, err := c.CoreV1().Secrets("default").Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	want("Secret s")

	// What nobody watches any more leaves no watch open, and what is not served does no harm.
	watch(map[schema.GroupVersionKind]string{{Group: "none.example.com", Version: "v1", Kind: "None"}: "nones"})
	watch(nil)
	if len(w.clusters.find(of).connection.watches) != 0 {
		t.Error("a purpose without kinds is kept")
	}
	if err := c.CoreV1().Secrets("default").Delete(t.Context(), "s", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	select {
	case got := <-seen:
		t.Errorf("saw %s without a watch", got)
	case <-time.After(100 * time.Millisecond):
	}

	// Without a connection there is nothing to watch.
	w.refuse.Store(http.StatusUnauthorized)
	w.says(of, "credentials")
	if err := w.clusters.Watch(of, "test", "manager", configMaps, nil); !errors.Is(err, ErrNotConnected) {
		t.Errorf("says %v", err)
	}
}

func TestConnectionsEndWithTheManager(t *testing.T) {
	w := newWorld(t, Options{})
	w.kubeconfig("one", w.standin)
	of := w.cluster("one", true)
	w.connected(of, nil)
	on := w.clusters.of(of).connection
	w.stop()
	select {
	case <-on.ctx.Done():
	case <-time.After(limit):
		t.Error("the connection goes on")
	}
}
