// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controlplane

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// etcdClient speaks with the etcd of the given machines.
func (c *Cluster) etcdClient(ctx context.Context, machines ...Machine) (*clientv3.Client, error) {
	certificate, err := c.etcdClientCertificate()
	if err != nil {
		return nil, err
	}
	var endpoints []string
	for _, m := range machines {
		endpoints = append(endpoints, m.etcdURL())
	}
	return clientv3.New(clientv3.Config{
		Context:     ctx,
		Endpoints:   endpoints,
		DialTimeout: 5 * time.Second,
		TLS:         tlsConfig(c.Authorities.Etcd, certificate),
		Logger:      zap.NewNop(),
	})
}

// addLearner announces a machine to the etcd of the members and returns what the new etcd has to be told
// about the whole cluster.
func (c *Cluster) addLearner(ctx context.Context, m Machine, members []Machine) ([]string, error) {
	client, err := c.etcdClient(ctx, members...)
	if err != nil {
		return nil, err
	}
	defer client.Close()

	list, err := client.MemberList(ctx)
	if err != nil {
		return nil, fmt.Errorf("list etcd members: %w", err)
	}
	for _, stale := range staleMembers(list.Members, m, members) {
		if _, err := client.MemberRemove(ctx, stale.ID); err != nil {
			return nil, fmt.Errorf("remove etcd member of an earlier try: %w", err)
		}
	}
	added, err := client.MemberAddAsLearner(ctx, []string{m.peerURL()})
	if err != nil {
		return nil, fmt.Errorf("add etcd member: %w", err)
	}
	return initialCluster(added.Members, m), nil
}

// staleMembers are those of earlier tries, which are in the way of a machine that is about to join. It may have been
// announced itself, but without data it can only start anew. And etcd takes one learner at a time: one that is none
// of the members was announced for a machine that did not live to become one.
func staleMembers(list []*etcdserverpb.Member, joining Machine, members []Machine) []*etcdserverpb.Member {
	var stale []*etcdserverpb.Member
	for _, member := range list {
		known := slices.ContainsFunc(members, func(m Machine) bool { return slices.Contains(member.PeerURLs, m.peerURL()) })
		if slices.Contains(member.PeerURLs, joining.peerURL()) || member.IsLearner && !known {
			stale = append(stale, member)
		}
	}
	return stale
}

// Forget takes a machine that is to go out of the etcd of the members, if it is in there.
func (c *Cluster) Forget(ctx context.Context, m Machine, members []Machine) error {
	ctx, cancel := context.WithTimeoutCause(ctx, forgetTimeout, fmt.Errorf("no answer within %s", forgetTimeout))
	defer cancel()
	client, err := c.etcdClient(ctx, members...)
	if err != nil {
		return err
	}
	defer client.Close()
	list, err := client.MemberList(ctx)
	if err != nil {
		return fmt.Errorf("list etcd members: %w", err)
	}
	member := find(list.Members, m)
	if member == nil {
		return nil
	}
	if _, err := client.MemberRemove(ctx, member.ID); err != nil && !errors.Is(err, rpctypes.ErrMemberNotFound) {
		return fmt.Errorf("remove etcd member %s: %w", m.Name, err)
	}
	return nil
}

// initialCluster lists all members in the form of etcd's flag of that name. The new one has no name yet.
func initialCluster(members []*etcdserverpb.Member, added Machine) []string {
	var initial []string
	for _, member := range members {
		name := member.Name
		if slices.Contains(member.PeerURLs, added.peerURL()) {
			name = added.Name
		}
		for _, url := range member.PeerURLs {
			initial = append(initial, name+"="+url)
		}
	}
	slices.Sort(initial)
	return initial
}

func find(members []*etcdserverpb.Member, m Machine) *etcdserverpb.Member {
	i := slices.IndexFunc(members, func(member *etcdserverpb.Member) bool { return slices.Contains(member.PeerURLs, m.peerURL()) })
	if i < 0 {
		return nil
	}
	return members[i]
}

// promote makes a machine whose etcd answers a voting member, once it has caught up. The members have to run only if
// it is none.
func (c *Cluster) promote(ctx context.Context, m Machine, members []Machine) error {
	if learner, err := c.isLearner(ctx, m); err != nil || !learner {
		return err
	}
	client, err := c.etcdClient(ctx, members...)
	if err != nil {
		return err
	}
	defer client.Close()

	list, err := client.MemberList(ctx)
	if err != nil {
		return fmt.Errorf("list etcd members: %w", err)
	}
	member := find(list.Members, m)
	switch {
	case member == nil:
		return errors.New("its etcd was removed from the cluster")
	case !member.IsLearner:
		return nil
	}
	// etcd offers no event for a learner that has caught up: asking is the way it is meant.
	const interval = 100 * time.Millisecond
	for {
		_, err := client.MemberPromote(ctx, member.ID)
		switch {
		case err == nil, errors.Is(err, rpctypes.ErrMemberNotLearner):
			return nil
		case !errors.Is(err, rpctypes.ErrMemberLearnerNotReady):
			return fmt.Errorf("promote etcd member: %w", err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("promote etcd member: %w", errors.Join(context.Cause(ctx), err))
		case <-time.After(interval):
		}
	}
}

func (c *Cluster) isLearner(ctx context.Context, m Machine) (bool, error) {
	client, err := c.etcdClient(ctx, m)
	if err != nil {
		return false, err
	}
	defer client.Close()
	status, err := client.Status(ctx, m.etcdURL())
	if err != nil {
		return false, fmt.Errorf("ask etcd for its status: %w", err)
	}
	return status.IsLearner, nil
}
