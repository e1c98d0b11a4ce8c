// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package oci_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/release/releasetest"
	"github.com/clusterstacks/cluster-stack-operator/internal/source"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/oci"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/oci/registrytest"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/sourcetest"
	"github.com/clusterstacks/cluster-stack-operator/internal/web"
)

const tag = "docker-scs-1-35-v1"

var created = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// quick are settings with which a test does not wait long for what is not going to happen, and for what is, on a busy
// machine, long enough.
var quick = web.Options{Answer: 4 * time.Second, Window: 2 * time.Second, MinPerWindow: 1 << 10, Backoff: time.Millisecond}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func parse(t *testing.T, tag string) release.Name {
	t.Helper()
	name, err := release.ParseName(tag)
	must(t, err)
	return name
}

func open(t *testing.T, r *registrytest.Registry, c oci.Credentials) *oci.Source {
	t.Helper()
	o := oci.Options{Credentials: c, Web: quick}
	o.Web.CA, o.Web.PlainHTTP = r.CA, r.CA == nil
	src, err := oci.New(r.Host+"/kaas/cluster-stacks", o)
	must(t, err)
	return src
}

func raw(t *testing.T, r *registrytest.Registry) *remote.Repository {
	t.Helper()
	repo, err := remote.NewRepository(r.Host + "/kaas/cluster-stacks")
	must(t, err)
	repo.PlainHTTP, repo.SkipReferrersGC = true, true
	return repo
}

// push puts an artifact into a registry without TLS, as another producer might.
func push(t *testing.T, r *registrytest.Registry, tag string, manifest ocispec.Manifest, blobs ...[]byte) digest.Digest {
	t.Helper()
	repo := raw(t, r)
	manifest.Versioned, manifest.MediaType, manifest.Config = specs.Versioned{SchemaVersion: 2}, ocispec.MediaTypeImageManifest, ocispec.DescriptorEmptyJSON
	for _, blob := range append(blobs, []byte("{}")) {
		must(t, repo.Blobs().Push(t.Context(), ocispec.Descriptor{Digest: digest.FromBytes(blob), Size: int64(len(blob))}, bytes.NewReader(blob)))
	}
	data, err := json.Marshal(manifest)
	must(t, err)
	desc := ocispec.Descriptor{MediaType: manifest.MediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	if tag == "" {
		tag = desc.Digest.String()
	}
	must(t, repo.Manifests().PushReference(t.Context(), desc, bytes.NewReader(data), tag))
	return desc.Digest
}

func layer(title, content string) ocispec.Descriptor {
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromString(content), Size: int64(len(content))}
	if title != "" {
		desc.Annotations = map[string]string{ocispec.AnnotationTitle: title}
	}
	return desc
}

func fetch(t *testing.T, src source.Source) (fs.FS, string, error) {
	t.Helper()
	dst, err := os.OpenRoot(t.TempDir())
	must(t, err)
	t.Cleanup(func() { must(t, dst.Close()) })
	sum, err := src.Fetch(t.Context(), parse(t, tag), dst)
	return dst.FS(), sum, err
}

func TestSharedBehaviour(t *testing.T) {
	for kind, o := range map[string]registrytest.Options{
		"TLSWithPassword":  {TLS: true, Username: "u", Password: "p"},
		"TLSWithToken":     {TLS: true, Username: "u", Password: "p", Token: true},
		"PlainHTTPInPages": {Wrap: inPages},
	} {
		t.Run(kind, func(t *testing.T) {
			sourcetest.Run(t, func(t *testing.T, releases map[string]fstest.MapFS) source.Source {
				r := registrytest.Start(t, o)
				src := open(t, r, oci.Credentials{Username: o.Username, Password: o.Password})
				// A repository is there as soon as anything is in it.
				if len(releases) == 0 {
					releases = map[string]fstest.MapFS{"latest": {"metadata.yaml": {Data: []byte("x")}}}
				}
				for tag, files := range releases {
					_, err := oci.PublishTag(src, t.Context(), tag, files, created, nil)
					must(t, err)
				}
				return src
			})
		})
	}
}

// inPages has a registry list a few tags at a time.
func inPages(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if query := req.URL.Query(); strings.HasSuffix(req.URL.Path, "/tags/list") {
			query.Set("n", "40")
			req.URL.RawQuery = query.Encode()
		}
		next.ServeHTTP(w, req)
	})
}

