// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/binaries"
)

// tidying is how long it may take to end what a page has left running. So long before the test binary is
// ended, a page is.
const tidying = time.Minute

// TestCommands does what a reader does who types all commands of a page, one after the other, in a clone
// of the repository.
func TestCommands(t *testing.T) {
	r := newReader(t)
	for _, folder := range []string{"docs/tutorial/", "docs/how-to/"} {
		for _, p := range pages(t, folder) {
			t.Run(strings.TrimSuffix(strings.TrimPrefix(p.path, "docs/"), ".md"), func(t *testing.T) { r.walk(t, p) })
		}
	}
}

// exempt are the commands that are not run here, by how they begin, and why.
var exempt = []struct{ page, begin, why string }{
	{"", "make quickstart", "the end-to-end tests do it"},
	{"", "make build", "the programs are built already"},
	{"docs/how-to/sandbox.md", "csctl sandbox kubeconfig --cluster NAMESPACE/NAME", "names a cluster that the reader has; the tutorial has one"},
	{"docs/how-to/sandbox.md", "csctl sandbox describe NAMESPACE/CLUSTER", "as before"},
	{"docs/how-to/sandbox.md", "kubectl --kubeconfig cluster.kubeconfig", "looks into that cluster"},
	{"docs/how-to/other-providers.md", "csctl sandbox up --crds", "needs CRDs that the reader brings"},
	{"docs/how-to/move-clusters.md", "clusterctl describe cluster", "names a cluster that the reader has"},
}

// silent are the pages on which nothing is typed that can run here, and where what they say is tested.
var silent = map[string]string{
	"docs/how-to/addons-of-one-cluster.md": "its manifests are applied here; the controller's tests have the effect",
	"docs/how-to/choose-releases.md":       "its manifest is applied here",
	"docs/how-to/install.md":               "test/deploy installs what it renders",
	"docs/how-to/on-call.md":               "it looks at clusters that the reader has; operations_test.go ties it to the alerts",
	"docs/how-to/remove-the-operator.md":   "test/deploy types it",
	"docs/how-to/take-over.md":             "it takes an installation of the other operator; the controller's tests make its state",
}

// beforehand is what a page takes for granted.
var beforehand = map[string]string{
	"docs/how-to/sandbox.md":               `export PATH="$PWD/bin:$PATH"`, // that csctl is on the path
	"docs/how-to/inject-faults.md":         `export PATH="$PWD/bin:$PATH"`,
	"docs/how-to/many-clusters.md":         `export PATH="$PWD/bin:$PATH"`,
	"docs/how-to/other-providers.md":       `export PATH="$PWD/bin:$PATH"`,
	"docs/how-to/move-clusters.md":         `export PATH="$PWD/bin:$PATH"`,
	"docs/how-to/rehearse-failures.md":     `export PATH="$PWD/bin:$PATH"`,
	"docs/how-to/back-up.md":               `export PATH="$PWD/bin:$PATH"`,
	"docs/how-to/upgrade-the-operator.md":  `export PATH="$PWD/bin:$PATH"`,
	"docs/how-to/subscribe-to-releases.md": `export PATH="$PWD/bin:$PATH"`,
	"docs/how-to/keep-a-sandbox.md":        `export PATH="$PWD/bin:$PATH"`,
	"docs/how-to/air-gap.md":               `export PATH="$PWD/bin:$PATH"`,
	"docs/how-to/publish-releases.md":      `export PATH="$PWD/bin:$PATH"`,
	"docs/how-to/verify-releases.md":       `export PATH="$PWD/bin:$PATH"`,
}

func exemption(p page, command string) string {
	for _, e := range exempt {
		if (e.page == "" || e.page == p.path) && strings.HasPrefix(command, e.begin) {
			return e.why
		}
	}
	return ""
}

// reader has a clone of the repository with the programs built, and kubectl and clusterctl on the path.
type reader struct {
	clone string
	state string
	env   []string
}

