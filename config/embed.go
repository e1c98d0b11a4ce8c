// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package config carries manifests of the operator: its kinds and its rights, which are generated from the types in
// api and from the markers beside the code that needs a right, and its webhooks.
package config

import (
	"bytes"
	"embed"
	"io/fs"
)

//go:generate go tool -modfile=../tools/go.mod controller-gen crd paths=../api/... output:crd:dir=crd
//go:generate go tool -modfile=../tools/go.mod controller-gen rbac:roleName=cluster-stack-operator paths=../internal/... output:rbac:dir=rbac

//go:embed crd/clusterstack.*.yaml
var crds embed.FS

//go:embed rbac/role.yaml
var clusterRole []byte

//go:embed webhook/webhooks.yaml
var webhooks []byte

// CRDs returns the CustomResourceDefinitions of the operator's kinds as YAML, one document each, in
// the order of their names.
func CRDs() [][]byte {
	names, err := fs.Glob(crds, "crd/*")
	if err != nil {
		panic(err) // only a malformed pattern
	}
	documents := make([][]byte, 0, len(names))
	for _, name := range names {
		document, err := crds.ReadFile(name)
		if err != nil {
			panic(err) // it was embedded by the same pattern
		}
		documents = append(documents, document)
	}
	return documents
}

// ClusterRole returns the ClusterRole cluster-stack-operator as YAML: all rights that the operator
// has in the management cluster, but for those in the namespace where it runs itself.
func ClusterRole() []byte {
	// The Role for its own namespace comes after it.
	document, _, _ := bytes.Cut(bytes.TrimPrefix(clusterRole, []byte("---\n")), []byte("\n---\n"))
	return bytes.Clone(document)
}

// Role returns the Role cluster-stack-operator as YAML: the rights of the operator in the namespace where an
// installation runs it.
func Role() []byte {
	_, document, _ := bytes.Cut(bytes.TrimPrefix(clusterRole, []byte("---\n")), []byte("\n---\n"))
	return bytes.Clone(document)
}

// Webhooks returns the MutatingWebhookConfiguration and the ValidatingWebhookConfiguration as YAML, one document each.
// They name the Service of an installation and lack the caBundle.
func Webhooks() [][]byte { return bytes.Split(bytes.Clone(webhooks), []byte("\n---\n")) }
