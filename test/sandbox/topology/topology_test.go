// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package topology proves that what users write below a Cluster's spec.topology has the effects in a sandbox that it
// has elsewhere: what rolls machines, what reaches them as they are, and who decides about the number of workers.
package topology

import (
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	controlplanev1 "sigs.k8s.io/cluster-api/api/controlplane/kubeadm/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/cluster-api/util/conditions"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
	"github.com/clusterstacks/cluster-stack-operator/test/sandbox/clustertest"
)

func TestMain(m *testing.M) { sandboxtest.Main(m) }

const (
	version = "v1.36.3"
	// patience is for one change, many times what it takes: the machine may be busy.
	patience = 5 * time.Minute

	static, scaled = "static", "scaled" // the groups of workers
)

var key = types.NamespacedName{Namespace: "topology", Name: "shaped"}

// TestTopology walks through changes of one Cluster.
func TestTopology(t *testing.T) {
	mgmt := clustertest.New(t, sandboxtest.Management(t))
	mgmt.Namespace(t, key.Namespace)
	clustertest.Apply(t, mgmt, key.Namespace, "testdata/class.yaml")
	cluster := clustertest.NewCluster(key, version, 1, 1)
	topology := &cluster.Spec.Topology
	topology.ClassRef.Name = "variable"
	topology.Workers.MachineDeployments[0].Name = static
	topology.Workers.MachineDeployments = append(topology.Workers.MachineDeployments, clusterv1.MachineDeploymentTopology{
		Class: clustertest.Workers, Name: scaled,
		Metadata: clusterv1.ObjectMeta{Annotations: map[string]string{
			clusterv1.AutoscalerMinSizeAnnotation: "2", clusterv1.AutoscalerMaxSizeAnnotation: "4",
		}},
		// All at once: Cluster API looks at a machine that it drains only every 20 s.
		Rollout: clusterv1.MachineDeploymentTopologyRolloutSpec{Strategy: clusterv1.MachineDeploymentTopologyRolloutStrategy{
			Type: clusterv1.RollingUpdateMachineDeploymentStrategyType,
			RollingUpdate: clusterv1.MachineDeploymentTopologyRolloutStrategyRollingUpdate{
				MaxSurge: ptr.To(intstr.FromInt32(3)), MaxUnavailable: ptr.To(intstr.FromInt32(0)),
			},
		}},
	})
	begin := time.Now()
	if err := mgmt.Create(t.Context(), cluster); err != nil {
		t.Fatal(err)
	}
	workload := mgmt.Workload(t, patience, key)
	clustertest.InstallNetwork(t, workload)
	w := &walk{mgmt: mgmt, workload: workload}
	w.settle(t)
	t.Logf("available after %s", time.Since(begin).Round(time.Second))

	for _, stage := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"AutoscalerDecides", w.autoscaler},
		{"ArgumentsOfTheClass", w.arguments},
		{"HealthChecksOfTheClass", w.healthChecks},
		{"ChangesInPlace", w.inPlace},
		{"VariableThatRollsTheControlPlane", w.rollControlPlane},
		{"VariableThatRollsWorkers", w.rollWorkers},
	} {
		begin := time.Now()
		if !t.Run(stage.name, stage.run) {
			t.FailNow() // each stage goes on from where the one before has ended
		}
		t.Logf("%s took %s", stage.name, time.Since(begin).Round(time.Second))
	}
	mgmt.DeleteCluster(t, patience, key)
}

type walk struct {
	mgmt     *clustertest.Management
	workload client.WithWatch
}

// autoscaler plays one: with bounds and without a number in the Cluster, the number of machines is the autoscaler's.
func (w *walk) autoscaler(t *testing.T) {
	if got := len(w.machines(t, scaled)); got != 2 {
		t.Fatalf("%d machines, want as many as the annotation has for the least", got)
	}
	group := w.group(t, scaled)
	if err := w.mgmt.Patch(t.Context(), group, client.RawPatch(types.MergePatchType, []byte(`{"spec":{"replicas":3}}`))); err != nil {
		t.Fatal(err)
	}
	w.settle(t)
	if got := len(w.machines(t, scaled)); got != 3 {
		t.Errorf("%d machines, want the 3 that the autoscaler asked for", got)
	}
	// Any change makes Cluster API write its groups anew; the number has to survive that.
	w.change(t, func(topology *clusterv1.Topology) {
		topology.Workers.MachineDeployments[1].Metadata.Labels = map[string]string{"example.com/touched": "yes"}
	})
	clustertest.Await(t, w.mgmt, patience, &clusterv1.MachineDeploymentList{}, func(groups *clusterv1.MachineDeploymentList) error {
		for _, g := range groups.Items {
			if g.Spec.Template.Labels["example.com/touched"] == "yes" {
				return nil
			}
		}
		return errors.New("the change has not arrived")
	}, client.InNamespace(key.Namespace))
	w.settle(t)
	if got := len(w.machines(t, scaled)); got != 3 {
		t.Errorf("%d machines after a change of the Cluster, want the autoscaler's 3", got)
	}
}

