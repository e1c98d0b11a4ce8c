// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/clusterstacks/cluster-stack-operator/internal/release/releasetest"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/oci/registrytest"
)

// What a terminal obeys: its title, eight-bit sequences, text that runs the other way.
const obeyed = "\x1b]0;mine\a\x9b2J\u202etxt"

func TestVisible(t *testing.T) {
	for give, want := range map[string]string{
		"docker-scs-1-35-v1/metadata.yaml": "docker-scs-1-35-v1/metadata.yaml",
		"größer als nötig, 日本":             "größer als nötig, 日本",
		obeyed:                             `\x1b]0;mine\a\ufffd2J\u202etxt`,
		"two\n\tlines\r":                   "two\n\tlines\\r",
	} {
		if got := visible(give); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	for give, want := range map[string]string{"metadata.yaml": "metadata.yaml", "a\nb": `"a\nb"`, obeyed: `"\x1b]0;mine\a\x9b2J\u202etxt"`} {
		if got := visibleName(give); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if got, want := visibleInColour("\x1b[31m-\x1b[0m \x1b[2J"), "\x1b[31m-\x1b[0m \\x1b[2J"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Whoever may write to a place says what files, tags and objects are called.
func TestForeignNamesAreWrittenOut(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	r := registrytest.Start(t, registrytest.Options{Wrap: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if strings.HasSuffix(req.URL.Path, "/odd/tags/list") {
				_, _ = fmt.Fprintf(w, `{"name":"odd","tags":["\u001b]0;mine\u0007tag"]}`)
				return
			}
			next.ServeHTTP(w, req)
		})
	}})
	named := func(tag string) fstest.MapFS {
		files := releasetest.Multistage(tag)
		files[strings.ToValidUTF8(obeyed, "")+".txt"] = &fstest.MapFile{Data: []byte("x")}
		files[releasetest.ClassPackage(tag)] = &fstest.MapFile{Data: releasetest.Archive(map[string]string{
			"docker-scs-1-35-cluster-class/Chart.yaml":       releasetest.Chart("docker-scs-1-35-cluster-class", "v1"),
			"docker-scs-1-35-cluster-class/templates/c.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: c\n  annotations:\n    tag: \"" + tag + "\\e]0;mine\\a\"\n",
		})}
		return files
	}
	from := openStacks(t, r, "from")
	for _, tag := range []string{placeTag, "docker-scs-1-35-v2"} {
		_, err := from.Publish(t.Context(), parseName(t, tag), named(tag), created, nil)
		must(t, err)
	}
	folder := t.TempDir()
	for _, args := range [][]string{
		{"mirror", "oci://" + r.Host + "/from", filepath.Join(folder, "stacks.tar"), "--plain-http"},
		{"mirror", "oci://" + r.Host + "/from", filepath.Join(folder, "releases"), "--plain-http"},
		{"pull", "oci://" + r.Host + "/from:" + placeTag, "--plain-http", "--output", filepath.Join(folder, "pulled")},
		{"list", "oci://" + r.Host + "/odd", "--plain-http", "--all"},
		{"diff", "oci://" + r.Host + "/from:" + placeTag, "oci://" + r.Host + "/from:docker-scs-1-35-v2", "--plain-http", "--all"},
	} {
		stdout, stderr, code := runCsctl(t, args...)
		if code != 0 && args[0] != "diff" {
			t.Errorf("csctl %s ends with %d: %s", args[0], code, stderr)
		}
		if said := stdout + stderr; strings.ContainsAny(said, "\x1b\a\u202e") || strings.Contains(said, "\x9b") || args[0] != "pull" && !strings.Contains(said, `]0;mine\`) {
			t.Errorf("csctl %s says %q", args[0], said)
		}
	}
}
