// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package releases_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr/funcr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/controller/releases"
	"github.com/clusterstacks/cluster-stack-operator/internal/panicked"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/release/releasetest"
	"github.com/clusterstacks/cluster-stack-operator/internal/source"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/sourcetest"
	"github.com/clusterstacks/cluster-stack-operator/internal/store"
)

const v1, v2 = "docker-scs-1-35-v1", "docker-scs-1-35-v2"

func name(t *testing.T, tag string) release.Name {
	t.Helper()
	n, err := release.ParseName(tag)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// cluster is the management cluster as far as releases look at it.
type cluster struct {
	client.Reader

	mu       sync.Mutex
	stacks   []v1alpha1.ClusterStack
	releases map[client.ObjectKey]v1alpha1.ClusterStackRelease
	secrets  map[client.ObjectKey]corev1.Secret
}

func (c *cluster) List(_ context.Context, list client.ObjectList, options ...client.ListOption) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	into, ok := list.(*v1alpha1.ClusterStackList)
	switch other := list.(type) {
	case *v1alpha1.ClusterStackReleaseList:
		for _, rel := range c.releases {
			other.Items = append(other.Items, rel)
		}
		return nil
	case *v1alpha1.ClusterAddonList, *clusterv1.ClusterList:
		return nil // there are none
	}
	if !ok {
		return fmt.Errorf("no %T here", list)
	}
	o := (&client.ListOptions{}).ApplyOptions(options)
	for _, stack := range c.stacks {
		if o.Namespace == "" || o.Namespace == stack.Namespace {
			into.Items = append(into.Items, stack)
		}
	}
	return nil
}

func (c *cluster) Get(_ context.Context, key client.ObjectKey, obj client.Object, _ ...client.GetOption) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	into, ok := obj.(*v1alpha1.ClusterStackRelease)
	if rel, found := c.releases[key]; ok && found {
		rel.DeepCopyInto(into)
		return nil
	}
	return apierrors.NewNotFound(schema.GroupResource{}, key.Name)
}

func (c *cluster) secret(_ context.Context, key client.ObjectKey) (*corev1.Secret, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	secret, found := c.secrets[key]
	if !found {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "secrets"}, key.Name)
	}
	return &secret, nil
}

func (c *cluster) setSecret(key client.ObjectKey, version, token string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.secrets == nil {
		c.secrets = map[client.ObjectKey]corev1.Secret{}
	}
	c.secrets[key] = corev1.Secret{ObjectMeta: metav1.ObjectMeta{ResourceVersion: version}, Data: map[string][]byte{"token": []byte(token)}}
}

func (c *cluster) setStacks(stacks ...*v1alpha1.ClusterStack) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stacks = nil
	for _, stack := range stacks {
		c.stacks = append(c.stacks, *stack)
	}
}

func newStack(namespace, name string, src *v1alpha1.ReleaseSource) *v1alpha1.ClusterStack {
	return &v1alpha1.ClusterStack{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(namespace + name)},
		Spec: v1alpha1.ClusterStackSpec{
			Provider: "docker", Name: "scs", KubernetesVersion: "1.35", Channel: v1alpha1.ChannelStable, AutoSubscribe: true, Source: src,
		},
	}
}

func registry(repository, secret string) *v1alpha1.ReleaseSource {
	src := &v1alpha1.ReleaseSource{OCI: &v1alpha1.OCISource{Repository: repository}}
	if secret != "" {
		src.SecretRef = &v1alpha1.LocalReference{Name: secret}
	}
	return src
}

// guarded is a source that wants a token.
type guarded struct {
	source.Source
	token string
	asked *moments
}

// moments are when something happened.
type moments struct {
	mu sync.Mutex
	at []time.Time
}

func (m *moments) note() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.at = append(m.at, time.Now())
}

func (m *moments) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.at)
}

func (g guarded) List(ctx context.Context) ([]source.Offer, error) {
	g.asked.note()
	if g.token != "right" {
		return nil, fmt.Errorf("%w: 401", source.ErrUnauthorized)
	}
	return g.Source.List(ctx)
}

func (g guarded) Fetch(ctx context.Context, name release.Name, dst *os.Root) (string, error) {
	if g.token != "right" {
		return "", fmt.Errorf("%w: 401", source.ErrUnauthorized)
	}
	return g.Source.Fetch(ctx, name, dst)
}

