// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package step

import (
	"errors"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
)

// Because gives an error the reason, a word in CamelCase, under which the condition of its step shows
// it. A nil error stays nil. The outermost reason of an error counts.
func Because(reason string, err error) error {
	if err == nil {
		return nil
	}
	return &reasonError{reason: reason, err: err}
}

type reasonError struct {
	reason string
	err    error
}

func (e *reasonError) Error() string { return e.err.Error() }
func (e *reasonError) Unwrap() error { return e.err }

// reasonOf returns the reason that Because gave to an error.
func reasonOf(err error) string {
	var r *reasonError
	if errors.As(err, &r) {
		return r.reason
	}
	return v1alpha1.InternalErrorReason
}

// Permanent tells whether only a changed input can cure an error, so that retrying is useless: an
// error of its chain has a method Permanent that answers true. Errors that were joined are permanent
// when all of them are.
func Permanent(err error) bool {
	for err != nil {
		if p, ok := err.(interface{ Permanent() bool }); ok {
			return p.Permanent()
		}
		switch e := err.(type) { //nolint:errorlint // each link of the chain is asked on its own
		case interface{ Unwrap() error }:
			err = e.Unwrap()
		case interface{ Unwrap() []error }:
			joined := e.Unwrap()
			for _, one := range joined {
				if !Permanent(one) {
					return false
				}
			}
			return len(joined) > 0
		default:
			return false
		}
	}
	return false
}

// stale tells whether an error says that what we read was changed by somebody else before we wrote.
// A field that belongs to another manager is the same answer of the API server, but does not go away
// by starting again.
func stale(err error) bool {
	return apierrors.IsConflict(err) && !apierrors.HasStatusCause(err, metav1.CauseTypeFieldManagerConflict)
}

func terminal(err error) error { return reconcile.TerminalError(err) }
