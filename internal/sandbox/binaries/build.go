// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package binaries

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	etcd                  = "etcd"
	kubeAPIServer         = "kube-apiserver"
	kubeControllerManager = "kube-controller-manager"
	kubeScheduler         = "kube-scheduler"
	kubectl               = "kubectl"
	clusterAPICore        = "cluster-api-core"
	kubeadmBootstrap      = "cluster-api-kubeadm-bootstrap"
	kubeadmControlPlane   = "cluster-api-kubeadm-control-plane"
	clusterctl            = "clusterctl"
)

const clusterAPIModule = "sigs.k8s.io/cluster-api"

// bundle is what is built and kept together: programs, in the order they are built, and manifests.
type bundle struct {
	programs  []program
	providers []provider
}

type program struct {
	name string
	pkg  string
	// cold is what a build takes on two cores when Go's cache is empty; it is shown to whoever waits.
	cold string
}

type provider struct {
	name   string
	module string
	config string
	// parts of the config folder that a sandbox reads.
	parts []string
}

// sandboxBundle is what a sandbox consists of.
var sandboxBundle = bundle{
	programs: []program{
		{etcd, "go.etcd.io/etcd/server/v3", "1 min"},
		{kubeAPIServer, "k8s.io/kubernetes/cmd/kube-apiserver", "5 min"},
		{kubeControllerManager, "k8s.io/kubernetes/cmd/kube-controller-manager", "1 min"},
		{kubeScheduler, "k8s.io/kubernetes/cmd/kube-scheduler", "30 s"},
		{kubectl, "k8s.io/kubernetes/cmd/kubectl", "30 s"},
		{clusterAPICore, "sigs.k8s.io/cluster-api/core", "1 min"},
		{kubeadmBootstrap, "sigs.k8s.io/cluster-api/bootstrap/kubeadm", "10 s"},
		{kubeadmControlPlane, "sigs.k8s.io/cluster-api/controlplane/kubeadm", "15 s"},
	},
	providers: []provider{
		{"core", clusterAPIModule, "core/config", []string{"crd", "default", "webhook"}},
		{"bootstrap-kubeadm", clusterAPIModule, "bootstrap/kubeadm/config", []string{"crd", "default", "webhook"}},
		{"control-plane-kubeadm", clusterAPIModule, "controlplane/kubeadm/config", []string{"crd", "default", "webhook"}},
		// The simulator stands in for this provider's manager, so there is nobody to call its webhooks.
		{"infrastructure-docker", "sigs.k8s.io/cluster-api/test", "infrastructure/docker/config", []string{"crd", "default"}},
		{"clusterctl", clusterAPIModule, "cmd/clusterctl/config", []string{"crd"}},
	},
}

// clusterctlBundle is built only for those who ask for it.
var clusterctlBundle = bundle{programs: []program{{clusterctl, "sigs.k8s.io/cluster-api/cmd/clusterctl", "30 s"}}}

// buildArgs are the arguments of go build that all programs share. The linker flags are what the release
// builds of Kubernetes and Cluster API set: Cluster API refuses an API server without a version.
func buildArgs() []string {
	var flags []string
	for _, v := range []struct{ pkg, version string }{
		{"k8s.io/component-base/version", Pinned().Kubernetes},
		{clusterAPIModule + "/version", Pinned().ClusterAPI},
	} {
		major, rest, _ := strings.Cut(strings.TrimPrefix(v.version, "v"), ".")
		minor, _, _ := strings.Cut(rest, ".")
		for name, value := range map[string]string{"gitVersion": v.version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"} {
			flags = append(flags, fmt.Sprintf("-X %s.%s=%s", v.pkg, name, value))
		}
	}
	slices.Sort(flags) // the key is made of them
	return []string{"-trimpath", "-buildvcs=false", "-mod=readonly", "-ldflags", "-s -w " + strings.Join(flags, " ")}
}

