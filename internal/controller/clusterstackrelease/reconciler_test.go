// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clusterstackrelease_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/go-logr/logr/funcr"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/events"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/apitest/kinds"
	"github.com/clusterstacks/cluster-stack-operator/internal/apply"
	"github.com/clusterstacks/cluster-stack-operator/internal/controller/clusterstackrelease"
	"github.com/clusterstacks/cluster-stack-operator/internal/controller/releases"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/release/releasetest"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
	"github.com/clusterstacks/cluster-stack-operator/internal/source"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/sourcetest"
	"github.com/clusterstacks/cluster-stack-operator/internal/store"
	"github.com/clusterstacks/cluster-stack-operator/internal/verify"
	"github.com/clusterstacks/cluster-stack-operator/internal/verify/verifytest"
)

func TestMain(m *testing.M) { sandboxtest.Main(m) }

const (
	tag   = "docker-starter-1-35-v0-sha-abc1234"
	class = "docker-starter-1-35-v0-sha.abc1234"
	poll  = 7 * time.Second
)

// world is a namespace of an API server with a reconciler, a source and a store of its own.
type world struct {
	*testing.T
	client.WithWatch
	namespace string
	source    *sourcetest.Memory
	rules     *releases.Rules
	// classPackage is the chart of the class that was published last.
	classPackage *fstest.MapFile
	storeDir     string
	// around, if set, is put around what opens releases.
	around    func(clusterstackrelease.Releases) clusterstackrelease.Releases
	reconcile *clusterstackrelease.Reconciler
}

func newWorld(t *testing.T) *world {
	w := &world{T: t, WithWatch: kinds.Client(t, sandboxtest.APIServer(t)), source: &sourcetest.Memory{}, storeDir: t.TempDir()}
	w.namespace = kinds.Namespace(t, w)
	w.restart()
	return w
}

// restart starts the operator anew: nothing in memory survives, the store does.
func (w *world) restart() { w.restartWith(w) }

// restartWith does the same with another client for the writes.
func (w *world) restartWith(c client.Client) { w.restartOn(c, sandboxtest.APIServer(w.T)) }

// restartOn does the same with another way to the cluster for the objects of classes.
func (w *world) restartOn(c client.Client, config *rest.Config) {
	w.Helper()
	st, err := store.Open(w.storeDir, store.Options{})
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { _ = st.Close() })
	applier, err := apply.New(config, apply.Options{})
	if err != nil {
		w.Fatal(err)
	}
	var opener clusterstackrelease.Releases = releases.NewWith(w, st, w.source, "memory:test", releases.Options{
		Rules: w.rules,
		Build: func(v1alpha1.ReleaseSource, map[string][]byte) (source.Source, error) { return w.source, nil },
	})
	if w.around != nil {
		opener = w.around(opener)
	}
	w.reconcile = clusterstackrelease.New(c, w, opener, applier, events.NewFakeRecorder(1000),
		clusterstackrelease.Options{Poll: poll})
}

// publish puts a release up whose cluster class has the given objects beside the ClusterClass.
func (w *world) publish(templates map[string]string) {
	files := releasetest.Multistage(tag)
	chart := map[string]string{
		"c/Chart.yaml": releasetest.Chart("docker-starter-1-35-cluster-class", "v0-sha.abc1234"),
		"c/templates/class.yaml": `
apiVersion: cluster.x-k8s.io/v1beta2
kind: ClusterClass
metadata:
  name: {{ .Release.Name }}-{{ .Chart.Version }}
spec:
  infrastructure:
    templateRef: {apiVersion: infrastructure.cluster.x-k8s.io/v1beta2, kind: DevClusterTemplate, name: {{ .Release.Name }}-{{ .Chart.Version }}-cluster}
  controlPlane:
    templateRef: {apiVersion: controlplane.cluster.x-k8s.io/v1beta2, kind: KubeadmControlPlaneTemplate, name: {{ .Release.Name }}-{{ .Chart.Version }}-control-plane}
`,
		"c/templates/cluster.yaml": `
apiVersion: infrastructure.cluster.x-k8s.io/v1beta2
kind: DevClusterTemplate
metadata:
  name: {{ .Release.Name }}-{{ .Chart.Version }}-cluster
  namespace: {{ .Release.Namespace }}
spec:
  template:
    spec:
      backend:
        inMemory: {}
`,
	}
	for name, text := range templates {
		chart["c/templates/"+name] = text
	}
	w.classPackage = &fstest.MapFile{Mode: 0o644, Data: releasetest.Archive(chart)}
	files[releasetest.ClassPackage(tag)] = w.classPackage
	w.source.Publish(tag, files)
}

// create makes the ClusterStackRelease and returns its key.
func (w *world) create(provider *corev1.ObjectReference) client.ObjectKey {
	w.Helper()
	obj := &v1alpha1.ClusterStackRelease{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: tag},
		Spec:       v1alpha1.ClusterStackReleaseSpec{ProviderRef: provider},
	}
	if err := w.Create(w.Context(), obj); err != nil {
		w.Fatal(err)
	}
	return client.ObjectKeyFromObject(obj)
}

func (w *world) get() *v1alpha1.ClusterStackRelease {
	w.Helper()
	obj := &v1alpha1.ClusterStackRelease{}
	w.must(w.Get(w.Context(), client.ObjectKey{Namespace: w.namespace, Name: tag}, obj))
	return obj
}

