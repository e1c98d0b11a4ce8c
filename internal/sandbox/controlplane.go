// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/pki"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/probe"
)

// makeCertificates makes the authority of the management side, once, and every certificate that its programs present
// to one another, each time. Etcd asks for one too: its port is open to all users of the machine.
func (s *Sandbox) makeCertificates(context.Context) (string, error) {
	var err error
	if s.ca, err = pki.EnsureCA(s.path("certs", "ca.crt"), s.path("certs", "ca.key"), "cluster-stack-sandbox"); err != nil {
		return "", err
	}
	ips := []net.IP{net.ParseIP(s.ip)}
	for name, request := range map[string]pki.Request{
		"etcd": {CommonName: "etcd", IPs: ips, Server: true, Client: true},
		"kube-apiserver": {
			CommonName: "kube-apiserver", IPs: ips, Server: true,
			DNSNames: []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"},
		},
		"etcd-client": {CommonName: "kube-apiserver-etcd-client", Client: true},
	} {
		pair, err := s.ca.Issue(request)
		if err != nil {
			return "", err
		}
		if err := pair.WriteFiles(s.path("certs", name+".crt"), s.path("certs", name+".key")); err != nil {
			return "", err
		}
	}
	if _, err := os.Stat(s.path("certs", "sa.pub")); err == nil {
		return "", nil // tokens that it signed stay valid
	}
	key, err := pki.NewSigningKey()
	if err != nil {
		return "", err
	}
	return "", errors.Join(
		os.WriteFile(s.path("certs", "sa.key"), key.PrivatePEM, 0o600),
		os.WriteFile(s.path("certs", "sa.pub"), key.PublicPEM, 0o600),
	)
}

// etcd is what the API server has to know of its etcd.
type etcd struct{ url, prefix, ca, cert, key string }

// useEtcd takes one that runs already.
func (s *Sandbox) useEtcd(context.Context) (string, error) {
	s.etcd = etcd{
		url: s.opts.Etcd.URL, prefix: s.opts.Etcd.Prefix,
		ca: s.path("certs", "shared-etcd-ca.crt"), cert: s.path("certs", "shared-etcd-client.crt"), key: s.path("certs", "shared-etcd-client.key"),
	}
	if err := os.WriteFile(s.etcd.ca, s.opts.Etcd.CA, 0o600); err != nil {
		return "", err
	}
	return s.etcd.url + s.etcd.prefix, s.opts.Etcd.Client.WriteFiles(s.etcd.cert, s.etcd.key)
}

func (s *Sandbox) startEtcd(ctx context.Context) (string, error) {
	clientPort, err := s.ports.take("etcd", s.ip, 2379)
	if err != nil {
		return "", err
	}
	peerPort, err := s.ports.take("etcd-peer", s.ip, 2380)
	if err != nil {
		return "", err
	}
	address := net.JoinHostPort(s.ip, strconv.Itoa(clientPort))
	client, peer := "https://"+address, "https://"+net.JoinHostPort(s.ip, strconv.Itoa(peerPort))
	ready, err := s.healthz(client + "/readyz")
	if err != nil {
		return "", err
	}
	s.etcd = etcd{
		url: client, prefix: "/registry",
		ca: s.path("certs", "ca.crt"), cert: s.path("certs", "etcd-client.crt"), key: s.path("certs", "etcd-client.key"),
	}
	return address, s.supervisor.start(ctx, program{
		name: "etcd", address: address, path: s.opts.Binaries.Etcd, ready: ready,
		args: []string{
			"--name=management", "--data-dir=" + s.path("etcd"), "--log-level=warn",
			"--listen-client-urls=" + client, "--advertise-client-urls=" + client,
			"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer, "--initial-cluster=management=" + peer,
			"--cert-file=" + s.path("certs", "etcd.crt"), "--key-file=" + s.path("certs", "etcd.key"),
			"--client-cert-auth", "--trusted-ca-file=" + s.path("certs", "ca.crt"),
			"--peer-cert-file=" + s.path("certs", "etcd.crt"), "--peer-key-file=" + s.path("certs", "etcd.key"),
			"--peer-client-cert-auth", "--peer-trusted-ca-file=" + s.path("certs", "ca.crt"),
			// What a sandbox holds need not survive a loss of power.
			"--unsafe-no-fsync",
		},
	})
}

