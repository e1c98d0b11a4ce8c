// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package infra

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-logr/logr/testr"
	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/failure"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/simulator/contract"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/simulator/controlplane"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/simulator/rehearsal"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/simulator/workload"
)

func TestKeys(t *testing.T) {
	machine := &clusterv1.Machine{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "m"}}
	if got := machineKeys(machine); len(got) != 0 {
		t.Errorf("a Machine without infrastructure leads to %v", got)
	}
	machine.Spec.InfrastructureRef = clusterv1.ContractVersionedObjectReference{APIGroup: "infrastructure.cluster.x-k8s.io", Kind: "OpenStackMachine", Name: "x"}
	want := []key{{
		schema.GroupKind{Group: "infrastructure.cluster.x-k8s.io", Kind: "OpenStackMachine"},
		types.NamespacedName{Namespace: "n", Name: "x"},
	}}
	if diff := cmp.Diff(want, machineKeys(machine)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestOwner(t *testing.T) {
	object := &unstructured.Unstructured{}
	object.SetOwnerReferences([]metav1.OwnerReference{
		{APIVersion: "addons.example.com/v1", Kind: "Cluster", Name: "other"},
		{APIVersion: "cluster.x-k8s.io/v1beta1", Kind: "Cluster", Name: "one"},
		{APIVersion: "controlplane.cluster.x-k8s.io/v1beta2", Kind: "KubeadmControlPlane", Name: "kcp"},
	})
	if got := owner(object, "Cluster"); got != "one" {
		t.Errorf("cluster %q, want the one of Cluster API's group in any version", got)
	}
	if got := owner(object, "Machine"); got != "" {
		t.Errorf("machine %q, want none", got)
	}
}

func TestClusterSpec(t *testing.T) {
	name := types.NamespacedName{Namespace: "n", Name: "c"}
	defaults := workload.Spec{NamespacedName: name, ServiceSubnet: "10.96.0.0/12", DNSDomain: "cluster.local"}
	lite := defaults
	lite.Lite = true
	cases := map[string]struct {
		why        string
		give       clusterv1.ClusterNetwork
		annotation string
		sandbox    Options
		want       workload.Spec
	}{
		"Defaults": {want: defaults},
		"Networks": {
			give: clusterv1.ClusterNetwork{
				Pods:          clusterv1.NetworkRanges{CIDRBlocks: []string{"192.168.0.0/16", "fd01::/64"}},
				Services:      clusterv1.NetworkRanges{CIDRBlocks: []string{"10.128.0.0/12"}},
				ServiceDomain: "c.example.com",
			},
			want: workload.Spec{NamespacedName: name, PodSubnet: "192.168.0.0/16,fd01::/64", ServiceSubnet: "10.128.0.0/12", DNSDomain: "c.example.com"},
		},
		"Lite":              {annotation: "lite", want: lite},
		"LiteSandbox":       {sandbox: Options{Lite: true}, want: lite},
		"FullInLiteSandbox": {why: "What the Cluster says counts more.", annotation: "full", sandbox: Options{Lite: true}, want: defaults},
		"Mistyped":          {why: "It is reported, and must not keep anybody from deleting the Cluster.", annotation: "light", want: defaults},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			cluster := &clusterv1.Cluster{
				ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "c"},
				Spec:       clusterv1.ClusterSpec{ClusterNetwork: c.give},
			}
			if c.annotation != "" {
				cluster.Annotations = map[string]string{ControlPlaneAnnotation: c.annotation}
			}
			if diff := cmp.Diff(c.want, (&infrastructure{Options: c.sandbox}).clusterSpec(cluster)); diff != "" {
				t.Errorf("%s -want +got:\n%s", c.why, diff)
			}
			if _, err := isLite(cluster); (err != nil) != (c.annotation == "light") {
				t.Errorf("annotation %q: %v", c.annotation, err)
			}
		})
	}
}

