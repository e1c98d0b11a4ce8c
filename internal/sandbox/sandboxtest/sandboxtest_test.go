// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package sandboxtest_test

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

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
