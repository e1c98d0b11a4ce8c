// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/go-logr/logr/testr"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"k8s.io/apimachinery/pkg/types"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/binaries"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/simulator/controlplane"
)

// TestSharedEtcdGoesOn: the clusters in it are there again after a restart of the sandbox, and one that is removed
// takes nothing of the others along.
func TestSharedEtcdGoesOn(t *testing.T) {
	programs, err := binaries.Ensure(t.Context(), func(line string) { t.Log(line) })
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	open := func() (*Fleet, *controlplane.SharedEtcd, *clientv3.Client) {
		f, err := New(Options{Programs: programs, Dir: dir, Prefix: prefix, Log: testr.New(t)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close(context.WithoutCancel(t.Context())) })
		etcd, err := f.SharedEtcd(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return f, etcd, etcdClient(t, etcd)
	}
	f, etcd, client := open()
	names := []types.NamespacedName{{Namespace: "n", Name: "one"}, {Namespace: "n", Name: "one-more"}}
	for _, name := range names {
		if _, err := client.Put(t.Context(), etcdPrefix(name)+"/configmaps/a", name.Name); err != nil {
			t.Fatal(err)
		}
	}
	f.Close(t.Context())

	f, again, client := open()
	if !bytes.Equal(again.CA().CertPEM(), etcd.CA().CertPEM()) {
		t.Error("it has another authority, so that the Secrets of clusters are wrong")
	}
	if err := f.forgetShared(t.Context(), etcdPrefix(names[0])); err != nil {
		t.Fatal(err)
	}
	left, err := client.Get(t.Context(), "/", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	if len(left.Kvs) != 1 || string(left.Kvs[0].Value) != "one-more" {
		t.Errorf("left: %v", left.Kvs)
	}
}

// TestClusterIsKeptUntilItsObjectsAreDeleted: the next cluster of its name would find what is left in the shared etcd.
func TestClusterIsKeptUntilItsObjectsAreDeleted(t *testing.T) {
	dir := t.TempDir()
	f := fleet(t, dir) // without programs, the shared etcd does not start
	c := ensure(t, f, "one")
	if err := c.remember(func(s *clusterState) { s.SharedEtcd = true }); err != nil {
		t.Fatal(err)
	}
	shared := filepath.Join(dir, sharedEtcdDir)
	if err := os.Mkdir(shared, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := f.Release(t.Context(), c.NamespacedName); err == nil {
		t.Error("the cluster was released, though its objects could not be deleted")
	}
	if _, err := f.Ensure(t.Context(), spec("one"), Owner{UID: "next"}, netip.AddrPort{}); err == nil {
		t.Error("the next cluster of this name was made among the objects of the first")
	}
	if owner, here := f.Owners()[c.NamespacedName]; !here || owner.UID != "one" {
		t.Errorf("nobody knows of the cluster any more: %v", f.Owners())
	}

	if err := os.RemoveAll(shared); err != nil { // now there is nothing to be deleted
		t.Fatal(err)
	}
	next, err := f.Ensure(t.Context(), spec("one"), Owner{UID: "next"}, netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := next.Allocate(t.Context(), "m"); err != nil || next.sharesEtcd() {
		t.Errorf("the next cluster is not one of its own: %v", err)
	}
}

func etcdClient(t *testing.T, etcd *controlplane.SharedEtcd) *clientv3.Client {
	t.Helper()
	pair, err := etcd.ClientKeyPair()
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := tls.X509KeyPair(pair.CertPEM, pair.KeyPEM)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(etcd.CA().CertPEM())
	client, err := clientv3.New(clientv3.Config{
		Endpoints: []string{etcd.URL()}, Logger: zap.NewNop(),
		TLS: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}
