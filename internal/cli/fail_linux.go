// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/failure"
)

// failKinds are what a person types for the types of failures, and what goes wrong then.
var failKinds = []struct {
	name string
	kind failure.Type
	help string
}{
	{"machine-missing", failure.MachineMissing, "the provider does not make the machine; late, with --delay"},
	{"node-missing", failure.NodeMissing, "the machine is there but does not join; late, with --delay"},
	{"machine-dead", failure.MachineDead, "the machine is switched off; it boots when it heals"},
	{"infra-machine-error", failure.InfraMachineError, "the provider reports an error for the machine"},
	{"infra-cluster-error", failure.InfraClusterError, "the provider reports an error for the cluster"},
	{"pod-not-ready", failure.PodNotReady, "readiness probes fail"},
	{"pod-crash-loop", failure.PodCrashLoop, "containers end as soon as they start"},
	{"pod-image-pull", failure.PodImagePull, "images of new pods cannot be pulled"},
	{"etcd-down", failure.EtcdDown, "etcd is killed whenever it starts"},
	{"etcd-hung", failure.EtcdHung, "etcd stands still"},
	{"etcd-slow", failure.EtcdSlow, "etcd stands still for --delay, again and again"},
	{"api-server-down", failure.APIServerDown, "the API server is killed whenever it starts"},
	{"api-server-hung", failure.APIServerHung, "the API server stands still"},
	{"api-server-slow", failure.APIServerSlow, "the API server stands still for --delay, again and again"},
	{"load-balancer-refuses", failure.LoadBalancerRefuses, "new connections are reset"},
	{"load-balancer-silent", failure.LoadBalancerSilent, "new connections get no answer"},
	{"load-balancer-resets", failure.LoadBalancerResets, "all connections are reset, again after each --delay"},
}

// failFlags are those of csctl sandbox fail.
type failFlags struct {
	cluster      string
	machines     []string
	role         string
	count        int32
	pods         []string
	podNamespace string
	container    string
	selector     string
	duration     time.Duration
	delay        time.Duration
	percent      int32
	seed         int64
	reason       string
	message      string
	terminal     bool
	exitCode     int32
}

