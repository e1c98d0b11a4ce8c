// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controlplane

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"time"

	"github.com/go-logr/logr"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/binaries"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/pki"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/process"
)

// SharedEtcd is one etcd for the API servers of many clusters, each with its objects below a prefix of its own. To
// their control planes it is an external etcd: they do not look after it.
type SharedEtcd struct {
	machine Machine
	ca      *pki.CA
	program *program
}

// StartSharedEtcd starts it, alone on a machine, and returns when it answers. It goes on with data of an earlier run.
func StartSharedEtcd(ctx context.Context, programs binaries.Set, m Machine, ca *pki.CA, log logr.Logger) (_ *SharedEtcd, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, readyTimeout, fmt.Errorf("not ready within %s", readyTimeout))
	defer cancel()

	if err := writeFiles(m.pki(), map[string][]byte{"etcd-ca.crt": ca.CertPEM()}); err != nil {
		return nil, err
	}
	request := pki.Request{CommonName: m.Name, IPs: []net.IP{m.IP.AsSlice()}, Client: true, Server: true}
	for _, name := range []string{"etcd-server", "etcd-peer"} {
		if err := issueFiles(m.pki(), name, ca, request); err != nil {
			return nil, err
		}
	}
	e := &SharedEtcd{machine: m, ca: ca}
	e.program, err = launch(ctx, process.Spec{
		Name: "etcd", Path: programs.Etcd, Args: etcdArgs(m, []string{m.Name + "=" + m.peerURL()}, "new"),
		Env: []string{"GOGC=50"}, LogFile: filepath.Join(m.Dir, "etcd.log"),
	}, log, nil)
	if err != nil {
		return nil, err
	}
	c := e.cluster()
	if err := c.awaitEtcd(ctx, &Member{Machine: m, etcd: e.program}); err != nil {
		e.program.Stop(noGrace(ctx))
		return nil, err
	}
	return e, nil
}

// cluster is what a cluster with nothing but this etcd would be.
func (e *SharedEtcd) cluster() *Cluster { return &Cluster{Authorities: Authorities{Etcd: e.ca}} }

// URL is where it answers.
func (e *SharedEtcd) URL() string { return e.machine.etcdURL() }

// CA is whom its clients trust, and who issues their certificates.
func (e *SharedEtcd) CA() *pki.CA { return e.ca }

// ClientKeyPair makes a certificate for an API server.
func (e *SharedEtcd) ClientKeyPair() (pki.KeyPair, error) {
	return e.ca.Issue(pki.Request{CommonName: "kube-apiserver-etcd-client", Client: true})
}

// deleteTimeout is how long it may take to delete all objects of a cluster on a busy machine.
const deleteTimeout = 30 * time.Second

// Forget deletes all that an API server keeps below its prefix.
func (e *SharedEtcd) Forget(ctx context.Context, prefix string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, deleteTimeout, fmt.Errorf("no answer within %s", deleteTimeout))
	defer cancel()
	client, err := e.cluster().etcdClient(ctx, e.machine)
	if err != nil {
		return err
	}
	defer client.Close()
	if _, err = client.Delete(ctx, prefix+"/", clientv3.WithPrefix()); err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return err
}

// Stop ends it, by force once ctx is done.
func (e *SharedEtcd) Stop(ctx context.Context) { e.program.Stop(ctx) }
