// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clusterstacks/cluster-stack-operator/test/operator/operatortest"
)

// flapping is an API server that is there for a while, and then away for a while, again and again. It takes its time for
// each object that is applied, so that none of its moments is long enough for all.
type flapping struct {
	up, down, takes time.Duration
	began           time.Time

	mu      sync.Mutex
	applied map[string]int // by path
	windows int            // in which something was applied
	last    int64
}

func (f *flapping) harm(_ http.ResponseWriter, r *http.Request) bool {
	since := time.Since(f.began)
	if since%(f.up+f.down) >= f.up {
		panic(http.ErrAbortHandler)
	}
	if r.Method == http.MethodPatch && strings.Contains(r.URL.Path, "/configmaps/") {
		<-time.After(f.takes)
		f.mu.Lock()
		defer f.mu.Unlock()
		f.applied[r.URL.Path]++
		if window := int64(since / (f.up + f.down)); f.windows == 0 || window != f.last {
			f.windows, f.last = f.windows+1, window
		}
	}
	return false
}

// flap lets a cluster come up whose API server flaps.
func flap(t *testing.T, objects int, up, down time.Duration) {
	t.Helper()
	const tag = "docker-flapping-1-35-v1"
	w := operatortest.New(t)
	templates := ""
	for i := range objects {
		templates += operatortest.ConfigMap(fmt.Sprintf("part-%d", i), "1")
	}
	w.Publish(t, tag, operatortest.Release(t, tag, operatortest.Addon{Name: "many", Templates: templates}))
	o := w.Live(t)
	f := &flapping{up: up, down: down, takes: up / 5, began: time.Now(), applied: map[string]int{}}
	harm := f.harm
	w.Harm.Store(&harm)
	n := w.Tenant(t)
	stack := operatortest.Stack("1.35", "v1")
	stack.Spec.Name = "flapping"
	n.Subscribe(t, stack)
	n.Create(t, tag, operatortest.FirstVersion)
	w.Await(t, o, []*operatortest.Tenant{n}, operatortest.Reached(tag))
	f.mu.Lock()
	defer f.mu.Unlock()
	for path, times := range f.applied {
		// Once more is for the one whose answer was lost when the server went away.
		if times > 2 {
			t.Errorf("%s was applied %d times", path, times)
		}
	}
	if len(f.applied) != objects || f.windows < 2 {
		t.Errorf("%d of %d objects were applied, at %d times that the server was there; the test proves nothing", len(f.applied), objects, f.windows)
	}
	t.Logf("%d objects needed %d of the times that the server was there, and %s", objects, f.windows, time.Since(f.began).Round(time.Second))
}

// TestAFlappingClusterGetsOn: what was applied while the API server was there is not applied again the next time. It is
// away for a part of the time only, since whoever finds it away waits longer each time.
func TestAFlappingClusterGetsOn(t *testing.T) { flap(t, 60, 2*time.Second, 500*time.Millisecond) }

// unseen changes the Cluster to another release and back, or forth and back and forth, without the operator seeing it in
// time: the watches stand still meanwhile.
func unseen(t *testing.T, times int) {
	t.Helper()
	w := operatortest.New(t)
	w.PublishLife(t)
	proxy := w.Proxy(t, nil)
	o := w.Start(t, proxy)
	o.AwaitReady(t)
	calm, n := w.Tenant(t), w.Tenant(t)
	both := []*operatortest.Tenant{calm, n}
	for _, n := range both {
		n.Install(t)
		n.Subscribe(t, operatortest.Stack("1.36", "v1"))
	}
	w.Await(t, o, both, operatortest.Reached(operatortest.First))
	for i := range times {
		thaw := proxy.FreezeWatches()
		for range 1 + i%2 {
			n.Use(t, operatortest.Next, operatortest.NextVersion)
			// Cluster API asks at once, and the hook answers from what is stored, whatever the watches say. It may only let
			// the upgrade go on where an earlier change was seen, and what that brought is still there.
			if hold, err := n.AskOnce(t.Context(), o); hold == "" && err == nil {
				w.Goes(n)
			}
			n.Use(t, operatortest.First, operatortest.FirstVersion)
		}
		thaw()
		// Before it has seen it all, it may be on its way to the release that is not wanted any more, or back from there.
		w.AwaitRest(t, o)
		w.Await(t, o, both, operatortest.Reached(operatortest.First))
	}
	for _, n := range both {
		n.Use(t, operatortest.Next, operatortest.NextVersion)
	}
	w.Await(t, o, both, operatortest.Reached(operatortest.Next))
	// What an upgrade begun and taken back leaves in the status is not the same as none.
	w.Check(t, o, []*operatortest.Tenant{n}, operatortest.End{Texts: operatortest.NextTexts, Told: 2 + 2*times})
	w.Check(t, o, []*operatortest.Tenant{calm}, operatortest.End{Texts: operatortest.NextTexts, Told: 2 + 2*times})
}

// TestChangesThatNobodySaw: to and fro while the watches stand still.
func TestChangesThatNobodySaw(t *testing.T) { unseen(t, 2) }