func newSandboxFailCommand() *cobra.Command {
	kinds := make([]string, len(failKinds))
	var help strings.Builder
	for i, k := range failKinds {
		kinds[i] = k.name + "\t" + k.help
		fmt.Fprintf(&help, "  %-22s %s\n", k.name, k.help)
	}
	cmd := &cobra.Command{
		Use:   "fail kind --cluster namespace/name",
		Short: "Let something go wrong in a workload cluster",
		Long: `Let something go wrong in a workload cluster, until csctl sandbox heal ends it or its time is over (--for).

The kinds of failures:
` + help.String() + `
Without flags that choose among machines, all of the cluster are hit. A failure is an object of the kind Failure in the
sandbox, in the namespace of the cluster; tests can create and delete it too.`,
		Example: `  csctl sandbox fail machine-dead --cluster default/my-cluster --role worker --count 1
  csctl sandbox fail pod-crash-loop --cluster default/my-cluster --pod-namespace default --selector app=web --for 1m
  csctl sandbox fail list
  csctl sandbox heal --all`,
		ValidArgs: kinds,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 1 {
				return nil
			}
			return errors.New("say what is to go wrong, as in csctl sandbox fail machine-dead; csctl sandbox fail --help lists the kinds")
		},
	}
	name := nameFlag(cmd)
	output := outputFlag(cmd)
	f := &failFlags{}
	flags := cmd.Flags()
	flags.StringVar(&f.cluster, "cluster", "", "namespace/name of the workload cluster")
	mustComplete(cmd, "cluster", completeClusters(name))
	if err := cmd.MarkFlagRequired("cluster"); err != nil {
		panic(err) // the flag is there
	}
	flags.StringArrayVar(&f.machines, "machine", nil, "name of a Machine that is hit; can be given several times")
	flags.StringVar(&f.role, "role", "", "hit only machines of this role: control-plane or worker")
	mustComplete(cmd, "role", cobra.FixedCompletions([]string{"control-plane", "worker"}, cobra.ShellCompDirectiveNoFileComp))
	flags.Int32Var(&f.count, "count", 0, "hit so many machines at most, the oldest first")
	flags.StringArrayVar(&f.pods, "pod", nil, "name of a pod that is hit; can be given several times")
	flags.StringVar(&f.podNamespace, "pod-namespace", "", "hit only pods of this namespace of the workload cluster")
	flags.StringVar(&f.container, "container", "", "hit only this container of the pods")
	flags.StringVarP(&f.selector, "selector", "l", "", "hit only machines or pods with these labels, as in app=web")
	flags.DurationVar(&f.duration, "for", 0, "end by itself after this time, such as 30s")
	flags.DurationVar(&f.delay, "delay", 0, "how late a machine or node comes, how long a slow program stands still, or how often connections are reset")
	flags.Int32Var(&f.percent, "percent", 0, "hit so many of a hundred connections to the load balancer")
	flags.Int64Var(&f.seed, "seed", 0, "decides which connections are hit")
	flags.StringVar(&f.reason, "reason", "", "reason that the provider reports, such as QuotaExceeded")
	flags.StringVar(&f.message, "message", "", "message that the provider reports")
	flags.BoolVar(&f.terminal, "terminal", false, "the provider has given up (failureReason of contract v1beta1)")
	flags.Int32Var(&f.exitCode, "exit-code", 0, "exit code of containers that crash (default 1)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		object, err := f.failure(args[0], flags.Changed)
		if err != nil {
			return err
		}
		c, err := failureClient(*name)
		if err != nil {
			return err
		}
		if err := f.check(cmd.Context(), c, object, *name); err != nil {
			return err
		}
		if err := c.Create(cmd.Context(), object); err != nil {
			return explainInvalid(err)
		}
		if err := awaitReport(cmd.Context(), c, object, *name); err != nil {
			return err
		}
		if output.json() {
			return printJSON(cmd.OutOrStdout(), object)
		}
		key := client.ObjectKeyFromObject(object)
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "Failure %s: %s.\nEnd it with: csctl sandbox heal %s%s\n", key, told(object), key, nameArgument(*name))
		return err
	}
	cmd.AddCommand(newSandboxFailListCommand())
	return cmd
}

// failure is the object that the flags ask for, of which only those count that were given.
func (f *failFlags) failure(kind string, given func(flag string) bool) (*failure.Failure, error) {
	var object failure.Failure
	var names []string
	for _, k := range failKinds {
		names = append(names, k.name)
		if k.name == kind {
			object.Spec.Type = k.kind
		}
	}
	if object.Spec.Type == "" {
		hint := "csctl sandbox fail --help lists the kinds"
		if near := nearest(kind, names); near != "" {
			hint = "did you mean " + near + "?"
		}
		return nil, fmt.Errorf("there is no failure %q; %s", kind, hint)
	}
	namespace, cluster, err := parseCluster(f.cluster)
	if err != nil {
		return nil, fmt.Errorf("--cluster %w", err)
	}
	if err := f.zeroes(given); err != nil {
		return nil, err
	}
	object.Namespace, object.GenerateName = namespace, kind+"-"
	s := &object.Spec
	s.ClusterName = cluster
	var selector *metav1.LabelSelector
	if f.selector != "" {
		var err error
		if selector, err = metav1.ParseToLabelSelector(f.selector); err != nil {
			return nil, fmt.Errorf("--selector %s: %w", f.selector, err)
		}
	}
	if object.OfPods() {
		s.Pods = &failure.Pods{Namespace: f.podNamespace, Names: f.pods, Selector: selector, Container: f.container}
	} else if f.podNamespace != "" || f.container != "" || len(f.pods) > 0 {
		return nil, fmt.Errorf("--pod, --pod-namespace and --container are for failures of pods, not for %s", kind)
	}
	if len(f.machines) > 0 || f.role != "" || given("count") || selector != nil && s.Pods == nil {
		s.Machines = &failure.Machines{Names: f.machines}
		if s.Pods == nil {
			s.Machines.Selector = selector
		}
		switch f.role {
		case "":
		case "control-plane":
			s.Machines.Role = failure.ControlPlane
		case "worker":
			s.Machines.Role = failure.Worker
		default:
			return nil, fmt.Errorf("--role %s: use control-plane or worker", f.role)
		}
		if given("count") {
			s.Machines.Count = &f.count
		}
	}
	if given("for") {
		s.Duration = &metav1.Duration{Duration: f.duration}
	}
	if given("delay") {
		s.Delay = &metav1.Duration{Duration: f.delay}
	}
	if given("percent") {
		s.Percent = &f.percent
	}
	if given("seed") {
		s.Seed = &f.seed
	}
	if given("exit-code") {
		s.ExitCode = &f.exitCode
	}
	s.Reason, s.Message, s.Terminal = f.reason, f.message, f.terminal
	return &object, nil
}

