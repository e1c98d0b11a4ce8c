// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package infra

import (
	"cmp"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/utils/ptr"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/cluster-api/util/conditions"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/failure"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/simulator/kubelet"
)

// Reasons of the condition Ready while a failure is rehearsed.
const (
	reasonMissing       = "NotMade"
	reasonProviderError = "ProviderError"
)

// setbackError is a failure that is rehearsed, as the infrastructure reports it. There is no use in trying again before the
// failure changes.
type setbackError struct {
	*failure.Failure
	reason, message string
}

// missing says that a machine is not made.
func missing(f *failure.Failure) error {
	return &setbackError{f, reasonMissing, fmt.Sprintf("the provider has not made the machine (rehearsed by %s)", f)}
}

// providerError says what the provider is to report.
func providerError(f *failure.Failure) error {
	return &setbackError{f, cmp.Or(f.Spec.Reason, reasonProviderError),
		cmp.Or(f.Spec.Message, fmt.Sprintf("the provider reports an error (rehearsed by %s)", f))}
}

func (s *setbackError) Error() string { return s.message }

// terminal tells whether the provider has given up; so it has not when nothing is wrong.
func (s *setbackError) terminal() bool { return s != nil && s.Spec.Terminal }

// lookAgain has what goes wrong looked at again when it may be something else, if ever. What failed is tried again
// anyway.
func lookAgain(change time.Time, err error) (reconcile.Result, error) {
	if err = settled(err); err != nil || change.IsZero() {
		return reconcile.Result{}, err
	}
	return reconcile.Result{RequeueAfter: max(time.Until(change), time.Millisecond)}, nil
}

// due is when a machine should have been made: all that it needs was there.
func due(machine *clusterv1.Machine, object *unstructured.Unstructured) time.Time {
	at := object.GetCreationTimestamp().Time
	if c := conditions.Get(machine, clusterv1.MachineBootstrapConfigReadyCondition); c != nil && c.LastTransitionTime.After(at) {
		at = c.LastTransitionTime.Time
	}
	return at
}

// podFaults translates for kubelets what goes wrong with pods.
func podFaults(effects failure.ClusterEffects) func(*corev1.Pod) *kubelet.Fault {
	kinds := map[failure.Type]kubelet.FaultKind{
		failure.PodNotReady: kubelet.NotReady, failure.PodCrashLoop: kubelet.CrashLoop, failure.PodImagePull: kubelet.ImagePull,
	}
	return func(pod *corev1.Pod) *kubelet.Fault {
		f := effects.Pod(pod)
		if f == nil {
			return nil
		}
		return &kubelet.Fault{
			Kind: kinds[f.Spec.Type], Container: f.Spec.Pods.Container,
			ExitCode: ptr.Deref(f.Spec.ExitCode, 1), Cause: fmt.Sprintf("rehearsed by %s", f),
		}
	}
}
