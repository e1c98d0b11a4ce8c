// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/clusterstacks/cluster-stack-operator/internal/chartrepo/chartrepotest"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/release/releasetest"
	"github.com/clusterstacks/cluster-stack-operator/internal/sign/signtest"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/github/githubtest"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/oci/registrytest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"csctl": main})
}

// TestScripts runs whole sessions with csctl, as a person would have them in a terminal.
func TestScripts(t *testing.T) {
	stacks, err := filepath.Abs("../../stacks")
	if err != nil {
		t.Fatal(err)
	}
	registry := registrytest.Start(t, registrytest.Options{})
	locked := registrytest.Start(t, registrytest.Options{Username: "me", Password: "s3cret"})
	charts := chartrepotest.Start(t, chartrepotest.Package("cilium", "1.16.6", nil), chartrepotest.Package("cilium", "1.16.7", nil))
	private := chartrepotest.Start(t, chartrepotest.Package("cilium", "1.16.6", nil))
	private.Username, private.Password = "me", "s3cret"
	forge := githubtest.Start(t)
	for _, tag := range []string{"docker-scs-1-35-v8", "docker-scs-1-35-v9", "docker-scs-1-35-v0-beta-3", "docker-scs-1-36-v20", "v1.0.0", "some-thing-else"} {
		files := fstest.MapFS{"README.md": {Data: []byte("not a release of a stack")}}
		if _, err := release.ParseName(tag); err == nil {
			files = releasetest.Multistage(tag)
			// As the tools of others write it: the commit of their repository, and nothing else.
			files["hashes.json"] = &fstest.MapFile{Data: []byte(`{"clusterStack": "f572d396fae9206628714fb2ce00f72e94f2258f"}`)}
		}
		forge.Publish(tag, files)
	}
	sigstore, stranger := signtest.Start(t), signtest.Start(t)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("STACKS", stacks)
			env.Setenv("REGISTRY", registry.Host)
			env.Setenv("LOCKED_REGISTRY", locked.Host)
			env.Setenv("CHARTS", charts.URL)
			env.Setenv("PRIVATE_CHARTS", private.URL)
			env.Setenv("FORGE", forge.URL())
			env.Setenv("FORGE_HOST", strings.TrimPrefix(forge.URL(), "http://"))
			env.Setenv("FORGE_TOKEN", githubtest.Token)
			env.Setenv("SIGSTORE", sigstore.URL)
			env.Setenv("TIMESTAMPS", sigstore.Timestamps)
			env.Setenv("TOKEN", signtest.Token("https://ci.example.org/me", "https://ci.example.org"))
			env.Setenv("TOKEN_OF_OTHERS", signtest.Token("https://ci.example.org/others", "https://ci.example.org"))
			for file, text := range map[string][]byte{"trusted_root.json": sigstore.Root(sigstore), "stranger_root.json": stranger.Root(stranger)} {
				if err := os.WriteFile(filepath.Join(env.WorkDir, file), text, 0o600); err != nil {
					return err
				}
			}
			env.Setenv("XDG_CACHE_HOME", filepath.Join(env.WorkDir, ".cache"))
			env.Setenv("HOME", env.WorkDir)
			// For sessions that change the path.
			path, err := exec.LookPath("csctl")
			env.Setenv("CSCTL", path)
			return err
		},
	})
}
