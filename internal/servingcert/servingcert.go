// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package servingcert keeps the certificate under which the operator is called, for installations without cert-manager.
//
// It is in a Secret, so all replicas have the same one, and is renewed long before it expires. Nobody who calls notices:
// the authority of the next certificate is given to the API server and to Cluster API first, and the certificate takes
// over when they have had an hour to learn of it. The key of an authority exists for as long as it takes to sign one
// certificate.
//
// The webhook configurations get their caBundle from here; Cluster API gives the ExtensionConfig its own, as the
// annotation runtime.cluster.x-k8s.io/inject-ca-from-secret asks it to.
package servingcert

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"
)

// +kubebuilder:rbac:groups="",namespace=cso-system,resources=secrets,verbs=create
// +kubebuilder:rbac:groups="",namespace=cso-system,resources=secrets,resourceNames=cso-serving-cert,verbs=get;list;watch;update
// +kubebuilder:rbac:groups=admissionregistration.k8s.io,resources=mutatingwebhookconfigurations,resourceNames=cso-mutating-webhook-configuration,verbs=get;list;watch;patch
// +kubebuilder:rbac:groups=admissionregistration.k8s.io,resources=validatingwebhookconfigurations,resourceNames=cso-validating-webhook-configuration,verbs=get;list;watch;patch

// Options say what to keep. Secret and Names are required.
type Options struct {
	// Secret is where the certificate is kept. It is created.
	Secret types.NamespacedName
	// Names are the DNS names and IP addresses under which the operator is called.
	Names []string
	// Mutating and Validating are the names of the webhook configurations that get the caBundle. One that does not exist
	// is waited for.
	Mutating, Validating string

	// Life is how long a certificate is valid, 90 days by default.
	Life time.Duration
	// RenewAfter is when the next one is made, by default after two thirds of its life.
	RenewAfter time.Duration
	// Overlap is how long the next one waits before it takes over, an hour by default.
	Overlap time.Duration
	// Clock is the real one by default.
	Clock clock.PassiveClock
}

func (o Options) withDefaults() Options {
	if o.Life == 0 {
		o.Life = 90 * 24 * time.Hour
	}
	if o.RenewAfter == 0 {
		o.RenewAfter = o.Life * 2 / 3
	}
	if o.Overlap == 0 {
		o.Overlap = time.Hour
	}
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	return o
}

// Keeper keeps the certificate. Every replica runs one.
type Keeper struct {
	client  client.Client
	options Options
	serving atomic.Pointer[generation]
}

// New returns a Keeper. The client must not read from a cache.
func New(c client.Client, o Options) *Keeper { return &Keeper{client: c, options: o.withDefaults()} }

// TLS has a server use the certificate. It can be changed while the server runs.
func (k *Keeper) TLS(config *tls.Config) {
	config.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		g := k.serving.Load()
		if g == nil {
			return nil, errors.New("there is no certificate yet")
		}
		return &g.pair, nil
	}
}

// Ready reports whether callers can trust the certificate now. It is a healthz.Checker.
func (k *Keeper) Ready(*http.Request) error {
	if !k.serving.Load().serves(k.options.Names, k.options.Clock.Now()) {
		return fmt.Errorf("there is no valid certificate in the Secret %s", k.options.Secret)
	}
	return nil
}

// Expires returns when the certificate expires that callers are shown now, zero if there is none yet.
func (k *Keeper) Expires() time.Time {
	if g := k.serving.Load(); g != nil {
		return g.cert.NotAfter
	}
	return time.Time{}
}

// Ensure makes the certificate if there is none, takes it up, and has it trusted. A server can be started afterwards.
func (k *Keeper) Ensure(ctx context.Context) error {
	for {
		_, err := k.Reconcile(ctx, ctrl.Request{})
		if !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) {
			return err
		}
		// Another replica was faster, and its certificate is as good.
	}
}

// Reconcile takes the certificate one step on. Which object woke it does not matter.
func (k *Keeper) Reconcile(ctx context.Context, _ ctrl.Request) (ctrl.Result, error) {
	secret := &corev1.Secret{}
	err := k.client.Get(ctx, k.options.Secret, secret)
	if err != nil && !apierrors.IsNotFound(err) {
		return ctrl.Result{}, fmt.Errorf("get the Secret %s: %w", k.options.Secret, err)
	}
	missing := err != nil
	now := read(secret.Data)
	// Before the state moves on: what takes over must be trusted, which is to say written down here earlier.
	if !missing && now.serving != nil {
		if err := k.inject(ctx, now.trusted.pem()); err != nil {
			return ctrl.Result{}, err
		}
	}
	then, look, err := now.after(k.options.Clock.Now(), k.options)
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("make a certificate: %w", err)
	}
	data := then.data()
	switch {
	case missing:
		secret = &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: k.options.Secret.Namespace, Name: k.options.Secret.Name},
			Type:       corev1.SecretTypeTLS, Data: data,
		}
		err = k.client.Create(ctx, secret, client.FieldOwner(owner))
	case !equal(secret.Data, data):
		secret.Data = data
		err = k.client.Update(ctx, secret, client.FieldOwner(owner))
	}
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("write the Secret %s: %w", k.options.Secret, err)
	}
	if err := k.inject(ctx, then.trusted.pem()); err != nil {
		return ctrl.Result{}, err
	}
	if before := k.serving.Swap(then.serving); before == nil || !before.cert.Equal(then.serving.cert) {
		ctrl.LoggerFrom(ctx).Info("Serving with another certificate", "Secret", k.options.Secret, "notAfter", then.serving.cert.NotAfter)
	}
	return ctrl.Result{RequeueAfter: look}, nil
}

