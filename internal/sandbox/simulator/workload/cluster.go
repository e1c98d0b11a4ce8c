// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/pki"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/simulator/balancer"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/simulator/bootstrap"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/simulator/controlplane"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/simulator/egress"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/simulator/kubeadm"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/simulator/kubelet"
)

// Times after which it is not worth to wait any longer.
const (
	reachTimeout    = 30 * time.Second
	farewellTimeout = 5 * time.Second
)

// errClosed is what a machine is told that comes too late: what it started would belong to nobody.
var errClosed = errors.New("the cluster was removed")

// Cluster is one workload cluster.
type Cluster struct {
	Spec
	options  Options
	dir      string
	endpoint netip.AddrPort
	balancer *balancer.Balancer
	egress   *egress.Proxy
	log      logr.Logger

	// changing is held while machines of the control plane start or go: etcd takes one change at a time.
	changing sync.Mutex

	mu       sync.Mutex
	state    clusterState
	machines map[string]machineState
	up       map[string]bool // machines that Run has brought up completely
	members  map[string]*controlplane.Member
	managers *controlplane.Managers
	shared   *controlplane.Cluster // set with the first machine of the control plane
	kubelets *kubelet.Kubelets     // set once the cluster answers
	closed   bool                  // nothing is started any more
}

// machineState is what is remembered of a machine.
type machineState struct {
	// Number is the last byte of its address.
	Number byte `json:"number"`
	// Kubelet is the port of its kubelet.
	Kubelet uint16 `json:"kubelet"`
	// ControlPlane has the ports of the programs of a control plane; unused on other machines.
	ControlPlane controlplane.Ports `json:"controlPlane"`
}

func newCluster(ctx context.Context, o Options, spec Spec, dir string, state clusterState) (*Cluster, error) {
	c := &Cluster{
		Spec: spec, options: o, dir: dir,
		endpoint: netip.AddrPortFrom(address(o.Prefix, state.Number, balancerNumber), state.Port),
		log:      o.Log.WithValues("cluster", spec.String()),
		state:    state, machines: map[string]machineState{}, up: map[string]bool{}, members: map[string]*controlplane.Member{},
	}
	files, err := filepath.Glob(filepath.Join(dir, "machines", "*", machineFile))
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		var machine machineState
		if err := readJSON(file, &machine); err != nil {
			return nil, err
		}
		c.machines[filepath.Base(filepath.Dir(file))] = machine
	}
	if c.balancer, err = balancer.Listen(ctx, c.endpoint.String(), c.log); err != nil {
		return nil, fmt.Errorf("cluster %s: %w", spec, err)
	}
	if c.egress, err = egress.Listen(ctx, "@cluster-stack-egress-"+c.endpoint.String(), c.log); err != nil {
		c.balancer.Close()
		return nil, fmt.Errorf("cluster %s: %w", spec, err)
	}
	return c, nil
}

// Endpoint is where the cluster is reached.
func (c *Cluster) Endpoint() netip.AddrPort { return c.endpoint }

// Allocate gives the address of a machine, and keeps it until the machine is removed.
func (c *Cluster) Allocate(ctx context.Context, name string) (netip.Addr, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	state, err := c.allocate(ctx, name)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("machine %s: %w", name, err)
	}
	return address(c.options.Prefix, c.state.Number, state.Number), nil
}

// allocate needs the lock.
func (c *Cluster) allocate(ctx context.Context, name string) (machineState, error) {
	if c.closed {
		return machineState{}, errClosed
	}
	if state, ok := c.machines[name]; ok {
		return state, nil
	}
	taken := map[byte]bool{}
	for _, other := range c.machines {
		taken[other.Number] = true
	}
	for number := balancerNumber + 1; number <= 254; number++ {
		if taken[byte(number)] {
			continue
		}
		state := machineState{Number: byte(number)}
		ip := address(c.options.Prefix, c.state.Number, state.Number)
		for _, port := range []struct {
			of        *uint16
			preferred uint16
		}{
			{&state.Kubelet, 10250}, {&state.ControlPlane.APIServer, apiServerPort},
			{&state.ControlPlane.Etcd, etcdPort}, {&state.ControlPlane.EtcdPeer, 2380},
		} {
			var err error
			if *port.of, err = freePort(ctx, ip, port.preferred); err != nil {
				return state, err
			}
		}
		if err := writeJSON(filepath.Join(c.machineDir(name), machineFile), state); err != nil {
			return state, err
		}
		c.machines[name] = state
		return state, nil
	}
	return machineState{}, errors.New("this cluster has 253 machines, which is all that a sandbox has addresses for")
}

// Ports under which Cluster API looks for programs of the control plane.
const (
	apiServerPort = 6443
	etcdPort      = 2379
)

