// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/daemon"
)

// nameVariable says which sandbox is meant where --name does not.
const nameVariable = "CLUSTER_STACK_SANDBOX_NAME"

const defaultName = "default"

// nameFlag lets a command ask which sandbox is meant.
func nameFlag(cmd *cobra.Command) *string {
	name := cmd.Flags().String("name", defaultName, "name of the sandbox; sandboxes of different names run side by side. "+nameVariable+" changes the default")
	*name = unnamed()
	mustComplete(cmd, "name", completeNames)
	return name
}

// unnamed is the sandbox that is meant when nothing is said.
func unnamed() string { return cmp.Or(os.Getenv(nameVariable), defaultName) }

// nameArgument is what to append to a command line for a sandbox.
func nameArgument(name string) string {
	if name == unnamed() {
		return ""
	}
	return " --name " + name
}

// findSandbox reads the state of a sandbox, in whatever phase it is. When there is none the error says which there are.
func findSandbox(name string) (daemon.State, error) {
	state, err := daemon.Read(name)
	var absent *daemon.NotRunningError
	if errors.As(err, &absent) {
		return state, fmt.Errorf("sandbox %s does not run; start it with csctl sandbox up%s%s", name, nameArgument(name), otherSandboxes(name))
	}
	return state, err
}

// otherSandboxes adds to a message what may have been meant by a name that no sandbox has.
func otherSandboxes(name string) string {
	names, err := daemon.Names()
	if err != nil { // it was to be a help only
		return ""
	}
	names = slices.DeleteFunc(names, func(n string) bool { return n == name })
	if len(names) == 0 {
		return ""
	}
	if near := nearest(name, names); near != "" {
		return fmt.Sprintf("; did you mean --name %s?", near)
	}
	return "; there are the sandboxes " + strings.Join(names, ", ")
}

// readySandbox reads the state of a sandbox that answers requests.
func readySandbox(name string) (daemon.State, error) {
	state, err := findSandbox(name)
	if err != nil {
		return state, err
	}
	if state.Phase != daemon.PhaseReady {
		return state, fmt.Errorf("sandbox %s is %s: %s", name, strings.ToLower(state.Phase), advice(state))
	}
	return state, nil
}

// advice says what to do about a sandbox that is not ready, and nothing about one that is.
func advice(s daemon.State) string {
	again := "csctl sandbox up" + nameArgument(s.Name)
	remove := "csctl sandbox down" + nameArgument(s.Name)
	if s.Lasting {
		again += " goes on with it"
	} else {
		again += " starts it again"
	}
	switch s.Phase {
	case daemon.PhaseReady:
		return ""
	case daemon.PhaseStarting:
		return "wait until csctl sandbox up is done"
	case daemon.PhaseFailed:
		return fmt.Sprintf("it did not come up; csctl sandbox logs%s shows why, %s, %s removes it", nameArgument(s.Name), again, remove)
	case daemon.PhaseDead:
		return fmt.Sprintf("its process was killed, and its programs with it; %s, %s removes it", again, remove)
	case daemon.PhaseStopped:
		return fmt.Sprintf("it was stopped and kept; %s, %s removes it", again, remove)
	}
	return fmt.Sprintf("%s, %s removes it", again, remove)
}

// nearest is the candidate that a word was most likely meant to be, or "" when none resembles it.
func nearest(word string, candidates []string) string {
	const most = 2 // slips of the finger
	best, distance := "", most+1
	for _, c := range candidates {
		if d := editDistance(word, c); d < distance && d < len(word) {
			best, distance = c, d
		}
	}
	return best
}

// editDistance counts the letters to change, add or leave out on the way from one word to another.
func editDistance(from, to string) int {
	row := make([]int, len(to)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(from) {
		diagonal := row[0]
		row[0]++
		for j := range len(to) {
			change := diagonal
			if from[i] != to[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, diagonal+1)
		}
	}
	return row[len(to)]
}

func completeNames(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	names, err := daemon.Names()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// completeClusters completes NAMESPACE/NAME of a workload cluster of the sandbox that is meant.
func completeClusters(name *string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		names, err := clusterNames(cmd.Context(), *name)
		if err != nil || len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// parseCluster reads NAMESPACE/NAME.
func parseCluster(cluster string) (namespace, name string, err error) {
	namespace, name, ok := strings.Cut(cluster, "/")
	if !ok || namespace == "" || name == "" || strings.Contains(name, "/") {
		return "", "", fmt.Errorf("%s: give it as namespace/name", cluster)
	}
	return namespace, name, nil
}

// noSuchCluster says that a sandbox has no cluster of that name, and which one was likely meant.
func noSuchCluster(ctx context.Context, sandbox, cluster string) error {
	meant := ""
	if near := nearestCluster(ctx, sandbox, cluster); near != "" {
		meant = fmt.Sprintf("; did you mean %s?", near)
	}
	return fmt.Errorf("sandbox %s has no cluster %s%s; csctl sandbox status%s lists the clusters", sandbox, cluster, meant, nameArgument(sandbox))
}

// nearestCluster is the cluster that was likely meant by a name that no cluster has.
func nearestCluster(ctx context.Context, sandbox, cluster string) string {
	names, err := clusterNames(ctx, sandbox)
	if err != nil || slices.Contains(names, cluster) { // it was to be a help only
		return ""
	}
	return nearest(cluster, names)
}

// clusterNames lists the clusters of a sandbox as NAMESPACE/NAME.
func clusterNames(ctx context.Context, sandbox string) ([]string, error) {
	state, err := readySandbox(sandbox)
	if err != nil {
		return nil, err
	}
	clusters, err := listClusters(ctx, state.Kubeconfig)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(clusters))
	for i, c := range clusters {
		names[i] = c.Namespace + "/" + c.Name
	}
	return names, nil
}
