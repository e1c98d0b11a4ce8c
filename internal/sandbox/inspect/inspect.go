// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package inspect tells how a workload cluster of a sandbox is: what Cluster API says about it, what the kernel says
// about its programs, and what these answer when they are asked.
//
// It looks from outside and relies on nothing that the sandbox remembers, so that it can tell when the two differ.
package inspect

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/failure"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/process"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/simulator/infra"
)

// Cluster is how a workload cluster is.
type Cluster struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// Class is the ClusterClass, with its namespace if that is another one; empty without topology.
	Class string `json:"class,omitempty"`
	// Version of Kubernetes that is wanted, with a leading v.
	Version string `json:"version,omitempty"`
	Phase   string `json:"phase"`
	// Size is lite or full where the Cluster says it; else it is as the sandbox makes them.
	Size string `json:"size,omitempty"`
	// SharedEtcd says where its objects are when it has no etcd of its own.
	SharedEtcd string `json:"sharedEtcd,omitempty"`
	// Endpoint is the URL of the load balancer; empty before there is one.
	Endpoint string `json:"endpoint,omitempty"`
	// Problems are the conditions of the Cluster that tell what is missing.
	Problems []Condition `json:"problems,omitempty"`
	// MemoryBytes is what its programs take together.
	MemoryBytes int64     `json:"memoryBytes"`
	Machines    []Machine `json:"machines"`
	Pools       []Pool    `json:"pools,omitempty"`
	Programs    []Program `json:"programs"`
	Addons      *Addons   `json:"addons,omitempty"`
	Failures    []Failure `json:"failures,omitempty"`
	// Logs is the folder with the logs of its programs.
	Logs string `json:"logs"`
}

// Condition is one that is not as it should be.
type Condition struct {
	Type    string `json:"type"`
	Status  string `json:"status"`
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
}

// Machine is one machine as Cluster API has it.
type Machine struct {
	Name string `json:"name"`
	// ControlPlane tells the machines with etcd and API server from workers.
	ControlPlane bool   `json:"controlPlane,omitempty"`
	Version      string `json:"version,omitempty"`
	Address      string `json:"address,omitempty"`
	Phase        string `json:"phase"`
	// NodeReady is True, False or Unknown; empty before there is a Node.
	NodeReady string `json:"nodeReady,omitempty"`
	// Problems are the conditions that say why the machine is not ready.
	Problems []Condition `json:"problems,omitempty"`
}

// Pool is a MachinePool, whose instances are Nodes without Machines.
type Pool struct {
	Name     string `json:"name"`
	Version  string `json:"version,omitempty"`
	Phase    string `json:"phase"`
	Replicas int32  `json:"replicas"`
	Ready    int32  `json:"ready"`
	// Wanted is how many there are to be.
	Wanted int32 `json:"wanted"`
}

// Program is one program of the cluster.
type Program struct {
	Name string `json:"name"`
	// Machine that it belongs to; empty for those that a cluster has once.
	Machine string       `json:"machine,omitempty"`
	State   ProgramState `json:"state"`
	PID     int          `json:"pid,omitempty"`
	Since   time.Time    `json:"since,omitzero"`
	// MemoryBytes is its proportional set size.
	MemoryBytes int64 `json:"memoryBytes,omitempty"`
	// Address is where it answers, and Health what it says there; empty for programs that nobody asks.
	Address string `json:"address,omitempty"`
	Health  string `json:"health,omitempty"`
}

// ProgramState is what the kernel says about a program.
type ProgramState string

// The states of a program.
const (
	Running ProgramState = "Running"
	// Suspended is a program that was stopped by a signal and answers nobody until it is continued.
	Suspended ProgramState = "Suspended"
	// NotRunning is a program that has a log and no process.
	NotRunning ProgramState = "NotRunning"
)

// Addons is how far the addons of the cluster are.
type Addons struct {
	Applied string  `json:"applied,omitempty"`
	Target  string  `json:"target,omitempty"`
	Ready   bool    `json:"ready"`
	Message string  `json:"message,omitempty"`
	Stages  []Stage `json:"stages,omitempty"`
}

// Stage is one addon on its way into the cluster.
type Stage struct {
	Name    string `json:"name"`
	Phase   string `json:"phase,omitempty"`
	Message string `json:"message,omitempty"`
}

// Failure is one that is being rehearsed in the cluster.
type Failure struct {
	// Name is NAMESPACE/NAME, as csctl sandbox heal takes it.
	Name   string `json:"name"`
	Type   string `json:"type"`
	Active bool   `json:"active"`
	// Message says what it hits.
	Message string `json:"message,omitempty"`
}

