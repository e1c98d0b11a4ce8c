// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package operatortest

import (
	"context"
	"strings"
	"testing"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
)

// The releases of the life that clusters live through in tests of what goes wrong: they come up with the first one, and
// go to the next minor of Kubernetes with the other.
const (
	First        = "docker-starter-1-35-v1"
	FirstVersion = "v1.35.4"
	Next         = "docker-starter-1-36-v1"
	NextVersion  = "v1.36.4"
)

// FirstTexts and NextTexts are what the ConfigMaps of the addons of these releases say.
var (
	FirstTexts = []string{"cni: 1 of c", "metrics: 1 of c", "shared-name: 1 of c"}
	NextTexts  = []string{"cni: 2 of c", "csi: 2 of c"}
)

// generated is a password that must not change, and an object of the same name but another kind than one beside it.
const generated = `
apiVersion: v1
kind: Secret
metadata:
  name: cni-password
stringData:
  password: {{ randAlphaNum 20 }}
---
apiVersion: v1
kind: ServiceAccount
metadata:
  name: cni
`

// ConfigMap is the template of a ConfigMap with a text, which ends with the name of the Cluster.
func ConfigMap(name, text string) string {
	return "---\napiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: " + name + "\ndata:\n  text: \"" + text + " of {{ .Values.cluster }}\"\n"
}

// PublishLife publishes the two releases, and has every upgrade that Cluster API goes on with checked for its addons.
func (w *World) PublishLife(t testing.TB) {
	t.Helper()
	w.Publish(t, First, Release(t, First,
		Addon{Name: "cni", Templates: generated + ConfigMap("cni", "1") + ConfigMap("shared-name", "1")},
		Addon{Name: "metrics", Templates: ConfigMap("metrics", "1")},
	))
	w.Publish(t, Next, Release(t, Next,
		Addon{Name: "cni", Templates: generated + ConfigMap("cni", "2")},
		Addon{Name: "csi", Templates: ConfigMap("csi", "2")},
	))
	w.Goes = func(n *Tenant) {
		n.checkTexts(t, "Cluster API may go on with the upgrade", func(texts []string) bool { return containsAll(texts, NextTexts) })
	}
}

// Install is the beginning of the life of a cluster.
func (n *Tenant) Install(t testing.TB) {
	t.Helper()
	n.Subscribe(t, Stack("1.35", "v1"))
	n.Create(t, First, FirstVersion)
}

// Upgrade is the middle of it.
func (n *Tenant) Upgrade(t testing.TB) {
	t.Helper()
	n.Subscribe(t, Stack("1.36", "v1"))
	n.Use(t, Next, NextVersion)
}

// Gone is what Await waits for after Delete.
func Gone(n *Tenant, _ *v1alpha1.ClusterAddon) string {
	left, err := n.Collect(context.Background())
	if err != nil {
		return err.Error()
	}
	return strings.Join(left, ", ")
}