func TestBothProducersAreRead(t *testing.T) {
	r := registrytest.Start(t, registrytest.Options{})
	files := releasetest.Multistage(tag)
	manifest := ocispec.Manifest{ArtifactType: "application/vnd.clusterstack.release", Layers: []ocispec.Descriptor{layer("", "no file"), layer("docs/readme.md", "in a folder")}}
	blobs := [][]byte{[]byte("no file"), []byte("in a folder")}
	for name, file := range files {
		manifest.Layers = append(manifest.Layers, layer(name, string(file.Data)))
		blobs = append(blobs, file.Data)
	}
	want := push(t, r, tag, manifest, blobs...)
	got, sum, err := fetch(t, open(t, r, oci.Credentials{}))
	must(t, err)
	if sum != want.String() {
		t.Errorf("digest %s, want that of the manifest, %s", sum, want)
	}
	entries, err := fs.ReadDir(got, ".")
	if err != nil || len(entries) != len(files) {
		t.Errorf("got %v, %v; want %d files", entries, err, len(files))
	}
	if _, err := release.Open(got, parse(t, tag)); err != nil {
		t.Error(err)
	}
}

func TestManifestsThatAreRefused(t *testing.T) {
	many := ocispec.Manifest{}
	for i := range source.MaxFiles + 1 {
		many.Layers = append(many.Layers, layer(fmt.Sprintf("f%d", i), "x"))
	}
	huge := layer("metadata.yaml", "x")
	huge.Size = source.MaxFileSize + 1
	for name, tc := range map[string]struct {
		manifest ocispec.Manifest
		want     string
	}{
		"ClimbsOut":      {ocispec.Manifest{Layers: []ocispec.Descriptor{layer("../metadata.yaml", "x")}}, "cannot be called"},
		"ClimbsInFolder": {ocispec.Manifest{Layers: []ocispec.Descriptor{layer("a/../../metadata.yaml", "x")}}, "cannot be called"},
		"Absolute":       {ocispec.Manifest{Layers: []ocispec.Descriptor{layer("/etc/passwd", "x")}}, "cannot be called"},
		"Dot":            {ocispec.Manifest{Layers: []ocispec.Descriptor{layer(".", "x")}}, "cannot be called"},
		"LineBreak":      {ocispec.Manifest{Layers: []ocispec.Descriptor{layer("a\nb", "x")}}, "cannot be called"},
		"Twice":          {ocispec.Manifest{Layers: []ocispec.Descriptor{layer("a", "x"), layer("a", "x")}}, "two files a"},
		"NoFiles":        {ocispec.Manifest{Layers: []ocispec.Descriptor{layer("", "x")}}, "no layer of it is a file"},
		"TooMany":        {many, "more than 64 files"},
		"TooLarge":       {ocispec.Manifest{Layers: []ocispec.Descriptor{huge}}, "larger than 64 MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			r := registrytest.Start(t, registrytest.Options{})
			push(t, r, tag, tc.manifest, []byte("x"))
			_, _, err := fetch(t, open(t, r, oci.Credentials{}))
			var malformed *source.MalformedError
			if !errors.As(err, &malformed) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func TestTagThatMovesMeanwhileChangesNothing(t *testing.T) {
	var moved sync.Once
	var src *oci.Source
	second := releasetest.Multistage(tag)
	second["hashes.json"] = &fstest.MapFile{Data: []byte("other")}
	var registry *registrytest.Registry
	registry = registrytest.Start(t, registrytest.Options{Wrap: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if req.Method == http.MethodGet && strings.Contains(req.URL.Path, "/blobs/") {
				moved.Do(func() {
					m := ocispec.Manifest{}
					for name, file := range second {
						m.Layers = append(m.Layers, layer(name, string(file.Data)))
					}
					push(t, registry, tag, m, second["hashes.json"].Data)
				})
			}
			next.ServeHTTP(w, req)
		})
	}})
	src = open(t, registry, oci.Credentials{})
	first, err := src.Publish(t.Context(), parse(t, tag), releasetest.Multistage(tag), created, nil)
	must(t, err)
	files, sum, err := fetch(t, src)
	must(t, err)
	if data, _ := fs.ReadFile(files, "hashes.json"); sum != first || string(data) == "other" {
		t.Errorf("got %s, want %s", sum, first)
	}
	if now, err := src.Resolve(t.Context(), parse(t, tag)); err != nil || now == first {
		t.Errorf("Resolve: got %s, %v; the tag has moved", now, err)
	}
	dst, err := os.OpenRoot(t.TempDir())
	must(t, err)
	if err := errors.Join(src.FetchDigest(t.Context(), parse(t, tag), first, dst), dst.Close()); err != nil {
		t.Errorf("by digest it is still there: %v", err)
	}
}

