// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package clusterapi walks through flows in which Cluster API itself matters: its webhooks beside ours, when it calls
// hooks and what it makes of the answers, which classes it takes, and what it does to a Cluster that we must not touch.
//
// Two replicas of the operator run beside it. The hooks and webhooks that Cluster API and the API server know are those of
// the one that does not lead. Releases come from a forge that speaks GitHub's API.
package clusterapi

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/go-logr/logr"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	runtimev1 "sigs.k8s.io/cluster-api/api/runtime/v1beta2"
	"sigs.k8s.io/cluster-api/util/conditions"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/apitest"
	"github.com/clusterstacks/cluster-stack-operator/internal/apitest/kinds"
	"github.com/clusterstacks/cluster-stack-operator/internal/operator"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/release/releasetest"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/binaries"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/github/githubtest"
	"github.com/clusterstacks/cluster-stack-operator/test/operator/operatortest"
	"github.com/clusterstacks/cluster-stack-operator/test/sandbox/clustertest"
)

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard())
	sandboxtest.Main(m)
}

const (
	// patience is for one thing to happen, many times what it takes: the machine may be busy.
	patience = 5 * time.Minute

	v1, v2, up = "docker-flows-1-35-v1", "docker-flows-1-35-v2", "docker-flows-1-36-v1"
	made35     = "v1.35.4" // for which the releases are made
	patch35    = "v1.35.6" // which they allow, too
	made36     = "v1.36.4"

	// platform has the stacks and classes, team the Clusters.
	platform, team = "platform", "team"

	providerGroup = "infrastructure.clusterstack.x-k8s.io"
	providerKind  = "FlowClusterStackRelease"
)

var (
	ours    = types.NamespacedName{Namespace: team, Name: "ours"}
	foreign = types.NamespacedName{Namespace: team, Name: "foreign"}
)

type world struct {
	client.WithWatch
	*clustertest.Management
	kubeconfig   string
	forge        *githubtest.Forge
	leader, idle *operatortest.Operator
	workload     client.WithWatch
}

// TestFlows is the life of one Cluster, each chapter of which begins where the one before ended.
func TestFlows(t *testing.T) {
	w := begin(t)
	for _, chapter := range []struct {
		name string
		run  func(*world, *testing.T)
	}{
		{"ClassIsUsableWhenTheProviderIsReady", (*world).classIsUsableWhenTheProviderIsReady},
		{"RateLimitIsToldAndSurvived", (*world).rateLimitIsToldAndSurvived},
		{"ReleaseOfTwoClusterStacksOutlivesOne", (*world).releaseOfTwoClusterStacksOutlivesOne},
		{"PatchOfKubernetesInsideTheMinor", (*world).patchOfKubernetesInsideTheMinor},
		{"StackUpgradeAndRollBackRunTheirHooks", (*world).stackUpgradeAndRollBackRunTheirHooks},
		{"AnyReplicaHoldsAnUpgradeAndSaysWhy", (*world).anyReplicaHoldsAnUpgradeAndSaysWhy},
		{"HeldUpgradeIsTakenBack", (*world).heldUpgradeIsTakenBack},
		{"OtherReplicaBringsItToItsEnd", (*world).otherReplicaBringsItToItsEnd},
		{"ClusterLeavesForAForeignClass", (*world).clusterLeavesForAForeignClass},
		{"HooksAreCalledWhereTheSelectorSays", (*world).hooksAreCalledWhereTheSelectorSays},
		{"ClustersStayEditableWhileTheOperatorIsDown", (*world).clustersStayEditableWhileTheOperatorIsDown},
	} {
		if !t.Run(chapter.name, func(t *testing.T) { chapter.run(w, t) }) {
			t.FailNow()
		}
	}
}