func openStore(t *testing.T) *store.Store {
	t.Helper()
	st, err := store.Open(t.TempDir(), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return st
}

// run starts polling for the test, inside a bubble of synctest.
func run(t *testing.T, r *releases.Releases) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Start(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func told(r *releases.Releases) bool {
	select {
	case <-r.Changes():
		return true
	default:
		return false
	}
}

func tags(l releases.Listing) string {
	var all []string
	for _, offer := range l.Offers {
		all = append(all, offer.Name.String())
	}
	return strings.Join(all, " ")
}

func TestOutageKeepsWhatIsKnown(t *testing.T) {
	st := openStore(t)
	synctest.Test(t, func(t *testing.T) {
		var src sourcetest.Memory
		src.Publish(v1, releasetest.Multistage(v1))
		c := &cluster{}
		stack := newStack("a", "scs", nil)
		c.setStacks(stack)
		r := releases.NewWith(c, st, &src, "memory", releases.Options{DefaultPoll: time.Minute})
		if r.Listing(t.Context(), stack).Asked {
			t.Error("an answer without a question")
		}
		defer run(t, r)()
		expect := func(when, want string, fails, changed bool) {
			t.Helper()
			synctest.Wait()
			got := r.Listing(t.Context(), stack)
			if !got.Asked || tags(got) != want || (got.Err != nil) != fails || told(r) != changed {
				t.Errorf("%s: got %q, %v; want %q, an error %v", when, tags(got), got.Err, want, fails)
			}
		}
		expect("at once", v1, false, true)
		time.Sleep(70 * time.Second)
		synctest.Wait()
		expect("unchanged", v1, false, false)
		src.Break(errors.New("refused"))
		time.Sleep(70 * time.Second)
		synctest.Wait()
		expect("down", v1, true, true)
		since := r.Listing(t.Context(), stack).At
		src.Publish(v2, releasetest.Multistage(v2))
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		expect("still down", v1, true, false)
		if got := r.Listing(t.Context(), stack).At; !got.Equal(since) || since.IsZero() {
			t.Errorf("the list of %s went as one of %s", since, got)
		}
		src.Break(nil)
		time.Sleep(70 * time.Second)
		synctest.Wait()
		expect("up again", v1+" "+v2, false, true)
	})
}

// mute is a source that never answers. It counts who waits for it.
type mute struct {
	source.Source
	waiting *atomic.Int64
	most    *atomic.Int64
}

func (s mute) wait(ctx context.Context) error {
	now := s.waiting.Add(1)
	defer s.waiting.Add(-1)
	for most := s.most.Load(); now > most && !s.most.CompareAndSwap(most, now); most = s.most.Load() {
	}
	<-ctx.Done()
	return ctx.Err()
}

func (s mute) Resolve(ctx context.Context, _ release.Name) (string, error) { return "", s.wait(ctx) }

func (s mute) List(ctx context.Context) ([]source.Offer, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	return nil, s.wait(ctx)
}

// A namespace whose ClusterStacks name a hundred sources that do not answer has so many of them asked at a time, and keeps no
// other namespace waiting, nor itself for one that answers.
func TestSourcesThatDoNotAnswerAreAskedSoManyAtATime(t *testing.T) {
	const many = 100
	type ask func(ctx context.Context, r *releases.Releases, stack *v1alpha1.ClusterStack) (offered string)
	offered := func(ctx context.Context, r *releases.Releases, stack *v1alpha1.ClusterStack) string {
		digest, err := r.Offered(ctx, r.Of(stack), name(t, v1))
		if err != nil {
			return err.Error()
		}
		algorithm, _, _ := strings.Cut(digest, ":")
		return algorithm
	}
	listing := func(ctx context.Context, r *releases.Releases, stack *v1alpha1.ClusterStack) string {
		return tags(r.Listing(ctx, stack))
	}
	for about, test := range map[string]struct {
		most  int64
		begin ask
		end   ask
		want  string
	}{
		"ForOneRelease": {4, offered, offered, "sha256"},
		"ForItsReleases": {16, listing, func(ctx context.Context, r *releases.Releases, stack *v1alpha1.ClusterStack) string {
			_ = listing(ctx, r, stack)
			synctest.Wait()
			return listing(ctx, r, stack)
		}, v1},
	} {
		t.Run(about, func(t *testing.T) {
			st := openStore(t)
			synctest.Test(t, func(t *testing.T) {
				var mem sourcetest.Memory
				mem.Publish(v1, releasetest.Multistage(v1))
				var waiting, most atomic.Int64
				c := &cluster{}
				r := releases.NewWith(c, st, nil, "", releases.Options{
					Poll: 5 * time.Minute,
					Build: func(src v1alpha1.ReleaseSource, _ map[string][]byte) (source.Source, error) {
						if strings.Contains(src.OCI.Repository, "silent") {
							return mute{&mem, &waiting, &most}, nil
						}
						return &mem, nil
					},
				})
				stacks := []*v1alpha1.ClusterStack{
					newStack("greedy", "works", registry("r.example.org/greedy", "")),
					newStack("other", "works", registry("r.example.org/other", "")),
					newStack("some", "works", registry("r.example.org/some", "")),
					newStack("some", "silent", registry("r.example.org/silent/some", "")),
				}
				for i := range many {
					stacks = append(stacks, newStack("greedy", fmt.Sprintf("silent-%d", i), registry(fmt.Sprintf("r.example.org/silent/%d", i), "")))
				}
				c.setStacks(stacks...)
				defer run(t, r)()
				ctx, cancel := context.WithCancel(t.Context())
				var all sync.WaitGroup
				defer all.Wait()
				defer cancel()
				for range 3 {
					for _, stack := range stacks[3:] {
						all.Go(func() { _ = test.begin(ctx, r, stack) })
					}
				}
				// Those of one namespace, and of the other one that has a source that does not answer.
				synctest.Wait()
				if n := most.Load(); n > test.most+2 || n < test.most {
					t.Errorf("%d questions at a time wait for an answer, want %d", n, test.most)
				}
				began := time.Now()
				for _, stack := range stacks[1:3] {
					if got := test.end(ctx, r, stack); got != test.want {
						t.Errorf("%s/%s offers %q, want %q", stack.Namespace, stack.Name, got, test.want)
					}
				}
				if waited := time.Since(began); waited > 0 {
					t.Errorf("waited for %s", waited)
				}
				if about == "ForOneRelease" {
					return
				}
				// Once it is known which ones these are.
				time.Sleep(3 * time.Hour)
				if got := test.end(ctx, r, stacks[0]); got != v1 {
					t.Errorf("%s/%s offers %q", stacks[0].Namespace, stacks[0].Name, got)
				}
				mem.Publish(v2, releasetest.Multistage(v2))
				time.Sleep(6 * time.Minute)
				synctest.Wait()
				if got := tags(r.Listing(ctx, stacks[0])); got != v1+" "+v2 {
					t.Errorf("a source that answers waits for those that do not, and has %q", got)
				}
			})
		})
	}
}

// faulty is a source whose library panics.
type faulty struct{ source.Source }

func (faulty) List(context.Context) ([]source.Offer, error) { panic("hunter2") }

func TestPanicIsAnErrorOfTheSource(t *testing.T) {
	st := openStore(t)
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		ctx := ctrl.LoggerInto(t.Context(), funcr.New(func(_, args string) { log.WriteString(args + "\n") }, funcr.Options{}))
		c := &cluster{}
		stack := newStack("a", "scs", nil)
		c.setStacks(stack)
		r := releases.NewWith(c, st, faulty{}, "memory", releases.Options{DefaultPoll: time.Minute})
		r.Listing(ctx, stack)
		ctx, stop := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() { ended <- r.Start(ctx) }()
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		var defect *panicked.Error
		if err := r.Listing(ctx, stack).Err; !errors.As(err, &defect) {
			t.Errorf("the source is said to have the error %v", err)
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if strings.Count(log.String(), "faulty.List") != 1 || strings.Contains(log.String(), "hunter2") {
			t.Errorf("the log, which says once where it was, is %s", log.String())
		}
	})
}

func TestOneQuestionForAllWhoNameTheSameSource(t *testing.T) {
	st := openStore(t)
	synctest.Test(t, func(t *testing.T) {
		asked := &moments{}
		var mem sourcetest.Memory
		c := &cluster{}
		r := releases.NewWith(c, st, nil, "", releases.Options{
			Poll: 5 * time.Minute,
			Build: func(v1alpha1.ReleaseSource, map[string][]byte) (source.Source, error) {
				return guarded{Source: &mem, token: "right", asked: asked}, nil
			},
		})
		defer run(t, r)()
		var stacks []*v1alpha1.ClusterStack
		for i := range 50 {
			stacks = append(stacks, newStack(fmt.Sprintf("ns%d", i), "scs", registry("r.example.org/stacks", "")))
		}
		c.setStacks(stacks...)
		for range 3 {
			for _, stack := range stacks {
				r.Listing(t.Context(), stack)
			}
		}
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if n := asked.count(); n < 20 || n > 27 {
			t.Errorf("50 ClusterStacks had their source asked %d times in two hours, want once in five minutes", n)
		}
		c.setStacks()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		before := asked.count()
		time.Sleep(time.Hour)
		synctest.Wait()
		if asked.count() != before {
			t.Error("a source was asked that nobody names any more")
		}
	})
}

func TestRefusedCredentialsAreTriedAgainWhenTheyChange(t *testing.T) {
	st := openStore(t)
	synctest.Test(t, func(t *testing.T) {
		asked := &moments{}
		var mem sourcetest.Memory
		mem.Publish(v1, releasetest.Multistage(v1))
		c := &cluster{}
		key := client.ObjectKey{Namespace: "a", Name: "creds"}
		r := releases.NewWith(c, st, nil, "", releases.Options{
			Poll:   time.Hour,
			Secret: c.secret,
			Build: func(_ v1alpha1.ReleaseSource, secret map[string][]byte) (source.Source, error) {
				return guarded{Source: &mem, token: string(secret["token"]), asked: asked}, nil
			},
		})
		stack := newStack("a", "scs", registry("r.example.org/private", "creds"))
		c.setStacks(stack)
		defer run(t, r)()
		r.Listing(t.Context(), stack)
		synctest.Wait()
		if err := r.Listing(t.Context(), stack).Err; !errors.Is(err, source.ErrUnauthorized) || !strings.Contains(err.Error(), "no Secret creds") {
			t.Errorf("without the Secret: %v", err)
		}
		c.setSecret(key, "1", "wrong")
		time.Sleep(4 * time.Hour)
		synctest.Wait()
		n := asked.count()
		if err := r.Listing(t.Context(), stack).Err; !errors.Is(err, source.ErrUnauthorized) || n == 0 || n > 20 {
			t.Errorf("asked %d times with wrong credentials: %v", n, err)
		}
		c.setSecret(key, "2", "right")
		time.Sleep(15 * time.Second)
		synctest.Wait()
		if got := r.Listing(t.Context(), stack); got.Err != nil || tags(got) != v1 {
			t.Errorf("15 seconds after the Secret was corrected: %q, %v", tags(got), got.Err)
		}
	})
}

// Whoever has to correct settings is told so, and not that a server does not answer.
func TestSourceThatCannotBeUsedIsToldFromOneThatDoesNotAnswer(t *testing.T) {
	st := openStore(t)
	synctest.Test(t, func(t *testing.T) {
		var mem sourcetest.Memory
		mem.Break(errors.New("connection refused"))
		c := &cluster{}
		key := client.ObjectKey{Namespace: "a", Name: "creds"}
		c.setSecret(key, "1", "wrong")
		r := releases.NewWith(c, st, nil, "", releases.Options{
			Poll:   time.Minute,
			Secret: c.secret,
			Build: func(_ v1alpha1.ReleaseSource, secret map[string][]byte) (source.Source, error) {
				if string(secret["token"]) == "wrong" {
					return nil, errors.New("key ca.crt: no certificate in it")
				}
				return &mem, nil
			},
		})
		stack := newStack("a", "scs", registry("r.example.org/private", "creds"))
		c.setStacks(stack)
		defer run(t, r)()
		r.Listing(t.Context(), stack)
		synctest.Wait()
		var unusable *releases.UnusableError
		if err := r.Listing(t.Context(), stack).Err; !errors.As(err, &unusable) || !strings.Contains(err.Error(), "key ca.crt: no certificate in it") {
			t.Errorf("a source that cannot be made: %v", err)
		}
		c.setSecret(key, "2", "right")
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if err := r.Listing(t.Context(), stack).Err; err == nil || errors.As(err, &unusable) {
			t.Errorf("a source that does not answer: %v", err)
		}
	})
}

// Whose fault it is that a source could not even be asked: nobody has to correct settings because an API server is busy.
func TestWhatIsMissingIsToldFromWhatCouldNotBeRead(t *testing.T) {
	busy := apierrors.NewServiceUnavailable("busy")
	refused := &url.Error{Op: "Get", URL: "https://10.0.0.1/api", Err: errors.New("connection refused")}
	gone := apierrors.NewNotFound(schema.GroupResource{}, "gone")
	for name, tt := range map[string]struct {
		secret, namespace error
		build             bool
		unread            bool
	}{
		"the API server is busy with the Secret":        {secret: busy, build: true, unread: true},
		"the API server is not reached for the Secret":  {secret: refused, build: true, unread: true},
		"there is no Secret":                            {secret: gone, build: true},
		"the Secret is of no use":                       {build: true},
		"such sources are switched off":                 {secret: busy},
		"the API server is busy with the namespace":     {namespace: busy, build: true, unread: true},
		"the API server is not reached for a namespace": {namespace: refused, build: true, unread: true},
		"there is no namespace":                         {namespace: gone, build: true},
	} {
		t.Run(name, func(t *testing.T) {
			st := openStore(t)
			synctest.Test(t, func(t *testing.T) {
				options := releases.Options{
					Secret: func(context.Context, client.ObjectKey) (*corev1.Secret, error) {
						return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{UID: "1", ResourceVersion: "1"}}, tt.secret
					},
					Namespace: func(context.Context, string) (types.UID, error) { return "1", tt.namespace },
				}
				if tt.build {
					options.Build = func(v1alpha1.ReleaseSource, map[string][]byte) (source.Source, error) {
						return nil, &url.Error{Op: "parse", URL: "://", Err: errors.New("missing protocol scheme")}
					}
				}
				c := &cluster{}
				r := releases.NewWith(c, st, nil, "", options)
				stack := newStack("a", "scs", registry("r.example.org/private", "creds"))
				c.setStacks(stack)
				defer run(t, r)()
				r.Listing(t.Context(), stack)
				synctest.Wait()
				var (
					unusable *releases.UnusableError
					unread   *releases.UnreadError
				)
				got := r.Listing(t.Context(), stack)
				if !got.Asked || errors.As(got.Err, &unread) != tt.unread || errors.As(got.Err, &unusable) == tt.unread {
					t.Errorf("asked %t: %T: %v", got.Asked, got.Err, got.Err)
				}
			})
		})
	}
}

