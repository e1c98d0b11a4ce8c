// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clusteraddon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/events"
	testingclock "k8s.io/utils/clock/testing"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/apitest"
	"github.com/clusterstacks/cluster-stack-operator/internal/apitest/kinds"
	"github.com/clusterstacks/cluster-stack-operator/internal/controller/releases"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/release/releasetest"
	"github.com/clusterstacks/cluster-stack-operator/internal/rollout"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/sourcetest"
	"github.com/clusterstacks/cluster-stack-operator/internal/store"
	"github.com/clusterstacks/cluster-stack-operator/internal/workload"
)

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard())
	sandboxtest.Main(m)
}

const (
	v1   = "docker-starter-1-35-v1"
	v2   = "docker-starter-1-35-v2"
	v3   = "docker-starter-1-35-v3"
	up   = "docker-starter-1-36-v1"
	k135 = "v1.35.4"
	k136 = "v1.36.4"
)

// env is a management cluster, a workload cluster, a source of releases and one Cluster in a namespace of its own.
type env struct {
	*testing.T
	client   client.WithWatch // of the management cluster, as a person's
	workload client.Client    // of the workload cluster, as a person's
	config   *rest.Config     // of the workload cluster
	ns       string
	key      client.ObjectKey // of the Cluster
	source   *sourcetest.Memory
	store    *store.Store
	clock    *testingclock.FakeClock
	recorder *events.FakeRecorder
}

// workloadServer starts the API server that stands for the workload clusters of a test. Tests that share it
// tell their objects apart by the name of the Cluster, which is part of theirs.
func workloadServer(t *testing.T) *rest.Config {
	config := rest.CopyConfig(sandboxtest.NewAPIServer(t))
	config.QPS = -1
	return config
}

func newEnv(t *testing.T, workload *rest.Config) *env {
	t.Helper()
	e := &env{T: t, config: workload, source: &sourcetest.Memory{}, clock: testingclock.NewFakeClock(time.Now())}
	e.client = kinds.Client(t, sandboxtest.APIServer(t))
	e.ns = kinds.Namespace(t, e.client)
	e.key = client.ObjectKey{Namespace: e.ns, Name: strings.TrimPrefix(e.ns, "test-")}
	e.recorder = events.NewFakeRecorder(1000)
	var err error
	if workload != nil {
		if e.workload, err = client.New(workload, client.Options{}); err != nil {
			t.Fatal(err)
		}
	}
	if e.store, err = store.Open(t.TempDir(), store.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.store.Close() })
	return e
}

// addons are the templates of the addons of a release. In them, .Values.cluster is the name of the Cluster.
type addons map[string]string

// publish makes a release with those stages at each point.
func (e *env) publish(tag string, stages map[release.Point][]string, charts addons) {
	e.Helper()
	e.source.Publish(tag, releaseOf(tag, stages, charts))
	obj := apitest.ClusterStackRelease(e.ns, tag)
	if err := e.client.Create(e.Context(), obj); client.IgnoreAlreadyExists(err) != nil {
		e.Fatal(err)
	}
}

// both makes a list for creation and upgrades alike.
func both(stages ...string) map[release.Point][]string {
	return map[release.Point][]string{release.AfterControlPlaneInitialized: stages, release.BeforeClusterUpgrade: stages}
}

// releaseOf returns a release. A stage is "name", "-name" to delete, or YAML.
func releaseOf(tag string, stages map[release.Point][]string, charts addons) fstest.MapFS {
	files := releasetest.Multistage(tag)
	var text strings.Builder
	text.WriteString("addonStages:\n")
	for _, point := range slices.Sorted(maps.Keys(stages)) {
		fmt.Fprintf(&text, "  %s:\n", point)
		for _, stage := range stages[point] {
			name, remove := strings.CutPrefix(stage, "-")
			switch {
			case remove:
				fmt.Fprintf(&text, "  - {name: %s, action: delete}\n", name)
			case strings.Contains(stage, "{"):
				fmt.Fprintf(&text, "  - %s\n", stage)
			default:
				fmt.Fprintf(&text, "  - {name: %s, action: apply}\n", stage)
			}
		}
	}
	archive := map[string]string{}
	for name, template := range charts {
		archive[name+"/Chart.yaml"] = releasetest.Chart(name, "v1")
		archive[name+"/overwrite.yaml"] = "cluster: \"{{ .Cluster.metadata.name }}\"\ncolour: \"{{ .Cluster.metadata.labels.colour }}\"\n"
		archive[name+"/templates/all.yaml"] = template
	}
	files[release.StagesFile] = &fstest.MapFile{Mode: 0o644, Data: []byte(text.String())}
	files[releasetest.AddonPackage(tag)] = &fstest.MapFile{Mode: 0o644, Data: releasetest.Archive(archive)}
	return files
}