func begin(t *testing.T) *world {
	t.Helper()
	management := sandboxtest.Management(t, sandboxtest.WithLite())
	scheme, err := operator.Scheme()
	must(t, err)
	must(t, coordinationv1.AddToScheme(scheme))
	c, err := client.NewWithWatch(management.Config(), client.Options{Scheme: scheme})
	must(t, err)
	w := &world{WithWatch: c, Management: clustertest.New(t, management), kubeconfig: management.Kubeconfig(), forge: githubtest.StartTLS(t)}
	w.forge.PerPage = 1
	kubeconfig, err := os.ReadFile(w.kubeconfig)
	must(t, err)

	launch := func() *operatortest.Operator {
		o := operatortest.Launch(t, kubeconfig, t.TempDir(), t.TempDir(), "--leader-elect=true", "--leader-elect-namespace="+operatortest.Home,
			"--leader-elect-lease-duration=12s", "--leader-elect-renew-deadline=8s", "--leader-elect-retry-period=1s", "--allow-networks=127.0.0.0/8")
		o.AwaitReady(t)
		return o
	}
	w.leader = launch()
	w.eventually(t, "somebody leads", func(ctx context.Context) error {
		lease := &coordinationv1.Lease{}
		if err := c.Get(ctx, client.ObjectKey{Namespace: operatortest.Home, Name: "clusterstack.x-k8s.io"}, lease); err != nil {
			return err
		}
		if lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity == "" {
			return fmt.Errorf("nobody does")
		}
		return nil
	})
	w.idle = launch()
	for _, configuration := range w.idle.Webhooks(t) {
		must(t, c.Create(t.Context(), configuration))
	}
	extension := &runtimev1.ExtensionConfig{ObjectMeta: metav1.ObjectMeta{Name: "cso-hook-server-extensionconfig"}}
	extension.Spec.ClientConfig, extension.Spec.NamespaceSelector = w.idle.Extension(), &metav1.LabelSelector{}
	must(t, c.Create(t.Context(), extension))
	w.eventually(t, "Cluster API knows the hooks", func(ctx context.Context) error {
		if err := c.Get(ctx, client.ObjectKeyFromObject(extension), extension); err != nil {
			return err
		}
		if len(extension.Status.Handlers) == 0 {
			return fmt.Errorf("%+v", extension.Status.Conditions)
		}
		return nil
	})

	for _, namespace := range []string{platform, team} {
		must(t, c.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}))
	}
	// A class that is none of ours, with a Cluster that goes through all of this untouched.
	clustertest.CreateClass(t, c, team)
	other := clustertest.NewCluster(foreign, made35, 1, 0)
	other.Spec.Topology.Workers = clusterv1.WorkersTopology{}
	must(t, c.Create(t.Context(), other))

	w.publish(t, v1, "cni: 1")
	kinds.Define(t, c, providerGroup, "v1alpha1", providerKind)
	kinds.Define(t, c, providerGroup, "v1alpha1", providerKind+"Template")
	template := provider(providerKind+"Template", "flow")
	template.Object["spec"] = map[string]any{"template": map[string]any{"spec": map[string]any{"cloud": "ours"}}}
	must(t, c.Create(t.Context(), template))
	must(t, c.Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: platform, Name: "forge"},
		StringData: map[string]string{"token": githubtest.Token, "ca.crt": string(w.forge.CA())},
	}))
	must(t, c.Create(t.Context(), w.stack("flows-1-35", "1.35")))
	return w
}

// stack subscribes to the releases of a minor at the forge, with a provider.
func (w *world) stack(name, minor string) *v1alpha1.ClusterStack {
	return &v1alpha1.ClusterStack{
		ObjectMeta: metav1.ObjectMeta{Namespace: platform, Name: name},
		Spec: v1alpha1.ClusterStackSpec{
			Provider: "docker", Name: "flows", KubernetesVersion: minor, Channel: v1alpha1.ChannelStable, AutoSubscribe: true,
			HistoryLimit: 2, // or there is nothing to go back to
			ProviderRef:  &corev1.ObjectReference{APIVersion: providerGroup + "/v1alpha1", Kind: providerKind + "Template", Name: "flow"},
			Source: &v1alpha1.ReleaseSource{
				GitHub:       &v1alpha1.GitHubSource{Owner: githubtest.Owner, Repository: githubtest.Repository, APIURL: w.forge.URL()},
				SecretRef:    &v1alpha1.LocalReference{Name: "forge"},
				PollInterval: &metav1.Duration{Duration: time.Second},
			},
		},
	}
}

func provider(kind, name string) *unstructured.Unstructured {
	o := &unstructured.Unstructured{Object: map[string]any{}}
	o.SetAPIVersion(providerGroup + "/v1alpha1")
	o.SetKind(kind)
	o.SetNamespace(platform)
	o.SetName(name)
	return o
}

