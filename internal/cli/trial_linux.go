// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/utils/ptr"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"github.com/clusterstacks/cluster-stack-operator/internal/build"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/render"
	"github.com/clusterstacks/cluster-stack-operator/internal/sample"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/daemon"
	"github.com/clusterstacks/cluster-stack-operator/internal/story"
	"github.com/clusterstacks/cluster-stack-operator/internal/trial"
)

type testOptions struct {
	previous, next       string
	cluster              string
	controlPlane, worker int32
	junit                string
	keep                 bool
	limit                time.Duration
	sandbox              daemon.Options
	name                 string
	place                placeFlags
	charts               chartOptions
}

// none switches off a part of a trial.
const none = "none"

func newTestCommand() *cobra.Command {
	var options testOptions
	cmd := &cobra.Command{
		Use:   "test <cluster-stack-dir>",
		Short: "Try a cluster stack in a sandbox: create a cluster, and upgrade it",
		Long: `Try a cluster stack in a sandbox.

The stack is built, and the operator and Cluster API do with it what they would do in production, on this machine: a
cluster is created from the release before, upgraded to this one, and then to the next minor of Kubernetes where there
is a stack for it. All addons are applied to real API servers; machines and kubelets are simulated. A step is done when
Cluster API says that the cluster is available and up to date, all stages of addons are done, and all nodes and pods are
ready.

What is told of each step: the objects that were added, changed and pruned, the machines that were replaced, what was not
healthy at its end, how long it took, and, where it failed, what complains of what.

The release before is the one that --previous names, or the newest stable one of the stack there. Without it the stack
itself under an earlier version stands in, so that what carries the version in its name is tried.

The Cluster is made up: the network, machines and worker classes as in most clusters, and a value for each variable that
has to be set. With --cluster it is yours, with whatever it needs beside it, such as Secrets. Its class and version are
filled in. Nodes that wait for a cloud controller manager are let go once a pod is ready that tolerates their taint by name.

Charts that the stack depends on are fetched as by csctl create.

` + placeHelp,
		Example: `  csctl test stacks/docker/starter/1-35
  csctl test stacks/openstack/starter/1-35 --crds ./openstack-crds --cluster ./cluster.yaml
  csctl test stacks/docker/starter/1-35 --previous oci://registry.example.org/kaas/cluster-stacks --junit report.xml`,
		Args: cobra.ExactArgs(1),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveFilterDirs
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&options.previous, "previous", "", "release to upgrade from, or the place to take the newest stable one from; none to begin with this one")
	flags.StringVar(&options.next, "next", "", "folder of the stack for the next minor of Kubernetes (default: the one beside this stack, if it is there); none for no upgrade to it")
	flags.StringVar(&options.cluster, "cluster", "", "file with the Cluster to try the stack with, and other objects that it needs")
	flags.Int32Var(&options.controlPlane, "control-plane-machines", 1, "machines of the control plane, unless --cluster says how many: 1, 3 or 5")
	flags.Int32Var(&options.worker, "worker-machines", 1, "machines of each class of workers, unless --cluster says how many")
	flags.StringVar(&options.junit, "junit", "", "file to write a report to in the format of JUnit")
	flags.StringArrayVar(&options.sandbox.CRDs, "crds", nil, "CustomResourceDefinitions of an infrastructure provider, as for csctl sandbox up; can be given several times")
	flags.StringVar(&options.sandbox.Operator, "operator", "", "path of the cluster-stack-operator to try it with (default: the one beside csctl)")
	flags.BoolVar(&options.keep, "keep", false, "leave the sandbox running, to look at what is in it")
	flags.StringVar(&options.name, "name", "", "name of the sandbox (default: a new one)")
	flags.DurationVar(&options.limit, "step-timeout", 5*time.Minute, "how long a step may take")
	options.place.register(cmd)
	options.charts.addFlags(flags)
	format := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return test(cmd.Context(), args[0], options, format.json(), cmd.OutOrStdout(), cmd.ErrOrStderr())
	}
	return cmd
}

// errTrialFailed is what csctl ends with when a trial came to its end and the stack did not pass.
var errTrialFailed = errors.New("the cluster stack did not pass")

