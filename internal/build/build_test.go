// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package build_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/dirhash"

	"github.com/clusterstacks/cluster-stack-operator/internal/build"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
)

// source is a small stack with stages, in the folder "stack".
func source() fstest.MapFS {
	return files(map[string]string{
		"csctl.yaml": `apiVersion: csctl.clusterstack.x-k8s.io/v1alpha1
config:
  kubernetesVersion: v1.35.4
  clusterStackName: scs
  provider:
    type: docker
    apiVersion: docker.csctl.clusterstack.x-k8s.io/v1alpha1
`,
		"clusteraddon.yaml": `addonStages:
  AfterControlPlaneInitialized: &all
    - {name: cni, action: apply}
  BeforeClusterUpgrade: *all
`,
		"README.md":                            "What << .Nobody >> reads.",
		"cluster-class/Chart.yaml":             "# The class.\nname: docker-scs-1-35-cluster-class\nversion: v0 # filled in\napiVersion: v2\ndependencies:\n  - name: x\n    version: v7\n",
		"cluster-class/templates/class.yaml":   "name: {{ .Release.Name }}-{{ .Chart.Version }}\n",
		"cluster-addon/cni/Chart.yaml":         "apiVersion: v2\nname: cni\nversion: << .ClusterAddonVersion >>\n",
		"cluster-addon/cni/.helmignore":        "overwrite.yaml\n*.orig\ndocs/\n",
		"cluster-addon/cni/overwrite.yaml":     "cluster: {{ .Cluster.metadata.name }}\n",
		"cluster-addon/cni/docs/a.md":          "left out",
		"cluster-addon/cni/templates/a.orig":   "left out",
		"cluster-addon/cni/templates/.swp":     "left out",
		"cluster-addon/cni/templates/cni.yaml": "class: << .ClusterClassVersion >>\nimage: << .NodeImageVersion >>\nscript: |\n  cat << EOF >> /etc/motd\n  x\n  EOF\n  echo $((1 << 2))\n",
		"cluster-addon/cni/charts/sub.tgz":     "\x1f\x8b\x00 << .ClusterAddonVersion >>",
	})
}

// legacy is a small stack with a single addon chart.
func legacy() fstest.MapFS {
	fsys := source()
	for name := range fsys {
		if strings.HasPrefix(name, "stack/cluster-addon/") {
			delete(fsys, name)
		}
	}
	delete(fsys, "stack/clusteraddon.yaml")
	maps.Copy(fsys, files(map[string]string{
		"cluster-addon/Chart.yaml":          "name: docker-scs-1-35-cluster-addon\nversion: v0\n",
		"cluster-addon/templates/addon.yml": "a: b\n",
		"cluster-addon-values.yaml":         "values: |\n  x: y\n",
	}))
	return fsys
}

func files(contents map[string]string) fstest.MapFS {
	fsys := fstest.MapFS{}
	for name, data := range contents {
		fsys["stack/"+name] = &fstest.MapFile{Data: []byte(data), Mode: 0o600}
	}
	return fsys
}

func read(t *testing.T, fsys fs.FS) *build.Stack {
	t.Helper()
	stack, err := build.Read(fsys, "stack")
	if err != nil {
		t.Fatal(err)
	}
	return stack
}

func version(t *testing.T, s string) release.Version {
	t.Helper()
	v, err := release.ParseVersion(s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func versions(t *testing.T, stack, addon, image string) build.Versions {
	t.Helper()
	return build.Versions{ClusterStack: version(t, stack), ClusterAddon: version(t, addon), NodeImage: version(t, image)}
}

func mustBuild(t *testing.T, fsys fs.FS, v build.Versions) *build.Release {
	t.Helper()
	rel, err := read(t, fsys).Build(v)
	if err != nil {
		t.Fatal(err)
	}
	return rel
}

// unpack returns the files of an archive; folders end in a slash.
func unpack(t *testing.T, packed []byte) map[string]string {
	t.Helper()
	unzipped, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for archive := tar.NewReader(unzipped); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return got
		}
		if err != nil {
			t.Fatal(err)
		}
		if header.ModTime.Unix() != 0 || header.Uid != 0 || header.Uname != "" {
			t.Errorf("%s tells who made it and when: %+v", header.Name, header)
		}
		data, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		got[header.Name] = string(data)
	}
}