func TestSourceThatWantsToBeLeftAloneIs(t *testing.T) {
	st := openStore(t)
	synctest.Test(t, func(t *testing.T) {
		asked := &moments{}
		var mem sourcetest.Memory
		mem.Break(&source.LaterError{After: 40 * time.Minute, Err: errors.New("rate limit")})
		c := &cluster{}
		stack := newStack("a", "scs", nil)
		c.setStacks(stack)
		r := releases.NewWith(c, st, guarded{Source: &mem, token: "right", asked: asked}, "memory", releases.Options{DefaultPoll: time.Minute})
		defer run(t, r)()
		r.Listing(t.Context(), stack)
		time.Sleep(39 * time.Minute)
		synctest.Wait()
		if asked.count() != 1 {
			t.Errorf("asked %d times", asked.count())
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if asked.count() != 2 {
			t.Errorf("asked %d times", asked.count())
		}
	})
}

func TestPrivateReleaseStaysWithThoseWhoHaveCredentials(t *testing.T) {
	asked := &moments{}
	var mem sourcetest.Memory
	mem.Publish(v1, releasetest.Multistage(v1))
	c := &cluster{}
	c.setSecret(client.ObjectKey{Namespace: "owner", Name: "creds"}, "1", "right")
	c.setSecret(client.ObjectKey{Namespace: "thief", Name: "creds"}, "1", "guessed")
	r := releases.NewWith(c, openStore(t), nil, "", releases.Options{
		Secret: c.secret,
		Build: func(_ v1alpha1.ReleaseSource, secret map[string][]byte) (source.Source, error) {
			return guarded{Source: &mem, token: string(secret["token"]), asked: asked}, nil
		},
	})
	c.setStacks(
		newStack("owner", "scs", registry("r.example.org/private", "creds")),
		newStack("thief", "scs", registry("r.example.org/private", "creds")),
		newStack("other", "scs", registry("r.example.org/private", "")),
		newStack("none", "scs", nil),
	)
	_, digest, err := r.Open(t.Context(), "owner", name(t, v1))
	if err != nil {
		t.Fatal(err)
	}
	for _, namespace := range []string{"thief", "other"} {
		if _, _, err := r.OpenPinned(t.Context(), namespace, name(t, v1), digest); !errors.Is(err, source.ErrUnauthorized) {
			t.Errorf("%s: got %v; the release is in the store, but not theirs", namespace, err)
		}
	}
	if _, _, err := r.Open(t.Context(), "none", name(t, v1)); err == nil || !strings.Contains(err.Error(), "set spec.source") {
		t.Errorf("without a source: %v", err)
	}
	if _, _, err := r.Open(t.Context(), "owner", name(t, v1)); err != nil {
		t.Error(err)
	}
}

// A release that is in the store is opened again and again at rest. Neither its namespace nor the credentials of its source are
// asked for then.
func TestOpeningWhatIsThereAsksForNothing(t *testing.T) {
	var mem sourcetest.Memory
	mem.Publish(v1, releasetest.Multistage(v1))
	c := &cluster{}
	c.setSecret(client.ObjectKey{Namespace: "team", Name: "creds"}, "1", "right")
	asked := 0
	r := releases.NewWith(c, openStore(t), nil, "", releases.Options{
		Secret: func(ctx context.Context, key client.ObjectKey) (*corev1.Secret, error) {
			asked++
			return c.secret(ctx, key)
		},
		Namespace: func(context.Context, string) (types.UID, error) {
			asked++
			return "uid", nil
		},
		Build: func(v1alpha1.ReleaseSource, map[string][]byte) (source.Source, error) { return &mem, nil },
	})
	c.setStacks(newStack("team", "scs", registry("r.example.org/private", "creds")))
	_, digest, err := r.Open(t.Context(), "team", name(t, v1))
	if err != nil {
		t.Fatal(err)
	}
	rel := v1alpha1.ClusterStackRelease{ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: v1}}
	rel.Status.Source, rel.Status.Digest = "oci://r.example.org/private", digest
	c.releases = map[client.ObjectKey]v1alpha1.ClusterStackRelease{client.ObjectKeyFromObject(&rel): rel}
	before := asked
	for range 100 {
		if _, _, err := r.Open(t.Context(), "team", name(t, v1)); err != nil {
			t.Fatal(err)
		}
	}
	if before == 0 || asked != before {
		t.Errorf("%d requests for the first time, %d afterwards; want none", before, asked-before)
	}
}