func test(ctx context.Context, folder string, options testOptions, asJSON bool, stdout, stderr io.Writer) (err error) {
	progress := stdout
	if asJSON {
		progress = stderr
	}
	if err := resolvePaths(&options.sandbox); err != nil {
		return err
	}
	releases, err := os.MkdirTemp("", "csctl-test-")
	if err != nil {
		return err
	}
	if !options.keep {
		defer func() { err = errors.Join(err, os.RemoveAll(releases)) }()
	}
	plan, err := planTest(ctx, folder, releases, options)
	if err != nil {
		return err
	}
	objects, err := plan.objects(options)
	if err != nil {
		return err
	}
	tried := trial.Options{Namespace: testNamespace, Objects: objects, Steps: plan.steps, Limit: options.limit, Report: story.NewReport(progress)}
	if _, err := tried.Cluster(); err != nil {
		return fmt.Errorf("--cluster %s: %w", options.cluster, err)
	}

	options.name = cmp.Or(options.name, filepath.Base(releases)[len("csctl-"):])
	options.sandbox.Releases = releases
	state, err := startTest(ctx, options, progress)
	if err != nil {
		return err
	}
	if !options.keep {
		defer func() {
			_, down := daemon.Down(context.WithoutCancel(ctx), options.name)
			err = errors.Join(err, down)
		}()
	}
	config, err := managementConfig(state.Kubeconfig)
	if err != nil {
		return err
	}
	result, err := trial.Run(ctx, config, tried)
	if err != nil {
		return err
	}
	if err := reportTest(result, plan.stack, options.junit, asJSON, stdout); err != nil {
		return err
	}
	if options.keep {
		if _, err := fmt.Fprintf(progress, "\nThe sandbox goes on: csctl sandbox status --name %[1]s\nEnd it with csctl sandbox down --name %[1]s, and remove %[2]s\n", options.name, releases); err != nil {
			return err
		}
	}
	if !result.Passed {
		return errTrialFailed
	}
	return nil
}

const testNamespace = "csctl-test"

// startTest starts the sandbox of a trial, which has to be a new one: what is in it already would count for the stack.
func startTest(ctx context.Context, options testOptions, out io.Writer) (daemon.State, error) {
	p := &progress{out: out, live: isTerminal(out)}
	if _, err := daemon.Read(options.name); err == nil {
		return daemon.State{}, fmt.Errorf("there is a sandbox %[1]s already: choose another name, or end it with csctl sandbox down --name %[1]s", options.name)
	}
	state, _, err := daemon.Up(ctx, options.name, options.sandbox, serveCommand, daemon.Watcher{Line: p.line, Event: p.event, Timeout: 5 * time.Minute})
	return state, err
}

func reportTest(result trial.Result, stack, junit string, asJSON bool, stdout io.Writer) error {
	if junit != "" {
		var report bytes.Buffer
		if err := result.WriteJUnit(&report, stack); err != nil {
			return err
		}
		if err := os.WriteFile(junit, report.Bytes(), 0o644); err != nil {
			return fmt.Errorf("--junit: %w", err)
		}
	}
	if asJSON {
		return printJSON(stdout, result)
	}
	if _, err := fmt.Fprintln(stdout); err != nil {
		return err
	}
	return result.WriteText(stdout)
}

// testPlan is what a trial consists of.
type testPlan struct {
	stack string
	steps []trial.Step
	// first is the release that the cluster is created from.
	first *release.Release
}

// planTest builds the releases of a trial into a folder, and fetches the one before.
func planTest(ctx context.Context, folder, releases string, options testOptions) (plan testPlan, err error) {
	stack, err := readStack(folder)
	if err != nil {
		return testPlan{}, err
	}
	version := build.FirstVersions("").ClusterStack
	plan.stack = stack.Name(version).Prefix()
	add := func(rel *release.Release) {
		if plan.first == nil {
			plan.first = rel
		}
		plan.steps = append(plan.steps, trial.Step{Release: rel.Name, Kubernetes: rel.Metadata.Kubernetes})
	}
	switch options.previous {
	case none:
	case "":
		rel, err := buildForTest(ctx, stack, version, releases, options)
		if err != nil {
			return testPlan{}, err
		}
		add(rel)
		version.Major++
	default:
		rel, err := fetchForTest(ctx, stack, releases, options)
		if err != nil {
			return testPlan{}, fmt.Errorf("--previous: %w", err)
		}
		add(rel)
		version.Major = rel.Name.Version.Major + 1
	}
	rel, err := buildForTest(ctx, stack, version, releases, options)
	if err != nil {
		return testPlan{}, err
	}
	add(rel)

	next, err := nextStack(folder, stack, options.next)
	if err != nil || next == nil {
		return plan, err
	}
	if rel, err = buildForTest(ctx, next, build.FirstVersions("").ClusterStack, releases, options); err != nil {
		return testPlan{}, err
	}
	add(rel)
	return plan, nil
}