// publish makes a release appear at the forge: its class is one that Cluster API can do something with, its first addon
// has a hook of each kind, and each further one waits until its gate is opened.
func (w *world) publish(t *testing.T, tag string, texts ...string) {
	t.Helper()
	name, err := release.ParseName(tag)
	must(t, err)
	var addons []operatortest.Addon
	for i, text := range texts {
		name, text, _ := strings.Cut(text, ": ")
		addon := operatortest.Addon{Name: name, Templates: configMap(name, text, "")}
		if i > 0 {
			addon.Stage = `, waitForPreCondition: {objects: [{key: o, apiVersion: v1, kind: ConfigMap, name: gate, namespace: kube-system}], conditions: o.data.open == "yes"}`
		} else {
			for _, event := range []string{"install", "upgrade", "rollback"} {
				for _, when := range []string{"pre-", "post-"} {
					addon.Templates += configMap(when+event, text, "  annotations: {helm.sh/hook: "+when+event+"}\n")
				}
			}
		}
		addons = append(addons, addon)
	}
	files := operatortest.Release(t, tag, addons...)
	kubernetes := map[string]string{"1.35": made35, "1.36": made36}[name.Kubernetes]
	metadata := strings.Replace(releasetest.Metadata(name.Version.String(), kubernetes), "\n    components:", "\n    kubernetesPatches: 4-9\n    components:", 1)
	files[release.MetadataFile] = &fstest.MapFile{Data: []byte(metadata)}
	files[releasetest.ClassPackage(tag)] = &fstest.MapFile{Data: releasetest.Archive(map[string]string{
		"c/Chart.yaml":           releasetest.Chart(name.Prefix()+"-cluster-class", name.Version.String()),
		"c/templates/class.yaml": clustertest.ClassTemplate(t),
	})}
	w.forge.Publish(tag, files)
}

func configMap(name, text, annotations string) string {
	return "---\napiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: " + name + "\n" + annotations + "data:\n  text: \"" + text + "\"\n"
}

// ready is the provider integration: it has done its work for a release.
func (w *world) ready(t *testing.T, tag string) {
	t.Helper()
	object := provider(providerKind, tag)
	w.eventually(t, "the provider object of "+tag, func(ctx context.Context) error { return w.Get(ctx, client.ObjectKeyFromObject(object), object) })
	must(t, w.Status().Patch(t.Context(), object, client.RawPatch(types.MergePatchType, []byte(`{"status": {"ready": true}}`))))
	rel := apitest.ClusterStackRelease(platform, tag)
	w.eventually(t, tag+" is ready", func(ctx context.Context) error {
		if err := w.Get(ctx, client.ObjectKeyFromObject(rel), rel); err != nil {
			return err
		}
		if !rel.Status.Ready {
			return fmt.Errorf("%+v", rel.Status.Conditions)
		}
		return nil
	})
}

// classIsUsableWhenTheProviderIsReady: a release is found on the second page of what the forge has, over TLS and with a
// token; its class is in another namespace than the Cluster. What Cluster API does with a Cluster whose class is not there
// yet no stand-in can tell.
func (w *world) classIsUsableWhenTheProviderIsReady(t *testing.T) {
	rel := apitest.ClusterStackRelease(platform, v1)
	w.eventually(t, "the release says what it waits for", func(ctx context.Context) error {
		if err := w.Get(ctx, client.ObjectKeyFromObject(rel), rel); err != nil {
			return err
		}
		c := rel.Status.Conditions.Get(v1alpha1.ProviderClusterStackReleaseReadyCondition)
		if c == nil || c.Status != "False" || !strings.Contains(c.Message, providerKind+" "+v1+" is not ready") {
			return fmt.Errorf("%+v", rel.Status.Conditions)
		}
		return nil
	})
	cluster := apitest.Cluster(ours.Namespace, ours.Name, v1, "")
	cluster.Spec.Topology.ClassRef.Namespace = platform
	cluster.Spec.ClusterNetwork.Pods.CIDRBlocks = []string{"192.168.0.0/16"}
	one := int32(1)
	cluster.Spec.Topology.ControlPlane.Replicas = &one
	if err := w.Create(t.Context(), cluster.DeepCopy()); err == nil || !strings.Contains(err.Error(), "ClusterStackRelease "+v1+" in namespace "+platform+" is not ready") {
		t.Errorf("a Cluster without a version, of a release that is not ready: %v", err)
	}
	cluster.Spec.Topology.Version = made35
	must(t, w.Create(t.Context(), cluster))
	w.eventually(t, "Cluster API misses the class", func(context.Context) error {
		return w.topology(t, "False", v1)
	})
	if class := w.class(t, v1); class != nil {
		t.Error("there is a class of a release that is not ready")
	}
	w.ready(t, v1)
	w.reached(t, v1, made35)
	w.workload = w.Workload(t, patience, ours)
	w.has(t, "cni", "1")
	w.has(t, "pre-install", "1")
	w.forge.Lock()
	defer w.forge.Unlock()
	if len(w.forge.Leaked) > 0 {
		t.Errorf("the storage of the forge saw %v", w.forge.Leaked)
	}
}

