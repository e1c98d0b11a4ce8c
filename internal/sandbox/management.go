// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/crds"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/pki"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/registry"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/simulator"
)

// manager is one of Cluster API's managers.
type manager struct {
	name string
	path string
	// config is the name of its folder among the manifests.
	config       string
	featureGates string
	webhookPort  int
}

// manifests are everything that is applied before managers start.
type manifests struct {
	providers  []installedProvider
	namespaces []string
	crds       []*apiextensionsv1.CustomResourceDefinition
	webhooks   []*unstructured.Unstructured
	warnings   []string
}

// readManifests prepares what the API server is given once it is up: it needs the ports of the webhook
// servers, which are chosen here.
func (s *Sandbox) readManifests(context.Context) (string, error) {
	s.managers = []manager{
		{name: "capi-controller-manager", path: s.opts.Binaries.ClusterAPICore, config: "core", featureGates: "ClusterTopology=true,MachinePool=true,RuntimeSDK=true"},
		{name: "capi-kubeadm-bootstrap-controller-manager", path: s.opts.Binaries.KubeadmBootstrap, config: "bootstrap-kubeadm", featureGates: "MachinePool=true"},
		{name: "capi-kubeadm-control-plane-controller-manager", path: s.opts.Binaries.KubeadmControlPlane, config: "control-plane-kubeadm", featureGates: "ClusterTopology=true,MachinePool=true"},
	}
	for i := range s.managers {
		for _, feature := range s.opts.WithoutFeatures {
			s.managers[i].featureGates = strings.Replace(s.managers[i].featureGates, feature+"=true", feature+"=false", 1)
		}
	}
	var m manifests
	add := func(p providerManifests) {
		m.providers = append(m.providers, p.installedProvider)
		m.namespaces = append(m.namespaces, p.namespace)
		m.crds = append(m.crds, p.crds...)
		m.webhooks = append(m.webhooks, p.webhooks...)
	}
	for i, manager := range s.managers {
		// The managers bind this port on all addresses.
		port, err := s.ports.take(manager.name+"-webhook", "", 0)
		if err != nil {
			return "", err
		}
		s.managers[i].webhookPort = port
		provider, err := readProvider(filepath.Join(s.opts.Binaries.Manifests, s.managers[i].config), &webhookServer{
			address:  net.JoinHostPort(s.ip, strconv.Itoa(port)),
			caBundle: s.ca.CertPEM(),
		})
		if err != nil {
			return "", err
		}
		add(provider)
	}
	docker, err := readProvider(filepath.Join(s.opts.Binaries.Manifests, "infrastructure-docker"), nil)
	if err != nil {
		return "", err
	}
	add(docker)
	inventory, err := inventoryCRDs(s.opts.Binaries.Manifests)
	if err != nil {
		return "", err
	}
	own, err := ownCRDs()
	if err != nil {
		return "", err
	}
	users, err := crds.Read(s.opts.CRDs)
	if err != nil {
		return "", err
	}
	m.namespaces = append(m.namespaces, operatorNamespace)
	m.crds = crds.LastOfEach(slices.Concat(m.crds, inventory, own, users.CRDs))
	m.warnings = users.Warnings
	s.manifests = m
	return "", nil
}

// installCRDs applies namespaces and CustomResourceDefinitions, and waits until all kinds are served.
func (s *Sandbox) installCRDs(ctx context.Context) (string, error) {
	for _, w := range s.manifests.warnings {
		s.opts.Progress(Event{Step: "custom resources", Detail: "warning: " + w})
	}
	for _, name := range s.manifests.namespaces {
		err := s.apply(ctx, &corev1.Namespace{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"},
			ObjectMeta: metav1.ObjectMeta{Name: name},
		})
		if err != nil {
			return "", err
		}
	}
	if err := crds.Install(ctx, s.config, s.manifests.crds); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d kinds", len(s.manifests.crds)), nil
}

