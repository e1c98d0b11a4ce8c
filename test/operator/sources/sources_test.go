// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package sources has the real operator take releases and charts from real registries: signed and not, by all producers
// that there are, with credentials and authorities of their own.
package sources

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/apitest/kinds"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/release/releasetest"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/oci"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/oci/registrytest"
	"github.com/clusterstacks/cluster-stack-operator/internal/verify"
	"github.com/clusterstacks/cluster-stack-operator/internal/verify/verifytest"
	"github.com/clusterstacks/cluster-stack-operator/internal/web"
	"github.com/clusterstacks/cluster-stack-operator/test/operator/operatortest"
)

func TestMain(m *testing.M) { sandboxtest.Main(m) }

const (
	v1, v2 = "docker-starter-1-35-v1", "docker-starter-1-35-v2"
	// charts is where a chart says that another one is to be had. There is no such server.
	charts = "oci://charts.example.org/stable"
)

var robot = auth.Credential{Username: "robot", Password: "s3cret"}

// signPredicate is what the statement in a bundle of cosign says that is a signature.
const signPredicate = "https://sigstore.dev/cosign/sign/v1"

// fixture is what the tests share: one operator, and a registry with TLS and a server of tokens.
type fixture struct {
	*operatortest.World
	registry *registrytest.Registry
}

func TestReleasesFromRegistries(t *testing.T) {
	w := operatortest.New(t)
	f := &fixture{World: w, registry: registrytest.Start(t, registrytest.Options{TLS: true, Username: robot.Username, Password: robot.Password, Token: true})}
	mirror := registrytest.Start(t, registrytest.Options{Username: robot.Username, Password: robot.Password})
	config := filepath.Join(t.TempDir(), "config.json")
	who := base64.StdEncoding.EncodeToString([]byte(robot.Username + ":" + robot.Password))
	write(t, config, fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, mirror.Host, who))
	args := []string{
		"--allow-networks=127.0.0.0/8", "--chart-mirror-credentials=" + config,
		"--chart-mirrors=" + charts + "=oci+http://" + mirror.Host + "/mirrored",
	}

	operator := w.Live(t, args...)
	t.Run("SignaturesOfBothForms", f.signaturesOfBothForms)
	t.Run("UnsignedUntilItIsSigned", f.unsignedUntilItIsSigned)
	t.Run("OtherProducer", f.otherProducer)
	t.Run("ChartsFromAMirror", func(t *testing.T) { f.chartsFromAMirror(t, mirror) })
	operator.End()

	t.Run("PolicyOfTheOperator", func(t *testing.T) { f.policyOfTheOperator(t, args) })
}

func (f *fixture) signaturesOfBothForms(t *testing.T) {
	key := verifytest.NewKey(t)
	p := f.place(t, "signed")
	tagged, bundled := p.publish(t, v1, operatortest.Release(t, v1)), p.publish(t, v2, operatortest.Release(t, v2))
	p.sign(t, tagged, key.SignDigest(tagged))
	p.sign(t, bundled, key.Bundle(bundled, "https://slsa.dev/provenance/v1"))
	p.sign(t, bundled, verifytest.NewKey(t).Bundle(bundled, signPredicate))
	p.sign(t, bundled, key.Bundle(bundled, signPredicate))
	stack := p.stack("v1", "v2")
	stack.Spec.Verify = &v1alpha1.Verification{PublicKeys: []string{key.Public}}
	f.create(t, stack)
	for name, digest := range map[string]string{v1: tagged, v2: bundled} {
		rel := p.await(t, name, isReady)
		if rel.Status.Digest != digest || rel.Status.Source != "oci://"+p.repository {
			t.Errorf("%s: %s from %s, want %s", name, rel.Status.Digest, rel.Status.Source, digest)
		}
		if v := rel.Status.Verification; v == nil || !strings.Contains(v.By, "sha256:") {
			t.Errorf("%s: it is not told who has signed: %+v", name, v)
		}
	}
}

