// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controlplane

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/pki"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/probe"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/process"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/simulator/bootstrap"
)

// readyTimeout is how long a program may take to be ready on a busy machine.
const readyTimeout = 90 * time.Second

// forgetTimeout is how long etcd may take to let go of a member.
const forgetTimeout = 5 * time.Second

// ErrDeleted is the cause with which a start is canceled whose machine is to go.
var ErrDeleted = errors.New("the machine is being deleted")

// Machine is one machine of a control plane.
type Machine struct {
	// Name is that of the Node and of the etcd member: Cluster API compares the two.
	Name string
	// Minor is the Kubernetes minor to serve, such as 1.35.
	Minor string
	IP    netip.Addr
	Ports Ports
	// Configuration is what the user sets for the programs of the control plane.
	Configuration bootstrap.ClusterConfiguration
	// Dir is the folder of this machine. When it holds the data of an earlier run, the machine goes on with it.
	Dir string
}

// Ports of the programs of a machine, on its own address.
type Ports struct {
	APIServer, Etcd, EtcdPeer uint16
}

// APIServerAddress is where the API server listens, host:port.
func (m Machine) APIServerAddress() string {
	return netip.AddrPortFrom(m.IP, m.Ports.APIServer).String()
}

func (m Machine) etcdURL() string {
	return "https://" + netip.AddrPortFrom(m.IP, m.Ports.Etcd).String()
}

func (m Machine) peerURL() string {
	return "https://" + netip.AddrPortFrom(m.IP, m.Ports.EtcdPeer).String()
}

func (m Machine) pki() string     { return filepath.Join(m.Dir, "pki") }
func (m Machine) dataDir() string { return filepath.Join(m.Dir, "etcd") }

// HasData tells whether etcd ran on the machine before, and so knows its membership by itself.
func (m Machine) HasData() bool {
	_, err := os.Stat(filepath.Join(m.dataDir(), "member", "wal"))
	return err == nil
}

// Member is the running etcd and API server of a machine.
type Member struct {
	Machine
	etcd, apiServer *program
}

// Discard removes the data of a machine that does not run.
func (m Machine) Discard() error { return os.RemoveAll(m.dataDir()) }

// Start starts etcd and the API server of a machine and returns when both are ready. A machine with data goes on
// with it; after a restart all machines of a cluster have to be started at once, since their etcds wait for one
// another. A machine without data joins the etcd of the members, one at a time, or begins a cluster when there are
// none. Where the cluster shares an etcd there is only the API server. A start that failed can be repeated.
func (c *Cluster) Start(ctx context.Context, m Machine, members []Machine) (_ *Member, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, readyTimeout, fmt.Errorf("not ready within %s", readyTimeout))
	defer cancel()

	if err := errors.Join(c.writeMachinePKI(m), c.writeEgress(m)); err != nil {
		return nil, fmt.Errorf("machine %s: %w", m.Name, err)
	}
	result := &Member{Machine: m}
	joins := c.SharedEtcd == nil && !m.HasData() && len(members) > 0
	defer func() {
		if err == nil {
			return
		}
		if joins && errors.Is(context.Cause(ctx), ErrDeleted) {
			// While its etcd still runs: of two members, neither can do anything without the other.
			err = errors.Join(err, c.Forget(context.WithoutCancel(ctx), m, members))
		}
		result.Kill(ctx)
		err = fmt.Errorf("machine %s: %w", m.Name, err)
	}()

	if c.SharedEtcd == nil {
		if err := c.startEtcd(ctx, result, members, joins); err != nil {
			return nil, err
		}
	}
	result.apiServer, err = launch(ctx, process.Spec{
		Name: apiServer, Path: c.Programs.KubeAPIServer, Args: c.apiServerArgs(m),
		// A smaller heap for a little more work: there are many API servers on one machine.
		Env: []string{"GOGC=50"}, LogFile: filepath.Join(m.Dir, apiServer+".log"),
	}, c.Log.WithValues("machine", m.Name), c.changed(m))
	if err != nil {
		return nil, err
	}
	return result, c.awaitAPIServer(ctx, result)
}

func (c *Cluster) startEtcd(ctx context.Context, of *Member, members []Machine, joins bool) error {
	m := of.Machine
	initial := []string{m.Name + "=" + m.peerURL()}
	state := "new"
	if !m.HasData() {
		// What a start left that was killed before etcd had a log.
		if err := m.Discard(); err != nil {
			return err
		}
	}
	if joins {
		var err error
		if initial, err = c.addLearner(ctx, m, members); err != nil {
			return err
		}
		state = "existing"
	}
	var err error
	of.etcd, err = launch(ctx, process.Spec{
		Name: etcd, Path: c.Programs.Etcd, Args: etcdArgs(m, initial, state),
		Env: []string{"GOGC=50"}, LogFile: filepath.Join(m.Dir, etcd+".log"),
	}, c.Log.WithValues("machine", m.Name), c.changed(m))
	if err != nil {
		return err
	}
	// The API server tries until its etcd answers, so that of a single machine needs not wait for it. A learner,
	// however, refuses to serve it, and the etcd of a machine that was started again answers only when enough of the
	// others do.
	if len(members) == 0 {
		return nil
	}
	if err := c.awaitEtcd(ctx, of); err != nil {
		return err
	}
	return c.promote(ctx, m, members)
}

