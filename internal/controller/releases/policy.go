// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package releases

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/verify"
)

// TrustedRootKey is the key of a ConfigMap that has a trusted root.
const TrustedRootKey = "trusted_root.json"

// Rules say whose signatures releases must have.
type Rules struct {
	// Config is what the administrator of the operator trusts. It counts where a ClusterStack names nobody, and
	// everywhere if it is required.
	Config verify.Config
	// Required refuses releases without a signature, whatever their ClusterStacks say.
	Required bool
	// ConfigMap reads a ConfigMap, past any cache.
	ConfigMap func(ctx context.Context, key client.ObjectKey) (*corev1.ConfigMap, error)

	mu    sync.Mutex
	known map[[sha256.Size]byte]*verify.Policy
}

// maxPolicies bounds how many policies are remembered: each has a trusted root parsed.
const maxPolicies = 64

// Policy returns the policy for the releases of a ClusterStack, which may be nil, and whether it is optional. The
// policy is nil when nobody asks for signatures. What the administrator requires no ClusterStack can replace: what it
// demands is demanded beside it.
func (r *Rules) Policy(ctx context.Context, stack *v1alpha1.ClusterStack) (policy *verify.Policy, optional bool, err error) {
	if stack == nil || stack.Spec.Verify == nil {
		if len(r.Config.PublicKeys)+len(r.Config.Identities) == 0 && !r.Required {
			return nil, false, nil
		}
		policy, err = r.policy("the operator", r.Config)
		return policy, !r.Required, err
	}
	who, spec := "spec.verify of ClusterStack "+stack.Name, stack.Spec.Verify
	config, required := r.Config, spec.Required == nil || *spec.Required
	if len(spec.PublicKeys)+len(spec.Identities) > 0 {
		config.PublicKeys, config.Identities = spec.PublicKeys, identities(spec.Identities)
	}
	if spec.TrustedRootRef != nil {
		if config.TrustedRoot, err = r.trustedRoot(ctx, client.ObjectKey{Namespace: stack.Namespace, Name: spec.TrustedRootRef.Name}); err != nil {
			return nil, false, fmt.Errorf("%s: trustedRootRef: %w", who, err)
		}
	}
	switch {
	case r.Required && !required:
		policy, err = r.policy("the operator", r.Config)
	case r.Required:
		policy, err = r.policy(who, r.Config, config)
	default:
		policy, err = r.policy(who, config)
	}
	return policy, !r.Required && !required, err
}

func identities(spec []v1alpha1.CertificateIdentity) []verify.Identity {
	all := make([]verify.Identity, len(spec))
	for i, s := range spec {
		all[i] = verify.Identity{Issuer: s.Issuer, IssuerRegExp: s.IssuerRegExp, Subject: s.Subject, SubjectRegExp: s.SubjectRegExp}
	}
	return all
}

func (r *Rules) trustedRoot(ctx context.Context, key client.ObjectKey) ([]byte, error) {
	if r.ConfigMap == nil {
		return nil, errors.New("ConfigMaps cannot be read here")
	}
	obj, err := r.ConfigMap(ctx, key)
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("there is no ConfigMap %s in the namespace %s", key.Name, key.Namespace)
	}
	if err != nil {
		return nil, fmt.Errorf("get ConfigMap %s: %w", key.Name, err)
	}
	text, found := obj.Data[TrustedRootKey]
	if !found {
		return nil, fmt.Errorf("the ConfigMap %s has no key %s", key.Name, TrustedRootKey)
	}
	return []byte(text), nil
}

// policy returns the policy that demands what all the configurations of somebody do, parsed once.
func (r *Rules) policy(who string, configs ...verify.Config) (*verify.Policy, error) {
	text, err := json.Marshal(configs)
	if err != nil {
		return nil, err
	}
	id := sha256.Sum256(text)
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := r.known[id]; p != nil {
		return p, nil
	}
	var policy *verify.Policy
	for _, config := range configs {
		p, err := verify.NewPolicy(config)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", who, err)
		}
		policy = verify.Both(policy, p)
	}
	if r.known == nil || len(r.known) >= maxPolicies {
		r.known = map[[sha256.Size]byte]*verify.Policy{}
	}
	r.known[id] = policy
	return policy, nil
}