// run reconciles once and returns what came of it.
func (w *world) run() (*v1alpha1.ClusterStackRelease, ctrl.Result, error) {
	w.Helper()
	result, err := w.reconcile.Reconcile(w.Context(), w.get())
	return w.get(), result, err
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// object returns an object of the namespace, or nil.
func (w *world) object(apiVersion, kind, name string) *unstructured.Unstructured {
	w.Helper()
	obj := &unstructured.Unstructured{}
	obj.SetAPIVersion(apiVersion)
	obj.SetKind(kind)
	err := w.Get(w.Context(), client.ObjectKey{Namespace: w.namespace, Name: name}, obj)
	if apierrors.IsNotFound(err) {
		return nil
	}
	w.must(err)
	return obj
}

func (w *world) class() *unstructured.Unstructured {
	w.Helper()
	return w.object(clusterv1.GroupVersion.String(), "ClusterClass", class)
}

const infraVersion = "infrastructure.cluster.x-k8s.io/v1beta2"

func (w *world) template() *unstructured.Unstructured {
	w.Helper()
	return w.object(infraVersion, "DevClusterTemplate", class+"-cluster")
}

// versions are the resource versions of everything in the namespace that the operator writes.
func (w *world) versions() map[string]string {
	w.Helper()
	all := map[string]string{}
	add := func(obj client.Object) { all[fmt.Sprintf("%T %s", obj, obj.GetName())] = obj.GetResourceVersion() }
	add(w.get())
	add(w.class())
	all["template"] = w.template().GetResourceVersion()
	secrets := &corev1.SecretList{}
	w.must(w.List(w.Context(), secrets, client.InNamespace(w.namespace)))
	for i := range secrets.Items {
		add(&secrets.Items[i])
	}
	return all
}

// is checks that Ready and status.ready agree on a reason.
func is(t *testing.T, obj *v1alpha1.ClusterStackRelease, condition, reason, message string) {
	t.Helper()
	c := obj.Status.Conditions.Get(condition)
	if c == nil || c.Reason != reason || !strings.Contains(c.Message, message) {
		t.Errorf("condition %s is %+v, want the reason %s and %q in the message", condition, c, reason, message)
	}
	if ready := obj.Status.Conditions.IsTrue(v1alpha1.ReadyCondition); ready != obj.Status.Ready {
		t.Errorf("status.ready is %v, the condition says %v", obj.Status.Ready, ready)
	}
}

func TestReleaseBecomesReady(t *testing.T) {
	w := newWorld(t)
	w.publish(nil)
	w.create(nil)
	obj, result, err := w.run()
	w.must(err)
	is(t, obj, v1alpha1.ReadyCondition, v1alpha1.DoneReason, "")
	if !obj.Status.Ready || obj.Status.KubernetesVersion != "v1.35.4" || obj.Status.Source != "memory:test" || !strings.HasPrefix(obj.Status.Digest, "sha256:") {
		t.Errorf("status is %+v", obj.Status)
	}
	if !slices.Contains(obj.Finalizers, v1alpha1.ClusterStackReleaseFinalizer) {
		t.Error("there is no finalizer")
	}
	if result.RequeueAfter < 9*time.Minute || result.RequeueAfter > 12*time.Minute {
		t.Errorf("looks again after %s, want about ten minutes", result.RequeueAfter)
	}
	want := []v1alpha1.Resource{
		{Group: "cluster.x-k8s.io", Version: "v1beta2", Kind: "ClusterClass", Namespace: w.namespace, Name: class, Status: "synced"},
		{Group: "infrastructure.cluster.x-k8s.io", Version: "v1beta2", Kind: "DevClusterTemplate", Namespace: w.namespace, Name: class + "-cluster", Status: "synced"},
	}
	if diff := cmp.Diff(want, obj.Status.Resources); diff != "" {
		t.Errorf("resources (-want +got):\n%s", diff)
	}
	if got := w.class().GetLabels()[v1alpha1.InstanceLabel]; got != v1alpha1.InstanceOwned {
		t.Errorf("label of the ClusterClass is %q", got)
	}

	before := w.versions()
	for range 2 {
		_, _, err = w.run()
		w.must(err)
	}
	w.restart()
	w.source.Break(errors.New("connection refused"))
	_, _, err = w.run()
	w.must(err)
	if diff := cmp.Diff(before, w.versions()); diff != "" {
		t.Errorf("at rest something was written (-before +after):\n%s", diff)
	}
}

func TestUnpublishedReleaseIsAwaited(t *testing.T) {
	w := newWorld(t)
	w.create(nil)
	obj, result, err := w.run()
	w.must(err)
	is(t, obj, v1alpha1.ClusterStackReleaseDownloadedCondition, v1alpha1.NotPublishedReason, tag)
	if result.RequeueAfter != poll {
		t.Errorf("looks again after %s, want %s", result.RequeueAfter, poll)
	}
	w.publish(nil)
	obj, _, err = w.run()
	w.must(err)
	is(t, obj, v1alpha1.ReadyCondition, v1alpha1.DoneReason, "")
}

func TestSourceDownIsRetried(t *testing.T) {
	w := newWorld(t)
	w.source.Break(errors.New("connection refused"))
	w.create(nil)
	obj, _, err := w.run()
	if err == nil {
		t.Error("an unreachable source must be tried again with backoff")
	}
	is(t, obj, v1alpha1.ClusterStackReleaseDownloadedCondition, v1alpha1.FetchFailedReason, "connection refused")
}

func TestMalformedReleaseIsReportedUntilCorrected(t *testing.T) {
	w := newWorld(t)
	w.source.Publish(tag, fstest.MapFS{"metadata.yaml": {Data: []byte("versions: {}")}})
	w.create(nil)
	obj, result, err := w.run()
	w.must(err)
	is(t, obj, v1alpha1.ClusterStackReleaseDownloadedCondition, v1alpha1.IssueWithReleaseAssetsReason, tag)
	if result.RequeueAfter != poll {
		t.Errorf("looks again after %s, want %s", result.RequeueAfter, poll)
	}
	w.publish(nil)
	obj, _, err = w.run()
	w.must(err)
	is(t, obj, v1alpha1.ReadyCondition, v1alpha1.DoneReason, "")
}

func TestMovedReleaseIsNotFollowed(t *testing.T) {
	w := newWorld(t)
	w.publish(nil)
	w.create(nil)
	first, _, err := w.run()
	w.must(err)

	// The store was lost, and the source has something else under the same name by now.
	w.storeDir = t.TempDir()
	w.restart()
	w.publish(map[string]string{"notes.yaml": "# changed"})
	obj, result, err := w.run()
	w.must(err)
	is(t, obj, v1alpha1.ClusterStackReleaseDownloadedCondition, v1alpha1.ReleaseMovedReason, "published again")
	if obj.Status.Digest != first.Status.Digest || obj.Status.Ready || result.RequeueAfter != poll {
		t.Errorf("digest %s was %s, ready %v, looks again after %s", obj.Status.Digest, first.Status.Digest, obj.Status.Ready, result.RequeueAfter)
	}
	w.publish(nil)
	obj, _, err = w.run()
	w.must(err)
	is(t, obj, v1alpha1.ReadyCondition, v1alpha1.DoneReason, "")
}

// Neither a source that is down nor a store that is lost nor both change what Clusters use already.
func TestOutageUnreadiesNothing(t *testing.T) {
	w := newWorld(t)
	w.publish(nil)
	w.create(nil)
	_, _, err := w.run()
	w.must(err)
	for _, down := range []error{errors.New("down"), nil} { // nil: the release is gone
		w.storeDir = t.TempDir()
		w.restart()
		w.source.Break(down)
		if down == nil {
			w.source.Withdraw(tag)
		}
		obj, result, err := w.run()
		w.must(err)
		is(t, obj, v1alpha1.ReadyCondition, v1alpha1.DoneReason, "")
		is(t, obj, v1alpha1.ClusterStackReleaseDownloadedCondition, v1alpha1.DoneReason, "cannot be opened at present")
		if !obj.Status.Ready || w.class() == nil || w.template() == nil || result.RequeueAfter == 0 {
			t.Errorf("ready %t, looks again after %s", obj.Status.Ready, result.RequeueAfter)
		}
	}
}

// The status is lost when objects are moved or restored; what is in use is not.
func TestPinSurvivesALostStatus(t *testing.T) {
	w := newWorld(t)
	w.publish(nil)
	w.create(nil)
	first, _, err := w.run()
	w.must(err)
	lost := first.DeepCopy()
	lost.Status = v1alpha1.ClusterStackReleaseStatus{}
	w.must(w.Status().Update(t.Context(), lost))
	w.storeDir = t.TempDir()
	w.restart()
	w.publish(map[string]string{"notes.yaml": "# changed"})

	obj, _, err := w.run()
	w.must(err)
	is(t, obj, v1alpha1.ClusterStackReleaseDownloadedCondition, v1alpha1.ReleaseMovedReason, "published again")
	w.publish(nil)
	obj, _, err = w.run()
	w.must(err)
	is(t, obj, v1alpha1.ReadyCondition, v1alpha1.DoneReason, "")
	if obj.Status.Digest != first.Status.Digest {
		t.Errorf("digest %s was %s", obj.Status.Digest, first.Status.Digest)
	}
}

// A tag that moves is told, and changes nothing.
func TestMovedTagIsTold(t *testing.T) {
	w := newWorld(t)
	w.publish(nil)
	w.create(nil)
	first, _, err := w.run()
	w.must(err)
	is(t, first, v1alpha1.SourceUnchangedCondition, v1alpha1.DoneReason, "")

	w.publish(map[string]string{"notes.yaml": "# changed"})
	w.restart() // it is asked at intervals, and after a restart
	obj, _, err := w.run()
	w.must(err)
	is(t, obj, v1alpha1.SourceUnchangedCondition, v1alpha1.ReleaseMovedReason, "published again")
	is(t, obj, v1alpha1.ReadyCondition, v1alpha1.DoneReason, "")
	if obj.Status.Digest != first.Status.Digest {
		t.Errorf("digest %s was %s", obj.Status.Digest, first.Status.Digest)
	}

	// What the source does not say changes nothing about that, nor does a store that is lost.
	w.source.Break(errors.New("connection refused"))
	for range 2 {
		w.restart()
		obj, _, err = w.run()
		w.must(err)
		is(t, obj, v1alpha1.SourceUnchangedCondition, v1alpha1.ReleaseMovedReason, "published again")
		is(t, obj, v1alpha1.ReadyCondition, v1alpha1.DoneReason, "")
		w.storeDir = t.TempDir()
	}

	// Until it has an answer again.
	w.source.Break(nil)
	w.publish(nil)
	w.restart()
	obj, _, err = w.run()
	w.must(err)
	is(t, obj, v1alpha1.SourceUnchangedCondition, v1alpha1.DoneReason, "")

	w.source.Withdraw(tag)
	w.restart()
	obj, _, err = w.run()
	w.must(err)
	is(t, obj, v1alpha1.SourceUnchangedCondition, v1alpha1.NotOfferedReason, "no longer has the release")
	is(t, obj, v1alpha1.ReadyCondition, v1alpha1.DoneReason, "")
}

// mute does not tell what a source has now, unless it has nothing.
type mute struct {
	clusterstackrelease.Releases
	err error
}

func (m mute) Offered(ctx context.Context, origin releases.Origin, name release.Name) (string, error) {
	if _, err := m.Releases.Offered(ctx, origin, name); err != nil {
		return "", err
	}
	return "", m.err
}

// A source that can never tell what it has would else be said to lack a release for good that it has again.
func TestWarningEndsWhenTheSourceHasTheReleaseAgainAndCannotTellWhat(t *testing.T) {
	w := newWorld(t)
	cannotTell := fmt.Errorf("release %s: %w: no digest of metadata.yaml", tag, errors.ErrUnsupported)
	w.around = func(r clusterstackrelease.Releases) clusterstackrelease.Releases { return mute{r, cannotTell} }
	w.restart()
	w.publish(nil)
	w.create(nil)
	_, _, err := w.run()
	w.must(err)
	w.source.Withdraw(tag)
	w.restart()
	obj, _, err := w.run()
	w.must(err)
	is(t, obj, v1alpha1.SourceUnchangedCondition, v1alpha1.NotOfferedReason, "no longer has the release")
	w.publish(nil)
	w.restart()
	obj, _, err = w.run()
	w.must(err)
	is(t, obj, v1alpha1.SourceUnchangedCondition, v1alpha1.DoneReason, "")
}

// What was said of one source is not said of the next, though that one does not answer.
func TestWarningEndsWithTheSourceThatItIsAbout(t *testing.T) {
	w := newWorld(t)
	stack := &v1alpha1.ClusterStack{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "starter"},
		Spec: v1alpha1.ClusterStackSpec{
			Provider: "docker", Name: "starter", KubernetesVersion: "1.35", NoProvider: true,
			Source: &v1alpha1.ReleaseSource{OCI: &v1alpha1.OCISource{Repository: "r.example.org/stacks"}},
		},
	}
	w.must(w.Create(t.Context(), stack))
	w.publish(nil)
	w.create(nil)
	_, _, err := w.run()
	w.must(err)
	w.source.Withdraw(tag)
	w.restart()
	obj, _, err := w.run()
	w.must(err)
	is(t, obj, v1alpha1.SourceUnchangedCondition, v1alpha1.NotOfferedReason, "oci://r.example.org/stacks no longer has the release")

	stack.Spec.Source.OCI.Repository = "r.example.org/others"
	w.must(w.Update(t.Context(), stack))
	w.publish(nil)
	w.around = func(r clusterstackrelease.Releases) clusterstackrelease.Releases {
		return mute{r, errors.New("connection refused")}
	}
	w.restart()
	for deadline := time.Now().Add(30 * time.Second); obj.Status.Source != "oci://r.example.org/others"; {
		if time.Now().After(deadline) {
			t.Fatalf("still from %s", obj.Status.Source)
		}
		obj, _, err = w.run()
		w.must(err)
		if c := obj.Status.Conditions.Get(v1alpha1.SourceUnchangedCondition); strings.Contains(c.Message, "r.example.org/stacks") {
			t.Errorf("of the source that it had before: %s", c.Message)
		}
	}
	is(t, obj, v1alpha1.ReadyCondition, v1alpha1.DoneReason, "")
	is(t, obj, v1alpha1.SourceUnchangedCondition, v1alpha1.DoneReason, "")
}

