// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	toolscache "k8s.io/client-go/tools/cache"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/config"
)

// checkDefinitions reports a field of our kinds that the management cluster does not know. Its API server drops such a
// field from whatever it reads and writes: a ClusterStack would lose its source, the signatures that it demands and its
// pause, and parts of a status would be sent again and again. Definitions that know more are fine.
func checkDefinitions(ctx context.Context, server client.Reader) error {
	for _, ours := range definitions() {
		live := &apiextensionsv1.CustomResourceDefinition{}
		if err := server.Get(ctx, client.ObjectKeyFromObject(ours), live); err != nil {
			return fmt.Errorf("read the definition of %s: %w", ours.Spec.Names.Kind, err)
		}
		want, has := schemaOf(ours), schemaOf(live)
		if has == nil {
			return &definitionError{fmt.Sprintf("does not serve %s of %s", ours.Spec.Names.Kind, v1alpha1.GroupVersion)}
		}
		if field := dropped(want, has, ""); field != "" {
			return &definitionError{fmt.Sprintf("has the CustomResourceDefinition of another operator, which drops the field %s of every %s", field, ours.Spec.Names.Kind)}
		}
	}
	return nil
}

// definitionError says what the management cluster lacks of our kinds.
type definitionError struct{ what string }

func (e *definitionError) Error() string {
	return "the management cluster " + e.what + ": apply the CustomResourceDefinitions of this operator, or of a newer one"
}

// definitions are those that this operator was built with.
var definitions = sync.OnceValue(func() []*apiextensionsv1.CustomResourceDefinition {
	var all []*apiextensionsv1.CustomResourceDefinition
	for _, document := range config.CRDs() {
		one := &apiextensionsv1.CustomResourceDefinition{}
		if err := yaml.Unmarshal(document, one); err != nil {
			panic(err) // they are generated
		}
		all = append(all, one)
	}
	return all
})

// schemaOf is the schema of our version, nil if it is not served.
func schemaOf(definition *apiextensionsv1.CustomResourceDefinition) *apiextensionsv1.JSONSchemaProps {
	for _, version := range definition.Spec.Versions {
		if version.Name == v1alpha1.GroupVersion.Version && version.Served && version.Schema != nil {
			return version.Schema.OpenAPIV3Schema
		}
	}
	return nil
}

// dropped is the path of the first field that one schema has and another one does not, empty if there is none.
func dropped(want, has *apiextensionsv1.JSONSchemaProps, path string) string {
	if has.XPreserveUnknownFields != nil && *has.XPreserveUnknownFields {
		return ""
	}
	for _, name := range slices.Sorted(maps.Keys(want.Properties)) {
		at := path + "." + name
		there, known := has.Properties[name]
		if !known {
			return at[1:]
		}
		of := want.Properties[name]
		if field := dropped(&of, &there, at); field != "" {
			return field
		}
	}
	if want.Items != nil && want.Items.Schema != nil && has.Items != nil && has.Items.Schema != nil {
		return dropped(want.Items.Schema, has.Items.Schema, path+"[]")
	}
	return ""
}

// keepDefinitions ends the operator, on whichever replica, when the definitions of its kinds are replaced by ones that
// know less while it runs. An administrator who installs an older operator over this one does that.
type keepDefinitions struct {
	cache  cache.Cache
	server client.Reader
}

// NeedLeaderElection implements manager.LeaderElectionRunnable: every replica answers by what it reads.
func (*keepDefinitions) NeedLeaderElection() bool { return false }

// Start implements manager.Runnable.
func (k *keepDefinitions) Start(ctx context.Context) error {
	definition := &metav1.PartialObjectMetadata{}
	definition.SetGroupVersionKind(apiextensionsv1.SchemeGroupVersion.WithKind("CustomResourceDefinition"))
	informer, err := k.cache.GetInformer(ctx, definition, cache.BlockUntilSynced(false))
	if err != nil {
		return fmt.Errorf("watch CustomResourceDefinitions: %w", err)
	}
	changed := make(chan struct{}, 1)
	note := func(object any) {
		if d, is := object.(*metav1.PartialObjectMetadata); is && slices.ContainsFunc(definitions(), func(ours *apiextensionsv1.CustomResourceDefinition) bool { return ours.Name == d.Name }) {
			select {
			case changed <- struct{}{}:
			default: // it will be looked at anyway
			}
		}
	}
	handle, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc: note,
		UpdateFunc: func(before, after any) {
			if b, is := before.(*metav1.PartialObjectMetadata); is && b.Generation != after.(*metav1.PartialObjectMetadata).Generation {
				note(after)
			}
		},
		// What is deleted takes all objects along. Whoever makes it anew brings another definition, which is looked at then.
	})
	if err != nil {
		return fmt.Errorf("watch CustomResourceDefinitions: %w", err)
	}
	defer func() { _ = informer.RemoveEventHandler(handle) }()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
		for err := checkDefinitions(ctx, k.server); err != nil; err = checkDefinitions(ctx, k.server) {
			if lacking := (*definitionError)(nil); errors.As(err, &lacking) {
				return err
			}
			ctrl.LoggerFrom(ctx).Info("The definitions of the operator's kinds cannot be read; asking again", "cause", err.Error())
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(askAgain):
			}
		}
	}
}
