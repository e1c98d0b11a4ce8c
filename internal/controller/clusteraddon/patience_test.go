// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clusteraddon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/apitest"
	"github.com/clusterstacks/cluster-stack-operator/internal/apitest/kinds"
	"github.com/clusterstacks/cluster-stack-operator/internal/controller/releases"
	"github.com/clusterstacks/cluster-stack-operator/internal/fair"
	"github.com/clusterstacks/cluster-stack-operator/internal/render"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/standin"
	"github.com/clusterstacks/cluster-stack-operator/internal/workload"
)

// TestClustersThatHangHoldUpNobody has twenty clusters that accept connections and never answer, each for a minute,
// and twenty that work, while two are worked on at a time. All that work are done before the first of the others would
// have let go by itself.
func TestClustersThatHangHoldUpNobody(t *testing.T) {
	e := newEnv(t, nil)
	e.publish(v1, both("cni"), addons{"cni": object("cni", "1")})
	standins, err := standin.Listen()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = standins.Close() })
	silent := silentServer(t)

	all := manyClusters{}
	const each, hang = 20, time.Minute
	for i := range each {
		works, hangs := fmt.Sprintf("works-%d", i), fmt.Sprintf("hangs-%d", i)
		standIn, err := standins.Add(works, k135)
		if err != nil {
			t.Fatal(err)
		}
		if all[works], err = standIn.Config(); err != nil {
			t.Fatal(err)
		}
		all[hangs] = &rest.Config{Host: silent, Timeout: hang}
		// Those that hang come first.
		for _, name := range []string{hangs, works} {
			cluster := apitest.Cluster(e.ns, name, v1, k135)
			if err := e.client.Create(t.Context(), cluster); err != nil {
				t.Fatal(err)
			}
			apitest.Initialize(cluster)
			if err := e.client.Status().Update(t.Context(), cluster); err != nil {
				t.Fatal(err)
			}
		}
	}

	yes, grace := true, time.Second
	api := rest.CopyConfig(sandboxtest.APIServer(t))
	api.QPS = -1
	mgr, err := ctrl.NewManager(api, ctrl.Options{
		Scheme: kinds.Scheme(t), Metrics: metricsserver.Options{BindAddress: "0"}, Cache: cache.Options{DefaultNamespaces: map[string]cache.Config{e.ns: {}}},
		Controller: config.Controller{SkipNameValidation: &yes}, GracefulShutdownTimeout: &grace,
	})
	if err != nil {
		t.Fatal(err)
	}
	opener := releases.New(mgr.GetClient(), e.store, e.source, "memory")
	r := New(mgr.GetClient(), mgr.GetAPIReader(), all, opener, e.recorder, Options{})
	if err := r.SetupWithManager(mgr, Setup{Controller: controller.Options{MaxConcurrentReconciles: 2}}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	began := time.Now()
	go func() { ended <- mgr.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		// How the manager ends is not the question here: its queue can hang when it is shut down with items in it.
		<-ended
	})

	watch, err := e.client.Watch(ctx, &v1alpha1.ClusterAddonList{}, client.InNamespace(e.ns))
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Stop()
	done := map[string]bool{}
	timeout := time.After(2 * hang)
	for len(done) < each {
		select {
		case event := <-watch.ResultChan():
			addon, ok := event.Object.(*v1alpha1.ClusterAddon)
			if !ok {
				t.Fatalf("the watch ended: %v", event)
			}
			name := clusterName(addon)
			if addon.Status.Ready {
				done[name] = true
			}
		case <-timeout:
			t.Fatalf("%d of %d clusters are ready", len(done), each)
		}
	}
	if took := time.Since(began); took > hang {
		t.Errorf("%d clusters were ready after %s only", each, took)
	}
}

// silentServer accepts connections, and that is all it does.
func silentServer(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { _ = connection.Close() })
		}
	}()
	return "http://" + listener.Addr().String()
}

// manyClusters are connections by the name of the Cluster.
type manyClusters map[string]*rest.Config

func (m manyClusters) Config(cluster *clusterv1.Cluster) (*rest.Config, error) {
	return m[cluster.Name], nil
}

func (m manyClusters) Watch(*clusterv1.Cluster, string, string, map[schema.GroupVersionKind]string, workload.Changed) error {
	return nil
}

func (m manyClusters) Tried(*clusterv1.Cluster) bool { return true }

