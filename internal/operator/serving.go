// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/cluster-api/util/flags"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/webhook"

	"github.com/clusterstacks/cluster-stack-operator/internal/admission"
	"github.com/clusterstacks/cluster-stack-operator/internal/hookserver"
	"github.com/clusterstacks/cluster-stack-operator/internal/servingcert"
)

// Names of the webhook configurations in an installation; config/webhook has them.
const (
	mutatingWebhooks   = "cso-mutating-webhook-configuration"
	validatingWebhooks = "cso-validating-webhook-configuration"
)

// addServers adds what answers others: Cluster API's hooks and the API server's webhooks, on every replica. It enters in
// expiry when their certificates expire.
func addServers(ctx context.Context, mgr ctrl.Manager, cfg *rest.Config, expiry map[string]func() time.Time, c Config) error {
	tlsOptions, _, err := flags.GetManagerOptions(c.Diagnostics)
	if err != nil {
		return err
	}
	// One request at a time on a connection: nobody can then make the server drop thousands that it has begun.
	tlsOptions = append(tlsOptions, func(config *tls.Config) { config.NextProtos = []string{"http/1.1"} })
	// What these write, every replica may. They are held back by nothing here: those who ask wait for the answer, and
	// the API server knows by itself whom to let wait.
	cfg = rest.CopyConfig(cfg)
	cfg.QPS = -1
	live, err := client.New(cfg, client.Options{Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper()})
	if err != nil {
		return err
	}

	expiry["hooks"] = fileExpiry(c.HookCertDir)
	if c.WebhookPort != 0 {
		expiry["webhooks"] = fileExpiry(c.WebhookCertDir)
	}
	if c.CertificateSecret != "" {
		secret, err := namespacedName("certificate-secret", c.CertificateSecret)
		if err != nil {
			return err
		}
		keeper := servingcert.New(live, servingcert.Options{
			Secret: secret, Names: c.CertificateNames, Mutating: mutatingWebhooks, Validating: validatingWebhooks,
		})
		if err := keeper.Ensure(ctx); err != nil {
			return fmt.Errorf("certificate of hooks and webhooks: %w", err)
		}
		if err := keeper.SetupWithManager(mgr); err != nil {
			return err
		}
		if err := mgr.AddReadyzCheck("certificate", keeper.Ready); err != nil {
			return err
		}
		tlsOptions = append(tlsOptions, keeper.TLS)
		for server := range expiry {
			expiry[server] = keeper.Expires
		}
	} else if err := certificateFiles(c); err != nil {
		return err
	}

	hooks, err := hookserver.New(live, mgr.GetClient(), live, hookserver.Options{
		Host: c.HookBindAddress, Port: c.HookPort, CertDir: c.HookCertDir, ClientCAName: c.HookClientCAName, TLSOpts: tlsOptions,
		Recorder: mgr.GetEventRecorder(name),
	})
	if err != nil {
		return err
	}
	if err := mgr.Add(hooks); err != nil {
		return err
	}
	if err := mgr.AddReadyzCheck("hooks", hooks.StartedChecker()); err != nil {
		return err
	}
	if c.WebhookPort == 0 {
		return nil
	}
	webhooks := webhook.NewServer(webhook.Options{
		Host: c.WebhookBindAddress, Port: c.WebhookPort, CertDir: c.WebhookCertDir, TLSOpts: tlsOptions,
	})
	admission.Register(webhooks, live)
	if err := mgr.Add(webhooks); err != nil {
		return err
	}
	return mgr.AddReadyzCheck("webhooks", webhooks.StartedChecker())
}

// certificateFiles reports the files that are missing.
func certificateFiles(c Config) error {
	needs := []struct{ who, whom, flag, dir string }{{"hooks", "Cluster API", "hook-cert-dir", c.HookCertDir}}
	if c.WebhookPort != 0 {
		needs = append(needs, struct{ who, whom, flag, dir string }{"webhooks", "the API server", "webhook-cert-dir", c.WebhookCertDir})
	}
	for _, need := range needs {
		for _, file := range []string{"tls.crt", "tls.key"} {
			if _, err := os.Stat(filepath.Join(need.dir, file)); err != nil {
				return fmt.Errorf("the %s need a certificate that %s trusts; put tls.crt and tls.key into the folder of --%s, "+
					"or have the operator make one by --certificate-secret: %w", need.who, need.whom, need.flag, err)
			}
		}
	}
	return nil
}

// namespacedName reads <namespace>/<name> from a flag.
func namespacedName(flag, value string) (types.NamespacedName, error) {
	namespace, name, ok := strings.Cut(value, "/")
	if !ok || namespace == "" || name == "" || strings.Contains(name, "/") {
		return types.NamespacedName{}, fmt.Errorf("--%s=%s: must be <namespace>/<name>", flag, value)
	}
	return types.NamespacedName{Namespace: namespace, Name: name}, nil
}
