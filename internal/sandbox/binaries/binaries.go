// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package binaries provides the programs that a sandbox runs for real, and the manifests that go with
// them: etcd, Kubernetes, and the managers of Cluster API.
//
// They are built once from their Go modules, as pinned in the module binaries/ of this repository, and
// kept in the user's cache folder under a key made of everything that decides what comes out. All
// checkouts share them. What is in the cache never changes: it appears by one rename.
package binaries

import (
	"context"
	"crypto/sha256"
	_ "embed" // the pins
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/mod/modfile"
	"golang.org/x/sys/unix"
)

// AssetsVariable is the environment variable that names a folder to use instead of building: it holds
// bin/ and manifests/ as a folder of the cache does.
const AssetsVariable = "CLUSTER_STACK_SANDBOX_ASSETS"

// The module binaries/, copied here because a Go file can embed only what its own module holds.
//
//go:generate cp ../../../binaries/go.mod embedded.mod
//go:generate cp ../../../binaries/go.sum embedded.sum
var (
	//go:embed embedded.mod
	goMod []byte
	//go:embed embedded.sum
	goSum []byte
)

// Set names the programs and manifests by their paths.
type Set struct {
	Etcd                  string
	KubeAPIServer         string
	KubeControllerManager string
	KubeScheduler         string
	Kubectl               string // for people and for tests of what the documentation says
	ClusterAPICore        string
	KubeadmBootstrap      string
	KubeadmControlPlane   string

	// Manifests is a folder with the config folders of Cluster API's providers: core, bootstrap-kubeadm,
	// control-plane-kubeadm and infrastructure-docker, and that of clusterctl's inventory of them.
	Manifests string
}

// Versions are the pinned versions, each with a leading v.
type Versions struct {
	Kubernetes string `json:"kubernetes"`
	Etcd       string `json:"etcd"`
	ClusterAPI string `json:"clusterAPI"`
}

// Pinned returns the versions that the programs are built from.
func Pinned() Versions {
	return Versions{
		Kubernetes: pin("k8s.io/kubernetes"),
		Etcd:       pin("go.etcd.io/etcd/server/v3"),
		ClusterAPI: pin("sigs.k8s.io/cluster-api"),
	}
}

// Progress is told what goes on, one line at a time.
type Progress func(line string)

// Ensure returns the programs, from the folder that AssetsVariable names, else from the cache. What the
// cache lacks is built, which needs the go command and takes minutes the first time.
func Ensure(ctx context.Context, progress Progress) (Set, error) {
	dir, err := sandboxBundle.obtain(ctx, progress)
	if err != nil {
		return Set{}, err
	}
	bin := func(name string) string { return filepath.Join(dir, "bin", name) }
	return Set{
		Etcd:                  bin(etcd),
		KubeAPIServer:         bin(kubeAPIServer),
		KubeControllerManager: bin(kubeControllerManager),
		KubeScheduler:         bin(kubeScheduler),
		Kubectl:               bin(kubectl),
		ClusterAPICore:        bin(clusterAPICore),
		KubeadmBootstrap:      bin(kubeadmBootstrap),
		KubeadmControlPlane:   bin(kubeadmControlPlane),
		Manifests:             filepath.Join(dir, "manifests"),
	}, nil
}

// Clusterctl returns the path of clusterctl, in the way of Ensure. A sandbox does not run it: it is for
// those who look at one or move a cluster out of it, and nobody else waits for it to be built.
func Clusterctl(ctx context.Context, progress Progress) (string, error) {
	dir, err := clusterctlBundle.obtain(ctx, progress)
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "bin", clusterctl), nil
}

// obtain returns the folder of a bundle, from the environment, the cache or a build.
func (b bundle) obtain(ctx context.Context, progress Progress) (string, error) {
	if dir := os.Getenv(AssetsVariable); dir != "" {
		found, err := b.check(dir)
		if err != nil {
			return "", fmt.Errorf("%s=%s: %w; unset it to have the programs built", AssetsVariable, dir, err)
		}
		return found, nil
	}
	goVersion, err := goVersion(ctx)
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache folder for the sandbox's programs: %w", err)
	}
	root := filepath.Join(cache, "cluster-stack", "binaries")
	dir := filepath.Join(root, b.key(goVersion))
	if exists(dir) {
		return b.cached(dir)
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return "", err
	}
	unlock, err := lock(ctx, dir+".lock", progress)
	if err != nil {
		return "", err
	}
	defer unlock()
	if !exists(dir) { // not built by the process that we waited for
		if err := b.build(ctx, dir, progress); err != nil {
			return "", err
		}
	}
	return b.cached(dir)
}

func (b bundle) cached(dir string) (string, error) {
	found, err := b.check(dir)
	if err != nil {
		return "", fmt.Errorf("the cached programs in %s are incomplete: %w; remove the folder to have them built again", dir, err)
	}
	return found, nil
}

// check finds out whether a folder has everything, and gives its absolute path.
func (b bundle) check(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	var missing []string
	for _, p := range b.programs {
		file := filepath.Join("bin", p.name)
		if unix.Access(filepath.Join(dir, file), unix.X_OK) != nil {
			missing = append(missing, file)
		}
	}
	for _, p := range b.providers {
		folder := filepath.Join("manifests", p.name)
		for _, part := range p.parts {
			if !exists(filepath.Join(dir, folder, part)) {
				missing = append(missing, filepath.Join(folder, part))
			}
		}
	}
	if len(missing) > 0 {
		return "", errors.New("lacks " + strings.Join(missing, ", "))
	}
	return dir, nil
}

// key names everything that decides what is built.
func (b bundle) key(goVersion string) string {
	parts := []string{string(goMod), string(goSum), goVersion, runtime.GOOS, runtime.GOARCH, strings.Join(buildArgs(), " "), fmt.Sprint(b.providers)}
	for _, p := range b.programs {
		parts = append(parts, p.name, p.pkg)
	}
	h := sha256.New()
	for _, part := range parts {
		fmt.Fprintf(h, "%d:%s\n", len(part), part)
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}

// lock takes the lock of one key, so that two checkouts build once. The kernel drops it when the
// holder ends.
func lock(ctx context.Context, file string, progress Progress) (unlock func(), err error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	// A blocking call could not be cancelled, and a lock gives no other sign when it becomes free.
	const interval = 200 * time.Millisecond
	for waiting := false; ; waiting = true {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", file, err), f.Close())
		}
		if !waiting {
			progress("programs: another process is building them; waiting for it")
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("wait for %s: %w", file, context.Cause(ctx)), f.Close())
		case <-time.After(interval):
		}
	}
}

// pin reads the version of a module from the embedded go.mod; a test proves that all that are asked for
// are there.
func pin(module string) string {
	f, err := modfile.ParseLax("binaries/go.mod", goMod, nil)
	if err != nil {
		return ""
	}
	for _, r := range f.Require {
		if r.Mod.Path == module {
			return r.Mod.Version
		}
	}
	return ""
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func copyFile(dst, src string) error {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close()
	if err := os.MkdirAll(filepath.Dir(dst), 0o755); err != nil {
		return err
	}
	out, err := os.Create(dst)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
