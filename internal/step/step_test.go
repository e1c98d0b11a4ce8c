// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package step_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	testclock "k8s.io/utils/clock/testing"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/apitest/kinds"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
	"github.com/clusterstacks/cluster-stack-operator/internal/step"
)

// broken is an error that only another input can cure.
type broken struct{}

func (broken) Error() string   { return "malformed" }
func (broken) Permanent() bool { return true }

func answer(o step.Outcome, err error) step.Func {
	return func(context.Context) (step.Outcome, error) { return o, err }
}

func TestRun(t *testing.T) {
	c := kinds.Client(t, sandboxtest.APIServer(t))
	noon := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	earlier := metav1.NewTime(noon.Add(-time.Hour))
	now := metav1.NewTime(noon)

	condition := func(kind string, status metav1.ConditionStatus, reason, message string, since metav1.Time) v1alpha1.Condition {
		return v1alpha1.Condition{Type: kind, Status: status, Reason: reason, Message: message, ObservedGeneration: 1, LastTransitionTime: since}
	}
	for name, tc := range map[string]struct {
		why    string
		stored v1alpha1.Conditions
		parts  []step.Part
		want   v1alpha1.Conditions
		result ctrl.Result
		// wantErr is a part of the text of the error, terminal that the controller will not retry it.
		wantErr  string
		terminal bool
		events   []string
	}{
		"AllDone": {
			parts: []step.Part{step.On("A", answer(step.Done(), nil)), step.On("B", answer(step.Done().Saying("12 objects"), nil))},
			want: v1alpha1.Conditions{
				condition("Ready", "True", "Done", "all conditions are met", now),
				condition("A", "True", "Done", "up to date", now),
				condition("B", "True", "Done", "12 objects", now),
			},
			events: []string{"Normal Ready all conditions are met"},
		},
		"NoSteps": {
			why:   "An object without work is ready.",
			parts: nil,
			want:  v1alpha1.Conditions{condition("Ready", "True", "Done", "all conditions are met", now)},

			events: []string{"Normal Ready all conditions are met"},
		},
		"WaitHoldsLaterSteps": {
			why: "What was not looked at is not claimed, even if it was true before.",
			stored: v1alpha1.Conditions{
				condition("Ready", "True", "Done", "all conditions are met", earlier),
				condition("A", "True", "Done", "up to date", earlier),
				condition("B", "True", "Done", "up to date", earlier),
			},
			parts: []step.Part{
				step.On("A", answer(step.Wait("NotThere", "%s is not there", "x").LookAgain(time.Minute), nil)),
				step.On("B", answer(step.Done().LookAgain(time.Second), nil)),
			},
			want: v1alpha1.Conditions{
				condition("Ready", "False", "NotThere", "x is not there", now),
				condition("A", "False", "NotThere", "x is not there", now),
				condition("B", "Unknown", "Waiting", "waiting for A", now),
			},
			result: ctrl.Result{RequeueAfter: time.Minute},
			events: []string{"Normal NotThere x is not there"},
		},
		"TransitionTimeOnlyOnChange": {
			why:    "A new reason for the same status is no transition in time, but worth an event.",
			stored: v1alpha1.Conditions{condition("Ready", "False", "Early", "early", earlier), condition("A", "False", "Early", "early", earlier)},
			parts:  []step.Part{step.On("A", answer(step.Wait("Late", "late"), nil))},
			want:   v1alpha1.Conditions{condition("Ready", "False", "Late", "late", earlier), condition("A", "False", "Late", "late", earlier)},
			events: []string{"Normal Late late"},
		},
		"NewMessageIsNoEvent": {
			stored: v1alpha1.Conditions{condition("Ready", "False", "Slow", "3 of 5", earlier), condition("A", "False", "Slow", "3 of 5", earlier)},
			parts:  []step.Part{step.On("A", answer(step.Wait("Slow", "4 of 5"), nil))},
			want:   v1alpha1.Conditions{condition("Ready", "False", "Slow", "4 of 5", earlier), condition("A", "False", "Slow", "4 of 5", earlier)},
		},
		"StaleTypesGo": {
			why:    "The operator that ran here before left conditions that it never took back.",
			stored: v1alpha1.Conditions{{Type: "HelmChartFound", Status: "False", Severity: "Info", LastTransitionTime: earlier}, {Type: "A", Status: "True", LastTransitionTime: earlier}},
			parts:  []step.Part{step.On("A", answer(step.Done(), nil))},
			want:   v1alpha1.Conditions{condition("Ready", "True", "Done", "all conditions are met", now), condition("A", "True", "Done", "up to date", earlier)},
			// A had no reason.
			events: []string{"Normal Ready all conditions are met"},
		},
		"PanicIsAnError": {
			why: "A mistake of ours that one object brings to light is told there, and tried again like everything else.",
			parts: []step.Part{
				step.Beside("Beside", func(context.Context) (step.Outcome, error) { panic("secret") }),
				step.On("A", func(context.Context) (step.Outcome, error) { panic(errors.New("secret")) }),
			},
			want: v1alpha1.Conditions{
				condition("Ready", "False", "InternalError", "a fault in the operator itself; its log has the details, which are worth a report", now),
				condition("Beside", "False", "InternalError", "a fault in the operator itself; its log has the details, which are worth a report", now),
				condition("A", "False", "InternalError", "a fault in the operator itself; its log has the details, which are worth a report", now),
			},
			wantErr: "a fault in the operator itself",
			events: []string{
				"Warning InternalError a fault in the operator itself; its log has the details, which are worth a report",
			},
		},
		"ErrorIsRetried": {
			parts: []step.Part{step.On("A", answer(step.Outcome{}, errors.New("no route"))), step.On("B", answer(step.Done(), nil))},
			want: v1alpha1.Conditions{
				condition("Ready", "False", "InternalError", "no route", now),
				condition("A", "False", "InternalError", "no route", now),
				condition("B", "Unknown", "Waiting", "waiting for A", now),
			},
			wantErr: "A: no route",
			events:  []string{"Warning InternalError no route"},
		},
		"BecauseGivesTheReason": {
			parts:   []step.Part{step.On("A", answer(step.Outcome{}, fmt.Errorf("open: %w", step.Because("FetchFailed", errors.New("no route")))))},
			want:    v1alpha1.Conditions{condition("Ready", "False", "FetchFailed", "open: no route", now), condition("A", "False", "FetchFailed", "open: no route", now)},
			wantErr: "A: open: no route",
			events:  []string{"Warning FetchFailed open: no route"},
		},
		"PermanentErrorIsNotRetried": {
			parts:    []step.Part{step.On("A", answer(step.Outcome{}, step.Because("Bad", fmt.Errorf("open: %w", broken{}))))},
			want:     v1alpha1.Conditions{condition("Ready", "False", "Bad", "open: malformed", now), condition("A", "False", "Bad", "open: malformed", now)},
			wantErr:  "malformed",
			terminal: true,
			events:   []string{"Warning Bad open: malformed"},
		},
		"PermanentErrorThatLooksAgain": {
			why:    "The input may change in a place that cannot be watched.",
			parts:  []step.Part{step.On("A", answer(step.Outcome{}.LookAgain(time.Minute), broken{}))},
			want:   v1alpha1.Conditions{condition("Ready", "False", "InternalError", "malformed", now), condition("A", "False", "InternalError", "malformed", now)},
			result: ctrl.Result{RequeueAfter: time.Minute},
			events: []string{"Warning InternalError malformed"},
		},
		"PermanentAndTransientAreRetried": {
			parts:   []step.Part{step.On("A", answer(step.Outcome{}, errors.Join(broken{}, errors.New("no route"))))},
			want:    v1alpha1.Conditions{condition("Ready", "False", "InternalError", "malformed no route", now), condition("A", "False", "InternalError", "malformed no route", now)},
			wantErr: "no route",
			events:  []string{"Warning InternalError malformed no route"},
		},
		"BesideHoldsNothing": {
			why: "An object that has what it needs stays ready when it cannot learn of more.",
			parts: []step.Part{
				step.Beside("A", answer(step.Wait("SourceDown", "no answer").LookAgain(time.Minute), nil)),
				step.On("B", answer(step.Done().LookAgain(time.Hour), nil)),
			},
			want: v1alpha1.Conditions{
				condition("Ready", "True", "Done", "all conditions are met", now),
				condition("A", "False", "SourceDown", "no answer", now),
				condition("B", "True", "Done", "up to date", now),
			},
			result: ctrl.Result{RequeueAfter: time.Minute},
			events: []string{"Normal Ready all conditions are met", "Normal SourceDown no answer"},
		},
		"OneFactIsToldOnce": {
			why: "The condition of a stage and the application of the addons wait for the same object.",
			parts: []step.Part{
				step.Beside("A", answer(step.Wait("NotThere", "x is not there"), nil)),
				step.On("B", answer(step.Wait("NotThere", "x is not there"), nil)),
			},
			want: v1alpha1.Conditions{
				condition("Ready", "False", "NotThere", "x is not there", now),
				condition("A", "False", "NotThere", "x is not there", now),
				condition("B", "False", "NotThere", "x is not there", now),
			},
			events: []string{"Normal NotThere x is not there"},
		},
		"BesideIsRetriedAllTheSame": {
			parts: []step.Part{step.Beside("A", answer(step.Outcome{}, errors.New("no route"))), step.On("B", answer(step.Done(), nil))},
			want: v1alpha1.Conditions{
				condition("Ready", "True", "Done", "all conditions are met", now),
				condition("A", "False", "InternalError", "no route", now),
				condition("B", "True", "Done", "up to date", now),
			},
			wantErr: "A: no route",
			events:  []string{"Normal Ready all conditions are met", "Warning InternalError no route"},
		},
		"NoAnswerIsAnError": {
			why:     "A step that forgot to answer must not count as done.",
			parts:   []step.Part{step.On("A", answer(step.Outcome{}, nil))},
			want:    v1alpha1.Conditions{condition("Ready", "False", "InternalError", "step A neither finished, nor waited, nor failed", now), condition("A", "False", "InternalError", "step A neither finished, nor waited, nor failed", now)},
			wantErr: "neither finished",
			events:  []string{"Warning InternalError step A neither finished, nor waited, nor failed"},
		},
		"FieldConflictIsAnError": {
			why:     "A field of another manager does not come free by starting again.",
			parts:   []step.Part{step.On("A", answer(step.Outcome{}, fieldConflict()))},
			want:    v1alpha1.Conditions{condition("Ready", "False", "InternalError", "conflict", now), condition("A", "False", "InternalError", "conflict", now)},
			wantErr: "A: conflict",
			events:  []string{"Warning InternalError conflict"},
		},
		"StaleViewStartsAgain": {
			why:    "That somebody else wrote first is nothing to tell a user.",
			stored: v1alpha1.Conditions{condition("Ready", "True", "Done", "all conditions are met", earlier)},
			parts:  []step.Part{step.On("A", answer(step.Outcome{}, fmt.Errorf("write: %w", apierrors.NewConflict(v1alpha1.GroupVersion.WithResource("x").GroupResource(), "x", errors.New("changed")))))},
			want:   v1alpha1.Conditions{condition("Ready", "True", "Done", "all conditions are met", earlier)},
			result: ctrl.Result{RequeueAfter: time.Second},
		},
		"NamespaceIsDeleted": {
			why:    "What cannot be made because everything goes is no fault, and nobody is left to be told.",
			stored: v1alpha1.Conditions{condition("Ready", "True", "Done", "all conditions are met", earlier)},
			parts:  []step.Part{step.On("A", answer(step.Outcome{}, step.Because("FailedToCreateOrUpdate", errors.Join(fmt.Errorf("create: %w", namespaceTerminating())))))},
			want:   v1alpha1.Conditions{condition("Ready", "True", "Done", "all conditions are met", earlier)},
			result: ctrl.Result{RequeueAfter: 10 * time.Second},
		},
		"MessagesAreBoundedAndPrintable": {
			why:   "Their text may come from a cluster or a release that nobody trusts.",
			parts: []step.Part{step.On("A", answer(step.Wait("Long", "a\nb\x1b[31m%s", strings.Repeat("ä", 2000)), nil))},
			want: v1alpha1.Conditions{
				condition("Ready", "False", "Long", "a b[31m"+strings.Repeat("ä", 506)+" …", now),
				condition("A", "False", "Long", "a b[31m"+strings.Repeat("ä", 506)+" …", now),
			},
			events: []string{"Normal Long a b[31m" + strings.Repeat("ä", 506) + " …"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			stack := create(t, c, tc.stored)
			recorder := &recorder{}
			parts := append([]step.Part{step.Clock(testclock.NewFakePassiveClock(noon)), step.Tell(recorder)}, tc.parts...)

			result, err := step.Run(ctx, c, stack, parts...)
			if got := fmt.Sprint(err); (err != nil) != (tc.wantErr != "") || !strings.Contains(got, tc.wantErr) {
				t.Errorf("Run: error %v, want %q", err, tc.wantErr)
			}
			if got := errors.Is(err, reconcile.TerminalError(nil)); got != tc.terminal {
				t.Errorf("the error is terminal: %v, want %v", got, tc.terminal)
			}
			if diff := cmp.Diff(tc.result, result); diff != "" {
				t.Errorf("result (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.events, recorder.events); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
			stored := get(t, c, stack)
			if diff := cmp.Diff(tc.want, stored.Status.Conditions, cmpopts.EquateApproxTime(0)); diff != "" {
				t.Errorf("conditions (-want +got):\n%s", diff)
			}

			// The same answers once more are nothing new.
			recorder.events = nil
			if _, err := step.Run(ctx, c, get(t, c, stack), parts...); (err != nil) != (tc.wantErr != "") {
				t.Errorf("second Run: %v", err)
			}
			if again := get(t, c, stack); again.ResourceVersion != stored.ResourceVersion {
				t.Errorf("at rest the object was written again: %s", cmp.Diff(stored, again))
			}
			if len(recorder.events) > 0 {
				t.Errorf("at rest there were events: %q", recorder.events)
			}
		})
	}
}

// namespaceTerminating is what an API server answers to whoever makes something in a namespace that is being deleted.
func namespaceTerminating() error {
	err := apierrors.NewForbidden(v1alpha1.GroupVersion.WithResource("x").GroupResource(), "x", errors.New("the namespace is being terminated"))
	err.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: corev1.NamespaceTerminatingCause}}
	return err
}

