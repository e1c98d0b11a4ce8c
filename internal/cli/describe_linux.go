// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/daemon"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/inspect"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/simulator/infra"
)

func newSandboxDescribeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "describe [namespace/cluster]",
		Short: "Tell all about a sandbox, or about a workload cluster in it",
		Long: `Tell all about a sandbox, or about a workload cluster in it: its machines, its programs with what they answer when
they are asked, its addons, the failures that are being rehearsed, and what is in the way.`,
		Example: `  csctl sandbox describe
  csctl sandbox describe default/my-cluster
  csctl sandbox describe default/my-cluster -o json`,
		Args: cobra.MaximumNArgs(1),
	}
	name := nameFlag(cmd)
	output := outputFlag(cmd)
	cmd.ValidArgsFunction = completeClusters(name)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx, out := cmd.Context(), cmd.OutOrStdout()
		if len(args) == 0 {
			description, err := describeSandbox(ctx, *name)
			if err != nil {
				return err
			}
			if output.json() {
				return printJSON(out, description)
			}
			return printSandbox(out, description, time.Now())
		}
		cluster, err := describeWorkload(ctx, *name, args[0])
		if err != nil {
			return err
		}
		if output.json() {
			return printJSON(out, cluster)
		}
		return printCluster(out, cluster, time.Now())
	}
	return cmd
}

// sandboxDescription is the output of describe -o json.
type sandboxDescription struct {
	sandboxStatus
	Advice string `json:"advice,omitempty"`
	// MemoryBytes is what all its processes take, those of workload clusters included.
	MemoryBytes int64 `json:"memoryBytes"`
	// ProcessMemory is what one process takes, by its id.
	ProcessMemory map[int]int64 `json:"-"`
	// ClusterMemory is what the processes of a workload cluster take, in bytes by NAMESPACE/CLUSTER.
	ClusterMemory map[string]int64 `json:"clusterMemoryBytes,omitempty"`
	// Failures that are being rehearsed, by NAMESPACE/CLUSTER.
	Failures map[string][]inspect.Failure `json:"failures,omitempty"`
	Logs     string                       `json:"logs"`
	// Merged are the kubeconfig files of the user that lead to it.
	Merged []string `json:"mergedInto,omitempty"`
}

func describeSandbox(ctx context.Context, name string) (sandboxDescription, error) {
	state, err := findSandbox(name)
	if err != nil {
		return sandboxDescription{}, err
	}
	dir, err := daemon.Dir(name)
	if err != nil {
		return sandboxDescription{}, err
	}
	d := sandboxDescription{
		sandboxStatus: statusOf(ctx, state), Advice: advice(state),
		ProcessMemory: map[int]int64{}, ClusterMemory: map[string]int64{}, Logs: filepath.Join(dir, "logs"),
	}
	running, err := processesOf(state)
	if err != nil {
		return d, err
	}
	// The kernel tells of folders without links on the way to them.
	resolved, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return d, err
	}
	for _, p := range running {
		d.ProcessMemory[p.PID] = p.Memory
		d.MemoryBytes += p.Memory
		if cluster := clusterOf(resolved, p.Dir); cluster != "" {
			d.ClusterMemory[cluster] += p.Memory
		}
	}
	if d.Merged, err = mergedFiles(dir); err != nil {
		return d, err
	}
	if state.Phase != daemon.PhaseReady || d.ClustersError != "" {
		return d, nil
	}
	config, err := managementConfig(state.Kubeconfig)
	if err != nil {
		return d, err
	}
	reader, err := inspect.Client(config)
	if err != nil {
		return d, err
	}
	d.Failures, err = inspect.Failures(ctx, reader, "")
	return d, err
}

// machinesFolder, in the state folder of a sandbox, has NAMESPACE/CLUSTER/ for each workload cluster.
const machinesFolder = "machines"

// clusterOf tells which workload cluster, as NAMESPACE/NAME, has a folder; none for folders of the management side.
func clusterOf(sandbox, folder string) string {
	rel, err := filepath.Rel(filepath.Join(sandbox, machinesFolder), folder)
	parts := strings.Split(rel, string(filepath.Separator))
	if err != nil || len(parts) < 2 || parts[0] == ".." {
		return ""
	}
	return parts[0] + "/" + parts[1]
}

