// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"context"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/simulator/balancer"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/simulator/controlplane"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/simulator/kubelet"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/statefile"
)

// Halt switches a machine off, as when its power is cut: nobody is told. Its data, its addresses and its Node stay,
// and Run boots it again. A machine that is off already stays as it is.
func (c *Cluster) Halt(ctx context.Context, name string) error {
	c.mu.Lock()
	member, kubelets := c.members[name], c.kubelets
	state, known := c.machines[name]
	on := c.up[name] || member != nil
	c.mu.Unlock()
	if !known || !on {
		return nil
	}
	// Before it is forgotten that it is on, or whoever tries again would find nothing to switch off.
	if err := c.rememberMachine(name, func(m *machineState) { m.Off = true }); err != nil {
		return err
	}
	c.mu.Lock()
	delete(c.members, name)
	delete(c.up, name)
	c.mu.Unlock()
	if kubelets != nil {
		kubelets.Halt(name)
	}
	if member == nil {
		return nil
	}
	c.balancer.Remove(member.APIServerAddress())
	member.Kill(ctx)
	c.log.Info("machine is switched off", "machine", name, "address", state.Address.String())
	return c.Adjust(ctx)
}

// boot notes that a machine is on, and gives the time since when it is if it was off before.
func (c *Cluster) boot(name string) (since time.Time, err error) {
	err = c.rememberMachine(name, func(m *machineState) {
		if m.Off {
			m.Off, m.Booted = false, time.Now()
		}
		since = m.Booted
	})
	return since, err
}

// rememberMachine changes what is remembered of a machine that is allocated.
func (c *Cluster) rememberMachine(name string, change func(*machineState)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	known, ok := c.machines[name]
	if !ok {
		return nil // it was removed in between
	}
	if c.life.Err() != nil {
		return nil // its folder may be gone, or belong to another sandbox
	}
	state := known
	if change(&state); state == known {
		return nil
	}
	if err := statefile.Write(filepath.Join(c.machineDir(name), machineFile), state); err != nil {
		return err
	}
	c.machines[name] = state
	return nil
}

// Disturb changes what is wrong with the programs of a machine that is up. One that runs none has nothing to be
// disturbed.
func (c *Cluster) Disturb(name string, etcd, apiServer controlplane.Disturbance) {
	c.mu.Lock()
	member := c.members[name]
	c.mu.Unlock()
	if member != nil {
		member.Disturb(etcd, apiServer)
	}
}

// DisturbBalancer changes what is wrong with the load balancer.
func (c *Cluster) DisturbBalancer(ctx context.Context, f balancer.Fault) { c.balancer.SetFault(ctx, f) }

// DisturbPods has faults say from now on what goes wrong with a pod, nil if nothing does.
func (c *Cluster) DisturbPods(faults func(*corev1.Pod) *kubelet.Fault) {
	c.mu.Lock()
	c.faults = faults
	kubelets := c.kubelets
	c.mu.Unlock()
	if kubelets != nil {
		kubelets.LookAgain()
	}
}

// fault is what goes wrong with a pod.
func (c *Cluster) fault(pod *corev1.Pod) *kubelet.Fault {
	c.mu.Lock()
	faults := c.faults
	c.mu.Unlock()
	if faults == nil {
		return nil
	}
	return faults(pod)
}

// program tells the kubelet of a machine how a static pod really is.
func (c *Cluster) program(machine, container string) (kubelet.Program, bool) {
	c.mu.Lock()
	member := c.members[machine]
	c.mu.Unlock()
	if member == nil {
		return kubelet.Program{}, false
	}
	var state controlplane.State
	var ready bool
	switch container {
	case "etcd":
		var own bool
		if state, own = member.EtcdState(); !own {
			return kubelet.Program{}, false
		}
		ready = state.Running && !state.Hung
	case "kube-apiserver":
		state = member.APIServerState()
		ready = state.Running && c.balancer.Healthy(member.APIServerAddress()) // who asks the same question
	default: // one pair for all machines
		return kubelet.Program{}, false
	}
	return kubelet.Program{Running: state.Running, Ready: ready, Started: state.Started, ExitCode: int32(state.ExitCode)}, true
}

// programChanged has the kubelet of a machine look at its static pods.
func (c *Cluster) programChanged(machine string) {
	c.mu.Lock()
	kubelets := c.kubelets
	c.mu.Unlock()
	if kubelets != nil {
		kubelets.LookAgainOn(machine)
	}
}

// tellHealth has kubelets look at their static pods when the load balancer sees an API server get ready or stop
// being so.
func (c *Cluster) tellHealth() {
	for {
		changed := c.balancer.Changed()
		c.mu.Lock()
		var machines []string
		for name := range c.members {
			machines = append(machines, name)
		}
		c.mu.Unlock()
		for _, name := range machines {
			c.programChanged(name)
		}
		select {
		case <-changed:
		case <-c.life.Done():
			return
		}
	}
}
