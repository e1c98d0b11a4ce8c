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
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/statefile"
)

// Times after which it is not worth to wait any longer.
const (
	reachTimeout    = 30 * time.Second
	farewellTimeout = 5 * time.Second
)

// errClosed is what a machine is told that comes too late: what it started would belong to nobody.
var errClosed = errors.New("the cluster is stopped or removed")

// Cluster is one workload cluster.
type Cluster struct {
	Spec
	fleet    *Fleet
	dir      string
	balancer *balancer.Balancer
	egress   *egress.Proxy
	log      logr.Logger

	// life ends when the cluster is stopped or removed: nothing is started after that.
	life  context.Context //nolint:containedctx // the cluster's own life, longer than that of any call
	end   context.CancelCauseFunc
	calls sync.WaitGroup // to Run, and what else works for the cluster

	// joining has room for the one machine that joins etcd at a time.
	joining chan struct{}
	// managing is held while managers are exchanged.
	managing sync.Mutex

	mu       sync.Mutex
	state    clusterState
	lite     bool // what Spec.Lite last was
	machines map[string]machineState
	up       map[string]bool // machines that Run has brought up completely
	members  map[string]*controlplane.Member
	managers *controlplane.Managers
	shared   *controlplane.Cluster // set with the first machine of the control plane
	kubelets *kubelet.Kubelets     // set once the cluster answers
	faults   func(*corev1.Pod) *kubelet.Fault
}

// machineState is what is remembered of a machine.
type machineState struct {
	Address netip.Addr `json:"address"`
	// Kubelet is the port of its kubelet.
	Kubelet uint16 `json:"kubelet"`
	// ControlPlane has the ports of the programs of a control plane; unused on other machines.
	ControlPlane controlplane.Ports `json:"controlPlane"`
	// Off is set while the machine is switched off, Booted is when it was last switched on again.
	Off    bool      `json:"off,omitzero"`
	Booted time.Time `json:"booted,omitzero"`
}

func newCluster(ctx context.Context, f *Fleet, spec Spec, dir string, state clusterState) (*Cluster, error) {
	c := &Cluster{
		Spec: spec, fleet: f, dir: dir, joining: make(chan struct{}, 1),
		log:   f.Log.WithValues("cluster", spec.String()),
		state: state, lite: spec.Lite, machines: map[string]machineState{}, up: map[string]bool{}, members: map[string]*controlplane.Member{},
	}
	c.life, c.end = context.WithCancelCause(context.WithoutCancel(ctx))
	files, err := filepath.Glob(filepath.Join(dir, "machines", "*", machineFile))
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		var machine machineState
		if err := statefile.Read(file, &machine); err != nil {
			return nil, err
		}
		c.machines[filepath.Base(filepath.Dir(file))] = machine
	}
	if c.balancer, err = balancer.Listen(ctx, state.Endpoint.String(), c.log); err != nil {
		return nil, fmt.Errorf("cluster %s: %w", spec, err)
	}
	if c.egress, err = egress.Listen(ctx, "@cluster-stack-egress-"+state.Endpoint.String(), c.log); err != nil {
		c.balancer.Close()
		return nil, fmt.Errorf("cluster %s: %w", spec, err)
	}
	c.calls.Go(c.tellHealth)
	return c, nil
}

// Endpoint is where the cluster is reached.
func (c *Cluster) Endpoint() netip.AddrPort { return c.state.Endpoint }

// Allocate gives the address of a machine, and keeps it until the machine is removed.
func (c *Cluster) Allocate(ctx context.Context, name string) (netip.Addr, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	state, err := c.allocate(ctx, name)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("machine %s: %w", name, err)
	}
	return state.Address, nil
}

