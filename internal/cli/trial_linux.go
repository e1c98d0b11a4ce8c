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
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/utils/ptr"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"github.com/clusterstacks/cluster-stack-operator/internal/build"
	"github.com/clusterstacks/cluster-stack-operator/internal/lint"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/render"
	"github.com/clusterstacks/cluster-stack-operator/internal/sample"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/crds"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/daemon"
	"github.com/clusterstacks/cluster-stack-operator/internal/source"
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

What csctl lint calls an error in the stack is told first, and nothing is tried then. Else the stack is built, and the operator and Cluster API do with it what they would do in production, on this machine: a
cluster is created from the release before, upgraded to this one, and then to the next minor of Kubernetes where there
is a stack for it. All addons are applied to real API servers; machines and kubelets are simulated. A step is done when
Cluster API says that the cluster is available and up to date, all stages of addons are done, and all nodes and pods are
ready.

What is told of each step: the objects that were added, changed and pruned, the machines that were replaced, what was not
healthy at its end, how long it took, and, where it failed, what complains of what. A step that is not done after
--step-timeout has failed.

The release before is the one that --previous names, or the newest stable one of the stack there, or else of the stack for
the minor of Kubernetes before; a folder with a stack is built. Without it the stack itself under an earlier version stands
in, so that what carries the version in its name is tried.

The Cluster is made up: the network, machines and worker classes as in most clusters, and a value for each variable that
has to be set. With --cluster it is yours, with whatever it needs beside it, such as Secrets. Its class and version are
filled in. Nodes that wait for a cloud controller manager are let go once a pod is ready that tolerates their taint by name.

Charts that the stack depends on, and those that the release before does not bring along, are fetched as by csctl create.

The exit code is 0 when all steps passed, 1 when the stack is at fault, and 2 when there is no answer. However it ends, even
killed, the sandbox is gone then, unless --keep was given, and the file of --junit says how far it came.

