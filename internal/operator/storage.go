// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/clusterstacks/cluster-stack-operator/internal/chartrepo"
	"github.com/clusterstacks/cluster-stack-operator/internal/controller/releases"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/store"
	"github.com/clusterstacks/cluster-stack-operator/internal/web"
)

// patience is how long a reconciliation waits for a release that is being fetched. A folder or a registry nearby
// is faster, and whoever is slower must not keep the workers from other releases.
const patience = 3 * time.Second

// openStore opens the store, has it cleaned at intervals, and returns a channel with the names of releases
// whose fetch is over.
func (c *Config) openStore(mgr ctrl.Manager) (*store.Store, <-chan event.GenericEvent, error) {
	charts, err := c.chartRepositories()
	if err != nil {
		return nil, nil, err
	}
	fetched := make(chan event.GenericEvent, 1024)
	st, err := store.Open(c.StoreDir, store.Options{
		Quota:    c.StoreQuota.Value(),
		Patience: patience,
		Fetched: func(n release.Name) {
			select {
			case fetched <- event.GenericEvent{Object: &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: n.String()}}}:
			default: // whoever waits looks again before long
			}
		},
		Complete: charts.Complete,
	})
	if err != nil {
		return nil, nil, err
	}
	return st, fetched, mgr.Add(&releases.Keeper{Store: st})
}

// chartRepositories are where charts are fetched from that releases do not bring along.
func (c *Config) chartRepositories() (*chartrepo.Repositories, error) {
	guard, err := c.guard()
	if err != nil {
		return nil, err
	}
	client, err := web.Client(web.Options{UserAgent: name, Guard: guard})
	if err != nil {
		return nil, err
	}
	mirror, err := web.Client(web.Options{UserAgent: name, PlainHTTP: true})
	if err != nil {
		return nil, err
	}
	o := chartrepo.Options{Client: client, MirrorClient: mirror, Allowed: c.ChartRepositories}
	if c.ChartMirrorCredentials != "" {
		if o.MirrorCredential, err = mirrorCredentials(c.ChartMirrorCredentials); err != nil {
			return nil, err
		}
	}
	for _, text := range c.ChartMirrors {
		mirror, err := chartrepo.ParseMirror(text)
		if err != nil {
			return nil, fmt.Errorf("--chart-mirrors: %w; who to be at a mirror is said by --chart-mirror-credentials", err)
		}
		o.Mirrors = append(o.Mirrors, mirror)
	}
	return chartrepo.New(o), nil
}

// mirrorCredentials returns who to be at mirrors, as a file says each time that it is asked: its contents are replaced when
// passwords are. As long as it cannot be read, which may be in the middle of that, what it said last counts.
func mirrorCredentials(file string) (auth.CredentialFunc, error) {
	var mu sync.Mutex
	var last auth.CredentialFunc
	read := func() error {
		text, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("--chart-mirror-credentials: %w", err)
		}
		known, err := credentials.NewMemoryStoreFromDockerConfig(text)
		if err != nil {
			// The error of the parser may quote what it could not read.
			return fmt.Errorf("--chart-mirror-credentials=%s: this is not a configuration of Docker", file)
		}
		last = credentials.Credential(known)
		return nil
	}
	if err := read(); err != nil {
		return nil, err
	}
	return func(ctx context.Context, host string) (auth.Credential, error) {
		mu.Lock()
		if err := read(); err != nil {
			ctrl.LoggerFrom(ctx).Error(err, "The credentials for mirrors cannot be read again; those that were read before are used")
		}
		now := last
		mu.Unlock()
		return now(ctx, host)
	}, nil
}
