// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package trial tries cluster stacks with csctl test, as their authors do.
package trial

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"encoding/xml"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/clusterstacks/cluster-stack-operator/internal/build"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
	"github.com/clusterstacks/cluster-stack-operator/internal/trial"
	"github.com/clusterstacks/cluster-stack-operator/stacks/stackstest"
)

// root is the repository, seen from this package.
const root = "../.."

func TestMain(m *testing.M) { sandboxtest.Main(m) }

var built = sync.OnceValues(func() (string, error) {
	dir, err := filepath.Abs(filepath.Join(root, "bin", "trial"))
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-o", dir, "./cmd/csctl", "./cmd/cluster-stack-operator")
	cmd.Dir = root
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	return dir, cmd.Run()
})

// try runs csctl test and returns what it printed as JSON, what it wrote for continuous integration, and its exit code.
// It checks that nothing is left of it.
func try(t *testing.T, args ...string) (result trial.Result, junit []byte, code int) {
	t.Helper()
	bin, err := built()
	if err != nil {
		t.Fatal(err)
	}
	state, tmp := t.TempDir(), t.TempDir()
	report := filepath.Join(state, "junit.xml")
	cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "csctl"), append([]string{"test", "-o", "json", "--junit", report}, args...)...)
	cmd.Env = append(os.Environ(), "XDG_STATE_HOME="+state, "TMPDIR="+tmp)
	var stdout bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	var exit *exec.ExitError
	if err := cmd.Run(); errors.As(err, &exit) {
		code = exit.ExitCode()
	} else if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(stdout.Bytes(), &result); err != nil {
		t.Fatalf("csctl test -o json printed no result: %v\n%s", err, stdout.Bytes())
	}
	if junit, err = os.ReadFile(report); err != nil {
		t.Fatal(err)
	}
	nothingIsLeft(t, state, tmp)
	return result, junit, code
}

// nothingIsLeft checks that neither files nor processes of a trial are left.
func nothingIsLeft(t *testing.T, state, tmp string) {
	t.Helper()
	for _, what := range leftovers(t, state, tmp) {
		t.Errorf("csctl test left %s", what)
	}
}

func leftovers(t *testing.T, state, tmp string) (found []string) {
	t.Helper()
	for _, folder := range []string{filepath.Join(state, "cluster-stack"), tmp} {
		left, err := os.ReadDir(folder)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
		for _, entry := range left {
			found = append(found, filepath.Join(folder, entry.Name()))
		}
	}
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range processes {
		// One that has ended meanwhile has no file.
		if line, err := os.ReadFile(file); err == nil && bytes.Contains(line, []byte(state)) {
			found = append(found, "the process "+string(bytes.ReplaceAll(line, []byte{0}, []byte(" "))))
		}
	}
	return found
}

// However a trial ends, and wherever it is: nothing is left, and a report says how far it came.
func TestATrialThatIsEndedLeavesAReportAndNothingElse(t *testing.T) {
	bin, err := built()
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		line   string
		signal syscall.Signal
		says   string
	}{
		"InterruptedWhileTheSandboxStarts": {"custom resources", syscall.SIGINT, "interrupt"},
		"KilledWhileTheSandboxStarts":      {"custom resources", syscall.SIGKILL, ""},
		"TerminatedWhileMachinesAreThere":  {"Nodes: ", syscall.SIGTERM, "terminated"},
		"KilledWhileMachinesAreThere":      {"Nodes: ", syscall.SIGKILL, ""},
	} {
		t.Run(name, func(t *testing.T) {
			state, tmp := t.TempDir(), t.TempDir()
			report := filepath.Join(t.TempDir(), "junit.xml")
			cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "csctl"), "test", filepath.Join(root, "stacks/docker/starter/1-36"), "--junit", report)
			cmd.Env = append(os.Environ(), "XDG_STATE_HOME="+state, "TMPDIR="+tmp)
			var stdout, stderr bytes.Buffer
			cmd.Stderr = &stderr
			cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ended := false
			for lines := bufio.NewScanner(out); lines.Scan(); {
				stdout.WriteString(lines.Text() + "\n")
				if !ended && strings.Contains(lines.Text(), tt.line) {
					ended = true
					if err := cmd.Process.Signal(tt.signal); err != nil {
						t.Error(err)
					}
				}
			}
			err = cmd.Wait()
			if !ended {
				t.Fatalf("it never said %q: %v\n%s", tt.line, err, stderr.String())
			}
			if tt.says != "" {
				var exit *exec.ExitError
				if !errors.As(err, &exit) || exit.ExitCode() != 2 || !strings.Contains(stderr.String(), tt.says) {
					t.Errorf("it ended with %v and said %s", err, stderr.String())
				}
				if told := "! 1. create a cluster from docker-starter-1-36-v1"; !strings.Contains(stdout.String(), told) {
					t.Errorf("it did not say how far it came, as in %q:\n%s", told, stdout.String())
				}
			}
			junit, err := os.ReadFile(report)
			if err != nil {
				t.Fatal(err)
			}
			if s := readSuite(t, junit); s.Tests != 2 || s.Errors != 1 || s.Skipped != 1 || s.Failures != 0 {
				t.Errorf("for continuous integration it wrote\n%s", junit)
			}
			// A trial that was killed cannot wait for its sandbox to end.
			for deadline := time.Now().Add(time.Minute); tt.says == "" && len(leftovers(t, state, tmp)) > 0 && time.Now().Before(deadline); {
				time.Sleep(100 * time.Millisecond)
			}
			nothingIsLeft(t, state, tmp)
		})
	}
}