// rateLimitIsToldAndSurvived: nothing changes while the forge answers nothing. Then the release is seen that appeared
// meanwhile, by itself.
func (w *world) rateLimitIsToldAndSurvived(t *testing.T) {
	w.forge.Lock()
	w.forge.Limit, w.forge.Reset = 0, 5*time.Second
	w.forge.Unlock()
	w.publish(t, v2, "cni: 2")
	stack := &v1alpha1.ClusterStack{}
	said := func(status metav1.ConditionStatus, text string) {
		t.Helper()
		w.eventually(t, "the ClusterStack tells of "+text, func(ctx context.Context) error {
			if err := w.Get(ctx, client.ObjectKey{Namespace: platform, Name: "flows-1-35"}, stack); err != nil {
				return err
			}
			c := stack.Status.Conditions.Get(v1alpha1.ReleasesSyncedCondition)
			if c == nil || c.Status != status || !strings.Contains(c.Message, text) {
				return fmt.Errorf("%+v", c)
			}
			return nil
		})
	}
	said("False", "rate limit")
	if stack.Status.UsableVersions != "v1" {
		t.Errorf("usable while the forge does not answer: %q", stack.Status.UsableVersions)
	}
	w.forge.Lock()
	w.forge.Limit = -1
	w.forge.Unlock()
	said("True", v2)
	w.ready(t, v2)
}

// releaseOfTwoClusterStacksOutlivesOne: the real garbage collector, of two owners, takes the one away that is gone.
func (w *world) releaseOfTwoClusterStacksOutlivesOne(t *testing.T) {
	second := w.stack("second", "1.35")
	must(t, w.Create(t.Context(), second))
	rel := apitest.ClusterStackRelease(platform, v2)
	owners := func(n int) {
		t.Helper()
		w.eventually(t, fmt.Sprintf("the release has %d owners", n), func(ctx context.Context) error {
			if err := w.Get(ctx, client.ObjectKeyFromObject(rel), rel); err != nil {
				return err
			}
			if len(rel.OwnerReferences) != n || rel.DeletionTimestamp != nil {
				return fmt.Errorf("%+v", rel.OwnerReferences)
			}
			return nil
		})
	}
	owners(2)
	uid := rel.UID
	must(t, w.Delete(t.Context(), second))
	owners(1)
	if rel.UID != uid || !rel.Status.Ready {
		t.Error("the release is another one, or not ready any more")
	}
	first := w.stack("flows-1-35", "1.35")
	if err := w.Delete(t.Context(), first); err == nil || !strings.Contains(err.Error(), "release "+v1+" is used by Cluster "+ours.String()) {
		t.Errorf("delete the other ClusterStack, which is in use: %v", err)
	}
}

// patchOfKubernetesInsideTheMinor: Cluster API calls the hooks for it as for any upgrade; there are no other addons.
func (w *world) patchOfKubernetesInsideTheMinor(t *testing.T) {
	if err := w.apply(t, v1, "v1.35.12"); err == nil || !strings.Contains(err.Error(), "is made for Kubernetes "+made35) {
		t.Errorf("a patch that the release does not allow: %v", err)
	}
	must(t, w.apply(t, v1, patch35))
	w.reached(t, v1, patch35)
	w.has(t, "cni", "1")
}