// arguments looks at what a class sets for the programs of the control plane.
func (w *walk) arguments(t *testing.T) {
	args := map[string][]string{}
	for _, p := range w.mgmt.Programs(t, key) {
		args[p.Name] = p.Args
	}
	for program, want := range map[string][]string{
		"kube-apiserver":          {"--event-ttl=1h0m0s"},
		"kube-controller-manager": {"--node-monitor-grace-period=40s"},
		"kube-scheduler":          {"--profiling=false"},
	} {
		for _, arg := range want {
			if !slices.Contains(args[program], arg) {
				t.Errorf("%s has not %s: %q", program, arg, args[program])
			}
		}
	}
	for program, unwanted := range map[string]string{"kube-apiserver": "--audit-policy-file", "kube-controller-manager": "--bind-address"} {
		if slices.ContainsFunc(args[program], func(arg string) bool { return strings.HasPrefix(arg, unwanted) }) {
			t.Errorf("%s has %s, which cannot work in a sandbox", program, unwanted)
		}
	}
	endpoint := strings.TrimPrefix(w.mgmt.Kubeconfig(t, patience, key).Host, "https://")
	conn, err := (&tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}).DialContext(t.Context(), "tcp", endpoint) //nolint:gosec // only its names are looked at
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	certificate := conn.(*tls.Conn).ConnectionState().PeerCertificates[0]
	for _, name := range []string{"api.example.com", "203.0.113.7"} {
		if err := certificate.VerifyHostname(name); err != nil {
			t.Error(err)
		}
	}
}

// healthChecks come from the class; a Cluster can switch them off for a part.
func (w *walk) healthChecks(t *testing.T) {
	checks := func(want int) {
		clustertest.Await(t, w.mgmt, patience, &clusterv1.MachineHealthCheckList{}, func(list *clusterv1.MachineHealthCheckList) error {
			if len(list.Items) != want {
				return fmt.Errorf("%d health checks, want %d", len(list.Items), want)
			}
			for i := range list.Items {
				if c := &list.Items[i]; ptr.Deref(c.Status.CurrentHealthy, -1) != ptr.Deref(c.Status.ExpectedMachines, -2) {
					return fmt.Errorf("health check %s: %d of %d machines", c.Name, ptr.Deref(c.Status.CurrentHealthy, -1), ptr.Deref(c.Status.ExpectedMachines, -2))
				}
			}
			return nil
		}, client.InNamespace(key.Namespace))
	}
	checks(3)
	w.change(t, func(topology *clusterv1.Topology) {
		topology.Workers.MachineDeployments[0].HealthCheck.Enabled = ptr.To(false)
	})
	checks(2)
}