// hesitant answers what a source has now only when it may.
type hesitant struct {
	clusterstackrelease.Releases
	may chan struct{}
}

func (h hesitant) Offered(ctx context.Context, origin releases.Origin, name release.Name) (string, error) {
	select {
	case <-h.may:
		return h.Releases.Offered(ctx, origin, name)
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// A source that takes its time to say what it has keeps no worker: it is looked at again when it must have answered.
func TestMovedTagOfASlowSourceIsToldLater(t *testing.T) {
	w := newWorld(t)
	w.publish(nil)
	w.create(nil)
	_, _, err := w.run()
	w.must(err)
	w.publish(map[string]string{"notes.yaml": "# changed"})
	may := make(chan struct{})
	w.around = func(r clusterstackrelease.Releases) clusterstackrelease.Releases { return hesitant{r, may} }
	w.restart()
	for range 2 {
		obj, result, err := w.run()
		w.must(err)
		is(t, obj, v1alpha1.SourceUnchangedCondition, v1alpha1.DoneReason, "")
		is(t, obj, v1alpha1.ReadyCondition, v1alpha1.DoneReason, "")
		if result.RequeueAfter == 0 || result.RequeueAfter > 10*time.Second {
			t.Fatalf("looked at again in %s, want soon", result.RequeueAfter)
		}
	}
	close(may)
	for deadline := time.Now().Add(30 * time.Second); ; {
		obj, _, err := w.run()
		w.must(err)
		if c := obj.Status.Conditions.Get(v1alpha1.SourceUnchangedCondition); c.Reason == v1alpha1.ReleaseMovedReason {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("that the tag has moved is never told")
		}
	}
}

// faulty has a library that panics.
type faulty struct{ clusterstackrelease.Releases }

func (faulty) Offered(context.Context, releases.Origin, release.Name) (string, error) {
	panic("hunter2")
}

// What asks a source panics: that is logged, and nothing else comes of it.
func TestPanicOfASourceChangesNothing(t *testing.T) {
	w := newWorld(t)
	w.around = func(r clusterstackrelease.Releases) clusterstackrelease.Releases { return faulty{r} }
	w.restart()
	w.publish(nil)
	w.create(nil)
	log := &syncedLog{}
	_, err := w.reconcile.Reconcile(ctrl.LoggerInto(t.Context(), funcr.New(func(_, args string) { log.add(args) }, funcr.Options{})), w.get())
	w.must(err)
	obj := w.get()
	is(t, obj, v1alpha1.SourceUnchangedCondition, v1alpha1.DoneReason, "")
	is(t, obj, v1alpha1.ReadyCondition, v1alpha1.DoneReason, "")
	for deadline := time.Now().Add(time.Minute); !strings.Contains(log.String(), "faulty.Offered"); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the log does not say where it was: %s", log)
		}
	}
	if strings.Contains(log.String(), "hunter2") {
		t.Errorf("the log is %s", log)
	}
}

