// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package failure

import (
	"cmp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"
)

// What holds where a Failure does not say.
const (
	defaultPause  = 500 * time.Millisecond
	defaultResets = time.Second
)

// String names the failure for people who wonder what they see.
func (f *Failure) String() string { return "Failure " + f.Namespace + "/" + f.Name }

// Ends says when the failure ends by itself; ok is false for one that lasts until it is deleted.
func (f *Failure) Ends() (at time.Time, ok bool) {
	if f.Spec.Duration == nil {
		return time.Time{}, false
	}
	return f.CreationTimestamp.Add(f.Spec.Duration.Duration), true
}

// InForce tells whether the failure holds at a time.
func (f *Failure) InForce(now time.Time) bool {
	ends, ok := f.Ends()
	return f.DeletionTimestamp == nil && (!ok || now.Before(ends))
}

// Validate finds what the schema cannot: selectors that mean nothing.
func (f *Failure) Validate() error {
	if m := f.Spec.Machines; m != nil {
		if _, err := selector(m.Selector); err != nil {
			return err
		}
	}
	if p := f.Spec.Pods; p != nil {
		if _, err := selector(p.Selector); err != nil {
			return err
		}
	}
	return nil
}

// selector matches everything when there is none.
func selector(s *metav1.LabelSelector) (labels.Selector, error) {
	if s == nil {
		return labels.Everything(), nil
	}
	return metav1.LabelSelectorAsSelector(s)
}

// Machine is what decides whether a machine is hit.
type Machine struct {
	Name         string
	Labels       map[string]string
	ControlPlane bool
	// SharedEtcd says that its control plane has no etcd of its own.
	SharedEtcd bool
	Created    time.Time
	// Provisioned and Joined say how far it got: the machine is there, its Node is.
	Provisioned, Joined bool
	// Deleting machines are not hit any more.
	Deleting bool
}

// Hits gives the names of all machines that the failure has hit up to now, given those that are there: those in
// its status, and those that are hit from now on. It is to be called for a failure in force.
func (f *Failure) Hits(machines []Machine) []string {
	hits := slices.Clone(f.Status.Machines)
	if !f.OfMachines() {
		return hits
	}
	wanted := ptr.Deref(f.Spec.Machines, Machines{})
	machines = slices.SortedFunc(slices.Values(machines), func(a, b Machine) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.Name, b.Name))
	})
	for _, m := range machines {
		if wanted.Count != nil && len(hits) >= int(*wanted.Count) {
			break
		}
		if !slices.Contains(hits, m.Name) && !m.Deleting && f.canHit(m) && wanted.match(m) {
			hits = append(hits, m.Name)
		}
	}
	return hits
}

// OfMachines tells the failures that hit machines, or programs on them.
func (f *Failure) OfMachines() bool {
	switch f.Spec.Type {
	case MachineMissing, NodeMissing, MachineDead, InfraMachineError:
		return true
	default:
		return f.ofProgram()
	}
}

func (f *Failure) ofProgram() bool {
	return strings.HasPrefix(string(f.Spec.Type), "Etcd") || strings.HasPrefix(string(f.Spec.Type), "APIServer")
}

// OfPods tells the failures that hit pods.
func (f *Failure) OfPods() bool { return strings.HasPrefix(string(f.Spec.Type), "Pod") }

// canHit says whether the type makes sense for a machine: one that is there cannot be missing any more.
func (f *Failure) canHit(m Machine) bool {
	switch f.Spec.Type {
	case MachineMissing:
		return !m.Provisioned
	case NodeMissing:
		return !m.Joined
	case EtcdDown, EtcdHung, EtcdSlow:
		return m.ControlPlane && !m.SharedEtcd
	default:
		return m.ControlPlane || !f.ofProgram()
	}
}

func (w Machines) match(m Machine) bool {
	if len(w.Names) > 0 && !slices.Contains(w.Names, m.Name) {
		return false
	}
	if w.Role != "" && (w.Role == ControlPlane) != m.ControlPlane {
		return false
	}
	s, err := selector(w.Selector)
	return err == nil && s.Matches(labels.Set(m.Labels))
}

// Disturbance is what is wrong with a program.
type Disturbance struct {
	// Down programs are killed, Hung ones stand still.
	Down, Hung bool
	// Pause is how long the program stands still before it runs for a moment each time; 0 if it does not.
	Pause time.Duration
}

// MachineEffects is what is wrong with one machine. Each failure that it names is in force; nil means that nothing
// of this kind is wrong.
type MachineEffects struct {
	Missing, NodeMissing, Dead, Error *Failure
	Etcd, APIServer                   Disturbance
	// Change is when this may be different, if nobody creates or deletes a failure before; zero means never.
	Change time.Time
}

