// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/go-logr/logr/funcr"
	"github.com/spf13/cobra"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/faultproxy"
)

// proxyFlags are those of csctl sandbox proxy.
type proxyFlags struct {
	name          *string
	cluster       string
	target        string
	targetCA      string
	listen        string
	rules         []string
	replay        string
	seed          uint64
	kubeconfigOut string
}

func newSandboxProxyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "proxy [flags] [-- command [args]]",
		Short: "Inject faults between clients and a server",
		Long: `Run a reverse proxy on loopback that passes requests on and does harm where a rule says so. It stands in front
of the API server of a sandbox, or of a workload cluster in it (--cluster), or of any server (--target).

The command after -- runs with KUBECONFIG and PROXY_URL leading through the proxy, which ends with it. Without a
command the proxy runs until it is interrupted. What it does is told on standard error; the last line, given to
--replay, does the same again.

A rule is a verb, a path, conditions and a fault:
  PUT /api/** #3 drop-answer        the third PUT is done, but its answer lost
  watch /** p=0.1 cut=1000          one watch in ten ends after 1000 bytes
  GET|HEAD /v2/** every=4 delay=2s  each fourth request takes two seconds more
The page "How to inject faults" has all of them.`,
		Example: `  csctl sandbox proxy --rule 'write /api/** #1 drop-answer' -- kubectl create namespace lost
  csctl sandbox proxy --cluster default/my-cluster --kubeconfig-out faulty.kubeconfig --rule 'watch /** freeze=10'
  csctl sandbox proxy --target http://127.0.0.1:5000 --rule 'GET /v2/**/blobs/* #2 cut=1000'`,
	}
	f := &proxyFlags{name: nameFlag(cmd)}
	flags := cmd.Flags()
	flags.StringVar(&f.cluster, "cluster", "", "namespace/name of a workload cluster")
	mustComplete(cmd, "cluster", completeClusters(f.name))
	flags.StringVar(&f.target, "target", "", "URL of a server that is no cluster of a sandbox")
	flags.StringVar(&f.targetCA, "target-ca", "", "file with the certificates that a target with TLS is trusted by (default: those of the system)")
	flags.StringVar(&f.listen, "listen", "", "address on loopback to listen on (default: any port of 127.0.0.1)")
	flags.StringArrayVar(&f.rules, "rule", nil, "a rule, or several separated by semicolons; can be given several times")
	flags.StringVar(&f.replay, "replay", "", "the line that an earlier run has printed; its rules come before those of --rule")
	flags.Uint64Var(&f.seed, "seed", 0, "decides where rules with p= strike (default: that of --replay, else any)")
	flags.StringVar(&f.kubeconfigOut, "kubeconfig-out", "", "file to write the kubeconfig to that leads through the proxy")
	cmd.MarkFlagsMutuallyExclusive("cluster", "target")
	cmd.MarkFlagsMutuallyExclusive("kubeconfig-out", "target")
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if cmd.ArgsLenAtDash() < 0 && len(args) > 0 || cmd.ArgsLenAtDash() > 0 {
			return fmt.Errorf("%q: write -- before the command that is to run", args[0])
		}
		return nil
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if f.targetCA != "" && f.target == "" {
			return errors.New("--target-ca is for the server of --target; the certificates of clusters are known")
		}
		plan, err := f.plan(flags.Changed("seed"))
		if err != nil {
			return err
		}
		return f.run(cmd, plan, args)
	}
	return cmd
}

func (f *proxyFlags) plan(seeded bool) (faultproxy.Plan, error) {
	plan, err := faultproxy.Parse(f.replay)
	if err != nil {
		return plan, fmt.Errorf("--replay: %w", err)
	}
	if f.replay == "" {
		plan.Seed = rand.Uint64N(1_000_000) // it is to be read and typed by people
	}
	if seeded {
		plan.Seed = f.seed
	}
	for _, text := range f.rules {
		more, err := faultproxy.Parse(text)
		if err != nil {
			return plan, fmt.Errorf("--rule: %w", err)
		}
		plan.Rules = append(plan.Rules, more.Rules...)
	}
	return plan, nil
}