func TestFaultsOfTheRegistryAreErrors(t *testing.T) {
	status := func(code int, header ...string) func(http.Handler) http.Handler {
		return func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				if req.Method != http.MethodGet || req.URL.Path == "/v2/" {
					next.ServeHTTP(w, req)
					return
				}
				for i := 0; i+1 < len(header); i += 2 {
					w.Header().Set(header[i], header[i+1])
				}
				w.WriteHeader(code)
			})
		}
	}
	blob := func(harm func(w http.ResponseWriter, req *http.Request, body []byte)) func(http.Handler) http.Handler {
		return func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				if req.Method != http.MethodGet || !strings.Contains(req.URL.Path, "/blobs/") {
					next.ServeHTTP(w, req)
					return
				}
				rec := httptest.NewRecorder()
				next.ServeHTTP(rec, req)
				harm(w, req, rec.Body.Bytes())
			})
		}
	}
	for name, tc := range map[string]struct {
		wrap func(http.Handler) http.Handler
		is   error
		want string
	}{
		"Unauthorized": {status(401), source.ErrUnauthorized, "check the name of the repository and the credentials"},
		"Forbidden":    {status(403), source.ErrUnauthorized, "403"},
		"Gone":         {status(404), source.ErrNotFound, ""},
		"TooMany":      {status(429, "Retry-After", "3600"), nil, "429"},
		"TooManyJust":  {status(429), nil, "429"},
		"Unavailable":  {status(503), nil, "503"},
		"CutOff": {blob(func(w http.ResponseWriter, _ *http.Request, body []byte) {
			w.Header().Set("Content-Length", fmt.Sprint(len(body)))
			_, _ = w.Write(body[:len(body)/2])
		}), nil, "unexpected EOF"},
		"TooShort": {blob(func(w http.ResponseWriter, _ *http.Request, body []byte) { _, _ = w.Write(body[:len(body)/2]) }), nil, ""},
		"TooLong":  {blob(func(w http.ResponseWriter, _ *http.Request, body []byte) { _, _ = w.Write(append(body, body...)) }), nil, ""},
		"FlippedByte": {blob(func(w http.ResponseWriter, _ *http.Request, body []byte) {
			body[len(body)/2] ^= 1
			_, _ = w.Write(body)
		}), nil, "something else than sha256:"},
		"Reset": {blob(func(http.ResponseWriter, *http.Request, []byte) { panic(http.ErrAbortHandler) }), nil, ""},
		"Dribble": {blob(func(w http.ResponseWriter, req *http.Request, body []byte) {
			w.Header().Set("Content-Length", fmt.Sprint(len(body)))
			for _, b := range body {
				_, _ = w.Write([]byte{b})
				_ = http.NewResponseController(w).Flush()
				select {
				case <-req.Context().Done():
					return
				case <-time.After(100 * time.Millisecond):
				}
			}
		}), nil, "the server sent less than 1024 bytes"},
		"Silent": {blob(func(_ http.ResponseWriter, req *http.Request, _ []byte) { <-req.Context().Done() }), nil, "timeout awaiting response headers"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			harmless := true
			var mu sync.Mutex
			r := registrytest.Start(t, registrytest.Options{Wrap: func(next http.Handler) http.Handler {
				bad := tc.wrap(next)
				return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
					mu.Lock()
					good := harmless
					mu.Unlock()
					if good {
						next.ServeHTTP(w, req)
					} else {
						bad.ServeHTTP(w, req)
					}
				})
			}})
			src := open(t, r, oci.Credentials{})
			_, err := src.Publish(t.Context(), parse(t, tag), releasetest.Multistage(tag), created, nil)
			must(t, err)
			mu.Lock()
			harmless = false
			mu.Unlock()
			_, _, err = fetch(t, src)
			if err == nil || !strings.Contains(err.Error(), tc.want) || tc.is != nil && !errors.Is(err, tc.is) {
				t.Errorf("got %v; want %q, %v", err, tc.want, tc.is)
			}
			if after := source.RetryAfter(err); (name == "TooMany") != (after > 0) {
				t.Errorf("it is left alone for %s", after)
			}
		})
	}
}

func TestFaultForAMomentIsNoError(t *testing.T) {
	var mu sync.Mutex
	failed := map[string]int{}
	r := registrytest.Start(t, registrytest.Options{Wrap: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			mu.Lock()
			failed[req.Method+req.URL.Path]++
			first := failed[req.Method+req.URL.Path] == 1
			mu.Unlock()
			if first && req.Method == http.MethodGet {
				http.Error(w, "", http.StatusServiceUnavailable)
				return
			}
			next.ServeHTTP(w, req)
		})
	}})
	src := open(t, r, oci.Credentials{})
	_, err := src.Publish(t.Context(), parse(t, tag), releasetest.Multistage(tag), created, nil)
	must(t, err)
	if _, _, err := fetch(t, src); err != nil {
		t.Error(err)
	}
	if offers, err := src.List(t.Context()); err != nil || len(offers) != 1 {
		t.Errorf("got %v, %v", offers, err)
	}
}

