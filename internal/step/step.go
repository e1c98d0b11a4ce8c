// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package step runs a reconciliation as a list of steps and reports what came of it.
//
// A step moves one concern and answers in one of three ways: done, wait, or an error. Run turns
// the answers into the object's conditions, into events on what changed, and into the result for
// the controller. It writes the status once, and only when it differs from what is stored: at rest
// nothing is written. Steps touch no conditions; they, and Begin, may set other fields of the status
// of the object in memory, which the same write carries.
//
// What the conditions say after a run:
//
//   - The list holds Ready and one condition for each step given, in that order, and nothing else.
//     A condition that no step stands for is gone after the first run.
//   - A step that was not reached, because an earlier one waits or failed, is Unknown and names that
//     one: what was not looked at this time is not claimed.
//   - Ready is True when all steps are done, and otherwise repeats the reason and the message of
//     the first one that is not. Steps given by Beside have no part in it.
//
// What to do, in which order, and how to word it, is the caller's.
package step

import (
	"context"
	"errors"
	"fmt"
	goruntime "runtime"
	"runtime/debug"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
)

// Object is a kind of ours: it has conditions in its status.
type Object interface {
	client.Object
	GetConditions() v1alpha1.Conditions
	SetConditions(v1alpha1.Conditions)
}

// Func does the work of one step. An Outcome that comes with an error only says when to look again.
type Func func(ctx context.Context) (Outcome, error)

// Outcome is what a step answers when it did not fail. It is made by Done and Wait.
type Outcome struct {
	answer    answer
	reason    string
	message   string
	lookAgain time.Duration
}

type answer int

const (
	none answer = iota // the zero Outcome: the step answered nothing
	done
	wait
)

// Done says that the state which the step's condition names is reached.
func Done() Outcome {
	return Outcome{answer: done, reason: v1alpha1.DoneReason, message: "up to date"}
}

// Wait says that the step cannot go on yet for the given reason, which is a word in CamelCase.
// The message must be stable: no times, no counters that grow, sorted lists. Whoever waits is
// woken by a watch; what cannot be watched asks for LookAgain.
func Wait(reason, format string, args ...any) Outcome {
	return Outcome{answer: wait, reason: reason, message: fmt.Sprintf(format, args...)}
}

// Saying replaces the message of an outcome.
func (o Outcome) Saying(format string, args ...any) Outcome {
	o.message = fmt.Sprintf(format, args...)
	return o
}

// LookAgain asks for another run after d, for what no watch reports. Of several requests in one
// run the earliest counts.
func (o Outcome) LookAgain(d time.Duration) Outcome {
	o.lookAgain = d
	return o
}

// Part is what a run is made of: the steps On and Beside, what comes before them, and the
// settings Tell and Clock.
type Part interface{ join(*plan) }

type plan struct {
	begin    []func()
	steps    []step
	recorder events.EventRecorder
	also     []runtime.Object
	clock    clock.PassiveClock
}

type step struct {
	condition string
	run       Func
	beside    bool
}

func (s step) join(p *plan) { p.steps = append(p.steps, s) }

// On is a step of the line: when it waits or fails, the steps after it are not reached. Its
// answer becomes the condition of the given type.
func On(condition string, run Func) Part { return step{condition: condition, run: run} }

// Beside is a step beside the line: its answer becomes a condition, but it neither holds the steps
// after it nor counts for Ready. It is reached like any other step. An error of it is retried all the same.
func Beside(condition string, run Func) Part {
	return step{condition: condition, run: run, beside: true}
}

type begin func()

func (b begin) join(p *plan) { p.begin = append(p.begin, b) }

// Begin fills in what the status can say before the first step. A status that was changed before Run
// is taken for the stored one, and the change is not written.
func Begin(fill func()) Part { return begin(fill) }

type tell struct {
	recorder events.EventRecorder
	also     []runtime.Object
}

func (t tell) join(p *plan) { p.recorder, p.also = t.recorder, t.also }

// Tell records an event for each transition on the object, and one more on each of the other objects
// (an object reference will do), such as the Cluster that a user looks at. When Ready becomes True, that
// alone tells of all that is True now.
func Tell(recorder events.EventRecorder, also ...runtime.Object) Part {
	return tell{recorder: recorder, also: also}
}

type passiveClock struct{ clock.PassiveClock }

func (c passiveClock) join(p *plan) { p.clock = c.PassiveClock }

// Clock replaces the clock that dates transitions.
func Clock(c clock.PassiveClock) Part { return passiveClock{c} }

// result is how one step of a run ended.
type result struct {
	step
	reached bool
	outcome Outcome
	err     error
}

func (r result) done() bool { return r.reached && r.err == nil && r.outcome.answer == done }