// What was fetched under a key that nobody has any more does not stay because the same is in use under another one.
func TestStoreKeepsWhatCanStillBeOpened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mem sourcetest.Memory
		mem.Publish(v1, releasetest.Multistage(v1))
		c := &cluster{}
		uid := types.UID("first")
		st := openStore(t)
		r := releases.NewWith(c, st, &mem, "memory", releases.Options{
			Secret:    c.secret,
			Namespace: func(context.Context, string) (types.UID, error) { return uid, nil },
			Build:     func(v1alpha1.ReleaseSource, map[string][]byte) (source.Source, error) { return &mem, nil },
		})
		st.Keep(r.InUse)
		c.setSecret(client.ObjectKey{Namespace: "team", Name: "creds"}, "1", "right")
		stack := newStack("team", "scs", registry("r.example.org/private", "creds"))
		open := func() (digest string) {
			t.Helper()
			_, digest, err := r.Open(t.Context(), "team", name(t, v1))
			if err != nil {
				t.Fatal(err)
			}
			return digest
		}
		collect := func(want int) {
			t.Helper()
			time.Sleep(2 * time.Hour)
			if removed, err := st.Collect(t.Context()); err != nil || len(removed) != want {
				t.Errorf("removed are %v, %v; want %d", removed, err, want)
			}
		}
		c.setStacks(stack)
		digest := open()
		rel := v1alpha1.ClusterStackRelease{ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: v1}}
		rel.Status.Source, rel.Status.Digest = "oci://r.example.org/private", digest
		c.releases = map[client.ObjectKey]v1alpha1.ClusterStackRelease{client.ObjectKeyFromObject(&rel): rel}
		collect(0)

		uid = "second"
		next := stack.DeepCopy()
		next.UID = "next"
		c.setStacks(next)
		open()
		collect(1)
		mem.Break(errors.New("refused"))
		open()

		// As long as it is in use, the ClusterStack may be made again.
		c.setStacks()
		collect(0)
		c.releases = nil
		collect(1)
	})
}