func TestBuildMultistage(t *testing.T) {
	fsys := source()
	maps.Copy(fsys, files(map[string]string{"cluster-addon/.idea/x.xml": "of an editor"}))
	rel := mustBuild(t, fsys, versions(t, "v3", "v2", "v0-custom.img"))
	if rel.Name.String() != "docker-scs-1-35-v3" {
		t.Errorf("called %s", rel.Name)
	}
	want := []string{
		"clusteraddon.yaml",
		"docker-scs-1-35-cluster-addon-v2.tgz",
		"docker-scs-1-35-cluster-class-v3.tgz",
		"hashes.json",
		"metadata.yaml",
	}
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(rel.Files))); diff != "" {
		t.Fatal(diff)
	}
	if diff := cmp.Diff(`apiVersion: metadata.clusterstack.x-k8s.io/v1alpha1
versions:
    clusterStack: v3
    kubernetes: v1.35.4
    components:
        clusterAddon: v2
        nodeImage: v0-custom.img
`, string(rel.Files["metadata.yaml"])); diff != "" {
		t.Error(diff)
	}
	class := "docker-scs-1-35-cluster-class"
	if diff := cmp.Diff(map[string]string{
		class + "/":                     "",
		class + "/Chart.yaml":           "# The class.\nname: " + class + "\nversion: v3\napiVersion: v2\ndependencies:\n  - name: x\n    version: v7\n",
		class + "/templates/":           "",
		class + "/templates/class.yaml": "name: {{ .Release.Name }}-{{ .Chart.Version }}\n",
	}, unpack(t, rel.Files[want[2]])); diff != "" {
		t.Errorf("class chart: %s", diff)
	}
	if diff := cmp.Diff(map[string]string{
		"cni/":                   "",
		"cni/.helmignore":        "overwrite.yaml\n*.orig\ndocs/\n",
		"cni/Chart.yaml":         "apiVersion: v2\nname: cni\nversion: v2\n",
		"cni/overwrite.yaml":     "cluster: {{ .Cluster.metadata.name }}\n",
		"cni/charts/":            "",
		"cni/charts/sub.tgz":     "\x1f\x8b\x00 << .ClusterAddonVersion >>",
		"cni/templates/":         "",
		"cni/templates/cni.yaml": "class: v3\nimage: v0-custom.img\nscript: |\n  cat << EOF >> /etc/motd\n  x\n  EOF\n  echo $((1 << 2))\n",
	}, unpack(t, rel.Files[want[1]])); diff != "" {
		t.Errorf("addons: %s", diff)
	}
}

func TestBuildLegacy(t *testing.T) {
	rel := mustBuild(t, legacy(), versions(t, "v3", "v2", "v1"))
	want := []string{
		"cluster-addon-values.yaml",
		"docker-scs-1-35-cluster-addon-v2.tgz",
		"docker-scs-1-35-cluster-class-v3.tgz",
		"hashes.json",
		"metadata.yaml",
	}
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(rel.Files))); diff != "" {
		t.Fatal(diff)
	}
	got := unpack(t, rel.Files[want[1]])["docker-scs-1-35-cluster-addon/Chart.yaml"]
	if got != "name: docker-scs-1-35-cluster-addon\nversion: v2\n" {
		t.Errorf("got %q", got)
	}
}

func TestBuiltReleasesOpen(t *testing.T) {
	for name, fsys := range map[string]fstest.MapFS{"Multistage": source(), "Legacy": legacy()} {
		t.Run(name, func(t *testing.T) {
			built := mustBuild(t, fsys, versions(t, "v0-sha.abc1234", "v0-sha.abc1234", "v0-sha.abc1234"))
			folder := fstest.MapFS{}
			for file, data := range built.Files {
				folder[file] = &fstest.MapFile{Data: data}
			}
			rel, err := release.Open(folder, built.Name)
			if err != nil || len(rel.Warnings) > 0 || rel.Multistage() != (name == "Multistage") {
				t.Errorf("got %+v, %v", rel, err)
			}
		})
	}
}

