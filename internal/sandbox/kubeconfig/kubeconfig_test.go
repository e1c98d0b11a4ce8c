// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package kubeconfig

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

func TestMergeAndRemove(t *testing.T) {
	const ours, theirs = "/state/ours", "/state/theirs"
	entry := func(name, server string) Entry { return Entry{Name: name, Kubeconfig: single(t, "inner", server)} }
	for name, tc := range map[string]struct {
		why string
		// give are contexts of the file, each with the server that it leads to; none means that there is no file.
		give map[string]string
		// current is the current context beforehand.
		current string
		do      func(t *testing.T, file string) error
		want    map[string]string
		// wantCurrent is the current context afterwards.
		wantCurrent string
		taken       string
	}{
		"NewFile": {
			do:          merge(Options{Owner: ours}, entry("sandbox-a", "https://1")),
			want:        map[string]string{"sandbox-a": "https://1"},
			wantCurrent: "sandbox-a",
		},
		"BesideOthers": {
			why:  "Whoever works with a cluster goes on to do so.",
			give: map[string]string{"prod": "https://p"}, current: "prod",
			do:          merge(Options{Owner: ours}, entry("sandbox-a", "https://1")),
			want:        map[string]string{"prod": "https://p", "sandbox-a": "https://1"},
			wantCurrent: "prod",
		},
		"Switch": {
			give: map[string]string{"prod": "https://p"}, current: "prod",
			do:          merge(Options{Owner: ours, Switch: true}, entry("sandbox-a", "https://1"), entry("sandbox-a-default-one", "https://2")),
			want:        map[string]string{"prod": "https://p", "sandbox-a": "https://1", "sandbox-a-default-one": "https://2"},
			wantCurrent: "sandbox-a",
		},
		"NameOfOthers": {
			why:  "It may be the way to somebody's production.",
			give: map[string]string{"sandbox-a": "https://p"}, current: "sandbox-a",
			do:          merge(Options{Owner: ours}, entry("sandbox-a", "https://1")),
			want:        map[string]string{"sandbox-a": "https://p"},
			wantCurrent: "sandbox-a",
			taken:       "context",
		},
		"NameOfAnotherSandbox": {
			do: all(
				merge(Options{Owner: theirs}, entry("sandbox-a-b-c", "https://1")),
				merge(Options{Owner: ours}, entry("sandbox-a-b-c", "https://2")),
			),
			want:        map[string]string{"sandbox-a-b-c": "https://1"},
			wantCurrent: "sandbox-a-b-c",
			taken:       "context",
		},
		"Again": {
			why: "A sandbox that was made anew has other addresses and certificates.",
			do: all(
				merge(Options{Owner: ours}, entry("sandbox-a", "https://1")),
				merge(Options{Owner: ours}, entry("sandbox-a", "https://2")),
			),
			want:        map[string]string{"sandbox-a": "https://2"},
			wantCurrent: "sandbox-a",
		},
		"OnlyThese": {
			why: "A cluster that was deleted goes with the next merge of all.",
			do: all(
				merge(Options{Owner: theirs}, entry("sandbox-b", "https://3")),
				merge(Options{Owner: ours, Switch: true}, entry("sandbox-a", "https://1"), entry("sandbox-a-default-one", "https://2")),
				merge(Options{Owner: ours, Only: true}, entry("sandbox-a", "https://1")),
			),
			want:        map[string]string{"sandbox-a": "https://1", "sandbox-b": "https://3"},
			wantCurrent: "sandbox-a",
		},
		"Remove": {
			give: map[string]string{"prod": "https://p"}, current: "prod",
			do: all(
				merge(Options{Owner: ours, Switch: true}, entry("sandbox-a", "https://1"), entry("sandbox-a-default-one", "https://2")),
				merge(Options{Owner: theirs}, entry("sandbox-b", "https://3")),
				remove(ours, "sandbox-a", "sandbox-a-default-one"),
			),
			want: map[string]string{"prod": "https://p", "sandbox-b": "https://3"},
		},
		"RemoveRenamed": {
			why: "kubectl config rename-context changes the name, not the owner.",
			do: all(
				merge(Options{Owner: ours}, entry("sandbox-a", "https://1")),
				edit(func(c *clientcmdapi.Config) {
					c.Contexts["mine"] = c.Contexts["sandbox-a"]
					delete(c.Contexts, "sandbox-a")
				}),
				remove(ours, "mine"),
			),
			want:        map[string]string{},
			wantCurrent: "sandbox-a",
		},
		"RemovePointedElsewhere": {
			why: "It is no longer the sandbox that this leads to.",
			do: all(
				merge(Options{Owner: ours}, entry("sandbox-a", "https://1"), entry("sandbox-a-default-one", "https://2")),
				edit(func(c *clientcmdapi.Config) { c.Clusters["sandbox-a"].Server = "https://elsewhere" }),
				remove(ours, "sandbox-a-default-one"),
			),
			want:        map[string]string{"sandbox-a": "https://elsewhere"},
			wantCurrent: "sandbox-a",
		},
		"RemoveWithoutFile": {do: remove(ours)},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "kube", "config")
			if tc.give != nil {
				write(t, file, tc.give, tc.current)
			}
			err := tc.do(t, file)
			var taken *TakenError
			if errors.As(err, &taken) {
				if taken.Kind != tc.taken || taken.File != file || !strings.Contains(err.Error(), "rename") {
					t.Errorf("got %v", err)
				}
			} else if err != nil || tc.taken != "" {
				t.Fatalf("got %v, want %q to be taken. %s", err, tc.taken, tc.why)
			}
			got, current := read(t, file)
			if diff := cmp.Diff(tc.want, got); diff != "" || current != tc.wantCurrent {
				t.Errorf("current context %q, want %q. %s\n%s", current, tc.wantCurrent, tc.why, diff)
			}
			if entries, _ := filepath.Glob(filepath.Join(filepath.Dir(file), "*.lock")); len(entries) > 0 {
				t.Errorf("left behind: %q", entries)
			}
		})
	}
}

