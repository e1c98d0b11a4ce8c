// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package observe

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
)

// Unhealthy is an object that is not as its spec wants it, yet or any more.
type Unhealthy struct {
	Object
	// Status is kstatus' word: InProgress, Failed, Terminating, Unknown or NotFound.
	Status string
	// Message says why, in one line.
	Message string
}

// Health tells which of the objects are not healthy, by the rules of kstatus, in
// the order of [Object.Compare]. None means that all are.
func Health(ctx context.Context, r Reader, objects ...Object) ([]Unhealthy, error) {
	var unhealthy []Unhealthy
	for _, o := range objects {
		u, err := health(ctx, r, o)
		if err != nil {
			return nil, err
		}
		if u.Status != string(status.CurrentStatus) {
			unhealthy = append(unhealthy, u)
		}
	}
	slices.SortFunc(unhealthy, func(a, b Unhealthy) int { return a.Compare(b.Object) })
	return unhealthy, nil
}

func health(ctx context.Context, r Reader, o Object) (Unhealthy, error) {
	obj, err := r.Get(ctx, o.GroupVersionKind, o.Namespace, o.Name)
	if absent(err) {
		return Unhealthy{Object: o, Status: string(status.NotFoundStatus), Message: "it does not exist"}, nil
	}
	if err != nil {
		return Unhealthy{}, fmt.Errorf("read %s: %w", o, err)
	}
	result, err := status.Compute(obj)
	if err != nil {
		// A status of an unexpected shape: the object's fault, not that of the request.
		return Unhealthy{Object: o, Status: string(status.UnknownStatus), Message: "its status cannot be understood"}, nil
	}
	return Unhealthy{Object: o, Status: string(result.Status), Message: oneLine(result.Message)}, nil
}

// maxMessage bounds what a cluster can put into a message, in bytes.
const maxMessage = 256

// oneLine makes foreign text fit for a status: one line, printable, bounded.
func oneLine(s string) string {
	s = strings.Join(strings.FieldsFunc(strings.ToValidUTF8(s, "?"), func(r rune) bool { return r <= ' ' || r == 0x7f }), " ")
	if len(s) > maxMessage {
		s = strings.ToValidUTF8(s[:maxMessage], "") + "…"
	}
	return s
}
