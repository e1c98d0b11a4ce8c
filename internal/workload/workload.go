// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package workload keeps a connection to the API server of each workload cluster: made when one can be there, given up
// when it does not answer, and made anew when the kubeconfig has changed. What is kept of a cluster at rest is an HTTP
// client; what it serves and what is in it is asked by those who need to know.
package workload

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/cluster-api/util/labels"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/manager"
)

// ErrNotConnected is wrapped by what is said about a cluster to which there is no connection.
var ErrNotConnected = errors.New("there is no connection to the API server of the cluster")

// Options are settings whose zero value works.
type Options struct {
	// QPS and Burst bound the requests to each cluster, as in [rest.Config].
	QPS   float32
	Burst int
	// UserAgent is the name under which requests are sent.
	UserAgent string
	// WatchFilter is the value of the label cluster.x-k8s.io/watch-filter of Clusters to connect to, empty for all.
	WatchFilter string
	// Retry is how long after a failed attempt the next one is made, two seconds by default. It doubles up to fifteen times
	// as much, and begins anew when the control plane is initialized.
	Retry time.Duration
	// Probe is how often a cluster is asked whether it answers, ten seconds by default. After five questions
	// without an answer the connection is given up.
	Probe time.Duration
	// Compare is how soon the kubeconfig of a new connection is looked at again, half a minute by default. It doubles up to
	// ten times as much. Without an answer it is looked at with each question.
	Compare time.Duration
}

const (
	// patience is how long a cluster has to answer the question whether it is there.
	patience = 5 * time.Second
	// maxMisses is how many questions in a row a connection may leave unanswered.
	maxMisses = 5
	// maxRetries and maxCompares are how many times the first pause the last one is.
	maxRetries  = 15
	maxCompares = 10
	// jitter is by how much a pause may be longer, so that a thousand clusters do not ask at once.
	jitter = 0.2
)

// Clusters are the connections to workload clusters. It is safe for concurrent use.
type Clusters struct {
	client  client.Reader
	secrets client.Reader
	options Options
	changes chan event.GenericEvent

	mu    sync.Mutex
	known map[client.ObjectKey]*cluster
}

// cluster is what is known about one Cluster. Only the reconciler changes it, under the lock of Clusters.
type cluster struct {
	uid types.UID
	// connection is nil as long as there is none.
	connection *connection
	// tried tells that there was an attempt, and cause why there is no connection after it.
	tried bool
	cause error
	// next is when to try or to ask again, and pause how long that was after the last attempt.
	next  time.Time
	pause time.Duration
	// initialized tells that the control plane was initialized at the last attempt.
	initialized bool
}

// New returns connections to the clusters whose Clusters c has. secrets has their kubeconfigs; it is asked once for each
// attempt and should not be a cache, which would hold other Secrets, too.
func New(c, secrets client.Reader, o Options) *Clusters {
	if o.Retry == 0 {
		o.Retry = 2 * time.Second
	}
	if o.Probe == 0 {
		o.Probe = 10 * time.Second
	}
	if o.Compare == 0 {
		o.Compare = 30 * time.Second
	}
	return &Clusters{client: c, secrets: secrets, options: o, changes: make(chan event.GenericEvent), known: map[client.ObjectKey]*cluster{}}
}

// SetupWithManager makes the manager keep the connections.
func (c *Clusters) SetupWithManager(mgr ctrl.Manager, o controller.Options) error {
	err := ctrl.NewControllerManagedBy(mgr).Named("workload").For(&clusterv1.Cluster{}).WithOptions(o).Complete(c)
	if err == nil {
		err = mgr.Add(manager.RunnableFunc(c.endAll))
	}
	if err != nil {
		return fmt.Errorf("connections to workload clusters: %w", err)
	}
	return nil
}

// endAll ends all connections when ctx ends.
func (c *Clusters) endAll(ctx context.Context) error {
	<-ctx.Done()
	c.mu.Lock()
	keys := slices.Collect(maps.Keys(c.known))
	c.mu.Unlock()
	for _, key := range keys {
		c.forget(key)
	}
	return nil
}

// Changes tells of Clusters when they are connected or no longer connected, when it is for another cause that they are
// not, and when a watch asks for it. Of the objects only namespace and name count. It has to be read while the manager
// runs.
func (c *Clusters) Changes() <-chan event.GenericEvent { return c.changes }

// Config returns how to reach a cluster to which there is a connection. Each connection has another one, which is not
// to be changed. Without a connection the error wraps [ErrNotConnected] and says why.
func (c *Clusters) Config(of *clusterv1.Cluster) (*rest.Config, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	known := c.find(of)
	switch {
	case known != nil && known.connection != nil:
		return known.connection.config, nil
	case known != nil && known.cause != nil:
		return nil, fmt.Errorf("%w: %w", ErrNotConnected, known.cause)
	}
	return nil, ErrNotConnected
}

// Tried tells whether there was an attempt to connect to a cluster.
func (c *Clusters) Tried(of *clusterv1.Cluster) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	known := c.find(of)
	return known != nil && known.tried
}

// find returns what is known about a Cluster, and nothing about another one that had its name.
func (c *Clusters) find(of *clusterv1.Cluster) *cluster {
	if known := c.known[client.ObjectKeyFromObject(of)]; known != nil && known.uid == of.UID {
		return known
	}
	return nil
}