func TestIsNews(t *testing.T) {
	object := func(change func(map[string]any)) *unstructured.Unstructured {
		content := map[string]any{
			"metadata": map[string]any{"name": "x", "resourceVersion": "1"},
			"status":   map[string]any{"ready": true, "conditions": []any{map[string]any{"type": "Ready", "status": "True"}}},
		}
		change(content)
		return &unstructured.Unstructured{Object: content}
	}
	before := object(func(map[string]any) {})
	for name, tc := range map[string]struct {
		why    string
		change func(map[string]any)
		want   bool
	}{
		"Condition": {
			"Our own report of a failure would start the next try at once.",
			func(o map[string]any) {
				_ = unstructured.SetNestedField(o, "2", "metadata", "resourceVersion")
				_ = unstructured.SetNestedSlice(o, []any{map[string]any{"type": "Ready", "status": "False"}}, "status", "conditions")
			}, false,
		},
		"Status": {"Somebody took back that it is ready.", func(o map[string]any) { _ = unstructured.SetNestedField(o, false, "status", "ready") }, true},
		"Deletion": {"", func(o map[string]any) {
			_ = unstructured.SetNestedField(o, "2026-01-01T00:00:00Z", "metadata", "deletionTimestamp")
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			if got := isNews.Update(event.TypedUpdateEvent[*unstructured.Unstructured]{ObjectOld: before, ObjectNew: object(tc.change)}); got != tc.want {
				t.Errorf("got %t. %s", got, tc.why)
			}
		})
	}
}

// TestStartIsGivenUpWhenItsMachineIsDeleted and no other start is, nor the next one of the same name.
func TestStartIsGivenUpWhenItsMachineIsDeleted(t *testing.T) {
	var s starts
	one, other := key{NamespacedName: types.NamespacedName{Name: "one"}}, key{NamespacedName: types.NamespacedName{Name: "other"}}
	first, done := s.begin(t.Context(), one)
	beside, doneBeside := s.begin(t.Context(), other)
	defer doneBeside()
	s.giveUp(one)
	if cause := context.Cause(first); !errors.Is(cause, controlplane.ErrDeleted) {
		t.Errorf("the start ended with %v", cause)
	}
	done()
	s.giveUp(one)
	next, doneNext := s.begin(t.Context(), one)
	defer doneNext()
	if next.Err() != nil || beside.Err() != nil {
		t.Errorf("other starts ended: %v, %v", next.Err(), beside.Err())
	}
}

// TestNextInstances follows the steps until nothing is left to do.
func TestNextInstances(t *testing.T) {
	for name, tc := range map[string]struct {
		why         string
		now, wanted []string
		want        []string // what there is after each step
	}{
		"FromNothing": {why: "Instances of a new pool do not wait for each other.", wanted: []string{"a0", "a1", "a2"}, want: []string{"a0 a1 a2"}},
		"ScaleUp":     {now: []string{"a0"}, wanted: []string{"a0", "a1", "a2"}, want: []string{"a0 a1 a2"}},
		"ScaleDown":   {now: []string{"a0", "a1", "a2"}, wanted: []string{"a0"}, want: []string{"a0"}},
		"ToNothing":   {now: []string{"a0", "a1"}, want: []string{""}},
		"Rollout": {
			why: "Never less than wanted, at most one more.",
			now: []string{"a0", "a1"}, wanted: []string{"b0", "b1"},
			want: []string{"a0 a1 b0", "a1 b0", "a1 b0 b1", "b0 b1"},
		},
		"RolloutOfAPoolThatGrows":   {now: []string{"a0"}, wanted: []string{"b0", "b1"}, want: []string{"a0 b0", "a0 b0 b1", "b0 b1"}},
		"RolloutOfAPoolThatShrinks": {now: []string{"a0", "a1", "a2"}, wanted: []string{"b0"}, want: []string{"a2", "a2 b0", "b0"}},
		"RolloutThatIsTakenBack":    {now: []string{"a1", "b0"}, wanted: []string{"a0", "a1"}, want: []string{"a1 b0 a0", "a1 a0"}},
	} {
		t.Run(name, func(t *testing.T) {
			now := tc.now
			var got []string
			for len(got) < 10 {
				start, stop := nextInstances(now, tc.wanted)
				if len(start) == 0 && len(stop) == 0 {
					break
				}
				now = without(append(slices.Clone(now), start...), stop)
				got = append(got, strings.Join(now, " "))
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s %s", diff, tc.why)
			}
		})
	}
}

