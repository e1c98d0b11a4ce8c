// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package releases_test

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/controller/releases"
	"github.com/clusterstacks/cluster-stack-operator/internal/verify"
	"github.com/clusterstacks/cluster-stack-operator/internal/verify/verifytest"
)

func TestWhoseSignatureIsWanted(t *testing.T) {
	yes, no := true, false
	admin, tenant := verifytest.NewKey(t), verifytest.NewKey(t)
	trustAdmin := verify.Config{PublicKeys: []string{admin.Public}}
	stack := func(v *v1alpha1.Verification) *v1alpha1.ClusterStack {
		s := &v1alpha1.ClusterStack{Spec: v1alpha1.ClusterStackSpec{Verify: v}}
		s.Name = "starter"
		return s
	}
	for name, tt := range map[string]struct {
		config   verify.Config
		required bool
		stack    *v1alpha1.ClusterStack
		signedBy *verifytest.Key // who counts; nil when nobody is asked for
		and      *verifytest.Key // who counts beside
		optional bool
		err      string
	}{
		"NobodyAsks":                    {stack: stack(nil)},
		"NoStack":                       {},
		"AdministratorAsks":             {config: trustAdmin, required: true, stack: stack(nil), signedBy: admin},
		"AdministratorWouldLikeToKnow":  {config: trustAdmin, stack: stack(nil), signedBy: admin, optional: true},
		"StackAsks":                     {stack: stack(&v1alpha1.Verification{PublicKeys: []string{tenant.Public}}), signedBy: tenant},
		"StackReplacesWhoCounts":        {config: trustAdmin, stack: stack(&v1alpha1.Verification{PublicKeys: []string{tenant.Public}}), signedBy: tenant},
		"StackAsksForTheAdministrators": {config: trustAdmin, stack: stack(&v1alpha1.Verification{Required: &yes}), signedBy: admin},
		"StackDoesNotInsist":            {stack: stack(&v1alpha1.Verification{Required: &no, PublicKeys: []string{tenant.Public}}), signedBy: tenant, optional: true},
		"StackCannotReplaceWhoIsRequired": {
			config: trustAdmin, required: true, stack: stack(&v1alpha1.Verification{PublicKeys: []string{tenant.Public}}), signedBy: admin, and: tenant,
		},
		"StackThatDoesNotInsistCannotEither": {
			config: trustAdmin, required: true, stack: stack(&v1alpha1.Verification{PublicKeys: []string{tenant.Public}, Required: &no}), signedBy: admin,
		},
		"StackCannotDropWhatIsRequired": {config: trustAdmin, required: true, stack: stack(&v1alpha1.Verification{Required: &no}), signedBy: admin},
		"NobodyCounts":                  {stack: stack(&v1alpha1.Verification{}), err: "spec.verify of ClusterStack starter: neither a public key nor an identity"},
		"RequiredButNobodyCounts":       {required: true, stack: stack(nil), err: "the operator: neither"},
		"RootIsNotThere":                {stack: stack(&v1alpha1.Verification{TrustedRootRef: &v1alpha1.LocalReference{Name: "root"}}), err: "there is no ConfigMap root"},
	} {
		t.Run(name, func(t *testing.T) {
			rules := &releases.Rules{Config: tt.config, Required: tt.required, ConfigMap: func(_ context.Context, key client.ObjectKey) (*corev1.ConfigMap, error) {
				return nil, apierrors.NewNotFound(corev1.Resource("configmaps"), key.Name)
			}}
			policy, optional, err := rules.Policy(t.Context(), tt.stack)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("got %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil || optional != tt.optional || (policy == nil) != (tt.signedBy == nil) {
				t.Fatalf("got %v, optional %t, %v", policy, optional, err)
			}
			if policy == nil {
				return
			}
			const digest = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
			signatures := []verify.Signature{tt.signedBy.SignDigest(digest)}
			if tt.and != nil {
				byOther := []verify.Signature{tt.and.SignDigest(digest)}
				for who, one := range map[string][]verify.Signature{"the first": signatures, "the second": byOther} {
					if _, err := policy.Verify(verify.Subject{Digest: digest}, one); err == nil {
						t.Errorf("a signature by %s alone counts", who)
					}
				}
				signatures = append(byOther, signatures...)
			}
			signer, err := policy.Verify(verify.Subject{Digest: digest}, signatures)
			if alone, _ := verifytest.Policy(t, tt.signedBy).Verify(verify.Subject{Digest: digest}, signatures); err != nil || signer != alone {
				t.Errorf("got %v, %v; want %v", signer, err, alone)
			}
			if again, _, err := rules.Policy(t.Context(), tt.stack); err != nil || again != policy {
				t.Error("an equal policy was parsed again")
			}
		})
	}
}