// build makes the folder beside its final place and renames it. The caller holds the lock.
func (b bundle) build(ctx context.Context, dir string, progress Progress) (err error) {
	if err := removeLeftovers(dir); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), filepath.Base(dir)+".tmp-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(tmp))
		}
	}()
	if err := os.Chmod(tmp, 0o755); err != nil { //nolint:gosec // a cache of public programs
		return err
	}
	module := filepath.Join(tmp, "module")
	if err := os.Mkdir(module, 0o755); err != nil {
		return err
	}
	if err := errors.Join(
		os.WriteFile(filepath.Join(module, "go.mod"), goMod, 0o644),
		os.WriteFile(filepath.Join(module, "go.sum"), goSum, 0o644),
	); err != nil {
		return err
	}

	if err := b.copyManifests(ctx, module, filepath.Join(tmp, "manifests"), progress); err != nil {
		return err
	}
	for _, p := range b.programs {
		progress(fmt.Sprintf("%s: building (first time only, about %s)…", p.name, p.cold))
		start := time.Now()
		args := append([]string{"build"}, buildArgs()...)
		args = append(args, "-o", filepath.Join(tmp, "bin", p.name), p.pkg)
		if _, err := goCommand(ctx, module, args...); err != nil {
			return fmt.Errorf("build %s: %w", p.name, err)
		}
		progress(fmt.Sprintf("%s: built in %s", p.name, time.Since(start).Round(time.Second)))
	}

	if err := os.RemoveAll(module); err != nil {
		return err
	}
	return os.Rename(tmp, dir)
}

// removeLeftovers removes what a killed build left behind.
func removeLeftovers(dir string) error {
	old, err := filepath.Glob(dir + ".tmp-*")
	if err != nil {
		return err
	}
	for _, o := range old {
		if err := os.RemoveAll(o); err != nil {
			return err
		}
	}
	return nil
}

func (b bundle) copyManifests(ctx context.Context, module, dst string, progress Progress) error {
	if len(b.providers) == 0 {
		return nil
	}
	progress("modules: downloading what is not there yet…")
	args := []string{"mod", "download", "-json"}
	for _, p := range b.providers {
		args = append(args, p.module)
	}
	out, failed := goCommand(ctx, module, args...)
	if ctx.Err() != nil {
		return failed
	}
	dirs := map[string]string{}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var m struct{ Path, Version, Dir, Error string }
		if err := dec.Decode(&m); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return errors.Join(failed, fmt.Errorf("read what go mod download says: %w", err))
		}
		// Asked for JSON, go tells here what went wrong, and nothing on its standard error.
		if m.Error != "" {
			return fmt.Errorf("download %s@%s: %s; see to it that Go reaches its modules (GOPROXY), or set %s to a folder that has the programs", m.Path, m.Version, m.Error, AssetsVariable)
		}
		dirs[m.Path] = m.Dir
	}
	if failed != nil {
		return fmt.Errorf("download the manifests of Cluster API: %w", failed)
	}
	for _, p := range b.providers {
		config := filepath.Join(dirs[p.module], filepath.FromSlash(p.config))
		for _, part := range p.parts {
			if err := copyFolder(filepath.Join(dst, p.name, part), filepath.Join(config, part)); err != nil {
				return fmt.Errorf("copy the manifests of %s: %w", p.name, err)
			}
		}
	}
	return nil
}

// copyFolder copies files but not their modes: those of the module cache are read-only, folders included.
func copyFolder(dst, src string) error {
	return filepath.WalkDir(src, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(src, path)
		if err != nil {
			return err
		}
		return copyFile(filepath.Join(dst, rel), path)
	})
}

func goVersion(ctx context.Context) (string, error) {
	// Asked in a folder without go.mod, so that the answer does not depend on where we were started.
	out, err := goCommand(ctx, os.TempDir(), "env", "GOVERSION")
	if err != nil {
		return "", fmt.Errorf("the programs of the sandbox are built with Go: %w; install Go, or set %s to a folder that has them", err, AssetsVariable)
	}
	return strings.TrimSpace(string(out)), nil
}

// goCommand runs the go command and returns what it printed, also when it fails. The user's caches, proxy and toolchain
// settings apply; settings that would change what is built do not.
func goCommand(ctx context.Context, dir string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off", "GOOS=", "GOARCH=", "GOEXPERIMENT=")
	// An interrupt lets the go command end its compilers and remove its temporary files. It is told so too
	// when we are killed; that signal is tied to the thread that forks.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGINT}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if said := lastLines(stderr.String(), 20); said != "" {
			err = fmt.Errorf("%w\n%s", err, said)
		}
		return stdout.Bytes(), fmt.Errorf("go %s: %w", args[0], err)
	}
	return stdout.Bytes(), nil
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
