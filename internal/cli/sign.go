// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/sign"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/dir"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/oci"
	"github.com/clusterstacks/cluster-stack-operator/internal/verify"
	"github.com/clusterstacks/cluster-stack-operator/internal/web"
)

type signOptions struct {
	key         string
	fulcio      string
	rekor       string
	timestamps  string
	trustedRoot string
}

func newSignCommand() *cobra.Command {
	var (
		flags   placeFlags
		options signOptions
	)
	cmd := &cobra.Command{
		Use:   "sign PLACE",
		Short: "Sign a release",
		Long: `Sign the release that a place names.

In a registry the signature is an artifact beside the release, as cosign writes it: a sigstore bundle that refers to the
manifest. The folder of a release gets a list of checksums, SHA256SUMS, and its signature, SHA256SUMS.sigstore.json; sign it
before it is published where there are no manifests, such as on GitHub. A further signature leaves those that are there
alone. To sign again with the same key changes nothing.

With --key the key is one of cosign, whose password is in COSIGN_PASSWORD or asked for, or one in PEM without a password.
The same release then gets the same signature each time, byte by byte.

Without it, a certificate is asked for with the identity that the environment has: SIGSTORE_ID_TOKEN, or that of a job of
GitHub Actions. The certificate and the signature are then public in the log, and new each time. With --trusted-root a
release that this identity has signed already is left alone, and a signature that would not count is not kept.

` + placeHelp,
		Example: `  csctl sign oci://registry.example.org/kaas/cluster-stacks:docker-starter-1-35-v1 --key cosign.key
  csctl sign .release/docker-starter-1-35-v1 --key key.pem
  SIGSTORE_ID_TOKEN=... csctl sign oci://registry.example.org/kaas/cluster-stacks:docker-starter-1-35-v1`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: cobra.NoFileCompletions,
	}
	flags.register(cmd)
	cmd.Flags().StringVar(&options.key, "key", "", "file with a private key, of cosign or in PEM")
	cmd.Flags().StringVar(&options.fulcio, "fulcio-url", "https://fulcio.sigstore.dev", "certificate authority, without --key")
	cmd.Flags().StringVar(&options.rekor, "rekor-url", "https://rekor.sigstore.dev", "log of signatures, without --key; empty for none")
	cmd.Flags().StringVar(&options.timestamps, "timestamp-server-url", "", "timestamp authority, without --key, such as https://timestamp.sigstore.dev/api/v1/timestamp")
	cmd.Flags().StringVar(&options.trustedRoot, "trusted-root", "", "trusted_root.json of the sigstore instance, without --key, to see which signatures count")
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx := cmd.Context()
		p, err := flags.open(ctx, args[0])
		if err != nil {
			return err
		}
		name, err := p.named()
		if err != nil {
			return err
		}
		switch p.kind {
		case placeRegistry, placeFolder:
		default:
			return fmt.Errorf("%s: releases there are signed by a file of theirs: sign the release's folder and publish it; csctl publish adds the signature to a release that is there", p)
		}
		signer, err := options.signer(ctx, flags, cmd.InOrStdin(), cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		var trustedRoot []byte
		if options.trustedRoot != "" {
			if trustedRoot, err = os.ReadFile(options.trustedRoot); err != nil {
				return fmt.Errorf("--trusted-root: %w", err)
			}
		}
		digest, existed, err := p.sign(ctx, name, signer, trustedRoot)
		if err != nil {
			return err
		}
		if output.json() {
			return printJSON(cmd.OutOrStdout(), struct {
				Release string `json:"release"`
				Digest  string `json:"digest"`
				Existed bool   `json:"existed"`
			}{name.String(), digest, existed})
		}
		said := "is signed"
		if existed {
			said = "was signed with this key already"
			if options.key == "" {
				said = "was signed by this identity already"
			}
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s %s %s\n", name, digest, said)
		return err
	}
	return cmd
}

func (o *signOptions) signer(ctx context.Context, flags placeFlags, stdin io.Reader, stderr io.Writer) (*sign.Signer, error) {
	if o.key == "" {
		return o.keyless(ctx, flags)
	}
	text, err := os.ReadFile(o.key)
	if err != nil {
		return nil, fmt.Errorf("--key: %w", err)
	}
	// Also set to nothing: cosign makes keys without a password then.
	password, given := os.LookupEnv("COSIGN_PASSWORD")
	private, err := sign.ParseKey(text, []byte(password))
	cure := "correct COSIGN_PASSWORD"
	if !given {
		cure = "set COSIGN_PASSWORD, or run csctl in a terminal, which asks for it"
		if f, is := stdin.(*os.File); errors.Is(err, sign.ErrPassword) && is && term.IsTerminal(int(f.Fd())) {
			asked, readErr := askPassword(ctx, f, stderr, o.key)
			if readErr != nil {
				return nil, fmt.Errorf("password of %s: %w", o.key, readErr)
			}
			private, err = sign.ParseKey(text, asked)
			cure = "try again"
		}
	}
	if errors.Is(err, sign.ErrPassword) {
		return nil, fmt.Errorf("--key %s: %w: %s", o.key, err, cure)
	}
	if err != nil {
		return nil, fmt.Errorf("--key %s: %w", o.key, err)
	}
	signer, err := sign.New(private)
	if err != nil {
		return nil, fmt.Errorf("--key %s: %w", o.key, err)
	}
	return signer, nil
}

// askPassword asks for the password of a key at a terminal, which does not show it.
func askPassword(ctx context.Context, terminal *os.File, stderr io.Writer, key string) ([]byte, error) {
	fd := int(terminal.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return nil, err
	}
	_, _ = fmt.Fprintf(stderr, "Password of %s: ", key) // whoever does not see it knows it by the pause
	type answer struct {
		text []byte
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		text, err := term.ReadPassword(fd)
		answers <- answer{text, err}
	}()
	defer func() { _, _ = fmt.Fprintln(stderr) }() // which the terminal did not show
	select {
	case got := <-answers:
		return got.text, got.err
	case <-ctx.Done():
		// Whoever waits for a line goes with this program. That the terminal shows again what is typed is up to us.
		return nil, errors.Join(context.Cause(ctx), term.Restore(fd, before))
	}
}

func (o *signOptions) keyless(ctx context.Context, flags placeFlags) (*sign.Signer, error) {
	settings, err := flags.settings()
	if err != nil {
		return nil, err
	}
	client, err := web.Client(settings)
	if err != nil {
		return nil, err
	}
	token, err := sign.Token(ctx, env, client)
	if err != nil {
		return nil, err
	}
	return sign.NewKeyless(sign.Keyless{Token: token, Fulcio: o.fulcio, Rekor: o.rekor, Timestamps: o.timestamps, Transport: client.Transport})
}

// sign signs a release. Where a signature counts already that the same would make again, it changes nothing.
func (p *place) sign(ctx context.Context, name release.Name, signer *sign.Signer, trustedRoot []byte) (digest string, existed bool, err error) {
	policy, err := ownPolicy(ctx, signer, trustedRoot)
	if err != nil {
		return "", false, err
	}
	err = p.withRelease(ctx, name, func(got fetched) error {
		digest = got.digest
		if policy != nil {
			_, err := p.verify(ctx, got, policy)
			var refused *verify.RefusedError
			if existed = err == nil; existed || !errors.As(err, &refused) {
				return err
			}
		}
		if registry, is := p.source.(*oci.Source); is {
			bundle, err := signer.Manifest(ctx, got.digest)
			if err == nil {
				err = counts(policy, verify.Subject{Digest: got.digest}, bundle)
			}
			if err != nil {
				return err
			}
			return registry.AddSignature(ctx, name, got.digest, bundle, time.Now())
		}
		return signFolder(ctx, filepath.Join(p.location, name.String()), signer, policy)
	})
	return digest, existed, err
}

// ownPolicy trusts a signer, and nobody else. It is nil for one with certificates when nobody says which are genuine.
func ownPolicy(ctx context.Context, signer *sign.Signer, trustedRoot []byte) (*verify.Policy, error) {
	if signer.Key() != "" {
		return verify.NewPolicy(verify.Config{PublicKeys: []string{signer.Key()}})
	}
	if trustedRoot == nil {
		return nil, nil //nolint:nilnil // nothing can be said of signatures then
	}
	identity, err := signer.Identity(ctx)
	if err != nil {
		return nil, err
	}
	return verify.NewPolicy(verify.Config{Identities: []verify.Identity{identity}, TrustedRoot: trustedRoot})
}

// counts returns an error when a new signature would count nowhere, if a policy is there to say so.
func counts(policy *verify.Policy, subject verify.Subject, bundle []byte) error {
	if policy == nil {
		return nil
	}
	if _, err := policy.Verify(subject, []verify.Signature{{Bundle: bundle}}); err != nil {
		return fmt.Errorf("the new signature would not count, and is not kept: %w", err)
	}
	return nil
}

// signFolder adds a signature to those in the folder of a release. A list of checksums that fits the files stays, and so do
// its signatures: the new one is a file beside them. One that does not fit is good for nothing any more, and replaced.
func signFolder(ctx context.Context, folder string, signer *sign.Signer, policy *verify.Policy) error {
	sums, err := readSums(os.DirFS(folder))
	if err != nil {
		return err
	}
	list, fits := sums.List, sums.List != nil && sums.Check() == nil
	if !fits {
		list = sign.Sums(sums.Files)
	}
	bundle, err := signer.Blob(ctx, list)
	if err == nil {
		err = counts(policy, verify.SubjectOf(list), bundle)
	}
	if err != nil {
		return err
	}
	signature := verify.SumsBundle
	if _, taken := sums.Files[signature]; taken && fits {
		signature = verify.SignatureName(signature, bundle)
	}
	if fits && len(sums.Signatures) == verify.MaxSumsSignatures {
		return fmt.Errorf("%s has %d signatures already, and the operator takes no more: remove one", folder, len(sums.Signatures))
	}
	if !fits {
		// First those of the other list: without them nobody takes them for signatures of the new one, wherever this ends.
		for _, name := range slices.Sorted(maps.Keys(sums.Files)) {
			if !verify.Signs(name) || name == verify.SumsFile {
				continue
			}
			if err := os.Remove(filepath.Join(folder, name)); err != nil {
				return err
			}
		}
		if err := dir.WriteFile(filepath.Join(folder, verify.SumsFile), list); err != nil {
			return err
		}
	}
	return dir.WriteFile(filepath.Join(folder, signature), bundle)
}