func (f *fixture) unsignedUntilItIsSigned(t *testing.T) {
	key, stranger := verifytest.NewKey(t), verifytest.NewKey(t)
	p := f.place(t, "unsigned")
	digest := p.publish(t, v1, operatortest.Release(t, v1))
	stack := p.stack("v1")
	stack.Spec.Verify = &v1alpha1.Verification{PublicKeys: []string{key.Public}}
	f.create(t, stack)
	p.await(t, v1, refused(digest+" is not signed"))
	p.sign(t, digest, stranger.SignDigest(digest))
	p.await(t, v1, refused("no signature of "+digest+" counts"))
	p.noClass(t, v1)
	p.sign(t, digest, key.Bundle(digest, signPredicate))
	p.await(t, v1, isReady)
}

// otherProducer: what "oras push" makes of a folder is a release as well, beside other things in the repository.
func (f *fixture) otherProducer(t *testing.T) {
	const ttl = "docker-starter-1-35-v0-ttl-1713"
	p := f.place(t, "oras")
	files := operatortest.Release(t, ttl)
	files["hashes.json"] = &fstest.MapFile{Data: []byte(`{"clusterStack": "5c1e3e0"}`)}
	files["csctl.yaml"] = &fstest.MapFile{Data: []byte("apiVersion: csctl.clusterstack.x-k8s.io/v1alpha1\n")}
	for _, tag := range []string{"docker-starter-1-35-v2-test", "openstack-csp-helper-v0.2.0", ttl} {
		var layers []ocispec.Descriptor
		for name, file := range files {
			layers = append(layers, p.blob(t, file.Data, ocispec.MediaTypeImageLayer, map[string]string{ocispec.AnnotationTitle: name}))
		}
		p.manifest(t, "application/vnd.clusterstack.release", tag, oras.PackManifestOptions{Layers: layers})
	}
	stack := p.stack()
	stack.Spec.AutoSubscribe, stack.Spec.Channel = true, v1alpha1.ChannelCustom
	f.create(t, stack)
	p.await(t, ttl, isReady)
	all := &v1alpha1.ClusterStackReleaseList{}
	if err := f.Client.List(t.Context(), all, client.InNamespace(p.namespace)); err != nil || len(all.Items) != 1 {
		t.Errorf("got %d ClusterStackReleases, %v; want one", len(all.Items), err)
	}
}

// chartsFromAMirror: a chart that a release lacks comes from a mirror that asks for a password, and reaches the cluster.
func (f *fixture) chartsFromAMirror(t *testing.T, mirror *registrytest.Registry) {
	m := &place{fixture: f, repository: mirror.Host + "/mirrored/greeting", registry: mirror}
	lib := m.blob(t, releasetest.Archive(map[string]string{
		"greeting/Chart.yaml":           releasetest.Chart("greeting", "1.4.2"),
		"greeting/templates/hello.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: greeting\ndata:\n  text: hello\n",
	}), "application/vnd.cncf.helm.chart.content.v1.tar+gzip", nil)
	m.manifest(t, "application/vnd.cncf.helm.config.v1+json", "1.4.2", oras.PackManifestOptions{Layers: []ocispec.Descriptor{lib}})

	n := f.Tenant(t)
	p := f.place(t, "charts")
	p.namespace = n.Namespace
	p.secret(t)
	files := operatortest.Release(t, v1, operatortest.Addon{Name: "cni"})
	files[releasetest.AddonPackage(v1)] = &fstest.MapFile{Data: releasetest.Archive(map[string]string{
		"cni/Chart.yaml": releasetest.Chart("cni", "v1") + "dependencies:\n- {name: greeting, version: ~1.4, repository: \"" + charts + "\"}\n",
	})}
	p.publish(t, v1, files)
	f.create(t, p.stack("v1"))
	rel := p.await(t, v1, isReady)
	if pin := rel.Annotations[v1alpha1.PinAnnotation]; !strings.Contains(pin, `"dependencies":"sha256:`) {
		t.Errorf("the charts that were fetched are not pinned: %s", pin)
	}
	n.Create(t, v1, "v1.35.4")
	poll(t, "the chart of the mirror in the cluster", func(ctx context.Context) error {
		texts, err := n.Texts(ctx)
		if err == nil && !slices.Contains(texts, "greeting: hello") {
			err = fmt.Errorf("there is %q", texts)
		}
		return err
	})
}

