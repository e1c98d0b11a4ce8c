// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package faultproxy

import (
	"fmt"
	"slices"
	"sync"
)

// rules are those of a proxy over its whole life, and what they have seen.
type rules struct {
	seed uint64

	mu     sync.Mutex
	number int
	all    []*counted
	calls  []*call
	events []Event
}

// counted is a rule with the number of requests that matched it.
type counted struct {
	Rule
	matches func(request) bool
	n       int
}

// call is a function that waits for its request.
type call struct {
	counted
	moment Moment
	f      func(Event)
}

func newRules(plan Plan) (*rules, error) {
	r := &rules{seed: plan.Seed}
	return r, r.add(plan.Rules)
}

func (r *rules) add(added []Rule) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	ready, err := r.begin(added)
	r.all = append(r.all, ready...)
	return err
}

func (r *rules) set(wanted []Rule) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	ready, err := r.begin(wanted)
	if err != nil {
		return err
	}
	// A rule that was never in force is not part of the story.
	r.all = slices.DeleteFunc(r.all, func(c *counted) bool { return c.From > r.number || r.number == 0 })
	for _, c := range r.all {
		if c.Until == 0 || c.Until > r.number {
			c.Until = r.number
		}
	}
	r.all = append(r.all, ready...)
	return nil
}

// begin prepares rules that are in force from the next request on. It needs the lock.
func (r *rules) begin(added []Rule) ([]*counted, error) {
	var ready []*counted
	for _, rule := range added {
		if r.number > 0 {
			rule.From = max(rule.From, r.number+1)
		}
		if err := rule.validate(); err != nil {
			return nil, fmt.Errorf("rule %q: %w", rule, err)
		}
		// A rule made in Go must be one that can be written, or its run could not be replayed.
		written, err := Parse(rule.String())
		if err != nil {
			return nil, err
		}
		rule = written.Rules[0]
		ready = append(ready, &counted{Rule: rule, matches: matcher(rule.Verb, rule.Path)})
	}
	return ready, nil
}

func (r *rules) at(moment Moment, rule Rule, f func(Event)) error {
	if rule.First < 1 {
		return fmt.Errorf("request %d of %s %s: they are counted from 1", rule.First, rule.Verb, rule.Path)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	ready, err := r.begin([]Rule{rule})
	if err != nil {
		return err
	}
	r.calls = append(r.calls, &call{counted: *ready[0], moment: moment, f: f})
	return nil
}

// decide counts a request and says what happens to it.
func (r *rules) decide(req request) *passage {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.number++
	g := &passage{request: req, event: Event{Number: r.number, Method: req.method, Path: req.path, Watch: req.watch, Query: req.query, UserAgent: req.userAgent}}
	for _, c := range r.all {
		if r.number < c.From || c.Until != 0 && r.number > c.Until || !c.matches(req) {
			continue
		}
		c.n++
		if g.event.Rule != "" || !c.strikes(r.seed, c.n) {
			continue
		}
		g.fault = c.Fault
		g.event.Rule, g.event.Match = c.String(), c.n
		if c.Fault.Kind == Pass {
			return g // nobody else counts it
		}
		g.event.Fault = c.Fault.String()
	}
	if g.event.Fault != "" {
		r.events = append(r.events, g.event)
	}
	r.calls = slices.DeleteFunc(r.calls, func(c *call) bool {
		if !c.matches(req) {
			return false
		}
		c.n++
		if c.n != c.First {
			return false
		}
		if g.calls == nil {
			g.calls = map[Moment][]func(Event){}
		}
		g.calls[c.moment] = append(g.calls[c.moment], c.f)
		return true
	})
	return g
}

func (r *rules) replay() Plan {
	r.mu.Lock()
	defer r.mu.Unlock()
	plan := Plan{Seed: r.seed}
	for _, c := range r.all {
		plan.Rules = append(plan.Rules, c.Rule)
	}
	return plan
}

func (r *rules) struck() []Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.events)
}

func (r *rules) requests() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.number
}