// Whoever gets the name of a namespace that is gone gets nothing of what was fetched with its credentials, and learns
// nothing of what there is to be fetched.
func TestPrivateReleaseIsGoneWithItsNamespace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := &moments{}
		var mem sourcetest.Memory
		mem.Publish(v1, releasetest.Multistage(v1))
		c := &cluster{}
		uid, lookups := types.UID("first"), 0
		r := releases.NewWith(c, openStore(t), nil, "", releases.Options{
			Secret: c.secret,
			Namespace: func(context.Context, string) (types.UID, error) {
				lookups++
				return uid, nil
			},
			Build: func(_ v1alpha1.ReleaseSource, secret map[string][]byte) (source.Source, error) {
				return guarded{Source: &mem, token: string(secret["token"]), asked: asked}, nil
			},
		})
		defer run(t, r)()
		key := client.ObjectKey{Namespace: "team", Name: "creds"}
		c.setSecret(key, "1", "right")
		stack := newStack("team", "scs", registry("r.example.org/private", "creds"))
		c.setStacks(stack)
		r.Listing(t.Context(), stack)
		synctest.Wait()
		if got := tags(r.Listing(t.Context(), stack)); got != v1 {
			t.Fatalf("offered are %q", got)
		}
		_, digest, err := r.Open(t.Context(), "team", name(t, v1))
		if err != nil {
			t.Fatal(err)
		}

		uid = "second"
		c.setSecret(key, "2", "guessed")
		next := stack.DeepCopy()
		next.UID = "another ClusterStack"
		c.setStacks(next)
		if got := tags(r.Listing(t.Context(), next)); got != "" {
			t.Errorf("it is told of %q", got)
		}
		if _, _, err := r.Open(t.Context(), "team", name(t, v1)); !errors.Is(err, source.ErrUnauthorized) {
			t.Errorf("got %v, want that the source is asked, and refuses", err)
		}
		if _, _, err := r.OpenPinned(t.Context(), "team", name(t, v1), digest); !errors.Is(err, source.ErrUnauthorized) {
			t.Errorf("by its digest: got %v, want that the source is asked, and refuses", err)
		}
		if lookups != 2 {
			t.Errorf("namespaces were asked for %d times, want once for each ClusterStack", lookups)
		}
	})
}