// Client reads what Describe needs from a management cluster.
func Client(config *rest.Config) (client.Client, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clusterv1.AddToScheme, v1alpha1.AddToScheme, failure.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	return client.New(config, client.Options{Scheme: scheme})
}

// Describe tells how a cluster is. Folder is where the sandbox keeps the files of that cluster. It is a NotFound error
// of the API when there is no such Cluster.
func Describe(ctx context.Context, c client.Reader, key types.NamespacedName, folder string) (Cluster, error) {
	object := &clusterv1.Cluster{}
	if err := c.Get(ctx, key, object); err != nil {
		return Cluster{}, err
	}
	machines, pools := &clusterv1.MachineList{}, &clusterv1.MachinePoolList{}
	for _, list := range []client.ObjectList{machines, pools} {
		if err := c.List(ctx, list, client.InNamespace(key.Namespace), client.MatchingLabels{clusterv1.ClusterNameLabel: key.Name}); err != nil {
			return Cluster{}, err
		}
	}
	result := describeCluster(object)
	result.Logs = folder
	for i := range machines.Items {
		result.Machines = append(result.Machines, describeMachine(&machines.Items[i]))
	}
	slices.SortFunc(result.Machines, func(a, b Machine) int {
		if a.ControlPlane != b.ControlPlane {
			if a.ControlPlane {
				return -1
			}
			return 1
		}
		return strings.Compare(a.Name, b.Name)
	})

	for i := range pools.Items {
		result.Pools = append(result.Pools, describePool(&pools.Items[i]))
	}

	// The kernel tells of folders without links on the way to them. One that is not there yet has nothing in it.
	if resolved, err := filepath.EvalSymlinks(folder); err == nil {
		folder = resolved
	}
	running, err := runningBelow(folder)
	if err != nil {
		return Cluster{}, err
	}
	logs, err := filepath.Glob(filepath.Join(folder, machinesFolder, "*", "*.log"))
	if err != nil {
		return Cluster{}, err
	}
	result.Programs = programs(folder, running, logs)
	result.SharedEtcd = sharedEtcd(running)
	for _, p := range result.Programs {
		result.MemoryBytes += p.MemoryBytes
	}
	askPrograms(ctx, result.Programs, running)

	if result.Addons, err = addons(ctx, c, key); err != nil {
		return Cluster{}, err
	}
	all, err := Failures(ctx, c, key.Namespace)
	if err != nil {
		return Cluster{}, err
	}
	result.Failures = all[key.Name]
	return result, nil
}

func describeCluster(c *clusterv1.Cluster) Cluster {
	result := Cluster{
		Namespace: c.Namespace, Name: c.Name, Version: c.Spec.Topology.Version, Phase: c.Status.Phase,
		Class: c.Spec.Topology.ClassRef.Name, Size: c.Annotations[infra.ControlPlaneAnnotation], Machines: []Machine{}, Problems: problems(c.Status.Conditions, clusterv1.ClusterAvailableCondition),
	}
	if from := c.Spec.Topology.ClassRef.Namespace; from != "" && from != c.Namespace {
		result.Class = from + "/" + result.Class
	}
	if endpoint := c.Spec.ControlPlaneEndpoint; endpoint.IsValid() {
		result.Endpoint = fmt.Sprintf("https://%s:%d", endpoint.Host, endpoint.Port)
	}
	if c.DeletionTimestamp != nil {
		result.Phase = "Deleting"
		result.Problems = append(result.Problems, problems(c.Status.Conditions, clusterv1.ClusterDeletingCondition)...)
	}
	return result
}

func describeMachine(m *clusterv1.Machine) Machine {
	_, controlPlane := m.Labels[clusterv1.MachineControlPlaneLabel]
	result := Machine{
		Name: m.Name, ControlPlane: controlPlane, Version: m.Spec.Version, Phase: m.Status.Phase,
		Problems: problems(m.Status.Conditions, clusterv1.MachineReadyCondition),
	}
	for _, a := range m.Status.Addresses {
		if a.Type == clusterv1.MachineInternalIP {
			result.Address = a.Address
		}
	}
	if node := meta.FindStatusCondition(m.Status.Conditions, clusterv1.MachineNodeReadyCondition); node != nil && m.Status.NodeRef.IsDefined() {
		result.NodeReady = string(node.Status)
	}
	return result
}

func describePool(p *clusterv1.MachinePool) Pool {
	return Pool{
		Name: p.Name, Version: p.Spec.Template.Spec.Version, Phase: p.Status.Phase,
		Replicas: ptr.Deref(p.Status.Replicas, 0), Ready: ptr.Deref(p.Status.ReadyReplicas, 0), Wanted: ptr.Deref(p.Spec.Replicas, 0),
	}
}

