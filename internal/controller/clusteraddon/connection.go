// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clusteraddon

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
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
	patience
	config  *rest.Config
	applier *apply.Applier
	// client asks whether the API server answers.
	client *http.Client

	state sync.Mutex
	// compared is the rollout for which the inventory was compared with the cluster, at that time.
	compared   rollout.Passage
	comparedAt time.Time
	// inputs are those that a release has with certain facts about the Cluster.
	inputs   string
	inputsAt [sha256.Size]byte
	// slow are the renders that took long the last time, by their subjects.
	slow map[string]bool
	// recheck is when to compare again at rest, and last when that was done.
	recheck, last time.Time
	// reported is how many changes a watch has reported.
	reported int
	// told are the changes found by then that are not to be corrected.
	told []string
	// guards are the objects that are watched for changes, by kind and name.
	guards map[string]apply.Entry
}

// connections has the connection of each cluster.
type connections struct {
	applier apply.Options
	guard   func(http.RoundTripper) http.RoundTripper // around requests of appliers, if set

	now func() time.Time

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
	made := &connection{patience: patience{now: c.now}, config: config, recheck: firstCheck}
	guarded := rest.CopyConfig(config)
	// Innermost, so that it is asked about nothing but the network.
	guarded.Wrap(made.roundTripper)
	if c.guard != nil {
		guarded.Wrap(c.guard)
	}
	var err error
	if made.applier, err = apply.New(guarded, c.applier); err != nil {
		return nil, err
	}
	if made.client, err = rest.HTTPClientFor(guarded); err != nil {
		return nil, fmt.Errorf("connect to the cluster: %w", err)
	}
	if c.byID == nil {
		c.byID = map[client.ObjectKey]*connection{}
	}
	c.byID[cluster] = made
	return made, nil
}

// answers tells whether there is any point in asking the API server. Without a bad experience there is; otherwise it
// is left alone for a while, and then asked for nothing but its version.
func (c *connection) answers(ctx context.Context, t *turn) bool {
	left, doubtful := c.experience()
	if left > 0 || !doubtful {
		return left == 0
	}
	ctx, end := c.begin(ctx, t)
	defer end()
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(c.config.Host, "/")+"/version", nil)
	if err != nil {
		return true // whoever sends the next request is told why
	}
	response, err := c.client.Do(request)
	if err == nil {
		_ = response.Body.Close()
	}
	return !c.lost()
}

// drop forgets the connection of a cluster.
func (c *connections) drop(cluster client.ObjectKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.byID, cluster)
}

// needsComparison reports that the inventory is to be compared with the cluster: once for each rollout, and again when
// that was too long ago. What a stage waits for may have been deleted meanwhile.
func (c *connection) needsComparison(passage rollout.Passage, now time.Time, recheck time.Duration) bool {
	c.state.Lock()
	defer c.state.Unlock()
	return c.compared != passage || now.Sub(c.comparedAt) >= recheck
}

func (c *connection) wasCompared(passage rollout.Passage, now time.Time) {
	c.state.Lock()
	defer c.state.Unlock()
	c.compared, c.comparedAt = passage, now
}

// inputsOf returns what hasInputs was told last, if that was about the same facts.
func (c *connection) inputsOf(facts [sha256.Size]byte) (string, bool) {
	c.state.Lock()
	defer c.state.Unlock()
	return c.inputs, c.inputs != "" && c.inputsAt == facts
}

func (c *connection) hasInputs(facts [sha256.Size]byte, inputs string) {
	c.state.Lock()
	defer c.state.Unlock()
	c.inputs, c.inputsAt = inputs, facts
}

// rendersSlowly tells whether it took long when that was rendered last.
func (c *connection) rendersSlowly(subject string) bool {
	c.state.Lock()
	defer c.state.Unlock()
	return c.slow[subject]
}

func (c *connection) hasRendered(subject string, slowly bool) {
	c.state.Lock()
	defer c.state.Unlock()
	switch {
	case !slowly:
		delete(c.slow, subject)
	case c.slow == nil:
		c.slow = map[string]bool{subject: true}
	default:
		c.slow[subject] = true
	}
}

// untilRecheck returns how long it is until the next comparison at rest, 0 when it is due.
func (c *connection) untilRecheck(now time.Time) time.Duration {
	c.state.Lock()
	defer c.state.Unlock()
	return max(0, c.recheck.Sub(now))
}

// changes returns how many changes a watch has reported so far.
func (c *connection) changes() int {
	c.state.Lock()
	defer c.state.Unlock()
	return c.reported
}

// recheckAfter plans the next comparison at the end of one that began when so many changes had been reported. What was
// reported since may have come too late for it, and is looked at after the given pause.
func (c *connection) recheckAfter(now time.Time, d time.Duration, reported int, pause time.Duration) {
	c.state.Lock()
	defer c.state.Unlock()
	if c.reported != reported {
		d = min(d, pause)
	}
	c.recheck, c.last = now.Add(d), now
}

// recheckSoon makes a comparison due, but not sooner after the last one than the given pause.
func (c *connection) recheckSoon(now time.Time, pause time.Duration) {
	c.state.Lock()
	defer c.state.Unlock()
	c.reported++
	due := now
	if earliest := c.last.Add(pause); earliest.After(due) {
		due = earliest
	}
	if due.Before(c.recheck) {
		c.recheck = due
	}
}

// hasDrifted notes what a comparison has found that is not to be corrected.
func (c *connection) hasDrifted(told []string) {
	c.state.Lock()
	defer c.state.Unlock()
	c.told = append([]string{}, told...)
}

// drifted returns that, and whether there was a comparison at all.
func (c *connection) drifted() ([]string, bool) {
	c.state.Lock()
	defer c.state.Unlock()
	return c.told, c.told != nil
}

// guard replaces the objects that are watched for changes, and tells whether there were none before.
func (c *connection) guard(entries map[string]apply.Entry) (first bool) {
	c.state.Lock()
	defer c.state.Unlock()
	first = c.guards == nil
	c.guards = entries
	return first
}

func (c *connection) guarded(object string) (apply.Entry, bool) {
	c.state.Lock()
	defer c.state.Unlock()
	e, is := c.guards[object]
	return e, is
}

// spread returns a duration around d, so that a thousand clusters do not ask at once.
func spread(d time.Duration) time.Duration {
	return d - d/5 + rand.N(2*d/5+1)
}

// first returns when to do for the first time what is done at intervals of about d: after a restart all clusters connect
// at once, and are to be asked evenly over the interval.
func first(d time.Duration) time.Duration {
	return d/10 + rand.N(d-d/10+1)
}