// syncedLog is what several write to.
type syncedLog struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *syncedLog) add(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.WriteString(line + "\n")
}

func (l *syncedLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func TestUnsignedReleaseIsNotUsed(t *testing.T) {
	w := newWorld(t)
	key := verifytest.NewKey(t)
	w.rules = &releases.Rules{Config: verify.Config{PublicKeys: []string{key.Public}}, Required: true}
	w.restart()
	w.publish(nil)
	w.create(nil)
	obj, result, err := w.run()
	w.must(err)
	is(t, obj, v1alpha1.ReadyCondition, v1alpha1.VerificationFailedReason, "is not signed")
	if w.class() != nil || obj.Status.Ready || result.RequeueAfter != poll {
		t.Errorf("ready %t, looks again after %s", obj.Status.Ready, result.RequeueAfter)
	}

	files := releasetest.Multistage(tag)
	files[releasetest.ClassPackage(tag)] = w.classPackage
	key.SignFiles(files)
	w.source.Publish(tag, files)
	obj, _, err = w.run()
	w.must(err)
	is(t, obj, v1alpha1.ReadyCondition, v1alpha1.DoneReason, "")
	if v := obj.Status.Verification; v == nil || !strings.HasPrefix(v.By, "key sha256:") {
		t.Errorf("verification is %v", v)
	}

	// Somebody else is trusted from now on.
	w.rules = &releases.Rules{Config: verify.Config{PublicKeys: []string{verifytest.NewKey(t).Public}}, Required: true}
	w.restart()
	obj, _, err = w.run()
	w.must(err)
	is(t, obj, v1alpha1.ReadyCondition, v1alpha1.VerificationFailedReason, "not trusted")
	if obj.Status.Verification != nil || w.class() == nil {
		t.Errorf("verification is %v; what was applied has to stay", obj.Status.Verification)
	}
}

func TestDriftIsCorrected(t *testing.T) {
	w := newWorld(t)
	w.publish(nil)
	w.create(nil)
	_, _, err := w.run()
	w.must(err)
	untouched := w.class().GetResourceVersion()

	w.must(w.Delete(t.Context(), w.template()))
	obj, _, err := w.run()
	w.must(err)
	if w.template() == nil || !obj.Status.Ready {
		t.Error("a deleted object was not made again")
	}
	if got := w.class().GetResourceVersion(); got != untouched {
		t.Error("what had not changed was written, too")
	}
}

func TestBrokenChartIsReported(t *testing.T) {
	w := newWorld(t)
	w.publish(map[string]string{"broken.yaml": `{{ fail "no way" }}`})
	w.create(nil)
	obj, _, err := w.run()
	if err == nil {
		t.Error("want an error for the log")
	}
	is(t, obj, v1alpha1.HelmChartAppliedCondition, v1alpha1.RenderFailedReason, "no way")
	if w.class() != nil {
		t.Error("half a cluster class was applied")
	}
}

func TestGeneratedValuesAreKept(t *testing.T) {
	w := newWorld(t)
	w.publish(map[string]string{"random.yaml": `
apiVersion: infrastructure.cluster.x-k8s.io/v1beta2
kind: DevClusterTemplate
metadata:
  name: random
  annotations:
    value: {{ randAlphaNum 20 }}
spec: {template: {spec: {backend: {inMemory: {}}}}}
`})
	w.create(nil)
	_, _, err := w.run()
	w.must(err)
	value := w.object(infraVersion, "DevClusterTemplate", "random").GetAnnotations()["value"]
	before := w.versions()
	w.restart()
	_, _, err = w.run()
	w.must(err)
	if again := w.object(infraVersion, "DevClusterTemplate", "random").GetAnnotations()["value"]; again != value || len(value) != 20 {
		t.Errorf("the generated value was %q and is %q", value, again)
	}
	if diff := cmp.Diff(before, w.versions()); diff != "" {
		t.Errorf("at rest something was written (-before +after):\n%s", diff)
	}
}

func TestForeignObjectsAreRefused(t *testing.T) {
	for name, tc := range map[string]struct{ object, why string }{
		"OtherGroup":       {"apiVersion: v1\nkind: Secret\nmetadata: {name: x}\n", `Secret NAMESPACE/x is of a kind that is not allowed`},
		"OtherNamespace":   {"apiVersion: " + infraVersion + "\nkind: DevClusterTemplate\nmetadata: {name: x, namespace: kube-system}\nspec: {template: {spec: {backend: {inMemory: {}}}}}\n", "DevClusterTemplate.infrastructure.cluster.x-k8s.io kube-system/x is in another namespace"},
		"WholeCluster":     {"apiVersion: v1\nkind: Namespace\nmetadata: {name: x}\n", "Namespace x does not belong to a namespace"},
		"HelmHooksAsWell":  {"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x, annotations: {helm.sh/hook: pre-install}}\n", "ConfigMap NAMESPACE/x"},
		"RightsAreForeign": {"apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: x}\n", "ClusterRole.rbac.authorization.k8s.io x does not belong to a namespace"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.publish(map[string]string{"foreign.yaml": tc.object})
			w.create(nil)
			obj, _, err := w.run()
			if err == nil {
				t.Error("want an error for the log")
			}
			is(t, obj, v1alpha1.HelmChartAppliedCondition, v1alpha1.NotAllowedReason, strings.ReplaceAll(tc.why, "NAMESPACE", w.namespace))
			if w.class() != nil {
				t.Error("the allowed part was applied; it is all or nothing")
			}
		})
	}
}