func TestRunWritesStatusOfSteps(t *testing.T) {
	c := kinds.Client(t, sandboxtest.APIServer(t))
	stack := create(t, c, nil)
	_, err := step.Run(t.Context(), c, stack, step.Begin(func() { stack.Status.ObservedGeneration = 7 }), step.On("A", func(ctx context.Context) (step.Outcome, error) {
		stack.Status.UsableVersions = "v1"
		// A patch of something else in between must neither lose nor need the status.
		err := step.Patch(ctx, c, stack, func() { stack.Annotations = map[string]string{"a": "b"} })
		stack.Status.LatestRelease = "v1 | v1.35.4"
		return step.Done(), err
	}))
	if err != nil {
		t.Fatal(err)
	}
	got := get(t, c, stack)
	if got.Status.UsableVersions != "v1" || got.Status.LatestRelease != "v1 | v1.35.4" || got.Annotations["a"] != "b" || got.Status.ObservedGeneration != 7 {
		t.Errorf("stored: annotations %v, status %+v", got.Annotations, got.Status)
	}
	if got.ResourceVersion != stack.ResourceVersion {
		t.Error("the object in memory is not the one that is stored")
	}
}

func TestRunDoesNotOverwriteOthers(t *testing.T) {
	c := kinds.Client(t, sandboxtest.APIServer(t))
	stack := create(t, c, nil)
	other := get(t, c, stack)
	other.Status.UsableVersions = "v2"
	if err := c.Status().Update(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	recorder := &recorder{}
	result, err := step.Run(t.Context(), c, stack, step.Tell(recorder), step.On("A", answer(step.Done(), nil)))
	if err != nil || result.RequeueAfter == 0 {
		t.Errorf("Run on an old state: %v, %v, want another run", result, err)
	}
	if len(recorder.events) > 0 {
		t.Errorf("told before it was written: %q", recorder.events)
	}
	if got := get(t, c, stack); got.Status.UsableVersions != "v2" || len(got.Status.Conditions) > 0 {
		t.Errorf("overwrote what somebody else wrote: %+v", got.Status)
	}
}

// A status that was not written is retried even if all steps agree that retrying is useless.
func TestRunRetriesLostStatus(t *testing.T) {
	c := kinds.Client(t, sandboxtest.APIServer(t))
	stack := create(t, c, nil)
	failing := interceptor.NewClient(c, interceptor.Funcs{
		SubResourcePatch: func(context.Context, client.Client, string, client.Object, client.Patch, ...client.SubResourcePatchOption) error {
			return apierrors.NewInternalError(errors.New("no space left"))
		},
	})
	_, err := step.Run(t.Context(), failing, stack, step.On("A", answer(step.Outcome{}, broken{})))
	if err == nil || errors.Is(err, reconcile.TerminalError(nil)) || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("Run: %v, want an error that is retried and names the write", err)
	}
}

