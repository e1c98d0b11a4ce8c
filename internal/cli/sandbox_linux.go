// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/binaries"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/crds"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/daemon"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/simulator/infra"
)

func newSandboxCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "sandbox",
		Short: "Run a management cluster on this machine",
		Long: `A sandbox is a management cluster on this machine without containers: real etcd, real kube-apiserver,
the unmodified managers of Cluster API, and a simulator in place of the infrastructure. Each workload
cluster in it has a real API server too; only machines and kubelets are simulated.`,
		Example: `  csctl sandbox up
  csctl sandbox list
  csctl sandbox describe
  csctl sandbox down`,
		// Without these two a mistyped command prints the help page and counts as success.
		Args: subcommandOnly,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(advised(
		newSandboxUpCommand(),
		newSandboxListCommand(),
		newSandboxStatusCommand(),
		newSandboxDescribeCommand(),
		newSandboxKubeconfigCommand(),
		newSandboxRegistryCommand(),
		newSandboxLogsCommand(),
		newSandboxProxyCommand(),
		newSandboxFailCommand(),
		newSandboxHealCommand(),
		newSandboxDownCommand(),
		newSandboxServeCommand(),
	)...)
	return cmd
}

// serveCommand is the command line that becomes the process of a sandbox.
var serveCommand = []string{"sandbox", "serve"}

func newSandboxServeCommand() *cobra.Command {
	return &cobra.Command{
		Use:    serveCommand[1],
		Short:  "Hold a sandbox (for csctl itself)",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return daemon.Serve(cmd.Context(), cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
}

func newSandboxUpCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start a sandbox and wait until it is ready",
		Long: `Start a sandbox and wait until it is ready.

A sandbox that was ended with csctl sandbox down --keep, or was killed, goes on with all that was in it. It keeps its
settings too, but for those that are given anew.

The programs are built from their Go modules the first time, which takes about ten minutes on two cores,
and kept in the user's cache folder. Set CLUSTER_STACK_SANDBOX_ASSETS to a folder with bin/ and manifests/
to use programs that are there already.`,
		Example: `  csctl sandbox up
  csctl sandbox up --name openstack --crds ./openstack-crds/ --releases ./releases`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	opts := daemon.Options{}
	flags := cmd.Flags()
	name := nameFlag(cmd)
	flags.StringArrayVar(&opts.CRDs, "crds", nil, "CustomResourceDefinitions of an infrastructure provider: a file such as the components of its release, a folder, a .tar.gz, or - for stdin; can be given several times. A sandbox that runs already gets them as well")
	flags.StringVar(&opts.Kubernetes, "kubernetes", "", "minor of Kubernetes that the management cluster behaves like, one of "+strings.Join(binaries.Minors(), ", ")+" (default: the newest)")
	mustComplete(cmd, "kubernetes", cobra.FixedCompletions(binaries.Minors(), cobra.ShellCompDirectiveNoFileComp))
	flags.StringVar(&opts.Operator, "operator", "", "path of the cluster-stack-operator to run, or none (default: the one beside csctl, if it is there)")
	flags.StringVar(&opts.Releases, "releases", "", "folder that the operator reads releases of cluster stacks from (default: releases in the sandbox's own folder)")
	registry := flags.Bool("registry", false, "run an OCI registry in the sandbox, for releases; csctl sandbox registry prints where it is")
	lite := flags.Bool("lite", false, "make workload clusters lite: etcd and API server only, without controllers, scheduler and pods; the annotation "+infra.ControlPlaneAnnotation+" of a Cluster, lite or full, says otherwise")
	timeout := flags.Duration("wait-timeout", 5*time.Minute, "how long the sandbox may take to become ready, without the time that it takes to build the programs")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		forget, err := keepStdin(cmd.InOrStdin(), opts.CRDs)
		if err != nil {
			return err
		}
		defer forget()
		if err := resolvePaths(&opts); err != nil {
			return err
		}
		if flags.Changed("lite") {
			opts.Lite = lite
		}
		if flags.Changed("registry") {
			opts.Registry = registry
		}
		out := cmd.OutOrStdout()
		p := &progress{out: out, live: isTerminal(out)}
		begin := time.Now()
		state, outcome, err := daemon.Up(cmd.Context(), *name, opts, serveCommand, daemon.Watcher{Line: p.line, Event: p.event, Timeout: *timeout})
		if err != nil {
			return err
		}
		if outcome == daemon.Running {
			if err := printRunning(out, state, flags.Changed("kubernetes") || flags.Changed("operator") || flags.Changed("releases") || flags.Changed("registry") || flags.Changed("lite")); err != nil {
				return err
			}
			return addCRDs(cmd.Context(), out, state, opts.CRDs)
		}
		if outcome == daemon.Resumed {
			if err := printResumed(cmd.Context(), out, state); err != nil {
				return err
			}
		}
		_, err = fmt.Fprintf(out, `Sandbox %s is ready after %s: Kubernetes %s, Cluster API %s.
Next:
  export KUBECONFIG=%s
  csctl sandbox status%s
`, state.Name, time.Since(begin).Round(100*time.Millisecond), kubernetesVersion(state), state.Versions.ClusterAPI, state.Kubeconfig, nameArgument(state.Name))
		return err
	}
	return cmd
}