// Reconcile makes, checks or ends the connection of one Cluster.
func (c *Clusters) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	of := &clusterv1.Cluster{}
	if err := c.client.Get(ctx, request.NamespacedName, of); apierrors.IsNotFound(err) {
		c.forget(request.NamespacedName)
		return ctrl.Result{}, nil
	} else if err != nil {
		return ctrl.Result{}, fmt.Errorf("get Cluster %s: %w", request, err)
	}
	if c.options.WatchFilter != "" && !labels.HasWatchLabel(of, c.options.WatchFilter) {
		c.forget(request.NamespacedName)
		return ctrl.Result{}, nil
	}
	known := c.of(of)
	if known == nil {
		c.forget(request.NamespacedName)
		known = &cluster{uid: of.UID}
		c.mu.Lock()
		c.known[request.NamespacedName] = known
		c.mu.Unlock()
		connections.WithLabelValues(down).Inc()
	}
	// Before there are machines nobody can answer. The Cluster changes when there are.
	if known.connection == nil && !ptr.Deref(of.Status.Initialization.InfrastructureProvisioned, false) {
		return ctrl.Result{}, nil
	}
	if now := ptr.Deref(of.Status.Initialization.ControlPlaneInitialized, false); now != known.initialized {
		if known.initialized = now; now && known.connection == nil {
			known.next, known.pause = time.Time{}, 0
		}
	}
	if time.Now().Before(known.next) {
		return again(known.next), nil
	}
	if known.connection != nil {
		return c.check(ctx, of, known), nil
	}
	return c.connect(ctx, of, known), nil
}

// of is find for those who do not have the lock.
func (c *Clusters) of(of *clusterv1.Cluster) *cluster {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.find(of)
}

// again has a Cluster looked at at a time, before those that nobody waits for.
func again(at time.Time) ctrl.Result {
	return ctrl.Result{RequeueAfter: max(time.Until(at), time.Millisecond), Priority: ptr.To(0)}
}

// connect tries to make the connection of a Cluster.
func (c *Clusters) connect(ctx context.Context, of *clusterv1.Cluster, known *cluster) ctrl.Result {
	made, err := c.dial(ctx, of)
	if ctx.Err() != nil {
		if made != nil {
			made.end()
		}
		return ctrl.Result{}
	}
	log := ctrl.LoggerFrom(ctx)
	c.mu.Lock()
	first, before := !known.tried, known.cause
	known.tried, known.connection, known.cause = true, made, err
	if err != nil {
		known.pause = min(max(2*known.pause, c.options.Retry), maxRetries*c.options.Retry)
	} else {
		known.pause = c.options.Probe
		made.compare = c.options.Compare
		made.compareAt = time.Now().Add(wait.Jitter(made.compare, jitter))
		connections.WithLabelValues(down).Dec()
		connections.WithLabelValues(up).Inc()
	}
	known.next = time.Now().Add(wait.Jitter(known.pause, jitter))
	c.mu.Unlock()
	switch {
	case err == nil:
		log.Info("Connected to the cluster")
	case first:
		log.Info("Cannot connect to the cluster yet", "cause", err.Error())
	default:
		log.V(2).Info("Cannot connect to the cluster", "cause", err.Error())
	}
	if err == nil || first || before == nil || before.Error() != err.Error() {
		c.tell(ctx, of)
	}
	return again(known.next)
}

// check asks a cluster whether it answers, and gives the connection up when it does not, or when its credentials are no
// longer those of the kubeconfig.
func (c *Clusters) check(ctx context.Context, of *clusterv1.Cluster, known *cluster) ctrl.Result {
	cause := known.connection.ask(ctx)
	if ctx.Err() != nil {
		return ctrl.Result{}
	}
	on := known.connection
	on.misses++
	if cause == nil || errors.Is(cause, errForbidden) {
		on.misses = 0
	}
	lost := on.misses >= maxMisses || errors.Is(cause, errUnauthorized)
	if now := time.Now(); !lost && (cause != nil || now.After(on.compareAt)) {
		// Certificates and endpoints are renewed, and those before them may go on to work.
		on.compare = min(2*on.compare, maxCompares*c.options.Compare)
		on.compareAt = now.Add(wait.Jitter(on.compare, jitter))
		if _, sum, err := c.kubeconfig(ctx, of); err == nil && sum != on.sum {
			lost, cause = true, errChanged
		}
	}
	if !lost {
		known.next = time.Now().Add(wait.Jitter(c.options.Probe, jitter))
		return again(known.next)
	}
	ctrl.LoggerFrom(ctx).Info("The connection to the cluster is lost", "cause", cause.Error())
	c.mu.Lock()
	known.connection, known.cause = nil, cause
	known.next, known.pause = time.Time{}, 0
	c.mu.Unlock()
	on.end()
	connections.WithLabelValues(up).Dec()
	connections.WithLabelValues(down).Inc()
	// Whoever waits for an answer is told at once; the kubeconfig may help at once.
	c.tell(ctx, of)
	return c.connect(ctx, of, known)
}

// tell sends a Cluster to those who read [Clusters.Changes].
func (c *Clusters) tell(ctx context.Context, of client.Object) {
	select {
	case c.changes <- event.GenericEvent{Object: of}:
	case <-ctx.Done():
	}
}

// forget ends what is kept for a Cluster that is gone, if anything is.
func (c *Clusters) forget(key client.ObjectKey) {
	c.mu.Lock()
	var on *connection
	known := c.known[key]
	if known != nil {
		on = known.connection
	}
	delete(c.known, key)
	c.mu.Unlock()
	switch {
	case on != nil:
		on.end()
		connections.WithLabelValues(up).Dec()
	case known != nil:
		connections.WithLabelValues(down).Dec()
	}
}
