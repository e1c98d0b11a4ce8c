// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package releases answers the questions about releases that several controllers have: what is in a
// release, what does the source offer, and who uses what.
package releases

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/source"
	"github.com/clusterstacks/cluster-stack-operator/internal/store"
)

// Releases opens releases of one source through the store. It can be shared.
type Releases struct {
	reader client.Reader
	store  *store.Store
	source source.Source
	key    string
}

// New returns the releases of a source. The key names the source for people and in the store, such as
// "directory:/releases". The reader reads ClusterStackReleases.
func New(reader client.Reader, st *store.Store, src source.Source, key string) *Releases {
	return &Releases{reader: reader, store: st, source: src, key: key}
}

// Source says where the releases come from.
func (r *Releases) Source() string { return r.key }

// List returns what the source offers.
func (r *Releases) List(ctx context.Context) ([]source.Offer, error) {
	offers, err := r.source.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.key, err)
	}
	return offers, nil
}

// Open opens the release of a ClusterStackRelease with the digest that is fixed in it. Without that
// object, or as long as it has no digest, it is whatever the store has or the source offers.
//
// The error wraps source.ErrNotFound when the source has no such release.
func (r *Releases) Open(ctx context.Context, namespace string, name release.Name) (*release.Release, string, error) {
	obj := &v1alpha1.ClusterStackRelease{}
	err := r.reader.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name.String()}, obj)
	if err != nil && !apierrors.IsNotFound(err) {
		return nil, "", fmt.Errorf("get ClusterStackRelease %s: %w", name, err)
	}
	return r.OpenPinned(ctx, name, Pin(obj, r.key))
}

// OpenPinned opens a release with the given digest, or any if that is empty.
func (r *Releases) OpenPinned(ctx context.Context, name release.Name, digest string) (*release.Release, string, error) {
	got, err := r.store.Get(ctx, store.Want{Key: r.key, Name: name, Pin: store.Pin{Digest: digest}, From: r.source})
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", r.key, err)
	}
	return got.Release, got.Pin.Digest, nil
}

// Pin returns the digest that a ClusterStackRelease has fixed for a source. Digests of different sources
// cannot be compared, so an operator that was given another source starts anew.
func Pin(obj *v1alpha1.ClusterStackRelease, source string) string {
	if obj.Status.Source != source {
		return ""
	}
	return obj.Status.Digest
}

// Moved tells whether an error says that the source offers something else under the name of a release
// whose digest is fixed.
func Moved(err error) bool {
	var moved *store.MovedError
	return errors.As(err, &moved)
}
