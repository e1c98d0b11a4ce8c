// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"github.com/clusterstacks/cluster-stack-operator/internal/apitest/kinds"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
)

// TestOnlyTheLeaderChangesAnything takes, renews and loses a lease at a real API server, by a clock of the test.
func TestOnlyTheLeaderChangesAnything(t *testing.T) {
	c := Defaults()
	cfg := sandboxtest.APIServer(t)
	c.LeaderElectNamespace = kinds.Namespace(t, kinds.Client(t, cfg))
	ours, err := newLease(cfg, c)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := newLease(cfg, c)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	ours.now = func() time.Time { return now }
	held := func() resourcelock.LeaderElectionRecord {
		return resourcelock.LeaderElectionRecord{HolderIdentity: ours.Identity(), LeaseDurationSeconds: 15}
	}
	leads := func(want bool, why string) {
		t.Helper()
		if got := passes(t, ours, http.MethodPatch, "/api/v1/namespaces/a/secrets/b"); got != want {
			t.Fatalf("changes something: %t, want %t: %s", got, want, why)
		}
		for path, method := range map[string]string{
			"/api/v1/namespaces/a/secrets/b":                                http.MethodGet,
			"/clusters/x/apis/authorization.k8s.io/v1/subjectaccessreviews": http.MethodPost,
			"/apis/authentication.k8s.io/v1/tokenreviews":                   http.MethodPost,
		} {
			if !passes(t, ours, method, path) {
				t.Fatalf("%s %s is refused, although it changes nothing", method, path)
			}
		}
	}

	leads(false, "it has no lease yet")
	if err := ours.Create(t.Context(), held()); err != nil {
		t.Fatal(err)
	}
	leads(true, "the lease is new")
	now = now.Add(c.LeaderElectRenewDeadline - time.Millisecond)
	leads(true, "others wait for longer")
	now = now.Add(time.Millisecond)
	leads(false, "the lease was not renewed in time")

	if _, _, err := ours.Get(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := ours.Update(t.Context(), held()); err != nil {
		t.Fatal(err)
	}
	leads(true, "the lease was renewed")
	underway, waiting := make(chan struct{}), make(chan error, 1)
	go func() {
		waiting <- send(ours, func(r *http.Request) error {
			underway <- struct{}{}
			<-r.Context().Done()
			return r.Context().Err()
		})
	}()
	<-underway // or it might never be sent, which proves nothing
	now = now.Add(c.LeaderElectRenewDeadline)

	if _, _, err := theirs.Get(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := theirs.Update(t.Context(), resourcelock.LeaderElectionRecord{HolderIdentity: theirs.Identity(), LeaseDurationSeconds: 15}); err != nil {
		t.Fatal(err)
	}
	if err := ours.Update(t.Context(), held()); err == nil {
		t.Fatal("a lease that somebody else has taken was renewed")
	}
	leads(false, "somebody else leads")

	if _, _, err := ours.Get(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := ours.Update(t.Context(), held()); err != nil {
		t.Fatal(err)
	}
	leads(true, "it leads again")
	if err := <-waiting; !errors.Is(err, errNotLeader) {
		t.Fatalf("a request of the time before somebody else led: %v", err)
	}
	go func() {
		waiting <- send(ours, func(r *http.Request) error {
			underway <- struct{}{}
			<-r.Context().Done()
			return r.Context().Err()
		})
	}()
	<-underway
	if err := ours.Update(t.Context(), resourcelock.LeaderElectionRecord{LeaseDurationSeconds: 1}); err != nil {
		t.Fatal(err)
	}
	leads(false, "it has given the lease up")
	if err := <-waiting; !errors.Is(err, errNotLeader) {
		t.Fatalf("a request that waited when the lease ended: %v", err)
	}

	// The clock that nobody sets stands still while a machine sleeps, the one on the wall goes on.
	slept := now.Round(0).Add(time.Hour)
	if err := ours.Update(t.Context(), held()); err != nil {
		t.Fatal(err)
	}
	now = slept
	leads(false, "the machine has slept")
}

// send sends a guarded request that changes something to a server.
func send(l *lease, server func(*http.Request) error) error {
	request := httptest.NewRequest(http.MethodPatch, "https://cluster.example.com/api/v1/namespaces/a/secrets/b", http.NoBody)
	response, err := l.Guard(roundTripper(func(r *http.Request) (*http.Response, error) {
		return httptest.NewRecorder().Result(), server(r)
	})).RoundTrip(request)
	if err == nil {
		_ = response.Body.Close()
	}
	return err
}

// passes tells whether a guarded request reaches the server.
func passes(t *testing.T, l *lease, method, path string) bool {
	t.Helper()
	sent := false
	guarded := l.Guard(roundTripper(func(*http.Request) (*http.Response, error) {
		sent = true
		return httptest.NewRecorder().Result(), nil
	}))
	request, err := http.NewRequestWithContext(t.Context(), method, "https://cluster.example.com"+path, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	response, err := guarded.RoundTrip(request)
	if err == nil {
		_ = response.Body.Close()
	}
	if sent == errors.Is(err, errNotLeader) {
		t.Fatalf("%s %s: sent is %t, the error is %v", method, path, sent, err)
	}
	return sent
}