// TestMergeKeepsTheFile: what holds the way to other clusters may be a link, and unreadable for others.
func TestMergeKeepsTheFile(t *testing.T) {
	dir := t.TempDir()
	target, link := filepath.Join(dir, "dotfiles", "config"), filepath.Join(dir, "config")
	write(t, target, map[string]string{"prod": "https://p"}, "prod")
	if err := errors.Join(os.Chmod(target, 0o640), os.Symlink(target, link)); err != nil {
		t.Fatal(err)
	}
	if err := merge(Options{Owner: "o"}, Entry{Name: "sandbox-a", Kubeconfig: single(t, "x", "https://1")})(t, link); err != nil {
		t.Fatal(err)
	}
	if to, err := os.Readlink(link); err != nil || to != target {
		t.Errorf("the link leads to %q, %v", to, err)
	}
	if info, err := os.Stat(target); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if got, _ := read(t, target); len(got) != 2 {
		t.Errorf("contexts: %v", got)
	}
}

func TestMergeIntoWhatIsNoKubeconfig(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(file, []byte("{clusters: 3"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Merge(t.Context(), file, []Entry{{Name: "a", Kubeconfig: single(t, "x", "https://1")}}, Options{Owner: "o"})
	if err == nil || !strings.Contains(err.Error(), "is no kubeconfig") {
		t.Errorf("got %v", err)
	}
	if raw, err := os.ReadFile(file); err != nil || string(raw) != "{clusters: 3" {
		t.Errorf("the file was changed: %q, %v", raw, err)
	}
}

// TestManyAtOnce: several sandboxes change one file, and nothing of it is lost.
func TestManyAtOnce(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config")
	want := map[string]string{}
	var all sync.WaitGroup
	for i := range 8 {
		name := fmt.Sprintf("sandbox-%d", i)
		want[name] = "https://" + name
		kubeconfig := single(t, "x", want[name])
		all.Go(func() {
			if _, err := Merge(t.Context(), file, []Entry{{Name: name, Kubeconfig: kubeconfig}}, Options{Owner: name}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	got, _ := read(t, file)
	for name := range want {
		if got[name] != want[name] {
			t.Errorf("context %s is lost: %v", name, slices.Sorted(maps.Keys(got)))
		}
	}
}

func TestLockOfAKilledProgram(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(file+".lock", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("the user has lost patience"))
	if _, err := lock(ctx, file); err == nil || !strings.Contains(err.Error(), "lost patience") {
		t.Errorf("got %v", err)
	}
}

func TestJoin(t *testing.T) {
	raw, err := Join([]Entry{{Name: "a", Kubeconfig: single(t, "x", "https://1")}, {Name: "b", Kubeconfig: single(t, "x", "https://2")}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	got, current := read(t, file)
	if diff := cmp.Diff(map[string]string{"a": "https://1", "b": "https://2"}, got); diff != "" || current != "a" {
		t.Errorf("current context %q\n%s", current, diff)
	}
	if strings.Contains(string(raw), extension) {
		t.Errorf("marked, though it is in nobody's file:\n%s", raw)
	}
}

// single is a kubeconfig with one context.
func single(t *testing.T, name, server string) []byte {
	t.Helper()
	config := clientcmdapi.NewConfig()
	add(config, name, server)
	config.CurrentContext = name
	raw, err := clientcmd.Write(*config)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func add(config *clientcmdapi.Config, name, server string) {
	config.Clusters[name] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: []byte("ca of " + server)}
	config.AuthInfos[name] = &clientcmdapi.AuthInfo{Token: "token for " + server}
	config.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
}

func write(t *testing.T, file string, servers map[string]string, current string) {
	t.Helper()
	config := clientcmdapi.NewConfig()
	for name, server := range servers {
		add(config, name, server)
	}
	config.CurrentContext = current
	if err := clientcmd.WriteToFile(*config, file); err != nil {
		t.Fatal(err)
	}
}

// read tells where each context leads to, and checks that it has credentials for there and that no cluster or user is
// left without a context.
func read(t *testing.T, file string) (servers map[string]string, current string) {
	t.Helper()
	config, err := clientcmd.LoadFromFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ""
	}
	if err != nil {
		t.Fatal(err)
	}
	servers = map[string]string{}
	for name, c := range config.Contexts {
		cluster, user := config.Clusters[c.Cluster], config.AuthInfos[c.AuthInfo]
		if cluster == nil || user == nil {
			t.Errorf("context %s leads nowhere", name)
			continue
		}
		servers[name] = cluster.Server
	}
	if len(config.Clusters) != len(config.Contexts) || len(config.AuthInfos) != len(config.Contexts) {
		t.Errorf("%d contexts, %d clusters, %d users", len(config.Contexts), len(config.Clusters), len(config.AuthInfos))
	}
	return servers, config.CurrentContext
}

type action func(t *testing.T, file string) error

func merge(o Options, entries ...Entry) action {
	return func(t *testing.T, file string) error {
		current, err := Merge(t.Context(), file, entries, o)
		if _, now := read(t, file); err == nil && now != current {
			t.Errorf("current context is told as %q and is %q", current, now)
		}
		return err
	}
}

func remove(owner string, want ...string) action {
	return func(t *testing.T, file string) error {
		got, err := Remove(t.Context(), file, owner)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("removed: %s", diff)
		}
		return err
	}
}

func edit(change func(*clientcmdapi.Config)) action {
	return func(_ *testing.T, file string) error {
		config, err := clientcmd.LoadFromFile(file)
		if err != nil {
			return err
		}
		change(config)
		return clientcmd.WriteToFile(*config, file)
	}
}

func all(actions ...action) action {
	return func(t *testing.T, file string) error {
		for _, a := range actions {
			if err := a(t, file); err != nil {
				return err
			}
		}
		return nil
	}
}
