// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Command quickstart does the main job before a person's eyes, with the commands that the person would
// type: it brings up a sandbox with the operator and a registry, publishes releases of the starter stack there,
// makes a cluster of it and upgrades that twice. It leaves everything running.
//
// It is run from the root of the repository, by `make quickstart`, which builds what it calls.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing/fstest"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/internal/story"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("quickstart", flag.ContinueOnError)
	flags.SetOutput(stderr)
	q := &quickstart{out: stdout, errOut: stderr}
	flags.StringVar(&q.name, "name", "quickstart", "name of the sandbox")
	flags.StringVar(&q.bin, "bin", "bin", "folder with csctl and cluster-stack-operator")
	flags.StringVar(&q.releases, "releases", filepath.Join("bin", "quickstart-releases"), "folder that releases are built in; emptied first")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	if err := q.walk(ctx); err != nil {
		fmt.Fprintf(stderr, "\nError: %v\n\nWhat runs is left as it is. Look at it with\n  %s sandbox status --name %s\n  %s sandbox logs --name %s\nand end it with\n  make quickstart-down\n",
			err, q.csctl(), q.name, q.csctl(), q.name)
		return 1
	}
	return 0
}

type quickstart struct {
	name, bin, releases string
	registry            string // host and port
	out, errOut         io.Writer
}

const (
	namespace = "quickstart"
	tutorial  = "docs/tutorial/quickstart"
	stack     = "stacks/docker/starter"
	nodes     = 3
)

var demo = client.ObjectKey{Namespace: namespace, Name: "demo"}

func (q *quickstart) walk(ctx context.Context) error {
	report := story.NewReport(q.out)
	fmt.Fprintln(q.out, "The main job of the Cluster Stack Operator, in six steps, on this machine.")

	if err := q.fresh(ctx); err != nil {
		return err
	}
	report.Chapter("A management cluster: real etcd, API server and Cluster API, the operator, and a registry for releases")
	if err := q.csctlRun(ctx, nil, "sandbox", "up", "--name", q.name, "--registry"); err != nil {
		return err
	}
	s, err := q.connect(ctx, report)
	if err != nil {
		return err
	}
	files, err := q.manifests()
	if err != nil {
		return err
	}

	report.Chapter("A release of a cluster stack is published, and becomes a ClusterClass for those who have subscribed")
	if err := q.publish(ctx, "1-35", "v1"); err != nil {
		return err
	}
	if err := s.Apply(ctx, files, "clusterstack-1-35.yaml"); err != nil {
		return err
	}
	if err := s.Released(ctx, namespace, "docker-starter-1-35-v1", "docker-starter-1-35-v1"); err != nil {
		return err
	}

	report.Chapter("A Cluster that uses it comes up, with its addons")
	report.Say("for the first half minute Cluster API waits for its first connection to the new cluster")
	if err := s.Apply(ctx, files, "cluster.yaml"); err != nil {
		return err
	}
	if err := s.Reached(ctx, demo, story.Goal{Class: "docker-starter-1-35-v1", Version: "v1.35.4", Nodes: nodes}, 4*time.Minute); err != nil {
		return err
	}

	report.Chapter("A new version of the stack, same Kubernetes: machines roll at once, addons move beside them")
	if err := q.publish(ctx, "1-35", "v2"); err != nil {
		return err
	}
	report.Say("the ClusterStack has subscribed: nothing is applied, the operator finds the release by itself")
	if err := s.Released(ctx, namespace, "docker-starter-1-35-v2", "docker-starter-1-35-v2"); err != nil {
		return err
	}
	if err := s.Upgrade(ctx, demo, "docker-starter-1-35-v2", "v1.35.4"); err != nil {
		return err
	}
	if err := s.Reached(ctx, demo, story.Goal{Class: "docker-starter-1-35-v2", Version: "v1.35.4", Nodes: nodes}, 4*time.Minute); err != nil {
		return err
	}

	report.Chapter("The next minor of Kubernetes: addons first, Cluster API waits for them, then machines")
	if err := q.publish(ctx, "1-36", "v1"); err != nil {
		return err
	}
	if err := s.Apply(ctx, files, "clusterstack-1-36.yaml"); err != nil {
		return err
	}
	if err := s.Released(ctx, namespace, "docker-starter-1-36-v1", "docker-starter-1-36-v1"); err != nil {
		return err
	}
	if err := s.Upgrade(ctx, demo, "docker-starter-1-36-v1", "v1.36.3"); err != nil {
		return err
	}
	if err := s.Reached(ctx, demo, story.Goal{Class: "docker-starter-1-36-v1", Version: "v1.36.3", Nodes: nodes}, 5*time.Minute); err != nil {
		return err
	}

	report.Chapter("What is there now")
	if err := q.csctlRun(ctx, nil, "sandbox", "status", "--name", q.name); err != nil {
		return err
	}
	report.Summary()
	q.next()
	return nil
}