// TestInstances: what an instance is made of shows in its name.
func TestInstances(t *testing.T) {
	pool := func(change func(*clusterv1.MachinePool)) *clusterv1.MachinePool {
		p := &clusterv1.MachinePool{Spec: clusterv1.MachinePoolSpec{Replicas: ptr.To[int32](2)}}
		p.Spec.Template.Spec.Version = "v1.35.4"
		p.Spec.Template.Spec.Bootstrap.DataSecretName = ptr.To("data")
		change(p)
		return p
	}
	object := func(spec map[string]any) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{"metadata": map[string]any{"name": "p"}, "spec": spec}}
	}
	same := func(*clusterv1.MachinePool) {}
	plain := object(map[string]any{"flavor": "small"})
	name := func(p *clusterv1.MachinePool, o *unstructured.Unstructured) string {
		t.Helper()
		got, err := instances(p, o)
		if err != nil || len(got) == 0 {
			t.Fatal(got, err)
		}
		return got[0]
	}
	first := name(pool(same), plain)
	for change, c := range map[string]struct {
		pool    *clusterv1.MachinePool
		object  *unstructured.Unstructured
		another bool
	}{
		"Replicas":      {pool(func(p *clusterv1.MachinePool) { p.Spec.Replicas = ptr.To[int32](3) }), plain, false},
		"OwnList":       {pool(same), object(map[string]any{"flavor": "small", "providerIDList": []any{"sandbox:///n/" + first}}), false},
		"Version":       {pool(func(p *clusterv1.MachinePool) { p.Spec.Template.Spec.Version = "v1.36.3" }), plain, true},
		"BootstrapData": {pool(func(p *clusterv1.MachinePool) { p.Spec.Template.Spec.Bootstrap.DataSecretName = ptr.To("other") }), plain, true},
		"Infra":         {pool(same), object(map[string]any{"flavor": "large"}), true},
	} {
		if got := name(c.pool, c.object); (got != first) != c.another {
			t.Errorf("%s: %s after %s", change, got, first)
		}
	}
}

func TestSettled(t *testing.T) {
	resource := schema.GroupResource{Resource: "things"}
	cases := map[string]struct {
		err  error
		want bool
	}{
		"Conflict": {apierrors.NewConflict(resource, "x", errors.New("changed")), true},
		"Gone":     {apierrors.NewNotFound(resource, "x"), true},
		"Other":    {errors.New("broken"), false},
		// No event of the management cluster follows, so the machine would stay as it is forever.
		"Workload": {workloadError{apierrors.NewNotFound(resource, "x")}, false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if got := settled(c.err) == nil; got != c.want {
				t.Errorf("got %t, want %t", got, c.want)
			}
		})
	}
}

// vanished is a management cluster in which an object is deleted before anything could be written to it.
type vanished struct{ client.Client }

func (vanished) Patch(_ context.Context, object client.Object, _ client.Patch, _ ...client.PatchOption) error {
	return apierrors.NewNotFound(schema.GroupResource{Resource: "things"}, object.GetName())
}

// TestNothingIsMadeForAnObjectThatVanishes: without a finalizer nobody would hear that it has to go again, and the
// next cluster of that name would get the networks of this one.
func TestNothingIsMadeForAnObjectThatVanishes(t *testing.T) {
	fleet, err := workload.New(workload.Options{Dir: t.TempDir(), Prefix: netip.MustParsePrefix("127.62.0.0/16"), Log: testr.New(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { fleet.Close(context.WithoutCancel(t.Context())) })
	object := func() *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{"metadata": map[string]any{"namespace": "n", "name": "x"}}}
	}
	cluster := &clusterv1.Cluster{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "c"}}
	shared := &infrastructure{client: vanished{}}
	for name, provision := range map[string]func() error{
		"Cluster": func() error {
			return (&clusterReconciler{infrastructure: shared, fleet: fleet}).provision(t.Context(), object(), contract.V1Beta2, cluster, failure.ClusterEffects{})
		},
		"Machine": func() error {
			return (&machineReconciler{infrastructure: shared, fleet: fleet}).provision(t.Context(), object(), contract.V1Beta2, cluster, &clusterv1.Machine{}, failure.MachineEffects{})
		},
	} {
		if err := provision(); !apierrors.IsNotFound(err) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := fleet.Open(t.Context(), shared.clusterSpec(cluster)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: the cluster was made (%v)", name, err)
		}
	}
}