// TestASilentClusterIsLeftAlone follows one cluster that does not answer, in a bubble of time.
func TestASilentClusterIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &patience{now: time.Now}
		answering := false
		transport := p.roundTripper(roundTrip(func(r *http.Request) (*http.Response, error) {
			if answering {
				return &http.Response{Body: http.NoBody}, nil
			}
			select {
			case <-time.After(10 * time.Second):
				return nil, context.DeadlineExceeded
			case <-r.Context().Done():
				return nil, r.Context().Err()
			}
		}))
		pass := func() error {
			turns := newTurns(1)
			mine, err := turns.take(t.Context(), "namespace")
			if err != nil {
				t.Fatal(err)
			}
			defer mine.end()
			ctx, end := p.begin(t.Context(), mine)
			defer end()
			freed := make(chan time.Time, 1)
			go func() {
				other, err := turns.take(t.Context(), "namespace")
				if err != nil {
					t.Error(err)
					return
				}
				freed <- time.Now()
				other.end()
			}()
			began := time.Now()
			request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://x", nil)
			if err != nil {
				t.Fatal(err)
			}
			response, err := transport.RoundTrip(request)
			if err == nil {
				_ = response.Body.Close()
				mine.end()
				<-freed
				return nil
			}
			if waited := (<-freed).Sub(began); waited != stall {
				t.Errorf("another pass got its turn after %s, want %s", waited, stall)
			}
			if !errors.Is(context.Cause(ctx), errSilent) || !p.lost() {
				t.Errorf("the pass goes on: %v", context.Cause(ctx))
			}
			return err
		}
		for _, want := range []time.Duration{firstPause, 2 * firstPause, 4 * firstPause, 8 * firstPause, 16 * firstPause, longestPause, longestPause} {
			if pass() == nil {
				t.Fatal("an answer came")
			}
			if left := p.left(); left < want*4/5 || left > want*6/5 {
				t.Errorf("left alone for %s, want about %s", left, want)
			}
			time.Sleep(p.left()) // in the bubble
		}
		answering = true
		if err := pass(); err != nil {
			t.Fatal(err)
		}
		if _, doubtful := p.experience(); doubtful {
			t.Error("an answer changed nothing")
		}
	})
}

func TestOnlySoManyWaitBesideTheOthers(t *testing.T) {
	turns := newTurns(2)
	var waiting []*turn
	wait := func(namespace string, want int) (last *turn) {
		t.Helper()
		for n := 0; ; n++ {
			mine, err := turns.take(t.Context(), namespace)
			if err != nil {
				t.Fatal(err)
			}
			first := mine.stepAside()
			if first != mine.stepAside() {
				t.Fatal("asked twice, it is answered differently")
			}
			if !first {
				if n != want {
					t.Fatalf("%d passes of one namespace may wait, want %d", n, want)
				}
				return mine
			}
			waiting = append(waiting, mine)
		}
	}
	// One namespace does not take all, nor do two; a third one has a place.
	const all = 2 * waiters
	last := wait("first", all/2)
	wait("second", all/4).end()
	for i := range all / 4 {
		wait(fmt.Sprint(i), 1).end()
	}
	wait("late", 0).end()
	for _, mine := range waiting {
		if mine.namespace != "first" {
			mine.end()
		}
	}
	waiting[0].end()
	waiting[0].end()
	if !last.stepAside() {
		t.Error("no place became free")
	}
	for _, mine := range append(waiting, last) {
		mine.end()
	}
	for _, mine := range waiting {
		again, err := turns.take(t.Context(), mine.namespace)
		if err != nil || !again.stepAside() {
			t.Errorf("turns or places are still taken: %v", err)
		}
		defer again.end()
	}
}