// silent is a source that answers no question, and has what is asked for by name.
type silent struct{ *sourcetest.Memory }

func (silent) Resolve(ctx context.Context, _ release.Name) (string, error) {
	<-ctx.Done()
	return "", ctx.Err()
}

// Whoever opens a release waits for a slow source no longer than for a slow fetch, and asks again without waiting; what
// the source does not tell in time the store has.
func TestSourceThatIsSlowToTellKeepsNobodyWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		over := make(chan release.Name, 1)
		const patience = time.Second
		st, err := store.Open(t.TempDir(), store.Options{Patience: patience, Fetched: func(n release.Name) { over <- n }})
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := st.Close(); err != nil {
				t.Error(err)
			}
		}()
		src := silent{&sourcetest.Memory{}}
		src.Publish(v1, releasetest.Multistage(v1))
		r := releases.NewWith(&cluster{}, st, src, "silent", releases.Options{})
		began := time.Now()
		for i := range 3 {
			if _, _, err := r.Open(t.Context(), "team", name(t, v1)); !releases.Pending(err) {
				t.Fatalf("question %d: got %v, want that it is being fetched", i, err)
			}
		}
		if waited := time.Since(began); waited > patience {
			t.Errorf("waited for %s", waited)
		}
		if n := <-over; n != name(t, v1) {
			t.Errorf("%s was fetched", n)
		}
		began = time.Now()
		if _, _, err := r.Open(t.Context(), "team", name(t, v1)); err != nil || time.Since(began) > 0 {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
	})
}

// counting counts fetches, and can say what there is.
type counting struct {
	*sourcetest.Memory
	fetched int
	gate    chan struct{} // nothing is fetched before it is closed, unless it is nil
}

func (c *counting) Fetch(ctx context.Context, name release.Name, dst *os.Root) (string, error) {
	c.fetched++
	if c.gate != nil {
		<-c.gate
	}
	return c.Memory.Fetch(ctx, name, dst)
}

