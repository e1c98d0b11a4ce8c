// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/internal/apitest"
	"github.com/clusterstacks/cluster-stack-operator/internal/operator"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/pki"
)

// The kinds of cert-manager are those of its Go module, which is not linked, so it is named here and not in go.mod.
const (
	certManager    = "github.com/cert-manager/cert-manager@v1.19.1"
	certManagerSum = "h1:Txh8L/nLWTDcb7ZnXuXbTe15BxQnLbLirXmbNk0fGgY="
)

// certManagerKinds returns the folder with the definitions.
func certManagerKinds(t *testing.T) string {
	t.Helper()
	download := exec.CommandContext(t.Context(), "go", "mod", "download", "-json", certManager)
	download.Dir = t.TempDir() // outside of any module
	download.Env = append(os.Environ(), "GOFLAGS=", "GONOSUMDB=*")
	out, err := download.Output()
	var module struct{ Dir, Sum, Error string }
	if decoded := json.Unmarshal(out, &module); err != nil || decoded != nil || module.Sum != certManagerSum {
		t.Fatalf("%s: %v, %v, sum %s, %s", download, err, decoded, module.Sum, module.Error)
	}
	return filepath.Join(module.Dir, "deploy", "crds")
}

// certManager installs the overlay for cert-manager over what is there. The test does what cert-manager would: it makes a
// Secret for each Certificate, and gives the authority to the webhook configurations. Cluster API reads it itself.
func (o *installed) certManager(t *testing.T) {
	o.shell(t, "kubectl apply --server-side --filename "+certManagerKinds(t))
	o.serves(t, schema.GroupVersion{Group: "cert-manager.io", Version: "v1"}, "Issuer", "Certificate")
	overlay := filepath.Join(t.TempDir(), "overlay.yaml")
	o.shell(t, fmt.Sprintf("kubectl kustomize %s >%s", filepath.Join(root, "config/certmanager"), overlay))
	o.install(t, overlay)

	certificates := &unstructured.UnstructuredList{}
	certificates.SetGroupVersionKind(schema.GroupVersionKind{Group: "cert-manager.io", Version: "v1", Kind: "Certificate"})
	if err := o.List(t.Context(), certificates, client.InNamespace(namespace)); err != nil || len(certificates.Items) != 2 {
		t.Fatalf("%d Certificates, %v", len(certificates.Items), err)
	}
	authority := map[string][]byte{} // by the Certificate
	for _, certificate := range certificates.Items {
		issuer, _, _ := unstructured.NestedString(certificate.Object, "spec", "issuerRef", "name")
		names, _, _ := unstructured.NestedStringSlice(certificate.Object, "spec", "dnsNames")
		secret, _, _ := unstructured.NestedString(certificate.Object, "spec", "secretName")
		self := &unstructured.Unstructured{}
		self.SetGroupVersionKind(schema.GroupVersionKind{Group: "cert-manager.io", Version: "v1", Kind: "Issuer"})
		if err := o.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: issuer}, self); err != nil {
			t.Fatal(err)
		}
		ca, err := pki.NewCA(certificate.GetName())
		if err != nil {
			t.Fatal(err)
		}
		// The address is for Cluster API, which calls by URL here.
		pair, err := ca.Issue(pki.Request{CommonName: names[0], DNSNames: names, IPs: []net.IP{net.IPv4(127, 0, 0, 1)}, Server: true})
		if err != nil {
			t.Fatal(err)
		}
		authority[namespace+"/"+certificate.GetName()] = ca.CertPEM()
		if err := o.Create(t.Context(), &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: secret}, Type: corev1.SecretTypeTLS,
			Data: map[string][]byte{"tls.crt": pair.CertPEM, "tls.key": pair.KeyPEM, "ca.crt": ca.CertPEM()},
		}); err != nil {
			t.Fatal(err)
		}
	}

	const annotation = "cert-manager.io/inject-ca-from"
	mutating, validating := &admissionregistrationv1.MutatingWebhookConfiguration{}, &admissionregistrationv1.ValidatingWebhookConfiguration{}
	for name, configuration := range map[string]client.Object{"cso-mutating-webhook-configuration": mutating, "cso-validating-webhook-configuration": validating} {
		if err := o.Get(t.Context(), client.ObjectKey{Name: name}, configuration); err != nil {
			t.Fatal(err)
		}
		bundle := authority[configuration.GetAnnotations()[annotation]]
		if bundle == nil {
			t.Fatalf("%s: annotation %s names no Certificate: %q", name, annotation, configuration.GetAnnotations()[annotation])
		}
		for i := range mutating.Webhooks {
			mutating.Webhooks[i].ClientConfig.CABundle = bundle
		}
		for i := range validating.Webhooks {
			validating.Webhooks[i].ClientConfig.CABundle = bundle
		}
		if err := o.Update(t.Context(), configuration); err != nil {
			t.Fatal(err)
		}
	}

	// As a kubelet does: the Secrets are folders, where the operator looks without being told.
	pod := o.deployment(t).Spec.Template.Spec
	defaults := operator.Defaults()
	folders := map[string]string{ // flags, by the paths in the container
		filepath.Clean(defaults.WebhookCertDir): "--webhook-cert-dir=", filepath.Clean(defaults.HookCertDir): "--hook-cert-dir=",
	}
	for _, volume := range pod.Volumes {
		if volume.Secret == nil {
			continue
		}
		secret := &corev1.Secret{}
		if err := o.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: volume.Secret.SecretName}, secret); err != nil {
			t.Fatal(err)
		}
		folder := t.TempDir()
		for name, data := range secret.Data {
			if err := os.WriteFile(filepath.Join(folder, name), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		for _, mount := range pod.Containers[0].VolumeMounts {
			if mount.Name == volume.Name {
				flag := folders[filepath.Clean(mount.MountPath)]
				delete(folders, filepath.Clean(mount.MountPath))
				o.args = append(o.args, flag+folder)
			}
		}
	}
	if len(folders) > 0 || strings.Contains(strings.Join(o.args, " "), "--certificate-secret") {
		t.Fatalf("without a folder: %v; arguments %v", folders, o.args)
	}
	o.run(t) // which waits until Cluster API knows the hooks
	await(t, "the API server reaches the webhooks", func(ctx context.Context) (bool, error) {
		err := o.Create(ctx, apitest.Cluster(demo.Namespace, "new", "docker-starter-1-36-v9", ""), client.DryRunAll)
		return err != nil && strings.Contains(err.Error(), "there is no ClusterStackRelease docker-starter-1-36-v9"), nil
	})
	o.stop(t)
}
