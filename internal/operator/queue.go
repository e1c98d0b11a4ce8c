// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"sync"

	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/controller/priorityqueue"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// endingQueue is the queue of controller-runtime, whose workers end when it is shut down. That of controller-runtime 0.24
// hands out items with its locks held, and when it is shut down at that moment nobody takes the item any more: all workers
// that ask it for something, or say that they are done, wait for its locks for good. Here they do not ask themselves. Since
// 0.25, which needs a later Kubernetes than we have, the queue does without.
type endingQueue struct {
	priorityqueue.PriorityQueue[reconcile.Request]
	down chan struct{}
	once sync.Once
}

func newQueue(controller string, limiter workqueue.TypedRateLimiter[reconcile.Request]) workqueue.TypedRateLimitingInterface[reconcile.Request] {
	inner := priorityqueue.New(controller, func(o *priorityqueue.Opts[reconcile.Request]) { o.RateLimiter = limiter })
	return &endingQueue{PriorityQueue: inner, down: make(chan struct{})}
}

// GetWithPriority implements [priorityqueue.PriorityQueue].
func (q *endingQueue) GetWithPriority() (reconcile.Request, int, bool) {
	type next struct {
		item     reconcile.Request
		priority int
		shutdown bool
	}
	got := make(chan next, 1)
	go func() {
		item, priority, shutdown := q.PriorityQueue.GetWithPriority()
		got <- next{item, priority, shutdown}
	}()
	select {
	case n := <-got:
		return n.item, n.priority, n.shutdown
	case <-q.down:
		return reconcile.Request{}, 0, true
	}
}

// Get implements [workqueue.TypedInterface].
func (q *endingQueue) Get() (reconcile.Request, bool) {
	item, _, shutdown := q.GetWithPriority()
	return item, shutdown
}

// Done implements [workqueue.TypedInterface].
func (q *endingQueue) Done(item reconcile.Request) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		q.PriorityQueue.Done(item)
	}()
	select {
	case <-done:
	case <-q.down:
	}
}

// ShutDown implements [workqueue.TypedInterface].
func (q *endingQueue) ShutDown() {
	q.once.Do(func() {
		close(q.down)
		q.PriorityQueue.ShutDown()
	})
}

// ShutDownWithDrain implements [workqueue.TypedInterface].
func (q *endingQueue) ShutDownWithDrain() { q.ShutDown() }
