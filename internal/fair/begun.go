// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package fair

import "context"

// OnTurn returns a context for something that waits for a turn: begun is called once it has one, by whoever does it, and
// not after that is over.
func OnTurn(ctx context.Context, begun func()) context.Context {
	return context.WithValue(ctx, begunKey{}, begun)
}

// Begun tells that what is done with ctx has its turn. Nobody need want to know.
func Begun(ctx context.Context) {
	if begun, ok := ctx.Value(begunKey{}).(func()); ok {
		begun()
	}
}

type begunKey struct{}