// changed is what programs of a machine call when their state may have changed.
func (c *Cluster) changed(m Machine) func() {
	if c.Changed == nil {
		return nil
	}
	return func() { c.Changed(m.Name) }
}

// Kill ends the programs at once, like a machine that is switched off.
func (m *Member) Kill(ctx context.Context) { m.Stop(noGrace(ctx)) }

// Stop ends the programs in order, the API server before its etcd; by force once ctx is done.
func (m *Member) Stop(ctx context.Context) {
	if m.apiServer != nil {
		m.apiServer.Stop(ctx)
	}
	if m.etcd != nil {
		m.etcd.Stop(ctx)
	}
}

// noGrace is for what shall end at once: it is over before it is used.
func noGrace(ctx context.Context) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	return ctx
}

func (c *Cluster) writeMachinePKI(m Machine) error {
	a := c.Authorities
	if a.Etcd == nil {
		return errors.New("the Secret with the certificate authority of etcd has no private key (tls.key), but the cluster's configuration names no external etcd")
	}
	err := writeFiles(m.pki(), map[string][]byte{
		"ca.crt":             a.Cluster.CertPEM(),
		"etcd-ca.crt":        a.Etcd.CertPEM(),
		"front-proxy-ca.crt": a.FrontProxy.CertPEM(),
		"sa.pub":             a.ServiceAccount.PublicPEM,
		"sa.key":             a.ServiceAccount.PrivatePEM,
	})
	if err != nil {
		return err
	}
	service, err := firstAddress(c.ServiceSubnet)
	if err != nil {
		return err
	}
	local := []net.IP{m.IP.AsSlice(), net.IPv4(127, 0, 0, 1)}
	names := []string{m.Name, "localhost"}
	var furtherNames []string
	var furtherIPs []net.IP
	for _, san := range m.Configuration.APIServer.CertSANs {
		if ip := net.ParseIP(san); ip != nil {
			furtherIPs = append(furtherIPs, ip)
		} else {
			furtherNames = append(furtherNames, san)
		}
	}
	type request struct {
		name    string
		ca      *pki.CA
		request pki.Request
	}
	requests := []request{
		// Cluster API finds this certificate by its name, to report when it expires.
		{"apiserver", a.Cluster, pki.Request{
			CommonName: "kube-apiserver", Server: true,
			DNSNames: slices.Concat([]string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + c.DNSDomain}, names, furtherNames),
			IPs:      slices.Concat([]net.IP{c.Endpoint.Addr().AsSlice(), service.AsSlice()}, local, furtherIPs),
		}},
		{"apiserver-kubelet-client", a.Cluster, pki.Request{CommonName: "kube-apiserver-kubelet-client", Organizations: []string{"system:masters"}, Client: true}},
		{"front-proxy-client", a.FrontProxy, pki.Request{CommonName: "front-proxy-client", Client: true}},
		{"apiserver-etcd-client", a.Etcd, pki.Request{CommonName: "kube-apiserver-etcd-client", Client: true}},
	}
	if c.SharedEtcd == nil {
		member := pki.Request{CommonName: m.Name, DNSNames: names, IPs: local, Client: true, Server: true}
		requests = append(requests, request{"etcd-server", a.Etcd, member}, request{"etcd-peer", a.Etcd, member})
	}
	for _, r := range requests {
		if err := issueFiles(m.pki(), r.name, r.ca, r.request); err != nil {
			return err
		}
	}
	return nil
}

// egressFile tells an API server how to reach the inside of the cluster.
const egressFile = "egress.yaml"

func (c *Cluster) writeEgress(m Machine) error {
	return writeFiles(m.Dir, map[string][]byte{egressFile: fmt.Appendf(nil, `apiVersion: apiserver.k8s.io/v1beta1
kind: EgressSelectorConfiguration
egressSelections:
- name: cluster
  connection:
    proxyProtocol: HTTPConnect
    transport:
      uds:
        udsName: %q
`, c.Egress)})
}