// run holds a proxy until the command, if there is one, or the caller's patience ends.
func (f *proxyFlags) run(cmd *cobra.Command, plan faultproxy.Plan, command []string) (err error) {
	out := log.New(cmd.ErrOrStderr(), "", 0)
	opts := faultproxy.Options{
		Plan: plan, Address: f.listen,
		Observe: func(e faultproxy.Event) {
			if e.Fault != "" {
				out.Print(e)
			}
		},
		Log: funcr.New(func(_, args string) { out.Print(args) }, funcr.Options{}),
	}
	proxy, err := f.start(cmd.Context(), opts)
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, proxy.Close())
		out.Printf("%d requests, %d faults. Again, with --replay:\n%s", proxy.Requests(), len(proxy.Faults()), proxy.Replay())
	}()
	out.Printf("Listening on %s", proxy.URL())
	environment := []string{"PROXY_URL=" + proxy.URL()}
	if f.target == "" {
		kubeconfig, remove, failed := f.writeKubeconfig(proxy)
		if failed != nil {
			return failed
		}
		defer func() { err = errors.Join(err, remove()) }()
		out.Printf("KUBECONFIG=%s", kubeconfig)
		environment = append(environment, "KUBECONFIG="+kubeconfig)
	}
	if len(command) == 0 {
		<-cmd.Context().Done()
		return nil
	}
	return runBehind(cmd.Context(), cmd, command, environment)
}

func (f *proxyFlags) start(ctx context.Context, opts faultproxy.Options) (*faultproxy.Proxy, error) {
	if f.target != "" {
		if f.targetCA != "" {
			certificates, err := os.ReadFile(f.targetCA)
			if err != nil {
				return nil, fmt.Errorf("--target-ca: %w", err)
			}
			opts.TLS = &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}
			if !opts.TLS.RootCAs.AppendCertsFromPEM(certificates) {
				return nil, fmt.Errorf("--target-ca: %s has no certificate in PEM", f.targetCA)
			}
		}
		return faultproxy.Listen(ctx, f.target, opts)
	}
	state, err := readySandbox(*f.name)
	if err != nil {
		return nil, err
	}
	config, err := clientcmd.BuildConfigFromFlags("", state.Kubeconfig)
	if err != nil {
		return nil, err
	}
	if f.cluster != "" {
		entry, err := workloadKubeconfig(ctx, state, f.cluster)
		if err != nil {
			return nil, err
		}
		if config, err = clientcmd.RESTConfigFromKubeConfig(entry.Kubeconfig); err != nil {
			return nil, fmt.Errorf("kubeconfig of cluster %s: %w", f.cluster, err)
		}
	}
	return faultproxy.ListenKubernetes(ctx, config, opts)
}

// writeKubeconfig writes the kubeconfig where it was asked for, or to a file that remove takes away.
func (f *proxyFlags) writeKubeconfig(proxy *faultproxy.Proxy) (path string, remove func() error, err error) {
	raw, err := proxy.Kubeconfig()
	if err != nil {
		return "", nil, err
	}
	path, remove = f.kubeconfigOut, func() error { return nil }
	if path == "" {
		dir, err := os.MkdirTemp("", "csctl-proxy-")
		if err != nil {
			return "", nil, err
		}
		path, remove = filepath.Join(dir, "kubeconfig"), func() error { return os.RemoveAll(dir) }
	} else if err := mayOverwrite(path); err != nil {
		return "", nil, fmt.Errorf("--kubeconfig-out: %w", err)
	}
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		return "", nil, errors.Join(fmt.Errorf("--kubeconfig-out: %w", err), remove())
	}
	return path, remove, nil
}

// mayOverwrite refuses a file that no earlier proxy has written: it may be all that leads to somebody's clusters.
func mayOverwrite(path string) error {
	old, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(old) == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	config, err := clientcmd.Load(old)
	if err != nil || len(config.Contexts) != 1 || config.Contexts[faultproxy.KubeContext] == nil {
		return fmt.Errorf("%s is there and is not the kubeconfig of a proxy; name another file, or remove it", path)
	}
	return nil
}

// runBehind runs a command with the environment changed.
func runBehind(ctx context.Context, cmd *cobra.Command, command, environment []string) error {
	child := exec.CommandContext(ctx, command[0], command[1:]...)
	child.Env = append(os.Environ(), environment...)
	child.Stdin, child.Stdout, child.Stderr = cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr()
	child.Cancel = func() error { return child.Process.Signal(syscall.SIGTERM) }
	child.WaitDelay = 10 * time.Second
	if err := child.Run(); err != nil {
		return fmt.Errorf("%s: %w", command[0], err)
	}
	return nil
}
