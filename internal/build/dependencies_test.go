// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package build_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	chart "helm.sh/helm/v4/pkg/chart/v2"

	"github.com/clusterstacks/cluster-stack-operator/internal/build"
	"github.com/clusterstacks/cluster-stack-operator/internal/chartlock"
	"github.com/clusterstacks/cluster-stack-operator/internal/chartrepo"
	"github.com/clusterstacks/cluster-stack-operator/internal/chartrepo/chartrepotest"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
)

const addonsFile = "docker-scs-1-35-cluster-addon-v1.tgz"

// dependsOn gives the addon cni of a stack dependencies, each in the form of YAML, and a lock for them unless there is none.
func dependsOn(t *testing.T, fsys fstest.MapFS, locked []string, dependencies ...string) fstest.MapFS {
	t.Helper()
	text := "apiVersion: v2\nname: cni\nversion: v1\ndependencies:\n"
	for _, d := range dependencies {
		text += "- {" + d + "}\n"
	}
	delete(fsys, "stack/cluster-addon/cni/charts/sub.tgz")
	fsys["stack/cluster-class/Chart.yaml"] = &fstest.MapFile{Data: []byte("apiVersion: v2\nname: docker-scs-1-35-cluster-class\nversion: v1\n")}
	fsys["stack/cluster-addon/cni/Chart.yaml"] = &fstest.MapFile{Data: []byte(text)}
	if locked != nil {
		lock, err := chartlock.New([]byte(text), locked, time.Unix(0, 0))
		if err != nil {
			t.Fatal(err)
		}
		fsys["stack/cluster-addon/cni/Chart.lock"] = &fstest.MapFile{Data: lock}
	}
	return fsys
}

func add(fsys fstest.MapFS, name string, data []byte) fstest.MapFS {
	fsys["stack/"+name] = &fstest.MapFile{Data: data}
	return fsys
}

func from(repository *chartrepotest.Repository) string {
	return fmt.Sprintf("repository: %q", repository.URL)
}

// repositories fetches from everywhere.
func repositories(cache string) *chartrepo.Repositories {
	return chartrepo.New(chartrepo.Options{Client: http.DefaultClient, MirrorClient: http.DefaultClient, Allowed: []string{"http://"}, Cache: cache})
}

func complete(t *testing.T, fsys fs.FS) (*build.Stack, error) {
	t.Helper()
	stack := read(t, fsys)
	return stack, stack.Complete(t.Context(), repositories("").Complete)
}

