// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package endurance has an operator go through the same again and again: clusters come and go, their certificates are
// renewed, the folder of releases is emptied and its disk is full. Nothing of it is left behind in the process.
package endurance

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/faultproxy"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
	"github.com/clusterstacks/cluster-stack-operator/test/operator/operatortest"
)

func TestMain(m *testing.M) { sandboxtest.Main(m) }

// settles waits until the operator uses no more than it did, within the bounds that chance needs, and returns what it uses
// then. A connection that nobody uses any more is kept for a while.
func settles(t *testing.T, o *operatortest.Operator, before operatortest.Usage) operatortest.Usage {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), operatortest.Patience)
	defer cancel()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		used, err := o.Usage(ctx)
		if err == nil && used.Goroutines <= before.Goroutines+40 && used.Files <= before.Files+20 {
			return used
		}
		select {
		case <-ctx.Done():
			t.Fatalf("the operator used %+v, and now uses %+v, %v", before, used, err)
		case <-tick.C:
		}
	}
}

// endpoint is the way to a stand-in, at an address that stays. Its authority and certificates can be renewed.
type endpoint struct {
	t       *testing.T
	n       *operatortest.Tenant
	w       *operatortest.World
	address string
	proxy   *faultproxy.Proxy
}

// renew gives the cluster another authority, and other certificates for its server and its clients. The old ones are worth
// nothing from then on; who tells the management cluster is Cluster API.
func (e *endpoint) renew() {
	e.t.Helper()
	if e.proxy != nil {
		if err := e.proxy.Close(); err != nil {
			e.t.Fatal(err)
		}
	}
	var err error
	if e.proxy, err = faultproxy.ListenKubernetes(e.t.Context(), e.n.Config, faultproxy.Options{Address: e.address}); err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { _ = e.proxy.Close() })
	at, err := url.Parse(e.proxy.URL())
	if err != nil {
		e.t.Fatal(err)
	}
	e.address = net.JoinHostPort(at.Hostname(), at.Port())
}

// tell writes the new kubeconfig.
func (e *endpoint) tell() {
	e.t.Helper()
	kubeconfig, err := e.proxy.Kubeconfig()
	if err != nil {
		e.t.Fatal(err)
	}
	secret := &corev1.Secret{}
	key := client.ObjectKey{Namespace: e.n.Namespace, Name: operatortest.ClusterName + "-kubeconfig"}
	if err := e.w.Client.Get(e.t.Context(), key, secret); err != nil {
		e.t.Fatal(err)
	}
	secret.Data["value"] = kubeconfig
	if err := e.w.Client.Update(e.t.Context(), secret); err != nil {
		e.t.Fatal(err)
	}
}

// rotate renews the authority and the certificates of a cluster again and again, and changes its addons each time.
func rotate(t *testing.T, times int) {
	t.Helper()
	const one, two = "docker-rotated-1-35-v1", "docker-rotated-1-35-v2"
	w := operatortest.New(t)
	for tag, text := range map[string]string{one: "1", two: "2"} {
		w.Publish(t, tag, operatortest.Release(t, tag, operatortest.Addon{Name: "cni", Templates: operatortest.ConfigMap("cni", text)}))
	}
	o := w.Live(t)
	n := w.Tenant(t)
	e := &endpoint{t: t, w: w, n: n}
	stack := operatortest.Stack("1.35", "v1", "v2")
	stack.Spec.Name = "rotated"
	n.Subscribe(t, stack)
	n.Create(t, one, operatortest.FirstVersion)
	w.Await(t, o, []*operatortest.Tenant{n}, operatortest.Reached(one))
	var before operatortest.Usage
	var longest time.Duration
	for i := range times {
		e.renew()
		e.tell()
		began := time.Now()
		class := []string{two, one}[i%2]
		n.Use(t, class, operatortest.FirstVersion)
		w.Await(t, o, []*operatortest.Tenant{n}, operatortest.Reached(class))
		longest = max(longest, time.Since(began))
		if i == 0 {
			var err error
			if before, err = o.Usage(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	after := settles(t, o, before)
	t.Logf("%d rotations, after the longest of which a change of the addons took %s; used %+v, and now uses %+v", times, longest.Round(100*time.Millisecond), before, after)
	w.Check(t, o, []*operatortest.Tenant{n}, operatortest.End{Texts: []string{fmt.Sprintf("cni: %d of c", 1+times%2)}, Told: 1 + times/2})
}

// TestCertificatesAreRenewed: another authority, other certificates, the same address.
func TestCertificatesAreRenewed(t *testing.T) { rotate(t, 3) }

// TestStore has what happens to the folder in which releases are kept while an operator runs.
func TestStore(t *testing.T) {
	w := operatortest.New(t)
	w.PublishLife(t)
	o := w.Live(t)
	calm := w.Tenant(t)
	calm.Install(t)
	w.Await(t, o, []*operatortest.Tenant{calm}, operatortest.Reached(operatortest.First))

	// The releases are gone, and nothing can be written that is larger than this, as on a disk that is full.
	entries, err := filepath.Glob(filepath.Join(w.Store, "*"))
	if err != nil || len(entries) == 0 {
		t.Fatalf("nothing is in the store %s: %v", w.Store, err)
	}
	for _, entry := range entries {
		if err := os.RemoveAll(entry); err != nil {
			t.Fatal(err)
		}
	}
	limit := func(bytes uint64) {
		t.Helper()
		if err := unix.Prlimit(o.Pid(), unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: bytes, Max: unix.RLIM_INFINITY}, nil); err != nil {
			t.Fatal(err)
		}
	}
	limit(16)
	n := w.Tenant(t)
	n.Install(t)
	for _, n := range []*operatortest.Tenant{calm, n} {
		n.Subscribe(t, operatortest.Stack("1.36", "v1"))
	}
	w.AwaitRelease(t, n, operatortest.Next, func(ready bool, message string) bool {
		return !ready && strings.Contains(message, "no place")
	})
	w.Await(t, o, []*operatortest.Tenant{calm}, operatortest.Reached(operatortest.First))

	limit(unix.RLIM_INFINITY)
	both := []*operatortest.Tenant{calm, n}
	w.Await(t, o, both, operatortest.Reached(operatortest.First))
	for _, n := range both {
		n.Use(t, operatortest.Next, operatortest.NextVersion)
	}
	w.Await(t, o, both, operatortest.Reached(operatortest.Next))
	for _, n := range both {
		w.Check(t, o, []*operatortest.Tenant{n}, operatortest.End{Texts: operatortest.NextTexts})
	}
}