func (c *counting) Resolve(ctx context.Context, name release.Name) (string, error) {
	dir, err := os.MkdirTemp("", "resolve-")
	if err != nil {
		return "", err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", err
	}
	digest, err := c.Memory.Fetch(ctx, name, root)
	return digest, errors.Join(err, root.Close(), os.RemoveAll(dir))
}

func TestMalformedReleaseIsNotFetchedAgainUntilItChanges(t *testing.T) {
	src := &counting{Memory: &sourcetest.Memory{}}
	bad := releasetest.Multistage(v1)
	bad[release.MetadataFile].Data = []byte("versions: {}")
	src.Publish(v1, bad)
	r := releases.New(&cluster{}, openStore(t), src, "memory")
	for range 10 {
		var invalid *release.InvalidError
		if _, _, err := r.Open(t.Context(), "a", name(t, v1)); !errors.As(err, &invalid) {
			t.Fatalf("got %v", err)
		}
	}
	if src.fetched != 1 {
		t.Errorf("fetched %d times", src.fetched)
	}
	src.Publish(v1, releasetest.Multistage(v1))
	if _, _, err := r.Open(t.Context(), "a", name(t, v1)); err != nil {
		t.Errorf("after it was corrected: %v", err)
	}
}

func TestMalformedReleaseIsFetchedOnceForAllWhoWaitForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &counting{Memory: &sourcetest.Memory{}, gate: make(chan struct{})}
		bad := releasetest.Multistage(v1)
		bad[release.MetadataFile].Data = []byte("versions: {}")
		src.Publish(v1, bad)
		r := releases.New(&cluster{}, openStore(t), src, "memory")
		var wait sync.WaitGroup
		for range 3 {
			wait.Go(func() {
				if _, _, err := r.Open(t.Context(), "a", name(t, v1)); err == nil {
					t.Error("a malformed release was opened")
				}
			})
		}
		synctest.Wait()
		close(src.gate)
		wait.Wait()
		if _, _, err := r.Open(t.Context(), "a", name(t, v1)); err == nil || src.fetched != 1 {
			t.Errorf("fetched %d times: %v", src.fetched, err)
		}
	})
}

// dated is a source that has to be asked when each release was published.
type dated struct {
	*sourcetest.Memory
	asked []string
}

func (d *dated) List(ctx context.Context) ([]source.Offer, error) {
	offers, err := d.Memory.List(ctx)
	for i := range offers {
		offers[i].Published = time.Time{}
	}
	return offers, err
}

func (d *dated) Published(_ context.Context, name release.Name) (time.Time, error) {
	d.asked = append(d.asked, name.String())
	return time.Unix(int64(len(d.asked)), 0), nil
}

func TestDatesAreAskedForOnceAndWhereTheyDecide(t *testing.T) {
	st := openStore(t)
	synctest.Test(t, func(t *testing.T) {
		src := &dated{Memory: &sourcetest.Memory{}}
		hashes := []string{"docker-scs-1-35-v0-sha-abc", "docker-scs-1-35-v0-sha-def"}
		for _, tag := range append([]string{v1, v2, "docker-scs-1-34-v0-sha-abc"}, hashes...) {
			src.Publish(tag, releasetest.Multistage(tag))
		}
		c := &cluster{}
		stable, custom := newStack("a", "stable", nil), newStack("a", "custom", nil)
		custom.Spec.Channel = v1alpha1.ChannelCustom
		c.setStacks(stable, custom)
		r := releases.NewWith(c, st, src, "memory", releases.Options{DefaultPoll: time.Minute})
		defer run(t, r)()
		r.Listing(t.Context(), stable)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		slices.Sort(src.asked)
		if !slices.Equal(src.asked, hashes) {
			t.Errorf("asked for the dates of %v, want %v", src.asked, hashes)
		}
		for _, offer := range r.Listing(t.Context(), custom).Offers {
			if offer.Published.IsZero() == slices.Contains(hashes, offer.Name.String()) {
				t.Errorf("%s was published at %s", offer.Name, offer.Published)
			}
		}
	})
}