func TestProviderIsAwaited(t *testing.T) {
	w := newWorld(t)
	installProviderKind(t, w)
	w.publish(nil)
	ref := &corev1.ObjectReference{APIVersion: "infrastructure.clusterstack.x-k8s.io/v1alpha1", Kind: "TestClusterStackRelease", Namespace: w.namespace, Name: tag}
	w.create(ref)
	obj, _, err := w.run()
	w.must(err)
	is(t, obj, v1alpha1.ProviderClusterStackReleaseReadyCondition, v1alpha1.ProcessOngoingReason, "does not exist")

	provider := &unstructured.Unstructured{}
	provider.SetAPIVersion(ref.APIVersion)
	provider.SetKind(ref.Kind)
	provider.SetNamespace(w.namespace)
	provider.SetName(tag)
	w.must(w.Create(t.Context(), provider))
	obj, _, err = w.run()
	w.must(err)
	is(t, obj, v1alpha1.ProviderClusterStackReleaseReadyCondition, v1alpha1.ProcessOngoingReason, "is not ready")
	if w.class() != nil {
		t.Error("the cluster class was applied before the provider was ready")
	}
	w.must(w.Get(t.Context(), client.ObjectKeyFromObject(provider), provider))
	if owner := metav1.GetControllerOf(provider); owner == nil || owner.UID != obj.UID {
		t.Errorf("the provider's object is controlled by %v", owner)
	}

	ready := func(value bool) {
		w.must(w.Get(t.Context(), client.ObjectKeyFromObject(provider), provider))
		w.must(unstructured.SetNestedField(provider.Object, value, "status", "ready"))
		w.must(w.Status().Update(t.Context(), provider))
	}
	ready(true)
	obj, _, err = w.run()
	w.must(err)
	is(t, obj, v1alpha1.ReadyCondition, v1alpha1.DoneReason, "")

	ready(false)
	obj, _, err = w.run()
	w.must(err)
	is(t, obj, v1alpha1.ReadyCondition, v1alpha1.ProcessOngoingReason, "is not ready")
	if w.class() == nil {
		t.Error("the cluster class was taken out of under its Clusters")
	}
}

