// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/clusterstacks/cluster-stack-operator/internal/apitest/kinds"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
)

func TestMain(m *testing.M) { sandboxtest.Main(m) }

// Objects as existing installations hold them. Every field of theirs is known to our schema, and their status
// can be written as it is.
func TestStoredObjectsStayValid(t *testing.T) {
	c := kinds.Client(t, sandboxtest.APIServer(t))
	strict := client.WithFieldValidation(c, metav1.FieldValidationStrict)
	for name, tc := range map[string]struct{ text, want string }{
		"ClusterStackDefaults": {
			text: `{"kind": "ClusterStack", "spec": {"provider": "openstack", "name": "scs", "kubernetesVersion": "1.30", "noProvider": true}}`,
			want: `{"provider": "openstack", "name": "scs", "kubernetesVersion": "1.30", "noProvider": true, "channel": "stable", "autoSubscribe": true}`,
		},
		"ClusterStack": {
			text: `{"kind": "ClusterStack",
				"spec": {"provider": "openstack", "name": "scs", "kubernetesVersion": "1.30", "channel": "custom", "autoSubscribe": false, "noProvider": false,
					"providerRef": {"apiVersion": "infrastructure.clusterstack.x-k8s.io/v1alpha1", "kind": "OpenStackClusterStackReleaseTemplate", "name": "t", "namespace": "elsewhere"},
					"versions": ["v1", "v0-sha.rwvgrna", "v0-custom.ABC_d"]},
				"status": {"latestRelease": "openstack-scs-1-30-v1 | v1.30.10", "usableVersions": "v1, v0-sha.rwvgrna",
					"summary": [{"name": "v1", "phase": "done", "ready": true}, {"name": "v0-sha-rwvgrna", "phase": "", "ready": false, "message": "x"}],
					"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2024-05-01T10:00:00Z"},
						{"type": "ReleasesSynced", "status": "False", "severity": "Warning", "reason": "FailedToSync", "message": "x", "lastTransitionTime": "2024-05-01T10:00:00Z"}]}}`,
		},
		"ClusterStackRelease": {
			text: `{"kind": "ClusterStackRelease",
				"spec": {"providerRef": {"apiVersion": "infrastructure.clusterstack.x-k8s.io/v1alpha1", "kind": "OpenStackClusterStackRelease", "name": "r", "namespace": "n", "uid": "1"}},
				"status": {"ready": true, "kubernetesVersion": "v1.30.10",
					"resources": [{"group": "cluster.x-k8s.io", "version": "v1beta1", "kind": "ClusterClass", "namespace": "n", "name": "c", "status": "synced"}, {"kind": "Secret", "status": "not-synced", "error": "x"}],
					"conditions": [{"type": "HelmChartApplied", "status": "True", "lastTransitionTime": "2024-05-01T10:00:00Z"}]}}`,
		},
		"ClusterStackReleaseOfNoProvider": {text: `{"kind": "ClusterStackRelease", "spec": {}, "status": {}}`},
		"ClusterAddonInTheMiddleOfAHook": {
			text: `{"kind": "ClusterAddon", "metadata": {"annotations": {"ClusterAddonStage": "created"}},
				"spec": {"clusterRef": {"apiVersion": "cluster.x-k8s.io/v1beta1", "kind": "Cluster", "name": "c", "namespace": "n", "uid": "1"},
					"clusterStack": "openstack-scs-1-30-v0-sha.rwvgrna", "version": "v0-sha-rwvgrna", "hook": "BeforeClusterUpgrade"},
				"status": {"ready": false, "resources": [{"kind": "DaemonSet", "group": "apps", "version": "v1", "namespace": "kube-system", "name": "cilium", "status": "synced"}],
					"stages": [{"name": "cni", "action": "apply", "phase": "done"}, {"name": "csi", "action": "apply", "phase": "waitingForPreCondition"}, {"name": "ccm", "action": "", "phase": ""}],
					"conditions": [{"type": "ClusterReady", "status": "False", "severity": "Info", "reason": "ControlPlaneNotReady", "lastTransitionTime": "2024-05-01T10:00:00Z"},
						{"type": "HelmChartFound", "status": "False", "severity": "Error", "reason": "HelmChartMissing", "message": "x", "lastTransitionTime": "2024-05-01T10:00:00Z"}]}}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			given := &unstructured.Unstructured{}
			if err := json.Unmarshal([]byte(tc.text), &given.Object); err != nil {
				t.Fatal(err)
			}
			given.SetAPIVersion("clusterstack.x-k8s.io/v1alpha1")
			given.SetNamespace(kinds.Namespace(t, c))
			given.SetName("x")
			stored := given.DeepCopy()
			if err := strict.Create(t.Context(), stored); err != nil {
				t.Fatal(err)
			}
			want := given.Object["spec"]
			if tc.want != "" {
				if err := json.Unmarshal([]byte(tc.want), &want); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(want, stored.Object["spec"]); diff != "" {
				t.Errorf("spec (-want +got):\n%s", diff)
			}
			status, has := given.Object["status"].(map[string]any)
			if !has {
				return
			}
			stored.Object["status"] = status
			if err := strict.Status().Update(t.Context(), stored); err != nil {
				t.Fatal(err)
			}
			if given.GetKind() != "ClusterStack" && status["ready"] == nil {
				status["ready"] = false
			}
			if diff := cmp.Diff(status, stored.Object["status"]); diff != "" {
				t.Errorf("status (-want +got):\n%s", diff)
			}
		})
	}
}

// What cannot be meant is refused when it is written, with a sentence that says why.
func TestRules(t *testing.T) {
	c := kinds.Client(t, sandboxtest.APIServer(t))
	namespace := kinds.Namespace(t, c)
	stack := func(more string) string {
		return `{"kind": "ClusterStack", "spec": {"provider": "docker", "name": "scs", "kubernetesVersion": "1.36"` + more + `}}`
	}
	noProvider := func(more string) string { return stack(`, "noProvider": true` + more) }
	ref := `"providerRef": {"apiVersion": "infrastructure.clusterstack.x-k8s.io/v1alpha1", "kind": "FooClusterStackReleaseTemplate", "name": "t"}`
	settings := func(spec string) string { return `{"kind": "ClusterAddonSettings", "spec": {` + spec + `}}` }
	for name, tc := range map[string]struct {
		give string
		want string // part of the refusal, empty if it is accepted
	}{
		"Channels":                   {give: noProvider(`, "channel": "beta"`)},
		"UnknownChannel":             {give: noProvider(`, "channel": "alpha"`), want: `Unsupported value: "alpha"`},
		"StableVersions":             {give: noProvider(`, "versions": ["v1", "v12"]`)},
		"StableVersionsOfOtherForm":  {give: noProvider(`, "versions": ["v1", "v0-sha.abc"]`), want: "versions of the channel stable have the form v1"},
		"BetaVersions":               {give: noProvider(`, "channel": "beta", "versions": ["v1-beta.1", "v1-beta.10"]`)},
		"BetaVersionsOfOtherForm":    {give: noProvider(`, "channel": "beta", "versions": ["v1"]`), want: "versions of the channel beta have the form v1-beta.2"},
		"CustomTakesEveryForm":       {give: noProvider(`, "channel": "custom", "versions": ["v1", "v0-sha.abc", "v1-beta.1", "v0-ttl.1713", "v0-custom.ABC_d"]`)},
		"NoVersion":                  {give: noProvider(`, "channel": "custom", "versions": ["1.2"]`), want: "should match"},
		"DashInProvider":             {give: `{"kind": "ClusterStack", "spec": {"provider": "a-b", "name": "scs", "kubernetesVersion": "1.36", "noProvider": true}}`, want: "spec.provider"},
		"Provider":                   {give: stack(", " + ref)},
		"NeitherProviderNorNone":     {give: stack(""), want: "providerRef is required unless noProvider is true"},
		"ProviderRefWithoutTemplate": {give: stack(strings.ReplaceAll(", "+ref, "Template", "")), want: "a kind that ends in Template"},
		"ProviderRefIsIgnored":       {give: noProvider(`, "providerRef": {}`)},
		"Directory":                  {give: noProvider(`, "source": {"directory": {"path": "team/a"}}`)},
		"DirectoryOutside":           {give: noProvider(`, "source": {"directory": {"path": "a/../../b"}}`), want: "stay below"},
		"DirectoryAbsolute":          {give: noProvider(`, "source": {"directory": {"path": "/etc"}}`), want: "path must be relative"},
		"DirectoryWithSecret":        {give: noProvider(`, "source": {"directory": {"path": "a"}, "secretRef": {"name": "x"}}`), want: "a directory needs no secretRef"},
		"OCI":                        {give: noProvider(`, "source": {"oci": {"repository": "ghcr.io/a/b-c/d_e"}, "secretRef": {"name": "x"}, "timeout": "30s", "pollInterval": "1m30s"}`)},
		"OCIOnLoopback":              {give: noProvider(`, "source": {"oci": {"repository": "[::1]:5000/stacks", "plainHTTP": true}}`)},
		"OCIWithTag":                 {give: noProvider(`, "source": {"oci": {"repository": "ghcr.io/a/b:v1"}}`), want: "should match"},
		"OCIWithScheme":              {give: noProvider(`, "source": {"oci": {"repository": "https://ghcr.io/a"}}`), want: "should match"},
		"GitHub":                     {give: noProvider(`, "source": {"github": {"owner": "acme", "repository": "stacks.x", "apiURL": "https://github.acme.com/api/v3"}}`)},
		"GitHubUserInURL":            {give: noProvider(`, "source": {"github": {"owner": "acme", "repository": "stacks", "apiURL": "https://u:p@github.acme.com"}}`), want: "should match"},
		"GitHubRepositoryIsFolder":   {give: noProvider(`, "source": {"github": {"owner": "acme", "repository": ".."}}`), want: "should match"},
		"TwoSources":                 {give: noProvider(`, "source": {"directory": {"path": "a"}, "oci": {"repository": "ghcr.io/a"}}`), want: "exactly one of directory, oci and github"},
		"NoSource":                   {give: noProvider(`, "source": {"timeout": "5s"}`), want: "exactly one of directory, oci and github"},
		"TimeoutIsNone":              {give: noProvider(`, "source": {"oci": {"repository": "ghcr.io/a"}, "timeout": "soon"}`), want: "spec.source.timeout"},
		"TimeoutTooShort":            {give: noProvider(`, "source": {"oci": {"repository": "ghcr.io/a"}, "timeout": "0s"}`), want: "timeout must be between"},
		"PollIntervalTooShort":       {give: noProvider(`, "source": {"oci": {"repository": "ghcr.io/a"}, "pollInterval": "10ms"}`), want: "pollInterval must be between"},
		"Verify": {give: noProvider(`, "verify": {"publicKeys": ["-----BEGIN PUBLIC KEY-----\nx\n-----END PUBLIC KEY-----\n"],
			"identities": [{"issuer": "https://i", "subjectRegExp": "https://s/.*"}], "trustedRootRef": {"name": "root"}}`)},
		"VerifyWithPrivateKey":     {give: noProvider(`, "verify": {"publicKeys": ["-----BEGIN PRIVATE KEY-----"]}`), want: "should match"},
		"IdentityOfAnyIssuer":      {give: noProvider(`, "verify": {"identities": [{"subject": "s"}]}`), want: "exactly one of issuer and issuerRegExp"},
		"IdentityOfTwoSubjects":    {give: noProvider(`, "verify": {"identities": [{"issuer": "i", "subject": "s", "subjectRegExp": "s"}]}`), want: "exactly one of subject and subjectRegExp"},
		"HistoryAndPause":          {give: noProvider(`, "historyLimit": 3, "paused": true`)},
		"NegativeHistory":          {give: noProvider(`, "historyLimit": -1`), want: "historyLimit"},
		"Settings":                 {give: settings(`"drift": "warn", "watch": true, "addons": [{"name": "cni", "disabled": true}, {"name": "csi", "drift": "ignore", "valuesFrom": [{"kind": "Secret", "name": "x"}, {"kind": "ConfigMap", "name": "x", "key": "k", "optional": true}]}]`)},
		"SettingsOfOneAddonTwice":  {give: settings(`"addons": [{"name": "cni"}, {"name": "cni"}]`), want: "Duplicate value"},
		"SettingsOfUnknownDrift":   {give: settings(`"drift": "fix"`), want: "Unsupported value"},
		"SettingsFromOtherKind":    {give: settings(`"addons": [{"name": "cni", "valuesFrom": [{"kind": "Pod", "name": "x"}]}]`), want: "Unsupported value"},
		"AddonOfSomethingElse":     {give: `{"kind": "ClusterAddon", "spec": {"clusterRef": {"kind": "Pod", "name": "x"}}}`, want: "clusterRef must refer to a Cluster"},
		"AddonWithoutCluster":      {give: `{"kind": "ClusterAddon", "spec": {}}`, want: "spec.clusterRef"},
		"AddonOfClusterWithNoName": {give: `{"kind": "ClusterAddon", "spec": {"clusterRef": {"kind": "Cluster"}}}`, want: "clusterRef must name a Cluster"},
	} {
		t.Run(name, func(t *testing.T) {
			obj := &unstructured.Unstructured{}
			if err := json.Unmarshal([]byte(tc.give), &obj.Object); err != nil {
				t.Fatal(err)
			}
			obj.SetAPIVersion("clusterstack.x-k8s.io/v1alpha1")
			obj.SetNamespace(namespace)
			obj.SetName("x")
			err := client.WithFieldValidation(c, metav1.FieldValidationStrict).Create(t.Context(), obj, client.DryRunAll)
			switch {
			case tc.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
				t.Errorf("got %v, want a refusal that says %q", err, tc.want)
			}
		})
	}
}

// What a user changes later is judged as well. The existing operator did that in a webhook, and not for all of it: a
// ClusterStack that lost its provider crashed it.
func TestChangesAreJudged(t *testing.T) {
	c := kinds.Client(t, sandboxtest.APIServer(t))
	namespace := kinds.Namespace(t, c)
	create := func(name, text string) *unstructured.Unstructured {
		t.Helper()
		obj := &unstructured.Unstructured{}
		if err := json.Unmarshal([]byte(text), &obj.Object); err != nil {
			t.Fatal(err)
		}
		obj.SetAPIVersion("clusterstack.x-k8s.io/v1alpha1")
		obj.SetNamespace(namespace)
		obj.SetName(name)
		if err := c.Create(t.Context(), obj); err != nil {
			t.Fatal(err)
		}
		return obj
	}
	ref := `"providerRef": {"apiVersion": "infrastructure.clusterstack.x-k8s.io/v1alpha1", "kind": "FooClusterStackReleaseTemplate", "name": "t"}`
	none := create("none", `{"kind": "ClusterStack", "spec": {"provider": "docker", "name": "scs", "kubernetesVersion": "1.36", "noProvider": true, "versions": ["v1"]}}`)
	some := create("some", `{"kind": "ClusterStack", "spec": {"provider": "docker", "name": "scs", "kubernetesVersion": "1.36", `+ref+`}}`)
	addon := create("addon", `{"kind": "ClusterAddon", "spec": {"clusterRef": {"kind": "Cluster", "name": "c"}}}`)
	for name, tc := range map[string]struct {
		of    *unstructured.Unstructured
		patch string // of the spec
		want  string // part of the refusal, empty if it is accepted
	}{
		"Provider":              {none, `{"provider": "openstack"}`, "provider cannot be changed"},
		"Stack":                 {none, `{"name": "other"}`, "name cannot be changed"},
		"Minor":                 {none, `{"kubernetesVersion": "1.37"}`, "make another ClusterStack for another minor version"},
		"Channel":               {none, `{"channel": "custom"}`, "channel cannot be changed"},
		"ChannelTakenOut":       {none, `{"channel": null}`, ""}, // it was the default
		"Versions":              {none, `{"versions": ["v1", "v2"]}`, ""},
		"VersionOfOtherForm":    {none, `{"versions": ["v1", "v0-sha.abc"]}`, "versions of the channel stable have the form v1"},
		"VersionThatIsNone":     {none, `{"versions": ["2"]}`, "should match"},
		"ProviderWithoutRef":    {none, `{"noProvider": false}`, "providerRef is required unless noProvider is true"},
		"ProviderWithRef":       {none, `{"noProvider": false, ` + ref + `}`, ""},
		"RefTakenOut":           {some, `{"providerRef": null}`, "providerRef is required unless noProvider is true"},
		"RefTakenOutWithReason": {some, `{"providerRef": null, "noProvider": true}`, ""},
		"RefToOtherKind":        {some, `{"providerRef": {"kind": "Secret"}}`, "a kind that ends in Template"},
		"RefToOtherTemplate":    {some, `{"providerRef": {"name": "other"}}`, ""},
		"AddonOfOtherCluster":   {addon, `{"clusterRef": {"name": "other"}}`, "clusterRef.name cannot be changed"},
		"AddonOfOtherKind":      {addon, `{"clusterRef": {"kind": "Pod"}}`, "clusterRef must refer to a Cluster"},
		"AddonOfSameCluster":    {addon, `{"clusterRef": {"uid": "1"}}`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			err := c.Patch(t.Context(), tc.of.DeepCopy(), client.RawPatch(types.MergePatchType, []byte(`{"spec": `+tc.patch+`}`)), client.DryRunAll)
			switch {
			case tc.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
				t.Errorf("got %v, want a refusal that says %q", err, tc.want)
			}
		})
	}
}

// Scripts read what kubectl prints.
func TestColumnsAndShortNames(t *testing.T) {
	c := kinds.Client(t, sandboxtest.APIServer(t))
	for plural, want := range map[string]string{
		"clusterstacks":        "csk: Provider .spec.provider, ClusterStack .spec.name, K8s .spec.kubernetesVersion, Channel .spec.channel, Autosubscribe .spec.autoSubscribe, Usable .status.usableVersions, Latest .status.latestRelease, Age .metadata.creationTimestamp, ",
		"clusterstackreleases": "cskr: K8s Version .status.kubernetesVersion, Ready .status.ready, Age .metadata.creationTimestamp, ",
		"clusteraddons":        `caddon: Cluster .metadata.ownerReferences[?(@.kind=="Cluster")].name, Hook .spec.hook, Ready .status.ready, Age .metadata.creationTimestamp, `,
	} {
		crd := &apiextensionsv1.CustomResourceDefinition{}
		if err := c.Get(t.Context(), client.ObjectKey{Name: plural + ".clusterstack.x-k8s.io"}, crd); err != nil {
			t.Fatal(err)
		}
		want += "Reason .status.conditions[?(@.type=='Ready')].reason, Message .status.conditions[?(@.type=='Ready')].message"
		var columns []string
		for _, column := range crd.Spec.Versions[0].AdditionalPrinterColumns {
			if column.Priority > 0 {
				continue // only with -o wide
			}
			columns = append(columns, column.Name+" "+column.JSONPath)
		}
		got := fmt.Sprintf("%s: %s", strings.Join(crd.Spec.Names.ShortNames, ","), strings.Join(columns, ", "))
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", plural, diff)
		}
		// By which `kubectl get cluster-api` and clusterctl find them.
		if diff := cmp.Diff([]string{"cluster-api", "cluster-stack"}, crd.Spec.Names.Categories); diff != "" {
			t.Errorf("categories of %s (-want +got):\n%s", plural, diff)
		}
		for label, want := range map[string]string{
			"cluster.x-k8s.io/provider": "cluster-stack-operator", "cluster.x-k8s.io/v1beta1": "v1beta1", "clusterctl.cluster.x-k8s.io": "",
		} {
			if got, has := crd.Labels[label]; !has || got != want {
				t.Errorf("label %s of %s is %q, want %q", label, plural, got, want)
			}
		}
	}
}

// Manifests of people, their alerts and their scripts name what an installation consists of, and the Secret with the
// settings of its source is there already.
func TestAnInstallationKeepsItsNames(t *testing.T) {
	objects := map[string]bool{}
	variables := map[string]string{}
	for _, folder := range []string{"manager", "webhook", "extension"} {
		files, err := filepath.Glob(filepath.Join(folder, "*.yaml"))
		if err != nil || len(files) == 0 {
			t.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for document := range strings.SplitSeq(string(text), "\n---\n") {
				obj := &unstructured.Unstructured{}
				if err := yaml.Unmarshal([]byte(document), &obj.Object); err != nil {
					t.Fatalf("%s: %v", file, err)
				}
				objects[strings.Trim(obj.GetKind()+" "+obj.GetNamespace()+"/"+obj.GetName(), "/")] = true
				if obj.GetKind() != "Deployment" {
					continue
				}
				deployment := &appsv1.Deployment{}
				if err := runtime.DefaultUnstructuredConverter.FromUnstructured(obj.Object, deployment); err != nil {
					t.Fatal(err)
				}
				for _, variable := range deployment.Spec.Template.Spec.Containers[0].Env {
					if from := variable.ValueFrom; from != nil && from.SecretKeyRef != nil {
						variables[variable.Name] = fmt.Sprintf("%s %s, optional %t", from.SecretKeyRef.Name, from.SecretKeyRef.Key, ptr.Deref(from.SecretKeyRef.Optional, false))
					}
				}
			}
		}
	}
	for _, want := range []string{
		"Namespace /cso-system", "Deployment cso-system/cso-controller-manager", "Service cso-system/cso-webhook-service", "Service cso-system/cso-hook-server-svc",
		"ValidatingWebhookConfiguration /cso-validating-webhook-configuration", "ExtensionConfig /cso-hook-server-extensionconfig",
	} {
		if !objects[want] {
			t.Errorf("there is no %s", want)
		}
	}
	want := map[string]string{}
	for name, key := range map[string]string{
		"GIT_PROVIDER": "git-provider", "GIT_ORG_NAME": "git-org-name", "GIT_REPOSITORY_NAME": "git-repo-name", "GIT_ACCESS_TOKEN": "git-access-token",
		"OCI_REGISTRY": "oci-registry", "OCI_REPOSITORY": "oci-repository", "OCI_ACCESS_TOKEN": "oci-access-token",
		"OCI_USERNAME": "oci-username", "OCI_PASSWORD": "oci-password",
	} {
		want[name] = "cso-cluster-stack-variables " + key + ", optional true"
	}
	if diff := cmp.Diff(want, variables); diff != "" {
		t.Errorf("variables from Secrets (-want +got):\n%s", diff)
	}
}
