// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"gomodules.xyz/jsonpatch/v2"
	admissionv1 "k8s.io/api/admission/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
	ctrladmission "sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/controller/releases"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
)

// +kubebuilder:rbac:groups=clusterstack.x-k8s.io,resources=clusterstackreleases,verbs=get;list
// +kubebuilder:rbac:groups=clusterstack.x-k8s.io,resources=clusteraddons,verbs=list
// +kubebuilder:rbac:groups=cluster.x-k8s.io,resources=clusters,verbs=list

// Paths of the webhooks, which config/webhook names, too.
const (
	defaultClusterPath  = "/mutate-cluster-x-k8s-io-v1beta2-cluster"
	validateClusterPath = "/validate-cluster-x-k8s-io-v1beta2-cluster"
	deleteStackPath     = "/validate-clusterstack-x-k8s-io-v1alpha1-clusterstack"
	deleteReleasePath   = "/validate-clusterstack-x-k8s-io-v1alpha1-clusterstackrelease"
)

// deadline bounds a judgement; the API server waits for ten seconds.
const deadline = 8 * time.Second

// Register adds the webhooks to a server. The reader must not be a cache: to let something go that is in use, or to
// deny a release that became ready a moment ago, would be wrong for good.
func Register(server webhook.Server, live client.Reader) {
	w := &webhooks{live: live}
	for path, judge := range map[string]ctrladmission.HandlerFunc{
		defaultClusterPath:  w.defaultCluster,
		validateClusterPath: w.validateCluster,
		deleteStackPath:     w.deleteStack,
		deleteReleasePath:   w.deleteRelease,
	} {
		server.Register(path, &ctrladmission.Webhook{Handler: bounded(judge)})
	}
}

func bounded(judge ctrladmission.HandlerFunc) ctrladmission.HandlerFunc {
	return func(ctx context.Context, request ctrladmission.Request) ctrladmission.Response {
		ctx, cancel := context.WithTimeout(ctx, deadline)
		defer cancel()
		return judge(ctx, request)
	}
}

type webhooks struct{ live client.Reader }

// defaultCluster fills in spec.topology.version.
func (w *webhooks) defaultCluster(ctx context.Context, request ctrladmission.Request) ctrladmission.Response {
	before, now, err := topologies(request)
	if err != nil {
		return ctrladmission.Errored(http.StatusBadRequest, err)
	}
	if !now.ours {
		return ctrladmission.Allowed("")
	}
	var applied offer
	if before.ours && before.class != now.class && !unset(now.version) {
		if applied, err = w.offer(ctx, before); err != nil {
			return failed(request, err)
		}
	}
	target, err := w.offer(ctx, now)
	if err != nil {
		return failed(request, err)
	}
	version, err := versionFor(before, now, applied, target)
	switch {
	case err != nil:
		return denied(request, err)
	case version == now.version:
		return ctrladmission.Allowed("")
	}
	// Only this field: what a newer Cluster API has in its Clusters, our types may not know.
	return ctrladmission.Patched("", jsonpatch.NewOperation("add", "/spec/topology/version", version))
}

// validateCluster checks class and version against the release.
func (w *webhooks) validateCluster(ctx context.Context, request ctrladmission.Request) ctrladmission.Response {
	before, now, err := topologies(request)
	if err != nil {
		return ctrladmission.Errored(http.StatusBadRequest, err)
	}
	if !now.ours {
		return ctrladmission.Allowed("")
	}
	target, err := w.offer(ctx, now)
	if err != nil {
		return failed(request, err)
	}
	warning, err := judge(before, now, target)
	switch {
	case err != nil:
		return denied(request, err)
	case warning != "":
		return ctrladmission.Allowed("").WithWarnings(warning)
	}
	return ctrladmission.Allowed("")
}

// topologies reads what a Cluster asked for before and asks for now.
func topologies(request ctrladmission.Request) (before, now topology, err error) {
	cluster := &clusterv1.Cluster{}
	if err := json.Unmarshal(request.Object.Raw, cluster); err != nil {
		return before, now, fmt.Errorf("read the Cluster: %w", err)
	}
	inNamespace(cluster, request)
	if request.Operation == admissionv1.Update {
		old := &clusterv1.Cluster{}
		if err := json.Unmarshal(request.OldObject.Raw, old); err != nil {
			return before, now, fmt.Errorf("read the Cluster as it was: %w", err)
		}
		inNamespace(old, request)
		before = topologyOf(old)
	}
	return before, topologyOf(cluster), nil
}

// inNamespace completes an object that relies on the namespace of the request. The namespace of a class defaults to it.
func inNamespace(cluster *clusterv1.Cluster, request ctrladmission.Request) {
	if cluster.Namespace == "" {
		cluster.Namespace = request.Namespace
	}
}