// inPlace changes what Cluster API propagates to machines as they are.
func (w *walk) inPlace(t *testing.T) {
	before := w.names(t)
	const forNodes = "node.cluster.x-k8s.io/team" // by its prefix
	w.change(t, func(topology *clusterv1.Topology) {
		controlPlane, workers := &topology.ControlPlane, &topology.Workers.MachineDeployments[0]
		controlPlane.Metadata.Labels = map[string]string{forNodes: "blue", "example.com/team": "blue"}
		controlPlane.Metadata.Annotations = map[string]string{"example.com/note": "in place"}
		controlPlane.Deletion.NodeDrainTimeoutSeconds = ptr.To[int32](30)
		workers.Metadata.Labels = map[string]string{forNodes: "green", "example.com/team": "green"}
		workers.Metadata.Annotations = map[string]string{"example.com/note": "in place"}
		workers.Deletion.NodeDrainTimeoutSeconds = ptr.To[int32](30)
		workers.MinReadySeconds = ptr.To[int32](1)
	})
	team := func(m *clusterv1.Machine) string {
		switch m.Labels[clusterv1.ClusterTopologyMachineDeploymentNameLabel] {
		case static:
			return "green"
		case "": // the control plane
			return "blue"
		}
		return ""
	}
	teams := map[string]string{}
	clustertest.Await(t, w.mgmt, patience, &clusterv1.MachineList{}, func(machines *clusterv1.MachineList) error {
		for i := range machines.Items {
			m := &machines.Items[i]
			want := team(m)
			teams[m.Name] = want
			if want == "" {
				continue
			}
			if m.Labels["example.com/team"] != want || m.Annotations["example.com/note"] != "in place" || ptr.Deref(m.Spec.Deletion.NodeDrainTimeoutSeconds, 0) != 30 {
				return fmt.Errorf("machine %s: labels %v, annotations %v, drain timeout %v", m.Name, m.Labels, m.Annotations, m.Spec.Deletion.NodeDrainTimeoutSeconds)
			}
		}
		return nil
	}, client.InNamespace(key.Namespace))
	clustertest.Await(t, w.workload, patience, &corev1.NodeList{}, func(nodes *corev1.NodeList) error {
		for i := range nodes.Items {
			n := &nodes.Items[i]
			if n.Labels[forNodes] != teams[n.Name] {
				return fmt.Errorf("node %s has the labels %v, want %s=%s", n.Name, n.Labels, forNodes, teams[n.Name])
			}
			if got, ok := n.Labels["example.com/team"]; ok {
				return fmt.Errorf("node %s has the label example.com/team=%s, which is for its Machine only", n.Name, got)
			}
		}
		return nil
	})
	w.settle(t)
	if diff := cmp.Diff(before, w.names(t)); diff != "" {
		t.Errorf("machines were replaced for a change in place (-before +after):\n%s", diff)
	}
}

// rollControlPlane changes an argument of the API server.
func (w *walk) rollControlPlane(t *testing.T) {
	before := w.names(t)
	w.setVariable(t, "eventTTL", `"2h0m0s"`)
	w.awaitReplaced(t, before[""])
	w.settle(t)
	for _, p := range w.mgmt.Programs(t, key) {
		if p.Name == "kube-apiserver" && !slices.Contains(p.Args, "--event-ttl=2h0m0s") {
			t.Errorf("the API server of %s has %q", p.Machine, p.Args)
		}
	}
	after := w.names(t)
	delete(before, "")
	delete(after, "")
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("workers were replaced for a change of the control plane (-before +after):\n%s", diff)
	}
}

// rollWorkers changes a label that a kubelet registers with.
func (w *walk) rollWorkers(t *testing.T) {
	before := w.names(t)
	w.setVariable(t, "pool", `"special"`)
	w.awaitReplaced(t, slices.Concat(before[static], before[scaled]))
	w.settle(t)
	if diff := cmp.Diff(before[""], w.names(t)[""]); diff != "" {
		t.Errorf("the control plane was replaced for a change of workers (-before +after):\n%s", diff)
	}
	for _, group := range []string{static, scaled} {
		for _, name := range w.machines(t, group) {
			node := &corev1.Node{}
			if err := w.workload.Get(t.Context(), types.NamespacedName{Name: name}, node); err != nil {
				t.Fatal(err)
			}
			if node.Labels["example.com/pool"] != "special" || node.Labels["example.com/group"] != group {
				t.Errorf("node %s of group %s has the labels %v", name, group, node.Labels)
			}
		}
	}
}

