// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/sign"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/oci"
	"github.com/clusterstacks/cluster-stack-operator/internal/verify"
	"github.com/clusterstacks/cluster-stack-operator/internal/web"
)

type signOptions struct {
	key        string
	fulcio     string
	rekor      string
	timestamps string
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
before it is published where there are no manifests, such as on GitHub. To sign again with the same key changes nothing.

With --key the key is one of cosign, whose password is in COSIGN_PASSWORD or asked for, or one in PEM without a password.
Without it, a certificate is asked for with the identity that the environment has: SIGSTORE_ID_TOKEN, or that of a job of
GitHub Actions. The certificate and the signature are then public in the log.

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
			return fmt.Errorf("%s: a signature there is part of the release, which never changes once it is published: sign the release's folder first, and publish it then", p)
		}
		signer, err := options.signer(ctx, flags, cmd.InOrStdin(), cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		digest, existed, err := p.sign(ctx, name, signer)
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
	if f, is := stdin.(*os.File); !given && errors.Is(err, sign.ErrPassword) && is && term.IsTerminal(int(f.Fd())) {
		_, _ = fmt.Fprintf(stderr, "Password of %s: ", o.key) // whoever does not see it knows it by the pause
		asked, readErr := term.ReadPassword(int(f.Fd()))
		_, _ = fmt.Fprintln(stderr) // which the terminal did not show
		if readErr != nil {
			return nil, readErr
		}
		private, err = sign.ParseKey(text, asked)
	}
	if errors.Is(err, sign.ErrPassword) {
		return nil, fmt.Errorf("--key %s: %w: set COSIGN_PASSWORD", o.key, err)
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

// sign signs a release. With a key that has signed it already it changes nothing.
func (p *place) sign(ctx context.Context, name release.Name, signer *sign.Signer) (digest string, existed bool, err error) {
	policy, err := ownPolicy(signer)
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
			if err != nil {
				return err
			}
			return registry.AddSignature(ctx, name, got.digest, bundle, time.Now())
		}
		return signFolder(ctx, filepath.Join(p.location, name.String()), signer)
	})
	if err == nil && p.kind == placeFolder && !existed {
		// The signature is a part of it.
		err = p.withRelease(ctx, name, func(got fetched) error {
			digest = got.digest
			return nil
		})
	}
	return digest, existed, err
}

// ownPolicy trusts the key of a signer, and is nil for one that has none.
func ownPolicy(signer *sign.Signer) (*verify.Policy, error) {
	if signer.Key() == "" {
		return nil, nil //nolint:nilnil // a certificate is new each time
	}
	return verify.NewPolicy(verify.Config{PublicKeys: []string{signer.Key()}})
}

// signFolder puts a list of checksums and its signature into the folder of a release.
func signFolder(ctx context.Context, folder string, signer *sign.Signer) error {
	sums, err := readSums(folder)
	if err != nil {
		return err
	}
	list := sign.Sums(sums.Files)
	bundle, err := signer.Blob(ctx, list)
	if err != nil {
		return err
	}
	// One for another list would be in the way of nobody, but mislead whoever reads it.
	if err := os.Remove(filepath.Join(folder, verify.SumsSignature)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, f := range []struct {
		name string
		data []byte
	}{{verify.SumsFile, list}, {verify.SumsBundle, bundle}} {
		if err := replaceFile(filepath.Join(folder, f.name), f.data); err != nil {
			return err
		}
	}
	return nil
}

// replaceFile writes a file that is there whole or as before.
func replaceFile(path string, data []byte) error {
	// Beside the release, so that nobody takes it for a part of it.
	tmp, err := os.CreateTemp(filepath.Dir(filepath.Dir(path)), ".csctl-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(tmp.Name()) }() // gone already if all went well
	_, err = tmp.Write(data)
	if err = errors.Join(err, tmp.Chmod(0o644), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}
