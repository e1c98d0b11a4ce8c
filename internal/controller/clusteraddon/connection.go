// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clusteraddon

import (
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/internal/apply"
	"github.com/clusterstacks/cluster-stack-operator/internal/rollout"
)

// connection is what is worth keeping about a workload cluster as long as we are connected to it. All of it can
// be found out again.
type connection struct {
	config  *rest.Config
	applier *apply.Applier

	mu sync.Mutex
	// compared is the rollout for which the inventory was compared with the cluster.
	compared rollout.Passage
	// recheck is when to compare again at rest.
	recheck time.Time
}

// connections has the connection of each cluster.
type connections struct {
	applier apply.Options
	guard   func(http.RoundTripper) http.RoundTripper // around requests of appliers, if set

	mu   sync.Mutex
	byID map[client.ObjectKey]*connection
}

// to returns the connection that belongs to a config. Another config, of which there is one after each
// reconnect, makes another connection: what the cluster serves may have changed meanwhile.
func (c *connections) to(cluster client.ObjectKey, config *rest.Config, firstCheck time.Time) (*connection, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if known := c.byID[cluster]; known != nil && known.config == config {
		return known, nil
	}
	guarded := rest.CopyConfig(config)
	if c.guard != nil {
		guarded.Wrap(c.guard)
	}
	applier, err := apply.New(guarded, c.applier)
	if err != nil {
		return nil, err
	}
	if c.byID == nil {
		c.byID = map[client.ObjectKey]*connection{}
	}
	c.byID[cluster] = &connection{config: config, applier: applier, recheck: firstCheck}
	return c.byID[cluster], nil
}

// drop forgets the connection of a cluster.
func (c *connections) drop(cluster client.ObjectKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.byID, cluster)
}

// needsComparison reports, once for each rollout, that the inventory is to be compared with the cluster.
func (c *connection) needsComparison(passage rollout.Passage) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.compared != passage
}

func (c *connection) wasCompared(passage rollout.Passage) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.compared = passage
}

// untilRecheck returns how long it is until the next comparison at rest, 0 when it is due.
func (c *connection) untilRecheck(now time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return max(0, c.recheck.Sub(now))
}

func (c *connection) recheckAfter(now time.Time, d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.recheck = now.Add(d)
}

// spread returns a duration around d, so that a thousand clusters do not ask at once.
func spread(d time.Duration) time.Duration {
	return d - d/5 + rand.N(2*d/5+1)
}