// Whoever may write a ClusterStackRelease cannot have the operator read, watch or own whatever it has rights for.
func TestProviderIsOfAGroupThatIsAllowed(t *testing.T) {
	w := newWorld(t)
	w.publish(nil)
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "credentials"}}
	w.must(w.Create(t.Context(), secret))
	for name, ref := range map[string]corev1.ObjectReference{
		"Core":       {APIVersion: "v1", Kind: "Secret", Name: secret.Name},
		"ClusterAPI": {APIVersion: "cluster.x-k8s.io/v1beta2", Kind: "Cluster", Name: "c"},
		"EndsSo":     {APIVersion: "evil.infrastructure.clusterstack.x-k8s.io/v1", Kind: "X", Name: "x"},
	} {
		t.Run(name, func(t *testing.T) {
			key := w.create(&ref)
			obj, _, err := w.run()
			if !errors.Is(err, reconcile.TerminalError(nil)) {
				t.Errorf("tried again: %v", err)
			}
			is(t, obj, v1alpha1.ProviderClusterStackReleaseReadyCondition, v1alpha1.NotAllowedReason, "--provider-api-groups")
			w.must(w.Delete(t.Context(), obj))
			if _, err := w.reconcile.Reconcile(t.Context(), w.get()); err != nil {
				t.Fatal(err)
			}
			if err := w.Get(t.Context(), key, obj); !apierrors.IsNotFound(err) {
				t.Errorf("it cannot be deleted: %v", err)
			}
		})
	}
	w.must(w.Get(t.Context(), client.ObjectKeyFromObject(secret), secret))
	if len(secret.OwnerReferences) > 0 {
		t.Errorf("the Secret got owners: %v", secret.OwnerReferences)
	}
}

func TestDeletionWaitsForClustersOfAllNamespaces(t *testing.T) {
	w := newWorld(t)
	w.publish(nil)
	key := w.create(nil)
	_, _, err := w.run()
	w.must(err)

	cluster := &clusterv1.Cluster{
		ObjectMeta: metav1.ObjectMeta{Namespace: kinds.Namespace(t, w), Name: "far"},
		Spec: clusterv1.ClusterSpec{Topology: clusterv1.Topology{
			ClassRef: clusterv1.ClusterClassRef{Name: class, Namespace: w.namespace}, Version: "v1.35.4",
		}},
	}
	w.must(w.Create(t.Context(), cluster))
	w.must(w.Delete(t.Context(), w.get()))
	obj, _, err := w.run()
	w.must(err)
	is(t, obj, v1alpha1.ReadyCondition, v1alpha1.InUseReason, cluster.Namespace+"/far")
	if w.class() == nil {
		t.Fatal("the class of a Cluster was deleted")
	}

	w.must(w.Delete(t.Context(), cluster))
	// The release is gone from everywhere; the inventory suffices.
	w.source = &sourcetest.Memory{}
	w.storeDir = t.TempDir()
	w.restart()
	if _, err := w.reconcile.Reconcile(t.Context(), w.get()); err != nil {
		t.Fatal(err)
	}
	if err := w.Get(t.Context(), key, &v1alpha1.ClusterStackRelease{}); !apierrors.IsNotFound(err) {
		t.Errorf("the ClusterStackRelease is still there: %v", err)
	}
	if w.class() != nil || w.template() != nil {
		t.Error("objects of the release are still there")
	}
	secrets := &corev1.SecretList{}
	w.must(w.List(t.Context(), secrets, client.InNamespace(w.namespace)))
	if len(secrets.Items) > 0 {
		t.Errorf("%d Secrets are still there; a successor of the same name would take them for its own", len(secrets.Items))
	}
}

