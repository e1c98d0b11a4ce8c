// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package crds

import (
	"context"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensionsclient "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset/typed/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/retry"
	clusterctlv1 "sigs.k8s.io/cluster-api/cmd/clusterctl/api/v1alpha3"
)

// concurrency is how many objects are sent to the API server at once.
const concurrency = 8

// Install creates CustomResourceDefinitions, or changes those that are there to be as given, and waits until all
// their kinds are served. They are labelled as if clusterctl had installed them. What Read found stays until Read finds
// another one of its name.
func Install(ctx context.Context, config *rest.Config, crds []*apiextensionsv1.CustomResourceDefinition) error {
	client, err := apiextensionsclient.NewForConfig(config)
	if err != nil {
		return err
	}
	for _, crd := range crds {
		label(crd)
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(concurrency)
	for _, crd := range crds {
		group.Go(func() error {
			if err := put(groupCtx, client.CustomResourceDefinitions(), crd); err != nil {
				return fmt.Errorf("CustomResourceDefinition %s: %w", crd.Name, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return awaitServed(ctx, client.CustomResourceDefinitions(), crds)
}

// label makes a kind one that `clusterctl move` looks at, unless it is clusterctl's own.
func label(crd *apiextensionsv1.CustomResourceDefinition) {
	if _, internal := crd.Labels[clusterctlv1.ClusterctlCoreLabel]; internal {
		return
	}
	if crd.Labels == nil {
		crd.Labels = map[string]string{}
	}
	crd.Labels[clusterctlv1.ClusterctlLabel] = ""
}

func put(ctx context.Context, client apiextensionsclient.CustomResourceDefinitionInterface, crd *apiextensionsv1.CustomResourceDefinition) error {
	_, err := client.Create(ctx, crd, metav1.CreateOptions{})
	if !apierrors.IsAlreadyExists(err) {
		return err
	}
	return retry.RetryOnConflict(retry.DefaultRetry, func() error {
		live, err := client.Get(ctx, crd.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if metav1.HasAnnotation(live.ObjectMeta, givenAnnotation) && !metav1.HasAnnotation(crd.ObjectMeta, givenAnnotation) {
			return nil
		}
		live.Labels, live.Annotations, live.Spec = crd.Labels, crd.Annotations, crd.Spec
		_, err = client.Update(ctx, live, metav1.UpdateOptions{})
		return err
	})
}

// awaitServed watches until every kind is served, or one cannot be. For a kind that was there before, that is at once.
func awaitServed(ctx context.Context, client apiextensionsclient.CustomResourceDefinitionInterface, crds []*apiextensionsv1.CustomResourceDefinition) error {
	pending := map[string]bool{}
	for _, crd := range crds {
		pending[crd.Name] = true
	}
	for {
		// Without a resource version a watch begins with what is there.
		w, err := client.Watch(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for e := range w.ResultChan() {
			if e.Type == watch.Error {
				w.Stop()
				return apierrors.FromObject(e.Object)
			}
			if crd, ok := e.Object.(*apiextensionsv1.CustomResourceDefinition); ok {
				if err := refused(crd); err != nil && pending[crd.Name] {
					w.Stop()
					return err
				}
				if isServed(crd) {
					delete(pending, crd.Name)
				}
			}
			if len(pending) == 0 {
				w.Stop()
				return nil
			}
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

func refused(crd *apiextensionsv1.CustomResourceDefinition) error {
	for _, c := range crd.Status.Conditions {
		if c.Type == apiextensionsv1.NamesAccepted && c.Status == apiextensionsv1.ConditionFalse {
			return fmt.Errorf("CustomResourceDefinition %s is refused: %s", crd.Name, c.Message)
		}
	}
	return nil
}

func isServed(crd *apiextensionsv1.CustomResourceDefinition) bool {
	return slices.ContainsFunc(crd.Status.Conditions, func(c apiextensionsv1.CustomResourceDefinitionCondition) bool {
		return c.Type == apiextensionsv1.Established && c.Status == apiextensionsv1.ConditionTrue
	})
}
