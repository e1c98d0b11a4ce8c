// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package sandboxtest_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
)

func TestMain(m *testing.M) { sandboxtest.Main(m) }

func TestAPIServer(t *testing.T) {
	config := sandboxtest.APIServer(t)
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().Namespaces().Get(t.Context(), "kube-system", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
	if again := sandboxtest.APIServer(t); again.Host != config.Host {
		t.Errorf("second call: %s, first call: %s", again.Host, config.Host)
	}
}

// TestAPIServersAreApart: they keep what they store in one etcd, and see nothing of one another.
func TestAPIServersAreApart(t *testing.T) {
	one, two := connect(t, sandboxtest.NewAPIServer(t)), connect(t, sandboxtest.NewAPIServer(t))
	mark := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "mark"}}
	if _, err := one.CoreV1().ConfigMaps("default").Create(t.Context(), mark, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	found, err := two.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=mark"})
	if err != nil {
		t.Fatal(err)
	}
	if len(found.Items) > 0 {
		t.Error("the second API server has an object of the first")
	}
}

func connect(t *testing.T, config *rest.Config) *kubernetes.Clientset {
	t.Helper()
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// BenchmarkNewAPIServer is what a test waits for that wants an API server of its own.
func BenchmarkNewAPIServer(b *testing.B) {
	sandboxtest.APIServer(b)
	for b.Loop() {
		sandboxtest.NewAPIServer(b)
	}
}

func TestNewAPIServer(t *testing.T) {
	shared := sandboxtest.APIServer(t)
	var own string
	t.Run("WhileTheTestRuns", func(t *testing.T) {
		config := sandboxtest.NewAPIServer(t)
		own = config.Host
		client, err := kubernetes.NewForConfig(config)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.Discovery().ServerVersion(); err != nil {
			t.Error(err)
		}
	})
	if own == shared.Host {
		t.Errorf("both at %s", own)
	}
}