func TestCredentials(t *testing.T) {
	const user, password = "robot", "s3cret"
	r := registrytest.Start(t, registrytest.Options{TLS: true, Username: user, Password: password})
	auth := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
	_, err := open(t, r, oci.Credentials{Username: user, Password: password}).Publish(t.Context(), parse(t, tag), releasetest.Multistage(tag), created, nil)
	must(t, err)
	for name, tc := range map[string]struct {
		give    oci.Credentials
		allowed bool
	}{
		"Password":           {oci.Credentials{Username: user, Password: password}, true},
		"WrongPassword":      {oci.Credentials{Username: user, Password: "guess"}, false},
		"Anonymous":          {oci.Credentials{}, false},
		"DockerConfig":       {oci.Credentials{DockerConfig: fmt.Appendf(nil, `{"auths":{%q:{"auth":%q}}}`, "https://"+r.Host, auth)}, true},
		"DockerConfigOfElse": {oci.Credentials{DockerConfig: fmt.Appendf(nil, `{"auths":{"other.example.org":{"auth":%q}}}`, auth)}, false},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := fetch(t, open(t, r, tc.give))
			if (err == nil) != tc.allowed || err != nil && !errors.Is(err, source.ErrUnauthorized) {
				t.Errorf("got %v", err)
			}
			if err != nil && (strings.Contains(err.Error(), password) || strings.Contains(err.Error(), "guess") || strings.Contains(err.Error(), auth)) {
				t.Errorf("the error has a secret: %v", err)
			}
		})
	}
	if _, err := oci.New("r.example.org/x", oci.Options{Credentials: oci.Credentials{DockerConfig: []byte(`{"auths": s3cret`)}}); err == nil || strings.Contains(err.Error(), password) {
		t.Errorf("broken configuration: %v", err)
	}
}

func TestTokenIsShownInTheFormThatIsUnderstood(t *testing.T) {
	for name, form := range map[string]string{"Plain": "tok-en", "Encoded": base64.StdEncoding.EncodeToString([]byte("tok-en"))} {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex
			refused := 0
			r := registrytest.Start(t, registrytest.Options{Wrap: func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
					if req.Header.Get("Authorization") != "Bearer "+form {
						mu.Lock()
						refused++
						mu.Unlock()
						w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+req.Host+`/token",service="test"`)
						w.WriteHeader(http.StatusUnauthorized)
						return
					}
					next.ServeHTTP(w, req)
				})
			}})
			src := open(t, r, oci.Credentials{Token: "tok-en"})
			_, err := src.Publish(t.Context(), parse(t, tag), releasetest.Multistage(tag), created, nil)
			must(t, err)
			if _, _, err := fetch(t, src); err != nil {
				t.Error(err)
			}
			if refused > 4 {
				t.Errorf("refused %d times; the right form is to be remembered", refused)
			}
		})
	}
}

func TestCredentialsDoNotFollowRedirects(t *testing.T) {
	var mu sync.Mutex
	var seen []string
	var behind http.Handler
	storage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		mu.Lock()
		for _, header := range []string{"Authorization", "Cookie", "Referer"} {
			if value := req.Header.Get(header); value != "" {
				seen = append(seen, header+": "+value)
			}
		}
		mu.Unlock()
		req.SetBasicAuth("u", "p") // the storage knows who we are by the signature in the URL
		behind.ServeHTTP(w, req)
	}))
	defer storage.Close()
	r := registrytest.Start(t, registrytest.Options{Username: "u", Password: "p", Wrap: func(next http.Handler) http.Handler {
		behind = next
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if req.Method == http.MethodGet && strings.Contains(req.URL.Path, "/blobs/") && req.Header.Get("Authorization") != "" {
				http.Redirect(w, req, storage.URL+req.URL.Path+"?signature=secret", http.StatusTemporaryRedirect)
				return
			}
			next.ServeHTTP(w, req)
		})
	}})
	src := open(t, r, oci.Credentials{Username: "u", Password: "p"})
	_, err := src.Publish(t.Context(), parse(t, tag), releasetest.Multistage(tag), created, nil)
	must(t, err)
	if _, _, err := fetch(t, src); err != nil {
		t.Error(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(seen) > 0 {
		t.Errorf("the storage saw %v", seen)
	}
	behind = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusGone) })
	mu.Unlock()
	_, _, err = fetch(t, src)
	mu.Lock()
	if err == nil || strings.Contains(err.Error(), "signature") {
		t.Errorf("got %v; the signature in a URL is a secret", err)
	}
}

func TestUntrustedServersAreRefused(t *testing.T) {
	r := registrytest.Start(t, registrytest.Options{TLS: true})
	for name, o := range map[string]web.Options{
		"UnknownAuthority": {Backoff: time.Millisecond},
		"NetworkInside":    {CA: r.CA, Guard: &web.Guard{}, Backoff: time.Millisecond},
		"NoTLS":            {PlainHTTP: true, Backoff: time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			src, err := oci.New(r.Host+"/x", oci.Options{Web: o})
			must(t, err)
			if _, err := src.List(t.Context()); err == nil {
				t.Error("no error")
			}
		})
	}
}