func TestReleasesLackNoCharts(t *testing.T) {
	repository := chartrepotest.Start(t, chartrepotest.Package("cilium", "1.16.6", nil), chartrepotest.Package("cilium", "1.16.7", nil), chartrepotest.Package("extra", "2.0.0", nil))
	common := "apiVersion: v2\nname: common\nversion: << .ClusterAddonVersion >>\n"
	for name, tt := range map[string]struct {
		why  string
		give fstest.MapFS
		want []string
	}{
		"ExactVersion": {give: dependsOn(t, source(), nil, "name: cilium, version: 1.16.6, "+from(repository)), want: []string{"cni/charts/cilium-1.16.6.tgz"}},
		"LockDecides": {
			why:  "the repository has a later one in the range",
			give: dependsOn(t, source(), []string{"1.16.6"}, "name: cilium, version: ~1.16.0, "+from(repository)), want: []string{"cni/charts/cilium-1.16.6.tgz"},
		},
		"OffByDefault": {
			why:  "whether a condition holds is known when the chart is rendered, which must not fetch",
			give: dependsOn(t, source(), nil, "name: cilium, version: 1.16.6, condition: cilium.enabled, "+from(repository)), want: []string{"cni/charts/cilium-1.16.6.tgz"},
		},
		"TwoAliases": {
			give: dependsOn(t, source(), nil, "name: cilium, version: 1.16.6, alias: a, "+from(repository), "name: cilium, version: 1.16.7, alias: b, "+from(repository)),
			want: []string{"cni/charts/cilium-1.16.6.tgz", "cni/charts/cilium-1.16.7.tgz"},
		},
		"Vendored": {
			why:  "what lies there already is neither fetched nor changed",
			give: add(dependsOn(t, source(), nil, "name: cilium, version: 1.16.6, repository: https://unreachable.invalid"), "cluster-addon/cni/charts/cilium-1.16.6.tgz", chartrepotest.Package("cilium", "1.16.6", nil)),
			want: []string{"cni/charts/cilium-1.16.6.tgz"},
		},
		"BesideTheChart": {
			give: add(add(dependsOn(t, source(), nil, "name: common, version: 1.x, repository: file://../../common"), "common/Chart.yaml", []byte(common)), "common/templates/x.yaml", []byte("# << .ClusterAddonVersion >>\n")),
			want: []string{"cni/charts/common/", "cni/charts/common/Chart.yaml", "cni/charts/common/templates/", "cni/charts/common/templates/x.yaml"},
		},
		"BesideTheChartAndFarther": {
			give: add(dependsOn(t, source(), nil, "name: common, version: 0.1.0, repository: file://../../common"), "common/Chart.yaml",
				[]byte("apiVersion: v2\nname: common\nversion: 0.1.0\ndependencies:\n- {name: extra, version: 2.0.0, "+from(repository)+"}\n")),
			want: []string{"cni/charts/common/", "cni/charts/common/Chart.yaml", "cni/charts/common/charts/", "cni/charts/common/charts/extra-2.0.0.tgz"},
		},
		"FirstVersionOfTheFormat": {
			give: add(dependsOn(t, source(), nil), "cluster-addon/cni/requirements.yaml", []byte("dependencies:\n- {name: cilium, version: 1.16.6, "+from(repository)+"}\n")),
			want: []string{"cni/charts/cilium-1.16.6.tgz"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			stack, err := complete(t, tt.give)
			if err != nil {
				t.Fatal(err)
			}
			built, err := stack.Build(versions(t, "v1", "v1", "v1"))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for file, data := range unpack(t, built.Files[addonsFile]) {
				if strings.HasPrefix(file, "cni/charts/") && file != "cni/charts/" {
					got = append(got, file)
				}
				if strings.Contains(data, "<< .ClusterAddonVersion >>") {
					t.Errorf("%s was not filled in", file)
				}
			}
			slices.Sort(got)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("%s: %s", tt.why, diff)
			}
			folder := fstest.MapFS{}
			for file, data := range built.Files {
				folder[file] = &fstest.MapFile{Data: data}
			}
			rel, err := release.Open(folder, built.Name)
			if err != nil {
				t.Fatal(err)
			}
			if lacking, err := rel.Incomplete(); err != nil || len(lacking) > 0 {
				t.Errorf("the operator would fetch %+v, %v", lacking, err)
			}
		})
	}
}