// suite is what those look at who read a report of JUnit.
type suite struct {
	Tests    int `xml:"tests,attr"`
	Failures int `xml:"failures,attr"`
	Errors   int `xml:"errors,attr"`
	Skipped  int `xml:"skipped,attr"`
}

func readSuite(t *testing.T, report []byte) (s suite) {
	t.Helper()
	if err := xml.Unmarshal(report, &s); err != nil {
		t.Fatalf("%v\n%s", err, report)
	}
	return s
}

func TestAStackIsCreatedFromAndUpgradedTo(t *testing.T) {
	result, _, code := try(t, filepath.Join(root, "stacks/docker/starter/1-36"))
	if code != 0 || !result.Passed || len(result.Steps) != 2 {
		t.Fatalf("exit code %d, %+v", code, result)
	}
	created, upgraded := result.Steps[0], result.Steps[1]
	if want := []trial.Addon{{Name: "cni", Objects: 4}, {Name: "metrics-server", Objects: 9}}; !slices.Equal(created.Addons, want) {
		t.Errorf("addons %v, want %v", created.Addons, want)
	}
	if len(created.Added) != 13 || len(created.Changed)+len(created.Pruned)+len(created.Rolled) != 0 {
		t.Errorf("the first step: %+v", created)
	}
	if upgraded.From != "docker-starter-1-36-v1" || upgraded.Release != "docker-starter-1-36-v2" {
		t.Errorf("upgraded from %s to %s", upgraded.From, upgraded.Release)
	}
	// All that differs is the version, which objects carry in a label.
	if len(upgraded.Added)+len(upgraded.Pruned) != 0 || len(upgraded.Changed) != 13 {
		t.Errorf("the second step: %+v", upgraded)
	}
	if len(upgraded.Rolled) != 2 {
		t.Errorf("%d machines were replaced, want that of the control plane and the worker: %+v", len(upgraded.Rolled), upgraded.Rolled)
	}
	for _, step := range result.Steps {
		if step.Outcome != trial.Passed || step.Seconds <= 0 || len(step.Unhealthy)+len(step.Problems) != 0 {
			t.Errorf("%+v", step)
		}
	}
}

// openStackVariable is an environment variable that names the CRDs of the provider for OpenStack, as --crds takes them, to
// use in place of an excerpt.
const openStackVariable = "CLUSTER_STACK_TEST_OPENSTACK_CRDS"

