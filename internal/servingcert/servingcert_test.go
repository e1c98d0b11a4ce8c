// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package servingcert_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrlconfig "sigs.k8s.io/controller-runtime/pkg/config"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/clusterstacks/cluster-stack-operator/internal/apitest/kinds"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
	"github.com/clusterstacks/cluster-stack-operator/internal/servingcert"
)

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard())
	sandboxtest.Main(m)
}

// Two replicas share a certificate that is renewed as soon as it has taken over, while the API server keeps calling a
// webhook at one of them. No call fails.
func TestRenewalFailsNoCall(t *testing.T) {
	const renewals = 3
	cfg := sandboxtest.APIServer(t)
	c := kinds.Client(t, cfg)
	port := freePort(t)
	namespace := kinds.Namespace(t, c)
	options := servingcert.Options{
		Secret: types.NamespacedName{Namespace: namespace, Name: "serving"}, Names: []string{"127.0.0.1"},
		Mutating: "renewal", Validating: "renewal",
		// Long enough for a busy machine to have the API server learn of an authority.
		Life: time.Hour, RenewAfter: time.Second, Overlap: 8 * time.Second,
	}
	configuration := validating(port, namespace)
	if err := c.Create(t.Context(), configuration); err != nil {
		t.Fatal(err)
	}

	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 3)
	for range 2 {
		mgr, err := ctrl.NewManager(cfg, ctrl.Options{
			Scheme: c.Scheme(), Metrics: metricsserver.Options{BindAddress: "0"}, LeaderElection: true, LeaderElectionNamespace: namespace, LeaderElectionID: "l",
			Controller: ctrlconfig.Controller{SkipNameValidation: new(true)}, // two replicas in one process
		})
		if err != nil {
			t.Fatal(err)
		}
		keeper := servingcert.New(c, options)
		if err := keeper.Ensure(ctx); err != nil {
			t.Fatal(err)
		}
		if err := keeper.SetupWithManager(mgr); err != nil {
			t.Fatal(err)
		}
		if port > 0 {
			server := webhook.NewServer(webhook.Options{Host: "127.0.0.1", Port: port, TLSOpts: []func(*tls.Config){keeper.TLS}})
			server.Register("/", &webhook.Admission{Handler: admission.HandlerFunc(func(context.Context, admission.Request) admission.Response {
				return admission.Allowed("")
			})})
			if err := mgr.Add(server); err != nil {
				t.Fatal(err)
			}
			port = 0 // the other replica only keeps the certificate
		}
		go func() { ended <- mgr.Start(ctx) }()
		if err := keeper.Ready(&http.Request{}); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		stop()
		for range 2 {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
		if err := c.Delete(context.WithoutCancel(t.Context()), configuration); err != nil {
			t.Error(err)
		}
	})
	call := func(ctx context.Context) error {
		return c.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, GenerateName: "c-"}}, client.DryRunAll)
	}
	if err := wait.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
		return call(ctx) == nil, nil // the server listens
	}); err != nil {
		t.Fatal("the webhook does not answer")
	}

	var calls, failed atomic.Int64
	load, end := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for tick := time.NewTicker(20 * time.Millisecond); ; {
			select {
			case <-load.Done():
				return
			case <-tick.C:
			}
			if err := call(load); err != nil && load.Err() == nil {
				failed.Add(1)
				t.Logf("call %d: %v", calls.Load(), err)
			}
			calls.Add(1)
		}
	}()
	seen := map[string]bool{}
	if err := wait.PollUntilContextTimeout(t.Context(), 100*time.Millisecond, 5*time.Minute, true, func(ctx context.Context) (bool, error) {
		secret := &corev1.Secret{}
		if err := c.Get(ctx, options.Secret, secret); err != nil {
			return false, err
		}
		seen[string(secret.Data[corev1.TLSCertKey])] = true
		return len(seen) > renewals, nil
	}); err != nil {
		t.Fatalf("%d certificates: %v", len(seen), err)
	}
	end()
	<-done
	if failed.Load() > 0 || calls.Load() < 10*renewals {
		t.Errorf("%d of %d calls failed", failed.Load(), calls.Load())
	}
	t.Logf("%d calls during %d renewals", calls.Load(), renewals)

	// Somebody takes the caBundle out, as an administrator does who replaces the manifest.
	got := &admissionregistrationv1.ValidatingWebhookConfiguration{}
	got.SetName(configuration.Name)
	if err := c.Patch(t.Context(), got, client.RawPatch(types.JSONPatchType, []byte(`[{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}]`))); err != nil {
		t.Fatal(err)
	}
	if err := wait.PollUntilContextTimeout(t.Context(), 100*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
		err := c.Get(ctx, client.ObjectKeyFromObject(configuration), got)
		return bytes.HasPrefix(got.Webhooks[0].ClientConfig.CABundle, []byte("-----BEGIN CERTIFICATE-----")), err
	}); err != nil {
		t.Error("the caBundle was not written again")
	}
}

// validating returns a configuration that has ConfigMaps of a namespace looked at.
func validating(port int, namespace string) *admissionregistrationv1.ValidatingWebhookConfiguration {
	url := fmt.Sprintf("https://127.0.0.1:%d/", port)
	fail, none := admissionregistrationv1.Fail, admissionregistrationv1.SideEffectClassNone
	return &admissionregistrationv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "renewal"},
		Webhooks: []admissionregistrationv1.ValidatingWebhook{{
			Name: "renewal.clusterstack.x-k8s.io", ClientConfig: admissionregistrationv1.WebhookClientConfig{URL: &url},
			AdmissionReviewVersions: []string{"v1"}, FailurePolicy: &fail, SideEffects: &none,
			NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: namespace}},
			Rules: []admissionregistrationv1.RuleWithOperations{{
				Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create},
				Rule:       admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"configmaps"}},
			}},
		}},
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	return listener.Addr().(*net.TCPAddr).Port
}