func (s *Sandbox) startAPIServer(ctx context.Context) (string, error) {
	port, err := s.ports.take("kube-apiserver", s.ip, 6443)
	if err != nil {
		return "", err
	}
	address := net.JoinHostPort(s.ip, strconv.Itoa(port))
	s.endpoint = "https://" + address
	s.kubeconfig = s.path("kubeconfig")
	s.config, err = s.writeKubeconfig(s.kubeconfig, "sandbox-admin", "system:masters")
	if err != nil {
		return "", err
	}
	// Reaching the server is the caller's business from now on, and the default limits of client-go are made
	// for servers that are shared.
	s.config.QPS, s.config.Burst = -1, -1
	ready, err := s.apiServerReady()
	if err != nil {
		return "", err
	}
	args := []string{
		"--etcd-servers=" + s.etcd.url, "--etcd-prefix=" + s.etcd.prefix,
		"--etcd-cafile=" + s.etcd.ca, "--etcd-certfile=" + s.etcd.cert, "--etcd-keyfile=" + s.etcd.key,
		"--bind-address=" + s.ip, "--secure-port=" + strconv.Itoa(port), "--advertise-address=" + s.ip,
		"--tls-cert-file=" + s.path("certs", "kube-apiserver.crt"), "--tls-private-key-file=" + s.path("certs", "kube-apiserver.key"),
		"--client-ca-file=" + s.path("certs", "ca.crt"),
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file=" + s.path("certs", "sa.pub"), "--service-account-signing-key-file=" + s.path("certs", "sa.key"),
		"--service-cluster-ip-range=10.96.0.0/16",
		"--authorization-mode=RBAC",
		// A loopback address is no endpoint for a Service.
		"--endpoint-reconciler-type=none",
		// Pods are never run here; without this they could not even be created in tests.
		"--disable-admission-plugins=ServiceAccount",
		"--allow-privileged",
		"--profiling=false",
	}
	args = append(args, s.emulation()...)
	if s.opts.AuditGroup != "" {
		audit, err := s.audit()
		if err != nil {
			return "", err
		}
		args = append(args, audit...)
	}
	return address, s.supervisor.start(ctx, program{
		name: "kube-apiserver", address: address, path: s.opts.Binaries.KubeAPIServer, args: args, ready: ready,
		// Half the garbage collector's slack of the default: the API server is the largest program of a
		// sandbox, and idle most of the time.
		env: []string{"GOGC=50"},
	})
}

// AuditLog is the file, in the folder of a sandbox, with an audit event of each request by Options.AuditGroup.
const AuditLog = "logs/audit.log"

// audit has the API server write down who asked for what, and what came of it.
func (s *Sandbox) audit() ([]string, error) {
	policy, err := yaml.Marshal(map[string]any{
		"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": []string{"RequestReceived"},
		"rules": []any{
			map[string]any{"level": "Metadata", "userGroups": []string{s.opts.AuditGroup}},
			map[string]any{"level": "None"},
		},
	})
	if err != nil {
		return nil, err
	}
	file := s.path("audit-policy.yaml")
	return []string{"--audit-policy-file=" + file, "--audit-log-path=" + s.path(AuditLog), "--audit-log-mode=blocking"}, os.WriteFile(file, policy, 0o600)
}

// apiServerReady asks for what users expect of a new cluster besides readyz: the namespaces that the
// server makes for itself, a moment after it is ready.
func (s *Sandbox) apiServerReady() (func(context.Context) error, error) {
	client, err := kubernetes.NewForConfig(s.config)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		if err := client.Discovery().RESTClient().Get().AbsPath("/readyz").Timeout(probeTimeout).Do(ctx).Error(); err != nil {
			return err
		}
		for _, name := range []string{metav1.NamespaceDefault, metav1.NamespaceSystem} {
			if _, err := client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{}); err != nil {
				return err
			}
		}
		return nil
	}, nil
}

func (s *Sandbox) startControllerManager(ctx context.Context) (string, error) {
	port, err := s.ports.take("kube-controller-manager", s.ip, 10257)
	if err != nil {
		return "", err
	}
	address := net.JoinHostPort(s.ip, strconv.Itoa(port))
	ready, err := s.healthz("https://" + address + "/healthz")
	if err != nil {
		return "", err
	}
	pair, err := s.ca.Issue(pki.Request{CommonName: "kube-controller-manager", IPs: []net.IP{net.ParseIP(s.ip)}, Server: true})
	if err != nil {
		return "", err
	}
	cert, key := s.path("certs", "kube-controller-manager.crt"), s.path("certs", "kube-controller-manager.key")
	if err := pair.WriteFiles(cert, key); err != nil {
		return "", err
	}
	return address, s.supervisor.start(ctx, program{
		name: "kube-controller-manager", address: address, path: s.opts.Binaries.KubeControllerManager, ready: ready,
		args: append([]string{
			"--kubeconfig=" + s.kubeconfig, "--leader-elect=false", "--profiling=false",
			"--bind-address=" + s.ip, "--secure-port=" + strconv.Itoa(port),
			"--tls-cert-file=" + cert, "--tls-private-key-file=" + key,
			// What a cluster without nodes needs. Without the garbage collector what a deleted Cluster owned
			// would stay, and the next one of that name would find its certificates.
			"--controllers=garbage-collector-controller,namespace-controller,serviceaccount-controller,clusterrole-aggregation-controller",
			"--service-account-private-key-file=" + s.path("certs", "sa.key"),
		}, s.emulation()...),
	})
}

// emulation is the argument by which the programs of Kubernetes behave like an older minor.
func (s *Sandbox) emulation() []string {
	if s.opts.Kubernetes == "" {
		return nil
	}
	return []string{"--emulated-version=kube=" + s.opts.Kubernetes}
}

// probeTimeout bounds one look at whether a program is ready.
const probeTimeout = 2 * time.Second

// healthz makes a probe of a URL that answers 200 when all is well. It presents the certificate that the
// API server presents to etcd, for the servers that ask for one.
func (s *Sandbox) healthz(url string) (func(context.Context) error, error) {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(s.ca.CertPEM())
	client, err := tls.LoadX509KeyPair(s.path("certs", "etcd-client.crt"), s.path("certs", "etcd-client.key"))
	if err != nil {
		return nil, err
	}
	httpClient := &http.Client{
		Timeout: probeTimeout,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			TLSClientConfig:   &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{client}, MinVersion: tls.VersionTLS12},
		},
	}
	return func(ctx context.Context) error { return probe.Get(ctx, httpClient, url) }, nil
}
