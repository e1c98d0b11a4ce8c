// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package chartrepo_test

import (
	"bytes"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/clusterstacks/cluster-stack-operator/internal/chartrepo"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/oci/registrytest"
	"github.com/clusterstacks/cluster-stack-operator/internal/web"
)

// robot is who may read and write in the registries of these tests.
var robot = auth.Credential{Username: "robot", Password: "s3cret"}

func client(t *testing.T, r *registrytest.Registry) *http.Client {
	t.Helper()
	c, err := web.Client(web.Options{CA: r.CA, PlainHTTP: r.CA == nil, Backoff: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// pushCharts puts CNI charts of some versions into a repository, as "helm push" does: a plus sign becomes an underscore.
func pushCharts(t *testing.T, r *registrytest.Registry, folder string, versions ...string) {
	t.Helper()
	repo, err := remote.NewRepository(r.Host + folder + "/cni")
	if err != nil {
		t.Fatal(err)
	}
	repo.PlainHTTP = r.CA == nil
	pusher := client(t, r)
	pusher.Transport = web.TokenServers(pusher.Transport)
	repo.Client = &auth.Client{Client: pusher, Credential: auth.StaticCredential(r.Host, robot), Cache: auth.NewCache()}
	for _, version := range versions {
		data := packed("cni", version)
		layer := ocispec.Descriptor{MediaType: "application/vnd.cncf.helm.chart.content.v1.tar+gzip", Digest: digest.FromBytes(data), Size: int64(len(data))}
		signature := ocispec.Descriptor{MediaType: "application/vnd.cncf.helm.chart.provenance.v1.prov", Digest: digest.FromBytes([]byte("p")), Size: 1}
		if err := repo.Push(t.Context(), layer, bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
		if err := repo.Push(t.Context(), signature, strings.NewReader("p")); err != nil {
			t.Fatal(err)
		}
		desc, err := oras.PackManifest(t.Context(), repo, oras.PackManifestVersion1_1, "application/vnd.cncf.helm.config.v1+json",
			oras.PackManifestOptions{Layers: []ocispec.Descriptor{signature, layer}})
		if err != nil {
			t.Fatal(err)
		}
		if err := repo.Tag(t.Context(), desc, strings.ReplaceAll(version, "+", "_")); err != nil {
			t.Fatal(err)
		}
	}
}

func TestDependenciesFromRegistries(t *testing.T) {
	versions := []string{"1.2.3", "1.2.10", "1.3.0+build.7", "2.0.0-rc.1"}
	open := registrytest.Start(t, registrytest.Options{TLS: true})
	locked := registrytest.Start(t, registrytest.Options{TLS: true, Username: robot.Username, Password: robot.Password, Token: true})
	basic := registrytest.Start(t, registrytest.Options{Username: robot.Username, Password: robot.Password})
	apart := registrytest.Start(t, registrytest.Options{Username: robot.Username, Password: robot.Password, Token: true, TokenHost: "localhost"})
	for _, r := range []*registrytest.Registry{open, locked, basic, apart} {
		pushCharts(t, r, "/team/charts", versions...)
	}
	known := func(r *registrytest.Registry) auth.CredentialFunc { return auth.StaticCredential(r.Host, robot) }
	mirrored := func(r *registrytest.Registry, scheme string, credential auth.CredentialFunc) chartrepo.Options {
		return chartrepo.Options{
			Client: http.DefaultClient, MirrorClient: client(t, r), MirrorCredential: credential,
			Mirrors: []chartrepo.Mirror{{From: "oci://charts.example.org", To: scheme + r.Host + "/team"}},
		}
	}
	const original = "oci://charts.example.org/charts"
	for name, tt := range map[string]struct {
		why        string
		options    chartrepo.Options
		repository string
		version    string
		want       string // name of the file, or "error: " with what is in the message
	}{
		"Exact":              {"", chartrepo.Options{Client: client(t, open), Allowed: []string{"oci://"}}, "oci://" + open.Host + "/team/charts", "1.2.3", "cni-1.2.3.tgz"},
		"HighestInRange":     {"", chartrepo.Options{Client: client(t, open), Allowed: []string{"oci://"}}, "oci://" + open.Host + "/team/charts/", "~1.2", "cni-1.2.10.tgz"},
		"WithBuild":          {"Tags have no plus signs.", chartrepo.Options{Client: client(t, open), Allowed: []string{"oci://"}}, "oci://" + open.Host + "/team/charts", "1.3.0+build.7", "cni-1.3.0+build.7.tgz"},
		"NoSuchVersion":      {"", chartrepo.Options{Client: client(t, open), Allowed: []string{"oci://"}}, "oci://" + open.Host + "/team/charts", "9.9.9", "error: not found"},
		"NoSuchRange":        {"", chartrepo.Options{Client: client(t, open), Allowed: []string{"oci://"}}, "oci://" + open.Host + "/team/charts", "^9", "error: no such version"},
		"NoSuchChart":        {"", chartrepo.Options{Client: client(t, open), Allowed: []string{"oci://"}}, "oci://" + open.Host + "/team/other", "1.2.3", "error: not found"},
		"NotAllowed":         {"", chartrepo.Options{Client: client(t, open), Allowed: []string{"oci://ghcr.io"}}, "oci://" + open.Host + "/team/charts", "1.2.3", "error: not allowed"},
		"UnknownAuthority":   {"", chartrepo.Options{Client: http.DefaultClient, Allowed: []string{"oci://"}}, "oci://" + open.Host + "/team/charts", "1.2.3", "error: certificate"},
		"Mirror":             {"", mirrored(open, "oci://", nil), original, "1.2.3", "cni-1.2.3.tgz"},
		"MirrorWithToken":    {"", mirrored(locked, "oci://", known(locked)), original, "~1.2", "cni-1.2.10.tgz"},
		"MirrorWithPassword": {"", mirrored(basic, "oci+http://", known(basic)), original, "1.2.3", "cni-1.2.3.tgz"},
		"TokensFromInside":   {"A registry inside a company often has its server of tokens under another name.", mirrored(apart, "oci+http://", known(apart)), original, "1.2.3", "cni-1.2.3.tgz"},
		"MirrorAnonymous":    {"", mirrored(locked, "oci://", nil), original, "1.2.3", "error: 401"},
		"TokensRefused":      {"", mirrored(apart, "oci+http://", nil), original, "1.2.3", "error: http://localhost:"},
		"CredentialOfElse":   {"", mirrored(locked, "oci://", known(open)), original, "1.2.3", "error: 401"},
		"NotForOthers": {
			"A release must not get at what only the administrator may read.",
			chartrepo.Options{Client: client(t, locked), Allowed: []string{"oci://"}, MirrorCredential: known(locked)}, "oci://" + locked.Host + "/team/charts", "1.2.3", "error: 401",
		},
	} {
		t.Run(name, func(t *testing.T) {
			files, err := chartrepo.New(tt.options).Complete(t.Context(), depending(tt.version, tt.repository))
			want, fails := strings.CutPrefix(tt.want, "error: ")
			switch {
			case fails && (err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), robot.Password) || strings.Contains(err.Error(), ".token-server")):
				t.Errorf("got %v, %v; want an error with %q. %s", names(files), err, want, tt.why)
			case !fails && (err != nil || len(files) != 1 || files[0].Name != want):
				t.Errorf("got %v, %v; want %s. %s", names(files), err, want, tt.why)
			}
		})
	}
}

func TestMirrorsWithPasswordsSeeNobodyElses(t *testing.T) {
	repo := serve(t, charts("1.2.3"))
	var asked []string
	inner := repo.Config.Handler
	repo.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		user, password, _ := req.BasicAuth()
		asked = append(asked, user+":"+password)
		inner.ServeHTTP(w, req)
	})
	o := chartrepo.Options{
		MirrorClient: http.DefaultClient, Mirrors: []chartrepo.Mirror{{From: "https://charts.example.org", To: repo.URL}},
		MirrorCredential: auth.StaticCredential(strings.TrimPrefix(repo.URL, "http://"), robot),
	}
	for _, want := range []string{"robot:s3cret", ":"} {
		asked = nil
		files, err := chartrepo.New(o).Complete(t.Context(), depending("1.2.3", "https://charts.example.org"))
		if err != nil || len(files) != 1 {
			t.Fatalf("got %v, %v", names(files), err)
		}
		for _, who := range asked {
			if who != want {
				t.Errorf("asked by %q, want %q", who, want)
			}
		}
		o.MirrorCredential = auth.StaticCredential("other.example.org", robot)
	}
}
