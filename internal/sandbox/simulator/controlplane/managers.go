// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controlplane

import (
	"context"
	"path/filepath"
	"sync"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/pki"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/process"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/simulator/bootstrap"
)

// Managers are kube-controller-manager and kube-scheduler, one pair for a cluster. They speak with it through
// its load balancer and hold files of the cluster, not of a machine, so that machines may come and go.
type Managers struct {
	ManagersSpec
	controllers, schedule *program
}

// ManagersSpec is how the pair runs. To change it they have to be started again.
type ManagersSpec struct {
	// Minor is the Kubernetes minor that they behave like.
	Minor string
	// ControllerManager and Scheduler are what the user sets for them.
	ControllerManager, Scheduler bootstrap.Program
}

// Managers is how the pair runs as part of the machine.
func (m Machine) Managers() ManagersSpec {
	return ManagersSpec{Minor: m.Minor, ControllerManager: m.Configuration.ControllerManager, Scheduler: m.Configuration.Scheduler}
}

// StartManagers starts the pair. It does not wait: both try until the cluster answers.
func (c *Cluster) StartManagers(ctx context.Context, spec ManagersSpec) (*Managers, error) {
	if err := c.writeManagerFiles(); err != nil {
		return nil, err
	}
	controllers, err := launch(ctx, process.Spec{
		Name: controllerManager, Path: c.Programs.KubeControllerManager, Args: c.controllerManagerArgs(spec),
		Env: []string{"GOGC=50"}, LogFile: filepath.Join(c.Dir, controllerManager+".log"),
	}, c.Log, nil)
	if err != nil {
		return nil, err
	}
	result := &Managers{ManagersSpec: spec, controllers: controllers}
	result.schedule, err = launch(ctx, process.Spec{
		Name: scheduler, Path: c.Programs.KubeScheduler, Args: c.schedulerArgs(spec),
		Env: []string{"GOGC=50"}, LogFile: filepath.Join(c.Dir, scheduler+".log"),
	}, c.Log, nil)
	if err != nil {
		result.Kill(ctx)
		return nil, err
	}
	return result, nil
}

// Kill ends both programs at once.
func (m *Managers) Kill(ctx context.Context) { m.Stop(noGrace(ctx)) }

// Stop ends both programs, by force once ctx is done.
func (m *Managers) Stop(ctx context.Context) {
	var both sync.WaitGroup
	for _, p := range []*program{m.controllers, m.schedule} {
		if p != nil {
			both.Go(func() { p.Stop(ctx) })
		}
	}
	both.Wait()
}

func (c *Cluster) writeManagerFiles() error {
	key, err := c.Authorities.Cluster.KeyPEM()
	if err != nil {
		return err
	}
	files := map[string][]byte{
		"ca.crt": c.Authorities.Cluster.CertPEM(),
		"ca.key": key,
		"sa.key": c.Authorities.ServiceAccount.PrivatePEM,
	}
	for _, name := range []string{controllerManager, scheduler} {
		pair, err := c.Authorities.Cluster.Issue(pki.Request{CommonName: "system:" + name, Client: true})
		if err != nil {
			return err
		}
		if files[name+".kubeconfig"], err = pki.Kubeconfig(c.Name, c.Server(), c.Authorities.Cluster.CertPEM(), pair); err != nil {
			return err
		}
	}
	return writeFiles(c.Dir, files)
}

func (c *Cluster) controllerManagerArgs(spec ManagersSpec) []string {
	file := func(name string) string { return filepath.Join(c.Dir, name) }
	args := []string{
		"--emulated-version=kube=" + spec.Minor,
		"--kubeconfig=" + file(controllerManager+".kubeconfig"),
		"--controllers=*,bootstrapsigner,tokencleaner",
		"--leader-elect=false",
		"--secure-port=0", // nobody asks it anything; a port less that could be taken
		"--use-service-account-credentials=true",
		"--cluster-name=" + c.Name,
		"--root-ca-file=" + file("ca.crt"),
		"--cluster-signing-cert-file=" + file("ca.crt"),
		"--cluster-signing-key-file=" + file("ca.key"),
		"--service-account-private-key-file=" + file("sa.key"),
		"--service-cluster-ip-range=" + c.ServiceSubnet,
	}
	if c.PodSubnet != "" {
		args = append(args, "--allocate-node-cidrs=true", "--cluster-cidr="+c.PodSubnet)
	}
	return merge(controllerManager, args, spec.ControllerManager.ExtraArgs)
}

func (c *Cluster) schedulerArgs(spec ManagersSpec) []string {
	return merge(scheduler, []string{
		"--emulated-version=kube=" + spec.Minor,
		"--kubeconfig=" + filepath.Join(c.Dir, scheduler+".kubeconfig"),
		"--leader-elect=false",
		"--secure-port=0",
	}, spec.Scheduler.ExtraArgs)
}