func buildForTest(ctx context.Context, stack *build.Stack, version release.Version, releases string, options testOptions) (*release.Release, error) {
	return buildInto(ctx, stack, build.Versions{ClusterStack: version, ClusterAddon: version, NodeImage: version}, &options.charts, releases)
}

// fetchForTest fetches the release that --previous names, or the newest stable one of the stack there.
func fetchForTest(ctx context.Context, stack *build.Stack, releases string, options testOptions) (*release.Release, error) {
	from, err := options.place.open(ctx, options.previous)
	if err != nil {
		return nil, err
	}
	name := from.release
	if name == (release.Name{}) {
		offers, err := from.source.List(ctx)
		if err != nil {
			return nil, err
		}
		var names []release.Name
		for _, offer := range offers {
			names = append(names, offer.Name)
		}
		var found bool
		if name, found = stack.Latest("", names); !found {
			return nil, fmt.Errorf("%s has no stable release of %s", from, stack.Name(build.FirstVersions("").ClusterStack).Prefix())
		}
	}
	folder := filepath.Join(releases, name.String())
	if err := os.Mkdir(folder, 0o755); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(folder)
	if err != nil {
		return nil, err
	}
	defer func() { _ = root.Close() }() // only read from by now
	if _, err := from.fetch(ctx, name, root); err != nil {
		return nil, err
	}
	return release.Open(os.DirFS(folder), name)
}

// nextStack returns the stack for the next minor of Kubernetes, nil if there is none: the one in the folder that was
// given, or the one of the same provider and name in a folder beside.
func nextStack(folder string, stack *build.Stack, given string) (*build.Stack, error) {
	version := build.FirstVersions("").ClusterStack
	wanted, err := stack.Name(version).NextMinor()
	if err != nil || given == none {
		return nil, err
	}
	if given != "" {
		next, err := readStack(given)
		if err == nil && next.Name(version) != wanted {
			err = fmt.Errorf("%s is %s, and the next minor of %s is %s", given, next.Name(version).Prefix(), folder, wanted.Prefix())
		}
		if err != nil {
			return nil, fmt.Errorf("--next: %w", err)
		}
		return next, nil
	}
	folder, err = filepath.Abs(folder)
	if err != nil {
		return nil, err
	}
	beside, err := filepath.Glob(filepath.Join(filepath.Dir(folder), "*", "csctl.yaml"))
	if err != nil {
		return nil, err
	}
	for _, file := range beside {
		// What cannot be read is no stack, and not what is to be tried.
		if next, err := readStack(filepath.Dir(file)); err == nil && next.Name(version) == wanted {
			return next, nil
		}
	}
	return nil, nil
}

// objects returns the Cluster, with what is to be there before it.
func (p testPlan) objects(options testOptions) ([]*unstructured.Unstructured, error) {
	if options.cluster != "" {
		return readObjects(options.cluster)
	}
	class, err := render.Class(p.first, testNamespace)
	if err != nil {
		return nil, err
	}
	full, err := sample.Of(p.first, class.Objects, sample.Options{})
	if err != nil {
		return nil, err
	}
	minimal, err := sample.Of(p.first, class.Objects, sample.Options{Minimal: true})
	if err != nil {
		return nil, err
	}
	cluster := &clusterv1.Cluster{TypeMeta: full.Cluster.TypeMeta}
	cluster.Name = "test"
	cluster.Spec.ClusterNetwork = clusterv1.ClusterNetwork{Pods: full.Cluster.Spec.ClusterNetwork.Pods, Services: full.Cluster.Spec.ClusterNetwork.Services}
	cluster.Spec.Topology.Variables = minimal.Cluster.Spec.Topology.Variables
	cluster.Spec.Topology.ControlPlane.Replicas = ptr.To(options.controlPlane)
	for _, d := range full.Cluster.Spec.Topology.Workers.MachineDeployments {
		d.Replicas = ptr.To(options.worker)
		cluster.Spec.Topology.Workers.MachineDeployments = append(cluster.Spec.Topology.Workers.MachineDeployments, d)
	}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(cluster)
	if err != nil {
		return nil, err
	}
	delete(content, "status")
	return []*unstructured.Unstructured{{Object: content}}, nil
}

func readObjects(file string) ([]*unstructured.Unstructured, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("--cluster: %w", err)
	}
	var objects []*unstructured.Unstructured
	for decoder := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096); ; {
		object := &unstructured.Unstructured{}
		if err := decoder.Decode(object); errors.Is(err, io.EOF) {
			return objects, nil
		} else if err != nil {
			return nil, fmt.Errorf("--cluster: read %s: %w", file, err)
		}
		if len(object.Object) > 0 {
			objects = append(objects, object)
		}
	}
}