// problems gives the conditions of these types that are not as a user wants them: True, but for Deleting.
func problems(conditions []metav1.Condition, types ...string) []Condition {
	var result []Condition
	for _, t := range types {
		wanted := metav1.ConditionTrue
		if t == clusterv1.ClusterDeletingCondition {
			wanted = metav1.ConditionFalse
		}
		if c := meta.FindStatusCondition(conditions, t); c != nil && c.Status != wanted {
			result = append(result, Condition{Type: c.Type, Status: string(c.Status), Reason: c.Reason, Message: c.Message})
		}
	}
	return result
}

// machinesFolder, in the folder of a cluster, has a folder for each of its machines.
const machinesFolder = "machines"

// programs joins what runs with what has a log: a program of a machine that has a log and no process should run.
func programs(folder string, running []process.Running, logs []string) []Program {
	var result []Program
	for _, r := range running {
		p := Program{Name: r.Program, Machine: machineOf(folder, r.Dir), State: Running, PID: r.PID, Since: r.Since, MemoryBytes: r.Memory, Address: addressOf(r)}
		if r.Suspended {
			p.State = Suspended
		}
		result = append(result, p)
	}
	for _, log := range logs {
		p := Program{Name: strings.TrimSuffix(filepath.Base(log), ".log"), Machine: machineOf(folder, filepath.Dir(log)), State: NotRunning}
		if !slices.ContainsFunc(result, func(other Program) bool { return other.Name == p.Name && other.Machine == p.Machine }) {
			result = append(result, p)
		}
	}
	slices.SortFunc(result, func(a, b Program) int {
		return strings.Compare(a.Machine+"\x00"+a.Name, b.Machine+"\x00"+b.Name)
	})
	return result
}

func machineOf(folder, dir string) string {
	rel, err := filepath.Rel(filepath.Join(folder, machinesFolder), dir)
	if err != nil || strings.HasPrefix(rel, "..") || rel == "." {
		return ""
	}
	name, _, _ := strings.Cut(rel, string(filepath.Separator))
	return name
}

func addons(ctx context.Context, c client.Reader, cluster types.NamespacedName) (*Addons, error) {
	object := &v1alpha1.ClusterAddon{}
	err := c.Get(ctx, types.NamespacedName{Namespace: cluster.Namespace, Name: v1alpha1.ClusterAddonName(cluster.Name)}, object)
	if absent(err) {
		return nil, nil //nolint:nilnil // a cluster without addons is nothing wrong
	}
	if err != nil {
		return nil, err
	}
	result := &Addons{Ready: object.Status.Ready}
	if r := object.Status.AppliedRelease; r != nil {
		result.Applied = r.Name
	}
	if r := object.Status.TargetRelease; r != nil {
		result.Target = r.Name
	}
	for _, condition := range object.Status.Conditions {
		if condition.Type == v1alpha1.ReadyCondition && !result.Ready {
			result.Message = condition.Message
		}
	}
	for _, s := range object.Status.Stages {
		result.Stages = append(result.Stages, Stage{Name: s.Name, Phase: string(s.Phase), Message: s.Message})
	}
	return result, nil
}

// Failures lists the failures that are being rehearsed, by the name of the cluster; those of all namespaces if namespace
// is empty, and then by NAMESPACE/NAME.
func Failures(ctx context.Context, c client.Reader, namespace string) (map[string][]Failure, error) {
	list := &failure.FailureList{}
	if err := c.List(ctx, list, client.InNamespace(namespace)); err != nil && !absent(err) {
		return nil, err
	}
	result := map[string][]Failure{}
	for i := range list.Items {
		item := &list.Items[i]
		f := Failure{Name: client.ObjectKeyFromObject(item).String(), Type: string(item.Spec.Type)}
		if active := meta.FindStatusCondition(item.Status.Conditions, failure.Active); active != nil {
			f.Active, f.Message = active.Status == metav1.ConditionTrue, active.Message
		}
		cluster := item.Spec.ClusterName
		if namespace == "" {
			cluster = item.Namespace + "/" + cluster
		}
		result[cluster] = append(result[cluster], f)
	}
	return result, nil
}

// absent tells that an object or its kind is not there.
func absent(err error) bool { return apierrors.IsNotFound(err) || meta.IsNoMatchError(err) }

// runningBelow tells of the programs of a cluster, each of which works where its log is. The shell of somebody who looks
// at these files is none.
func runningBelow(folder string) ([]process.Running, error) {
	pids, err := process.Below(folder)
	if err != nil {
		return nil, err
	}
	running, err := process.LookAll(pids)
	return slices.DeleteFunc(running, func(r process.Running) bool {
		_, err := os.Stat(filepath.Join(r.Dir, r.Program+".log"))
		return err != nil
	}), err
}