// object is a ConfigMap of an addon, called <cluster>-<name>, that says what it is.
func object(name, text string) string {
	return fmt.Sprintf("---\napiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: \"{{ .Values.cluster }}-%s\"\ndata:\n  text: %q\n", name, text)
}

// cluster creates the Cluster of the test.
func (e *env) cluster(tag, version string) {
	e.Helper()
	cluster := apitest.Cluster(e.ns, e.key.Name, classOf(e.T, tag), version)
	if err := e.client.Create(e.Context(), cluster); err != nil {
		e.Fatal(err)
	}
	if _, err := (&creator{client: e.client}).Reconcile(e.Context(), cluster); err != nil {
		e.Fatal(err)
	}
}

// running creates the Cluster and says that its control plane is initialized.
func (e *env) running(tag, version string) {
	e.Helper()
	e.cluster(tag, version)
	e.initialize()
}

func (e *env) initialize() {
	e.Helper()
	cluster := e.getCluster()
	apitest.Initialize(cluster)
	if err := e.client.Status().Update(e.Context(), cluster); err != nil {
		e.Fatal(err)
	}
}

func classOf(t *testing.T, tag string) string {
	t.Helper()
	name, err := release.ParseName(tag)
	if err != nil {
		t.Fatal(err)
	}
	return name.ClassName()
}

func (e *env) getCluster() *clusterv1.Cluster {
	e.Helper()
	cluster := &clusterv1.Cluster{}
	if err := e.client.Get(e.Context(), e.key, cluster); err != nil {
		e.Fatal(err)
	}
	return cluster
}

// edit changes the Cluster as its user does.
func (e *env) edit(change func(*clusterv1.Cluster)) {
	e.Helper()
	cluster := e.getCluster()
	change(cluster)
	if err := e.client.Update(e.Context(), cluster); err != nil {
		e.Fatal(err)
	}
}

func (e *env) use(tag, version string) {
	e.Helper()
	e.edit(func(c *clusterv1.Cluster) { apitest.Use(c, classOf(e.T, tag), version) })
}

func (e *env) addonKey() client.ObjectKey {
	return client.ObjectKey{Namespace: e.ns, Name: v1alpha1.ClusterAddonName(e.key.Name)}
}

func (e *env) addon() *v1alpha1.ClusterAddon {
	e.Helper()
	addon := &v1alpha1.ClusterAddon{}
	if err := e.client.Get(e.Context(), e.addonKey(), addon); err != nil {
		e.Fatal(err)
	}
	return addon
}

func (e *env) record() rollout.Record {
	e.Helper()
	record, err := rollout.ParseRecord(e.addon().Annotations[v1alpha1.RolloutAnnotation])
	if err != nil {
		e.Fatal(err)
	}
	return record
}

// ask does what the hook server does for a call that it holds.
func (e *env) ask(tag, from, to string) rollout.Ask {
	e.Helper()
	cluster := e.getCluster()
	ask := rollout.Ask{
		Namespace: e.ns, Class: classOf(e.T, tag), Point: release.BeforeClusterUpgrade,
		From: from, To: to, Cluster: string(cluster.UID),
	}
	addon := e.addon()
	before := addon.DeepCopy()
	if addon.Annotations == nil {
		addon.Annotations = map[string]string{}
	}
	addon.Annotations[v1alpha1.LifecyclePointAnnotation] = ask.String()
	if err := e.client.Patch(e.Context(), addon, client.MergeFrom(before)); err != nil {
		e.Fatal(err)
	}
	return ask
}

// operator is one process of the operator.
type operator struct {
	*env
	*Reconciler
	faults   *faults
	clusters *clusters
}