func TestCompleteRefuses(t *testing.T) {
	repository := chartrepotest.Start(t, chartrepotest.Package("cilium", "1.16.6", nil))
	cilium := func(version string) string { return "name: cilium, version: " + version + ", " + from(repository) }
	outdated := dependsOn(t, source(), []string{"1.16.6"}, cilium("~1.15"))
	outdated["stack/cluster-addon/cni/Chart.yaml"].Data = []byte(strings.Replace(string(outdated["stack/cluster-addon/cni/Chart.yaml"].Data), "~1.15", "~1.16", 1))
	loop := "apiVersion: v2\nname: common\nversion: 0.1.0\ndependencies:\n- {name: common, version: 0.1.0, repository: file://../common}\n"
	for name, tt := range map[string]struct {
		give fstest.MapFS
		want []string
	}{
		"OutdatedLock":   {outdated, []string{"cluster-addon/cni/Chart.lock: the lock file does not fit the list of dependencies in Chart.yaml", `run "csctl dependency update"`}},
		"RubbishLock":    {add(dependsOn(t, source(), nil, cilium("1.16.6")), "cluster-addon/cni/Chart.lock", []byte("\t")), []string{"cluster-addon/cni/Chart.lock: the lock file cannot be read"}},
		"RangeUnlocked":  {dependsOn(t, source(), nil, cilium("~1.16")), []string{`cluster-addon/cni/Chart.yaml: dependency cilium: "~1.16" is a range`, "csctl dependency update", "exact version"}},
		"NoSuchVersion":  {dependsOn(t, source(), nil, cilium("1.17.0")), []string{"cluster-addon/cni/Chart.yaml: chart cilium 1.17.0 from http://", "no such version"}},
		"NoRepository":   {dependsOn(t, source(), nil, "name: cilium, version: 1.16.6"), []string{"dependency cilium: it is not in charts/, and no repository is named"}},
		"OutsideTheRoot": {dependsOn(t, source(), nil, "name: x, version: 1.0.0, repository: file://../../../x"), []string{"dependency x: file://../../../x is outside of the stack", "link"}},
		"AbsolutePath":   {dependsOn(t, source(), nil, "name: x, version: 1.0.0, repository: file:///etc"), []string{"outside of the stack"}},
		"NotThere":       {dependsOn(t, source(), nil, "name: x, version: 1.0.0, repository: file://../../x"), []string{"dependency x: x is not a chart"}},
		"CalledOtherwise": {
			add(dependsOn(t, source(), nil, "name: x, version: 1.0.0, repository: file://../../common"), "common/Chart.yaml", []byte("name: common\nversion: 1.0.0\n")),
			[]string{`common/Chart.yaml: the chart is called "common"`},
		},
		"OtherVersionBeside": {
			add(dependsOn(t, source(), nil, "name: common, version: 1.0.0, repository: file://../../common"), "common/Chart.yaml", []byte("name: common\nversion: 2.0.0\n")),
			[]string{"common/Chart.yaml: the chart has the version 2.0.0, and not 1.0.0"},
		},
		"Circle": {
			add(dependsOn(t, source(), nil, "name: common, version: 0.1.0, repository: file://../../common"), "common/Chart.yaml", []byte(loop)),
			[]string{"lead from one to the next more than 8 times"},
		},
		"StaleVendored": {
			add(dependsOn(t, source(), nil, cilium("1.16.6")), "cluster-addon/cni/charts/cilium-1.15.0.tgz", chartrepotest.Package("cilium", "1.15.0", nil)),
			[]string{"dependency cilium is wanted in version 1.16.6, but cluster-addon/cni/charts/cilium-1.15.0.tgz has 1.15.0", `remove that, and "csctl create" fetches the right one`},
		},
		"StaleVendoredByTheLock": {
			add(dependsOn(t, source(), []string{"1.16.6"}, cilium("~1.16")), "cluster-addon/cni/charts/cilium/Chart.yaml", []byte("name: cilium\nversion: 1.16.5\n")),
			[]string{"wanted in version 1.16.6, but cluster-addon/cni/charts/cilium/Chart.yaml has 1.16.5"},
		},
		"NoName": {dependsOn(t, source(), nil, "name: ../x, version: 1.0.0, "+from(repository)), []string{`cluster-addon/cni: Chart.yaml: "../x" cannot be the name of a chart`}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := complete(t, tt.give)
			for _, want := range tt.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want %q", err, want)
				}
			}
		})
	}
}

// The hash is over what the author wrote, so that everybody gets the same name for it.
func TestDependenciesAreNoPartOfTheHash(t *testing.T) {
	repository := chartrepotest.Start(t, chartrepotest.Package("cilium", "1.16.6", nil))
	fsys := dependsOn(t, source(), nil, "name: cilium, version: 1.16.6, "+from(repository))
	before, err := read(t, fsys).Hash()
	if err != nil {
		t.Fatal(err)
	}
	stack, err := complete(t, fsys)
	if err != nil {
		t.Fatal(err)
	}
	if after, err := stack.Hash(); err != nil || after != before {
		t.Errorf("%v became %v, %v", before, after, err)
	}
}