func describeWorkload(ctx context.Context, sandbox, cluster string) (inspect.Cluster, error) {
	namespace, name, err := parseCluster(cluster)
	if err != nil {
		return inspect.Cluster{}, fmt.Errorf("cluster %w", err)
	}
	state, err := readySandbox(sandbox)
	if err != nil {
		return inspect.Cluster{}, err
	}
	dir, err := daemon.Dir(sandbox)
	if err != nil {
		return inspect.Cluster{}, err
	}
	config, err := managementConfig(state.Kubeconfig)
	if err != nil {
		return inspect.Cluster{}, err
	}
	reader, err := inspect.Client(config)
	if err != nil {
		return inspect.Cluster{}, err
	}
	description, err := inspect.Describe(ctx, reader, types.NamespacedName{Namespace: namespace, Name: name}, filepath.Join(dir, machinesFolder, namespace, name))
	if apierrors.IsNotFound(err) {
		return description, noSuchCluster(ctx, sandbox, cluster)
	}
	if description.Size == "" { // then it is as the sandbox makes them
		description.Size = infra.ControlPlaneFull
		if ptr.Deref(state.Settings.Lite, false) {
			description.Size = infra.ControlPlaneLite
		}
	}
	return description, err
}

// flagsOf gives settings as one would type them for csctl sandbox up.
func flagsOf(s daemon.Options) string {
	var flags []string
	for _, path := range s.CRDs {
		flags = append(flags, "--crds "+path)
	}
	for _, f := range []struct{ name, value string }{{"kubernetes", s.Kubernetes}, {"operator", s.Operator}, {"releases", s.Releases}} {
		if f.value != "" {
			flags = append(flags, "--"+f.name+" "+f.value)
		}
	}
	for _, f := range []struct {
		name  string
		value *bool
	}{{"registry", s.Registry}, {"lite", s.Lite}} {
		if f.value != nil {
			flags = append(flags, fmt.Sprintf("--%s=%t", f.name, *f.value))
		}
	}
	return strings.Join(flags, " ")
}

