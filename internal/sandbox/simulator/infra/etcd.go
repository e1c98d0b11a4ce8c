// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package infra

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	controlplanev1 "sigs.k8s.io/cluster-api/api/controlplane/kubeadm/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	clusterctlv1 "sigs.k8s.io/cluster-api/cmd/clusterctl/api/v1alpha3"
	"sigs.k8s.io/cluster-api/util/annotations"
	"sigs.k8s.io/cluster-api/util/secret"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// lendEtcd serves a cluster whose control plane asks for an external etcd: the etcd that clusters share stands in for
// it, whatever its endpoints are said to be. The control plane provider waits for two Secrets that whoever runs the
// external etcd has to bring; those that a user has made are left alone.
func (r *clusterReconciler) lendEtcd(ctx context.Context, object *unstructured.Unstructured, cluster *clusterv1.Cluster) error {
	external, err := r.wantsExternalEtcd(ctx, cluster)
	if err != nil || !external {
		return err
	}
	// What is in the etcd of this sandbox cannot go with the cluster to another one.
	err = r.patch(ctx, object, func() error {
		annotations.AddAnnotations(object, map[string]string{clusterctlv1.BlockMoveAnnotation: "its objects are in the shared etcd of this sandbox"})
		return nil
	})
	if err != nil {
		return err
	}
	etcd, err := r.fleet.SharedEtcd(ctx)
	if err != nil {
		return err
	}
	pair, err := etcd.ClientKeyPair()
	if err != nil {
		return err
	}
	for purpose, data := range map[secret.Purpose]map[string][]byte{
		secret.EtcdCA:              {corev1.TLSCertKey: etcd.CA().CertPEM()},
		secret.APIServerEtcdClient: {corev1.TLSCertKey: pair.CertPEM, corev1.TLSPrivateKeyKey: pair.KeyPEM},
	} {
		err := r.client.Create(ctx, &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: cluster.Namespace, Name: secret.Name(cluster.Name, purpose),
				Labels:          map[string]string{clusterv1.ClusterNameLabel: cluster.Name},
				OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(cluster, clusterv1.GroupVersion.WithKind("Cluster"))},
			},
			Type: clusterv1.ClusterSecretType,
			Data: data,
		})
		if client.IgnoreAlreadyExists(err) != nil {
			return fmt.Errorf("external etcd of cluster %s: %w", client.ObjectKeyFromObject(cluster), err)
		}
	}
	return nil
}

// wantsExternalEtcd asks the control plane of a cluster. One that is not there yet leads here once it is.
func (r *clusterReconciler) wantsExternalEtcd(ctx context.Context, cluster *clusterv1.Cluster) (bool, error) {
	ref := cluster.Spec.ControlPlaneRef
	if ref.APIGroup != controlplanev1.GroupVersion.Group || ref.Kind != "KubeadmControlPlane" {
		return false, nil
	}
	controlPlane := &controlplanev1.KubeadmControlPlane{}
	if err := r.client.Get(ctx, types.NamespacedName{Namespace: cluster.Namespace, Name: ref.Name}, controlPlane); err != nil {
		return false, client.IgnoreNotFound(err)
	}
	return controlPlane.Spec.KubeadmConfigSpec.ClusterConfiguration.Etcd.External.IsDefined(), nil
}