// Machine is what a machine is to become.
type Machine struct {
	Name, ProviderID string
	// Version of Kubernetes, such as v1.35.4.
	Version string
	Data    bootstrap.Data
	// Authorities reads the certificate authorities of the cluster; asked once, for the control plane's first machine.
	Authorities func(context.Context) (controlplane.Authorities, error)
}

// IsUp tells whether Run has brought a machine up.
func (c *Cluster) IsUp(name string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.up[name]
}

// Run brings a machine up: etcd and API server when it belongs to the control plane, then its kubelet. A machine
// that is up already stays as it is; a Run that failed can be repeated.
func (c *Cluster) Run(ctx context.Context, m Machine) error {
	c.mu.Lock()
	up := c.up[m.Name]
	state, err := c.allocate(ctx, m.Name)
	c.mu.Unlock()
	switch {
	case up:
		return nil
	case err != nil:
		return fmt.Errorf("machine %s: %w", m.Name, err)
	}
	if m.Data.ControlPlane {
		if err := c.runControlPlane(ctx, m, state); err != nil {
			return err
		}
	}
	if err := c.runKubelet(ctx, m, state); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.up[m.Name] = true
	return nil
}

func (c *Cluster) runControlPlane(ctx context.Context, m Machine, state machineState) error {
	c.changing.Lock()
	defer c.changing.Unlock()
	c.mu.Lock()
	_, running := c.members[m.Name]
	closed := c.closed
	c.mu.Unlock()
	if closed { // while this machine waited for its turn
		return fmt.Errorf("machine %s: %w", m.Name, errClosed)
	}
	shared, err := c.sharedFor(ctx, m)
	if err != nil {
		return err
	}
	if !running {
		if err := c.startMember(ctx, shared, m, state); err != nil {
			return fmt.Errorf("cluster %s: %w", c.Spec, err)
		}
	}
	if m.Data.Init && !c.state.Initialized {
		if err := c.initialize(ctx, shared, m); err != nil {
			return fmt.Errorf("cluster %s: %w", c.Spec, err)
		}
	}
	return c.adjustManagers(ctx)
}

// startMember needs changing to be held.
func (c *Cluster) startMember(ctx context.Context, shared *controlplane.Cluster, m Machine, state machineState) error {
	machine := controlplane.Machine{
		Name: m.Name, Minor: kubeadm.Minor(m.Version), IP: address(c.options.Prefix, c.state.Number, state.Number),
		Ports: state.ControlPlane, Dir: c.machineDir(m.Name),
	}
	var others []controlplane.Machine
	c.mu.Lock()
	for _, member := range c.members {
		others = append(others, member.Machine)
	}
	c.mu.Unlock()
	if !m.Data.Init && len(others) == 0 && !machine.HasData() {
		return fmt.Errorf("machine %s has to join, but no other machine of the control plane runs", m.Name)
	}
	started := time.Now()
	member, err := shared.Start(ctx, machine, others)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(shared.Authorities.Cluster.CertPEM())
	c.balancer.Add(ctx, member.APIServerAddress(), roots)
	c.mu.Lock()
	c.members[m.Name] = member
	c.mu.Unlock()
	c.log.Info("control plane machine is up", "machine", m.Name, "version", m.Version, "took", time.Since(started).Round(time.Millisecond).String())
	return nil
}

// sharedFor gives what the machines of the control plane have in common.
func (c *Cluster) sharedFor(ctx context.Context, m Machine) (*controlplane.Cluster, error) {
	c.mu.Lock()
	known := c.shared
	c.mu.Unlock()
	if known != nil {
		return known, nil
	}
	authorities, err := m.Authorities(ctx)
	if err != nil {
		return nil, err
	}
	shared := &controlplane.Cluster{
		Name: c.Name, Programs: c.options.Programs, Authorities: authorities, Endpoint: c.endpoint,
		PodSubnet: c.PodSubnet, ServiceSubnet: c.ServiceSubnet, DNSDomain: c.DNSDomain,
		Egress: c.egress.Address(), Dir: c.dir, Log: c.log,
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shared = shared
	return shared, nil
}

// initialize creates what kubeadm creates in a new cluster, once: users may change or delete it afterwards.
func (c *Cluster) initialize(ctx context.Context, shared *controlplane.Cluster, m Machine) error {
	config, err := c.config(ctx)
	if err != nil {
		return err
	}
	cl, err := client.New(config, client.Options{Scheme: scheme.Scheme})
	if err != nil {
		return err
	}
	objects, err := kubeadm.Objects(kubeadm.Cluster{
		Server: shared.Server(), CA: shared.Authorities.Cluster.CertPEM(), Version: m.Version, Data: m.Data,
		PodSubnet: c.PodSubnet, ServiceSubnet: c.ServiceSubnet, DNSDomain: c.DNSDomain,
	})
	if err != nil {
		return err
	}
	for _, object := range objects {
		if err := cl.Create(ctx, object); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("create %T %s: %w", object, object.GetName(), err)
		}
	}
	c.state.Initialized = true
	return writeJSON(filepath.Join(c.dir, clusterFile), c.state)
}

