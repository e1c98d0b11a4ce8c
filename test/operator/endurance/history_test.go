// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package endurance

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/apitest"
	"github.com/clusterstacks/cluster-stack-operator/internal/apitest/kinds"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/test/operator/operatortest"
)

// TestALongHistory is TestTenThousandReleases in small.
func TestALongHistory(t *testing.T) { history(t, 500, 3, 10) }

// history has a source offer many releases of one stack, and in each of some namespaces a ClusterStack that follows the
// newest and keeps so many of the others. Hooks are answered all the time, a new operator writes nothing, and what is not
// wanted any more goes. It returns what the operator uses with all of them at rest.
func history(t *testing.T, offered, namespaces, each int) operatortest.Usage {
	t.Helper()
	w := operatortest.New(t)
	tag := func(version int) string { return fmt.Sprintf("docker-history-1-35-v%d", version) }
	var wanted []string
	for version := 1; version <= offered; version++ {
		if version <= each {
			wanted = append(wanted, fmt.Sprintf("v%d", version))
		} else if version < offered {
			// Nobody asks for it, so nobody looks at more than when it was published.
			w.Publish(t, tag(version), fstest.MapFS{release.MetadataFile: {Data: []byte("nobody reads it")}})
			continue
		}
		w.Publish(t, tag(version), operatortest.Release(t, tag(version), operatortest.Addon{Name: "cni", Templates: operatortest.ConfigMap("cni", "1")}))
	}
	o := w.Live(t)
	foreign := apitest.Cluster(kinds.Namespace(t, w.Client), "foreign", "somebody-elses-class", "v1.35.0")
	if err := w.Client.Create(t.Context(), foreign); err != nil {
		t.Fatal(err)
	}
	asking := ask(t, o, foreign)

	began := time.Now()
	stacks := map[string]*v1alpha1.ClusterStack{}
	for range namespaces {
		n := w.Tenant(t)
		stack := operatortest.Stack("1.35", wanted...)
		stack.Spec.Name, stack.Spec.AutoSubscribe = "history", true
		n.Subscribe(t, stack)
		stacks[n.Namespace] = stack
	}
	usable := func(o *operatortest.Operator, number int) {
		t.Helper()
		list := &v1alpha1.ClusterStackList{}
		missing := ""
		// By the number of releases, and many times what it takes.
		patience := operatortest.Patience + time.Duration(namespaces*each)*2*time.Second
		if err := wait.PollUntilContextTimeout(t.Context(), 500*time.Millisecond, patience, true, func(ctx context.Context) (bool, error) {
			if err := o.Err(); err != nil {
				return false, err
			}
			if err := w.Client.List(ctx, list); err != nil {
				return false, err
			}
			missing = ""
			for _, stack := range list.Items {
				if stacks[stack.Namespace] == nil {
					continue
				}
				there := strings.Split(stack.Status.UsableVersions, ", ")
				if len(there) != number || len(stack.Status.Summary) != number || there[number-1] != fmt.Sprintf("v%d", offered) || !stack.Status.Conditions.IsTrue(v1alpha1.ReadyCondition) {
					missing = fmt.Sprintf("%s has %d usable of %d: %+v", stack.Namespace, len(there), len(stack.Status.Summary), stack.Status.Conditions.Get(v1alpha1.ReadyCondition))
				}
			}
			return missing == "" && len(list.Items) >= namespaces, nil
		}); err != nil {
			t.Fatalf("waited in vain for %d releases in each of %d namespaces: %s: %v", number, namespaces, missing, err)
		}
	}
	usable(o, each+1)
	w.AwaitRest(t, o)
	t.Logf("%d releases of %d offered are usable in %d namespaces after %s; %s", namespaces*(each+1), offered, namespaces, time.Since(began).Round(time.Second), asking())
	used, err := o.Usage(t.Context())
	if err != nil {
		t.Fatal(err)
	}

	// A restart: all of it is looked at again, and nothing is written.
	o.End()
	writes, began := w.Writes(), time.Now()
	o = w.Live(t)
	asking = ask(t, o, foreign)
	w.AwaitRest(t, o)
	if now := w.Writes(); now != writes {
		t.Errorf("a new operator has written %d times", now-writes)
	}
	again, err := o.Usage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("used %+v, after a restart %+v, which came to rest after %s; %s", used, again, time.Since(began).Round(time.Second), asking())

	// The old ones are not wanted any more.
	asking, began = ask(t, o, foreign), time.Now()
	for namespace, stack := range stacks {
		patch := client.RawPatch("application/merge-patch+json", []byte(`{"spec": {"versions": null}}`))
		if err := w.Client.Patch(t.Context(), &v1alpha1.ClusterStack{ObjectMeta: *stack.ObjectMeta.DeepCopy()}, patch); err != nil {
			t.Fatalf("%s: %v", namespace, err)
		}
	}
	usable(o, 1)
	w.AwaitRest(t, o)
	t.Logf("all but %d are gone after %s; %s", namespaces, time.Since(began).Round(time.Second), asking())
	left := &v1alpha1.ClusterStackReleaseList{}
	classes := &clusterv1.ClusterClassList{}
	for namespace := range stacks {
		if err := w.Client.List(t.Context(), left, client.InNamespace(namespace)); err != nil || len(left.Items) != 1 {
			t.Errorf("%s has %d releases, %v", namespace, len(left.Items), err)
		}
		if err := w.Client.List(t.Context(), classes, client.InNamespace(namespace)); err != nil || len(classes.Items) != 1 {
			t.Errorf("%s has %d classes, %v", namespace, len(classes.Items), err)
		}
	}
	return used
}

// ask asks a hook about a foreign Cluster again and again, until the function is called that it returns: each time it is
// answered, with yes, before Cluster API would give up.
func ask(t *testing.T, o *operatortest.Operator, cluster *clusterv1.Cluster) func() string {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	var work sync.WaitGroup
	answers, longest := 0, time.Duration(0)
	work.Go(func() {
		for ctx.Err() == nil {
			began := time.Now()
			hold, err := o.AskFor(ctx, cluster, "v1.35.0", "v1.36.0")
			if ctx.Err() == nil && (hold != "" || err != nil) {
				t.Errorf("a hook is answered with %q, %v", hold, err)
				return
			}
			answers++
			longest = max(longest, time.Since(began))
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
		}
	})
	return func() string {
		stop()
		work.Wait()
		return fmt.Sprintf("%d hooks answered meanwhile, the slowest after %s", answers, longest.Round(time.Millisecond))
	}
}
