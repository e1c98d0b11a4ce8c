// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build bench

package bench

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/apitest"
	"github.com/clusterstacks/cluster-stack-operator/internal/render"
)

// rounds is how often the operator and the bare applies take turns, after one turn that warms both up and is not counted:
// an operator reads charts and what clusters serve once in its life. How long it takes to find a key is a matter of luck, of
// which there has to be enough for both.
const rounds = 8

// installs measures what it takes to install the addons into all clusters at once, in turns with bare applies.
//
// The operator's time is that from the first control plane that is said to be initialized until the last ClusterAddon
// says that it is ready, so all that it does in the management cluster is part of it. What is bare begins with the
// connection to a cluster whose kinds are known, generates as many keys as the charts do, and ends with the answer to
// the last apply. Both have all clusters at once, eight requests at a time to each, the same objects, and the same
// machine, whose cores they share with all API servers: with more clusters than cores it is mostly the work of
// everybody in sum that is compared.
func installs(b *testing.B, program string, rel published, servers []*apiServer, report func(string, float64)) {
	s := newSite(b, program, rel, false)
	bare := newBare(b, rel, servers)
	var ours, theirs, cpu, cpuWithoutKeys time.Duration
	var secrets []*corev1.Secret
	for round := range 1 + rounds {
		if round == 1 {
			ours, theirs, cpu, cpuWithoutKeys = 0, 0, 0, 0
		}
		bare.clean(b)
		took, used, kept := s.install(b, fmt.Sprintf("a%d", round), servers, nil)
		ours, cpu, secrets = ours+took, cpu+used, kept
		bare.clean(b)
		theirs += bare.apply(b)
		bare.clean(b)
		_, used, _ = s.install(b, fmt.Sprintf("b%d", round), servers, secrets)
		cpuWithoutKeys += used
		fmt.Fprintf(os.Stderr, "  round %d: ours %s, bare %s, CPU %s\n", round, ours, theirs, cpu)
	}
	bare.clean(b)
	s.stop(b)
	n := float64(rounds * len(servers))
	report("cpu_seconds_per_cluster", cpu.Seconds()/n)
	report("cpu_seconds_without_keygen", cpuWithoutKeys.Seconds()/n)
	report("ratio_to_bare_apply", ours.Seconds()/theirs.Seconds())
}

// install installs into all clusters at once and removes the Clusters again. With the Secrets of an earlier
// install the keys are there already.
func (s *site) install(b *testing.B, prefix string, servers []*apiServer, secrets []*corev1.Secret) (took, cpu time.Duration, generated []*corev1.Secret) {
	b.Helper()
	var clusters []*clusterv1.Cluster
	for i, server := range servers {
		cluster := s.add(b, fmt.Sprintf("%s-%d", prefix, i), server.kubeconfig)
		clusters = append(clusters, cluster)
		if secrets != nil {
			s.bequeath(b, secrets[i], cluster)
		}
	}
	s.await(b, &v1alpha1.ClusterAddonList{}, "ClusterAddons are made", func(obj client.Object) bool {
		return strings.HasPrefix(obj.GetName(), v1alpha1.ClusterAddonName(prefix))
	}, len(clusters))
	// Real ones have been there for minutes. Cluster API looks at the same one at most once a second.
	time.Sleep(2 * time.Second)
	begin, before := time.Now(), s.cpu(b)
	var initialized sync.WaitGroup
	for _, cluster := range clusters {
		initialized.Go(func() { s.initialize(b, cluster) })
	}
	initialized.Wait()
	s.installed(b, clusters)
	took, cpu = time.Since(begin), s.cpu(b)-before
	for _, cluster := range clusters {
		secret := &corev1.Secret{}
		key := client.ObjectKey{Namespace: s.namespace, Name: v1alpha1.ClusterAddonName(cluster.Name) + "-generated"}
		if err := s.client.Get(b.Context(), key, secret); err != nil {
			b.Fatal(err)
		}
		generated = append(generated, secret)
	}
	s.remove(b, clusters)
	return took, cpu, generated
}

// bequeath leaves the keys of one cluster to another.
func (s *site) bequeath(b *testing.B, from *corev1.Secret, cluster *clusterv1.Cluster) {
	b.Helper()
	secret := from.DeepCopy()
	secret.ObjectMeta = metav1.ObjectMeta{
		Namespace: s.namespace, Name: v1alpha1.ClusterAddonName(cluster.Name) + "-generated",
		Labels: from.Labels, Annotations: from.Annotations,
		OwnerReferences: []metav1.OwnerReference{{
			APIVersion: clusterv1.GroupVersion.String(), Kind: clusterv1.ClusterKind, Name: cluster.Name, UID: cluster.UID,
		}},
	}
	if err := s.client.Create(b.Context(), secret); err != nil {
		b.Fatal(err)
	}
}