func TestPublish(t *testing.T) {
	r := registrytest.Start(t, registrytest.Options{})
	src := open(t, r, oci.Credentials{})
	files := releasetest.Multistage(tag)
	first, err := src.Publish(t.Context(), parse(t, tag), files, created, map[string]string{"kubernetesVersion": "v1.35.4"})
	must(t, err)
	again, err := src.Publish(t.Context(), parse(t, tag), files, created.Add(time.Hour), nil)
	if err != nil || again != first {
		t.Errorf("the same files again: %s, %v; want %s and no change", again, err, first)
	}
	if at, err := src.Published(t.Context(), parse(t, tag)); err != nil || !at.Equal(created) {
		t.Errorf("published at %s, %v", at, err)
	}
	files["hashes.json"] = &fstest.MapFile{Data: []byte("{}")}
	if _, err := src.Publish(t.Context(), parse(t, tag), files, created, nil); !errors.Is(err, oci.ErrPublished) {
		t.Errorf("other files under the same name: %v", err)
	}
	desc, body, err := raw(t, r).FetchReference(t.Context(), tag)
	must(t, err)
	var manifest ocispec.Manifest
	must(t, errors.Join(json.NewDecoder(body).Decode(&manifest), body.Close()))
	types := map[string]string{}
	for _, layer := range manifest.Layers {
		types[layer.Annotations[ocispec.AnnotationTitle]] = layer.MediaType
	}
	if desc.MediaType != ocispec.MediaTypeImageManifest || manifest.ArtifactType != "application/vnd.scs.cluster-stacks.v1" ||
		types["metadata.yaml"] != "application/vnd.scs.metadata.layer.v1+yaml" || manifest.Annotations["kubernetesVersion"] != "v1.35.4" {
		t.Errorf("manifest %+v", manifest)
	}
}

func TestSignatures(t *testing.T) {
	r := registrytest.Start(t, registrytest.Options{})
	src := open(t, r, oci.Credentials{})
	name := parse(t, tag)
	sum, err := src.Publish(t.Context(), name, releasetest.Multistage(tag), created, nil)
	must(t, err)
	if got, err := src.Signatures(t.Context(), name, sum); err != nil || len(got) > 0 {
		t.Errorf("unsigned: %v, %v", got, err)
	}
	payload := layer("", `{"critical":{}}`)
	payload.MediaType, payload.Annotations = "application/vnd.dev.cosign.simplesigning.v1+json", map[string]string{"dev.cosignproject.cosign/signature": "c2ln"}
	push(t, r, strings.Replace(sum, ":", "-", 1)+".sig", ocispec.Manifest{Layers: []ocispec.Descriptor{payload}}, []byte(`{"critical":{}}`))
	desc, body, err := raw(t, r).FetchReference(t.Context(), tag)
	must(t, errors.Join(err, body.Close()))
	bundle := ocispec.Manifest{ArtifactType: "application/vnd.dev.sigstore.bundle.v0.3+json", Subject: &desc, Layers: []ocispec.Descriptor{layer("", `{"bundle":1}`)}}
	push(t, r, "", bundle, []byte(`{"bundle":1}`))
	// Attestations come in bundles, too, and some are larger than any signature.
	large := strings.Repeat(" ", 1<<20+1)
	attestation := ocispec.Manifest{ArtifactType: bundle.ArtifactType, Subject: &desc, Layers: []ocispec.Descriptor{layer("", large)}}
	push(t, r, "", attestation, []byte(large))
	push(t, r, "", ocispec.Manifest{ArtifactType: "application/spdx+json", Subject: &desc, Layers: []ocispec.Descriptor{layer("", `{"sbom":1}`)}}, []byte(`{"sbom":1}`))

	got, err := src.Signatures(t.Context(), name, sum)
	must(t, err)
	if len(got) < 2 || string(got[len(got)-1].Payload) != `{"critical":{}}` || got[len(got)-1].Annotations["dev.cosignproject.cosign/signature"] != "c2ln" {
		t.Errorf("got %+v", got)
	}
	for _, s := range got[:max(len(got)-1, 0)] {
		if string(s.Bundle) != `{"bundle":1}` {
			t.Errorf("got %+v", s)
		}
	}
	if offers, err := src.List(t.Context()); err != nil || len(offers) != 1 {
		t.Errorf("signatures are taken for releases: %v, %v", offers, err)
	}
}

func TestErrorsAreTellingAndStable(t *testing.T) {
	r := registrytest.Start(t, registrytest.Options{})
	src := open(t, r, oci.Credentials{})
	if _, err := src.List(t.Context()); err == nil || !strings.Contains(err.Error(), "no such repository") {
		t.Errorf("got %v", err)
	}
	short, err := oci.New(r.Host+"/x", oci.Options{Web: web.Options{PlainHTTP: true}, Timeout: time.Nanosecond})
	must(t, err)
	if _, err := short.List(t.Context()); err == nil || !strings.Contains(err.Error(), "the registry needed more than 1ns") {
		t.Errorf("got %v", err)
	}
	for _, bad := range []string{"", "r.example.org", "r.example.org/a:v1", "r.example.org/A", "a b/c"} {
		if _, err := oci.New(bad, oci.Options{}); err == nil {
			t.Errorf("%q is a repository", bad)
		}
	}
}

