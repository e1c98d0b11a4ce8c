// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"errors"
	"fmt"
	"os"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/controller/releases"
	"github.com/clusterstacks/cluster-stack-operator/internal/verify"
)

// +kubebuilder:rbac:groups="",resources=configmaps,verbs=get

// rules returns whose signatures releases must have. The reader reads ConfigMaps past any cache.
func (c *Config) rules(reader client.Reader) (*releases.Rules, error) {
	rules := &releases.Rules{ConfigMap: func(ctx context.Context, key client.ObjectKey) (*corev1.ConfigMap, error) {
		obj := &corev1.ConfigMap{}
		return obj, reader.Get(ctx, key, obj)
	}}
	if c.VerifyTrustedRoot != "" {
		text, err := os.ReadFile(c.VerifyTrustedRoot)
		if err != nil {
			return nil, fmt.Errorf("--verify-trusted-root: %w", err)
		}
		rules.Config.TrustedRoot = text
	}
	if c.VerifyPolicy == "" {
		return rules, nil
	}
	text, err := os.ReadFile(c.VerifyPolicy)
	if err != nil {
		return nil, fmt.Errorf("--verify-policy: %w", err)
	}
	var policy v1alpha1.Verification
	if err := yaml.UnmarshalStrict(text, &policy); err != nil {
		return nil, fmt.Errorf("--verify-policy=%s: %w", c.VerifyPolicy, err)
	}
	if policy.TrustedRootRef != nil {
		return nil, fmt.Errorf("--verify-policy=%s: %w", c.VerifyPolicy, errors.New("trustedRootRef is for ClusterStacks; use --verify-trusted-root"))
	}
	rules.Required = policy.Required == nil || *policy.Required
	rules.Config.PublicKeys = policy.PublicKeys
	for _, i := range policy.Identities {
		rules.Config.Identities = append(rules.Config.Identities, verify.Identity{Issuer: i.Issuer, IssuerRegExp: i.IssuerRegExp, Subject: i.Subject, SubjectRegExp: i.SubjectRegExp})
	}
	// What cannot work is said now, and not by the first release.
	if _, err := verify.NewPolicy(rules.Config); err != nil {
		return nil, fmt.Errorf("--verify-policy=%s: %w", c.VerifyPolicy, err)
	}
	return rules, nil
}