// A Cluster is created right after the last look at who uses the release. Cluster API knows.
func TestClassThatCannotBeDeletedStaysWhole(t *testing.T) {
	w := newWorld(t)
	w.publish(nil)
	w.create(nil)
	_, _, err := w.run()
	w.must(err)
	config := rest.CopyConfig(sandboxtest.APIServer(t))
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return refusesToDeleteClasses{next} })
	w.restartOn(w, config)
	w.must(w.Delete(t.Context(), w.get()))
	obj, _, err := w.run()
	if err == nil {
		t.Error("want to try again")
	}
	is(t, obj, v1alpha1.ReadyCondition, v1alpha1.FailedToDeleteObjectsReason, "in use by a Cluster")
	if w.class() == nil || w.template() == nil {
		t.Error("the class has lost what it consists of")
	}

	// Somebody claims the class for himself.
	class := w.class()
	class.SetLabels(nil)
	w.must(w.Update(t.Context(), class))
	w.restart()
	_, err = w.reconcile.Reconcile(t.Context(), w.get())
	w.must(err)
	if w.class() == nil || w.template() == nil {
		t.Error("a class that is kept has lost what it consists of")
	}
}

type refusesToDeleteClasses struct{ http.RoundTripper }

func (r refusesToDeleteClasses) RoundTrip(request *http.Request) (*http.Response, error) {
	if request.Method != http.MethodDelete || !strings.Contains(request.URL.Path, "/clusterclasses/") {
		return r.RoundTripper.RoundTrip(request)
	}
	body := `{"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "admission webhook denied the request: in use by a Cluster", "reason": "Forbidden", "code": 403}`
	return &http.Response{
		StatusCode: http.StatusForbidden, Header: http.Header{"Content-Type": {"application/json"}},
		Body: io.NopCloser(strings.NewReader(body)), Request: request,
	}, nil
}

// Whoever wrote the chart may have called its class as they liked.
func TestDeletionWaitsForClustersOfAnyClass(t *testing.T) {
	w := newWorld(t)
	w.publish(map[string]string{"other.yaml": `
apiVersion: cluster.x-k8s.io/v1beta2
kind: ClusterClass
metadata:
  name: other
spec:
  infrastructure:
    templateRef: {apiVersion: infrastructure.cluster.x-k8s.io/v1beta2, kind: DevClusterTemplate, name: x}
  controlPlane:
    templateRef: {apiVersion: controlplane.cluster.x-k8s.io/v1beta2, kind: KubeadmControlPlaneTemplate, name: x}
`})
	w.create(nil)
	_, _, err := w.run()
	w.must(err)
	cluster := &clusterv1.Cluster{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "near"},
		Spec:       clusterv1.ClusterSpec{Topology: clusterv1.Topology{ClassRef: clusterv1.ClusterClassRef{Name: "other"}, Version: "v1.35.4"}},
	}
	w.must(w.Create(t.Context(), cluster))
	w.must(w.Delete(t.Context(), w.get()))
	obj, _, err := w.run()
	w.must(err)
	is(t, obj, v1alpha1.ReadyCondition, v1alpha1.InUseReason, w.namespace+"/near")
	if w.object(clusterv1.GroupVersion.String(), "ClusterClass", "other") == nil || w.template() == nil {
		t.Error("what a Cluster uses was deleted")
	}
}

func TestWhatWasThereBeforeStays(t *testing.T) {
	w := newWorld(t)
	image := func() *unstructured.Unstructured {
		obj := &unstructured.Unstructured{}
		w.must(json.Unmarshal(fmt.Appendf(nil, `{"apiVersion": %q, "kind": "DevClusterTemplate", "metadata": {"name": "shared", "namespace": %q},
			"spec": {"template": {"spec": {"backend": {"inMemory": {}}}}}}`, infraVersion, w.namespace), obj))
		return obj
	}
	w.must(w.Create(t.Context(), image()))
	w.publish(map[string]string{"shared.yaml": `
apiVersion: infrastructure.cluster.x-k8s.io/v1beta2
kind: DevClusterTemplate
metadata: {name: shared}
spec: {template: {spec: {backend: {inMemory: {}}}}}
`})
	w.create(nil)
	_, _, err := w.run()
	w.must(err)
	w.must(w.Delete(t.Context(), w.get()))
	if _, err := w.reconcile.Reconcile(t.Context(), w.get()); err != nil {
		t.Fatal(err)
	}
	if w.object(infraVersion, "DevClusterTemplate", "shared") == nil {
		t.Error("an object was deleted that existed before us")
	}
	if w.class() != nil {
		t.Error("the class is still there")
	}
}

// Several releases may have the same object, such as a node image.
func TestObjectOfTwoReleasesOutlivesTheFirst(t *testing.T) {
	w := newWorld(t)
	image := map[string]string{"shared.yaml": `
apiVersion: infrastructure.cluster.x-k8s.io/v1beta2
kind: DevClusterTemplate
metadata: {name: shared}
spec: {template: {spec: {backend: {inMemory: {}}}}}
`}
	w.publish(image)
	w.create(nil)
	_, _, err := w.run()
	w.must(err)

	const second = "docker-starter-1-35-v2"
	files := releasetest.Multistage(second)
	files[releasetest.ClassPackage(second)] = &fstest.MapFile{Data: releasetest.Archive(map[string]string{
		"c/Chart.yaml": releasetest.Chart("docker-starter-1-35-cluster-class", "v2"), "c/templates/shared.yaml": image["shared.yaml"],
	})}
	w.source.Publish(second, files)
	other := &v1alpha1.ClusterStackRelease{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: second}}
	w.must(w.Create(t.Context(), other))
	_, err = w.reconcile.Reconcile(t.Context(), other)
	w.must(err)
	w.must(w.Get(t.Context(), client.ObjectKeyFromObject(other), other))
	if !other.Status.Ready {
		t.Fatalf("the second release is not ready: %+v", other.Status.Conditions)
	}

	w.must(w.Delete(t.Context(), w.get()))
	if _, err := w.reconcile.Reconcile(t.Context(), w.get()); err != nil {
		t.Fatal(err)
	}
	if w.object(infraVersion, "DevClusterTemplate", "shared") == nil {
		t.Error("what the second release has went with the first")
	}
	if w.class() != nil {
		t.Error("the class of the first release is still there")
	}

	// With the second one goes what only they had.
	w.must(w.Delete(t.Context(), other))
	w.must(w.Get(t.Context(), client.ObjectKeyFromObject(other), other))
	if _, err := w.reconcile.Reconcile(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	if w.object(infraVersion, "DevClusterTemplate", "shared") != nil {
		t.Error("nobody has the object any more, and it stays")
	}
}

