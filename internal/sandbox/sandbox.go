// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package sandbox runs a management cluster on one Linux machine without containers: real etcd,
// kube-apiserver and kube-controller-manager, the unmodified managers of Cluster API with their webhooks,
// and a simulator in place of infrastructure and kubelets (package simulator).
//
// A Sandbox belongs to the process that started it: when that process ends, however it ends, the kernel
// ends all programs. Serve makes such a process of csctl; package sandboxtest one of a test binary. Only
// loopback addresses are bound, but for the webhook servers of Cluster API's managers, which have no
// setting for it; they ask for a client only by TLS, as in any installation.
package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/binaries"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/pki"
)

// Options describe a sandbox.
type Options struct {
	// Dir is the state folder: certificates, data of etcd, logs. It is created when it is not there, and is
	// the caller's to remove. A sandbox that was ready once and is started again on its folder and Block goes on
	// with all that is in it.
	Dir string
	// Block are the addresses; Host is the number of the management side's own address in it, 1 if unset.
	Block *Block
	Host  int
	// Binaries are the programs to run.
	Binaries binaries.Set
	// Kubernetes is the minor that the management cluster behaves like, one of binaries.Minors; empty means the
	// newest.
	Kubernetes string
	// APIServerOnly leaves out everything but etcd and kube-apiserver.
	APIServerOnly bool
	// Etcd is one that runs already and has other users; nil starts one.
	Etcd *Etcd
	// CRDs are files and folders with CustomResourceDefinitions to install besides those of Cluster API and
	// its Docker/Dev provider.
	CRDs []string
	// Operator is the path of cluster-stack-operator; empty runs none. Releases is the folder that it reads
	// releases of cluster stacks from.
	Operator, Releases string
	// ChartMirrors are those that the operator is given, as its flag of that name takes them.
	ChartMirrors []string
	// Registry runs an OCI registry beside the managers, which keeps what was pushed in the state folder.
	Registry bool
	// WithoutFeatures are feature gates of Cluster API that are off, such as RuntimeSDK.
	WithoutFeatures []string
	// AuditGroup is the group of users whose requests to the management cluster are written to AuditLog, none by default.
	AuditGroup string
	// RestartAtOnce starts programs that exit again without the growing pause, for tests that kill them again and again.
	RestartAtOnce bool
	// Lite makes workload clusters lite that do not say otherwise themselves: see infra.ControlPlaneAnnotation.
	Lite bool

	Log logr.Logger
	// Progress is told when a step begins and ends; steps of one group run at once. It may be nil.
	Progress func(Event)
	// Changed is told each time the state of a program changes, never twice at once. It may be nil.
	Changed func([]Component)
}

// Etcd is an etcd that several API servers use, each below a prefix of its own.
type Etcd struct {
	URL, Prefix string
	// CA is the certificate of the authority that it presents one of; Client is what it wants to see.
	CA     []byte
	Client pki.KeyPair
}

// Event tells of the progress of Start.
type Event struct {
	Step string `json:"step"`
	// Done says that the step has ended; before that, it begins.
	Done bool `json:"done,omitempty"`
	// Detail is what there is to tell about it: an address, a count.
	Detail string        `json:"detail,omitempty"`
	Took   time.Duration `json:"took,omitempty"`
	Error  string        `json:"error,omitempty"`
}

// Sandbox is a running sandbox.
type Sandbox struct {
	opts       Options
	supervisor *supervisor
	ip         string
	ports      *ports

	ca         *pki.CA
	etcd       etcd
	endpoint   string
	registry   string
	config     *rest.Config
	kubeconfig string
	managers   []manager
	manifests  manifests
}