func TestServerOfTokensIsAskedWhereTheGuardAllows(t *testing.T) {
	inside := func(networks ...string) *web.Guard {
		guard := &web.Guard{}
		for _, network := range networks {
			guard.Allowed = append(guard.Allowed, netip.MustParsePrefix(network))
		}
		return guard
	}
	for name, tc := range map[string]struct {
		tokens string
		guard  *web.Guard
		want   string
	}{
		"UnderAnotherName":        {"localhost", inside("127.0.0.0/8", "::1/128"), ""},
		"NetworkIsNotAllowed":     {"127.0.0.2", inside("127.0.0.1/32"), "127.0.0.2 is in a network that must not be reached from here"},
		"AdministratorNamedItAll": {"localhost", nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := registrytest.Start(t, registrytest.Options{Username: "u", Password: "p", Token: true, TokenHost: tc.tokens})
			o := oci.Options{Credentials: oci.Credentials{Username: "u", Password: "p"}, Web: quick}
			o.Web.PlainHTTP, o.Web.Guard = true, tc.guard
			src, err := oci.New(r.Host+"/x", o)
			must(t, err)
			_, err = src.Publish(t.Context(), parse(t, tag), releasetest.Multistage(tag), created, nil)
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func TestRegistryThatWantsToBeLeftAloneIs(t *testing.T) {
	var asked atomic.Int32
	r := registrytest.Start(t, registrytest.Options{Wrap: func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			asked.Add(1)
			w.Header().Set("Retry-After", "120")
			w.WriteHeader(http.StatusTooManyRequests)
		})
	}})
	o := oci.Options{Web: quick}
	o.Web.PlainHTTP, o.Web.Hosts = true, &web.Hosts{}
	var messages []string
	for _, repository := range []string{"/one", "/one", "/two"} {
		src, err := oci.New(r.Host+repository, o)
		must(t, err)
		_, err = src.List(t.Context())
		if after := source.RetryAfter(err); after < time.Minute || after > 2*time.Minute {
			t.Errorf("%s: %v, to be asked again after %s; want two minutes", repository, err, after)
		}
		messages = append(messages, fmt.Sprint(err))
	}
	if asked.Load() != 1 {
		t.Errorf("it was asked %d times", asked.Load())
	}
	// With credentials of one's own, what the registry says to those who have none does not count.
	o.Credentials = oci.Credentials{Username: "u", Password: "p"}
	src, err := oci.New(r.Host+"/one", o)
	must(t, err)
	if _, err := src.List(t.Context()); err == nil || asked.Load() != 2 {
		t.Errorf("with credentials: it was asked %d times, %v", asked.Load(), err)
	}
	if !strings.Contains(messages[0], "429") || !strings.Contains(messages[1], r.Host+" has had too many requests") {
		t.Errorf("got %q", messages)
	}
}

