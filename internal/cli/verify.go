// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/source"
	"github.com/clusterstacks/cluster-stack-operator/internal/store"
	"github.com/clusterstacks/cluster-stack-operator/internal/verify"
)

// trustFlags say whose signatures count. They are called as those of cosign.
type trustFlags struct {
	keys                   []string
	identity, identityExpr string
	issuer, issuerExpr     string
	trustedRoot            string
}

func (f *trustFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringArrayVar(&f.keys, "key", nil, "file with a public key in PEM; may be given several times")
	flags.StringVar(&f.identity, "certificate-identity", "", "subject that a certificate has to be for")
	flags.StringVar(&f.identityExpr, "certificate-identity-regexp", "", "the same as a regular expression for the whole subject")
	flags.StringVar(&f.issuer, "certificate-oidc-issuer", "", "issuer that has to vouch for the subject")
	flags.StringVar(&f.issuerExpr, "certificate-oidc-issuer-regexp", "", "the same as a regular expression for the whole issuer")
	flags.StringVar(&f.trustedRoot, "trusted-root", "", "trusted_root.json of the sigstore instance, for certificates; cosign trusted-root create writes one")
}

// policy returns the policy of the flags, or nil when none is given.
func (f *trustFlags) policy() (*verify.Policy, error) {
	var c verify.Config
	for _, file := range f.keys {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("--key: %w", err)
		}
		if _, err := verify.NewPolicy(verify.Config{PublicKeys: []string{string(text)}}); err != nil {
			return nil, fmt.Errorf("--key %s: %w", file, errors.Unwrap(err))
		}
		c.PublicKeys = append(c.PublicKeys, string(text))
	}
	if f.identity+f.identityExpr+f.issuer+f.issuerExpr != "" {
		c.Identities = []verify.Identity{{Subject: f.identity, SubjectRegExp: f.identityExpr, Issuer: f.issuer, IssuerRegExp: f.issuerExpr}}
		if f.trustedRoot == "" {
			return nil, errors.New("identities need --trusted-root: the trusted_root.json of the sigstore instance that issued their certificates")
		}
	}
	if f.trustedRoot != "" {
		text, err := os.ReadFile(f.trustedRoot)
		if err != nil {
			return nil, fmt.Errorf("--trusted-root: %w", err)
		}
		c.TrustedRoot = text
	}
	if len(c.PublicKeys)+len(c.Identities) == 0 {
		return nil, nil //nolint:nilnil // nobody asked for signatures
	}
	return verify.NewPolicy(c)
}

// signatures returns what is offered as signatures of a release, as the operator finds it.
func (p *place) signatures(ctx context.Context, got fetched) (found []verify.Signature, sums verify.Sums, apart bool, err error) {
	if signer, is := p.source.(source.Signer); is {
		found, err = signer.Signatures(ctx, got.release.Name, got.digest)
		return found, verify.Sums{}, true, err
	}
	sums, err = readSums(os.DirFS(got.folder))
	return sums.Signatures, sums, false, err
}

// readSums reads the list of checksums in the folder of a release, and its signatures.
func readSums(folder fs.FS) (verify.Sums, error) {
	files, err := source.ReadFiles(folder)
	if err != nil {
		return verify.Sums{}, err
	}
	sums := verify.Sums{Files: map[string]string{}}
	for _, f := range files {
		if sums.Files[f.Name] = f.Sum; verify.Signs(f.Name) {
			sums.Take(f.Name, f.Data)
		}
	}
	return sums, nil
}

// verify returns who has signed a release, by the code that decides for the operator.
func (p *place) verify(ctx context.Context, got fetched, policy *verify.Policy) (verify.Signer, error) {
	found, sums, apart, err := p.signatures(ctx, got)
	if err != nil {
		return verify.Signer{}, err
	}
	var signer verify.Signer
	if apart {
		signer, err = policy.Verify(verify.Subject{Digest: got.digest}, found)
	} else {
		signer, err = policy.VerifySums(sums)
	}
	if err != nil {
		return verify.Signer{}, fmt.Errorf("release %s in %s: %w", got.release.Name, p, err)
	}
	return signer, nil
}