// adjustManagers runs the pair of controller manager and scheduler at the lowest version of the control plane:
// no program of a cluster may be newer than its oldest API server. It needs changing to be held.
func (c *Cluster) adjustManagers(ctx context.Context) error {
	c.mu.Lock()
	shared, current := c.shared, c.managers
	var minors []string
	for _, member := range c.members {
		minors = append(minors, member.Minor)
	}
	c.mu.Unlock()

	var wanted string
	if len(minors) > 0 {
		wanted = slices.MinFunc(minors, compareMinors)
	}
	if current != nil {
		if current.Minor == wanted {
			return nil
		}
		current.Kill(ctx)
		current = nil
	}
	var err error
	if wanted != "" {
		current, err = shared.StartManagers(ctx, wanted)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.managers = current
	return err
}

// config reaches the cluster through its load balancer, once it answers.
func (c *Cluster) config(ctx context.Context) (*rest.Config, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, reachTimeout, fmt.Errorf("nothing within %s", reachTimeout))
	defer cancel()
	if err := c.balancer.AwaitHealthy(ctx); err != nil {
		return nil, fmt.Errorf("cluster %s: %w", c.Spec, err)
	}
	c.mu.Lock()
	shared := c.shared
	c.mu.Unlock()
	admin, err := shared.AdminKeyPair()
	if err != nil {
		return nil, err
	}
	return &rest.Config{
		Host: shared.Server(),
		QPS:  -1, // no limit: a hundred kubelets speak through it
		TLSClientConfig: rest.TLSClientConfig{
			CAData: shared.Authorities.Cluster.CertPEM(), CertData: admin.CertPEM, KeyData: admin.KeyPEM,
		},
		UserAgent: "cluster-stack-sandbox",
	}, nil
}

func (c *Cluster) runKubelet(ctx context.Context, m Machine, state machineState) error {
	kubelets, err := c.ensureKubelets(ctx)
	if err != nil {
		return err
	}
	ip := address(c.options.Prefix, c.state.Number, state.Number)
	node := kubelet.Node{
		Name: m.Name, Version: m.Version, ProviderID: m.ProviderID,
		Labels: m.Data.Node.Labels, Taints: taints(m),
		Address: netip.AddrPortFrom(ip, state.Kubelet),
	}
	if m.Data.ControlPlane {
		node.StaticPods = kubeadm.StaticPods(m.Name, m.Version)
		node.Ports = map[int32]uint16{etcdPort: state.ControlPlane.Etcd, apiServerPort: state.ControlPlane.APIServer}
	}
	serving, err := c.servingConfig(m.Name, ip)
	if err != nil {
		return err
	}
	return kubelets.Add(ctx, node, serving)
}

// taints are those of the bootstrap data and those that a Node has until somebody took care of it.
func taints(m Machine) []corev1.Taint {
	result := slices.Clone(m.Data.Node.Taints)
	add := func(t corev1.Taint) {
		if !slices.ContainsFunc(result, func(known corev1.Taint) bool { return known.MatchTaint(&t) }) {
			result = append(result, t)
		}
	}
	if !m.Data.ControlPlane {
		add(corev1.Taint{Key: "node.cluster.x-k8s.io/uninitialized", Effect: corev1.TaintEffectNoSchedule})
	}
	if m.Data.Node.ExternalCloudProvider {
		add(corev1.Taint{Key: "node.cloudprovider.kubernetes.io/uninitialized", Value: "true", Effect: corev1.TaintEffectNoSchedule})
	}
	return result
}

// servingConfig lets only the API servers speak with a kubelet.
func (c *Cluster) servingConfig(name string, ip netip.Addr) (*tls.Config, error) {
	ca := c.shared.Authorities.Cluster
	pair, err := ca.Issue(pki.Request{
		CommonName: "system:node:" + name, Organizations: []string{"system:nodes"},
		DNSNames: []string{name}, IPs: []net.IP{ip.AsSlice()}, Server: true,
	})
	if err != nil {
		return nil, err
	}
	certificate, err := tls.X509KeyPair(pair.CertPEM, pair.KeyPEM)
	if err != nil {
		return nil, err
	}
	clients := x509.NewCertPool()
	clients.AppendCertsFromPEM(ca.CertPEM())
	return &tls.Config{
		Certificates: []tls.Certificate{certificate}, ClientCAs: clients,
		ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12,
	}, nil
}

