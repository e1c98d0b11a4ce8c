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
	"testing"

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
	for _, folder := range []string{filepath.Join(state, "cluster-stack"), tmp} {
		left, err := os.ReadDir(folder)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
		for _, entry := range left {
			t.Errorf("csctl test left %s", filepath.Join(folder, entry.Name()))
		}
	}
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range processes {
		// One that has ended meanwhile has no file.
		if line, err := os.ReadFile(file); err == nil && bytes.Contains(line, []byte(state)) {
			t.Errorf("csctl test left the process %s", bytes.ReplaceAll(line, []byte{0}, []byte(" ")))
		}
	}
}

// Ctrl-C ends a trial wherever it is.
func TestAnInterruptedTrialLeavesNothing(t *testing.T) {
	bin, err := built()
	if err != nil {
		t.Fatal(err)
	}
	for name, line := range map[string]string{
		"WhileTheSandboxStarts":    "custom resources",
		"WhileTheClusterIsComing":  "Cluster: created",
		"WhileItsMachinesAreThere": "Nodes: ",
	} {
		t.Run(name, func(t *testing.T) {
			state, tmp := t.TempDir(), t.TempDir()
			cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "csctl"), "test", filepath.Join(root, "stacks/docker/starter/1-36"))
			cmd.Env = append(os.Environ(), "XDG_STATE_HOME="+state, "TMPDIR="+tmp)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			interrupted := false
			for lines := bufio.NewScanner(stdout); lines.Scan(); {
				if !interrupted && strings.Contains(lines.Text(), line) {
					interrupted = true
					if err := cmd.Process.Signal(os.Interrupt); err != nil {
						t.Error(err)
					}
				}
			}
			if err := cmd.Wait(); err == nil || !strings.Contains(stderr.String(), "interrupt") {
				t.Errorf("it ended with %v and said %s", err, stderr.String())
			}
			if !interrupted {
				t.Errorf("it never said %q", line)
			}
			nothingIsLeft(t, state, tmp)
		})
	}
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

// The sandbox knows OpenStack by its CRDs only, and the addons are charts that the stack does not bring along.
func TestAStackForAProviderKnownByItsCRDsIsCreatedFromAndUpgradedTo(t *testing.T) {
	crds := cmp.Or(os.Getenv(openStackVariable), filepath.Join(root, "test/sandbox/providers/testdata/openstack-crds.yaml"))
	args := []string{filepath.Join(root, "stacks/openstack/starter/1-36"), "--crds", crds, "--cluster", "testdata/openstack.yaml"}
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
	var suite struct {
		Failures int `xml:"failures,attr"`
	}
	if err := xml.Unmarshal(junit, &suite); err != nil || suite.Failures != 1 {
		t.Errorf("for continuous integration: %v\n%s", err, junit)
	}
}
