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
	"slices"
	"strings"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/daemon"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/kubeconfig"
)

type kubeconfigOptions struct {
	cluster    string
	all        bool
	merge      bool
	switchTo   bool
	file       string
	out, warns io.Writer
}

func newSandboxKubeconfigCommand() *cobra.Command {
	var o kubeconfigOptions
	cmd := &cobra.Command{
		Use:   "kubeconfig [--merge [file]]",
		Short: "Print the kubeconfig of a sandbox, or of a workload cluster in it, or merge it into yours",
		Long: `Print the kubeconfig of a sandbox, or of a workload cluster in it, or merge it into yours.

With --merge the clusters become contexts of a file: of the one that is given, else of the one that kubectl would
write to ($KUBECONFIG, or ~/.kube/config). They are called sandbox-NAME, and sandbox-NAME-NAMESPACE-CLUSTER. The
current context stays what it is unless there is none. Contexts of others are never changed, and csctl sandbox down
takes out what was merged.`,
		Example: `  csctl sandbox kubeconfig > sandbox.kubeconfig
  csctl sandbox kubeconfig --cluster default/my-cluster > my-cluster.kubeconfig
  csctl sandbox kubeconfig --merge --all
  kubectl --context sandbox-default get clusters --all-namespaces`,
		DisableFlagsInUseLine: true,
		Args:                  cobra.MaximumNArgs(1),
	}
	name := nameFlag(cmd)
	flags := cmd.Flags()
	flags.StringVar(&o.cluster, "cluster", "", "namespace/name of a workload cluster")
	mustComplete(cmd, "cluster", completeClusters(name))
	flags.BoolVar(&o.all, "all", false, "the management cluster and all workload clusters")
	flags.BoolVar(&o.merge, "merge", false, "put it into a kubeconfig file beside what is there")
	flags.BoolVar(&o.switchTo, "switch-context", false, "make it the current context of the file, with --merge")
	cmd.MarkFlagsMutuallyExclusive("cluster", "all")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !o.merge && (len(args) > 0 || o.switchTo) {
			return errors.New("a file and --switch-context are for --merge; without it, send what is printed to a file with >")
		}
		if len(args) > 0 {
			o.file = args[0]
		}
		o.out, o.warns = cmd.OutOrStdout(), cmd.ErrOrStderr()
		state, err := readySandbox(*name)
		if err != nil {
			return err
		}
		entries, err := kubeconfigs(cmd.Context(), state, o)
		if err != nil {
			return err
		}
		if o.merge {
			return mergeKubeconfigs(cmd.Context(), state, entries, o)
		}
		raw := entries[0].Kubeconfig
		if o.all {
			if raw, err = kubeconfig.Join(entries); err != nil {
				return err
			}
		}
		_, err = o.out.Write(raw)
		return err
	}
	return cmd
}

// contextName is that of a sandbox, or of a workload cluster in it.
func contextName(sandbox string, cluster ...string) string {
	return strings.Join(append([]string{"sandbox", sandbox}, cluster...), "-")
}

