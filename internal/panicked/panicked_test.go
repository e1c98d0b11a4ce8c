// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package panicked_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/clusterstacks/cluster-stack-operator/internal/panicked"
)

func TestPanicIsAnErrorThatTellsNothingButWhere(t *testing.T) {
	refused := errors.New("refused")
	for name, tc := range map[string]struct {
		do   func() error
		want error
	}{
		"Done":     {func() error { return nil }, nil},
		"AnError":  {func() error { return refused }, refused},
		"Panicked": {func() error { panic("hunter2") }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			err := func() (err error) {
				defer panicked.Into(&err)
				return tc.do()
			}()
			var panicked *panicked.Error
			if name != "Panicked" {
				if !errors.Is(err, tc.want) {
					t.Errorf("the error is %v, want %v", err, tc.want)
				}
				return
			}
			if !errors.As(err, &panicked) || strings.Contains(err.Error(), "hunter2") {
				t.Fatalf("the error is %v", err)
			}
			if with, stack := panicked.Panicked(); with != "hunter2" || !strings.Contains(string(stack), "panicked_test.go") {
				t.Errorf("with %v at %s", with, stack)
			}
		})
	}
}
