// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package failures

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	controlplanev1 "sigs.k8s.io/cluster-api/api/controlplane/kubeadm/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/failure"
	"github.com/clusterstacks/cluster-stack-operator/test/sandbox/clustertest"
)

// TestControlPlane rehearses, one after the other, what goes wrong with a control plane of three machines.
func TestControlPlane(t *testing.T) {
	t.Parallel()
	s := begin(t, clustertest.NewCluster(types.NamespacedName{Namespace: "controlplane", Name: "controlplane"}, version, 3, 0))
	clustertest.Await(t, s.management, limit, &clusterv1.MachineList{}, func(list *clusterv1.MachineList) error {
		if len(list.Items) != 3 {
			return fmt.Errorf("%d machines", len(list.Items))
		}
		for i := range list.Items {
			if err := says(clusterv1.MachineAvailableCondition, metav1.ConditionTrue, "")(&list.Items[i]); err != nil {
				return err
			}
		}
		return nil
	}, client.InNamespace(s.cluster.Namespace))
	machines := s.machines(t, true)
	healthy := func(machine string) {
		t.Helper()
		for _, condition := range []string{
			controlplanev1.KubeadmControlPlaneMachineEtcdPodHealthyCondition, controlplanev1.KubeadmControlPlaneMachineAPIServerPodHealthyCondition,
		} {
			s.machine(t, nil, machine, says(condition, metav1.ConditionTrue, ""))
		}
	}
	// look has KubeadmControlPlane look at its pods again: it does not watch them, and looks once in ten minutes while all is well.
	look := func() {
		t.Helper()
		var list controlplanev1.KubeadmControlPlaneList
		if err := s.management.List(t.Context(), &list, client.InNamespace(s.cluster.Namespace)); err != nil {
			t.Fatal(err)
		}
		for i := range list.Items {
			before := list.Items[i].DeepCopy()
			metav1.SetMetaDataAnnotation(&list.Items[i].ObjectMeta, "looked-at", time.Now().Format(time.RFC3339Nano))
			if err := s.management.Patch(t.Context(), &list.Items[i], client.MergeFrom(before)); err != nil {
				t.Fatal(err)
			}
		}
	}
	on := func(machine string) *failure.Machines { return &failure.Machines{Names: []string{machine}} }
	endpoint := newEndpoint(t, s.management.Kubeconfig(t, limit, s.cluster))

	step := func(name string, run func(t *testing.T)) {
		if !t.Run(name, run) {
			t.FailNow() // what is broken would stay so
		}
	}
	step("EtcdDown", func(t *testing.T) {
		heal := s.rehearse(t, "etcd-down", failure.Spec{Type: failure.EtcdDown, Machines: on(machines[0])})
		s.staticPod(t, "etcd", machines[0], func(p *corev1.Pod) error {
			if c := p.Status.ContainerStatuses[0]; c.RestartCount == 0 || c.LastTerminationState.Terminated == nil || c.LastTerminationState.Terminated.ExitCode != 137 {
				return fmt.Errorf("etcd was not killed again and again: %+v", c)
			}
			return isPod(corev1.PodRunning, false, "CrashLoopBackOff")(p)
		})
		// Without storage it does not say that it is ready.
		s.staticPod(t, "kube-apiserver", machines[0], isPod(corev1.PodRunning, false, ""))
		look()
		s.machine(t, nil, machines[0], says(controlplanev1.KubeadmControlPlaneMachineEtcdPodHealthyCondition, metav1.ConditionFalse, ""))
		if err := endpoint.get(t, limit); err != nil {
			t.Errorf("two of three are enough: %v", err)
		}
		heal()
		s.staticPod(t, "etcd", machines[0], isPod(corev1.PodRunning, true, ""))
		look()
		healthy(machines[0])
	})

	step("APIServerHung", func(t *testing.T) {
		heal := s.rehearse(t, "api-server-hung", failure.Spec{Type: failure.APIServerHung, Machines: on(machines[1])})
		s.staticPod(t, "kube-apiserver", machines[1], isPod(corev1.PodRunning, false, ""))
		s.staticPod(t, "etcd", machines[1], isPod(corev1.PodRunning, true, ""))
		if err := endpoint.get(t, limit); err != nil {
			t.Errorf("two of three are enough: %v", err)
		}
		heal()
		s.staticPod(t, "kube-apiserver", machines[1], isPod(corev1.PodRunning, true, ""))
		look()
		healthy(machines[1])
	})

	step("APIServerSlow", func(t *testing.T) {
		const pause = 400 * time.Millisecond
		heal := s.rehearse(t, "slow", failure.Spec{Type: failure.APIServerSlow, Delay: &metav1.Duration{Duration: pause}})
		s.active(t, "slow", failure.ReasonHits)
		awaitThat(t, "a request takes long", func() error {
			begin := time.Now()
			if err := endpoint.get(t, limit); err != nil {
				return err
			}
			if took := time.Since(begin); took < pause/2 {
				return fmt.Errorf("took %s", took)
			}
			return nil
		})
		heal()
	})

	step("LoadBalancerRefuses", func(t *testing.T) {
		heal := s.rehearse(t, "refuses", failure.Spec{Type: failure.LoadBalancerRefuses})
		awaitThat(t, "the load balancer refuses", func() error {
			if err := endpoint.get(t, limit); !errors.Is(err, syscall.ECONNRESET) {
				return fmt.Errorf("want a reset connection, got %s", fmt.Sprint(err)) // it may be nil
			}
			return nil
		})
		heal()
		awaitThat(t, "the load balancer works", func() error { return endpoint.get(t, limit) })
	})

	step("LoadBalancerSilent", func(t *testing.T) {
		s.rehearse(t, "silent", failure.Spec{Type: failure.LoadBalancerSilent})
		awaitThat(t, "the load balancer is silent", func() error {
			if err := endpoint.get(t, time.Second); !os.IsTimeout(err) {
				return fmt.Errorf("want no answer, got %s", fmt.Sprint(err)) // it may be nil
			}
			return nil
		})
		s.endsIn(t, "silent", 3*time.Second)
		awaitThat(t, "it ends by itself", func() error { return endpoint.get(t, 10*time.Second) })
		s.active(t, "silent", failure.ReasonEnded)
	})

	step("MachineDead", func(t *testing.T) {
		heal := s.rehearse(t, "dead", failure.Spec{Type: failure.MachineDead, Machines: on(machines[2])})
		s.node(t, machines[2], isNode(corev1.ConditionUnknown))
		s.machine(t, nil, machines[2], says(clusterv1.MachineNodeReadyCondition, metav1.ConditionUnknown, ""))
		if err := endpoint.get(t, limit); err != nil {
			t.Errorf("two of three are enough: %v", err)
		}
		for _, p := range s.management.Programs(t, s.cluster) {
			if p.Machine == machines[2] {
				t.Errorf("%s runs on a machine that is dead", p.Name)
			}
		}
		heal()
		s.node(t, machines[2], isNode(corev1.ConditionTrue))
		s.machine(t, nil, machines[2], says(clusterv1.MachineNodeReadyCondition, metav1.ConditionTrue, ""))
		// What KubeadmControlPlane says of the pods is out of date for minutes: it does not watch Nodes, and looked last
		// when the Node was still tainted.
		for _, program := range []string{"etcd", "kube-apiserver"} {
			s.staticPod(t, program, machines[2], isPod(corev1.PodRunning, true, ""))
		}
	})
}

// endpoint asks a cluster through its load balancer, with a new connection each time.
type endpoint struct {
	url    string
	client *http.Client
}

func newEndpoint(t *testing.T, config *rest.Config) endpoint {
	t.Helper()
	tlsConfig, err := rest.TLSConfigFor(config)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: tlsConfig, DisableKeepAlives: true}
	return endpoint{url: config.Host + "/api/v1/namespaces/default", client: &http.Client{Transport: transport}}
}

func (e endpoint) get(t *testing.T, timeout time.Duration) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, e.url, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := e.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return errors.New(response.Status)
	}
	return nil
}

// awaitThat asks again until there is no error: what is asked has no events.
func awaitThat(t *testing.T, what string, ask func() error) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		err := ask()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s: %v", what, limit, err)
		}
		select {
		case <-t.Context().Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}