// zeroes refuses numbers that would be taken for none: a script that comes to --for 0s does not want a failure that lasts
// forever, nor one with --percent 0 all connections.
func (f *failFlags) zeroes(given func(flag string) bool) error {
	for _, d := range []struct {
		flag  string
		value time.Duration
	}{{"for", f.duration}, {"delay", f.delay}} {
		if given(d.flag) && d.value <= 0 {
			return fmt.Errorf("--%s %s: give a time that is longer than nothing, such as 30s", d.flag, d.value)
		}
	}
	for _, n := range []struct {
		flag  string
		value int32
	}{{"count", f.count}, {"percent", f.percent}, {"exit-code", f.exitCode}} {
		if given(n.flag) && n.value <= 0 {
			return fmt.Errorf("--%s %d: give a number from 1 on", n.flag, n.value)
		}
	}
	return nil
}

// check finds names that are not there: a Failure may come before what it hits, but a person mostly mistyped.
func (f *failFlags) check(ctx context.Context, c client.Client, object *failure.Failure, name string) error {
	key := types.NamespacedName{Namespace: object.Namespace, Name: object.Spec.ClusterName}
	if err := c.Get(ctx, key, &clusterv1.Cluster{}); apierrors.IsNotFound(err) {
		return noSuchCluster(ctx, name, key.String())
	} else if err != nil {
		return err
	}
	var machines clusterv1.MachineList
	if err := c.List(ctx, &machines, client.InNamespace(key.Namespace), client.MatchingLabels{clusterv1.ClusterNameLabel: key.Name}); err != nil {
		return err
	}
	var names []string
	for i := range machines.Items {
		names = append(names, machines.Items[i].Name)
	}
	for _, wanted := range f.machines {
		if !slices.Contains(names, wanted) {
			return fmt.Errorf("--machine %s: Cluster %s has the machines %s", wanted, key, strings.Join(names, ", "))
		}
	}
	return nil
}

// explainInvalid leaves the name out of what the API server says against an object, which has none yet.
func explainInvalid(err error) error {
	var status apierrors.APIStatus
	if !apierrors.IsInvalid(err) || !errors.As(err, &status) || status.Status().Details == nil {
		return err
	}
	var causes []string
	for _, cause := range status.Status().Details.Causes {
		// Of an object as a whole the API server says only that it is one.
		causes = append(causes, strings.TrimPrefix(strings.TrimPrefix(cause.Message, "Invalid value: "), `"object": `))
	}
	return errors.New(strings.Join(causes, "; "))
}

// reportTimeout is how long it may take until a failure says what it hits: a moment, and longer on a machine that is busy.
const reportTimeout = 30 * time.Second

// awaitReport waits until a failure says whether it hits anything.
func awaitReport(ctx context.Context, c client.Client, object *failure.Failure, sandbox string) error {
	key := client.ObjectKeyFromObject(object)
	err := wait.PollUntilContextTimeout(ctx, 100*time.Millisecond, reportTimeout, true, func(ctx context.Context) (bool, error) {
		err := c.Get(ctx, key, object)
		return len(object.Status.Conditions) > 0, err
	})
	if wait.Interrupted(err) && ctx.Err() == nil {
		return fmt.Errorf("%s was created, but nothing takes it up; csctl sandbox logs sandbox%s may tell why", object, nameArgument(sandbox))
	}
	if err != nil {
		return fmt.Errorf("%s was created, but what it hits is not known; end it with csctl sandbox heal %s%s: %w", object, key, nameArgument(sandbox), err)
	}
	return nil
}