func TestReleaseOfDeletedStackIsNotTakenFromElsewhere(t *testing.T) {
	asked := &moments{}
	var theirs, own sourcetest.Memory
	theirs.Publish(v1, releasetest.Multistage(v1))
	other := releasetest.Multistage(v1)
	other["notes.txt"] = &fstest.MapFile{Data: []byte("another release of the same name")}
	own.Publish(v1, other)
	c := &cluster{}
	c.setSecret(client.ObjectKey{Namespace: "private", Name: "creds"}, "1", "right")
	st := openStore(t)
	r := releases.NewWith(c, st, &own, "own", releases.Options{
		Secret: c.secret,
		Build: func(v1alpha1.ReleaseSource, map[string][]byte) (source.Source, error) {
			return guarded{Source: &theirs, token: "right", asked: asked}, nil
		},
	})
	c.setStacks(newStack("public", "scs", registry("r.example.org/stacks", "")), newStack("private", "scs", registry("r.example.org/stacks", "creds")))
	c.releases = map[client.ObjectKey]v1alpha1.ClusterStackRelease{}
	digests := map[string]string{}
	pin := func(namespace, location, digest string) {
		key := client.ObjectKey{Namespace: namespace, Name: v1}
		obj := v1alpha1.ClusterStackRelease{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: v1}}
		obj.Annotations = map[string]string{v1alpha1.PinAnnotation: releases.Pinned{Source: location, Digest: digest}.String()}
		c.releases[key] = obj
	}
	for _, namespace := range []string{"public", "private"} {
		_, digest, err := r.Open(t.Context(), namespace, name(t, v1))
		if err != nil {
			t.Fatal(err)
		}
		digests[namespace] = digest
		pin(namespace, "oci://r.example.org/stacks", digest)
	}
	c.setStacks()
	if _, digest, err := r.Open(t.Context(), "public", name(t, v1)); err != nil || digest != digests["public"] {
		t.Errorf("what the store has is usable: got %s, %v", digest, err)
	}
	pin("thief", "oci://r.example.org/stacks of Secret private/creds", digests["private"])
	pin("lost", "oci://r.example.org/others", digests["public"])
	for _, namespace := range []string{"thief", "lost"} {
		if _, digest, err := r.Open(t.Context(), namespace, name(t, v1)); err == nil || !strings.Contains(err.Error(), "is gone") {
			t.Errorf("%s: got %s, %v; want no release", namespace, digest, err)
		}
	}
}

func TestWhoDemandsSignaturesDecidesForAllWhoShareARelease(t *testing.T) {
	c := &cluster{}
	r := releases.NewWith(c, openStore(t), nil, "", releases.Options{})
	easy, strict, elsewhere := newStack("a", "easy", registry("r.example.org/stacks", "")), newStack("a", "strict", registry("r.example.org/stacks", "")), newStack("a", "elsewhere", registry("r.example.org/others", ""))
	strict.Spec.Verify = &v1alpha1.Verification{PublicKeys: []string{"key"}}
	elsewhere.Spec.Verify = strict.Spec.Verify
	c.setStacks(elsewhere, easy, strict)
	obj := v1alpha1.ClusterStackRelease{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: v1}}
	for _, stack := range []*v1alpha1.ClusterStack{easy, elsewhere, strict} {
		obj.OwnerReferences = append(obj.OwnerReferences, metav1.OwnerReference{Kind: v1alpha1.ClusterStackKind, Name: stack.Name})
	}
	c.releases = map[client.ObjectKey]v1alpha1.ClusterStackRelease{{Namespace: "a", Name: v1}: obj}
	got, _, err := r.Origin(t.Context(), "a", name(t, v1))
	if err != nil || got.Stack == nil || got.Stack.Name != "strict" {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestSourcesThatDifferentServersAnswerForAreKeptApart(t *testing.T) {
	r := releases.NewWith(&cluster{}, openStore(t), nil, "", releases.Options{})
	github := func(api string) *v1alpha1.ReleaseSource {
		return &v1alpha1.ReleaseSource{GitHub: &v1alpha1.GitHubSource{Owner: "o", Repository: "r", APIURL: api}}
	}
	plain := registry("r.example.org/stacks", "")
	plain.OCI.PlainHTTP = true
	keys := map[string]bool{}
	all := []*v1alpha1.ReleaseSource{
		registry("r.example.org/stacks", ""), plain,
		github("https://git.example.org/api/v3"), github("http://git.example.org/api/v3"), github("https://git.example.org/pages/evil"),
	}
	for _, src := range all {
		keys[r.Of(newStack("a", "scs", src)).Key] = true
	}
	if len(keys) != len(all) {
		t.Errorf("%d sources have the keys %v", len(all), keys)
	}
}

func TestShorterIntervalCountsAtOnce(t *testing.T) {
	st := openStore(t)
	synctest.Test(t, func(t *testing.T) {
		asked := &moments{}
		var mem sourcetest.Memory
		c := &cluster{}
		r := releases.NewWith(c, st, nil, "", releases.Options{
			Build: func(v1alpha1.ReleaseSource, map[string][]byte) (source.Source, error) {
				return guarded{Source: &mem, token: "right", asked: asked}, nil
			},
		})
		defer run(t, r)()
		stack := newStack("a", "scs", registry("r.example.org/stacks", ""))
		stack.Spec.Source.PollInterval = &metav1.Duration{Duration: 24 * time.Hour}
		c.setStacks(stack)
		r.Listing(t.Context(), stack)
		time.Sleep(time.Minute)
		r.Listing(t.Context(), stack)
		time.Sleep(time.Minute)
		if asked.count() != 1 {
			t.Errorf("with an interval of a day, asked %d times", asked.count())
		}
		stack = stack.DeepCopy()
		stack.Spec.Source.PollInterval.Duration = 10 * time.Minute
		c.setStacks(stack)
		r.Listing(t.Context(), stack)
		synctest.Wait()
		if asked.count() != 2 {
			t.Errorf("with a shorter one, asked %d times", asked.count())
		}
		time.Sleep(time.Hour)
		if n := asked.count(); n < 6 || n > 9 {
			t.Errorf("an hour later, asked %d times", n)
		}
	})
}