// The sandbox knows OpenStack by its CRDs only, and the addons are charts that the stack does not bring along. Nor does the
// release before, as it was made by another tool: the operator has to get them from where csctl does.
func TestAStackForAProviderKnownByItsCRDsIsCreatedFromAndUpgradedTo(t *testing.T) {
	crds := cmp.Or(os.Getenv(openStackVariable), filepath.Join(root, "test/sandbox/providers/testdata/openstack-crds.yaml"))
	args := []string{
		filepath.Join(root, "stacks/openstack/starter/1-36"), "--crds", crds, "--cluster", "testdata/openstack.yaml",
		"--previous", incomplete(t, "stacks/openstack/starter", "1-36"),
	}
	for _, mirror := range stackstest.Charts(t, filepath.Join(root, "stacks")) {
		args = append(args, "--chart-mirrors", mirror.From+"="+mirror.To)
	}
	result, _, code := try(t, args...)
	if code != 0 || !result.Passed || len(result.Steps) != 2 {
		t.Fatalf("exit code %d, %+v", code, result)
	}
	created, upgraded := result.Steps[0], result.Steps[1]
	if want := []trial.Addon{{Name: "ccm", Objects: 1}, {Name: "cni", Objects: 1}, {Name: "csi", Objects: 1}, {Name: "metrics-server", Objects: 1}}; !slices.Equal(created.Addons, want) {
		t.Errorf("addons %v, want %v", created.Addons, want)
	}
	if created.Release != "openstack-starter-1-36-v3" || upgraded.Release != "openstack-starter-1-36-v4" {
		t.Errorf("created %s, upgraded to %s", created.Release, upgraded.Release)
	}
	if len(created.Added) != 4 || len(upgraded.Added)+len(upgraded.Pruned) != 0 {
		t.Errorf("created: %+v, upgraded: %+v", created, upgraded)
	}
	if len(upgraded.Rolled) != 2 {
		t.Errorf("%d machines were replaced, want that of the control plane and the worker: %+v", len(upgraded.Rolled), upgraded.Rolled)
	}
	for _, step := range result.Steps {
		if step.Outcome != trial.Passed || len(step.Unhealthy)+len(step.Problems) != 0 {
			t.Errorf("%+v", step)
		}
	}
}

// incomplete builds release v3 of a stack without the charts that it depends on, and returns its folder.
func incomplete(t *testing.T, stacks, folder string) string {
	t.Helper()
	stack, err := build.Read(os.DirFS(filepath.Join(root, stacks)), folder)
	if err != nil {
		t.Fatal(err)
	}
	version := release.Version{Major: 3}
	made, err := stack.Build(build.Versions{ClusterStack: version, ClusterAddon: version, NodeImage: version})
	if err != nil {
		t.Fatal(err)
	}
	written, err := made.Write(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	rel, err := release.Open(os.DirFS(written.Folder), made.Name)
	if err != nil {
		t.Fatal(err)
	}
	if lacking, err := rel.Incomplete(); err != nil || len(lacking) == 0 {
		t.Fatalf("it lacks nothing: %v", err)
	}
	return written.Folder
}

// The pods of an addon want a node that there is not.
func TestAFaultyStackIsToldFromOthers(t *testing.T) {
	stacks := t.TempDir()
	if err := os.CopyFS(stacks, os.DirFS(filepath.Join(root, "stacks/docker/starter"))); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(stacks, "shared/cluster-addon/metrics-server/templates/deployment.yaml")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	faulty := bytes.Replace(data, []byte("nodeSelector:\n"), []byte("nodeSelector:\n        example.com/disk: none\n"), 1)
	if bytes.Equal(faulty, data) {
		t.Fatal("the chart has no node selector any more")
	}
	if err := os.WriteFile(file, faulty, 0o644); err != nil {
		t.Fatal(err)
	}
	result, junit, code := try(t, filepath.Join(stacks, "1-35"), "--previous", "none", "--step-timeout", "75s")
	if code != 1 || result.Passed || len(result.Steps) != 2 {
		t.Fatalf("exit code %d, %+v", code, result)
	}
	failed := result.Steps[0]
	if failed.Outcome != trial.Failed || !strings.Contains(failed.Error, "not there after 1m15s") {
		t.Errorf("the first step: %s, %s", failed.Outcome, failed.Error)
	}
	if !slices.ContainsFunc(failed.Problems, func(p trial.Problem) bool {
		return strings.HasPrefix(p.Object, "Pod kube-system/metrics-server-") && strings.Contains(p.Message, "node")
	}) {
		t.Errorf("nothing is told of the pods that find no node: %v", failed.Problems)
	}
	if !slices.ContainsFunc(failed.Unhealthy, func(p trial.Problem) bool { return p.Object == "Deployment.apps kube-system/metrics-server" }) {
		t.Errorf("nothing is told of the Deployment: %v", failed.Unhealthy)
	}
	if result.Steps[1].Outcome != trial.Skipped {
		t.Errorf("after it: %+v", result.Steps[1])
	}
	if s := readSuite(t, junit); s.Tests != 2 || s.Failures != 1 || s.Skipped != 1 || s.Errors != 0 {
		t.Errorf("for continuous integration it wrote\n%s", junit)
	}
}