// readable is a management cluster of which these objects can be read.
type readable struct {
	client.Client
	crd      metav1.PartialObjectMetadata
	object   *unstructured.Unstructured
	cluster  *clusterv1.Cluster
	failures []failure.Failure
}

func (r *readable) Get(_ context.Context, _ client.ObjectKey, into client.Object, _ ...client.GetOption) error {
	switch into := into.(type) {
	case *metav1.PartialObjectMetadata:
		r.crd.DeepCopyInto(into)
	case *unstructured.Unstructured:
		r.object.DeepCopyInto(into)
	case *clusterv1.Cluster:
		r.cluster.DeepCopyInto(into)
	}
	return nil
}

func (r *readable) List(_ context.Context, into client.ObjectList, _ ...client.ListOption) error {
	into.(*failure.FailureList).Items = r.failures
	return nil
}

// TestFailuresOfAClusterThatIsDeleted: hooks may hold a Cluster for minutes after its deletion was asked for.
func TestFailuresOfAClusterThatIsDeleted(t *testing.T) {
	fleet, err := workload.New(workload.Options{Dir: t.TempDir(), Prefix: netip.MustParsePrefix("127.62.0.0/16"), Log: testr.New(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { fleet.Close(context.WithoutCancel(t.Context())) })
	kind := schema.GroupVersionKind{Group: "infrastructure.cluster.x-k8s.io", Version: "v1beta1", Kind: "ThingCluster"}
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(kind)
	object.SetNamespace("n")
	object.SetName("x")
	object.SetLabels(map[string]string{clusterv1.ClusterNameLabel: "c"})
	management := &readable{
		crd:     metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"cluster.x-k8s.io/v1beta1": "v1beta1"}}},
		object:  object,
		cluster: &clusterv1.Cluster{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "c", DeletionTimestamp: ptr.To(metav1.Now())}},
	}
	r := &clusterReconciler{
		infrastructure: &infrastructure{client: management, watched: map[schema.GroupVersionKind]bool{kind: true}},
		fleet:          fleet, failures: rehearsal.New(management, fleet),
	}
	running, err := fleet.Ensure(t.Context(), r.clusterSpec(management.cluster), workload.Owner{}, netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	// answer is what a client gets from the load balancer, which has nobody to forward to, within a time.
	answer := func(within time.Duration) error {
		t.Helper()
		if _, err := r.Reconcile(t.Context(), key{kind.GroupKind(), types.NamespacedName{Namespace: "n", Name: "x"}}); err != nil {
			t.Fatal(err)
		}
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", running.Endpoint().String())
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := conn.SetReadDeadline(time.Now().Add(within)); err != nil {
			t.Fatal(err)
		}
		_, err = conn.Read(make([]byte, 1))
		return err
	}
	management.failures = []failure.Failure{{Spec: failure.Spec{ClusterName: "c", Type: failure.LoadBalancerRefuses}}}
	if err := answer(time.Minute); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("while the failure is there: %v, want a reset connection", err)
	}
	management.failures = nil
	if err := answer(200 * time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after it: %v, want a connection that waits", err)
	}
}

// pruning is a management cluster whose kinds lack the field for the instances of a pool.
type pruning struct{ client.Client }

func (pruning) Patch(_ context.Context, object client.Object, _ client.Patch, _ ...client.PatchOption) error {
	unstructured.RemoveNestedField(object.(*unstructured.Unstructured).Object, "spec", "providerIDList")
	return nil
}

// TestPoolThatKeepsNoList: without its list each look would find that all instances are missing, forever.
func TestPoolThatKeepsNoList(t *testing.T) {
	pool := &unstructured.Unstructured{Object: map[string]any{"kind": "AnyMachinePool", "spec": map[string]any{}}}
	r := &poolReconciler{infrastructure: &infrastructure{client: pruning{}}}
	err := r.list(t.Context(), pool, []string{"sandbox:///n/p-0"})
	if err == nil || !strings.Contains(err.Error(), "AnyMachinePool has no field spec.providerIDList") {
		t.Errorf("got %v", err)
	}
}