// stackUpgradeAndRollBackRunTheirHooks: for another version of the stack Cluster API calls no hook, and asks that the
// classes of both are there and compatible, in both directions.
func (w *world) stackUpgradeAndRollBackRunTheirHooks(t *testing.T) {
	must(t, w.apply(t, v2, patch35))
	w.reached(t, v2, patch35)
	w.has(t, "cni", "2")
	w.has(t, "pre-upgrade", "2")
	w.has(t, "post-upgrade", "2")

	must(t, w.apply(t, v1, patch35))
	w.reached(t, v1, patch35)
	w.has(t, "cni", "1")
	w.has(t, "pre-rollback", "1")
	w.has(t, "post-rollback", "1")
	for _, name := range []string{"pre-upgrade", "post-upgrade"} {
		if text := w.text(t, name); text == "1" {
			t.Errorf("the hook %s ran when the stack was rolled back", name)
		}
	}
}

// anyReplicaHoldsAnUpgradeAndSaysWhy: the leader hangs and is lost, and whom Cluster API asks is the other one. What it
// says stands in the conditions of the Cluster, where `clusterctl describe` shows it, and changes nothing there when it is
// said again. A Cluster of a foreign class goes by.
func (w *world) anyReplicaHoldsAnUpgradeAndSaysWhy(t *testing.T) {
	w.publish(t, up, "cni: 3", "csi: 3")
	must(t, w.Create(t.Context(), w.stack("flows-1-36", "1.36")))
	w.ready(t, up)
	// The user takes his version out of the manifest: it is the release's again.
	must(t, w.apply(t, up, ""))
	if version := w.get(t, ours).Spec.Topology.Version; version != made36 {
		t.Errorf("applied without a version, the Cluster asks for %s", version)
	}
	const why = "waiting for the addons of " + up + " before Kubernetes " + made36 + ": stage csi waits for"
	w.eventually(t, "the Cluster says what it waits for", func(context.Context) error { return w.topology(t, "False", why) })
	before := w.get(t, ours)

	patch := client.RawPatch(types.MergePatchType, []byte(`{"spec": {"topology": {"version": "`+made36+`"}}}`))
	must(t, w.Patch(t.Context(), w.get(t, foreign), patch))

	w.leader.Suspend()
	asked, err := w.idle.Answers(t.Context(), "BeforeClusterUpgrade", "wait")
	must(t, err)
	w.eventually(t, "Cluster API asks the other replica again", func(ctx context.Context) error {
		if now, err := w.idle.Answers(ctx, "BeforeClusterUpgrade", "wait"); err != nil || now < asked+2 {
			return fmt.Errorf("asked %d times, %w", now-asked, err)
		}
		return nil
	})
	w.leader.End()
	after := w.get(t, ours)
	for _, condition := range []string{clusterv1.ClusterTopologyReconciledCondition, clusterv1.ClusterRollingOutCondition} {
		was, is := conditions.Get(before, condition), conditions.Get(after, condition)
		if was == nil || is == nil || was.Message != is.Message || !was.LastTransitionTime.Equal(&is.LastTransitionTime) {
			t.Errorf("condition %s was %+v and is %+v, though nothing has changed", condition, was, is)
		}
	}
	described := w.clusterctl(t, "describe", "cluster", ours.Name, "--namespace="+ours.Namespace, "--show-conditions=Cluster", "--v1beta2")
	// Lines of the table are broken, and have the tree before them.
	told := slices.DeleteFunc(strings.Fields(described), func(word string) bool { return word == "│" })
	if !strings.Contains(strings.Join(told, " "), why) {
		t.Errorf("clusterctl describe does not say why the upgrade waits:\n%s", described)
	}
	w.eventually(t, "the Cluster of a foreign class is upgraded", func(context.Context) error { return w.runs(t, foreign, made36) })
	if addons := w.addon(t, foreign); addons != nil {
		t.Error("there is a ClusterAddon for a Cluster of a foreign class")
	}
}