func printSandbox(out io.Writer, d sandboxDescription, now time.Time) error {
	text := &strings.Builder{}
	writeHead(text, d.sandboxStatus, now, [][2]string{
		{"Settings", flagsOf(d.Settings)},
		{"Addresses", d.Addresses},
		{"Memory", amount(d.MemoryBytes)},
		{"Logs", d.Logs},
		{"Merged into", strings.Join(d.Merged, ", ")},
	})
	table := tabwriter.NewWriter(text, 0, 0, 2, ' ', 0)
	if len(d.Components) > 0 {
		fmt.Fprint(table, "\nPROGRAM\tSTATE\tPID\tSINCE\tRESTARTS\tMEMORY\tADDRESS\n")
		for _, c := range d.Components {
			fmt.Fprintf(table, "%s\t%s\t%d\t%s\t%d\t%s\t%s\n", c.Name, c.State, c.PID, age(c.Since, now), c.Restarts, mebibytes(d.ProcessMemory[c.PID]), orDash(c.Address))
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, c := range d.Components {
		if c.LastError != "" {
			fmt.Fprintf(text, "\n%s ended before: %s\n", c.Name, indent(c.LastError))
		}
	}
	if err := writeClusters(text, d.sandboxStatus, d.ClusterMemory); err != nil {
		return err
	}
	clusters := make([]string, 0, len(d.Failures))
	for cluster := range d.Failures {
		clusters = append(clusters, cluster)
	}
	slices.Sort(clusters)
	for _, cluster := range clusters {
		if err := writeFailures(text, "Failures in "+cluster, d.Failures[cluster]); err != nil {
			return err
		}
	}
	_, err := io.WriteString(out, text.String())
	return err
}

func printCluster(out io.Writer, c inspect.Cluster, now time.Time) error {
	text := &strings.Builder{}
	fmt.Fprintf(text, "Cluster %s/%s: %s\n", c.Namespace, c.Name, cmp.Or(c.Phase, "Unknown"))
	facts(text, [][2]string{
		{"Class", c.Class},
		{"Kubernetes", c.Version},
		{"Size", c.Size},
		{"Endpoint", c.Endpoint},
		{"Etcd", c.SharedEtcd},
		{"Memory", amount(c.MemoryBytes)},
		{"Logs", c.Logs},
	})
	writeProblems(text, "", c.Problems)

	table := tabwriter.NewWriter(text, 0, 0, 2, ' ', 0)
	if len(c.Machines) > 0 {
		fmt.Fprint(table, "\nMACHINE\tROLE\tVERSION\tADDRESS\tPHASE\tNODE READY\n")
		for _, m := range c.Machines {
			role := "worker"
			if m.ControlPlane {
				role = "control plane"
			}
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", m.Name, role, orDash(m.Version), orDash(m.Address), orDash(m.Phase), orDash(m.NodeReady))
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, m := range c.Machines {
		writeProblems(text, m.Name+": ", m.Problems)
	}
	if len(c.Pools) > 0 {
		fmt.Fprint(table, "\nMACHINE POOL\tVERSION\tPHASE\tWANTED\tREPLICAS\tREADY\n")
		for _, p := range c.Pools {
			fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%d\t%d\n", p.Name, orDash(p.Version), orDash(p.Phase), p.Wanted, p.Replicas, p.Ready)
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if len(c.Programs) > 0 {
		fmt.Fprint(table, "\nPROGRAM\tMACHINE\tSTATE\tPID\tSINCE\tMEMORY\tADDRESS\tHEALTH\n")
		for _, p := range c.Programs {
			pid, since := "-", "-"
			if p.PID != 0 {
				pid, since = fmt.Sprint(p.PID), age(p.Since, now)
			}
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", p.Name, orDash(p.Machine), p.State, pid, since, mebibytes(p.MemoryBytes), orDash(p.Address), orDash(p.Health))
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if a := c.Addons; a != nil {
		if err := writeAddons(text, *a); err != nil {
			return err
		}
	}
	if err := writeFailures(text, "Failures", c.Failures); err != nil {
		return err
	}
	_, err := io.WriteString(out, text.String())
	return err
}

func writeAddons(text *strings.Builder, a inspect.Addons) error {
	state := "ready"
	if !a.Ready {
		state = "not ready"
		if a.Message != "" {
			state += ": " + a.Message
		}
	}
	fmt.Fprintf(text, "\nAddons: %s\n", state)
	facts(text, [][2]string{{"Applied", a.Applied}, {"Target", a.Target}})
	table := tabwriter.NewWriter(text, 0, 0, 2, ' ', 0)
	if len(a.Stages) > 0 {
		fmt.Fprint(table, "\nADDON\tPHASE\tMESSAGE\n")
		for _, s := range a.Stages {
			fmt.Fprintf(table, "%s\t%s\t%s\n", s.Name, orDash(s.Phase), orDash(firstLine(s.Message)))
		}
	}
	return table.Flush()
}

func writeFailures(text *strings.Builder, title string, failures []inspect.Failure) error {
	if len(failures) == 0 {
		return nil
	}
	fmt.Fprintf(text, "\n%s that are being rehearsed:\n", title)
	table := tabwriter.NewWriter(text, 0, 0, 2, ' ', 0)
	fmt.Fprint(table, "NAME\tTYPE\tACTIVE\tMESSAGE\n")
	for _, f := range failures {
		fmt.Fprintf(table, "%s\t%s\t%t\t%s\n", f.Name, f.Type, f.Active, orDash(firstLine(f.Message)))
	}
	return table.Flush()
}

// writeProblems prints conditions that are not as they should be. Their messages may have several lines.
func writeProblems(text *strings.Builder, about string, problems []inspect.Condition) {
	for _, p := range problems {
		fmt.Fprintf(text, "\n%s%s is %s (%s)\n", about, p.Type, p.Status, p.Reason)
		if p.Message != "" {
			fmt.Fprintf(text, "  %s\n", indent(p.Message))
		}
	}
}

func indent(lines string) string {
	return strings.ReplaceAll(strings.TrimSpace(lines), "\n", "\n  ")
}

// facts prints names and values below each other, without those that have no value.
func facts(text *strings.Builder, all [][2]string) {
	width := 0
	for _, f := range all {
		if f[1] != "" {
			width = max(width, len(f[0])+1)
		}
	}
	for _, f := range all {
		if f[1] != "" {
			fmt.Fprintf(text, "%-*s %s\n", width, f[0]+":", f[1])
		}
	}
}
