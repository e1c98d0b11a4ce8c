// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package step

import (
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
)

// conditions returns the whole list that follows from the results of a run. Times of transition are
// taken over from the stored list where the status did not change. The generation is that of the object as
// the run left it: nobody else has changed the spec by then, or the status is not written.
func conditions(stored Object, generation int64, results []result, now time.Time) v1alpha1.Conditions {
	ready := v1alpha1.Condition{
		Type:    v1alpha1.ReadyCondition,
		Status:  metav1.ConditionTrue,
		Reason:  v1alpha1.DoneReason,
		Message: "all conditions are met",
	}
	if !stored.GetDeletionTimestamp().IsZero() {
		ready.Status, ready.Reason, ready.Message = metav1.ConditionFalse, v1alpha1.DeletingReason, "being deleted"
	}
	list := make(v1alpha1.Conditions, 1, len(results)+1)
	blocker := ""
	for _, r := range results {
		c := condition(r, blocker)
		list = append(list, c)
		if blocker == "" && !r.beside && c.Status != metav1.ConditionTrue {
			blocker = c.Type
			ready.Status, ready.Reason, ready.Message = metav1.ConditionFalse, c.Reason, c.Message
		}
	}
	list[0] = ready

	before := byType(stored.GetConditions())
	for i := range list {
		c := &list[i]
		c.ObservedGeneration = generation
		c.LastTransitionTime = metav1.NewTime(now.Truncate(time.Second))
		if old, ok := before[c.Type]; ok && old.Status == c.Status && !old.LastTransitionTime.IsZero() {
			c.LastTransitionTime = old.LastTransitionTime
		}
	}
	return list
}

// condition words the result of one step.
func condition(r result, blocker string) v1alpha1.Condition {
	c := v1alpha1.Condition{Type: r.condition, Status: metav1.ConditionFalse}
	switch {
	case !r.reached:
		c.Status, c.Reason, c.Message = metav1.ConditionUnknown, v1alpha1.WaitingReason, "waiting for "+blocker
	case r.err != nil:
		c.Reason, c.Message = reasonOf(r.err), clean(r.err.Error())
	default:
		c.Reason, c.Message = r.outcome.reason, clean(r.outcome.message)
		if r.outcome.answer == done {
			c.Status = metav1.ConditionTrue
		}
	}
	return c
}

// transitions returns the conditions whose status or reason is another than before. A changed message
// is no transition.
func transitions(before, after v1alpha1.Conditions) v1alpha1.Conditions {
	old := byType(before)
	var changed v1alpha1.Conditions
	for _, c := range after {
		if was, ok := old[c.Type]; !ok || was.Status != c.Status || was.Reason != c.Reason {
			changed = append(changed, c)
		}
	}
	return changed
}

func byType(list v1alpha1.Conditions) map[string]v1alpha1.Condition {
	m := make(map[string]v1alpha1.Condition, len(list))
	for _, c := range list {
		m[c.Type] = c
	}
	return m
}

// messageLimit is what an event may carry, in bytes; a condition gets no more.
const messageLimit = 1024

// clean makes text of foreign origin fit for a status and an event: one line, printable, bounded.
func clean(text string) string {
	text = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsPrint(r):
			return r
		case unicode.IsSpace(r):
			return ' '
		}
		return -1
	}, strings.ToValidUTF8(text, "?"))
	if len(text) <= messageLimit {
		return text
	}
	const cut = " …"
	end := messageLimit - len(cut)
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + cut
}
