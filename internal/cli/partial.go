// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"strings"
)

// partialError collects what went wrong with some of many releases, of which the others went well.
type partialError struct {
	// what says what became of them, behind "2 of 5 releases were".
	what string
	of   int

	count int
	errs  []error
}

// add takes the errors of one release.
func (f *partialError) add(errs ...error) {
	if len(errs) > 0 {
		f.count++
		f.errs = append(f.errs, errs...)
	}
}

// err returns nil when nothing has failed. Of a single release it returns what there is to say about that.
func (f *partialError) err() error {
	switch {
	case f.count == 0:
		return nil
	case f.of == 1:
		return errors.Join(f.errs...)
	}
	return f
}

// Error has a line for each error, so that it can be seen what was affected.
func (f *partialError) Error() string {
	text := &strings.Builder{}
	_, _ = fmt.Fprintf(text, "%d of %d releases %s:", f.count, f.of, f.what) // a Builder takes everything
	for _, err := range f.errs {
		_, _ = fmt.Fprintf(text, "\n  %s", strings.ReplaceAll(err.Error(), "\n", "\n  ")) // likewise
	}
	return text.String()
}

// Unwrap returns all that has failed.
func (f *partialError) Unwrap() []error { return f.errs }