// TestOnlySoManyWaitForATurn has a namespace whose passes have all turns and do not end. Others of it wait for a turn, and
// leave places to those of other namespaces.
func TestOnlySoManyWaitForATurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, atATime := range []int{1, 2, 10} {
			turns := newTurns(atATime)
			ctx, cancel := context.WithCancel(t.Context())
			var passes sync.WaitGroup
			var queued, refused, late atomic.Int64
			take := func(namespace string, waits *atomic.Int64) {
				passes.Go(func() {
					waits.Add(1)
					mine, err := turns.take(ctx, namespace)
					waits.Add(-1)
					if errors.Is(err, errQueue) {
						refused.Add(1)
					}
					if err == nil {
						<-ctx.Done()
						mine.end()
					}
				})
			}
			for range 2 * workersFor(atATime) {
				take("greedy", &queued)
			}
			synctest.Wait()
			if n := int(queued.Load()); n != atATime*queueing/2 {
				t.Errorf("with %d turns %d passes of one namespace wait for one, want %d", atATime, n, atATime*queueing/2)
			}
			before := refused.Load()
			take("other", &late)
			synctest.Wait()
			if late.Load() != 1 || refused.Load() != before {
				t.Errorf("with %d turns a pass of another namespace may not wait for one", atATime)
			}
			// Some of all that wait find a worker who tells them that there is no place.
			if all := atATime * (1 + waiters + queueing); all >= workersFor(atATime) {
				t.Errorf("%d may work or wait, of %d", all, workersFor(atATime))
			}
			cancel()
			passes.Wait()
		}
	})
}

// TestARenderIsGivenUpBeforeItIsBegun has a namespace of which as many passes wait beside their turn as may, and renders that
// wait for a worker, and have one, for some time.
func TestARenderIsGivenUpBeforeItIsBegun(t *testing.T) {
	for name, tc := range map[string]struct {
		waits, takes time.Duration
		places       bool
		givenUp      bool
		slow         bool
	}{
		"NoWorker":              {waits: time.Hour, givenUp: true},
		"NoWorkerWithAPlace":    {waits: time.Hour / 2, places: true},
		"WaitsLongerThanItMay":  {waits: longRender - time.Second, takes: 2 * time.Second},
		"TakesLong":             {waits: time.Second, takes: 2 * longRender, slow: true},
		"TakesLongWithAPlace":   {waits: 2 * longRender, takes: 2 * longRender, places: true, slow: true},
		"TakesNoTimeWithAPlace": {waits: 2 * longRender, takes: time.Second, places: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				turns := newTurns(1)
				for !tc.places {
					other, err := turns.take(t.Context(), "namespace")
					if err != nil {
						t.Fatal(err)
					}
					defer other.end()
					if !other.stepAside() {
						other.end()
						break
					}
				}
				mine, err := turns.take(t.Context(), "namespace")
				if err != nil {
					t.Fatal(err)
				}
				defer mine.end()
				sleep := func(ctx context.Context, d time.Duration) error {
					select {
					case <-time.After(d):
						return nil
					case <-ctx.Done():
						return ctx.Err()
					}
				}
				w := &work{
					Reconciler: &Reconciler{options: Options{Render: func(ctx context.Context, _ render.Input) (*render.Result, error) {
						if err := sleep(ctx, tc.waits); err != nil {
							return nil, err
						}
						fair.Begun(ctx)
						return &render.Result{}, sleep(ctx, tc.takes)
					}}},
					addon: &v1alpha1.ClusterAddon{}, conn: &connection{}, turn: mine,
				}
				w.addon.Namespace = "namespace"
				began := time.Now()
				_, err = w.renderPatiently(t.Context(), render.Input{Subject: "it"})
				if errors.Is(err, errCrowded) != tc.givenUp || err != nil && !tc.givenUp {
					t.Errorf("after %s: %v", time.Since(began), err)
				}
				if slow := w.conn.rendersSlowly("it"); slow != tc.slow {
					t.Errorf("it took long to render: %t, want %t", slow, tc.slow)
				}
				if !tc.givenUp {
					return
				}
				// What else the pass has to render does not wait as long, or every pass would keep its turn for all of it.
				began = time.Now()
				if _, err := w.renderPatiently(t.Context(), render.Input{Subject: "another"}); !errors.Is(err, errCrowded) || time.Since(began) > 0 {
					t.Errorf("the next one ends after %s with %v", time.Since(began), err)
				}
			})
		})
	}
}