// policyOfTheOperator: what the administrator demands holds for all, also for those who would rather not.
func (f *fixture) policyOfTheOperator(t *testing.T, args []string) {
	key := verifytest.NewKey(t)
	policy := filepath.Join(t.TempDir(), "policy.yaml")
	write(t, policy, "publicKeys:\n- |\n  "+strings.ReplaceAll(strings.TrimSpace(key.Public), "\n", "\n  ")+"\n")
	f.Live(t, append(args, "--verify-policy="+policy)...)

	p := f.place(t, "policy")
	signed, unsigned := p.publish(t, v1, operatortest.Release(t, v1)), p.publish(t, v2, operatortest.Release(t, v2))
	p.sign(t, signed, key.SignDigest(signed))
	stack := p.stack("v1", "v2")
	no := false
	stack.Spec.Verify = &v1alpha1.Verification{Required: &no}
	f.create(t, stack)
	p.await(t, v1, isReady)
	p.await(t, v2, refused(unsigned+" is not signed"))
	p.noClass(t, v2)
}

// place is a repository, and a namespace with credentials for it.
type place struct {
	*fixture
	registry   *registrytest.Registry
	repository string
	namespace  string
}

func (f *fixture) place(t *testing.T, name string) *place {
	t.Helper()
	p := &place{fixture: f, registry: f.registry, repository: f.registry.Host + "/" + name}
	if name != "charts" { // it has the namespace of a tenant
		p.namespace = kinds.Namespace(t, f.Client)
		p.secret(t)
	}
	return p
}

func (p *place) secret(t *testing.T) {
	t.Helper()
	p.create(t, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: p.namespace, Name: "registry"},
		StringData: map[string]string{"username": robot.Username, "password": robot.Password, "ca.crt": string(p.registry.CA)},
	})
}

// stack is a ClusterStack that has its releases from there.
func (p *place) stack(versions ...string) *v1alpha1.ClusterStack {
	stack := operatortest.Stack("1.35", versions...)
	stack.Namespace = p.namespace
	stack.Spec.Source = &v1alpha1.ReleaseSource{
		OCI:          &v1alpha1.OCISource{Repository: p.repository},
		SecretRef:    &v1alpha1.LocalReference{Name: "registry"},
		PollInterval: &metav1.Duration{Duration: time.Second},
	}
	return stack
}

// publish does what csctl does.
func (p *place) publish(t *testing.T, tag string, files fstest.MapFS) string {
	t.Helper()
	source, err := oci.New(p.repository, oci.Options{
		Credentials: oci.Credentials{Username: robot.Username, Password: robot.Password},
		Web:         web.Options{CA: p.registry.CA},
	})
	check(t, err)
	name, err := release.ParseName(tag)
	check(t, err)
	digest, err := source.Publish(t.Context(), name, files, time.Now(), map[string]string{"kubernetesVersion": "v1.35.4"})
	check(t, err)
	return digest
}