// heldUpgradeIsTakenBack: Cluster API takes no lower version, even of an upgrade that has not begun, unless it is told not
// to check; then we do not either.
func (w *world) heldUpgradeIsTakenBack(t *testing.T) {
	if err := w.apply(t, v1, patch35); err == nil {
		t.Error("a lower version of Kubernetes was admitted")
	}
	unchecked := func(value string) {
		t.Helper()
		patch := client.RawPatch(types.MergePatchType, fmt.Appendf(nil, `{"metadata": {"annotations": {%q: %s}}}`, clusterv1.ClusterTopologyUnsafeUpdateVersionAnnotation, value))
		must(t, w.Patch(t.Context(), w.get(t, ours), patch))
	}
	unchecked(`""`)
	must(t, w.apply(t, v1, patch35))
	unchecked("null")
	w.reached(t, v1, patch35)
	w.has(t, "cni", "1")
	if text := w.text(t, "csi"); text != "" {
		t.Errorf("an addon of the upgrade that was taken back has %q", text)
	}
}

// otherReplicaBringsItToItsEnd: it leads since the lease of the one that was lost is over.
func (w *world) otherReplicaBringsItToItsEnd(t *testing.T) {
	must(t, w.apply(t, up, made36))
	w.eventually(t, "the upgrade is held", func(context.Context) error { return w.topology(t, "False", "stage csi waits for") })
	gate := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: "gate"}, Data: map[string]string{"open": "yes"}}
	must(t, w.workload.Create(t.Context(), gate))
	w.reached(t, up, made36)
	w.has(t, "cni", "3")
	w.has(t, "csi", "3")
}

// clusterLeavesForAForeignClass: nothing of the cluster is taken away, and nothing of the stack is held for it any more.
// Cluster API lets the class go that no Cluster names.
func (w *world) clusterLeavesForAForeignClass(t *testing.T) {
	patch := client.RawPatch(types.MergePatchType, []byte(`{"spec": {"topology": {"classRef": {"name": "`+clustertest.Class+`", "namespace": null}}}}`))
	must(t, w.Patch(t.Context(), w.get(t, ours), patch))
	w.eventually(t, "the ClusterAddon says that the Cluster is none of ours", func(context.Context) error {
		addon := w.addon(t, ours)
		if c := addon.Status.Conditions.Get(v1alpha1.ReadyCondition); c == nil || c.Reason != v1alpha1.NotAClusterStackReason {
			return fmt.Errorf("%s", operatortest.Describe(addon))
		}
		return nil
	})
	for _, stack := range []*v1alpha1.ClusterStack{w.stack("flows-1-35", "1.35"), w.stack("flows-1-36", "1.36")} {
		must(t, w.Delete(t.Context(), stack))
	}
	for _, tag := range []string{v1, v2, up} {
		w.eventually(t, "nothing is left of "+tag, func(ctx context.Context) error {
			for _, o := range []client.Object{apitest.ClusterStackRelease(platform, tag), provider(providerKind, tag)} {
				if err := w.Get(ctx, client.ObjectKeyFromObject(o), o); !apierrors.IsNotFound(err) {
					return fmt.Errorf("%T %s is there, %w", o, tag, err)
				}
			}
			if w.class(t, tag) != nil {
				return fmt.Errorf("its class is there")
			}
			return nil
		})
	}
	w.has(t, "cni", "3")
	w.has(t, "csi", "3")
}