// vet returns a release that the policy is content with, and who has signed it. It enters a store as it does in the operator:
// no parser sees a byte of what nobody who is trusted has signed, and a signature counts only for the release that it was made
// for, with all its charts.
func (p *place) vet(ctx context.Context, name release.Name, from store.Fetcher, policy *verify.Policy) (got store.Got, err error) {
	folder, err := os.MkdirTemp("", "csctl-")
	if err != nil {
		return store.Got{}, err
	}
	defer func() { _ = os.RemoveAll(folder) }() // the system clears what stays
	releases, err := store.Open(folder, store.Options{Complete: func(context.Context, release.IncompleteChart) ([]release.File, error) {
		return nil, errors.New("nothing is fetched for a release that is to be verified")
	}})
	if err != nil {
		return store.Got{}, err
	}
	defer func() { err = errors.Join(err, releases.Close()) }()
	want := store.Want{Key: p.String(), Name: name, From: from, Policy: policy}
	if signer, is := p.source.(source.Signer); is {
		want.Signatures = signer.Signatures
	}
	got, err = releases.Get(ctx, want)
	var refused *verify.RefusedError
	if errors.As(err, &refused) {
		err = fmt.Errorf("release %s in %s: %w", name, p, refused)
	}
	return got, err
}

// fetcher fetches what a place names.
type fetcher struct{ *place }

// Fetch implements store.Fetcher.
func (f fetcher) Fetch(ctx context.Context, name release.Name, dst *os.Root) (string, error) {
	return f.fetch(ctx, name, dst)
}

// looksSigned tells whether there is anything that may be a signature.
func (p *place) looksSigned(ctx context.Context, name release.Name, digest string) (bool, error) {
	if signer, is := p.source.(source.Signer); is {
		found, err := signer.Signatures(ctx, name, digest)
		return len(found) > 0, err
	}
	if p.kind == placeFolder {
		sums, err := readSums(os.DirFS(filepath.Join(p.location, name.String())))
		return len(sums.Signatures) > 0, err
	}
	is := false
	err := p.withRelease(ctx, name, func(got fetched) error {
		sums, err := readSums(os.DirFS(got.folder))
		is = len(sums.Signatures) > 0
		return err
	})
	return is, err
}

func newVerifyCommand() *cobra.Command {
	var (
		flags placeFlags
		trust trustFlags
	)
	cmd := &cobra.Command{
		Use:   "verify PLACE",
		Short: "Say who has signed a release, and fail if nobody trusted has",
		Long: `Say who has signed the release that a place names. It ends with 1 when nobody who is trusted has.

The release is fetched, every digest is checked, and the code decides that decides in the operator: whose signatures count
is asked before any file is read, and a signature does not speak for another release than it was made for, nor for charts
that the release does not bring along. Signatures in a registry are those of cosign; elsewhere a signed list of checksums
comes with the release.

` + placeHelp,
		Example: `  csctl verify oci://registry.example.org/kaas/cluster-stacks:docker-starter-1-35-v1 --key cosign.pub
  csctl verify oci://registry.example.org/kaas/cluster-stacks:docker-starter-1-35-v1 --trusted-root trusted_root.json \
    --certificate-identity https://github.com/my-org/stacks/.github/workflows/release.yaml@refs/heads/main \
    --certificate-oidc-issuer https://token.actions.githubusercontent.com`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: cobra.NoFileCompletions,
	}
	flags.register(cmd)
	trust.register(cmd)
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx := cmd.Context()
		policy, err := trust.policy()
		if err != nil {
			return err
		}
		if policy == nil {
			return errors.New("say who is trusted: --key, or --certificate-identity with --certificate-oidc-issuer and --trusted-root")
		}
		p, err := flags.open(ctx, args[0])
		if err != nil {
			return err
		}
		name, err := p.named()
		if err != nil {
			return err
		}
		got, err := p.vet(ctx, name, fetcher{p}, policy)
		if err != nil {
			return err
		}
		if output.json() {
			return printJSON(cmd.OutOrStdout(), struct {
				Release string `json:"release"`
				Digest  string `json:"digest"`
				Key     string `json:"key,omitempty"`
				Subject string `json:"subject,omitempty"`
				Issuer  string `json:"issuer,omitempty"`
			}{name.String(), got.Pin.Digest, got.Signer.Key, got.Signer.Subject, got.Signer.Issuer})
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s %s is signed by %s\n", name, got.Pin.Digest, got.Signer)
		return err
	}
	return cmd
}
