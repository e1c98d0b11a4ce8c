// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package step

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/go-logr/logr/funcr"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/clusterstacks/cluster-stack-operator/internal/panicked"
)

// The status says that the log has the details of a defect.
func TestTheLogSaysWhereAGoroutinePanicked(t *testing.T) {
	var log strings.Builder
	ctx := ctrl.LoggerInto(t.Context(), funcr.New(func(_, args string) { log.WriteString(args + "\n") }, funcr.Options{}))
	Trace(ctx, "Ready", nil)
	Trace(ctx, "Ready", errors.New("an error"))
	if log.Len() > 0 {
		t.Fatalf("an ordinary error is logged as a panic: %s", log.String())
	}
	Trace(ctx, "Ready", fmt.Errorf("stage cni: %w", &panicked.Error{Value: "hunter2", Stack: []byte("apply.go:467")}))
	if !strings.Contains(log.String(), "apply.go:467") || strings.Contains(log.String(), "hunter2") {
		t.Errorf("the log is %s", log.String())
	}
}