// hooksAreCalledWhereTheSelectorSays: with the selector that the documentation gives the ExtensionConfig, Cluster API does
// not ask for a Cluster in a namespace without the label, wherever its class is, and asks again once the label is there.
func (w *world) hooksAreCalledWhereTheSelectorSays(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(operatortest.Root, "docs/how-to/install.md"))
	must(t, err)
	documented := regexp.MustCompile(`kubectl label namespace team-a (\S+)=(\S+)\nkubectl patch extensionconfig (\S+) --type merge \\\n  --patch '(.*)'\n`).FindStringSubmatch(string(page))
	if documented == nil {
		t.Fatal("the page has no selector")
	}
	extension := &runtimev1.ExtensionConfig{ObjectMeta: metav1.ObjectMeta{Name: documented[3]}}
	must(t, w.Patch(t.Context(), extension, client.RawPatch(types.MergePatchType, []byte(documented[4]))))
	w.eventually(t, "Cluster API has read the selector", func(ctx context.Context) error {
		must(t, w.Get(ctx, client.ObjectKeyFromObject(extension), extension))
		if c := conditions.Get(extension, runtimev1.ExtensionConfigDiscoveredCondition); c == nil || c.Status != metav1.ConditionTrue || c.ObservedGeneration != extension.Generation {
			return fmt.Errorf("%+v", c)
		}
		return nil
	})
	asked := func() map[string]int {
		t.Helper()
		found := map[string]int{}
		for _, hook := range []string{"BeforeClusterCreate", "AfterControlPlaneInitialized", "BeforeClusterUpgrade", "BeforeClusterDelete"} {
			n, err := w.idle.Answers(t.Context(), hook, "foreign")
			must(t, err)
			found[hook] = n
		}
		return found
	}
	before := asked()
	if before["BeforeClusterCreate"] == 0 || before["BeforeClusterUpgrade"] == 0 {
		t.Fatalf("nobody has ever asked for a foreign Cluster: %v", before)
	}

	apart := types.NamespacedName{Namespace: "apart", Name: "apart"}
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: apart.Namespace}}
	must(t, w.Create(t.Context(), namespace))
	cluster := clustertest.NewCluster(apart, made35, 1, 0)
	cluster.Spec.Topology.ClassRef.Namespace = team
	cluster.Spec.Topology.Workers = clusterv1.WorkersTopology{}
	must(t, w.Create(t.Context(), cluster))
	w.eventually(t, "the Cluster apart runs", func(context.Context) error { return w.runs(t, apart, made35) })
	if after := asked(); !maps.Equal(before, after) {
		t.Errorf("Cluster API has asked for a Cluster outside the selector: before %v, now %v", before, after)
	}

	must(t, w.Patch(t.Context(), namespace, client.RawPatch(types.MergePatchType, fmt.Appendf(nil, `{"metadata": {"labels": {%q: %q}}}`, documented[1], documented[2]))))
	must(t, w.Delete(t.Context(), w.get(t, apart)))
	w.eventually(t, "Cluster API asks for the Cluster again, and it goes", func(ctx context.Context) error {
		if err := w.Get(ctx, apart, &clusterv1.Cluster{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is there, %w", err)
		}
		if now := asked(); now["BeforeClusterDelete"] == before["BeforeClusterDelete"] {
			return fmt.Errorf("asked %v", now)
		}
		return nil
	})
}

// clustersStayEditableWhileTheOperatorIsDown, but for what only it can judge.
func (w *world) clustersStayEditableWhileTheOperatorIsDown(t *testing.T) {
	w.idle.End()
	for _, key := range []types.NamespacedName{ours, foreign} {
		patch := client.RawPatch(types.MergePatchType, []byte(`{"metadata": {"labels": {"edited": "yes"}}}`))
		must(t, w.Patch(t.Context(), w.get(t, key), patch))
	}
	dry := client.NewDryRunClient(w.WithWatch)
	if err := dry.Create(t.Context(), apitest.Cluster(team, "new", v1, made35)); err == nil || !apierrors.IsInternalError(err) {
		t.Errorf("a Cluster of a cluster stack: %v", err)
	}
	must(t, w.Delete(t.Context(), w.get(t, foreign)))
	w.eventually(t, "the Cluster of a foreign class is gone", func(ctx context.Context) error {
		err := w.Get(ctx, foreign, &clusterv1.Cluster{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("it is there, %w", err)
	})
}

// apply is `kubectl apply --server-side` of a manifest with another class, and with a version unless that is empty.
func (w *world) apply(t *testing.T, class, version string) error {
	t.Helper()
	name, err := release.ParseName(class)
	must(t, err)
	topology := map[string]any{"classRef": map[string]any{"name": name.ClassName(), "namespace": platform}}
	if version != "" {
		topology["version"] = version
	}
	manifest := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": clusterv1.GroupVersion.String(), "kind": clusterv1.ClusterKind,
		"metadata": map[string]any{"namespace": ours.Namespace, "name": ours.Name},
		"spec":     map[string]any{"topology": topology},
	}}
	return w.Apply(t.Context(), client.ApplyConfigurationFromUnstructured(manifest), client.FieldOwner("user"), client.ForceOwnership)
}

func (w *world) get(t *testing.T, key types.NamespacedName) *clusterv1.Cluster {
	t.Helper()
	cluster := &clusterv1.Cluster{}
	must(t, w.Get(t.Context(), key, cluster))
	return cluster
}