// sign puts a signature beside what has a digest, as cosign does.
func (p *place) sign(t *testing.T, sum string, s verify.Signature) {
	t.Helper()
	if s.Bundle == nil {
		layer := p.blob(t, s.Payload, "application/vnd.dev.cosign.simplesigning.v1+json", s.Annotations)
		p.manifest(t, "application/vnd.dev.cosign.artifact.sig.v1+json", strings.Replace(sum, ":", "-", 1)+".sig", oras.PackManifestOptions{Layers: []ocispec.Descriptor{layer}})
		return
	}
	subject, err := p.remote(t).Resolve(t.Context(), sum)
	check(t, err)
	const kind = "application/vnd.dev.sigstore.bundle.v0.3+json"
	p.manifest(t, kind, "", oras.PackManifestOptions{Subject: &subject, Layers: []ocispec.Descriptor{p.blob(t, s.Bundle, kind, nil)}})
}

func (p *place) remote(t *testing.T) *remote.Repository {
	t.Helper()
	repo, err := remote.NewRepository(p.repository)
	check(t, err)
	repo.PlainHTTP, repo.SkipReferrersGC = p.registry.CA == nil, true
	c, err := web.Client(web.Options{CA: p.registry.CA, PlainHTTP: repo.PlainHTTP})
	check(t, err)
	repo.Client = &auth.Client{Client: c, Credential: auth.StaticCredential(p.registry.Host, robot), Cache: auth.NewCache()}
	return repo
}

// blob uploads a blob and returns the layer for it.
func (p *place) blob(t *testing.T, data []byte, mediaType string, annotations map[string]string) ocispec.Descriptor {
	t.Helper()
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data)), Annotations: annotations}
	check(t, p.remote(t).Blobs().Push(t.Context(), desc, bytes.NewReader(data)))
	return desc
}

// manifest uploads a manifest, under a tag if one is given.
func (p *place) manifest(t *testing.T, artifactType, tag string, o oras.PackManifestOptions) {
	t.Helper()
	repo := p.remote(t)
	desc, err := oras.PackManifest(t.Context(), repo, oras.PackManifestVersion1_1, artifactType, o)
	check(t, err)
	if tag != "" {
		check(t, repo.Tag(t.Context(), desc, tag))
	}
}

func (f *fixture) create(t *testing.T, obj client.Object) {
	t.Helper()
	check(t, f.Client.Create(t.Context(), obj))
}

// await returns a ClusterStackRelease once it is as wanted.
func (p *place) await(t *testing.T, name string, is func(*v1alpha1.ClusterStackRelease) bool) *v1alpha1.ClusterStackRelease {
	t.Helper()
	rel := &v1alpha1.ClusterStackRelease{}
	poll(t, "ClusterStackRelease "+name, func(ctx context.Context) error {
		err := p.Client.Get(ctx, client.ObjectKey{Namespace: p.namespace, Name: name}, rel)
		if err == nil && !is(rel) {
			err = fmt.Errorf("it has the conditions %+v", rel.Status.Conditions)
		}
		return err
	})
	return rel
}

func isReady(rel *v1alpha1.ClusterStackRelease) bool { return rel.Status.Ready }

// refused tells whether a release waits for a signature, and the message says why.
func refused(why string) func(*v1alpha1.ClusterStackRelease) bool {
	return func(rel *v1alpha1.ClusterStackRelease) bool {
		c := rel.Status.Conditions.Get(v1alpha1.ReadyCondition)
		return c != nil && c.Reason == v1alpha1.VerificationFailedReason && strings.Contains(c.Message, why)
	}
}

func (p *place) noClass(t *testing.T, name string) {
	t.Helper()
	err := p.Client.Get(t.Context(), client.ObjectKey{Namespace: p.namespace, Name: name}, &clusterv1.ClusterClass{})
	if !apierrors.IsNotFound(err) {
		t.Errorf("the class of a release that was refused: %v; want none", err)
	}
}

// poll asks until there is no error.
func poll(t *testing.T, what string, ask func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), operatortest.Patience)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ask(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("waited in vain for %s: %v", what, err)
		case <-tick.C:
		}
	}
}

func write(t *testing.T, file, text string) {
	t.Helper()
	check(t, os.WriteFile(file, []byte(text), 0o600))
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