// bare applies the same objects with nothing around it.
type bare struct {
	clients []client.Client
	configs []*rest.Config
	objects []*unstructured.Unstructured
	keys    int
}

func newBare(b *testing.B, rel published, servers []*apiServer) *bare {
	b.Helper()
	cluster := apitest.Cluster("bench", "bench", rel.name.ClassName(), version)
	cluster.Spec.ControlPlaneEndpoint = clusterv1.APIEndpoint{Host: "192.0.2.1", Port: 6443}
	facts, err := render.ClusterFacts(cluster, nil, nil)
	if err != nil {
		b.Fatal(err)
	}
	result := &bare{}
	for _, addon := range rel.release.Addons() {
		rendered, err := render.Addon(rel.release, addon, facts, nil)
		if err != nil {
			b.Fatal(err)
		}
		result.objects = append(result.objects, rendered.Objects...)
		for key := range rendered.Record {
			if strings.Contains(key, "genCA") || strings.Contains(key, "genSignedCert") {
				result.keys++
			}
		}
	}
	if len(result.objects) != 27 || result.keys == 0 {
		b.Fatalf("%d objects and %d keys; the bars are those of 27 objects with keys", len(result.objects), result.keys)
	}
	for _, server := range servers {
		c, err := client.New(server.config, client.Options{})
		if err != nil {
			b.Fatal(err)
		}
		result.clients, result.configs = append(result.clients, c), append(result.configs, server.config)
		for _, o := range result.objects {
			mapping, err := c.RESTMapper().RESTMapping(o.GroupVersionKind().GroupKind(), o.GroupVersionKind().Version)
			if err != nil {
				b.Fatal(err)
			}
			if mapping.Scope.Name() == meta.RESTScopeNameNamespace && o.GetNamespace() == "" {
				o.SetNamespace(render.AddonNamespace)
			}
		}
	}
	// Namespaces first, as in any order that works.
	slices.SortStableFunc(result.objects, func(x, y *unstructured.Unstructured) int {
		return btoi(y.GetKind() == "Namespace") - btoi(x.GetKind() == "Namespace")
	})
	return result
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// apply generates keys for each cluster and applies the objects to it, eight at a time, to all clusters at once.
func (r *bare) apply(b *testing.B) time.Duration {
	b.Helper()
	begin := time.Now()
	errs := make([]error, len(r.clients))
	var all sync.WaitGroup
	for i := range r.clients {
		all.Go(func() { errs[i] = r.applyOne(b.Context(), i) })
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		b.Fatal(err)
	}
	return time.Since(begin)
}

func (r *bare) applyOne(ctx context.Context, i int) error {
	config := rest.CopyConfig(r.configs[i])
	// With a dialer of its own it does not share the connections of an earlier round.
	config.Dial = (&net.Dialer{}).DialContext
	connection, err := rest.HTTPClientFor(config)
	if err != nil {
		return err
	}
	defer connection.CloseIdleConnections()
	c, err := client.New(config, client.Options{HTTPClient: connection, Mapper: r.clients[i].RESTMapper()})
	if err != nil {
		return err
	}
	for range r.keys {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			return err
		}
		template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench"}}
		if _, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key); err != nil {
			return err
		}
	}
	slots := make(chan struct{}, 8)
	errs := make(chan error, len(r.objects))
	for _, o := range r.objects {
		slots <- struct{}{}
		apply := func() {
			errs <- c.Patch(ctx, o.DeepCopy(), client.Apply, client.FieldOwner("bare"), client.ForceOwnership) //nolint:staticcheck // of unstructured objects
			<-slots
		}
		if o.GetKind() == "Namespace" {
			apply()
			continue
		}
		go apply()
	}
	var failed []error
	for range r.objects {
		failed = append(failed, <-errs)
	}
	return errors.Join(failed...)
}

// clean deletes the objects from all clusters. Namespaces stay: nobody would finish to delete them.
func (r *bare) clean(b *testing.B) {
	b.Helper()
	for _, c := range r.clients {
		for _, o := range r.objects {
			if o.GetKind() == "Namespace" {
				// Their fields have no owner then, as if somebody else had made them.
				patch := client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"managedFields":[{}]}}`))
				if err := c.Patch(b.Context(), o.DeepCopy(), patch); client.IgnoreNotFound(err) != nil {
					b.Fatal(err)
				}
				continue
			}
			if err := c.Delete(b.Context(), o.DeepCopy(), client.GracePeriodSeconds(0)); err != nil && !apierrors.IsNotFound(err) {
				b.Fatal(err)
			}
		}
	}
}
