// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package operatortest

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync"
)

// Moment is when an operator dies with regard to a request that changes something.
type Moment int

// The moments.
const (
	// Before the request is sent.
	Before Moment = iota
	// Unanswered is after it was carried out, and before the operator heard of it.
	Unanswered
	// After the operator got the answer.
	After
	// Moments is how many there are.
	Moments
)

// String returns the moment in words.
func (m Moment) String() string { return [...]string{"before", "unanswered", "after"}[m] }

// Point is where the operator dies for a cluster: at the nth request about it that changes something, from 1.
type Point struct {
	N int
	Moment
}

// String returns the point in words.
func (p Point) String() string { return fmt.Sprintf("%s request %d", p.Moment, p.N) }

// Fates let an operator die for each cluster at another request. For the cluster it is as if the process had
// been killed there: nothing that it sends about that cluster arrives any more.
type Fates struct {
	mu sync.Mutex
	of map[string]*fate
}

type fate struct {
	point Point
	seen  int
	dead  bool
	where string
}

// Set gives the operator of the next life its fates, by the namespace of the cluster.
func (f *Fates) Set(points map[string]Point) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.of = map[string]*fate{}
	for cluster, point := range points {
		f.of[cluster] = &fate{point: point}
	}
}

// Dead tells whether the operator has died for a cluster, and at which request.
func (f *Fates) Dead(cluster string) (bool, string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if known := f.of[cluster]; known != nil {
		return known.dead, known.where
	}
	return false, ""
}

// Changes is how many requests about a cluster that change something were sent in this life.
func (f *Fates) Changes(cluster string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	if known := f.of[cluster]; known != nil {
		return known.seen
	}
	return 0
}

// inNamespace finds what a request is about in a path of the management cluster, and of a stand-in.
var inNamespace = regexp.MustCompile(`^/(?:clusters/([^/]+)/.*|(?:api/[^/]+|apis/[^/]+/[^/]+)/namespaces/([^/]+)(?:/.*)?)$`)

// Handler carries out the fates. Requests about no cluster, and those of anybody but the operator, pass.
func (f *Fates) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		found := inNamespace.FindStringSubmatch(r.URL.Path)
		if found == nil || !strings.Contains(r.UserAgent(), "cluster-stack-operator") {
			next.ServeHTTP(w, r)
			return
		}
		switch known, dies := f.meet(found[1]+found[2], r); {
		case dies == nothing:
			next.ServeHTTP(w, r)
		case dies == now:
			panic(http.ErrAbortHandler)
		case known.point.Moment == Unanswered:
			next.ServeHTTP(unheard{w}, r)
			f.die(known)
			panic(http.ErrAbortHandler)
		default:
			next.ServeHTTP(w, r)
			f.die(known)
		}
	})
}

type verdict int

const (
	nothing verdict = iota // happens to the request
	now                    // is the operator dead, and the request does not arrive
	then                   // when the request has been carried out, the operator dies
)

// meet counts a request, and tells what becomes of the operator.
func (f *Fates) meet(cluster string, r *http.Request) (*fate, verdict) {
	f.mu.Lock()
	defer f.mu.Unlock()
	known := f.of[cluster]
	switch {
	case known == nil:
		return nil, nothing
	case known.dead:
		return known, now
	case r.Method == http.MethodGet, strings.Contains(r.URL.Path, "/apis/events.k8s.io/"):
		// Events are sent beside the work, in no order, and are lost with the process.
		return known, nothing
	}
	if known.seen++; known.seen != known.point.N {
		return known, nothing
	}
	known.where = fmt.Sprintf("%s, %s %s", known.point, r.Method, r.URL.Path)
	if known.point.Moment == Before {
		known.dead = true
		return known, now
	}
	return known, then
}

func (f *Fates) die(known *fate) {
	f.mu.Lock()
	defer f.mu.Unlock()
	known.dead = true
}

// unheard takes an answer that nobody gets.
type unheard struct{ http.ResponseWriter }

func (unheard) Header() http.Header            { return http.Header{} }
func (unheard) WriteHeader(int)                {}
func (unheard) Write(data []byte) (int, error) { return len(data), nil }