// await watches objects until done says so. A watch without a resource version begins with what is there;
// one that the server ends is started again.
func await(ctx context.Context, start func() (watch.Interface, error), done func(runtime.Object) (bool, error)) error {
	for {
		w, err := start()
		if err != nil {
			return err
		}
		for e := range w.ResultChan() {
			if e.Type == watch.Error {
				w.Stop()
				return apierrors.FromObject(e.Object)
			}
			if ok, err := done(e.Object); ok || err != nil {
				w.Stop()
				return err
			}
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

// installWebhooks applies the webhook configurations. It runs before the managers start, so that nothing
// is ever stored that they have not seen.
func (s *Sandbox) installWebhooks(ctx context.Context) (string, error) {
	dir := s.path("certs", "webhook")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	pair, err := s.ca.Issue(pki.Request{CommonName: "webhook", IPs: []net.IP{net.ParseIP(s.ip)}, Server: true})
	if err != nil {
		return "", err
	}
	if err := pair.WriteFiles(filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")); err != nil {
		return "", err
	}
	webhooks := 0
	for _, o := range s.manifests.webhooks {
		if err := s.apply(ctx, o); err != nil {
			return "", err
		}
		list, _, _ := unstructured.NestedSlice(o.Object, "webhooks")
		webhooks += len(list)
	}
	if s.opts.Operator == "" {
		if err := s.forgetHooks(ctx); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%d webhooks", webhooks), nil
}

// managerNames are the managers in the order that they are shown.
var managerNames = []string{"capi-controller-manager", "capi-kubeadm-bootstrap-controller-manager", "capi-kubeadm-control-plane-controller-manager"}

// managerSteps starts the managers at once, and the simulator and a registry beside them.
func (s *Sandbox) managerSteps() []step {
	var steps []step
	for i, name := range managerNames {
		steps = append(steps, step{name, func(ctx context.Context) (string, error) { return s.startManager(ctx, i) }})
	}
	if s.opts.Registry {
		steps = append(steps, step{registryName, s.startRegistry})
	}
	return append(steps, step{"simulator", s.startSimulator})
}

const registryName = "registry"

// startRegistry serves an OCI registry in this process, until Stop. Like etcd it asks nobody who he is: whoever is on
// this machine may read and write.
func (s *Sandbox) startRegistry(ctx context.Context) (string, error) {
	port, err := s.ports.take(registryName, s.ip, 5000)
	if err != nil {
		return "", err
	}
	s.registry = net.JoinHostPort(s.ip, strconv.Itoa(port))
	return s.registry, s.supervisor.startFunc(ctx, registryName, s.registry, func(ctx context.Context, ready func()) error {
		return registry.Run(ctx, registry.Options{
			Address: s.registry, Dir: s.path(registryName), LogFile: s.path("logs", registryName+".log"), Ready: ready,
		})
	})
}

// machinesDir is the folder with the workload clusters in a state folder.
const machinesDir = "machines"

// startSimulator runs the simulator in this process, until Stop.
func (s *Sandbox) startSimulator(ctx context.Context) (string, error) {
	addresses := s.opts.Block.Prefix + ".0.0/16"
	return addresses, s.supervisor.startFunc(ctx, "simulator", addresses, func(ctx context.Context, ready func()) error {
		return simulator.Run(ctx, simulator.Options{
			Config:   s.Config(),
			Binaries: s.opts.Binaries,
			Dir:      s.path(machinesDir),
			// State folders of sandboxes lie side by side.
			Neighbours: filepath.Join(filepath.Dir(s.opts.Dir), "*", machinesDir),
			Network:    simulator.Network{Prefix: s.opts.Block.Prefix},
			Lite:       s.opts.Lite,
			Log:        s.opts.Log.WithName("simulator"),
			Started:    ready,
		})
	})
}

func (s *Sandbox) startManager(ctx context.Context, index int) (string, error) {
	m := s.managers[index]
	healthPort, err := s.ports.take(m.name+"-health", s.ip, 9440+10*index) // leaves 9442, the hook server's own, free
	if err != nil {
		return "", err
	}
	health := net.JoinHostPort(s.ip, strconv.Itoa(healthPort))
	ready, err := s.healthz("http://" + health + "/readyz")
	if err != nil {
		return "", err
	}
	args := []string{
		"--kubeconfig=" + s.kubeconfig, "--leader-elect=false",
		"--webhook-port=" + strconv.Itoa(m.webhookPort), "--webhook-cert-dir=" + s.path("certs", "webhook"),
		"--health-addr=" + health, "--diagnostics-address=127.0.0.1:0", "--insecure-diagnostics",
		"--feature-gates=" + m.featureGates,
	}
	if m.config == "core" { // which calls hooks, and shows the operator who it is
		caller, err := s.ca.Issue(pki.Request{CommonName: m.name, Client: true})
		if err != nil {
			return "", err
		}
		cert, key := s.path("certs", "hooks.crt"), s.path("certs", "hooks.key")
		if err := caller.WriteFiles(cert, key); err != nil {
			return "", err
		}
		args = append(args, "--runtime-extension-client-cert-file="+cert, "--runtime-extension-client-key-file="+key)
	}
	webhook := net.JoinHostPort(s.ip, strconv.Itoa(m.webhookPort))
	return webhook, s.supervisor.start(ctx, program{
		name: m.name, address: webhook, path: m.path, ready: ready, args: args,
	})
}