func newReader(t *testing.T) *reader {
	t.Helper()
	home := t.TempDir()
	r := &reader{clone: filepath.Join(home, "clone"), state: filepath.Join(home, "state")}
	for _, folder := range []string{"config", "docs", "stacks"} {
		if err := os.CopyFS(filepath.Join(r.clone, folder), os.DirFS(filepath.Join(root, folder))); err != nil {
			t.Fatal(err)
		}
	}
	bin := filepath.Join(r.clone, "bin")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", bin+"/", "./cmd/csctl", "./cmd/cluster-stack-operator")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", build, err, out)
	}

	// Only kubectl and clusterctl, not what lies beside them: no page may rely on more.
	progress := func(line string) { t.Log(line) }
	programs, err := binaries.Ensure(t.Context(), progress)
	if err != nil {
		t.Fatal(err)
	}
	clusterctl, err := binaries.Clusterctl(t.Context(), progress)
	if err != nil {
		t.Fatal(err)
	}
	tools := filepath.Join(home, "tools")
	if err := errors.Join(
		os.Mkdir(tools, 0o755),
		os.Symlink(programs.Kubectl, filepath.Join(tools, "kubectl")),
		os.Symlink(clusterctl, filepath.Join(tools, "clusterctl")),
	); err != nil {
		t.Fatal(err)
	}
	r.env = append(os.Environ(),
		"PATH="+tools+string(os.PathListSeparator)+os.Getenv("PATH"),
		"XDG_STATE_HOME="+r.state,
		"KUBECACHEDIR="+filepath.Join(home, "kube-cache"),
		"KUBECONFIG="+filepath.Join(home, "none"), // the cluster of whoever runs this is none of our business
	)
	return r
}

// walk runs the commands of a page in one shell, as a reader has one terminal.
func (r *reader) walk(t *testing.T, p page) {
	script := "set -o errexit -o nounset -o pipefail\n" + beforehand[p.path] + "\n"
	typed := 0
	found, _ := blocks(p.text)
	for _, b := range found {
		if b.language != "console" {
			continue
		}
		for _, command := range commands(b.text) {
			if why := exemption(p, command); why != "" {
				t.Logf("not run, because %s: %s", why, command)
				continue
			}
			typed++
			script += fmt.Sprintf("printf '%%(%%T)T $ %%s\\n' -1 %s\n%s\n", quote(command), command)
		}
	}
	if why := silent[p.path]; (typed == 0) != (why != "") {
		t.Fatalf("%s has %d commands to run; want some, or a reason why there are none", p.path, typed)
	} else if why != "" {
		t.Logf("nothing to run, because %s", why)
		return
	}

	ctx := t.Context()
	if end, limited := t.Deadline(); limited {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, end.Add(-tidying))
		defer cancel()
	}
	shell := exec.CommandContext(ctx, "bash", "-c", script)
	shell.Dir, shell.Env = r.clone, r.env
	shell.Stdout, shell.Stderr = os.Stderr, os.Stderr
	// A group of its own, so that what a page runs in the background can be ended with it.
	shell.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	shell.Cancel = func() error { return syscall.Kill(-shell.Process.Pid, syscall.SIGKILL) }
	t.Cleanup(func() { r.tidy(t) })
	err := shell.Run()
	if shell.Process != nil && syscall.Kill(-shell.Process.Pid, syscall.SIGKILL) == nil && err == nil {
		t.Errorf("%s leaves a program running in the background", p.path)
	}
	if err != nil {
		t.Errorf("%s: the last command above failed: %v", p.path, errors.Join(err, context.Cause(ctx)))
	}
}

// tidy ends sandboxes that a page has left running.
func (r *reader) tidy(t *testing.T) {
	sandboxes, err := os.ReadDir(filepath.Join(r.state, "cluster-stack", "sandbox"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	for _, sandbox := range sandboxes {
		if !t.Failed() {
			t.Errorf("the page leaves the sandbox %s behind", sandbox.Name())
		}
		down := exec.Command(filepath.Join(r.clone, "bin", "csctl"), "sandbox", "down", "--name", sandbox.Name())
		down.Env = r.env
		if out, err := down.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", down, err, out)
		}
	}
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