` + placeHelp,
		Example: `  csctl test stacks/docker/starter/1-35
  csctl test stacks/openstack/starter/1-35 --crds ./openstack-crds --cluster ./cluster.yaml
  csctl test stacks/docker/starter/1-35 --previous oci://registry.example.org/kaas/cluster-stacks --junit report.xml
  csctl test stacks/docker/starter/1-35 --previous ../main/stacks/docker/starter/1-35 --next none -o json`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: oneFolder,
	}
	flags := cmd.Flags()
	flags.StringVar(&options.previous, "previous", "", "release or folder of the stack to upgrade from, or the place to take the newest stable release from; none to begin with this one")
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
		return test(cmd.Context(), args[0], options, format.json(), cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr())
	}
	for _, flag := range []string{"previous", "next"} {
		mustComplete(cmd, flag, func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveFilterDirs
		})
	}
	mustComplete(cmd, "cluster", cobra.FixedCompletions([]string{"yaml", "yml", "json"}, cobra.ShellCompDirectiveFilterFileExt))
	mustComplete(cmd, "name", cobra.NoFileCompletions)
	mustComplete(cmd, "step-timeout", cobra.NoFileCompletions)
	mustComplete(cmd, "control-plane-machines", cobra.FixedCompletions([]string{"1", "3", "5"}, cobra.ShellCompDirectiveNoFileComp))
	mustComplete(cmd, "worker-machines", cobra.NoFileCompletions)
	return answering(cmd)
}

// errTrialFailed is what csctl ends with when the stack did not pass.
var errTrialFailed = &exitError{code: 1, err: errors.New("the cluster stack did not pass")}

func test(ctx context.Context, folder string, options testOptions, asJSON bool, stdin io.Reader, stdout, stderr io.Writer) (err error) {
	progress := stdout
	if asJSON {
		progress = stderr
	}
	if err := options.check(); err != nil {
		return err
	}
	forget, err := keepStdin(stdin, options.sandbox.CRDs)
	if err != nil {
		return err
	}
	defer forget()
	if err := resolvePaths(&options.sandbox); err != nil {
		return err
	}
	if len(options.sandbox.CRDs) > 0 {
		if _, err = crds.Read(options.sandbox.CRDs); err != nil {
			return fmt.Errorf("--crds: %w", err)
		}
	}
	// That of an earlier run would be taken for ours if we do not come to write one.
	if isFile(options.junit) {
		if err := os.Remove(options.junit); err != nil {
			return fmt.Errorf("--junit: %w", err)
		}
	}
	report := func(result trial.Result) error { return reportTest(result, options.junit, asJSON, stdout) }
	if result, err := lintForTest(ctx, folder, options); err != nil {
		return err
	} else if len(result.Findings) > 0 {
		return errors.Join(report(result), errTrialFailed)
	}

	work, err := newTestFolder(options.keep)
	if err != nil {
		return err
	}
	kept := false
	defer func() {
		if !kept {
			err = errors.Join(err, work.remove())
		}
	}()
	plan, err := planTest(ctx, folder, work.path, options)
	if err != nil {
		return err
	}
	objects, err := plan.objects(options)
	if err != nil {
		return err
	}
	tried := trial.Options{Stack: plan.stack, Namespace: testNamespace, Objects: objects, Steps: plan.steps, Limit: options.limit, Report: story.NewReport(progress)}
	tried.Report.Columns = columns(progress)
	if _, err := tried.Cluster(); err != nil {
		return fmt.Errorf("--cluster %s: %w", options.cluster, err)
	}
	if err := findOperator(&options.sandbox); err != nil {
		return err
	}
	charts, err := serveCharts(ctx, plan.charts)
	if err != nil {
		return err
	}
	defer charts.Close()

	// What is known at the end counts. Until then the file is for whoever has to kill us.
	result := trial.Untried(tried.Stack, tried.Steps)
	soFar := func(r trial.Result) {
		if info, err := os.Stat(options.junit); errors.Is(err, fs.ErrNotExist) || err == nil && info.Mode().IsRegular() {
			_ = writeJUnit(r, options.junit)
		}
	}
	soFar(result.Unfinished())
	tried.Told = soFar

	options.name = cmp.Or(options.name, "test"+filepath.Base(work.path)[strings.LastIndexByte(filepath.Base(work.path), '-'):])
	options.sandbox.Releases, options.sandbox.ChartMirrors, options.sandbox.Bound = work.path, charts.mirrors, !options.keep
	state, err := startTest(ctx, options, progress)
	if err != nil {
		result.Break(err)
		return errors.Join(report(result), err)
	}
	if kept = options.keep; !kept {
		defer func() {
			_, down := daemon.Down(context.WithoutCancel(ctx), options.name)
			err = errors.Join(err, down)
		}()
	}
	config, err := managementConfig(state.Kubeconfig)
	if err != nil {
		result.Break(err)
		return errors.Join(report(result), err)
	}
	result, err = trial.Run(ctx, config, tried)
	if err == nil && !result.Passed {
		err = errTrialFailed
	}
	err = errors.Join(report(result), err)
	if kept {
		_, told := fmt.Fprintf(progress, "\nThe sandbox goes on: csctl sandbox status --name %[1]s\nEnd it with csctl sandbox down --name %[1]s, and remove %[2]s\n", options.name, work.path)
		err = errors.Join(err, told)
	}
	return err
}

// check refuses what would fail only once the sandbox is there.
func (o *testOptions) check() error {
	switch {
	case !slices.Contains([]int32{1, 3, 5}, o.controlPlane):
		return fmt.Errorf("--control-plane-machines %d: there are 1, 3 or 5", o.controlPlane)
	case o.worker < 0:
		return fmt.Errorf("--worker-machines %d: there are none or more", o.worker)
	case o.limit <= 0:
		return fmt.Errorf("--step-timeout %s: a step takes a minute or two", o.limit)
	case o.sandbox.Operator == daemon.NoOperator:
		return fmt.Errorf("--operator %s: without the operator there is nothing to try", daemon.NoOperator)
	}
	if o.junit != "" {
		if info, err := os.Stat(filepath.Dir(o.junit)); err != nil || !info.IsDir() {
			return fmt.Errorf("--junit %s: there is no folder %s; create it first", o.junit, filepath.Dir(o.junit))
		}
	}
	if o.name == "" {
		return nil
	}
	_, err := daemon.Read(o.name)
	var none *daemon.NotRunningError
	switch {
	case err == nil:
		return fmt.Errorf("there is a sandbox %[1]s already: choose another name, or end it with csctl sandbox down --name %[1]s", o.name)
	case !errors.As(err, &none):
		return err
	}
	return nil
}

// findOperator finds the operator as the sandbox does, which does without where there is none.
func findOperator(o *daemon.Options) error {
	if o.Operator != "" {
		return nil
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if o.Operator = filepath.Join(filepath.Dir(self), "cluster-stack-operator"); !isFile(o.Operator) {
		return fmt.Errorf("there is no cluster-stack-operator beside %s: say with --operator where it is", self)
	}
	return nil
}

// testFolder is the folder that the releases of a trial are in.
type testFolder struct {
	path string
	held *os.File
}

// Folders of trials, and of those whose sandbox goes on. Others of the first kind that nobody holds are of a trial that was
// killed before it had a sandbox, which else removes them. What anybody may have called alike has no such file in it.
const (
	testFolderName = "csctl-trial-"
	keptFolderName = "csctl-kept-"
	testFolderMark = ".csctl-trial"
)

func newTestFolder(keep bool) (*testFolder, error) {
	stale, err := filepath.Glob(filepath.Join(os.TempDir(), testFolderName+"*"))
	if err != nil {
		return nil, err
	}
	for _, path := range stale {
		if !isFile(filepath.Join(path, testFolderMark)) {
			continue
		}
		if left, err := holdFolder(path); err == nil {
			_ = left.remove() // it may be another user's
		}
	}
	name := testFolderName
	if keep {
		name = keptFolderName
	}
	path, err := os.MkdirTemp("", name)
	if err != nil {
		return nil, err
	}
	// Nobody takes it for a stale one before it is held and marked.
	made, err := holdFolder(path)
	if err == nil {
		err = os.WriteFile(filepath.Join(path, testFolderMark), nil, 0o600)
	}
	return made, err
}

// holdFolder takes the lock of a folder, which ends with this process.
func holdFolder(path string) (*testFolder, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if _, err := os.Stat(path); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &testFolder{path, f}, nil
}

func (f *testFolder) remove() error { return errors.Join(os.RemoveAll(f.path), f.held.Close()) }

// lintForTest finds what would fail for sure in the stack, and in the next one, without a sandbox. Whether the fields of a
// provider's kinds are right is for the API server to say, which sees them with the values of the Cluster.
func lintForTest(ctx context.Context, folder string, options testOptions) (trial.Result, error) {
	result := trial.Result{Stack: filepath.Base(folder), Steps: []trial.StepResult{}}
	if !isFile(filepath.Join(folder, stackFile)) {
		_, err := readStack(folder)
		return result, err
	}
	folders := []string{folder}
	if stack, err := readStack(folder); err == nil {
		result.Stack = stack.Name(build.FirstVersions("").ClusterStack).Prefix()
		next, _, err := nextStack(folder, stack, options.next)
		if err != nil {
			return result, err
		}
		if next != "" {
			folders = append(folders, next)
		}
	}
	for _, folder := range folders {
		found, err := lintFolder(ctx, folder, lint.Options{Fetch: options.charts.fetch})
		if err != nil {
			return result, err
		}
		for _, f := range found.Findings {
			if f.Severity != lint.Error {
				continue
			}
			at := filepath.Join(folder, f.File)
			if f.Line > 0 {
				at = fmt.Sprintf("%s:%d", at, f.Line)
			}
			result.Findings = append(result.Findings, trial.Problem{Object: at, Message: fmt.Sprintf("%s [%s]; %s", f.Message, f.Rule, f.Mend)})
		}
	}
	return result, nil
}

const testNamespace = "csctl-test"

// startTest starts the sandbox of a trial, which has to be a new one: what is in it already would count for the stack.
func startTest(ctx context.Context, options testOptions, out io.Writer) (daemon.State, error) {
	p := &progress{out: out, live: isTerminal(out)}
	state, outcome, err := daemon.Up(ctx, options.name, options.sandbox, serveCommand, daemon.Watcher{Line: p.line, Event: p.event, Timeout: 5 * time.Minute})
	if err == nil && outcome != daemon.Started {
		err = fmt.Errorf("sandbox %s was started by somebody else meanwhile: choose another name", options.name)
	}
	return state, err
}

func reportTest(result trial.Result, junit string, asJSON bool, stdout io.Writer) error {
	var err error
	if asJSON {
		err = printJSON(stdout, result)
	} else if _, err = fmt.Fprintln(stdout); err == nil {
		err = result.WriteText(stdout)
	}
	return errors.Join(err, writeJUnit(result, junit))
}

// writeJUnit writes the report for continuous integration, if one is wanted.
func writeJUnit(result trial.Result, file string) error {
	if file == "" {
		return nil
	}
	var report bytes.Buffer
	if err := result.WriteJUnit(&report); err != nil {
		return err
	}
	if err := os.WriteFile(file, report.Bytes(), 0o644); err != nil {
		return fmt.Errorf("--junit: %w", err)
	}
	return nil
}

// testPlan is what a trial consists of.
type testPlan struct {
	stack string
	steps []trial.Step
	// first is the release that the cluster is created from.
	first *release.Release
	// charts are those that it does not bring along.
	charts []repositoryChart
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
		var rel *release.Release
		if isFile(filepath.Join(options.previous, stackFile)) {
			rel, err = buildPrevious(ctx, stack, version, releases, options)
		} else {
			rel, plan.charts, err = fetchForTest(ctx, stack, releases, options)
		}
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

	_, next, err := nextStack(folder, stack, options.next)
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

// buildPrevious builds the release before out of another folder with a stack, such as one of the main branch.
func buildPrevious(ctx context.Context, stack *build.Stack, version release.Version, releases string, options testOptions) (*release.Release, error) {
	before, err := readStack(options.previous)
	if err == nil {
		err = follows(before.Name(version), stack.Name(version))
	}
	if err != nil {
		return nil, err
	}
	return buildForTest(ctx, before, version, releases, options)
}

// follows refuses what Cluster API would: it upgrades by one minor version, and never goes back.
func follows(before, stack release.Name) error {
	next, err := before.NextMinor()
	if err == nil && stack.Kubernetes != before.Kubernetes && stack.Kubernetes != next.Kubernetes {
		err = fmt.Errorf("%s is for Kubernetes %s, from which no cluster can be upgraded to %s: name a release for %[3]s or the minor version before", before, before.Kubernetes, stack.Kubernetes)
	}
	return err
}

// fetchForTest fetches the release that --previous names, or the newest stable one of the stack there, with the charts that
// it does not bring along.
func fetchForTest(ctx context.Context, stack *build.Stack, releases string, options testOptions) (*release.Release, []repositoryChart, error) {
	from, err := options.place.open(ctx, options.previous)
	if err != nil {
		return nil, nil, err
	}
	this := stack.Name(build.FirstVersions("").ClusterStack)
	name := from.release
	if name == (release.Name{}) {
		offers, err := from.source.List(ctx)
		if err != nil {
			return nil, nil, err
		}
		var found bool
		if name, found = newestBefore(this, offers); !found {
			return nil, nil, fmt.Errorf("%s has no stable release of %s, nor of the minor version before: for the first one give --previous %s", from, this.Prefix(), none)
		}
	}
	if err := follows(name, this); err != nil {
		return nil, nil, err
	}
	folder := filepath.Join(releases, name.String())
	if err := os.Mkdir(folder, 0o755); err != nil {
		return nil, nil, err
	}
	root, err := os.OpenRoot(folder)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = root.Close() }() // only read from by now
	if _, err := from.fetch(ctx, name, root); err != nil {
		return nil, nil, err
	}
	rel, err := release.Open(os.DirFS(folder), name)
	if err != nil {
		return nil, nil, err
	}
	beside, err := from.shelf(options.place, options.charts.mirrors)
	if err != nil {
		return nil, nil, err
	}
	return completeForTest(ctx, fetched{release: rel, folder: folder}, beside)
}

// newestBefore returns the newest stable release of a stack, or else of the same stack for the minor version before.
func newestBefore(stack release.Name, offers []source.Offer) (newest release.Name, found bool) {
	for _, offer := range offers {
		name := offer.Name
		next, err := name.NextMinor()
		same := name.Prefix() == stack.Prefix()
		next.Version, name.Version = stack.Version, offer.Name.Version
		if err != nil || name.Version.Channel != "" || !same && next.Prefix() != stack.Prefix() {
			continue
		}
		order, _ := name.Version.Compare(newest.Version)
		if !found || same && newest.Prefix() != stack.Prefix() || same == (newest.Prefix() == stack.Prefix()) && order > 0 {
			newest, found = name, true
		}
	}
	return newest, found
}

// nextStack returns the stack for the next minor of Kubernetes, and its folder; none if there is none: the one in the
// folder that was given, or the one of the same provider and name in a folder beside.
func nextStack(folder string, stack *build.Stack, given string) (string, *build.Stack, error) {
	version := build.FirstVersions("").ClusterStack
	wanted, err := stack.Name(version).NextMinor()
	if err != nil || given == none {
		return "", nil, err
	}
	if given != "" {
		next, err := readStack(given)
		if err == nil && next.Name(version) != wanted {
			err = fmt.Errorf("%s is %s, and the next minor of %s is %s", given, next.Name(version).Prefix(), folder, wanted.Prefix())
		}
		if err != nil {
			return "", nil, fmt.Errorf("--next: %w", err)
		}
		return given, next, nil
	}
	beside, err := filepath.Glob(filepath.Join(folder, "..", "*", stackFile))
	if err != nil {
		return "", nil, err
	}
	for _, file := range beside {
		// What cannot be read is no stack, and not what is to be tried.
		if next, err := readStack(filepath.Dir(file)); err == nil && next.Name(version) == wanted {
			return filepath.Dir(file), next, nil
		}
	}
	return "", nil, nil
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
		items := []unstructured.Unstructured{*object}
		switch {
		case len(object.Object) == 0:
			continue
		case object.IsList():
			list, err := object.ToList()
			if err != nil {
				return nil, fmt.Errorf("--cluster: read %s: %w", file, err)
			}
			items = list.Items
		}
		for i := range items {
			strip(&items[i])
			objects = append(objects, &items[i])
		}
	}
}

// strip takes out of an object what belongs to the management cluster that it was read from: what the API server and
// controllers have written.
func strip(object *unstructured.Unstructured) {
	for _, field := range []string{"uid", "resourceVersion", "generation", "creationTimestamp", "managedFields", "ownerReferences", "finalizers"} {
		unstructured.RemoveNestedField(object.Object, "metadata", field)
	}
	delete(object.Object, "status")
	// A Cluster that has these already looks for objects that are not there.
	if _, made, _ := unstructured.NestedFieldNoCopy(object.Object, "spec", "controlPlaneRef"); made && object.GetKind() == clusterv1.ClusterKind {
		for _, field := range []string{"controlPlaneRef", "infrastructureRef", "controlPlaneEndpoint"} {
			unstructured.RemoveNestedField(object.Object, "spec", field)
		}
	}
}