const owner = "cluster-stack-operator"

func equal(a, b map[string][]byte) bool {
	if len(a) != len(b) {
		return false
	}
	for key, value := range a {
		if other, ok := b[key]; !ok || !bytes.Equal(value, other) {
			return false
		}
	}
	return true
}

// inject writes the authorities into the webhook configurations, where they differ.
func (k *Keeper) inject(ctx context.Context, authorities []byte) error {
	mutating := &admissionregistrationv1.MutatingWebhookConfiguration{}
	var errs []error
	if found, err := k.configuration(ctx, k.options.Mutating, mutating); err != nil {
		errs = append(errs, err)
	} else if found {
		stored := mutating.DeepCopy()
		changed := false
		for i := range mutating.Webhooks {
			changed = trust(&mutating.Webhooks[i].ClientConfig, authorities) || changed
		}
		errs = append(errs, k.patch(ctx, changed, mutating, stored))
	}
	validating := &admissionregistrationv1.ValidatingWebhookConfiguration{}
	if found, err := k.configuration(ctx, k.options.Validating, validating); err != nil {
		errs = append(errs, err)
	} else if found {
		stored := validating.DeepCopy()
		changed := false
		for i := range validating.Webhooks {
			changed = trust(&validating.Webhooks[i].ClientConfig, authorities) || changed
		}
		errs = append(errs, k.patch(ctx, changed, validating, stored))
	}
	return errors.Join(errs...)
}

func (k *Keeper) configuration(ctx context.Context, name string, into client.Object) (found bool, err error) {
	if name == "" {
		return false, nil
	}
	if err := k.client.Get(ctx, client.ObjectKey{Name: name}, into); apierrors.IsNotFound(err) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("get %T %s: %w", into, name, err)
	}
	return true, nil
}

func (k *Keeper) patch(ctx context.Context, changed bool, obj, stored client.Object) error {
	if !changed {
		return nil
	}
	// A list cannot be merged by its index alone: if somebody changes it meanwhile, start again.
	err := k.client.Patch(ctx, obj, client.MergeFromWithOptions(stored, client.MergeFromWithOptimisticLock{}), client.FieldOwner(owner))
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("write the caBundle of %s: %w", obj.GetName(), err)
	}
	return nil
}

func trust(to *admissionregistrationv1.WebhookClientConfig, authorities []byte) (changed bool) {
	if bytes.Equal(to.CABundle, authorities) {
		return false
	}
	to.CABundle = authorities
	return true
}

// SetupWithManager has the Keeper woken by changes of the Secret and of the webhook configurations, which it reads by
// name only.
func (k *Keeper) SetupWithManager(mgr ctrl.Manager) error {
	named := func(name string) fields.Selector { return fields.OneTermEqualSelector(metav1.ObjectNameField, name) }
	secret, mutating, validating := &corev1.Secret{}, &admissionregistrationv1.MutatingWebhookConfiguration{}, &admissionregistrationv1.ValidatingWebhookConfiguration{}
	// A cache of its own: what is looked at here must not restrict what others look at.
	watched, err := cache.New(mgr.GetConfig(), cache.Options{
		Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper(), HTTPClient: mgr.GetHTTPClient(),
		ByObject: map[client.Object]cache.ByObject{
			secret:     {Namespaces: map[string]cache.Config{k.options.Secret.Namespace: {FieldSelector: named(k.options.Secret.Name)}}},
			mutating:   {Field: named(k.options.Mutating)},
			validating: {Field: named(k.options.Validating)},
		},
	})
	if err != nil {
		return err
	}
	if err := mgr.Add(watched); err != nil {
		return err
	}
	one := handler.EnqueueRequestsFromMapFunc(func(context.Context, client.Object) []reconcile.Request { return []reconcile.Request{{}} })
	everyReplica := false
	return ctrl.NewControllerManagedBy(mgr).Named("servingcert").
		WithOptions(controller.Options{NeedLeaderElection: &everyReplica}).
		WatchesRawSource(source.Kind[client.Object](watched, secret, one)).
		WatchesRawSource(source.Kind[client.Object](watched, mutating, one)).
		WatchesRawSource(source.Kind[client.Object](watched, validating, one)).
		Complete(k)
}