// start starts an operator. Its requests that change anything, to both clusters, count in faults.
func (e *env) start() *operator {
	e.Helper()
	f := &faults{}
	c := &clusters{config: rest.CopyConfig(e.config), connected: true}
	c.config.Wrap(f.roundTripper)
	o := &operator{env: e, faults: f, clusters: c}
	managed := f.client(e.client)
	opener := releases.New(managed, e.store, e.source, "memory")
	o.Reconciler = New(managed, e.client, c, opener, e.recorder, Options{Clock: e.clock, GatePoll: time.Millisecond, HookPatience: 10 * time.Millisecond, Recheck: 10 * time.Minute})
	return o
}

// once reconciles the ClusterAddon once.
func (o *operator) once() (ctrl.Result, error) {
	o.Helper()
	return o.Reconcile(o.Context(), o.addon())
}

// settle reconciles until nothing is to be done at once any more, and returns the ClusterAddon.
func (o *operator) settle() *v1alpha1.ClusterAddon {
	o.Helper()
	for range 20 {
		before := o.addon().ResourceVersion
		result, err := o.once()
		if err == nil && result.RequeueAfter != time.Second && o.addon().ResourceVersion == before {
			break
		}
	}
	return o.addon()
}

// clusters is the connection to the workload cluster.
type clusters struct {
	config    *rest.Config
	connected bool
	untried   bool
	// watches are the kinds that are watched, for each purpose.
	watches map[string][]string
}

func (c *clusters) Config(*clusterv1.Cluster) (*rest.Config, error) {
	if !c.connected {
		return nil, workload.ErrNotConnected
	}
	return c.config, nil
}

func (c *clusters) Tried(*clusterv1.Cluster) bool { return !c.untried }

func (c *clusters) Watch(_ *clusterv1.Cluster, purpose, _ string, kinds map[schema.GroupVersionKind]string, _ workload.Changed) error {
	if c.watches == nil {
		c.watches = map[string][]string{}
	}
	c.watches[purpose] = nil
	for kind := range kinds {
		c.watches[purpose] = append(c.watches[purpose], kind.Kind)
	}
	return nil
}

var errDead = errors.New("the process is dead")

// faults counts the requests of an operator that change anything, and can let it die at one of them.
type faults struct {
	mu       sync.Mutex
	mutating int
	reads    int
	// dieAt is the request to die at, 0 for none; it is carried out if unanswered is set.
	dieAt      int
	unanswered bool
	dead       bool
	onWorkload int
	// lose is the request that gets lost, 0 for none.
	lose int
}

// next counts a request. The first answer says whether to send it, the second whether to report the answer.
func (f *faults) next(mutating, workload bool) (send, answer bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.dead {
		return false, false
	}
	if !mutating {
		if workload {
			f.reads++
		}
		return true, true
	}
	f.mutating++
	if workload {
		f.onWorkload++
	}
	if f.mutating == f.lose {
		return false, false
	}
	if f.dieAt != 0 && f.mutating >= f.dieAt {
		f.dead = true
		return f.unanswered, false
	}
	return true, true
}

func (f *faults) counts() (mutating, workload, reads int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.mutating, f.onWorkload, f.reads
}

func (f *faults) roundTripper(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		send, answer := f.next(r.Method != http.MethodGet, true)
		if !send {
			return nil, errDead
		}
		response, err := next.RoundTrip(r)
		if err == nil && !answer {
			_ = response.Body.Close()
			return nil, errDead
		}
		return response, err
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// client counts what is sent to the management cluster.
func (f *faults) client(c client.WithWatch) client.Client {
	do := func(call func() error) error {
		send, answer := f.next(true, false)
		if !send {
			return errDead
		}
		if err := call(); err != nil {
			return err
		}
		if !answer {
			return errDead
		}
		return nil
	}
	return interceptor.NewClient(c, interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.CreateOption) error {
			return do(func() error { return c.Create(ctx, obj, opts...) })
		},
		Update: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.UpdateOption) error {
			return do(func() error { return c.Update(ctx, obj, opts...) })
		},
		Patch: func(ctx context.Context, c client.WithWatch, obj client.Object, patch client.Patch, opts ...client.PatchOption) error {
			return do(func() error { return c.Patch(ctx, obj, patch, opts...) })
		},
		Delete: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.DeleteOption) error {
			return do(func() error { return c.Delete(ctx, obj, opts...) })
		},
		SubResourcePatch: func(ctx context.Context, c client.Client, sub string, obj client.Object, patch client.Patch, opts ...client.SubResourcePatchOption) error {
			return do(func() error { return c.SubResource(sub).Patch(ctx, obj, patch, opts...) })
		},
	})
}