// The operator dies before or right after any of its writes, of a life from nothing to ready and back: the
// next one finishes the work and leaves nothing behind.
func TestDiesAtEveryWrite(t *testing.T) {
	died := errors.New("died")
	for _, answered := range []bool{false, true} {
		for n, finished := 1, false; !finished; n++ {
			t.Run(fmt.Sprintf("Answered=%v/Write%d", answered, n), func(t *testing.T) {
				w := newWorld(t)
				w.publish(nil)
				w.create(nil)
				writes := 0
				// write carries one out unless the operator is dead; of the last one the answer is lost.
				write := func(do func() error) error {
					if writes++; writes > n || writes == n && !answered {
						return died
					}
					if err := do(); err != nil || writes < n {
						return err
					}
					return died
				}
				w.restartWith(interceptor.NewClient(w.WithWatch, interceptor.Funcs{
					Create: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.CreateOption) error {
						return write(func() error { return c.Create(ctx, obj, opts...) })
					},
					Update: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.UpdateOption) error {
						return write(func() error { return c.Update(ctx, obj, opts...) })
					},
					Patch: func(ctx context.Context, c client.WithWatch, obj client.Object, patch client.Patch, opts ...client.PatchOption) error {
						return write(func() error { return c.Patch(ctx, obj, patch, opts...) })
					},
					Delete: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.DeleteOption) error {
						return write(func() error { return c.Delete(ctx, obj, opts...) })
					},
					SubResourcePatch: func(ctx context.Context, c client.Client, sub string, obj client.Object, patch client.Patch, opts ...client.SubResourcePatchOption) error {
						return write(func() error { return c.SubResource(sub).Patch(ctx, obj, patch, opts...) })
					},
				}))
				_, err := w.reconcile.Reconcile(t.Context(), w.get())
				deleting := err == nil
				if deleting {
					w.must(w.Delete(t.Context(), w.get()))
					_, err = w.reconcile.Reconcile(t.Context(), w.get())
				}
				finished = err == nil // it has fewer writes than this

				w.restart()
				if !deleting {
					obj, _, err := w.run()
					w.must(err)
					is(t, obj, v1alpha1.ReadyCondition, v1alpha1.DoneReason, "")
					w.must(w.Delete(t.Context(), w.get()))
				}
				obj := &v1alpha1.ClusterStackRelease{}
				if err := w.Get(t.Context(), client.ObjectKey{Namespace: w.namespace, Name: tag}, obj); err == nil {
					_, err = w.reconcile.Reconcile(t.Context(), obj)
					w.must(err)
				}
				if err := w.Get(t.Context(), client.ObjectKey{Namespace: w.namespace, Name: tag}, obj); !apierrors.IsNotFound(err) {
					t.Errorf("the ClusterStackRelease is still there: %v", err)
				}
				if w.class() != nil || w.template() != nil {
					t.Error("objects of the release are still there")
				}
			})
		}
	}
}

// What the operator that ran here before has applied becomes ours, so that it goes with the release.
func TestTakesOverFromTheFormerOperator(t *testing.T) {
	w := newWorld(t)
	w.publish(nil)
	w.create(nil)
	for _, text := range []string{
		fmt.Sprintf(`{"apiVersion": %q, "kind": "DevClusterTemplate", "metadata": {"name": "%s-cluster", "namespace": %q, "labels": {%q: "owned"}},
			"spec": {"template": {"spec": {"backend": {"inMemory": {}}}}}}`, infraVersion, class, w.namespace, v1alpha1.InstanceLabel),
	} {
		obj := &unstructured.Unstructured{}
		w.must(json.Unmarshal([]byte(text), obj))
		w.must(w.Apply(t.Context(), client.ApplyConfigurationFromUnstructured(obj), client.FieldOwner("kubectl"), client.ForceOwnership))
	}
	obj := w.get()
	obj.Status = v1alpha1.ClusterStackReleaseStatus{
		Ready: true, KubernetesVersion: "v1.35.4",
		Resources:  []v1alpha1.Resource{{Group: "infrastructure.cluster.x-k8s.io", Version: "v1beta2", Kind: "DevClusterTemplate", Namespace: w.namespace, Name: class + "-cluster", Status: "synced"}},
		Conditions: v1alpha1.Conditions{{Type: "HelmChartApplied", Status: "True", LastTransitionTime: metav1.Now()}, {Type: "AssetsClientAPIAvailable", Status: "True", LastTransitionTime: metav1.Now()}},
	}
	w.must(w.Status().Update(t.Context(), obj))

	obj, _, err := w.run()
	w.must(err)
	is(t, obj, v1alpha1.ReadyCondition, v1alpha1.DoneReason, "")
	for _, entry := range w.template().GetManagedFields() {
		if entry.Manager == "kubectl" {
			t.Error("the former operator still owns fields, so that they could never be removed")
		}
	}
	w.must(w.Delete(t.Context(), w.get()))
	if _, err := w.reconcile.Reconcile(t.Context(), w.get()); err != nil {
		t.Fatal(err)
	}
	if w.template() != nil || w.class() != nil {
		t.Error("objects of the release are still there")
	}
}

// installProviderKind defines the kind of a provider integration.
func installProviderKind(t *testing.T, c client.WithWatch) {
	t.Helper()
	kinds.Define(t, c, "infrastructure.clusterstack.x-k8s.io", "v1alpha1", "TestClusterStackRelease")
}