func TestRunWhileBeingStopped(t *testing.T) {
	c := kinds.Client(t, sandboxtest.APIServer(t))
	stack := create(t, c, nil)
	ctx, stop := context.WithCancel(t.Context())
	_, err := step.Run(ctx, c, stack, step.On("A", func(ctx context.Context) (step.Outcome, error) {
		stop()
		return step.Outcome{}, ctx.Err()
	}))
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Run: %v", err)
	}
	if got := get(t, c, stack); len(got.Status.Conditions) > 0 {
		t.Errorf("being stopped was reported as a state: %+v", got.Status.Conditions)
	}
}

func TestRunOnDeletion(t *testing.T) {
	c := kinds.Client(t, sandboxtest.APIServer(t))
	ctx := t.Context()
	stack := create(t, c, nil)
	if err := step.Patch(ctx, c, stack, func() { stack.Finalizers = []string{"example.com/hold"} }); err != nil {
		t.Fatal(err)
	}
	if err := c.Delete(ctx, stack); err != nil {
		t.Fatal(err)
	}
	stack = get(t, c, stack)
	if _, err := step.Run(ctx, c, stack, step.On("A", answer(step.Done(), nil))); err != nil {
		t.Fatal(err)
	}
	if ready := get(t, c, stack).Status.Conditions.Get("Ready"); ready == nil || ready.Status != "False" || ready.Reason != v1alpha1.DeletingReason {
		t.Errorf("Ready of an object that others hold: %+v", ready)
	}
	if _, err := step.Run(ctx, c, stack, step.On("A", func(ctx context.Context) (step.Outcome, error) {
		return step.Done(), step.Patch(ctx, c, stack, func() { stack.Finalizers = nil })
	})); err != nil {
		t.Errorf("Run that lets the object go: %v", err)
	}
	if err := c.Get(ctx, client.ObjectKeyFromObject(stack), stack); !apierrors.IsNotFound(err) {
		t.Errorf("the object is still there: %v", err)
	}
}