// offer looks up what is known about the release of a class.
func (w *webhooks) offer(ctx context.Context, t topology) (offer, error) {
	rel := &v1alpha1.ClusterStackRelease{}
	err := w.live.Get(ctx, client.ObjectKey{Namespace: t.class.Namespace, Name: t.release.String()}, rel)
	if apierrors.IsNotFound(err) {
		return offer{}, nil
	}
	if err != nil {
		return offer{}, fmt.Errorf("get ClusterStackRelease %s: %w", t.release, err)
	}
	patches, err := release.ParsePatches(rel.Status.KubernetesPatches)
	if err != nil {
		return offer{}, fmt.Errorf("ClusterStackRelease %s: status.kubernetesPatches: %w", t.release, err)
	}
	o := offer{known: true, version: rel.Status.KubernetesVersion, patches: patches, ready: rel.Status.Ready}
	if c := rel.Status.Conditions.Get(v1alpha1.ReadyCondition); c != nil && !o.ready {
		o.because = c.Message
	}
	return o, nil
}

// deleteStack denies to delete a ClusterStack while a Cluster uses one of its releases that no other ClusterStack keeps.
func (w *webhooks) deleteStack(ctx context.Context, request ctrladmission.Request) ctrladmission.Response {
	list := &v1alpha1.ClusterStackReleaseList{}
	if err := w.live.List(ctx, list, client.InNamespace(request.Namespace)); err != nil {
		return failed(request, fmt.Errorf("list ClusterStackReleases: %w", err))
	}
	var keys []releases.Key
	for i := range list.Items {
		name, err := release.ParseName(list.Items[i].Name)
		if err == nil && onlyOwner(&list.Items[i], request.Name) {
			keys = append(keys, releases.Key{Namespace: request.Namespace, Name: name})
		}
	}
	if len(keys) == 0 {
		return ctrladmission.Allowed("")
	}
	return w.unlessUsed(ctx, request, keys...)
}

// onlyOwner tells whether a release goes with the ClusterStack.
func onlyOwner(rel *v1alpha1.ClusterStackRelease, stack string) bool {
	owned := false
	for _, owner := range rel.OwnerReferences {
		if owner.Kind != v1alpha1.ClusterStackKind || !strings.HasPrefix(owner.APIVersion, v1alpha1.GroupVersion.Group+"/") {
			continue
		}
		if owner.Name != stack {
			return false
		}
		owned = true
	}
	return owned
}

// deleteRelease denies to delete a ClusterStackRelease while a Cluster uses it.
func (w *webhooks) deleteRelease(ctx context.Context, request ctrladmission.Request) ctrladmission.Response {
	name, err := release.ParseName(request.Name)
	if err != nil {
		return ctrladmission.Allowed("") // no class has come from it
	}
	return w.unlessUsed(ctx, request, releases.Key{Namespace: request.Namespace, Name: name})
}

// shownUsers is how many Clusters a denial names.
const shownUsers = 3

// unlessUsed denies a deletion while Clusters use one of the releases. Those that are being deleted themselves do not
// count: the finalizer of the release keeps its class until they are gone, and a namespace that is deleted with all
// that is in it does not have to come back again and again.
func (w *webhooks) unlessUsed(ctx context.Context, request ctrladmission.Request, keys ...releases.Key) ctrladmission.Response {
	usage, err := releases.FindLastingUsage(ctx, w.live)
	if err != nil {
		return failed(request, err)
	}
	var used []string
	for _, key := range keys {
		users := usage[key]
		if len(users) == 0 {
			continue
		}
		more := ""
		if len(users) > shownUsers {
			more = fmt.Sprintf(" and %d more", len(users)-shownUsers)
			users = users[:shownUsers]
		}
		used = append(used, fmt.Sprintf("release %s is used by Cluster %s%s", key.Name, strings.Join(users, ", "), more))
	}
	if len(used) == 0 {
		return ctrladmission.Allowed("")
	}
	return denied(request, fmt.Errorf("%s: move these to another class or delete them first", strings.Join(used, "; ")))
}

func denied(request ctrladmission.Request, err error) ctrladmission.Response {
	return ctrladmission.Denied(about(request) + err.Error())
}

// failed says that there is no judgement, because of the management cluster and not of the object.
func failed(request ctrladmission.Request, err error) ctrladmission.Response {
	return ctrladmission.Errored(http.StatusInternalServerError, fmt.Errorf("%s%w; try again", about(request), err))
}

func about(request ctrladmission.Request) string {
	return fmt.Sprintf("%s %s/%s: ", request.Kind.Kind, request.Namespace, request.Name)
}