// Run runs the steps in order, stops at the first that waits or fails, and writes what came of it to
// the status of obj, which must be the caller's own copy.
//
// An error of a step is returned, so that the controller retries it with backoff. One that is
// permanent is not retried; if its step asked to look again, that is done instead of retrying. A
// status that could not be written is always retried. When a step or the write finds that obj was
// changed by somebody else meanwhile, nothing is reported and the run starts again. Nor is anything reported when a
// step finds the namespace being deleted.
func Run(ctx context.Context, c client.Client, obj Object, parts ...Part) (ctrl.Result, error) {
	p := plan{clock: clock.RealClock{}}
	for _, part := range parts {
		part.join(&p)
	}
	stored := obj.DeepCopyObject().(Object)
	for _, fill := range p.begin {
		fill()
	}

	results := make([]result, len(p.steps))
	held := false
	for i, s := range p.steps {
		results[i].step = s
		if held {
			continue
		}
		results[i].reached = true
		results[i].outcome, results[i].err = s.try(ctx)
		Trace(ctx, s.condition, results[i].err)
		if results[i].err == nil && results[i].outcome.answer == none {
			results[i].err = fmt.Errorf("step %s neither finished, nor waited, nor failed", s.condition)
		}
		if err := results[i].err; err != nil && ctx.Err() != nil {
			// We are being stopped. That says nothing about the object.
			return ctrl.Result{}, err
		} else if stale(err) {
			ctrl.LoggerFrom(ctx).V(4).Info("The object changed during the run, starting again", "step", s.condition, "cause", err.Error())
			return ctrl.Result{RequeueAfter: restart}, nil
		} else if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			// All that is in the namespace goes, obj too. It is no fault, and events about it would be refused as well.
			ctrl.LoggerFrom(ctx).V(2).Info("The namespace is being deleted", "step", s.condition, "cause", err.Error())
			return ctrl.Result{RequeueAfter: ending}, nil
		}
		held = !s.beside && !results[i].done()
	}

	count(obj, results)
	obj.SetConditions(conditions(stored, obj.GetGeneration(), results, p.clock.Now()))
	changed := transitions(stored.GetConditions(), obj.GetConditions())
	if gone(obj) {
		// The last finalizer was removed: there is no object left to report on.
		return ctrl.Result{}, failure(results)
	}
	writeErr := writeStatus(ctx, c, stored, obj)
	switch {
	case stale(writeErr):
		ctrl.LoggerFrom(ctx).V(4).Info("The object changed during the run, starting again", "cause", writeErr.Error())
		return ctrl.Result{RequeueAfter: restart}, nil
	case client.IgnoreNotFound(writeErr) != nil:
		return ctrl.Result{}, errors.Join(transient(results), fmt.Errorf("write status: %w", writeErr))
	case writeErr != nil:
		return ctrl.Result{}, nil // deleted meanwhile
	}
	// Told only after the write: a lost write would otherwise tell the same transition again and again.
	report(ctx, p, obj, changed, results)

	if err := transient(results); err != nil {
		return ctrl.Result{}, err
	}
	after := earliest(results)
	if after == 0 {
		return ctrl.Result{}, failure(results)
	}
	return ctrl.Result{RequeueAfter: after}, nil
}

// try runs a step. A panic, which is a mistake of ours that one object brings to light, is an error of the step:
// its condition tells of it, and the work on other objects goes on.
func (s step) try(ctx context.Context) (o Outcome, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			logPanic(ctx, s.condition, cause, debug.Stack())
			o, err = Outcome{}, errors.New("a fault in the operator itself; its log has the details, which are worth a report")
		}
	}()
	return s.run(ctx)
}

// Trace logs where an error comes from that was a panic in a goroutine of the given step, or of something beside the steps.
// Its text, which is for people who use the object, does not tell.
func Trace(ctx context.Context, step string, err error) {
	var panicked interface {
		Panicked() (with any, stack []byte)
	}
	if errors.As(err, &panicked) {
		with, stack := panicked.Panicked()
		logPanic(ctx, step, with, stack)
	}
}

func logPanic(ctx context.Context, step string, with any, stack []byte) {
	// What was panicked with may be anything, a secret too; what the language itself says is harmless.
	what, _ := with.(goruntime.Error)
	ctrl.LoggerFrom(ctx).Error(what, "The step panicked", "step", step, "with", fmt.Sprintf("%T", with), "stack", string(stack))
}

// restart is how long a run waits that saw an old state of its object. The watch that brings the
// new state usually wakes it first.
const restart = time.Second

// ending is how long a run waits that could not make something because the namespace is being deleted. Whoever
// deletes its object, as will be done in a moment, wakes it first.
const ending = 10 * time.Second

// transient returns the errors that are worth retrying, joined.
func transient(results []result) error {
	var errs []error
	for _, r := range results {
		if r.err != nil && !Permanent(r.err) {
			errs = append(errs, fmt.Errorf("%s: %w", r.condition, r.err))
		}
	}
	return errors.Join(errs...)
}

// failure returns all errors, marked so that the controller counts and logs but does not retry them
// when all of them are permanent.
func failure(results []result) error {
	if err := transient(results); err != nil {
		return err
	}
	var errs []error
	for _, r := range results {
		if r.err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", r.condition, r.err))
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return terminal(errors.Join(errs...))
}

// earliest returns the shortest delay that a step asked for, 0 if none did.
func earliest(results []result) time.Duration {
	var first time.Duration
	for _, r := range results {
		if d := r.outcome.lookAgain; r.reached && d > 0 && (first == 0 || d < first) {
			first = d
		}
	}
	return first
}

func gone(obj client.Object) bool {
	return !obj.GetDeletionTimestamp().IsZero() && len(obj.GetFinalizers()) == 0
}