// printResumed tells with what up went on. Clusters need a moment longer than the sandbox until they are as before; that
// they cannot be counted yet is no reason to say that up has failed.
func printResumed(ctx context.Context, out io.Writer, state daemon.State) error {
	text := "It goes on with what was in it"
	switch clusters, err := listClusters(ctx, state.Kubeconfig); {
	case err != nil, len(clusters) == 0:
	case len(clusters) == 1:
		text += ", with 1 cluster"
	default:
		text += fmt.Sprintf(", with %d clusters", len(clusters))
	}
	_, err := fmt.Fprintln(out, text+".")
	return err
}

// printRunning tells that up found a running sandbox. Settings of this call had no effect on it.
func printRunning(out io.Writer, state daemon.State, settings bool) error {
	text := fmt.Sprintf("Sandbox %s is running already, since %s: KUBECONFIG=%s\n", state.Name, state.Since.Format(time.RFC3339), state.Kubeconfig)
	if settings {
		text += fmt.Sprintf("It keeps the settings that it was started with; for others, end it first with csctl sandbox down --keep%s.\n", nameArgument(state.Name))
	}
	_, err := io.WriteString(out, text)
	return err
}

// addCRDs installs further kinds in a sandbox that runs.
func addCRDs(ctx context.Context, out io.Writer, state daemon.State, paths []string) error {
	if len(paths) == 0 {
		return nil
	}
	set, err := crds.Read(paths)
	if err != nil {
		return err
	}
	config, err := managementConfig(state.Kubeconfig)
	if err != nil {
		return err
	}
	config.Timeout = 0 // it would end the watch that waits for the kinds
	ctx, cancel := context.WithTimeoutCause(ctx, requestTimeout, fmt.Errorf("the kinds are not served after %s", requestTimeout))
	defer cancel()
	if err := crds.Install(ctx, config, set.CRDs); err != nil {
		return err
	}
	for _, w := range set.Warnings {
		if _, err := fmt.Fprintf(out, "warning: %s\n", w); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintf(out, "Kinds that were added: %d.\n", len(set.CRDs))
	return err
}

// stdinPath is the path that stands for standard input.
const stdinPath = "-"

// keepStdin puts standard input into a file, where it is named among paths: the process of the sandbox has
// another one. The answer removes the file.
func keepStdin(stdin io.Reader, paths []string) (forget func(), err error) {
	i := slices.Index(paths, stdinPath)
	if i < 0 {
		return func() {}, nil
	}
	file, err := os.CreateTemp("", "cluster-stack-stdin-*.yaml")
	if err != nil {
		return nil, err
	}
	forget = func() { _ = os.Remove(file.Name()) }
	_, err = io.Copy(file, stdin)
	if err := errors.Join(err, file.Close()); err != nil {
		forget()
		return nil, fmt.Errorf("--crds %s: %w", stdinPath, err)
	}
	paths[i] = file.Name()
	return forget, nil
}

// resolvePaths makes paths absolute, because the process of the sandbox runs elsewhere.
func resolvePaths(opts *daemon.Options) error {
	for i, path := range opts.CRDs {
		if _, err := os.Stat(path); err != nil {
			return fmt.Errorf("--crds: %w", err)
		}
		absolute, err := filepath.Abs(path)
		if err != nil {
			return err
		}
		opts.CRDs[i] = absolute
	}
	if opts.Releases != "" {
		absolute, err := filepath.Abs(opts.Releases)
		if err != nil {
			return err
		}
		if info, err := os.Stat(absolute); err != nil || !info.IsDir() {
			return fmt.Errorf("--releases: %s is no folder; create it first", opts.Releases)
		}
		opts.Releases = absolute
	}
	if opts.Kubernetes != "" {
		minor, err := binaries.ParseMinor(opts.Kubernetes)
		if err != nil {
			return fmt.Errorf("--kubernetes: %w", err)
		}
		opts.Kubernetes = minor
	}
	if opts.Operator != "" && opts.Operator != daemon.NoOperator {
		if !isFile(opts.Operator) {
			return fmt.Errorf("--operator: %s is no file; give the path of cluster-stack-operator, or %s", opts.Operator, daemon.NoOperator)
		}
		absolute, err := filepath.Abs(opts.Operator)
		if err != nil {
			return err
		}
		opts.Operator = absolute
	}
	return nil
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

func newSandboxRegistryCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "registry",
		Short: "Print host and port of the OCI registry of a sandbox",
		Long: `Print host and port of the OCI registry of a sandbox, which csctl sandbox up --registry starts.

It has no TLS and asks for no credentials, and can be reached from this machine only. What was pushed stays until the
sandbox is removed.`,
		Example: `  export OCI_REPOSITORY=$(csctl sandbox registry)/cluster-stacks
  csctl create stacks/docker/starter/1-35 --remote oci --publish --plain-http`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	name := nameFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		state, err := readySandbox(*name)
		if err != nil {
			return err
		}
		if state.Registry == "" {
			return fmt.Errorf("sandbox %[1]s runs no registry; csctl sandbox down --keep%[2]s and csctl sandbox up --registry%[2]s start it with one", state.Name, nameArgument(state.Name))
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), state.Registry)
		return err
	}
	return cmd
}

func newSandboxDownCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "down",
		Short: "End a sandbox and remove all that it made, or keep it for later",
		Long: `End a sandbox and remove all that it made: programs, data, logs, and the releases in its own folder and its registry.
The cache of programs stays. A sandbox that was killed or did not come up is removed in the same way. Contexts that
csctl sandbox kubeconfig --merge has written are taken out again.

With --keep only its programs end. The next csctl sandbox up goes on with all clusters, at the same addresses.`,
		Example: `  csctl sandbox down
  csctl sandbox down --keep
  csctl sandbox down --name openstack`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	name := nameFlag(cmd)
	keep := cmd.Flags().Bool("keep", false, "keep what is in the sandbox, for csctl sandbox up to go on with")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *keep {
			return stopSandbox(cmd.Context(), cmd.OutOrStdout(), *name)
		}
		dir, err := daemon.Dir(*name)
		if err != nil {
			return err
		}
		merged, err := mergedFiles(dir)
		if err != nil {
			return err
		}
		found, err := daemon.Down(cmd.Context(), *name)
		if err != nil {
			return err
		}
		if err := unmerge(cmd.Context(), dir, merged, cmd.OutOrStdout(), cmd.ErrOrStderr()); err != nil {
			return err
		}
		message := fmt.Sprintf("Sandbox %s is gone.", *name)
		if !found {
			message = doesNotRun(*name)
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), message)
		return err
	}
	return cmd
}

func stopSandbox(ctx context.Context, out io.Writer, name string) error {
	found, err := daemon.Stop(ctx, name)
	if err != nil {
		return err
	}
	message := fmt.Sprintf("Sandbox %s is stopped; csctl sandbox up%s goes on with it.", name, nameArgument(name))
	if !found {
		message = doesNotRun(name)
	}
	_, err = fmt.Fprintln(out, message)
	return err
}

func doesNotRun(name string) string {
	return fmt.Sprintf("Sandbox %s does not run%s", name, cmp.Or(otherSandboxes(name), "."))
}

// clusterStatus is what status shows of a workload cluster.
type clusterStatus struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Phase     string `json:"phase"`
	Available string `json:"available"`
	Class     string `json:"class,omitempty"`
	Version   string `json:"version,omitempty"`
}

// sandboxStatus is the output of status -o json.
type sandboxStatus struct {
	daemon.State `json:",inline"`
	Clusters     []clusterStatus `json:"clusters"`
	// ClustersError says why clusters could not be listed.
	ClustersError string `json:"clustersError,omitempty"`
}

func newSandboxStatusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the programs of a sandbox and its workload clusters",
		Example: `  csctl sandbox status
  csctl sandbox status -o json`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	name := nameFlag(cmd)
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		state, err := findSandbox(*name)
		if err != nil {
			return err
		}
		status := statusOf(cmd.Context(), state)
		if output.json() {
			return printJSON(cmd.OutOrStdout(), status)
		}
		return printStatus(cmd.OutOrStdout(), status, time.Now())
	}
	return cmd
}

// statusOf adds to the state of a sandbox what its API server knows.
func statusOf(ctx context.Context, state daemon.State) sandboxStatus {
	status := sandboxStatus{State: state, Clusters: []clusterStatus{}}
	if state.Phase != daemon.PhaseReady {
		return status
	}
	clusters, err := listClusters(ctx, state.Kubeconfig)
	if err != nil {
		status.ClustersError = err.Error()
		return status
	}
	status.Clusters = clusters
	return status
}

func printStatus(out io.Writer, s sandboxStatus, now time.Time) error {
	text := &strings.Builder{}
	writeHead(text, s, now, nil)
	if len(s.Components) > 0 {
		table := tabwriter.NewWriter(text, 0, 0, 2, ' ', 0)
		fmt.Fprint(table, "\nCOMPONENT\tSTATE\tPID\tADDRESS\tSINCE\tRESTARTS\n")
		for _, c := range s.Components {
			fmt.Fprintf(table, "%s\t%s\t%d\t%s\t%s\t%d\n", c.Name, c.State, c.PID, c.Address, age(c.Since, now), c.Restarts)
		}
		if err := table.Flush(); err != nil {
			return err
		}
	}
	if err := writeClusters(text, s, nil); err != nil {
		return err
	}
	_, err := io.WriteString(out, text.String())
	return err
}

// writeHead prints what a sandbox is, what to do when it is not ready, and further facts.
func writeHead(text *strings.Builder, s sandboxStatus, now time.Time, further [][2]string) {
	fmt.Fprintf(text, "Sandbox %s: %s", s.Name, s.Phase)
	var known [][2]string
	switch s.Phase {
	case daemon.PhaseReady, daemon.PhaseStarting:
		fmt.Fprintf(text, " for %s\n", age(s.Since, now))
		if s.Endpoint != "" {
			known = [][2]string{
				{"API server", fmt.Sprintf("%s (Kubernetes %s, Cluster API %s)", s.Endpoint, kubernetesVersion(s.State), s.Versions.ClusterAPI)},
				{"KUBECONFIG", s.Kubeconfig},
				{"Releases", s.Releases},
				{"Registry", s.Registry},
			}
		}
	default:
		fmt.Fprintln(text)
		if s.Error != "" {
			fmt.Fprintln(text, s.Error)
		}
		fmt.Fprintln(text, sentence(advice(s.State)))
	}
	facts(text, append(known, further...))
}

// writeClusters lists workload clusters, with their memory where it is known.
func writeClusters(text *strings.Builder, s sandboxStatus, memory map[string]int64) error {
	if s.ClustersError != "" {
		fmt.Fprintf(text, "\nClusters: %s\n", s.ClustersError)
	}
	if len(s.Clusters) == 0 {
		return nil
	}
	table := tabwriter.NewWriter(text, 0, 0, 2, ' ', 0)
	fmt.Fprint(table, "\nNAMESPACE\tCLUSTER\tCLASS\tVERSION\tPHASE\tAVAILABLE")
	if memory != nil {
		fmt.Fprint(table, "\tMEMORY")
	}
	fmt.Fprintln(table)
	for _, c := range s.Clusters {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s", c.Namespace, c.Name, c.Class, c.Version, c.Phase, c.Available)
		if memory != nil {
			fmt.Fprintf(table, "\t%s", mebibytes(memory[c.Namespace+"/"+c.Name]))
		}
		fmt.Fprintln(table)
	}
	return table.Flush()
}

// sentence begins with a capital letter and ends with a full stop.
func sentence(s string) string {
	if s == "" {
		return ""
	}
	return strings.ToUpper(s[:1]) + s[1:] + "."
}

// kubernetesVersion names the version that a management cluster runs, and the one that it behaves like.
func kubernetesVersion(s daemon.State) string {
	if s.Emulated == "" {
		return s.Versions.Kubernetes
	}
	return s.Emulated + " by " + s.Versions.Kubernetes
}

func age(since, now time.Time) string { return duration.HumanDuration(now.Sub(since)) }

// requestTimeout bounds requests to the API server of a sandbox, which may hang while it is restarted.
const requestTimeout = 10 * time.Second