// has returns the ConfigMaps of the Cluster's addons in the workload cluster, as "name: text".
func (e *env) has() []string {
	e.Helper()
	list := &corev1.ConfigMapList{}
	if err := e.workload.List(e.Context(), list, client.InNamespace("kube-system")); err != nil {
		e.Fatal(err)
	}
	var found []string
	for i := range list.Items {
		cm := &list.Items[i]
		if name, ours := strings.CutPrefix(cm.Name, e.key.Name+"-"); ours && cm.DeletionTimestamp.IsZero() {
			found = append(found, name+": "+cm.Data["text"])
		}
	}
	slices.Sort(found)
	return found
}

func (e *env) wantObjects(want ...string) {
	e.Helper()
	if diff := cmp.Diff(want, e.has()); diff != "" {
		e.Errorf("objects in the workload cluster (-want +got):\n%s", diff)
	}
}

// put creates or changes a ConfigMap in the workload cluster, as a person does.
func (e *env) put(name string, data map[string]string) {
	e.Helper()
	cm := &corev1.ConfigMap{}
	cm.Namespace, cm.Name = "kube-system", e.key.Name+"-"+name
	err := e.workload.Get(e.Context(), client.ObjectKeyFromObject(cm), cm)
	if err == nil {
		cm.Data = data
		err = e.workload.Update(e.Context(), cm)
	} else if client.IgnoreNotFound(err) == nil {
		cm.Data = data
		err = e.workload.Create(e.Context(), cm)
	}
	if err != nil {
		e.Fatal(err)
	}
}

// wantCondition checks status, reason and a part of the message.
func (e *env) wantCondition(conditionType string, status string, reason, message string) {
	e.Helper()
	c := e.addon().Status.Conditions.Get(conditionType)
	if c == nil {
		e.Errorf("condition %s is missing", conditionType)
		return
	}
	if string(c.Status) != status || c.Reason != reason || !strings.Contains(c.Message, message) {
		e.Errorf("condition %s is %s, %s: %q; want %s, %s: %q", conditionType, c.Status, c.Reason, c.Message, status, reason, message)
	}
}

func (e *env) wantReady() {
	e.Helper()
	addon := e.addon()
	if !addon.Status.Conditions.IsTrue(v1alpha1.ReadyCondition) || !addon.Status.Ready {
		e.Errorf("not ready: %s", describe(addon))
	}
}

func describe(addon *v1alpha1.ClusterAddon) string {
	var lines []string
	for _, c := range addon.Status.Conditions {
		lines = append(lines, fmt.Sprintf("%s=%s %s: %s", c.Type, c.Status, c.Reason, c.Message))
	}
	return strings.Join(append(lines, addon.Annotations[v1alpha1.RolloutAnnotation]), "\n")
}

func (e *env) secret(suffix string) *corev1.Secret {
	e.Helper()
	secret := &corev1.Secret{}
	key := e.addonKey()
	key.Name += "-" + suffix
	if err := e.client.Get(e.Context(), key, secret); err != nil {
		e.Fatal(err)
	}
	return secret
}

func owners(obj client.Object) []types.UID {
	var uids []types.UID
	for _, owner := range obj.GetOwnerReferences() {
		uids = append(uids, owner.UID)
	}
	return uids
}

// legacyRelease returns a release without stages, whose one object says "addon: 1".
func legacyRelease(t *testing.T, tag string) fstest.MapFS {
	t.Helper()
	name, err := release.ParseName(tag)
	if err != nil {
		t.Fatal(err)
	}
	chart := name.Prefix() + "-cluster-addon"
	return fstest.MapFS{
		release.LegacyValuesFile: {Mode: 0o644, Data: []byte("values: |\n  cluster: {{ .Cluster.metadata.name }}\n")},
		releasetest.AddonPackage(tag): {Mode: 0o644, Data: releasetest.Archive(map[string]string{
			chart + "/Chart.yaml":         releasetest.Chart(chart, "v1"),
			chart + "/templates/all.yaml": object("addon", "1"),
		})},
	}
}
