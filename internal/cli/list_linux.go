// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/daemon"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/process"
)

// sandboxSummary is a row of list.
type sandboxSummary struct {
	Name  string `json:"name"`
	Phase string `json:"phase"`
	// Error says why a sandbox failed, or what could not be found out about it.
	Error string `json:"error,omitempty"`
	// Advice says what to do about a sandbox that is not ready.
	Advice     string    `json:"advice,omitempty"`
	Since      time.Time `json:"since,omitzero"`
	Kubernetes string    `json:"kubernetes,omitempty"`
	Addresses  string    `json:"addresses,omitempty"`
	Kubeconfig string    `json:"kubeconfig,omitempty"`
	// Clusters counts workload clusters; it is absent when the sandbox cannot be asked.
	Clusters *int `json:"clusters,omitempty"`
	// MemoryBytes is what all its processes take; what they share is counted once.
	MemoryBytes int64 `json:"memoryBytes"`
}

// phaseUnknown is that of a sandbox whose state cannot be read.
const phaseUnknown = "Unknown"

func newSandboxListCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the sandboxes of this user, also those that do not run any more",
		Example: `  csctl sandbox list
  csctl sandbox list -o json`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		names, err := daemon.Names()
		if err != nil {
			return err
		}
		sandboxes := make([]sandboxSummary, len(names))
		var all errgroup.Group
		for i, name := range names {
			all.Go(func() error {
				sandboxes[i] = summarize(cmd.Context(), name)
				return nil
			})
		}
		_ = all.Wait() // what went wrong stands in the summaries
		if output.json() {
			return printJSON(cmd.OutOrStdout(), struct {
				Sandboxes []sandboxSummary `json:"sandboxes"`
			}{sandboxes})
		}
		return printSandboxes(cmd.OutOrStdout(), sandboxes, time.Now())
	}
	return cmd
}

func summarize(ctx context.Context, name string) sandboxSummary {
	state, err := daemon.Read(name)
	if err != nil {
		s := sandboxSummary{Name: name, Phase: phaseUnknown, Error: err.Error()}
		if absent := (*daemon.NotRunningError)(nil); errors.As(err, &absent) {
			s.Error, s.Advice = "something is left of it, but not its state", "csctl sandbox down"+nameArgument(name)+" removes it"
		}
		return s
	}
	s := sandboxSummary{
		Name: name, Phase: state.Phase, Error: state.Error, Advice: advice(state), Since: state.Since,
		Kubernetes: kubernetesVersion(state), Addresses: state.Addresses, Kubeconfig: state.Kubeconfig,
	}
	var problems []error
	if state.Phase == daemon.PhaseReady {
		clusters, err := listClusters(ctx, state.Kubeconfig)
		if err == nil {
			count := len(clusters)
			s.Clusters = &count
		}
		problems = append(problems, err)
	}
	memory, err := memoryOf(state)
	s.MemoryBytes = memory
	if err := errors.Join(append(problems, err)...); err != nil && s.Error == "" {
		s.Error = err.Error()
	}
	return s
}

// memoryOf adds up what the processes of a sandbox take.
func memoryOf(state daemon.State) (bytes int64, err error) {
	running, err := processesOf(state)
	for _, p := range running {
		bytes += p.Memory
	}
	return bytes, err
}

// processesOf lists the processes of a sandbox, its own first.
func processesOf(state daemon.State) ([]process.Running, error) {
	dir, err := daemon.Dir(state.Name)
	if err != nil {
		return nil, err
	}
	pids, err := process.Marked(dir)
	if err != nil {
		return nil, err
	}
	if state.Phase == daemon.PhaseReady || state.Phase == daemon.PhaseStarting {
		pids = append([]int{state.PID}, pids...)
	}
	return process.LookAll(pids)
}

func printSandboxes(out io.Writer, sandboxes []sandboxSummary, now time.Time) error {
	if len(sandboxes) == 0 {
		_, err := fmt.Fprintln(out, "There are no sandboxes; csctl sandbox up starts one.")
		return err
	}
	text := &strings.Builder{}
	table := tabwriter.NewWriter(text, 0, 0, 2, ' ', 0)
	fmt.Fprint(table, "NAME\tPHASE\tAGE\tKUBERNETES\tCLUSTERS\tMEMORY\tADDRESSES\n")
	for _, s := range sandboxes {
		clusters := "-"
		if s.Clusters != nil {
			clusters = fmt.Sprint(*s.Clusters)
		}
		since := "-"
		if !s.Since.IsZero() {
			since = age(s.Since, now)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", s.Name, s.Phase, since, orDash(s.Kubernetes), clusters, mebibytes(s.MemoryBytes), orDash(s.Addresses))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, s := range sandboxes {
		if s.Error != "" {
			fmt.Fprintf(text, "\n%s: %s\n", s.Name, firstLine(s.Error))
		}
		if s.Advice != "" {
			fmt.Fprintf(text, "\n%s: %s\n", s.Name, s.Advice)
		}
	}
	_, err := io.WriteString(out, text.String())
	return err
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// mebibytes prints memory in a table.
func mebibytes(bytes int64) string { return orDash(amount(bytes)) }

// amount prints memory for people, and nothing for none.
func amount(bytes int64) string {
	if bytes == 0 {
		return ""
	}
	return fmt.Sprintf("%d MiB", (bytes+1<<19)>>20)
}
