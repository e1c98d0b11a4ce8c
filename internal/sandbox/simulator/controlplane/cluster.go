// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package controlplane runs the programs of a workload cluster's control plane: etcd and kube-apiserver for
// each control plane machine, kube-controller-manager and kube-scheduler once for the cluster.
//
// They are the real programs with the flags that kubeadm gives them, and their certificates come from the
// authorities that Cluster API made for the cluster. One binary serves older minors by emulation.
// Of the arguments that a user gives to kubeadm for these programs they get those that work without files and
// containers; files and patches are not looked at.
package controlplane

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/go-logr/logr"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/binaries"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/pki"
)

// Authorities sign the certificates of a cluster. That of etcd is nil where Cluster API does not have its key.
type Authorities struct {
	Cluster, Etcd, FrontProxy *pki.CA
	// ServiceAccount signs tokens.
	ServiceAccount pki.SigningKey
}

// Cluster is what all programs of one control plane share.
type Cluster struct {
	Name        string
	Programs    binaries.Set
	Authorities Authorities
	// SharedEtcd is where the API servers keep their objects, below EtcdPrefix. Without it each machine runs an etcd.
	SharedEtcd *SharedEtcd
	EtcdPrefix string
	// Endpoint is the address of the load balancer, host:port.
	Endpoint netip.AddrPort
	// Egress is the Unix socket of the proxy through which API servers reach kubelets, pods and services.
	Egress string
	// PodSubnet may be empty: then Nodes get no range of addresses.
	PodSubnet, ServiceSubnet, DNSDomain string
	// Changed is called when a program of a machine may be in another state than before. It may be nil.
	Changed func(machine string)
	// Dir is a folder for the shared files of this cluster; it exists.
	Dir string
	Log logr.Logger
}

// Server is the URL of the cluster.
func (c *Cluster) Server() string { return "https://" + c.Endpoint.String() }

// AdminKeyPair makes a client certificate that may do everything.
func (c *Cluster) AdminKeyPair() (pki.KeyPair, error) {
	return c.Authorities.Cluster.Issue(pki.Request{CommonName: "kubernetes-admin", Organizations: []string{"system:masters"}, Client: true})
}

// writeFiles writes files that only the owner may read.
func writeFiles(dir string, files map[string][]byte) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// issueFiles writes <name>.crt and <name>.key.
func issueFiles(dir, name string, ca *pki.CA, request pki.Request) error {
	pair, err := ca.Issue(request)
	if err != nil {
		return err
	}
	return pair.WriteFiles(filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key"))
}

// firstAddress is the first usable address of the first of the comma-separated ranges: the one that the
// kubernetes Service gets.
func firstAddress(subnets string) (netip.Addr, error) {
	first, _, _ := strings.Cut(subnets, ",")
	prefix, err := netip.ParsePrefix(first)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("service subnet: %w", err)
	}
	return prefix.Masked().Addr().Next(), nil
}