func TestTellAlso(t *testing.T) {
	c := kinds.Client(t, sandboxtest.APIServer(t))
	stack := create(t, c, nil)
	owner := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: "owner"}}
	recorder := &recorder{names: true}
	if _, err := step.Run(t.Context(), c, stack, step.Tell(recorder, owner), step.On("A", answer(step.Wait("Why", "because"), nil))); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{stack.Name + ": Normal Why because", "owner: Normal Why because"}, recorder.events); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

func TestPermanent(t *testing.T) {
	transient := errors.New("no route")
	for name, tc := range map[string]struct {
		err  error
		want bool
	}{
		"Nil":             {nil, false},
		"Plain":           {transient, false},
		"Itself":          {broken{}, true},
		"Wrapped":         {fmt.Errorf("open: %w", broken{}), true},
		"JoinedAll":       {errors.Join(broken{}, broken{}), true},
		"JoinedWithOther": {fmt.Errorf("all: %w", errors.Join(broken{}, transient)), false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := step.Permanent(tc.err); got != tc.want {
				t.Errorf("Permanent(%v) = %v", tc.err, got)
			}
		})
	}
}

func fieldConflict() error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Reason: metav1.StatusReasonConflict, Message: "conflict",
		Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{Type: metav1.CauseTypeFieldManagerConflict}}},
	}}
}