// fresh refuses to walk into what an earlier quickstart left running, and empties the folder of releases.
func (q *quickstart) fresh(ctx context.Context) error {
	if err := exec.CommandContext(ctx, q.csctl(), "sandbox", "kubeconfig", "--name", q.name).Run(); err == nil {
		return fmt.Errorf("the sandbox %q is running already: end it with `make quickstart-down`, then start again", q.name)
	}
	if err := os.RemoveAll(q.releases); err != nil {
		return err
	}
	return os.MkdirAll(q.releases, 0o755)
}

func (q *quickstart) csctl() string { return filepath.Join(q.bin, "csctl") }

// csctlRun runs csctl with further variables in its environment.
func (q *quickstart) csctlRun(ctx context.Context, env []string, args ...string) error {
	fmt.Fprintf(q.out, "   $ %s\n", strings.Join(slices.Concat(env, []string{q.csctl()}, args), " "))
	cmd := exec.CommandContext(ctx, q.csctl(), args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = indent(q.out), indent(q.errOut)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 20 * time.Second
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %s: %w", q.csctl(), strings.Join(args, " "), err)
	}
	return nil
}

// publish builds a release and puts it into the registry.
func (q *quickstart) publish(ctx context.Context, minor, version string) error {
	return q.csctlRun(ctx, []string{"OCI_REPOSITORY=" + q.registry + "/cluster-stacks"},
		"create", filepath.Join(stack, minor), "--output", q.releases, "--remote", "oci", "--publish", "--plain-http", "--mode", "custom",
		"--cluster-stack-version", version, "--cluster-addon-version", version, "--node-image-version", version)
}

// manifests returns those of the tutorial, with the registry of this sandbox in them.
func (q *quickstart) manifests() (fs.FS, error) {
	files := fstest.MapFS{}
	for _, name := range []string{"clusterstack-1-35.yaml", "clusterstack-1-36.yaml", "cluster.yaml"} {
		data, err := os.ReadFile(filepath.Join(tutorial, name))
		if err != nil {
			return nil, err
		}
		files[name] = &fstest.MapFile{Data: bytes.ReplaceAll(data, []byte("registry.example.org"), []byte(q.registry))}
	}
	return files, nil
}

// ask returns what csctl prints about the sandbox.
func (q *quickstart) ask(ctx context.Context, what string) ([]byte, error) {
	out, err := exec.CommandContext(ctx, q.csctl(), "sandbox", what, "--name", q.name).Output()
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		return nil, fmt.Errorf("ask for the sandbox's %s: %s", what, failed.Stderr)
	}
	return out, err
}

// connect finds out where the API server and the registry are.
func (q *quickstart) connect(ctx context.Context, report *story.Report) (*story.Story, error) {
	registry, err := q.ask(ctx, "registry")
	if err != nil {
		return nil, err
	}
	q.registry = strings.TrimSpace(string(registry))
	out, err := q.ask(ctx, "kubeconfig")
	if err != nil {
		return nil, err
	}
	config, err := clientcmd.RESTConfigFromKubeConfig(out)
	if err != nil {
		return nil, err
	}
	return story.New(config, report)
}

func (q *quickstart) next() {
	fmt.Fprintf(q.out, `
Everything keeps running. What to type next:

   %[1]s sandbox status --name %[2]s
   %[1]s sandbox kubeconfig --name %[2]s > sandbox.kubeconfig
   kubectl --kubeconfig sandbox.kubeconfig --namespace %[3]s get clusterstacks,clusterstackreleases,clusteraddons,clusters,machines
   %[1]s sandbox kubeconfig --name %[2]s --cluster %[3]s/%[4]s > demo.kubeconfig
   kubectl --kubeconfig demo.kubeconfig get nodes,pods --all-namespaces
   make quickstart-down
`, q.csctl(), q.name, namespace, demo.Name)
}

// indent sets off what a command prints from the story.
func indent(out io.Writer) io.Writer { return &indented{out: out, fresh: true} }

type indented struct {
	out   io.Writer
	fresh bool // at the beginning of a line
}

func (w *indented) Write(p []byte) (int, error) {
	for _, line := range bytes.SplitAfter(p, []byte("\n")) {
		if len(line) == 0 {
			continue
		}
		if w.fresh {
			if _, err := io.WriteString(w.out, "     "); err != nil {
				return 0, err
			}
		}
		if _, err := w.out.Write(line); err != nil {
			return 0, err
		}
		w.fresh = line[len(line)-1] == '\n'
	}
	return len(p), nil
}