func (c *Cluster) ensureKubelets(ctx context.Context) (*kubelet.Kubelets, error) {
	c.mu.Lock()
	known := c.kubelets != nil
	answers := c.shared != nil
	c.mu.Unlock()
	if !known {
		if !answers {
			return nil, fmt.Errorf("cluster %s has no control plane machine yet", c.Spec)
		}
		config, err := c.config(ctx)
		if err != nil {
			return nil, err
		}
		started, err := kubelet.Start(ctx, kubelet.Options{Config: config, PodSubnet: c.PodSubnet, Log: c.log})
		if err != nil {
			return nil, fmt.Errorf("cluster %s: %w", c.Spec, err)
		}
		c.mu.Lock()
		if c.kubelets == nil && !c.closed {
			c.kubelets = started
			started = nil
		}
		c.mu.Unlock()
		if started != nil { // another machine was faster, or the cluster is gone
			started.Stop()
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.kubelets == nil {
		return nil, fmt.Errorf("cluster %s lost its control plane", c.Spec)
	}
	return c.kubelets, nil
}

// RemoveMachine switches a machine off and forgets it. Its Node goes as well, when there still is an API server to
// tell.
func (c *Cluster) RemoveMachine(ctx context.Context, name string) error {
	c.mu.Lock()
	member, kubelets := c.members[name], c.kubelets
	others := len(c.members) > 1
	delete(c.up, name)
	c.mu.Unlock()
	if member != nil && others {
		// Its etcd is out of the cluster already, so what would be asked of this API server fails.
		c.balancer.Remove(member.APIServerAddress())
	}
	if kubelets != nil {
		farewell, cancel := context.WithTimeout(ctx, farewellTimeout)
		if err := kubelets.Remove(farewell, name); err != nil {
			// The cluster may be about to vanish, or its control plane broken. Neither keeps a machine on.
			c.log.V(1).Info("node not removed", "machine", name, "cause", err.Error())
		}
		cancel()
	}
	if member != nil {
		if err := c.removeMember(ctx, member); err != nil {
			return err
		}
	}
	hadData := (controlplane.Machine{Dir: c.machineDir(name)}).HasData()
	if err := os.RemoveAll(c.machineDir(name)); err != nil {
		return err
	}
	c.mu.Lock()
	delete(c.machines, name)
	c.mu.Unlock()
	if !hadData {
		return nil
	}
	return c.beginAnew()
}

// beginAnew has the next machine that initializes the control plane create everything again, once no machine with
// data of the cluster is left.
func (c *Cluster) beginAnew() error {
	c.changing.Lock()
	defer c.changing.Unlock()
	if !c.state.Initialized {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for name := range c.machines {
		if (controlplane.Machine{Dir: c.machineDir(name)}).HasData() {
			return nil
		}
	}
	c.state.Initialized = false
	if c.closed {
		return nil // its folder is gone
	}
	return writeJSON(filepath.Join(c.dir, clusterFile), c.state)
}

// removeMember switches a machine of the control plane off, and with the last one all that needs the cluster.
func (c *Cluster) removeMember(ctx context.Context, member *controlplane.Member) error {
	c.changing.Lock()
	defer c.changing.Unlock()
	c.balancer.Remove(member.APIServerAddress())
	member.Kill(ctx)
	c.mu.Lock()
	delete(c.members, member.Name)
	var orphans *kubelet.Kubelets
	if len(c.members) == 0 {
		orphans, c.kubelets = c.kubelets, nil
		clear(c.up)
	}
	c.mu.Unlock()
	if orphans != nil {
		orphans.Stop()
	}
	return c.adjustManagers(ctx)
}

// kill ends everything at once.
func (c *Cluster) kill(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	c.stop(ctx)
}

// stop ends everything, by force once ctx is done.
func (c *Cluster) stop(ctx context.Context) {
	c.changing.Lock()
	defer c.changing.Unlock()
	c.mu.Lock()
	kubelets, managers, members := c.kubelets, c.managers, c.members
	c.kubelets, c.managers, c.members = nil, nil, map[string]*controlplane.Member{}
	c.closed = true
	c.mu.Unlock()
	if kubelets != nil {
		kubelets.Stop()
	}
	if managers != nil {
		managers.Stop(ctx)
	}
	c.balancer.Close()
	c.egress.Close()
	var all sync.WaitGroup
	for _, member := range members {
		all.Go(func() { member.Stop(ctx) })
	}
	all.Wait()
}

func (c *Cluster) machineDir(name string) string { return filepath.Join(c.dir, "machines", name) }

func compareMinors(a, b string) int {
	number := func(minor string) int {
		_, digits, _ := strings.Cut(minor, ".")
		n, _ := strconv.Atoi(digits) // what is no number was refused by Cluster API's webhook
		return n
	}
	return cmp.Compare(number(a), number(b))
}
