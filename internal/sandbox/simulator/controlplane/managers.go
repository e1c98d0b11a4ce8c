// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controlplane

import (
	"context"
	"path/filepath"
	"sync"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/pki"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/process"
)

// Managers are kube-controller-manager and kube-scheduler, one pair for a cluster. They speak with it through
// its load balancer and hold files of the cluster, not of a machine, so that machines may come and go.
type Managers struct {
	// Minor is the Kubernetes minor that they behave like.
	Minor                 string
	controllers, schedule *program
}

// StartManagers starts the pair. It does not wait: both try until the cluster answers.
func (c *Cluster) StartManagers(ctx context.Context, minor string) (*Managers, error) {
	if err := c.writeManagerFiles(); err != nil {
		return nil, err
	}
	controllers, err := launch(ctx, process.Spec{
		Name: "kube-controller-manager", Path: c.Programs.KubeControllerManager, Args: c.controllerManagerArgs(minor),
		Env: []string{"GOGC=50"}, LogFile: filepath.Join(c.Dir, "kube-controller-manager.log"),
	}, c.Log)
	if err != nil {
		return nil, err
	}
	result := &Managers{Minor: minor, controllers: controllers}
	result.schedule, err = launch(ctx, process.Spec{
		Name: "kube-scheduler", Path: c.Programs.KubeScheduler, Args: c.schedulerArgs(minor),
		Env: []string{"GOGC=50"}, LogFile: filepath.Join(c.Dir, "kube-scheduler.log"),
	}, c.Log)
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
	for _, name := range []string{"kube-controller-manager", "kube-scheduler"} {
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

func (c *Cluster) controllerManagerArgs(minor string) []string {
	file := func(name string) string { return filepath.Join(c.Dir, name) }
	args := []string{
		"--emulated-version=kube=" + minor,
		"--kubeconfig=" + file("kube-controller-manager.kubeconfig"),
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
	return args
}

func (c *Cluster) schedulerArgs(minor string) []string {
	return []string{
		"--emulated-version=kube=" + minor,
		"--kubeconfig=" + filepath.Join(c.Dir, "kube-scheduler.kubeconfig"),
		"--leader-elect=false",
		"--secure-port=0",
	}
}