// recorder keeps events as text.
type recorder struct {
	events []string
	// names puts the name of the object before each.
	names bool
}

func (r *recorder) Eventf(regarding, _ runtime.Object, kind, reason, _, note string, args ...any) {
	text := kind + " " + reason + " " + fmt.Sprintf(note, args...)
	if r.names {
		text = regarding.(metav1.Object).GetName() + ": " + text
	}
	r.events = append(r.events, text)
}

func create(t *testing.T, c client.Client, stored v1alpha1.Conditions) *v1alpha1.ClusterStack {
	t.Helper()
	stack := &v1alpha1.ClusterStack{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "test-", Namespace: "default"},
		Spec:       v1alpha1.ClusterStackSpec{Provider: "docker", Name: "starter", KubernetesVersion: "1.35", NoProvider: true},
	}
	if err := c.Create(t.Context(), stack); err != nil {
		t.Fatal(err)
	}
	if stored != nil {
		stack.Status.Conditions = stored
		if err := c.Status().Update(t.Context(), stack); err != nil {
			t.Fatal(err)
		}
	}
	return stack
}

func get(t *testing.T, c client.Client, stack *v1alpha1.ClusterStack) *v1alpha1.ClusterStack {
	t.Helper()
	got := &v1alpha1.ClusterStack{}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(stack), got); err != nil {
		t.Fatal(err)
	}
	return got
}