// kubeconfigs gives at least one.
func kubeconfigs(ctx context.Context, state daemon.State, o kubeconfigOptions) ([]kubeconfig.Entry, error) {
	if o.cluster != "" {
		entry, err := workloadKubeconfig(ctx, state, o.cluster)
		return []kubeconfig.Entry{entry}, err
	}
	raw, err := os.ReadFile(state.Kubeconfig)
	if err != nil {
		return nil, err
	}
	entries := []kubeconfig.Entry{{Name: contextName(state.Name), Kubeconfig: raw}}
	if !o.all {
		return entries, nil
	}
	clusters, err := listClusters(ctx, state.Kubeconfig)
	if err != nil {
		return nil, err
	}
	for _, c := range clusters {
		entry, err := workloadKubeconfig(ctx, state, c.Namespace+"/"+c.Name)
		var early *noKubeconfigError
		if errors.As(err, &early) {
			if _, err := fmt.Fprintf(o.warns, "Warning: %v\n", err); err != nil {
				return nil, err
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		entries = append(entries, entry)
	}
	return entries, nil
}

// noKubeconfigError says that Cluster API has not written the kubeconfig of a cluster.
type noKubeconfigError struct{ cluster string }

func (e *noKubeconfigError) Error() string {
	return fmt.Sprintf("cluster %s has no kubeconfig yet; it comes with its control plane", e.cluster)
}

func workloadKubeconfig(ctx context.Context, state daemon.State, cluster string) (kubeconfig.Entry, error) {
	namespace, name, err := parseCluster(cluster)
	if err != nil {
		return kubeconfig.Entry{}, fmt.Errorf("--cluster %w", err)
	}
	config, err := managementConfig(state.Kubeconfig)
	if err != nil {
		return kubeconfig.Entry{}, err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return kubeconfig.Entry{}, err
	}
	secret, err := client.CoreV1().Secrets(namespace).Get(ctx, name+"-kubeconfig", metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		names, err := clusterNames(ctx, state.Name)
		if err == nil && !slices.Contains(names, cluster) {
			return kubeconfig.Entry{}, noSuchCluster(ctx, state.Name, cluster)
		}
		return kubeconfig.Entry{}, &noKubeconfigError{cluster}
	}
	if err != nil {
		return kubeconfig.Entry{}, err
	}
	raw := secret.Data["value"]
	if len(raw) == 0 {
		return kubeconfig.Entry{}, fmt.Errorf("secret %s/%s-kubeconfig has no key value", namespace, name)
	}
	return kubeconfig.Entry{Name: contextName(state.Name, namespace, name), Kubeconfig: raw}, nil
}

func mergeKubeconfigs(ctx context.Context, state daemon.State, entries []kubeconfig.Entry, o kubeconfigOptions) error {
	dir, err := daemon.Dir(state.Name)
	if err != nil {
		return err
	}
	file := o.file
	if file == "" {
		file = kubeconfig.UsersFile()
	}
	if file, err = filepath.Abs(file); err != nil {
		return err
	}
	home, err := daemon.Home()
	if err != nil {
		return err
	}
	if strings.HasPrefix(file, home+"/") {
		return fmt.Errorf("%s is a sandbox's own kubeconfig, and goes with it; name another file after --merge, or unset KUBECONFIG", file)
	}
	// Noted first: what is noted and not there does no harm, what is there and not noted stays for good.
	if err := noteMerged(dir, file); err != nil {
		return err
	}
	current, err := kubeconfig.Merge(ctx, file, entries, kubeconfig.Options{Owner: dir, Only: o.all, Switch: o.switchTo})
	if err != nil {
		return err
	}
	text := fmt.Sprintf("Merged into %s:\n", file)
	for _, e := range entries {
		mark := " "
		if e.Name == current {
			mark = "*"
		}
		text += fmt.Sprintf("  %s %s\n", mark, e.Name)
	}
	if current != entries[0].Name {
		text += fmt.Sprintf("The current context still is %s; kubectl config use-context %s changes it.\n", current, entries[0].Name)
	}
	_, err = io.WriteString(o.out, text)
	return err
}

// mergedFolder, in the state folder, has a link to each file that clusters of a sandbox were merged into.
const mergedFolder = "merged-kubeconfigs"

func noteMerged(dir, file string) error {
	folder := filepath.Join(dir, mergedFolder)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	known, err := mergedFiles(dir)
	if err != nil || slices.Contains(known, file) {
		return err
	}
	// A name that nobody else takes at the same time.
	entry, err := os.MkdirTemp(folder, "")
	if err != nil {
		return err
	}
	return os.Symlink(file, filepath.Join(entry, "kubeconfig"))
}

// mergedFiles lists the files that clusters of a sandbox were merged into.
func mergedFiles(dir string) ([]string, error) {
	links, err := filepath.Glob(filepath.Join(dir, mergedFolder, "*", "kubeconfig"))
	if err != nil {
		return nil, err
	}
	var files []string
	for _, link := range links {
		file, err := os.Readlink(link)
		if err != nil {
			return nil, err
		}
		files = append(files, file)
	}
	return files, nil
}

// unmerge takes the clusters of a sandbox out of the files that they were merged into. That they stay in one is told
// and no reason to keep the sandbox.
func unmerge(ctx context.Context, dir string, files []string, out, warns io.Writer) error {
	for _, file := range files {
		contexts, err := kubeconfig.Remove(ctx, file, dir)
		switch {
		case err != nil:
			_, err = fmt.Fprintf(warns, "Warning: the contexts of the sandbox stay in %s: %v\n", file, err)
		case len(contexts) > 0:
			_, err = fmt.Fprintf(out, "Removed from %s: %s.\n", file, strings.Join(contexts, ", "))
		}
		if err != nil {
			return err
		}
	}
	return nil
}