// told is what a failure says of itself.
func told(f *failure.Failure) string {
	if c := meta.FindStatusCondition(f.Status.Conditions, failure.Active); c != nil {
		return c.Message
	}
	return "not taken up yet"
}

func failureClient(name string) (client.Client, error) {
	state, err := readySandbox(name)
	if err != nil {
		return nil, err
	}
	config, err := managementConfig(state.Kubeconfig)
	if err != nil {
		return nil, err
	}
	scheme := runtime.NewScheme()
	if err := errors.Join(failure.AddToScheme(scheme), clusterv1.AddToScheme(scheme)); err != nil {
		return nil, err
	}
	return client.New(config, client.Options{Scheme: scheme})
}

func newSandboxFailListCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the failures that are rehearsed in a sandbox",
		Args:  cobra.NoArgs,
	}
	name := nameFlag(cmd)
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := failureClient(*name)
		if err != nil {
			return err
		}
		var list failure.FailureList
		if err := c.List(cmd.Context(), &list); err != nil {
			return err
		}
		if output.json() {
			return printJSON(cmd.OutOrStdout(), struct {
				Failures []failure.Failure `json:"failures"`
			}{append([]failure.Failure{}, list.Items...)})
		}
		return printFailures(cmd.OutOrStdout(), list.Items, time.Now())
	}
	return cmd
}

func printFailures(out io.Writer, failures []failure.Failure, now time.Time) error {
	if len(failures) == 0 {
		_, err := io.WriteString(out, "Nothing goes wrong.\n")
		return err
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprint(table, "FAILURE\tCLUSTER\tTYPE\tAGE\tENDS IN\tHITS\n")
	for i := range failures {
		f := &failures[i]
		ends := "-"
		if at, ok := f.Ends(); ok {
			ends = max(at.Sub(now), 0).Round(time.Second).String()
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", client.ObjectKeyFromObject(f), f.Spec.ClusterName, f.Spec.Type, age(f.CreationTimestamp.Time, now), ends, told(f))
	}
	return table.Flush()
}

func newSandboxHealCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "heal [namespace/failure]...",
		Short: "End failures that are rehearsed",
		Example: `  csctl sandbox heal default/machine-dead-x7k2p
  csctl sandbox heal --all`,
	}
	name := nameFlag(cmd)
	all := cmd.Flags().Bool("all", false, "end all failures of the sandbox")
	cmd.ValidArgsFunction = func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		c, err := failureClient(*name)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var list failure.FailureList
		if err := c.List(cmd.Context(), &list); err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		return keysOf(list.Items), cobra.ShellCompDirectiveNoFileComp
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *all == (len(args) > 0) {
			return errors.New("name the failures to end, or give --all; csctl sandbox fail list" + nameArgument(*name) + " has them")
		}
		c, err := failureClient(*name)
		if err != nil {
			return err
		}
		if *all {
			var list failure.FailureList
			if err := c.List(cmd.Context(), &list); err != nil {
				return err
			}
			args = keysOf(list.Items)
		}
		for _, arg := range args {
			if err := heal(cmd.Context(), c, arg, *name); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "Failure %s has ended.\n", arg)
		}
		return nil
	}
	return cmd
}

func keysOf(failures []failure.Failure) []string {
	var keys []string
	for i := range failures {
		keys = append(keys, client.ObjectKeyFromObject(&failures[i]).String())
	}
	return keys
}

func heal(ctx context.Context, c client.Client, key, sandbox string) error {
	namespace, name, ok := strings.Cut(key, "/")
	if !ok {
		return fmt.Errorf("%s: give it as namespace/name", key)
	}
	err := c.Delete(ctx, &failure.Failure{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}})
	if apierrors.IsNotFound(err) {
		return fmt.Errorf("there is no Failure %s; csctl sandbox fail list%s has those that there are", key, nameArgument(sandbox))
	}
	return err
}
