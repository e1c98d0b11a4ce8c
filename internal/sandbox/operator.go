// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	runtimev1 "sigs.k8s.io/cluster-api/api/runtime/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/clusterstacks/cluster-stack-operator/config"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/crds"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/failure"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/pki"
)

const (
	operatorName = "cluster-stack-operator"
	// operatorNamespace and extensionConfigName are those of an installation.
	operatorNamespace   = "cso-system"
	extensionConfigName = "cso-hook-server-extensionconfig"
)

// ownLabel marks the ExtensionConfig that a sandbox makes, apart from one that belongs to an operator run by hand.
const ownLabel = "sandbox.clusterstack.x-k8s.io/operator"

// forgetHooks removes what an earlier start registered when the sandbox runs without an operator now: Cluster API does
// nothing before every hook server that it knows of has answered, and the API server admits nothing that a webhook has
// to judge.
func (s *Sandbox) forgetHooks(ctx context.Context) error {
	client, err := dynamic.NewForConfig(s.config)
	if err != nil {
		return err
	}
	for _, resource := range []schema.GroupVersionResource{
		runtimev1.GroupVersion.WithResource("extensionconfigs"),
		admissionregistrationv1.SchemeGroupVersion.WithResource("mutatingwebhookconfigurations"),
		admissionregistrationv1.SchemeGroupVersion.WithResource("validatingwebhookconfigurations"),
	} {
		if err := client.Resource(resource).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: ownLabel}); err != nil {
			return err
		}
	}
	return nil
}

// ownCRDs are the kinds of the sandbox and of the operator. These are installed with or without it, so that a
// developer can run one by hand.
func ownCRDs() ([]*apiextensionsv1.CustomResourceDefinition, error) {
	var own []*apiextensionsv1.CustomResourceDefinition
	for _, raw := range append(config.CRDs(), failure.CRD()) {
		crd := &apiextensionsv1.CustomResourceDefinition{}
		if err := yaml.Unmarshal(raw, crd); err != nil {
			return nil, err
		}
		own = append(own, crd)
	}
	return own, nil
}

// startOperator runs the operator as an installation would: with the rights of its ClusterRole and no
// others, and its hook server known to Cluster API.
func (s *Sandbox) startOperator(ctx context.Context) (string, error) {
	dir := s.path("operator")
	certs := filepath.Join(dir, "certs")
	if err := os.MkdirAll(certs, 0o700); err != nil {
		return "", err
	}
	if err := s.grantOperator(ctx); err != nil {
		return "", err
	}
	kubeconfig := filepath.Join(dir, "kubeconfig")
	if _, err := s.writeKubeconfig(kubeconfig, operatorName); err != nil {
		return "", err
	}
	pair, err := s.ca.Issue(pki.Request{CommonName: operatorName, IPs: []net.IP{net.ParseIP(s.ip)}, Server: true})
	if err != nil {
		return "", err
	}
	if err := pair.WriteFiles(filepath.Join(certs, "tls.crt"), filepath.Join(certs, "tls.key")); err != nil {
		return "", err
	}
	// Hooks are for Cluster API, which has a certificate to show.
	const callers = "callers.crt"
	if err := os.WriteFile(filepath.Join(certs, callers), s.ca.CertPEM(), 0o600); err != nil {
		return "", err
	}
	healthPort, err := s.ports.take(operatorName+"-health", s.ip, 9081)
	if err != nil {
		return "", err
	}
	hookPort, err := s.ports.take(operatorName+"-hooks", s.ip, 9442)
	if err != nil {
		return "", err
	}
	webhookPort, err := s.ports.take(operatorName+"-webhooks", s.ip, 9443)
	if err != nil {
		return "", err
	}
	health, hooks := net.JoinHostPort(s.ip, strconv.Itoa(healthPort)), net.JoinHostPort(s.ip, strconv.Itoa(hookPort))
	ready, err := s.healthz("http://" + health + "/readyz")
	if err != nil {
		return "", err
	}
	args := []string{
		"--kubeconfig=" + kubeconfig, "--leader-elect=false",
		"--health-addr=" + health, "--diagnostics-address=127.0.0.1:0", "--insecure-diagnostics",
		"--hook-bind-address=" + s.ip, "--hook-port=" + strconv.Itoa(hookPort), "--hook-cert-dir=" + certs, "--hook-client-ca-name=" + callers,
		"--webhook-bind-address=" + s.ip, "--webhook-port=" + strconv.Itoa(webhookPort), "--webhook-cert-dir=" + certs,
		"--source=directory", "--release-dir=" + s.opts.Releases, "--allow-networks=127.0.0.0/8", "--store-dir=" + filepath.Join(dir, "store"),
	}
	for _, mirror := range s.opts.ChartMirrors {
		args = append(args, "--chart-mirrors="+mirror)
	}
	err = s.supervisor.start(ctx, program{
		name: operatorName, address: hooks, path: s.opts.Operator, ready: ready, args: args,
		// Its settings and credentials come by environment variables as well as by flags.
		env: os.Environ(),
	})
	if err != nil {
		return "", err
	}
	if err := s.registerWebhooks(ctx, net.JoinHostPort(s.ip, strconv.Itoa(webhookPort))); err != nil {
		return "", err
	}
	return hooks, s.registerHooks(ctx, "https://"+hooks)
}

