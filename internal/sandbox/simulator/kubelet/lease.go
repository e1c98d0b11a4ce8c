// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	leaseDuration = 40 * time.Second
	leaseRenewal  = 10 * time.Second
)

// lease is the sign of life of a kubelet.
type lease struct {
	name  string
	owner *corev1.Node

	mu   sync.Mutex
	last *coordinationv1.Lease // as the cluster last answered; nil when it has to be asked
}

func newLease(name string) *lease { return &lease{name: name} }

// renewLeases gives signs of life until ctx ends.
func (k *Kubelets) renewLeases(ctx context.Context) {
	ticker := time.NewTicker(leaseRenewal)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		for _, name := range k.names() {
			if m := k.machine(name); m != nil {
				k.renewLease(ctx, m)
			}
		}
	}
}

// renewLease gives one sign of life. That it failed is not reported further: the next one comes, and if it does
// not, the cluster notices, which is what a lease is for.
func (k *Kubelets) renewLease(ctx context.Context, m *machine) {
	ctx, cancel := context.WithTimeout(ctx, leaseRenewal)
	defer cancel()
	m.lease.mu.Lock()
	defer m.lease.mu.Unlock()

	leases := k.client.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	now := metav1.NowMicro()
	seconds := int32(leaseDuration / time.Second)
	var err error
	if m.lease.last == nil {
		m.lease.last, err = leases.Get(ctx, m.lease.name, metav1.GetOptions{})
	}
	switch {
	case apierrors.IsNotFound(err):
		m.lease.last, err = leases.Create(ctx, &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Name: m.lease.name, OwnerReferences: []metav1.OwnerReference{*ownerRef(m.lease.owner)}},
			Spec:       coordinationv1.LeaseSpec{HolderIdentity: &m.lease.name, LeaseDurationSeconds: &seconds, RenewTime: &now},
		}, metav1.CreateOptions{})
	case err == nil:
		wanted := m.lease.last.DeepCopy()
		wanted.Spec.HolderIdentity, wanted.Spec.LeaseDurationSeconds, wanted.Spec.RenewTime = &m.lease.name, &seconds, &now
		m.lease.last, err = leases.Update(ctx, wanted, metav1.UpdateOptions{})
	}
	if err != nil {
		m.lease.last = nil
		k.log.V(1).Info("lease not renewed", "node", m.lease.name, "cause", err.Error())
	}
}