// TestChartsThatHangHoldUpNobody has a namespace with more clusters than there are workers, whose charts take long, and
// another one with a cluster that works.
func TestChartsThatHangHoldUpNobody(t *testing.T) {
	greedy, other := newEnv(t, nil), newEnv(t, nil)
	const atATime, hang = 2, time.Minute
	standins, err := standin.Listen()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = standins.Close() })
	all := manyClusters{}
	create := func(e *env, name string) {
		t.Helper()
		standIn, err := standins.Add(name, k135)
		if err != nil {
			t.Fatal(err)
		}
		if all[name], err = standIn.Config(); err != nil {
			t.Fatal(err)
		}
		cluster := apitest.Cluster(e.ns, name, v1, k135)
		if err := e.client.Create(t.Context(), cluster); err != nil {
			t.Fatal(err)
		}
		apitest.Initialize(cluster)
		if err := e.client.Status().Update(t.Context(), cluster); err != nil {
			t.Fatal(err)
		}
	}
	charts := addons{"cni": object("cni", "1")}
	greedy.publish(v1, both("cni"), charts)
	if err := other.client.Create(t.Context(), apitest.ClusterStackRelease(other.ns, v1)); err != nil {
		t.Fatal(err)
	}
	for i := range 2 * workersFor(atATime) {
		create(greedy, fmt.Sprintf("hangs-%d", i))
	}

	yes, grace := true, time.Second
	api := rest.CopyConfig(sandboxtest.APIServer(t))
	api.QPS = -1
	mgr, err := ctrl.NewManager(api, ctrl.Options{
		Scheme: kinds.Scheme(t), Metrics: metricsserver.Options{BindAddress: "0"}, Cache: cache.Options{DefaultNamespaces: map[string]cache.Config{greedy.ns: {}, other.ns: {}}},
		Controller: config.Controller{SkipNameValidation: &yes}, GracefulShutdownTimeout: &grace,
	})
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	var rendering atomic.Int64
	r := New(mgr.GetClient(), mgr.GetAPIReader(), all, releases.New(mgr.GetClient(), greedy.store, greedy.source, "memory"), greedy.recorder, Options{
		Render: func(ctx context.Context, in render.Input) (*render.Result, error) {
			if fair.Tenant(ctx) == greedy.ns {
				rendering.Add(1)
				defer rendering.Add(-1)
				select {
				case <-time.After(hang - time.Since(began)):
				case <-ctx.Done():
					return nil, ctx.Err()
				}
			}
			return in.Render()
		},
	})
	if err := r.SetupWithManager(mgr, Setup{Controller: controller.Options{MaxConcurrentReconciles: atATime}}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- mgr.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	for rendering.Load() < atATime*(1+waiters/2) {
		time.Sleep(10 * time.Millisecond)
	}
	create(other, "works")
	for {
		addon := &v1alpha1.ClusterAddon{}
		err := other.client.Get(t.Context(), client.ObjectKey{Namespace: other.ns, Name: v1alpha1.ClusterAddonName("works")}, addon)
		if err == nil && addon.Status.Ready {
			return
		}
		if time.Since(began) > hang {
			t.Fatalf("the cluster of another namespace waits until charts that hang are done: %v", err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// A Job of a chart is waited for only so long, and a loaded machine may not even have begun to watch it by then.
func TestWhoWaitsNoLongerThanItWantedWasNotLeftWithoutAnAnswer(t *testing.T) {
	unanswering := roundTrip(func(r *http.Request) (*http.Response, error) {
		<-r.Context().Done()
		return nil, r.Context().Err()
	})
	for name, tc := range map[string]struct {
		cause  error
		silent bool
	}{
		"OfItsOwn": {errors.New("it is waited for later"), false},
		"Deadline": {nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			p := patience{now: time.Now}
			pass, end := p.begin(t.Context(), &turn{})
			defer end()
			ctx, cancel := context.WithTimeoutCause(pass, time.Millisecond, tc.cause)
			defer cancel()
			request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://cluster.example.com", nil)
			if err != nil {
				t.Fatal(err)
			}
			response, err := p.roundTripper(unanswering).RoundTrip(request)
			if response != nil {
				_ = response.Body.Close()
			}
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("error %v, want that of the one who waits", err)
			}
			if p.lost() != tc.silent {
				t.Errorf("taken for silent: %v, want %v", p.lost(), tc.silent)
			}
		})
	}
}

// After a restart a thousand clusters are asked as evenly as if there had been none.
func TestFirstChecksAreSpreadOverTheInterval(t *testing.T) {
	const clusters, minutes = 1000, 10
	var at [minutes]int
	for range clusters {
		d := first(minutes * time.Minute)
		if d < time.Minute || d > minutes*time.Minute {
			t.Fatalf("the first check is after %s", d)
		}
		at[min(int(d/time.Minute), minutes-1)]++
	}
	for minute, n := range at {
		if n > 2*clusters/minutes {
			t.Errorf("%d of %d clusters are asked in minute %d", n, clusters, minute)
		}
	}
}