// Start starts a sandbox and returns when all of it is ready. What was started is stopped again when it
// fails. Ctx bounds the start only; the sandbox runs until Stop.
func Start(ctx context.Context, opts Options) (*Sandbox, error) {
	if opts.Host == 0 {
		opts.Host = 1
	}
	if opts.Progress == nil {
		opts.Progress = func(Event) {}
	}
	s := &Sandbox{opts: opts, ip: opts.Block.Address(opts.Host)}
	s.supervisor = newSupervisor(s.path("logs"), opts.Log, opts.Changed)
	s.supervisor.atOnce = opts.RestartAtOnce
	for _, dir := range []string{"certs", "logs"} {
		if err := os.MkdirAll(s.path(dir), 0o700); err != nil {
			return nil, err
		}
	}
	var err error
	if s.ports, err = readPorts(s.path("ports.json")); err != nil {
		return nil, err
	}
	for _, group := range s.steps() {
		if err := s.run(ctx, group); err != nil {
			s.Stop()
			return nil, err
		}
	}
	return s, nil
}

// step is one thing to do on the way to a running sandbox. What it returns is shown to the user.
type step struct {
	name string
	run  func(context.Context) (detail string, err error)
}

// steps lists what Start does: one group after the other, the steps of a group at once.
func (s *Sandbox) steps() [][]step {
	groups := [][]step{
		{{"certificates", s.makeCertificates}},
	}
	if s.opts.Etcd != nil {
		groups = append(groups, []step{{"etcd", s.useEtcd}})
	} else {
		groups = append(groups, []step{{"etcd", s.startEtcd}})
	}
	if s.opts.APIServerOnly {
		return append(groups, []step{{"kube-apiserver", s.startAPIServer}})
	}
	groups = append(groups,
		[]step{{"kube-apiserver", s.startAPIServer}, {"manifests", s.readManifests}},
		[]step{{"kube-controller-manager", s.startControllerManager}, {"custom resources", s.installCRDs}},
		[]step{{"webhooks", s.installWebhooks}, {"inventory of providers", s.writeInventory}},
		s.managerSteps(),
	)
	if s.opts.Operator != "" {
		groups = append(groups, []step{{operatorName, s.startOperator}})
	}
	return groups
}

func (s *Sandbox) run(ctx context.Context, steps []step) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, step := range steps {
		group.Go(func() error {
			s.opts.Progress(Event{Step: step.name})
			begin := time.Now()
			detail, err := step.run(ctx)
			// One failure cancels the others of the group; these have neither ended well nor anything to tell.
			if errors.Is(err, context.Canceled) {
				return fmt.Errorf("%s: %w", step.name, err)
			}
			done := Event{Step: step.name, Done: true, Detail: detail, Took: time.Since(begin)}
			if err != nil {
				done.Error = err.Error()
				err = fmt.Errorf("%s: %w", step.name, err)
			}
			s.opts.Progress(done)
			return err
		})
	}
	return group.Wait()
}

// Stop ends all programs and returns when they are gone. The state folder stays.
func (s *Sandbox) Stop() { s.supervisor.stop() }

// Config is how to reach the management API server, as an administrator.
func (s *Sandbox) Config() *rest.Config { return rest.CopyConfig(s.config) }

// Kubeconfig is the path of a kubeconfig file that says the same.
func (s *Sandbox) Kubeconfig() string { return s.kubeconfig }

// Registry is host and port of the OCI registry, which is spoken to without TLS; empty when there is none.
func (s *Sandbox) Registry() string { return s.registry }

// Endpoint is the URL of the management API server.
func (s *Sandbox) Endpoint() string { return s.endpoint }

func (s *Sandbox) path(elem ...string) string {
	return filepath.Join(append([]string{s.opts.Dir}, elem...)...)
}

// writeKubeconfig makes a client certificate and a kubeconfig file with it.
func (s *Sandbox) writeKubeconfig(file, user string, groups ...string) (*rest.Config, error) {
	client, err := s.ca.Issue(pki.Request{CommonName: user, Organizations: groups, Client: true})
	if err != nil {
		return nil, err
	}
	raw, err := pki.Kubeconfig("sandbox-"+filepath.Base(s.opts.Dir), s.endpoint, s.ca.CertPEM(), client)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		return nil, err
	}
	return clientcmd.RESTConfigFromKubeConfig(raw)
}