// ForMachine sums up what failures do to a machine that they have hit, according to their status. Due is when the
// machine should have been made. Where failures contradict each other the older one holds.
func ForMachine(failures []Failure, machine string, due, now time.Time) MachineEffects {
	var e MachineEffects
	for f := range inForce(failures, now, &e.Change) {
		if !slices.Contains(f.Status.Machines, machine) {
			continue
		}
		switch f.Spec.Type {
		case MachineMissing:
			if f.delays(due, now, &e.Change) {
				e.Missing = cmp.Or(e.Missing, f)
			}
		case NodeMissing:
			if f.delays(due, now, &e.Change) {
				e.NodeMissing = cmp.Or(e.NodeMissing, f)
			}
		case MachineDead:
			e.Dead = cmp.Or(e.Dead, f)
		case InfraMachineError:
			e.Error = cmp.Or(e.Error, f)
		case EtcdDown:
			e.Etcd.Down = true
		case EtcdHung:
			e.Etcd.Hung = true
		case EtcdSlow:
			e.Etcd.Pause = cmp.Or(e.Etcd.Pause, f.pause())
		case APIServerDown:
			e.APIServer.Down = true
		case APIServerHung:
			e.APIServer.Hung = true
		case APIServerSlow:
			e.APIServer.Pause = cmp.Or(e.APIServer.Pause, f.pause())
		default: // of the cluster
		}
	}
	return e
}

// delays says whether a machine that was due is still to come.
func (f *Failure) delays(due, now time.Time, change *time.Time) bool {
	if f.Spec.Delay == nil {
		return true
	}
	comes := due.Add(f.Spec.Delay.Duration)
	if !now.Before(comes) {
		return false
	}
	sooner(change, comes)
	return true
}

func (f *Failure) pause() time.Duration {
	if f.Spec.Delay == nil {
		return defaultPause
	}
	return f.Spec.Delay.Duration
}

// LoadBalancer is what is wrong with a load balancer. Of the three, at most one is set.
type LoadBalancer struct {
	// Refuse resets new connections, Silent takes them and never answers.
	Refuse, Silent bool
	// Reset is the time between two resets of all connections; 0 if there are none.
	Reset time.Duration
	// Percent of the connections are hit; Seed decides which.
	Percent int32
	Seed    int64
}

// ClusterEffects is what is wrong with a cluster, besides its machines.
type ClusterEffects struct {
	// Error is what the provider reports of the infrastructure, nil if nothing.
	Error        *Failure
	LoadBalancer LoadBalancer
	// Change is when this may be different, if nobody creates or deletes a failure before; zero means never.
	Change time.Time

	pods []podRule
}

type podRule struct {
	*Failure
	labels labels.Selector
}

// ForCluster sums up what failures do to their cluster. Where they contradict each other the older one holds.
func ForCluster(failures []Failure, now time.Time) ClusterEffects {
	var e ClusterEffects
	for f := range inForce(failures, now, &e.Change) {
		switch {
		case f.Spec.Type == InfraClusterError:
			e.Error = cmp.Or(e.Error, f)
		case f.OfPods() && f.Spec.Pods != nil:
			if s, err := selector(f.Spec.Pods.Selector); err == nil {
				e.pods = append(e.pods, podRule{f, s})
			}
		case e.LoadBalancer == (LoadBalancer{}):
			e.LoadBalancer = f.loadBalancer()
		}
	}
	return e
}

func (f *Failure) loadBalancer() LoadBalancer {
	b := LoadBalancer{Percent: ptr.Deref(f.Spec.Percent, 100), Seed: ptr.Deref(f.Spec.Seed, 0)}
	switch f.Spec.Type {
	case LoadBalancerRefuses:
		b.Refuse = true
	case LoadBalancerSilent:
		b.Silent = true
	case LoadBalancerResets:
		b.Reset = defaultResets
		if f.Spec.Delay != nil {
			b.Reset = f.Spec.Delay.Duration
		}
	default:
		return LoadBalancer{}
	}
	return b
}

// OverruledBy gives the older failure of the same cluster that decides what this one would, nil if there is none: a
// cluster has one load balancer, and its infrastructure one error.
func (f *Failure) OverruledBy(failures []Failure, now time.Time) *Failure {
	var change time.Time
	for other := range inForce(failures, now, &change) {
		switch {
		case other.Name == f.Name:
			return nil // those that follow are younger
		case other.ofLoadBalancer() && f.ofLoadBalancer(),
			other.Spec.Type == InfraClusterError && f.Spec.Type == InfraClusterError:
			return other
		}
	}
	return nil
}

func (f *Failure) ofLoadBalancer() bool {
	return strings.HasPrefix(string(f.Spec.Type), "LoadBalancer")
}

// Pod gives the failure that hits a pod, nil if there is none.
func (e ClusterEffects) Pod(pod *corev1.Pod) *Failure {
	for _, r := range e.pods {
		p := r.Spec.Pods
		if (p.Namespace == "" || p.Namespace == pod.Namespace) &&
			(len(p.Names) == 0 || slices.Contains(p.Names, pod.Name)) &&
			r.labels.Matches(labels.Set(pod.Labels)) {
			return r.Failure
		}
	}
	return nil
}

// inForce gives the failures that hold, the oldest first, and notes when the first of them ends.
func inForce(failures []Failure, now time.Time, change *time.Time) func(yield func(*Failure) bool) {
	sorted := slices.SortedFunc(slices.Values(failures), func(a, b Failure) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	return func(yield func(*Failure) bool) {
		for i := range sorted {
			f := &sorted[i]
			if !f.InForce(now) {
				continue
			}
			if ends, ok := f.Ends(); ok {
				sooner(change, ends)
			}
			if !yield(f) {
				return
			}
		}
	}
}

// sooner moves a time to an earlier one; the zero time is later than all others.
func sooner(t *time.Time, other time.Time) {
	if t.IsZero() || other.Before(*t) {
		*t = other
	}
}