func managementConfig(kubeconfig string) (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	config.Timeout = requestTimeout
	return config, nil
}

func listClusters(ctx context.Context, kubeconfig string) ([]clusterStatus, error) {
	config, err := managementConfig(kubeconfig)
	if err != nil {
		return nil, err
	}
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	list, err := client.Resource(schema.GroupVersionResource{Group: "cluster.x-k8s.io", Version: "v1beta2", Resource: "clusters"}).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	clusters := make([]clusterStatus, 0, len(list.Items))
	for _, c := range list.Items {
		clusters = append(clusters, describeCluster(c))
	}
	return clusters, nil
}

func describeCluster(c unstructured.Unstructured) clusterStatus {
	field := func(path ...string) string {
		s, _, _ := unstructured.NestedString(c.Object, path...)
		return s
	}
	status := clusterStatus{
		Namespace: c.GetNamespace(), Name: c.GetName(), Available: "Unknown",
		Phase:   field("status", "phase"),
		Class:   field("spec", "topology", "classRef", "name"),
		Version: field("spec", "topology", "version"),
	}
	if c.GetDeletionTimestamp() != nil {
		status.Phase = "Deleting"
	}
	conditions, _, _ := unstructured.NestedSlice(c.Object, "status", "conditions")
	for _, item := range conditions {
		if condition, ok := item.(map[string]any); ok && condition["type"] == "Available" {
			status.Available, _ = condition["status"].(string)
		}
	}
	return status
}

func newSandboxLogsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "logs [component]",
		Short: "Print the log of a program of a sandbox, or list what has a log",
		Long: `Print the log of a program of a sandbox, or list what has a log.

The process of the sandbox itself, with the simulator, has the log "sandbox".`,
		Example: `  csctl sandbox logs
  csctl sandbox logs capi-controller-manager -f
  csctl sandbox logs sandbox`,
		Args: cobra.MaximumNArgs(1),
	}
	name := nameFlag(cmd)
	follow := cmd.Flags().BoolP("follow", "f", false, "go on printing what is added, until interrupted")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		logs, err := logsOf(*name)
		if err != nil {
			return err
		}
		if len(logs) == 0 {
			if _, err := findSandbox(*name); err != nil {
				return err
			}
			return fmt.Errorf("sandbox %s has no logs yet", *name)
		}
		if len(args) == 0 {
			for _, l := range logs {
				if _, err := fmt.Fprintln(cmd.OutOrStdout(), l.component); err != nil {
					return err
				}
			}
			return nil
		}
		i := slices.IndexFunc(logs, func(l logFile) bool { return l.component == args[0] })
		if i < 0 {
			meant := ""
			if near := nearest(args[0], componentsOf(logs)); near != "" {
				meant = " did you mean " + near + "?"
			}
			return fmt.Errorf("%s has no log;%s csctl sandbox logs%s lists what has", args[0], meant, nameArgument(*name))
		}
		return copyLog(cmd.Context(), cmd.OutOrStdout(), logs[i].file, *follow)
	}
	cmd.ValidArgsFunction = func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		logs, err := logsOf(*name)
		if err != nil || len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return componentsOf(logs), cobra.ShellCompDirectiveNoFileComp
	}
	return cmd
}

// progress prints the steps of a sandbox as they end, and in a terminal the one that runs.
type progress struct {
	out  io.Writer
	live bool
}

func (p *progress) line(text string) {
	_, _ = fmt.Fprintln(p.out, "  "+text)
}

func (p *progress) event(e sandbox.Event) {
	const clearLine, green, red, plain = "\r\033[K", "\033[32m", "\033[31m", "\033[0m"
	start, ok, failed, end := "", "", "", ""
	if p.live {
		start, ok, failed, end = clearLine, green, red, plain
	}
	switch {
	case !e.Done && e.Detail != "":
		_, _ = fmt.Fprintf(p.out, "%s  %s: %s\n", start, e.Step, e.Detail)
	case !e.Done:
		if p.live {
			_, _ = fmt.Fprintf(p.out, "%s  … %s", start, e.Step)
		}
	case e.Error != "":
		_, _ = fmt.Fprintf(p.out, "%s  %s✗%s %s\n", start, failed, end, e.Step)
	default:
		_, _ = fmt.Fprintf(p.out, "%s  %s✓%s %-46s %6.1fs  %s\n", start, ok, end, e.Step, e.Took.Seconds(), e.Detail)
	}
}