// allocate needs the lock.
func (c *Cluster) allocate(ctx context.Context, name string) (machineState, error) {
	if c.life.Err() != nil {
		return machineState{}, errClosed
	}
	if state, ok := c.machines[name]; ok {
		return state, nil
	}
	taken := map[netip.Addr]bool{}
	for _, other := range c.machines {
		taken[other.Address] = true
	}
	for number := balancerNumber + 1; number <= 254; number++ {
		ip := address(c.Endpoint().Addr(), byte(number))
		if taken[ip] {
			continue
		}
		state := machineState{Address: ip}
		for _, port := range []struct {
			of        *uint16
			preferred uint16
		}{
			{&state.Kubelet, 10250}, {&state.ControlPlane.APIServer, apiServerPort},
			{&state.ControlPlane.Etcd, etcdPort}, {&state.ControlPlane.EtcdPeer, etcdPeerPort},
		} {
			var err error
			if *port.of, err = freePort(ctx, ip, port.preferred); err != nil {
				return state, err
			}
		}
		if err := statefile.Write(filepath.Join(c.machineDir(name), machineFile), state); err != nil {
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
	etcdPeerPort  = 2380
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

// Has tells whether a machine was allocated, now or in an earlier run.
func (c *Cluster) Has(name string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.machines[name]
	return ok
}

// IsUp tells whether Run has brought a machine up.
func (c *Cluster) IsUp(name string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.up[name]
}

// Run brings a machine up: etcd and API server when it belongs to the control plane, then its kubelet. A machine
// that is up already stays as it is; a Run that failed can be repeated. One whose machine is to go is canceled with
// controlplane.ErrDeleted as the cause, before RemoveMachine.
func (c *Cluster) Run(ctx context.Context, m Machine) error {
	ctx, leave, err := c.enter(ctx)
	if err != nil {
		return fmt.Errorf("machine %s: %w", m.Name, err)
	}
	defer leave()
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

// enter makes a call part of the cluster's life: its context ends when the cluster does, which waits for leave.
func (c *Cluster) enter(ctx context.Context) (_ context.Context, leave func(), _ error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.life.Err() != nil {
		return nil, nil, errClosed
	}
	c.calls.Add(1)
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(c.life, func() { cancel(context.Cause(c.life)) })
	return ctx, func() {
		stop()
		cancel(nil)
		c.calls.Done()
	}, nil
}

func (c *Cluster) runControlPlane(ctx context.Context, m Machine, state machineState) error {
	if m.Data.Init && m.Data.ExternalEtcd {
		if err := c.remember(func(s *clusterState) { s.SharedEtcd = true }); err != nil {
			return err
		}
	}
	shared, err := c.sharedFor(ctx, m)
	if err != nil {
		return err
	}
	c.mu.Lock()
	_, running := c.members[m.Name]
	c.mu.Unlock()
	if !running {
		if err := c.startMember(ctx, shared, m, state); err != nil {
			return fmt.Errorf("cluster %s: %w", c.Spec, err)
		}
	}
	if m.Data.Init {
		if err := c.initialize(ctx, shared, m); err != nil {
			return fmt.Errorf("cluster %s: %w", c.Spec, err)
		}
	}
	return c.Adjust(ctx)
}

// startMember starts etcd and API server of a machine. Those with data start side by side, because their etcds need
// each other; the others join one after the other.
func (c *Cluster) startMember(ctx context.Context, shared *controlplane.Cluster, m Machine, state machineState) error {
	machine := c.controlPlaneMachine(m.Name, state)
	machine.Minor = kubeadm.Minor(m.Version)
	others := c.othersWithData(m.Name)
	if m.Data.Init && len(others) == 0 && !c.initialized() {
		// There is nothing in it yet that anybody knows of, and an etcd that was killed while it wrote its first lines
		// does not find itself again.
		if err := machine.Discard(); err != nil {
			return err
		}
	}
	if shared.SharedEtcd == nil && !machine.HasData() && (len(others) > 0 || !m.Data.Init) {
		select {
		case c.joining <- struct{}{}:
			defer func() { <-c.joining }()
		case <-ctx.Done():
			return fmt.Errorf("machine %s waits for another one to join: %w", m.Name, context.Cause(ctx))
		}
		others = c.othersThatRun()
		if len(others) == 0 {
			return fmt.Errorf("machine %s has to join, but no other machine of the control plane runs", m.Name)
		}
	}
	var err error
	if machine.Configuration, err = c.configuration(ctx, m); err != nil {
		return fmt.Errorf("machine %s: %w", m.Name, err)
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

// configurationFile is where the machine keeps what it was started with, as kubeadm does.
const configurationFile = "kubeadm.yaml"

// configuration is what a user sets for the programs of a control plane machine. The first machine finds it in its
// bootstrap data; one that joins asks the cluster, as kubeadm does. It stays for the life of the machine.
func (c *Cluster) configuration(ctx context.Context, m Machine) (bootstrap.ClusterConfiguration, error) {
	file := filepath.Join(c.machineDir(m.Name), configurationFile)
	known, err := os.ReadFile(file)
	if err == nil {
		return bootstrap.ParseClusterConfiguration(string(known))
	}
	document := m.Data.ClusterConfiguration
	if !m.Data.Init {
		if document, err = c.uploadedConfiguration(ctx); err != nil {
			return bootstrap.ClusterConfiguration{}, err
		}
	}
	parsed, err := bootstrap.ParseClusterConfiguration(document)
	if err != nil {
		return parsed, err
	}
	if ignored := controlplane.Ignored(parsed); len(ignored) > 0 {
		c.log.Info("arguments that have no effect in a sandbox are left out", "machine", m.Name, "arguments", ignored)
	}
	return parsed, statefile.Replace(file, []byte(document))
}

// uploadedConfiguration reads what kubeadm leaves in a cluster, and Cluster API keeps up to date.
func (c *Cluster) uploadedConfiguration(ctx context.Context) (string, error) {
	config, err := c.config(ctx)
	if err != nil {
		return "", err
	}
	cl, err := client.New(config, client.Options{Scheme: scheme.Scheme})
	if err != nil {
		return "", err
	}
	uploaded := &corev1.ConfigMap{}
	if err := cl.Get(ctx, client.ObjectKey{Namespace: metav1.NamespaceSystem, Name: kubeadm.ConfigMapName}, uploaded); err != nil {
		return "", fmt.Errorf("configuration to join with: %w", err)
	}
	return uploaded.Data[kubeadm.ClusterConfigurationKey], nil
}

// controlPlaneMachine is how the other machines know a machine.
func (c *Cluster) controlPlaneMachine(name string, state machineState) controlplane.Machine {
	return controlplane.Machine{Name: name, IP: state.Address, Ports: state.ControlPlane, Dir: c.machineDir(name)}
}

// othersWithData are the machines besides the named one that are members of etcd, whether they run or not.
func (c *Cluster) othersWithData(name string) []controlplane.Machine {
	c.mu.Lock()
	defer c.mu.Unlock()
	var others []controlplane.Machine
	for other, state := range c.machines {
		if machine := c.controlPlaneMachine(other, state); other != name && machine.HasData() {
			others = append(others, machine)
		}
	}
	return others
}

// othersThatRun are the machines that one can join that does not run itself.
func (c *Cluster) othersThatRun() []controlplane.Machine {
	c.mu.Lock()
	defer c.mu.Unlock()
	var others []controlplane.Machine
	for _, member := range c.members {
		others = append(others, member.Machine)
	}
	return others
}

func (c *Cluster) initialized() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state.Initialized
}

func (c *Cluster) sharesEtcd() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state.SharedEtcd
}

// setInitialized remembers whether what kubeadm creates was created.
func (c *Cluster) setInitialized(is bool) error {
	return c.remember(func(s *clusterState) { s.Initialized = is })
}

// remember changes what is kept of the cluster.
func (c *Cluster) remember(change func(*clusterState)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.state
	change(&c.state)
	if c.state == before {
		return nil
	}
	if c.life.Err() != nil {
		return nil // its folder may be gone
	}
	return statefile.Write(filepath.Join(c.dir, clusterFile), c.state)
}

// isOf tells whether the cluster is that of an object, which may name an endpoint. An object that was created anew
// with the endpoint is the same, one without it wants a cluster of its own.
func (c *Cluster) isOf(owner Owner, endpoint netip.AddrPort) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state.Owner.UID == owner.UID || c.state.Endpoint == endpoint
}

// setOwner remembers who the cluster was made for.
func (c *Cluster) setOwner(owner Owner) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state.Owner == owner {
		return nil
	}
	c.state.Owner = owner
	return statefile.Write(filepath.Join(c.dir, clusterFile), c.state)
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
		Name: c.Name, Programs: c.fleet.Programs, Authorities: authorities, Endpoint: c.Endpoint(),
		PodSubnet: c.PodSubnet, ServiceSubnet: c.ServiceSubnet, DNSDomain: c.DNSDomain,
		Egress: c.egress.Address(), Changed: c.programChanged, Dir: c.dir, Log: c.log,
	}
	if c.sharesEtcd() {
		if shared.SharedEtcd, err = c.fleet.SharedEtcd(ctx); err != nil {
			return nil, err
		}
		shared.EtcdPrefix, shared.Authorities.Etcd = etcdPrefix(c.NamespacedName), shared.SharedEtcd.CA()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.shared == nil { // machines start side by side
		c.shared = shared
	}
	return c.shared, nil
}

// initialize creates what kubeadm creates in a new cluster, once: users may change or delete it afterwards.
func (c *Cluster) initialize(ctx context.Context, shared *controlplane.Cluster, m Machine) error {
	if c.initialized() {
		return nil
	}
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
	return c.setInitialized(true)
}

// setLite says what Adjust shall come to.
func (c *Cluster) setLite(lite bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lite = lite
}

// Adjust runs the pair of controller manager and scheduler as one of the machines with the lowest version of the control
// plane has it: no program of a cluster may be newer than its oldest API server. In a lite cluster it ends the pair and gives Nodes a network, since
// nobody would create the pods of a CNI.
func (c *Cluster) Adjust(ctx context.Context) error {
	c.managing.Lock()
	defer c.managing.Unlock()
	if c.life.Err() != nil {
		return nil
	}
	c.mu.Lock()
	shared, current, lite, kubelets := c.shared, c.managers, c.lite, c.kubelets
	leader := c.leader()
	c.mu.Unlock()

	if kubelets != nil {
		kubelets.GiveNetwork(lite)
	}
	if lite {
		leader = nil
	}
	var wanted controlplane.ManagersSpec
	if leader != nil {
		wanted = leader.Managers()
	}
	if current != nil {
		if equality.Semantic.DeepEqual(current.ManagersSpec, wanted) {
			return nil
		}
		current.Kill(ctx)
		current = nil
	}
	var err error
	if leader != nil {
		current, err = shared.StartManagers(ctx, wanted)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.managers = current
	return err
}

// leader needs the lock. It is the machine that the managers run as, nil without any.
func (c *Cluster) leader() *controlplane.Member {
	var leader *controlplane.Member
	for name, member := range c.members {
		if leader == nil || cmp.Or(compareMinors(member.Minor, leader.Minor), cmp.Compare(name, leader.Name)) < 0 {
			leader = member
		}
	}
	return leader
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
	booted, err := c.boot(m.Name)
	if err != nil {
		return err
	}
	node := kubelet.Node{
		Name: m.Name, Version: m.Version, ProviderID: m.ProviderID, Booted: booted,
		Labels: m.Data.Node.Labels, Taints: taints(m),
		Address: netip.AddrPortFrom(state.Address, state.Kubelet),
	}
	if m.Data.ControlPlane {
		etcd := !c.sharesEtcd()
		node.StaticPods = kubeadm.StaticPods(m.Name, m.Version, etcd)
		node.Program = func(container string) (kubelet.Program, bool) { return c.program(m.Name, container) }
		node.Ports = map[int32]uint16{apiServerPort: state.ControlPlane.APIServer}
		if etcd {
			node.Ports[etcdPort] = state.ControlPlane.Etcd
		}
	}
	serving, err := c.servingConfig(m.Name, state.Address)
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
		started, err := kubelet.Start(ctx, kubelet.Options{Config: config, PodSubnet: c.PodSubnet, Fault: c.fault, Log: c.log})
		if err != nil {
			return nil, fmt.Errorf("cluster %s: %w", c.Spec, err)
		}
		c.mu.Lock()
		if c.kubelets == nil {
			c.kubelets = started
			c.kubelets.GiveNetwork(c.lite)
			started = nil
		}
		c.mu.Unlock()
		if started != nil { // another machine was faster
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

// Drain prepares for the end of a control plane machine while its API server still works: the load balancer lets the
// other machines take over. Of any other machine there is nothing to prepare.
func (c *Cluster) Drain(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if member := c.members[name]; member != nil {
		c.balancer.Drain(member.APIServerAddress())
	}
}

// RemoveMachine switches a machine off and forgets it. Its Node goes as well, when there still is an API server to
// tell.
func (c *Cluster) RemoveMachine(ctx context.Context, name string) error {
	c.mu.Lock()
	member, kubelets, wasUp := c.members[name], c.kubelets, c.up[name]
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
	if !wasUp {
		c.leaveEtcd(ctx, name)
	}
	if member != nil {
		if err := c.removeMember(ctx, member); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(c.machineDir(name)); err != nil {
		return err
	}
	c.mu.Lock()
	delete(c.machines, name)
	c.mu.Unlock()
	if !c.sharesEtcd() && len(c.othersWithData(name)) == 0 {
		// The next machine that initializes the control plane has to create everything again.
		return c.setInitialized(false)
	}
	return nil
}

// leaveEtcd takes a machine out of etcd that never came up: without a Node, Cluster API does not find its member.
func (c *Cluster) leaveEtcd(ctx context.Context, name string) {
	c.mu.Lock()
	shared := c.shared
	state, known := c.machines[name]
	c.mu.Unlock()
	machine := c.controlPlaneMachine(name, state)
	others := slices.DeleteFunc(c.othersThatRun(), func(m controlplane.Machine) bool { return m.Name == name })
	if shared == nil || !known || len(others) == 0 || !machine.HasData() {
		return
	}
	if err := shared.Forget(ctx, machine, others); err != nil {
		// Neither does this keep a machine on. Whoever joins next tries again.
		c.log.Info("etcd member not removed", "machine", name, "cause", err.Error())
	}
}

// removeMember switches a machine of the control plane off, and with the last one all that needs the cluster.
func (c *Cluster) removeMember(ctx context.Context, member *controlplane.Member) error {
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
	return c.Adjust(ctx)
}

// kill ends everything at once.
func (c *Cluster) kill(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	c.stop(ctx)
}

// stop ends everything, by force once ctx is done. Machines that are about to start give up.
func (c *Cluster) stop(ctx context.Context) {
	c.mu.Lock()
	c.end(errClosed)
	c.mu.Unlock()
	c.calls.Wait()
	c.managing.Lock()
	defer c.managing.Unlock()
	c.mu.Lock()
	kubelets, managers, members := c.kubelets, c.managers, c.members
	c.kubelets, c.managers, c.members = nil, nil, map[string]*controlplane.Member{}
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
