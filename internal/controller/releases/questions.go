// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package releases

import (
	"context"
	"math"
	"time"

	"github.com/clusterstacks/cluster-stack-operator/internal/fair"
)

// questions bounds how many questions sources are asked at a time, beside what is fetched from them: each takes a connection
// and memory, and whoever writes many ClusterStacks chooses how long they take. A namespace whose sources do not answer keeps
// no other one waiting.
type questions struct {
	// ofOne is for each source of a namespace, so that one that hangs does not take all turns of the others there.
	ofOne *fair.Queue
	// small are about one release.
	small *fair.Queue
	// lists are about all releases of a source. One that has not answered the last time waits in doubtful, where it keeps
	// none waiting that does answer.
	lists, doubtful *fair.Queue
}

// offerTimeout is enough for one small request. A source that hangs shall not hold up what the store has.
const offerTimeout = 5 * time.Second

func newQuestions() *questions {
	// A list may take minutes, and each source is asked for one at a time.
	lists := fair.Limits{All: 64, One: 16, First: 128}
	return &questions{
		ofOne:    fair.New(fair.Limits{All: math.MaxInt, One: 2}),
		small:    fair.New(fair.Limits{All: 16, One: 4, First: 32}),
		lists:    fair.New(lists),
		doubtful: fair.New(lists),
	}
}

// wait waits for the turn of a small question to the source of an origin. The function that it returns ends it.
func (q *questions) wait(ctx context.Context, o Origin) (done func(), err error) {
	tenant := ""
	if o.Stack != nil {
		tenant = o.Stack.Namespace
	}
	again, err := q.ofOne.Wait(ctx, fair.For(tenant+" "+o.settings))
	if err != nil {
		return nil, err
	}
	others, err := q.small.Wait(ctx, fair.For(tenant))
	if err != nil {
		again()
		return nil, err
	}
	return func() {
		others()
		again()
	}, nil
}