// TestPublishingKilledAtAnyRequest: there is all of a release or nothing, and whoever publishes it again succeeds.
func TestPublishingKilledAtAnyRequest(t *testing.T) {
	files := fstest.MapFS{"metadata.yaml": {Data: []byte("m")}, "cluster.tgz": {Data: []byte("c")}}
	for n, done := 1, false; !done; n++ {
		for _, answered := range []bool{false, true} {
			var changes atomic.Int32
			var alive atomic.Bool
			r := registrytest.Start(t, registrytest.Options{Wrap: func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
					change := req.Method != http.MethodGet && req.Method != http.MethodHead
					if change && !alive.Load() && changes.Add(1) >= int32(n) {
						if answered && changes.Load() == int32(n) {
							next.ServeHTTP(httptest.NewRecorder(), req)
						}
						panic(http.ErrAbortHandler)
					}
					next.ServeHTTP(w, req)
				})
			}})
			_, err := open(t, r, oci.Credentials{}).Publish(t.Context(), parse(t, tag), files, created, nil)
			if done = int(changes.Load()) < n; done != (err == nil) {
				t.Fatalf("killed at request %d: %v", n, err)
			}
			alive.Store(true)
			src := open(t, r, oci.Credentials{})
			if offers, err := src.List(t.Context()); err == nil && len(offers) > 0 {
				if _, _, err := fetch(t, src); err != nil {
					t.Errorf("killed at request %d (answered: %t): half a release is offered: %v", n, answered, err)
				}
			}
			if _, err := src.Publish(t.Context(), parse(t, tag), files, created.Add(time.Hour), nil); err != nil {
				t.Errorf("killed at request %d (answered: %t): %v", n, answered, err)
			}
			if _, _, err := fetch(t, src); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestManySignatures(t *testing.T) {
	r := registrytest.Start(t, registrytest.Options{})
	src := open(t, r, oci.Credentials{})
	name := parse(t, tag)
	sum, err := src.Publish(t.Context(), name, releasetest.Multistage(tag), created, nil)
	must(t, err)
	subject, body, err := raw(t, r).FetchReference(t.Context(), tag)
	must(t, errors.Join(err, body.Close()))
	add := func(text string, annotations map[string]string) {
		push(t, r, "", ocispec.Manifest{ArtifactType: "application/vnd.dev.sigstore.bundle.v0.3+json", Subject: &subject, Annotations: annotations,
			Layers: []ocispec.Descriptor{layer("", text)}}, []byte(text))
	}
	const predicate = "dev.sigstore.bundle.predicateType"
	at := func(minute int) string { return created.Add(time.Duration(minute) * time.Minute).Format(time.RFC3339) }
	for i := range 33 {
		add(fmt.Sprintf(`{"statement":%d}`, i), map[string]string{predicate: "https://slsa.dev/provenance/v1", ocispec.AnnotationCreated: at(1000 + i)})
		add(fmt.Sprintf(`{"unknown":%d}`, i), map[string]string{ocispec.AnnotationCreated: at(i)})
	}
	add(`{"signature":1}`, map[string]string{predicate: "https://sigstore.dev/cosign/sign/v1", ocispec.AnnotationCreated: at(0)})
	push(t, r, "", ocispec.Manifest{ArtifactType: "application/vnd.dev.sigstore.bundle.v0.3+json", Subject: &subject, Annotations: map[string]string{ocispec.AnnotationCreated: at(2000)}})
	var old ocispec.Manifest
	var payloads [][]byte
	for i := range 40 {
		text := fmt.Sprintf(`{"payload":%d}`, i)
		desc := layer("", text)
		desc.MediaType = "application/vnd.dev.cosign.simplesigning.v1+json"
		old.Layers, payloads = append(old.Layers, desc), append(payloads, []byte(text))
	}
	push(t, r, strings.Replace(sum, ":", "-", 1)+".sig", old, payloads...)

	got, err := src.Signatures(t.Context(), name, sum)
	must(t, err)
	if len(got) != 64 {
		t.Fatalf("got %d signatures, want 32 of each form", len(got))
	}
	for i, want := range map[int]string{0: `{"signature":1}`, 1: `{"unknown":32}`, 31: `{"unknown":2}`, 32: `{"payload":8}`, 63: `{"payload":39}`} {
		if text := string(got[i].Bundle) + string(got[i].Payload); text != want {
			t.Errorf("signature %d is %s, want %s", i, text, want)
		}
	}
}

