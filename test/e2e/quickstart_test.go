// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/clientcmd"
	controlplanev1 "sigs.k8s.io/cluster-api/api/controlplane/kubeadm/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/oci"
	"github.com/clusterstacks/cluster-stack-operator/internal/web"
)

// TestQuickstart does what `make quickstart` and `make quickstart-down` do, with the same programs, and
// looks over Cluster API's shoulder meanwhile.
func TestQuickstart(t *testing.T) {
	bin := programs(t)
	const name = "e2e-quickstart"
	state := t.TempDir()
	t.Setenv("XDG_STATE_HOME", state)
	csctl := func(args ...string) *exec.Cmd {
		cmd := exec.Command(filepath.Join(bin, "csctl"), args...)
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		return cmd
	}
	t.Cleanup(func() {
		if err := csctl("sandbox", "down", "--name", name).Run(); err != nil {
			t.Errorf("csctl sandbox down: %v", err)
		}
	})

	ctx, cancel := context.WithTimeout(t.Context(), 12*time.Minute)
	defer cancel()
	watched := make(chan order, 1)
	go func() { watched <- watchOrder(ctx, filepath.Join(bin, "csctl"), name) }()

	quickstart := exec.CommandContext(ctx, filepath.Join(bin, "quickstart"), "-name", name, "-bin", bin, "-releases", filepath.Join(state, "published"))
	quickstart.Dir = root
	quickstart.Stdout, quickstart.Stderr = os.Stderr, os.Stderr
	began := time.Now()
	if err := quickstart.Run(); err != nil {
		t.Fatalf("quickstart: %v", err)
	}
	t.Logf("the quickstart took %s", time.Since(began).Round(time.Second))

	cancel()
	seen := <-watched
	if seen.err != nil {
		t.Errorf("watch the control plane: %v", seen.err)
	}
	if !seen.upgraded {
		t.Error("the control plane was not seen to get Kubernetes v1.36.3")
	}
	if want := "docker-starter-1-36-v1"; seen.addons != want {
		t.Errorf("when Cluster API gave the control plane v1.36.3, the addons in the cluster were those of %q; they move first, so want %q", seen.addons, want)
	}

	// The registry lives as long as the sandbox, not as long as the quickstart.
	where, err := exec.Command(filepath.Join(bin, "csctl"), "sandbox", "registry", "--name", name).Output()
	if err != nil {
		t.Fatalf("csctl sandbox registry: %v", err)
	}
	registry := strings.TrimSpace(string(where))
	published := publishedIn(t, registry)
	// It is not the newest any more, and since the cluster has left it nobody uses it: it goes, now or in a moment.
	for _, digests := range []map[string]string{published, seen.digests} {
		delete(digests, "docker-starter-1-35-v1")
	}
	if !maps.Equal(seen.digests, published) || len(published) != 2 {
		t.Errorf("the ClusterStackReleases have the digests %v, the registry has %v", seen.digests, published)
	}

	if len(processesNaming(t, state)) == 0 {
		t.Error("the sandbox's processes do not name its folder; nothing can be said about what is left of them")
	}
	if err := csctl("sandbox", "down", "--name", name).Run(); err != nil {
		t.Fatalf("csctl sandbox down: %v", err)
	}
	left, err := os.ReadDir(filepath.Join(state, "cluster-stack"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	for _, entry := range left {
		t.Errorf("csctl sandbox down left %s", entry.Name())
	}
	for _, line := range processesNaming(t, state) {
		t.Errorf("csctl sandbox down left a process: %s", line)
	}
	if conn, err := net.DialTimeout("tcp", registry, time.Second); err == nil {
		t.Error("csctl sandbox down left the registry", conn.Close())
	}
}

// publishedIn returns the digests of the releases in a registry.
func publishedIn(t *testing.T, registry string) map[string]string {
	t.Helper()
	repository, err := oci.New(registry+"/cluster-stacks", oci.Options{Web: web.Options{PlainHTTP: true}})
	if err != nil {
		t.Fatal(err)
	}
	offers, err := repository.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	digests := map[string]string{}
	for _, offer := range offers {
		if digests[offer.Name.String()], err = repository.Resolve(t.Context(), offer.Name); err != nil {
			t.Fatal(err)
		}
	}
	return digests
}

// processesNaming are the command lines of all processes that name a folder.
func processesNaming(t *testing.T, folder string) []string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil || len(files) == 0 {
		t.Fatalf("no processes in /proc: %v", err)
	}
	var found []string
	for _, file := range files {
		line, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		if bytes.Contains(line, []byte(folder)) {
			found = append(found, string(bytes.ReplaceAll(line, []byte{0}, []byte(" "))))
		}
	}
	return found
}

// order is what somebody saw who watched the control plane of the demo cluster.
type order struct {
	upgraded bool
	addons   string            // the class whose addons the ClusterAddon named when the control plane was upgraded
	digests  map[string]string // of the ClusterStackReleases at that time
	err      error
}

// watchOrder waits for the control plane to be given the next Kubernetes version, and reads at that moment
// which addons are in the cluster.
func watchOrder(ctx context.Context, csctl, name string) (seen order) {
	scheme := runtime.NewScheme()
	if seen.err = errors.Join(controlplanev1.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); seen.err != nil {
		return seen
	}
	var c client.Client
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return seen
		case <-tick.C:
		}
		if c == nil {
			kubeconfig, err := exec.CommandContext(ctx, csctl, "sandbox", "kubeconfig", "--name", name).Output()
			if err != nil {
				continue // not up yet
			}
			config, err := clientcmd.RESTConfigFromKubeConfig(kubeconfig)
			if err != nil {
				seen.err = err
				return seen
			}
			if c, seen.err = client.New(config, client.Options{Scheme: scheme}); seen.err != nil {
				return seen
			}
		}
		planes := &controlplanev1.KubeadmControlPlaneList{}
		if err := c.List(ctx, planes, client.InNamespace("quickstart")); err != nil || len(planes.Items) == 0 {
			continue
		}
		if planes.Items[0].Spec.Version != "v1.36.3" {
			continue
		}
		addon := &v1alpha1.ClusterAddon{}
		seen.upgraded = true
		seen.err = c.Get(ctx, client.ObjectKey{Namespace: "quickstart", Name: "cluster-addon-demo"}, addon)
		seen.addons = addon.Spec.ClusterStack
		releases := &v1alpha1.ClusterStackReleaseList{}
		seen.err = errors.Join(seen.err, c.List(ctx, releases, client.InNamespace("quickstart")))
		seen.digests = map[string]string{}
		for i := range releases.Items {
			seen.digests[releases.Items[i].Name] = releases.Items[i].Status.Digest
		}
		return seen
	}
}