// addon is the ClusterAddon of a Cluster, nil if there is none.
func (w *world) addon(t *testing.T, key types.NamespacedName) *v1alpha1.ClusterAddon {
	t.Helper()
	addon := &v1alpha1.ClusterAddon{}
	err := w.Get(t.Context(), client.ObjectKey{Namespace: key.Namespace, Name: v1alpha1.ClusterAddonName(key.Name)}, addon)
	if apierrors.IsNotFound(err) {
		return nil
	}
	must(t, err)
	return addon
}

// class is the ClusterClass of a release, nil if there is none.
func (w *world) class(t *testing.T, tag string) *clusterv1.ClusterClass {
	t.Helper()
	class := &clusterv1.ClusterClass{}
	err := w.Get(t.Context(), client.ObjectKey{Namespace: platform, Name: tag}, class)
	if apierrors.IsNotFound(err) {
		return nil
	}
	must(t, err)
	return class
}

// topology says whether Cluster API says of our Cluster what is wanted.
func (w *world) topology(t *testing.T, status metav1.ConditionStatus, text string) error {
	t.Helper()
	c := conditions.Get(w.get(t, ours), clusterv1.ClusterTopologyReconciledCondition)
	if c == nil || c.Status != status || !strings.Contains(c.Message, text) {
		return fmt.Errorf("%+v", c)
	}
	return nil
}

// runs says whether a Cluster has a version of Kubernetes on all its machines.
func (w *world) runs(t *testing.T, key types.NamespacedName, version string) error {
	t.Helper()
	cluster := w.get(t, key)
	plane := cluster.Status.ControlPlane
	if plane == nil || len(plane.Versions) != 1 || plane.Versions[0].Version != version || !conditions.IsTrue(cluster, clusterv1.ClusterTopologyReconciledCondition) {
		return fmt.Errorf("%+v, %+v", plane, conditions.Get(cluster, clusterv1.ClusterTopologyReconciledCondition))
	}
	return nil
}

// reached waits until our Cluster has a version of Kubernetes and the addons of a release.
func (w *world) reached(t *testing.T, tag, version string) {
	t.Helper()
	w.eventually(t, fmt.Sprintf("the Cluster has %s and %s", tag, version), func(context.Context) error {
		if err := w.runs(t, ours, version); err != nil {
			return err
		}
		addon := w.addon(t, ours)
		if addon == nil || !addon.Status.Ready || addon.Spec.ClusterStack != tag {
			return fmt.Errorf("the ClusterAddon: %+v", addon)
		}
		return nil
	})
}

func (w *world) has(t *testing.T, name, want string) {
	t.Helper()
	if got := w.text(t, name); got != want {
		t.Errorf("%s of the addons has %q, want %q", name, got, want)
	}
}

// text is what an object of the addons says, nothing when it is not there.
func (w *world) text(t *testing.T, name string) string {
	t.Helper()
	cm := &corev1.ConfigMap{}
	w.eventually(t, "the workload cluster answers", func(ctx context.Context) error {
		return client.IgnoreNotFound(w.workload.Get(ctx, client.ObjectKey{Namespace: metav1.NamespaceSystem, Name: name}, cm))
	})
	return cm.Data["text"]
}

// clusterctl runs the real program and returns what it prints.
func (w *world) clusterctl(t *testing.T, args ...string) string {
	t.Helper()
	path, err := binaries.Clusterctl(t.Context(), func(line string) { t.Log(line) })
	must(t, err)
	cmd := exec.CommandContext(t.Context(), path, append(args, "--kubeconfig="+w.kubeconfig)...)
	cmd.Env = append(os.Environ(), "CLUSTERCTL_DISABLE_VERSIONCHECK=true", "XDG_CONFIG_HOME="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("clusterctl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// eventually looks again and again until something holds.
func (w *world) eventually(t *testing.T, what string, holds func(context.Context) error) {
	t.Helper()
	var last error
	err := wait.PollUntilContextTimeout(t.Context(), 250*time.Millisecond, patience, true, func(ctx context.Context) (bool, error) {
		last = holds(ctx)
		return last == nil, nil
	})
	if err != nil {
		t.Fatalf("waited in vain until %s: %v", what, last)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
