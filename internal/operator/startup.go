// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	runtimev1 "sigs.k8s.io/cluster-api/api/runtime/v1beta2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
)

// What the checks at start and of definitions need: to read them, and to ask Cluster API's webhooks by objects that are not stored.
//
// +kubebuilder:rbac:groups=apiextensions.k8s.io,resources=customresourcedefinitions,verbs=get;list;watch
// +kubebuilder:rbac:groups=cluster.x-k8s.io,resources=clusterclasses,verbs=create
// +kubebuilder:rbac:groups=runtime.cluster.x-k8s.io,resources=extensionconfigs,verbs=create

const (
	installClusterAPI = "install Cluster API 1.12 or newer in this cluster, for example by: CLUSTER_TOPOLOGY=true EXP_RUNTIME_SDK=true clusterctl init"
	upgradeClusterAPI = "upgrade Cluster API to 1.12 or newer, for example by: clusterctl upgrade apply --contract v1beta2"
)

// checkManagementCluster reports what the operator needs and the management cluster lacks. Whether the features of
// Cluster API are on only Cluster API can say; when it does not answer now, settled is false.
func checkManagementCluster(ctx context.Context, cfg *rest.Config, c Config) (settled bool, err error) {
	if err := checkKinds(cfg); err != nil {
		return true, err
	}
	scheme, err := Scheme()
	if err != nil {
		return true, err
	}
	server, err := client.New(cfg, client.Options{Scheme: scheme})
	if err != nil {
		return true, err
	}
	if err := checkDefinitions(ctx, server); err != nil {
		return true, err
	}
	if err := checkVersion(ctx, server); err != nil {
		return true, err
	}
	return checkFeatures(ctx, server, c.Namespace)
}

// checkKinds reports which part of the management cluster is missing, if one is.
func checkKinds(cfg *rest.Config) error {
	server, err := discovery.NewDiscoveryClientForConfig(cfg)
	if err != nil {
		return err
	}
	for _, need := range []struct {
		version schema.GroupVersion
		kinds   []string
		cure    string
	}{
		{clusterv1.GroupVersion, []string{"Cluster", "ClusterClass"}, installClusterAPI},
		{runtimev1.GroupVersion, []string{"ExtensionConfig"}, installClusterAPI},
		{
			v1alpha1.GroupVersion,
			[]string{v1alpha1.ClusterStackKind, v1alpha1.ClusterStackReleaseKind, v1alpha1.ClusterAddonKind, v1alpha1.ClusterAddonSettingsKind},
			"apply the operator's CustomResourceDefinitions",
		},
	} {
		served, err := server.ServerResourcesForGroupVersion(need.version.String())
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("ask the management cluster for its kinds: %w", err)
		}
		for _, kind := range need.kinds {
			if served != nil && slices.ContainsFunc(served.APIResources, func(r metav1.APIResource) bool { return r.Kind == kind }) {
				continue
			}
			cure := need.cure
			if need.version == clusterv1.GroupVersion {
				if _, err := server.ServerResourcesForGroupVersion(need.version.Group + "/v1beta1"); err == nil {
					cure = upgradeClusterAPI
				}
			}
			return fmt.Errorf("the management cluster does not serve the kind %s of %s: %s", kind, need.version, cure)
		}
	}
	return nil
}

// checkVersion reports a Cluster API that is too old, which its ClusterClass shows: 1.12 brought the field.
func checkVersion(ctx context.Context, server client.Reader) error {
	definition := &apiextensionsv1.CustomResourceDefinition{}
	if err := server.Get(ctx, client.ObjectKey{Name: "clusterclasses." + clusterv1.GroupVersion.Group}, definition); err != nil {
		return fmt.Errorf("find out the version of Cluster API: %w", err)
	}
	for _, version := range definition.Spec.Versions {
		if version.Name != clusterv1.GroupVersion.Version || version.Schema == nil || version.Schema.OpenAPIV3Schema == nil {
			continue
		}
		if _, ok := version.Schema.OpenAPIV3Schema.Properties["spec"].Properties["kubernetesVersions"]; ok {
			return nil
		}
	}
	return errors.New("the management cluster has a Cluster API older than 1.12: " + upgradeClusterAPI)
}

// checkFeatures reports the features of Cluster API that are off. Its webhooks tell when they are asked to let an object
// pass that needs one; nothing is stored. Any other answer than this says nothing about the feature, except that
// the webhook cannot be reached.
func checkFeatures(ctx context.Context, server client.Client, namespace string) (settled bool, err error) {
	settled = true
	var missing []error
	for _, need := range []struct {
		feature, variable, purpose string
		probe                      client.Object
	}{
		{"ClusterTopology", "CLUSTER_TOPOLOGY", "there can be no ClusterClass", &clusterv1.ClusterClass{
			ObjectMeta: metav1.ObjectMeta{Namespace: cmp.Or(namespace, metav1.NamespaceDefault), GenerateName: name + "-check-"},
			Spec: clusterv1.ClusterClassSpec{
				Infrastructure: clusterv1.InfrastructureClass{TemplateRef: clusterv1.ClusterClassTemplateReference{
					APIVersion: "infrastructure.cluster.x-k8s.io/v1beta2", Kind: "CheckClusterTemplate", Name: "check",
				}},
				ControlPlane: clusterv1.ControlPlaneClass{TemplateRef: clusterv1.ClusterClassTemplateReference{
					APIVersion: "controlplane.cluster.x-k8s.io/v1beta2", Kind: "CheckControlPlaneTemplate", Name: "check",
				}},
			},
		}},
		{"RuntimeSDK", "EXP_RUNTIME_SDK", "upgrades cannot wait for addons", &runtimev1.ExtensionConfig{
			ObjectMeta: metav1.ObjectMeta{GenerateName: name + "-check-"},
			Spec: runtimev1.ExtensionConfigSpec{
				ClientConfig: runtimev1.ClientConfig{URL: "https://check.invalid"}, NamespaceSelector: &metav1.LabelSelector{},
			},
		}},
	} {
		err := server.Create(ctx, need.probe, client.DryRunAll)
		switch {
		case err == nil:
		case strings.Contains(err.Error(), need.feature+" feature flag"):
			missing = append(missing, fmt.Errorf("the feature %s of Cluster API is off, so %s: set %s=true in the environment of clusterctl and install or upgrade "+
				"Cluster API again, or add %s=true to --feature-gates of its managers", need.feature, need.purpose, need.variable, need.feature))
		case apierrors.IsInternalError(err) || apierrors.IsTimeout(err) || apierrors.IsServerTimeout(err) || apierrors.IsServiceUnavailable(err):
			settled = false
			ctrl.LoggerFrom(ctx).Info("Cluster API does not answer whether a feature is on; asking again", "feature", need.feature, "cause", err.Error())
		default:
			ctrl.LoggerFrom(ctx).Info("Whether a feature of Cluster API is on cannot be told", "feature", need.feature, "cause", err.Error())
		}
	}
	return settled || len(missing) > 0, errors.Join(missing...)
}

// askAgain is how often Cluster API is asked for its features while it does not answer.
const askAgain = 10 * time.Second

// keepChecking asks until there is an answer. An error ends the operator; what it has begun until then, it goes on with
// after its restart.
func keepChecking(cfg *rest.Config, c Config) func(context.Context) error {
	return func(ctx context.Context) error {
		err := wait.PollUntilContextCancel(ctx, askAgain, false, func(ctx context.Context) (bool, error) {
			return checkManagementCluster(ctx, cfg, c)
		})
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
}
