// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/controller/priorityqueue"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

func testQueue(t *testing.T) priorityqueue.PriorityQueue[reconcile.Request] {
	t.Helper()
	limiter := workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](time.Millisecond, time.Second)
	// Handlers ask whether it has priorities.
	q, ok := newQueue(t.Name(), limiter).(priorityqueue.PriorityQueue[reconcile.Request])
	if !ok {
		t.Fatal("it is no queue with priorities")
	}
	return q
}

func request(i int) reconcile.Request {
	return reconcile.Request{NamespacedName: types.NamespacedName{Name: fmt.Sprint(i)}}
}

// Workers that always find something to do end when the queue is shut down, whatever it is doing at that moment.
func TestWorkersEndWithTheirQueue(t *testing.T) {
	for round := range 300 {
		q := testQueue(t)
		var workers sync.WaitGroup
		for worker := range 20 {
			workers.Go(func() {
				for i := worker; ; i += 20 {
					q.Add(request(i))
					item, shutdown := q.Get()
					if shutdown {
						return
					}
					q.Done(item)
				}
			})
		}
		for range round {
			runtime.Gosched() // another moment each time
		}
		q.ShutDown()
		ended := make(chan struct{})
		go func() { workers.Wait(); close(ended) }()
		select {
		case <-ended:
		case <-time.After(time.Minute):
			t.Fatalf("workers hang after a shutdown in round %d", round)
		}
	}
}

// What it hands out is what went in, the most urgent first, and no item twice at a time.
func TestQueueKeepsItsPromises(t *testing.T) {
	q := testQueue(t)
	defer q.ShutDown()
	low, high := -100, 0
	q.AddWithOpts(priorityqueue.AddOpts{Priority: &low}, request(1))
	q.AddWithOpts(priorityqueue.AddOpts{Priority: &high}, request(2))
	if n := q.Len(); n != 2 {
		t.Fatalf("%d items are ready", n)
	}
	for _, want := range []int{2, 1} {
		if item, _, shutdown := q.GetWithPriority(); item != request(want) || shutdown {
			t.Errorf("got %v, %t, want %d", item, shutdown, want)
		}
	}
	q.Add(request(1))
	q.Add(request(3))
	if item, _ := q.Get(); item != request(3) {
		t.Errorf("got %v, which is being worked on", item)
	}
	q.Done(request(1))
	if item, _ := q.Get(); item != request(1) {
		t.Errorf("got %v, want what came in meanwhile", item)
	}
	q.ShutDown()
	q.ShutDown()
	if _, shutdown := q.Get(); !shutdown {
		t.Error("it goes on after its end")
	}
}
