// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package panicked makes errors of panics.
//
// A panic in a goroutine that nobody recovers from ends the process, and with it the work for everybody else. So each
// goroutine of the operator that works on what others made, or calls a library that does, ends with Into. Whoever gets the
// error decides what follows; package step logs where it comes from.
package panicked

import "runtime/debug"

// Error is a defect, of ours or of a library, that came to light with what one source or cluster said.
type Error struct {
	// Value is what there was a panic with. It may be anything, a secret too.
	Value any
	// Stack is for the log.
	Stack []byte
}

func (e *Error) Error() string {
	return "a defect of the operator; please report what its log says about it"
}

// Panicked returns what there was a panic with, and where.
func (e *Error) Panicked() (with any, stack []byte) { return e.Value, e.Stack }

// Into makes a panic the error that a function returns: an *Error. It has to be deferred as it is:
//
//	defer panicked.Into(&err)
func Into(err *error) {
	if cause := recover(); cause != nil {
		*err = &Error{Value: cause, Stack: debug.Stack()}
	}
}