func (w *walk) change(t *testing.T, edit func(*clusterv1.Topology)) {
	t.Helper()
	cluster := &clusterv1.Cluster{}
	if err := w.mgmt.Get(t.Context(), key, cluster); err != nil {
		t.Fatal(err)
	}
	before := cluster.DeepCopy()
	edit(&cluster.Spec.Topology)
	if err := w.mgmt.Patch(t.Context(), cluster, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
}

func (w *walk) setVariable(t *testing.T, name, value string) {
	t.Helper()
	w.change(t, func(topology *clusterv1.Topology) {
		topology.Variables = slices.DeleteFunc(topology.Variables, func(v clusterv1.ClusterVariable) bool { return v.Name == name })
		topology.Variables = append(topology.Variables, clusterv1.ClusterVariable{Name: name, Value: apiextensionsv1.JSON{Raw: []byte(value)}})
	})
}

// settle waits until Cluster API has nothing to do any more for what the Cluster says now.
func (w *walk) settle(t *testing.T) {
	t.Helper()
	w.mgmt.AwaitCluster(t, patience, key, func(c *clusterv1.Cluster) error {
		reconciled := conditions.Get(c, clusterv1.ClusterTopologyReconciledCondition)
		if reconciled == nil || reconciled.ObservedGeneration != c.Generation {
			return fmt.Errorf("topology of Cluster %s: not looked at yet", c.Name)
		}
		if conditions.IsTrue(c, clusterv1.ClusterRollingOutCondition) || conditions.IsTrue(c, clusterv1.ClusterScalingUpCondition) || conditions.IsTrue(c, clusterv1.ClusterScalingDownCondition) {
			return fmt.Errorf("Cluster %s is rolling or scaling", c.Name)
		}
		return errors.Join(clustertest.Holds(clusterv1.ClusterTopologyReconciledCondition)(c), clustertest.Holds(clusterv1.ClusterAvailableCondition)(c))
	})
	clustertest.Await(t, w.mgmt, patience, &controlplanev1.KubeadmControlPlaneList{}, func(list *controlplanev1.KubeadmControlPlaneList) error {
		for i := range list.Items {
			kcp := &list.Items[i]
			if kcp.Status.ObservedGeneration != kcp.Generation || ptr.Deref(kcp.Status.UpToDateReplicas, 0) != 1 || ptr.Deref(kcp.Status.Replicas, 0) != 1 {
				return fmt.Errorf("control plane: %d machines, %d up to date", ptr.Deref(kcp.Status.Replicas, 0), ptr.Deref(kcp.Status.UpToDateReplicas, 0))
			}
		}
		return nil
	}, client.InNamespace(key.Namespace))
	clustertest.Await(t, w.mgmt, patience, &clusterv1.MachineDeploymentList{}, func(list *clusterv1.MachineDeploymentList) error {
		for i := range list.Items {
			g := &list.Items[i]
			want := ptr.Deref(g.Spec.Replicas, 0)
			if g.Status.ObservedGeneration != g.Generation || ptr.Deref(g.Status.Replicas, 0) != want || ptr.Deref(g.Status.UpToDateReplicas, 0) != want || ptr.Deref(g.Status.AvailableReplicas, 0) != want {
				return fmt.Errorf("%s: of %d machines there are %d, up to date %d, available %d", g.Name, want,
					ptr.Deref(g.Status.Replicas, 0), ptr.Deref(g.Status.UpToDateReplicas, 0), ptr.Deref(g.Status.AvailableReplicas, 0))
			}
		}
		return nil
	}, client.InNamespace(key.Namespace))
}

// names gives the machines of each group of workers; those of the control plane have an empty name.
func (w *walk) names(t *testing.T) map[string][]string {
	t.Helper()
	machines := &clusterv1.MachineList{}
	if err := w.mgmt.List(t.Context(), machines, client.InNamespace(key.Namespace)); err != nil {
		t.Fatal(err)
	}
	names := map[string][]string{}
	for _, m := range machines.Items {
		group := m.Labels[clusterv1.ClusterTopologyMachineDeploymentNameLabel]
		names[group] = append(names[group], m.Name)
	}
	for list := range maps.Values(names) {
		slices.Sort(list)
	}
	return names
}

func (w *walk) machines(t *testing.T, group string) []string {
	t.Helper()
	return w.names(t)[group]
}

func (w *walk) group(t *testing.T, name string) *clusterv1.MachineDeployment {
	t.Helper()
	groups := &clusterv1.MachineDeploymentList{}
	if err := w.mgmt.List(t.Context(), groups, client.InNamespace(key.Namespace), client.MatchingLabels{clusterv1.ClusterTopologyMachineDeploymentNameLabel: name}); err != nil {
		t.Fatal(err)
	}
	if len(groups.Items) != 1 {
		t.Fatalf("%d groups of the name %s", len(groups.Items), name)
	}
	return &groups.Items[0]
}

// awaitReplaced waits until none of the machines is left.
func (w *walk) awaitReplaced(t *testing.T, old []string) {
	t.Helper()
	clustertest.Await(t, w.mgmt, patience, &clusterv1.MachineList{}, func(machines *clusterv1.MachineList) error {
		for _, m := range machines.Items {
			if slices.Contains(old, m.Name) {
				return fmt.Errorf("machine %s is still there", m.Name)
			}
		}
		return nil
	}, client.InNamespace(key.Namespace))
}
