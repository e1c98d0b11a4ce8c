// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package operator_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/apitest/kinds"
	"github.com/clusterstacks/cluster-stack-operator/internal/operator"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/oci"
	"github.com/clusterstacks/cluster-stack-operator/internal/source/oci/registrytest"
	"github.com/clusterstacks/cluster-stack-operator/internal/web"
)

func TestEnvironmentOfExistingInstallations(t *testing.T) {
	for name, tc := range map[string]struct {
		args []string
		env  map[string]string
		want string
	}{
		"OCI":              {[]string{"-source", "oci"}, map[string]string{"OCI_REGISTRY": "r.example.org", "OCI_REPOSITORY": "r.example.org/kaas/stacks"}, "oci://r.example.org/kaas/stacks"},
		"LineBreak":        {[]string{"-source", "oci"}, map[string]string{"OCI_REPOSITORY": "r.example.org/kaas/stacks\n"}, "oci://r.example.org/kaas/stacks"},
		"WithoutHost":      {[]string{"-source", "oci"}, map[string]string{"OCI_REGISTRY": "r.example.org\n", "OCI_REPOSITORY": "kaas/stacks\n"}, "oci://r.example.org/kaas/stacks"},
		"WithScheme":       {[]string{"-source", "oci"}, map[string]string{"OCI_REPOSITORY": "oci://r.example.org/kaas/stacks/"}, "oci://r.example.org/kaas/stacks"},
		"Port":             {[]string{"-source", "oci"}, map[string]string{"OCI_REGISTRY": "localhost:5000", "OCI_REPOSITORY": "localhost:5000/stacks"}, "oci://localhost:5000/stacks"},
		"GitHub":           {nil, map[string]string{"GIT_PROVIDER": "github", "GIT_ORG_NAME": "o\n", "GIT_REPOSITORY_NAME": "r", "GIT_ACCESS_TOKEN": "t\n"}, "github://github.com/o/r"},
		"Local":            {[]string{"--local", "--release-dir=/r"}, map[string]string{"OCI_REPOSITORY": "ignored"}, "directory:/r/cluster-stacks"},
		"Nothing":          {[]string{"-source", "oci"}, nil, ""},
		"HalfOfGitHub":     {nil, map[string]string{"GIT_ORG_NAME": "o"}, "error: GIT_REPOSITORY_NAME"},
		"OtherForge":       {nil, map[string]string{"GIT_PROVIDER": "gitlab", "GIT_ORG_NAME": "o", "GIT_REPOSITORY_NAME": "r"}, "error: only github"},
		"UserNoPassword":   {[]string{"-source", "oci"}, map[string]string{"OCI_REPOSITORY": "r.example.org/s", "OCI_USERNAME": "u"}, "error: needs a password"},
		"NoRepositoryName": {[]string{"-source", "oci"}, map[string]string{"OCI_REPOSITORY": "r.example.org/s:v1"}, "error: OCI_REPOSITORY"},
	} {
		t.Run(name, func(t *testing.T) {
			for key, value := range tc.env {
				t.Setenv(key, value)
			}
			c, err := parse(tc.args...)
			if err != nil {
				t.Fatal(err)
			}
			got, err := operator.Location(&c)
			want, fails := strings.CutPrefix(tc.want, "error: ")
			switch {
			case fails && (err == nil || !strings.Contains(err.Error(), want) || c.Validate() == nil):
				t.Errorf("got %v, want %q", err, want)
			case !fails && (err != nil || got != want):
				t.Errorf("got %q, %v; want %q", got, err, want)
			}
		})
	}
}

// releasesAppearFromRegistry subscribes to a private registry: what is published there is found, and so is
// what follows.
func releasesAppearFromRegistry(t *testing.T, c client.WithWatch) {
	t.Helper()
	const robot, password = "robot", "s3cret"
	registry := registrytest.Start(t, registrytest.Options{TLS: true, Username: robot, Password: password})
	namespace := kinds.Namespace(t, c)
	repository := registry.Host + "/kaas/cluster-stacks"
	src, err := oci.New(repository, oci.Options{Credentials: oci.Credentials{Username: robot, Password: password}, Web: web.Options{CA: registry.CA}})
	if err != nil {
		t.Fatal(err)
	}
	push := func(tag string) string {
		t.Helper()
		folder := t.TempDir()
		publish(t, folder, tag)
		name, err := release.ParseName(tag)
		if err != nil {
			t.Fatal(err)
		}
		digest, err := src.Publish(t.Context(), name, os.DirFS(filepath.Join(folder, tag)), time.Now(), nil)
		if err != nil {
			t.Fatal(err)
		}
		return digest
	}
	digest := push("docker-starter-1-35-v1")
	stack := &v1alpha1.ClusterStack{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "s", Labels: shard},
		Spec: v1alpha1.ClusterStackSpec{
			Provider: "docker", Name: "starter", KubernetesVersion: "1.35", AutoSubscribe: true, NoProvider: true,
			Source: &v1alpha1.ReleaseSource{
				OCI:          &v1alpha1.OCISource{Repository: repository},
				SecretRef:    &v1alpha1.LocalReference{Name: "registry"},
				PollInterval: &metav1.Duration{Duration: time.Second},
			},
		},
	}
	if err := c.Create(t.Context(), stack); err != nil {
		t.Fatal(err)
	}
	await(t, c, &v1alpha1.ClusterStackList{}, namespace, "a report that the Secret is missing", func(obj client.Object) bool {
		synced := obj.(*v1alpha1.ClusterStack).Status.Conditions.Get(v1alpha1.ReleasesSyncedCondition)
		return synced != nil && strings.Contains(synced.Message, "no Secret registry")
	})
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "registry"},
		StringData: map[string]string{"username": robot, "password": password, "ca.crt": string(registry.CA)},
	}
	if err := c.Create(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	usable := func(want string) {
		t.Helper()
		await(t, c, &v1alpha1.ClusterStackList{}, namespace, "ClusterStack with usable versions "+want, func(obj client.Object) bool {
			return obj.(*v1alpha1.ClusterStack).Status.UsableVersions == want
		})
	}
	usable("v1")
	rel := &v1alpha1.ClusterStackRelease{}
	if err := c.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: "docker-starter-1-35-v1"}, rel); err != nil {
		t.Fatal(err)
	}
	if rel.Status.Digest != digest || rel.Status.Source != "oci://"+repository {
		t.Errorf("release from %s with %s; published was %s", rel.Status.Source, rel.Status.Digest, digest)
	}
	push("docker-starter-1-35-v2")
	usable("v2")
}