// registerWebhooks has the API server ask the operator, as an installation does.
func (s *Sandbox) registerWebhooks(ctx context.Context, address string) error {
	for _, document := range config.Webhooks() {
		objects, err := webhookConfigurations(document, crds.Kustomization{}, webhookServer{address: address, caBundle: s.ca.CertPEM()})
		if err != nil {
			return fmt.Errorf("webhooks of the operator: %w", err)
		}
		for _, o := range objects {
			o.SetLabels(map[string]string{ownLabel: ""})
			if err := s.apply(ctx, o); err != nil {
				return fmt.Errorf("webhooks of the operator: %w", err)
			}
		}
	}
	return nil
}

// grantOperator binds the operator's user to the ClusterRole that is generated from its code.
func (s *Sandbox) grantOperator(ctx context.Context) error {
	role := &rbacv1.ClusterRole{}
	if err := yaml.UnmarshalStrict(config.ClusterRole(), role); err != nil {
		return fmt.Errorf("ClusterRole of the operator: %w", err)
	}
	if err := s.apply(ctx, role); err != nil {
		return err
	}
	return s.apply(ctx, &rbacv1.ClusterRoleBinding{
		TypeMeta:   metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: "ClusterRoleBinding"},
		ObjectMeta: metav1.ObjectMeta{Name: operatorName},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: operatorName}},
	})
}

// registerHooks tells Cluster API about the operator's hook server and waits until it has asked the server
// for its hooks. A cluster created before that would miss them.
func (s *Sandbox) registerHooks(ctx context.Context, url string) error {
	scheme := runtime.NewScheme()
	if err := runtimev1.AddToScheme(scheme); err != nil {
		return err
	}
	c, err := client.NewWithWatch(s.config, client.Options{Scheme: scheme})
	if err != nil {
		return err
	}
	if err := s.apply(ctx, &runtimev1.ExtensionConfig{
		TypeMeta:   metav1.TypeMeta{APIVersion: runtimev1.GroupVersion.String(), Kind: "ExtensionConfig"},
		ObjectMeta: metav1.ObjectMeta{Name: extensionConfigName, Labels: map[string]string{ownLabel: ""}},
		Spec: runtimev1.ExtensionConfigSpec{
			ClientConfig:      runtimev1.ClientConfig{URL: url, CABundle: s.ca.CertPEM()},
			NamespaceSelector: &metav1.LabelSelector{},
		},
	}); err != nil {
		return fmt.Errorf("register the hook server: %w", err)
	}
	last := "no answer yet"
	err = await(ctx, func() (watch.Interface, error) {
		return c.Watch(ctx, &runtimev1.ExtensionConfigList{})
	}, func(o runtime.Object) (bool, error) {
		extension, ok := o.(*runtimev1.ExtensionConfig)
		if !ok || extension.Name != extensionConfigName {
			return false, nil
		}
		for _, condition := range extension.Status.Conditions {
			if condition.Type == runtimev1.ExtensionConfigDiscoveredCondition {
				last = condition.Message
				return condition.Status == metav1.ConditionTrue, nil
			}
		}
		return false, nil
	})
	if err != nil {
		return fmt.Errorf("the hooks of the operator at %s were not discovered by Cluster API (%s): %w", url, last, err)
	}
	return nil
}
