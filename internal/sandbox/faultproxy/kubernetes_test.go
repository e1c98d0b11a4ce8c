// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package faultproxy

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
)

func TestMain(m *testing.M) { sandboxtest.Main(m) }

// cluster is a namespace of a real API server behind a proxy.
type cluster struct {
	*Proxy
	namespace string
	through   *kubernetes.Clientset
	direct    *kubernetes.Clientset
}

func newCluster(t *testing.T, change func(*rest.Config)) *cluster {
	t.Helper()
	config := sandboxtest.APIServer(t)
	if change != nil {
		change(config)
	}
	c := &cluster{direct: kubernetes.NewForConfigOrDie(config)}
	ns, err := c.direct.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "faults-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c.namespace = ns.Name
	if c.Proxy, err = ListenKubernetes(t.Context(), config, Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	c.through = kubernetes.NewForConfigOrDie(c.RESTConfig())
	return c
}

func (c *cluster) rules(t *testing.T, text string) {
	t.Helper()
	if err := c.Set(MustParse(strings.ReplaceAll(text, "NS", c.namespace)).Rules...); err != nil {
		t.Fatal(err)
	}
}

func (c *cluster) apply(ctx context.Context, name, value string) error {
	config := applycorev1.ConfigMap(name, c.namespace).WithData(map[string]string{"key": value})
	_, err := c.through.CoreV1().ConfigMaps(c.namespace).Apply(ctx, config, metav1.ApplyOptions{FieldManager: "test", Force: true})
	return err
}

// exists asks past the proxy.
func (c *cluster) exists(t *testing.T, name string) bool {
	t.Helper()
	_, err := c.direct.CoreV1().ConfigMaps(c.namespace).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	return err == nil
}

func TestChangesThatAreLostAndChangesThatAreDoneButNotKnown(t *testing.T) {
	c := newCluster(t, nil)
	c.rules(t, "write /api/v1/namespaces/NS/** #2 drop; write /api/v1/namespaces/NS/** #3 drop-answer")
	for _, tc := range []struct {
		name          string
		fails, exists bool
	}{
		{name: "delivered", exists: true},
		{name: "lost", fails: true},
		{name: "done", fails: true, exists: true},
		{name: "after", exists: true},
	} {
		if err := c.apply(t.Context(), tc.name, "v"); (err != nil) != tc.fails {
			t.Errorf("%s: %v", tc.name, err)
		}
		if got := c.exists(t, tc.name); got != tc.exists {
			t.Errorf("%s exists: %v", tc.name, got)
		}
	}
}

func TestAnAnswerThatClientsOfKubernetesUnderstand(t *testing.T) {
	c := newCluster(t, nil)
	c.rules(t, `write /api/v1/namespaces/NS/** #1 status=409 reason=Conflict; write /api/v1/namespaces/NS/** #2 status=429 reason=TooManyRequests header="Retry-After: 1"`)
	if err := c.apply(t.Context(), "a", "v"); !apierrors.IsConflict(err) {
		t.Errorf("%v", err)
	}
	begin := time.Now()
	if err := c.apply(t.Context(), "a", "v"); err != nil || time.Since(begin) < time.Second {
		t.Errorf("client-go is to try again after a second; after %s: %v", time.Since(begin), err)
	}
}

func TestAnInformerFollowsThroughFaults(t *testing.T) {
	c := newCluster(t, func(config *rest.Config) {
		// The API server's own way of taking turns would make the test slow.
		config.QPS, config.Burst = -1, -1
	})
	factory := informers.NewSharedInformerFactoryWithOptions(c.through, 0, informers.WithNamespace(c.namespace))
	informer := factory.Core().V1().ConfigMaps().Informer()
	var mu sync.Mutex
	seen := map[string]string{}
	note := func(obj any) {
		mu.Lock()
		defer mu.Unlock()
		cm := obj.(*corev1.ConfigMap)
		seen[cm.Name] = cm.Data["key"]
	}
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: note, UpdateFunc: func(_, obj any) { note(obj) }}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	factory.Start(ctx.Done())
	t.Cleanup(factory.Shutdown)
	t.Cleanup(cancel)
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		t.Fatal("no sync")
	}
	await := func(name, value string) {
		t.Helper()
		err := wait.PollUntilContextTimeout(ctx, 20*time.Millisecond, patience, true, func(context.Context) (bool, error) {
			mu.Lock()
			defer mu.Unlock()
			return seen[name] == value, nil
		})
		if err != nil {
			t.Fatalf("the informer never sees %s=%s: %v", name, value, err)
		}
	}
	change := func(name, value string) {
		t.Helper()
		// Not at once: a client may notice only now that Disconnect has ended its connection.
		var last error
		err := wait.PollUntilContextTimeout(ctx, 20*time.Millisecond, patience, true, func(context.Context) (bool, error) {
			last = c.apply(ctx, name, value)
			return last == nil, nil
		})
		if err != nil {
			t.Fatalf("%v: %v", err, last)
		}
	}
	change("a", "1")
	await("a", "1")

	// A watch that is cut is resumed, without or with a list that fails.
	c.rules(t, `watch /api/v1/namespaces/NS/** #1 cut=0; read /api/v1/namespaces/NS/configmaps #1 status=503 reason=ServiceUnavailable`)
	c.Disconnect()
	change("a", "2")
	await("a", "2")
	if faults := c.Faults(); len(faults) == 0 {
		t.Error("the watch was not cut")
	}

	// What happens while it is frozen shows only afterwards.
	c.rules(t, "")
	thaw := c.FreezeWatches()
	change("b", "1")
	change("b", "2")
	if !c.exists(t, "b") {
		t.Error("b does not exist")
	}
	mu.Lock()
	if _, known := seen["b"]; known {
		t.Error("a frozen watch has said something")
	}
	mu.Unlock()
	thaw()
	await("b", "2")
}

func TestOnlyItsOwnClientsMayUseTheIdentityOfAProxy(t *testing.T) {
	c := newCluster(t, nil)
	stranger := rest.AnonymousClientConfig(c.RESTConfig())
	if _, err := kubernetes.NewForConfigOrDie(stranger).CoreV1().Namespaces().List(t.Context(), metav1.ListOptions{}); err == nil {
		t.Error("a client without a certificate lists namespaces")
	}
}

func TestTheKubeconfigOfAProxyReachesTheCluster(t *testing.T) {
	c := newCluster(t, nil)
	raw, err := c.Kubeconfig()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.BuildConfigFromFlags("", file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kubernetes.NewForConfigOrDie(config).CoreV1().Namespaces().Get(t.Context(), c.namespace, metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
	if c.Requests() == 0 {
		t.Error("it did not go through the proxy")
	}
}

// wrapped notes what requests of a client carry.
type wrapped struct {
	next http.RoundTripper
	n    *int
}

func (w wrapped) RoundTrip(r *http.Request) (*http.Response, error) {
	*w.n++
	return w.next.RoundTrip(r)
}

func TestAWrappedTransportIsWrappedOnce(t *testing.T) {
	n := 0
	c := newCluster(t, func(config *rest.Config) {
		config.Wrap(func(next http.RoundTripper) http.RoundTripper { return wrapped{next, &n} })
	})
	n = 0
	if _, err := c.through.CoreV1().Namespaces().Get(t.Context(), c.namespace, metav1.GetOptions{}); err != nil || n != 1 {
		t.Errorf("%d times: %v", n, err)
	}
}