func TestLocks(t *testing.T) {
	repository := chartrepotest.Start(t, chartrepotest.Package("cilium", "1.16.6", nil), chartrepotest.Package("cilium", "1.16.7", nil), chartrepotest.Package("extra", "2.0.0", nil))
	fsys := dependsOn(t, source(), nil, "name: cilium, version: ~1.16, "+from(repository), "name: common, version: 0.x, repository: file://../../common")
	add(fsys, "common/Chart.yaml", []byte("apiVersion: v2\nname: common\nversion: 0.1.0\ndependencies:\n- {name: extra, version: '*', "+from(repository)+"}\n"))
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	locks, err := read(t, fsys).Locks(t.Context(), repositories("").Versions, now)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]string{"cluster-addon/cni/Chart.lock": {"1.16.7", "0.1.0"}, "common/Chart.lock": {"2.0.0"}}
	for name, versions := range want {
		lock := string(locks[name])
		for _, version := range append(versions, "2026-03-01T12:00:00Z") {
			if !strings.Contains(lock, version) {
				t.Errorf("%s lacks %s: %s", name, version, lock)
			}
		}
		add(fsys, name, locks[name])
	}
	if len(locks) != len(want) {
		t.Errorf("got %v", locks)
	}

	// With them it builds, and they stay as they are as long as nothing changes.
	if _, err := complete(t, fsys); err != nil {
		t.Error(err)
	}
	if locks, err = read(t, fsys).Locks(t.Context(), repositories("").Versions, now.Add(time.Hour)); err != nil || len(locks) > 0 {
		t.Errorf("again: got %v, %v", locks, err)
	}
	repository.Set(t, chartrepotest.Package("cilium", "1.16.8", nil), chartrepotest.Package("extra", "2.0.0", nil))
	if locks, err = read(t, fsys).Locks(t.Context(), repositories("").Versions, now); err != nil || len(locks) != 1 || !strings.Contains(string(locks["cluster-addon/cni/Chart.lock"]), "1.16.8") {
		t.Errorf("after a new version: got %v, %v", locks, err)
	}
	if _, err := read(t, fsys).Locks(t.Context(), func(context.Context, []*chart.Dependency) ([]string, error) { return nil, errors.New("no network") }, now); err == nil || !strings.Contains(err.Error(), "cluster-addon/cni/Chart.yaml: no network") {
		t.Errorf("without a network: got %v", err)
	}
}

// BenchmarkBuild builds a stack with four addons, each of which depends on a chart that the cache has.
func BenchmarkBuild(b *testing.B) {
	repository := chartrepotest.Start(b)
	var packages [][]byte
	fsys := files(map[string]string{
		"csctl.yaml":               "config: {kubernetesVersion: v1.35.4, clusterStackName: scs, provider: {type: docker}}",
		"cluster-class/Chart.yaml": "apiVersion: v2\nname: docker-scs-1-35-cluster-class\nversion: v1\n",
		"clusteraddon.yaml":        "addonStages: {}",
	})
	for i := range 4 {
		name := fmt.Sprintf("chart%d", i)
		// As many files and bytes as a large public chart has.
		templates := map[string]string{}
		for j := range 150 {
			templates[fmt.Sprintf("templates/t%d.yaml", j)] = strings.Repeat(fmt.Sprintf("key%d: {{ .Values.a%d }}\n", j, i), 400)
		}
		packages = append(packages, chartrepotest.Package(name, "1.0.0", templates))
		add(fsys, fmt.Sprintf("cluster-addon/addon%d/Chart.yaml", i), fmt.Appendf(nil, "apiVersion: v2\nname: addon%d\nversion: v1\ndependencies:\n- {name: %s, version: 1.0.0, %s}\n", i, name, from(repository)))
	}
	repository.Set(b, packages...)
	folder, cache := b.TempDir(), b.TempDir()
	if err := os.CopyFS(folder, fsys); err != nil {
		b.Fatal(err)
	}
	once := func(cache string) {
		stack, err := build.Read(os.DirFS(folder), "stack")
		if err != nil {
			b.Fatal(err)
		}
		if err := stack.Complete(b.Context(), repositories(cache).Complete); err != nil {
			b.Fatal(err)
		}
		v := release.Version{Major: 1}
		built, err := stack.Build(build.Versions{ClusterStack: v, ClusterAddon: v, NodeImage: v})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := built.Write(filepath.Join(b.TempDir(), "out"), nil); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("Cold", func(b *testing.B) {
		for b.Loop() {
			once("")
		}
	})
	once(cache)
	asked := repository.Requests()
	b.Run("Warm", func(b *testing.B) {
		for b.Loop() {
			once(cache)
		}
	})
	if repository.Requests() != asked {
		b.Error("the cache was not used")
	}
}