// What is no signature takes nothing from those that are: whoever may write to a repository can put anything there.
func TestBadSignaturesTakeNothingFromGoodOnes(t *testing.T) {
	const bundleType, simple = "application/vnd.dev.sigstore.bundle.v0.3+json", "application/vnd.dev.cosign.simplesigning.v1+json"
	gone := digest.FromString("gone").Encoded()
	r := registrytest.Start(t, registrytest.Options{Wrap: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if strings.HasSuffix(req.URL.Path, gone) && req.Method == http.MethodGet {
				http.NotFound(w, req) // a registry that has lost a blob
				return
			}
			next.ServeHTTP(w, req)
		})
	}})
	src := open(t, r, oci.Credentials{})
	name := parse(t, tag)
	sum, err := src.Publish(t.Context(), name, releasetest.Multistage(tag), created, nil)
	must(t, err)
	subject, body, err := raw(t, r).FetchReference(t.Context(), tag)
	must(t, errors.Join(err, body.Close()))
	of := func(text, mediaType string, change func(*ocispec.Descriptor)) ocispec.Descriptor {
		desc := layer("", text)
		desc.MediaType = mediaType
		change(&desc)
		return desc
	}
	nothing, shorter, longer := func(*ocispec.Descriptor) {}, func(d *ocispec.Descriptor) { d.Size-- }, func(d *ocispec.Descriptor) { d.Size++ }
	var old []ocispec.Descriptor
	for _, bad := range []struct {
		text   string
		change func(*ocispec.Descriptor)
	}{{"gone", nothing}, {"shorter", shorter}, {"longer", longer}} {
		push(t, r, "", ocispec.Manifest{ArtifactType: bundleType, Subject: &subject, Annotations: map[string]string{ocispec.AnnotationCreated: created.Add(time.Hour).Format(time.RFC3339)},
			Layers: []ocispec.Descriptor{of(bad.text, "application/json", bad.change)}}, []byte(bad.text))
		old = append(old, of(bad.text, simple, bad.change))
	}
	push(t, r, "", ocispec.Manifest{ArtifactType: bundleType, Subject: &subject, Layers: []ocispec.Descriptor{of("good", "application/json", nothing)}}, []byte("good"))
	sigTag := strings.Replace(sum, ":", "-", 1) + ".sig"
	push(t, r, sigTag, ocispec.Manifest{Layers: append(old, of("older", simple, nothing))}, []byte("older"))
	got, err := src.Signatures(t.Context(), name, sum)
	if err != nil || len(got) != 2 || string(got[0].Bundle) != "good" || string(got[1].Payload) != "older" {
		t.Errorf("got %s, %v", got, err)
	}

	// Where the tag of signatures of the older form stands for something else, there are none of these.
	index := []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`)
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromBytes(index), Size: int64(len(index))}
	must(t, raw(t, r).Manifests().PushReference(t.Context(), desc, bytes.NewReader(index), sigTag))
	if got, err := src.Signatures(t.Context(), name, sum); err != nil || len(got) != 1 || string(got[0].Bundle) != "good" {
		t.Errorf("got %s, %v", got, err)
	}
}

// A registry that cannot be asked for one of its signatures may have refused the only one that counts.
func TestSignatureThatCannotBeHadNowIsAnError(t *testing.T) {
	lost := digest.FromString("lost").Encoded()
	r := registrytest.Start(t, registrytest.Options{Wrap: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if strings.HasSuffix(req.URL.Path, lost) && req.Method == http.MethodGet {
				w.WriteHeader(http.StatusInternalServerError)
				return
			}
			next.ServeHTTP(w, req)
		})
	}})
	src := open(t, r, oci.Credentials{})
	name := parse(t, tag)
	sum, err := src.Publish(t.Context(), name, releasetest.Multistage(tag), created, nil)
	must(t, err)
	subject, body, err := raw(t, r).FetchReference(t.Context(), tag)
	must(t, errors.Join(err, body.Close()))
	for _, text := range []string{"lost", "found"} {
		push(t, r, "", ocispec.Manifest{ArtifactType: "application/vnd.dev.sigstore.bundle.v0.3+json", Subject: &subject, Layers: []ocispec.Descriptor{layer("", text)}}, []byte(text))
	}
	if got, err := src.Signatures(t.Context(), name, sum); err == nil || !strings.Contains(err.Error(), "500") {
		t.Errorf("got %s, %v", got, err)
	}
}

// Whoever answers for a registry's server of tokens is shown its credentials, and nobody to whom that one sends us on.
func TestCredentialsDoNotFollowRedirectsOfAServerOfTokens(t *testing.T) {
	for name, tc := range map[string]struct {
		credentials func(registry string) oci.Credentials
		status      int
	}{
		"Password": {func(string) oci.Credentials { return oci.Credentials{Username: "u", Password: "s3cret"} }, http.StatusFound},
		"RefreshToken": {func(registry string) oci.Credentials {
			return oci.Credentials{DockerConfig: fmt.Appendf(nil, `{"auths":{%q:{"identitytoken":"s3cret"}}}`, registry)}
		}, http.StatusTemporaryRedirect},
	} {
		for _, realmHost := range []string{"127.0.0.1", "localhost"} { // the second one goes by an alias
			t.Run(name+" "+realmHost, func(t *testing.T) {
				var mu sync.Mutex
				var shown []string
				var asked bool
				note := func(req *http.Request) {
					data, err := io.ReadAll(req.Body)
					must(t, err)
					mu.Lock()
					defer mu.Unlock()
					shown = append(shown, req.Header.Get("Authorization")+req.Header.Get("Referer")+string(data))
				}
				other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
					note(req)
					_, _ = io.WriteString(w, `{"token":"t","access_token":"t"}`)
				}))
				defer other.Close()
				tokens := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
					mu.Lock()
					asked = true
					mu.Unlock()
					http.Redirect(w, req, other.URL+"/token", tc.status)
				}))
				defer tokens.Close()
				_, port, err := net.SplitHostPort(tokens.Listener.Addr().String())
				must(t, err)
				reg := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Www-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="registry"`, net.JoinHostPort(realmHost, port)))
					w.WriteHeader(http.StatusUnauthorized)
				}))
				defer reg.Close()
				host := strings.TrimPrefix(reg.URL, "http://")
				o := oci.Options{Credentials: tc.credentials(host), Web: quick}
				o.Web.PlainHTTP = true
				src, err := oci.New(host+"/x", o)
				must(t, err)
				if _, err := src.List(t.Context()); err == nil {
					t.Error("a registry that refuses everything is listed")
				}
				mu.Lock()
				defer mu.Unlock()
				if !asked {
					t.Error("the server of tokens was not asked")
				}
				for _, text := range shown {
					if text != "" {
						t.Errorf("the other server was shown %q", text)
					}
				}
			})
		}
	}
}