// The bytes must not depend on where, when and by whom a release is built.
func TestBuildIsReproducible(t *testing.T) {
	v := versions(t, "v3", "v2", "v1")
	first := mustBuild(t, source(), v)
	folder := t.TempDir()
	if err := os.CopyFS(folder, source()); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(folder, "stack/README.md"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TZ", "Asia/Tokyo")
	if diff := cmp.Diff(first, mustBuild(t, os.DirFS(folder), v)); diff != "" {
		t.Error(diff)
	}
}

func TestHashIsThatOfTheFolder(t *testing.T) {
	fsys := source()
	maps.Copy(fsys, files(map[string]string{"node-images/config.yaml": "x", "cluster-addon-values.yaml": "x"}))
	folder := t.TempDir()
	if err := os.CopyFS(folder, fsys); err != nil {
		t.Fatal(err)
	}
	hash := func(name string) string {
		hash, err := dirhash.HashDir(filepath.Join(folder, "stack", name), "", dirhash.Hash1)
		if err != nil {
			t.Fatal(err)
		}
		return strings.ToLower(regexp.MustCompile("^h1:|[/=+]").ReplaceAllString(hash, ""))
	}
	got, err := read(t, os.DirFS(folder)).Hash()
	if err != nil {
		t.Fatal(err)
	}
	want := build.Hashes{
		ClusterStack:    hash("."),
		ClusterAddonDir: hash("cluster-addon"),
		NodeImageDir:    hash("node-images"),
		// printf x | openssl dgst -sha256 -binary | base64
		ClusterAddonValues: "lxewqrcmseqbynyp6wy9chtd7gqpmtbaiwhf5iasie",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	stack, err := read(t, os.DirFS(folder)).HashVersions()
	if err != nil || stack.ClusterStack.String() != "v0-sha."+want.ClusterStack[:7] || stack.NodeImage != stack.ClusterStack {
		t.Errorf("got %v, %v", stack, err)
	}
}

func TestHashesFile(t *testing.T) {
	rel := mustBuild(t, source(), versions(t, "v1", "v1", "v1"))
	form := regexp.MustCompile(`^\{\n  "clusterStack": "[a-z0-9]+",\n  "clusterAddonDir": "[a-z0-9]+",\n  "clusterAddonValues": ""\n\}$`)
	if !form.Match(rel.Files["hashes.json"]) {
		t.Errorf("got %s", rel.Files["hashes.json"])
	}
}

func TestReadRefuses(t *testing.T) {
	config := func(kubernetes, stack, provider string) func(fstest.MapFS) {
		return func(fsys fstest.MapFS) {
			fsys["stack/csctl.yaml"] = &fstest.MapFile{Data: []byte("config: {kubernetesVersion: " + kubernetes + ", clusterStackName: " + stack + ", provider: {type: " + provider + "}}")}
		}
	}
	link := func(name, to string) func(fstest.MapFS) {
		return func(fsys fstest.MapFS) {
			fsys["stack/"+name] = &fstest.MapFile{Data: []byte(to), Mode: fs.ModeSymlink | 0o777}
		}
	}
	for name, tt := range map[string]struct {
		change func(fstest.MapFS)
		want   string
	}{
		"NoConfig":          {func(fsys fstest.MapFS) { delete(fsys, "stack/csctl.yaml") }, "it has no csctl.yaml"},
		"NoPatch":           {config("v1.35", "scs", "docker"), `config.kubernetesVersion: "v1.35" is not of the form`},
		"DashInStack":       {config("v1.35.4", "my-stack", "docker"), `config.clusterStackName: "my-stack"`},
		"DashInProvider":    {config("v1.35.4", "scs", "my-cloud"), `config.provider.type: "my-cloud"`},
		"AbsoluteLink":      {link("x", "/etc/passwd"), "link x: /etc/passwd is outside"},
		"LinkOutside":       {link("x", "../../etc/passwd"), "link x: ../../etc/passwd is outside"},
		"LinkToHidden":      {link("x", "../.ssh/id_rsa"), "link x: ../.ssh/id_rsa is hidden"},
		"LinkToItself":      {link("x", "x"), "link x: x leads over more than 40 links"},
		"LinkToFolderAbove": {link("cluster-class/x", ".."), "deeper than 32 folders"},
		"LinkToNothing":     {link("x", "absent"), "link x: "},
		"Device":            {func(fsys fstest.MapFS) { fsys["stack/x"] = &fstest.MapFile{Mode: fs.ModeDevice} }, "x is neither a file nor a folder"},
		"NameOfTwoLines":    {func(fsys fstest.MapFS) { fsys["stack/a\nb"] = &fstest.MapFile{} }, `"stack/a\nb" cannot be the name of a file`},
		"LargeFile":         {func(fsys fstest.MapFS) { fsys["stack/x"] = &fstest.MapFile{Data: make([]byte, 6<<20)} }, "x is larger than 5 MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			fsys := source()
			tt.change(fsys)
			if _, err := build.Read(fsys, "stack"); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// Stacks for several minor versions of Kubernetes share what they have in common.
func TestLinksAreFollowed(t *testing.T) {
	shared := t.TempDir()
	if err := os.CopyFS(shared, source()); err != nil {
		t.Fatal(err)
	}
	v := versions(t, "v1", "v1", "v1")
	want := mustBuild(t, os.DirFS(shared), v)
	for _, step := range []error{
		os.Mkdir(filepath.Join(shared, "common"), 0o755),
		os.Rename(filepath.Join(shared, "stack/cluster-addon"), filepath.Join(shared, "common/cluster-addon")),
		os.Symlink("../common/cluster-addon", filepath.Join(shared, "stack/cluster-addon")),
		os.Rename(filepath.Join(shared, "stack/clusteraddon.yaml"), filepath.Join(shared, "common/clusteraddon.yaml")),
		os.Symlink("../common/clusteraddon.yaml", filepath.Join(shared, "stack/clusteraddon.yaml")),
	} {
		if step != nil {
			t.Fatal(step)
		}
	}
	root, err := os.OpenRoot(shared)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = root.Close() }()
	if diff := cmp.Diff(want, mustBuild(t, root.FS(), v)); diff != "" {
		t.Errorf("a link makes a difference: %s", diff)
	}
}

// A link may lead to another one, such as from minor version to minor version.
func TestLinksMayLeadToLinks(t *testing.T) {
	shared := t.TempDir()
	if err := os.CopyFS(shared, source()); err != nil {
		t.Fatal(err)
	}
	v := versions(t, "v1", "v1", "v1")
	want := mustBuild(t, os.DirFS(shared), v)
	for _, step := range []error{
		os.Mkdir(filepath.Join(shared, "common"), 0o755),
		os.Mkdir(filepath.Join(shared, "before"), 0o755),
		os.Rename(filepath.Join(shared, "stack/cluster-addon"), filepath.Join(shared, "common/addons")),
		os.Symlink("../common", filepath.Join(shared, "before/common")),
		os.Symlink("common/./addons", filepath.Join(shared, "before/addons")),
		os.Symlink("../before/addons", filepath.Join(shared, "stack/cluster-addon")),
	} {
		if step != nil {
			t.Fatal(step)
		}
	}
	root, err := os.OpenRoot(shared)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = root.Close() }()
	if diff := cmp.Diff(want, mustBuild(t, root.FS(), v)); diff != "" {
		t.Errorf("a link makes a difference: %s", diff)
	}
	// Nor does one of them lead out.
	if err := errors.Join(os.Remove(filepath.Join(shared, "before/common")), os.Symlink("../..", filepath.Join(shared, "before/common"))); err != nil {
		t.Fatal(err)
	}
	if _, err := build.Read(root.FS(), "stack"); err == nil || !strings.Contains(err.Error(), "link cluster-addon: ../before/addons is outside of the folder that holds the stack") {
		t.Errorf("got %v", err)
	}
}

// The name of a build must not depend on what was built before, on git or on the machine.
func TestWhatIsThereByAccidentIsNoPartOfTheStack(t *testing.T) {
	want, err := read(t, source()).Hash()
	if err != nil {
		t.Fatal(err)
	}
	fsys := source()
	maps.Copy(fsys, files(map[string]string{
		".git":                          "gitdir: /home/me/stacks/.git/worktrees/one\n",
		"cluster-addon/cni/.git/config": "x",
		".DS_Store":                     "x",
		".release/docker-scs-1-35-v1/metadata.yaml": "x",
		".release/docker-scs-1-35-v1/hashes.json":   "x",
		"out/.docker-scs-1-35-v0-sha-abc-123/a.tgz": "x",
	}))
	if got, err := read(t, fsys).Hash(); err != nil || got != want {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	for _, name := range []string{".github/workflows/x.yaml", "docker-scs-1-35-v1/README.md", ".gitignore"} {
		fsys := source()
		maps.Copy(fsys, files(map[string]string{name: "x"}))
		if got, err := read(t, fsys).Hash(); err != nil || got == want {
			t.Errorf("%s does not count: %v", name, err)
		}
	}
}

func TestChartVersionIsWrittenHoweverTheChartIs(t *testing.T) {
	const name = "name: docker-scs-1-35-cluster-class"
	for test, tt := range map[string]struct{ give, want, wantErr string }{
		"WindowsLines": {give: name + "\r\nversion: v0 # x\r\napiVersion: v2\r\n", want: name + "\r\nversion: v3\r\napiVersion: v2\r\n"},
		"NoLastLine":   {give: name + "\nversion: v0", want: name + "\nversion: v3"},
		"NoVersion":    {give: name, want: name + "\nversion: v3\n"},
		"Quoted":       {give: name + "\n\"version\": v0\n", wantErr: "cluster-class/Chart.yaml: the version cannot be filled in: write it on a line of its own"},
		"OneLine":      {give: "{" + name + ", version: v0}", wantErr: "write it on a line of its own"},
		"TwoLines":     {give: name + "\nversion: >-\n  v0\n", wantErr: "write it on a line of its own"},
		"Anchor":       {give: name + "\nversion: &v v0\nappVersion: *v\n", wantErr: "write it on a line of its own"},
	} {
		t.Run(test, func(t *testing.T) {
			fsys := source()
			fsys["stack/cluster-class/Chart.yaml"] = &fstest.MapFile{Data: []byte(tt.give)}
			rel, err := read(t, fsys).Build(versions(t, "v3", "v2", "v1"))
			if tt.wantErr != "" || err != nil {
				if err == nil || tt.wantErr == "" || !strings.Contains(err.Error(), tt.wantErr) {
					t.Errorf("got %v, want %q", err, tt.wantErr)
				}
				return
			}
			if got := unpack(t, rel.Files["docker-scs-1-35-cluster-class-v3.tgz"])["docker-scs-1-35-cluster-class/Chart.yaml"]; got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestBuildRefuses(t *testing.T) {
	set := func(name, data string) func(fstest.MapFS) {
		return func(fsys fstest.MapFS) { fsys["stack/"+name] = &fstest.MapFile{Data: []byte(data)} }
	}
	for name, tt := range map[string]struct {
		legacy bool
		change func(fstest.MapFS)
		want   string
	}{
		"ClassOfOtherName":   {change: set("cluster-class/Chart.yaml", "name: docker-scs-1-27-cluster-class\n"), want: "cluster-class/Chart.yaml: the chart must be called docker-scs-1-35-cluster-class, not \"docker-scs-1-27-cluster-class\""},
		"AddonOfOtherName":   {legacy: true, change: set("cluster-addon/Chart.yaml", "name: addons\n"), want: "must be called docker-scs-1-35-cluster-addon"},
		"NoClass":            {change: func(fsys fstest.MapFS) { delete(fsys, "stack/cluster-class/Chart.yaml") }, want: "cluster-class is not a chart"},
		"FolderWithoutChart": {change: set("cluster-addon/extra/values.yaml", "a: b"), want: "cluster-addon/extra is not a chart"},
		"UnknownTag":         {change: set("cluster-addon/cni/values.yaml", "a: b\n\nc: << .ClusterAdonVersion >>\n"), want: "cluster-addon/cni/values.yaml:3: unknown tag << .ClusterAdonVersion >>"},
		"UnknownTagInStages": {change: set("clusteraddon.yaml", "# << .X >>"), want: "clusteraddon.yaml:1: unknown tag"},
		"NoAddons": {legacy: true, change: func(fsys fstest.MapFS) {
			delete(fsys, "stack/cluster-addon/Chart.yaml")
			delete(fsys, "stack/cluster-addon/templates/addon.yml")
		}, want: "it has no chart of cluster addons"},
		"LongName": {change: set("csctl.yaml", "config: {kubernetesVersion: v1.35.4, clusterStackName: "+strings.Repeat("x", 60)+", provider: {type: docker}}"), want: "is not the name of a release"},
	} {
		t.Run(name, func(t *testing.T) {
			fsys := source()
			if tt.legacy {
				fsys = legacy()
			}
			tt.change(fsys)
			if _, err := read(t, fsys).Build(versions(t, "v1", "v1", "v1")); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestLatest(t *testing.T) {
	var names []release.Name
	for _, tag := range []string{
		"docker-scs-1-35-v2", "docker-scs-1-35-v10", "docker-scs-1-35-v9", "docker-scs-1-36-v11", "docker-other-1-35-v12",
		"docker-scs-1-35-v0-beta-9", "docker-scs-1-35-v0-beta-10", "docker-scs-1-35-v0-beta-rc1", "docker-scs-1-35-v0-sha-abc",
	} {
		name, err := release.ParseName(tag)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	for channel, want := range map[string]string{"": "docker-scs-1-35-v10", "beta": "docker-scs-1-35-v0-beta-10"} {
		if got, found := read(t, source()).Latest(channel, names); !found || got.String() != want {
			t.Errorf("channel %q: got %s, %t; want %s", channel, got, found, want)
		}
	}
	if got, found := read(t, source()).Latest("alpha", names); found {
		t.Errorf("found %s", got)
	}
}

func TestNextVersions(t *testing.T) {
	set := func(name, data string) func(fstest.MapFS) {
		return func(fsys fstest.MapFS) { fsys["stack/"+name] = &fstest.MapFile{Data: []byte(data)} }
	}
	none := func(fstest.MapFS) {}
	common := func(fsys fstest.MapFS) {
		set("cluster-addon/cni/Chart.yaml", "apiVersion: v2\nname: cni\nversion: v1\ndependencies:\n- {name: common, version: 1.0.0, repository: file://../../common}\n")(fsys)
		set("common/Chart.yaml", "apiVersion: v2\nname: common\nversion: 1.0.0\ndependencies:\n- {name: farther, version: 1.0.0, repository: file://../farther}\n")(fsys)
		set("common/values.yaml", "a: b\n")(fsys)
		set("farther/Chart.yaml", "apiVersion: v2\nname: farther\nversion: 1.0.0\n")(fsys)
	}
	was := [3]string{"v7", "v4", "v2"}
	for name, tt := range map[string]struct {
		why       string
		was       [3]string
		stack     func(stack fstest.MapFS) // both have it
		change    func(stack fstest.MapFS)
		published func(rel map[string]*fstest.MapFile)
		want      [3]string
	}{
		"Class": {
			why:    "a change of the class alone must be releasable too",
			change: set("cluster-class/templates/class.yaml", "x"), want: [3]string{"v8", "v4", "v2"},
		},
		"Addon":     {change: set("cluster-addon/cni/templates/cni.yaml", "x"), want: [3]string{"v8", "v5", "v2"}},
		"Stages":    {change: set("clusteraddon.yaml", "addonStages: {BeforeClusterUpgrade: [{name: cni, action: apply}]}"), want: [3]string{"v8", "v5", "v2"}},
		"Values":    {change: set("cluster-addon-values.yaml", "x"), want: [3]string{"v8", "v5", "v2"}},
		"NodeImage": {change: set("node-images/config.yaml", "x"), want: [3]string{"v8", "v4", "v3"}},
		"Beta": {
			was:    [3]string{"v0-beta.9", "v0-beta.3", "v0-beta.1"},
			change: set("cluster-addon/cni/templates/cni.yaml", "x"), want: [3]string{"v0-beta.10", "v0-beta.4", "v0-beta.1"},
		},
		"NoHashes": {
			why:    "what cannot be compared counts as changed",
			change: none, published: func(rel map[string]*fstest.MapFile) { delete(rel, "hashes.json") }, want: [3]string{"v8", "v5", "v2"},
		},
		"HashesOfStackOnly": {
			why:    "other tools write such files",
			change: none, published: func(rel map[string]*fstest.MapFile) {
				rel["hashes.json"] = &fstest.MapFile{Data: []byte(`{"clusterStack": "2cf24dba"}`)}
			}, want: [3]string{"v8", "v5", "v2"},
		},
		"ChartBesideTheAddons": {
			why: "a part of the addons is where file:// leads", stack: common, change: set("common/values.yaml", "a: c\n"), want: [3]string{"v8", "v5", "v2"},
		},
		"ChartBesideTheAddonsAndFarther": {
			stack: common, change: set("farther/values.yaml", "a: c\n"), want: [3]string{"v8", "v5", "v2"},
		},
		"ChartBesideTheAddonsInAnOlderRelease": {
			why:   "what other tools have not noted cannot be compared",
			stack: common, change: set("cluster-class/templates/class.yaml", "x"), published: func(rel map[string]*fstest.MapFile) {
				text, _, _ := strings.Cut(string(rel["hashes.json"].Data), ",\n  \"clusterAddonCharts\"")
				rel["hashes.json"] = &fstest.MapFile{Data: []byte(text + "}")}
			}, want: [3]string{"v8", "v5", "v2"},
		},
		"ClassBesideAChartOfTheAddons": {stack: common, change: set("cluster-class/templates/class.yaml", "x"), want: [3]string{"v8", "v4", "v2"}},
		"AddonsOfAnotherNumbering": {
			why: "somebody gave them their version by hand", was: [3]string{"v7", "v0-sha.abc", "v2"},
			change: set("cluster-addon/cni/values.yaml", "x"), want: [3]string{"v8", "v8", "v2"},
		},
		"UnsoundBefore": {
			why:    "the next release is what mends it",
			change: set("cluster-addon/cni/values.yaml", "x"), published: func(rel map[string]*fstest.MapFile) {
				rel["clusteraddon.yaml"] = &fstest.MapFile{Data: []byte("addonStages: {BeforeClusterUpgrade: [{name: cni, action: aply}]}")}
				delete(rel, "docker-scs-1-35-cluster-class-v7.tgz")
			}, want: [3]string{"v8", "v5", "v2"},
		},
		"NoNodeImageBefore": {
			change: set("cluster-class/templates/class.yaml", "x"), published: func(rel map[string]*fstest.MapFile) {
				rel["metadata.yaml"] = &fstest.MapFile{Data: []byte("versions: {clusterStack: v7, kubernetes: v1.35.4, components: {clusterAddon: v4}}")}
			}, want: [3]string{"v8", "v4", "v1"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if tt.was == [3]string{} {
				tt.was = was
			}
			given := source()
			if tt.stack != nil {
				tt.stack(given)
			}
			built := mustBuild(t, given, versions(t, tt.was[0], tt.was[1], tt.was[2]))
			folder := fstest.MapFS{}
			for file, data := range built.Files {
				folder[file] = &fstest.MapFile{Data: data}
			}
			if tt.published != nil {
				tt.published(folder)
			}
			fsys := source()
			if tt.stack != nil {
				tt.stack(fsys)
			}
			tt.change(fsys)
			got, err := read(t, fsys).NextVersions(built.Name, folder)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(versions(t, tt.want[0], tt.want[1], tt.want[2]), got); diff != "" {
				t.Errorf("%s: %s", tt.why, diff)
			}
		})
	}
}

func TestNoChange(t *testing.T) {
	built := mustBuild(t, source(), versions(t, "v1", "v1", "v1"))
	folder := fstest.MapFS{}
	for file, data := range built.Files {
		folder[file] = &fstest.MapFile{Data: data}
	}
	if got, err := read(t, source()).NextVersions(built.Name, folder); !errors.Is(err, build.ErrNoChange) {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestWrite(t *testing.T) {
	output := filepath.Join(t.TempDir(), "new", "releases")
	rel := mustBuild(t, source(), versions(t, "v1", "v1", "v1"))
	addImages := func(folder string) error {
		return os.WriteFile(filepath.Join(folder, "node-images.yaml"), []byte("x"), 0o600)
	}
	first, err := rel.Write(output, addImages)
	if err != nil {
		t.Fatal(err)
	}
	if first.Existed || first.Folder != filepath.Join(output, "docker-scs-1-35-v1") || !slices.Contains(first.Files, "node-images.yaml") || len(first.Files) != 6 {
		t.Errorf("got %+v", first)
	}
	again, err := rel.Write(output, addImages)
	if err != nil || !again.Existed {
		t.Errorf("the same again: got %+v, %v", again, err)
	}
	if _, err := rel.Write(output, nil); err == nil || !strings.Contains(err.Error(), "differs in node-images.yaml") {
		t.Errorf("a file less: got %v", err)
	}
	changed := mustBuild(t, legacy(), versions(t, "v1", "v1", "v1"))
	if _, err := changed.Write(output, addImages); err == nil || !strings.Contains(err.Error(), "exists already and differs in cluster-addon-values.yaml, clusteraddon.yaml") {
		t.Errorf("other contents: got %v", err)
	}
	broken := mustBuild(t, source(), versions(t, "v2", "v2", "v2"))
	broken.Files["clusteraddon.yaml"] = []byte("addonStages: {BeforeClusterUpgrade: [{name: absent, action: apply}]}")
	if _, err := broken.Write(output, nil); err == nil || !strings.Contains(err.Error(), "the operator could not use it") {
		t.Errorf("an unusable one: got %v", err)
	}
	if _, err := broken.Write(output, func(string) error { return fs.ErrPermission }); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("a plugin that fails: got %v", err)
	}
	entries, err := os.ReadDir(output)
	if err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}