// etcdArgs are the arguments of etcd. Nothing is synced to disk: the data of a sandbox outlives its processes,
// and needs not outlive the machine.
func etcdArgs(m Machine, initialCluster []string, state string) []string {
	return merge(etcd, []string{
		"--name=" + m.Name,
		"--data-dir=" + m.dataDir(),
		"--unsafe-no-fsync",
		"--log-level=warn",
		"--listen-client-urls=" + m.etcdURL(),
		"--advertise-client-urls=" + m.etcdURL(),
		"--listen-peer-urls=" + m.peerURL(),
		"--initial-advertise-peer-urls=" + m.peerURL(),
		"--initial-cluster=" + strings.Join(initialCluster, ","),
		"--initial-cluster-state=" + state,
		"--client-cert-auth=true",
		"--trusted-ca-file=" + filepath.Join(m.pki(), "etcd-ca.crt"),
		"--cert-file=" + filepath.Join(m.pki(), "etcd-server.crt"),
		"--key-file=" + filepath.Join(m.pki(), "etcd-server.key"),
		"--peer-client-cert-auth=true",
		"--peer-trusted-ca-file=" + filepath.Join(m.pki(), "etcd-ca.crt"),
		"--peer-cert-file=" + filepath.Join(m.pki(), "etcd-peer.crt"),
		"--peer-key-file=" + filepath.Join(m.pki(), "etcd-peer.key"),
	}, m.Configuration.Etcd.Local.ExtraArgs)
}

// apiServerArgs are kubeadm's and the user's, besides the emulated version and the reconciler: an address on loopback cannot
// be an endpoint of a Service.
func (c *Cluster) apiServerArgs(m Machine) []string {
	etcd, prefix := m.etcdURL(), "/registry"
	if c.SharedEtcd != nil {
		etcd, prefix = c.SharedEtcd.URL(), c.EtcdPrefix
	}
	file := func(name string) string { return filepath.Join(m.pki(), name) }
	return merge(apiServer, []string{
		"--emulated-version=kube=" + m.Minor,
		"--bind-address=" + m.IP.String(),
		"--advertise-address=" + m.IP.String(),
		fmt.Sprintf("--secure-port=%d", m.Ports.APIServer),
		"--endpoint-reconciler-type=none",
		"--egress-selector-config-file=" + filepath.Join(m.Dir, egressFile),
		"--allow-privileged=true",
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--enable-bootstrap-token-auth=true",
		"--service-cluster-ip-range=" + c.ServiceSubnet,
		"--client-ca-file=" + file("ca.crt"),
		"--tls-cert-file=" + file("apiserver.crt"),
		"--tls-private-key-file=" + file("apiserver.key"),
		"--etcd-servers=" + etcd,
		"--etcd-prefix=" + prefix,
		"--etcd-cafile=" + file("etcd-ca.crt"),
		"--etcd-certfile=" + file("apiserver-etcd-client.crt"),
		"--etcd-keyfile=" + file("apiserver-etcd-client.key"),
		"--kubelet-certificate-authority=" + file("ca.crt"),
		"--kubelet-client-certificate=" + file("apiserver-kubelet-client.crt"),
		"--kubelet-client-key=" + file("apiserver-kubelet-client.key"),
		"--kubelet-preferred-address-types=InternalIP,ExternalIP,Hostname",
		"--proxy-client-cert-file=" + file("front-proxy-client.crt"),
		"--proxy-client-key-file=" + file("front-proxy-client.key"),
		"--requestheader-client-ca-file=" + file("front-proxy-ca.crt"),
		"--requestheader-allowed-names=front-proxy-client",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--requestheader-group-headers=X-Remote-Group",
		"--requestheader-username-headers=X-Remote-User",
		"--service-account-issuer=https://kubernetes.default.svc." + c.DNSDomain,
		"--service-account-key-file=" + file("sa.pub"),
		"--service-account-signing-key-file=" + file("sa.key"),
	}, m.Configuration.APIServer.ExtraArgs)
}

func (c *Cluster) awaitAPIServer(ctx context.Context, m *Member) error {
	client, done := httpClient(c.Authorities.Cluster, nil)
	defer done()
	return m.apiServer.await(ctx, func(ctx context.Context) error {
		return probe.Get(ctx, client, "https://"+m.APIServerAddress()+"/readyz")
	})
}

func (c *Cluster) awaitEtcd(ctx context.Context, m *Member) error {
	certificate, err := c.etcdClientCertificate()
	if err != nil {
		return err
	}
	client, done := httpClient(c.Authorities.Etcd, certificate)
	defer done()
	return m.etcd.await(ctx, func(ctx context.Context) error {
		return probe.Get(ctx, client, m.etcdURL()+"/health?serializable=true")
	})
}

func (c *Cluster) etcdClientCertificate() (*tls.Certificate, error) {
	pair, err := c.Authorities.Etcd.Issue(pki.Request{CommonName: "sandbox", Client: true})
	if err != nil {
		return nil, err
	}
	certificate, err := tls.X509KeyPair(pair.CertPEM, pair.KeyPEM)
	if err != nil {
		return nil, err
	}
	return &certificate, nil
}

func tlsConfig(ca *pki.CA, certificate *tls.Certificate) *tls.Config {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.CertPEM())
	config := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	if certificate != nil {
		config.Certificates = []tls.Certificate{*certificate}
	}
	return config
}

func httpClient(ca *pki.CA, certificate *tls.Certificate) (client *http.Client, done func()) {
	transport := &http.Transport{TLSClientConfig: tlsConfig(ca, certificate)}
	return &http.Client{Transport: transport, Timeout: 5 * time.Second}, transport.CloseIdleConnections
}
