// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package lint_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/clusterstacks/cluster-stack-operator/internal/build"
	"github.com/clusterstacks/cluster-stack-operator/internal/lint"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/release/releasetest"
)

// files are those of a stack or release, by path.
type files map[string]string

// good returns the files of a stack in which nothing is found.
func good(t *testing.T) files {
	t.Helper()
	stack, err := build.Read(os.DirFS("../../stacks/docker/starter"), "1-35")
	if err != nil {
		t.Fatal(err)
	}
	f := files{}
	for name, data := range stack.Files() {
		f[name] = string(data)
	}
	return f
}

func (f files) fsys(folder string) fstest.MapFS {
	fsys := fstest.MapFS{}
	for name, text := range f {
		fsys[strings.TrimPrefix(folder+"/"+name, "/")] = &fstest.MapFile{Data: []byte(text), Mode: 0o644}
	}
	return fsys
}

// replace puts a text in place of another one, which has to be there.
func replace(file, old, with string) func(*testing.T, files) {
	return func(t *testing.T, f files) {
		t.Helper()
		if !strings.Contains(f[file], old) {
			t.Fatalf("%s does not contain %q", file, old)
		}
		f[file] = strings.Replace(f[file], old, with, 1)
	}
}

func write(file, text string) func(*testing.T, files) {
	return func(_ *testing.T, f files) { f[file] = text }
}

func add(file, text string) func(*testing.T, files) {
	return func(t *testing.T, f files) {
		t.Helper()
		if f[file] == "" {
			t.Fatalf("there is no %s", file)
		}
		f[file] += text
	}
}

func remove(prefix string) func(*testing.T, files) {
	return func(t *testing.T, f files) {
		t.Helper()
		before := len(f)
		maps.DeleteFunc(f, func(name, _ string) bool { return strings.HasPrefix(name, prefix) })
		if len(f) == before {
			t.Fatalf("there is no %s", prefix)
		}
	}
}

func all(changes ...func(*testing.T, files)) func(*testing.T, files) {
	return func(t *testing.T, f files) {
		t.Helper()
		for _, change := range changes {
			change(t, f)
		}
	}
}

const (
	classYAML   = "cluster-class/templates/clusterclass.yaml"
	cpYAML      = "cluster-class/templates/control-plane.yaml"
	workerYAML  = "cluster-class/templates/default-worker.yaml"
	infraYAML   = "cluster-class/templates/cluster.yaml"
	stagesYAML  = "clusteraddon.yaml"
	cni         = "cluster-addon/cni/"
	cniYAML     = "cluster-addon/cni/templates/daemonset.yaml"
	metrics     = "cluster-addon/metrics-server/"
	metricsYAML = "cluster-addon/metrics-server/templates/deployment.yaml"
)

const dependency = "dependencies:\n  - name: sub\n    version: %s\n    repository: https://charts.example.com\n"

// vendor puts a chart into charts/ of the addon metrics-server.
func vendor(version string) func(*testing.T, files) {
	return write(metrics+"charts/sub-"+version+".tgz", string(releasetest.Archive(map[string]string{
		"sub/Chart.yaml":        "apiVersion: v2\nname: sub\nversion: " + version + "\n",
		"sub/templates/sa.yaml": "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: sub}\n",
	})))
}

// fault is a small mutation of a good stack.
type fault struct {
	why   string
	spoil func(*testing.T, files)
	// want is the rule, and in is the file where it is found; on is a text of the line, empty where the file is meant.
	want, in, on string
	// also are other rules that are bound to be broken with it.
	also []string
}

var faults = map[string]fault{
	// The folder
	"ConfigVersionWithoutPatch": {spoil: replace("csctl.yaml", "v1.35.4", "1.35"), want: "config", in: "csctl.yaml", on: "kubernetesVersion"},
	"ConfigNameWithDash":        {spoil: replace("csctl.yaml", "clusterStackName: starter", "clusterStackName: my-stack"), want: "config", in: "csctl.yaml", on: "my-stack"},
	"ConfigNotYAML":             {spoil: replace("csctl.yaml", "  clusterStackName", "\tclusterStackName"), want: "config", in: "csctl.yaml", on: "kubernetesVersion"},
	"ConfigKeyTwice":            {spoil: add("csctl.yaml", "apiVersion: again\n"), want: "config", in: "csctl.yaml", on: "apiVersion: again"},
	"ConfigUnknownKey":          {spoil: replace("csctl.yaml", "  clusterStackName", "  kubernetesPatch: any\n  clusterStackName"), want: "config-unknown-key", in: "csctl.yaml", on: "kubernetesPatch"},
	"StackTooLarge":             {spoil: write("cluster-class/large.bin", strings.Repeat("x", 6<<20)), want: "stack-unreadable"},
	"NameTooLong":               {spoil: all(replace("csctl.yaml", "clusterStackName: starter", "clusterStackName: "+strings.Repeat("long", 11)), replace("cluster-class/Chart.yaml", "docker-starter-", "docker-"+strings.Repeat("long", 11)+"-")), want: "release-name", in: "csctl.yaml", on: "clusterStackName"},
	"TagUnknown":                {spoil: replace(cni+"Chart.yaml", "<< .ClusterAddonVersion >>", "<< .AddonVersion >>"), want: "tag", in: cni + "Chart.yaml", on: "AddonVersion"},
	"TagWithoutDot":             {spoil: replace("cluster-class/Chart.yaml", "description: ", "description: << ClusterClassVersion >> "), want: "tag", in: "cluster-class/Chart.yaml", on: "description"},
	"FileUnused":                {spoil: write("cluster-addon-values.yaml", "values: |\n  x: y\n"), want: "file-unused", in: "cluster-addon-values.yaml"},
	"BuildFails":                {spoil: write(cni+".helmignore", "[\n"), want: "build"},
	"IgnoreWithoutReason":       {spoil: add("csctl.yaml", "lint: {ignore: [{id: lookup}]}\n"), want: "ignore", in: "csctl.yaml", on: "lookup"},
	"IgnoreOfNoRule":            {spoil: add("csctl.yaml", "lint: {ignore: [{id: look-up, reason: none}]}\n"), want: "ignore", in: "csctl.yaml", on: "look-up"},
	"IgnoreOfNothing":           {spoil: add("csctl.yaml", "lint: {ignore: [{id: lookup, reason: none}]}\n"), want: "ignore-unused", in: "csctl.yaml", on: "lookup"},

	// Charts
	"ClassChartMissing":  {spoil: remove("cluster-class/Chart.yaml"), want: "chart-missing", in: "cluster-class"},
	"AddonChartMissing":  {spoil: remove(cni + "Chart.yaml"), want: "chart-missing", in: "cluster-addon/cni"},
	"ChartNotYAML":       {spoil: write(cni+"Chart.yaml", "name: [\n"), want: "chart-malformed", in: cni + "Chart.yaml", on: "?1"},
	"ChartWithoutName":   {spoil: replace(cni+"Chart.yaml", "name: cni\n", ""), want: "chart-malformed", in: cni + "Chart.yaml", on: "?1"},
	"ChartMisnamed":      {why: "The folder was copied from that of the minor version before.", spoil: replace("cluster-class/Chart.yaml", "1-35", "1-34"), want: "chart-name", in: "cluster-class/Chart.yaml", on: "name:"},
	"TemplateSyntax":     {spoil: replace(cniYAML, "{{ .Values.image }}", "{{ .Values.image }"), want: "template", in: cniYAML, on: ".Values.image"},
	"TemplateFails":      {spoil: replace(cniYAML, "{{ .Values.image }}", "{{ .Values.image.tag }}"), want: "template", in: cniYAML, on: ".Values.image.tag"},
	"TemplateOfClass":    {spoil: replace(cpYAML, "nindent 12 }}", "nindent }}"), want: "template", in: cpYAML, on: "nindent }}"},
	"TemplateNotYAML":    {spoil: replace(metricsYAML, "kind: Deployment", "kind: Deployment\n  bad: it"), want: "template", in: metricsYAML},
	"KindUnknown":        {spoil: replace(metricsYAML, "kind: Deployment", "kind: Deploymnt"), want: "object-field", in: metricsYAML, on: "kind: Deploymnt"},
	"FunctionEnv":        {spoil: replace(cni+"overwrite.yaml", "podCIDRs:", "home: {{ env \"HOME\" }}\npodCIDRs:"), want: "forbidden-function", in: cni + "overwrite.yaml", on: "HOME"},
	"FunctionInTemplate": {spoil: replace(metricsYAML, "            - --cert-dir=/tmp\n", "            - --cert-dir=/tmp\n            - --host={{ getHostByName \"example.com\" }}\n"), want: "forbidden-function", in: metricsYAML, on: "getHostByName"},
	"Lookup":             {spoil: replace(metricsYAML, "spec:\n", "{{- $s := lookup \"v1\" \"Secret\" \"kube-system\" \"x\" }}\nspec:\n"), want: "lookup", in: metricsYAML, on: "lookup"},
	"TestHook":           {spoil: write(metrics+"templates/test.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: test\n  annotations:\n    helm.sh/hook: test\n"), want: "hook-ignored", in: metrics + "templates/test.yaml", on: "helm.sh/hook"},
	"KubernetesVersion":  {spoil: add(cni+"Chart.yaml", "kubeVersion: '>= 1.36.0-0'\n"), want: "kubernetes-version", in: cni + "Chart.yaml", on: "kubeVersion"},
	"DependencyMissing":  {spoil: add(metrics+"Chart.yaml", fmt.Sprintf(dependency, "1.2.3")), want: "dependency-missing", in: metrics + "Chart.yaml", on: "dependencies:"},
	"DependencyNowhere":  {spoil: add(metrics+"Chart.yaml", "dependencies:\n  - name: sub\n    version: 1.2.3\n"), want: "dependency-nowhere", in: metrics + "Chart.yaml", on: "name: sub", also: []string{"dependency-missing"}},
	"DependencyUnpinned": {spoil: add(metrics+"Chart.yaml", fmt.Sprintf(dependency, "^1.2.0")), want: "dependency-unpinned", in: metrics + "Chart.yaml", on: "name: sub", also: []string{"dependency-missing"}},
	"DependencyVersion":  {spoil: all(add(metrics+"Chart.yaml", fmt.Sprintf(dependency, "1.2.3")), vendor("1.2.2")), want: "dependency-version", in: metrics + "Chart.yaml", on: "name: sub"},
	"LockOutdated":       {spoil: all(add(metrics+"Chart.yaml", fmt.Sprintf(dependency, "1.2.3")), vendor("1.2.3"), write(metrics+"Chart.lock", "dependencies:\n- name: sub\n  repository: https://charts.example.com\n  version: 1.2.3\ndigest: sha256:0\n")), want: "lock-outdated", in: metrics + "Chart.lock", on: "digest"},

	"DependencyBesideInTheStackFails": {why: "csctl create would fail", spoil: add(metrics+"Chart.yaml", "dependencies:\n  - {name: sub, version: 1.2.3, repository: file://../../common}\n"), want: "build", also: []string{"dependency-missing"}},
	"DependencyOfNoName":              {spoil: add(metrics+"Chart.yaml", fmt.Sprintf(strings.Replace(dependency, "sub", "../sub", 1), "1.2.3")), want: "chart-malformed", in: metrics + "Chart.yaml", also: []string{"dependency-missing"}},
	"NameTooLongForHashMode":          {why: "v1 would fit, and what csctl create --mode hash makes not", spoil: all(replace("csctl.yaml", "clusterStackName: starter", "clusterStackName: "+strings.Repeat("long", 9)+"x"), replace("cluster-class/Chart.yaml", "docker-starter-", "docker-"+strings.Repeat("long", 9)+"x"+"-")), want: "release-name", in: "csctl.yaml", on: "clusterStackName"},

	// Stages
	"StagesNotYAML":       {spoil: replace(stagesYAML, "  BeforeClusterUpgrade: *addons", "  BeforeClusterUpgrade: *everything"), want: "stages-malformed", in: stagesYAML},
	"StagesKeyTwice":      {spoil: add(stagesYAML, "  BeforeClusterUpgrade: []\n"), want: "stages-malformed", in: stagesYAML, on: "BeforeClusterUpgrade: []"},
	"StagesNotAList":      {spoil: replace(stagesYAML, "*addons", "{name: cni}"), want: "stages-malformed", in: stagesYAML, on: "{name: cni}", also: []string{"upgrade-incomplete"}},
	"StagesHealthyIsText": {spoil: replace(stagesYAML, "- name: metrics-server\n", "- name: metrics-server\n      waitForHealthy: 'yes'\n"), want: "stages-malformed", in: stagesYAML, on: "waitForHealthy"},
	"StagesOfAnEmptyFile": {why: "it can be built", spoil: write(stagesYAML, "# later\n"), want: "stages-empty", in: stagesYAML, on: "later"},
	"StagesEmpty":         {spoil: write(stagesYAML, "addonStages: {}\n"), want: "stages-empty", in: stagesYAML, on: "addonStages"},
	"StageKeyMisspelt":    {spoil: replace(stagesYAML, "waitForPostCondition", "waitForPostConditions"), want: "stages-unknown-key", in: stagesYAML, on: "waitForPostConditions"},
	"StageObjectKey":      {spoil: replace(stagesYAML, "            namespace:", "            nameSpace:"), want: "stages-unknown-key", in: stagesYAML, on: "nameSpace"},
	"HookMisspelt":        {spoil: replace(stagesYAML, "  BeforeClusterUpgrade", "  beforeClusterUpgrade"), want: "hook-unknown", in: stagesYAML, on: "beforeClusterUpgrade", also: []string{"upgrade-incomplete"}},
	"HookBeforeCreate":    {spoil: add(stagesYAML, "  BeforeClusterCreate: *addons\n"), want: "hook-unknown", in: stagesYAML, on: "BeforeClusterCreate"},
	"StageWithoutName":    {spoil: replace(stagesYAML, "    - name: metrics-server\n      action", "    - waitForHealthy: true\n      action"), want: "stage-name", in: stagesYAML, on: "waitForHealthy", also: []string{"chart-without-stage"}},
	"StageActionMisspelt": {spoil: replace(stagesYAML, "name: metrics-server\n      action: apply", "name: metrics-server\n      action: aply"), want: "stage-action", in: stagesYAML, on: "aply"},
	"StageTwice":          {spoil: replace(stagesYAML, "    - name: metrics-server", "    - name: \"cni\"\n      action: apply\n    - name: metrics-server"), want: "stage-twice", in: stagesYAML, on: `name: "cni"`},
	"StageWithoutChart":   {spoil: replace(stagesYAML, "name: metrics-server", "name: metricsserver"), want: "stage-without-chart", in: stagesYAML, on: "metricsserver", also: []string{"chart-without-stage"}},
	"ChartWithoutStage":   {spoil: write("cluster-addon/extra/Chart.yaml", "apiVersion: v2\nname: extra\nversion: v1\n"), want: "chart-without-stage", in: "cluster-addon/extra"},
	"ConditionSyntax":     {spoil: replace(stagesYAML, "cni.status.numberReady ==", "cni.status.numberReady ="), want: "stage-condition", in: stagesYAML, on: "conditions:"},
	"ConditionVariable":   {spoil: replace(stagesYAML, "- key: cni", "- key: ds"), want: "stage-condition", in: stagesYAML, on: "conditions:"},
	"ConditionType":       {spoil: replace(stagesYAML, "cni.status.numberReady == cni.status.desiredNumberScheduled", "'ready'"), want: "stage-condition", in: stagesYAML, on: "conditions:"},
	"ConditionObject":     {spoil: replace(stagesYAML, "            kind: DaemonSet\n", ""), want: "stage-condition", in: stagesYAML, on: "- key: cni"},
	"UpgradeIncomplete":   {spoil: replace(stagesYAML, "*addons", "\n    - {name: cni, action: apply}"), want: "upgrade-incomplete", in: stagesYAML, on: "BeforeClusterUpgrade"},
	"UpgradeMissing":      {spoil: replace(stagesYAML, "  BeforeClusterUpgrade: *addons\n", ""), want: "upgrade-incomplete", in: stagesYAML, on: "AfterControlPlaneInitialized"},

	// Values
	"ValuesTemplateFails":  {spoil: replace(cni+"overwrite.yaml", "join \",\"", "joinn \",\""), want: "values-template", in: cni + "overwrite.yaml", on: "joinn"},
	"ValuesNotYAML":        {spoil: add(cni+"overwrite.yaml", "a: b: c\n"), want: "values-template", in: cni + "overwrite.yaml"},
	"ValuesNeedAnnotation": {spoil: add(cni+"overwrite.yaml", "zone: {{ upper (index .Cluster.metadata.annotations \"example.com/description\") | quote }}\n"), want: "values-minimal", in: cni + "overwrite.yaml"},
	"ValuesMissingField":   {spoil: add(cni+"overwrite.yaml", "zone: \"{{ .Cluster.spec.zone }}\"\n"), want: "values-missing", in: cni + "overwrite.yaml", on: "zone"},
	"AddonGenerates":       {spoil: write(metrics+"templates/secret.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {a: \"{{ randAlphaNum 8 }}\"}\n"), want: "addon-generates", in: metrics + "Chart.yaml"},

	// The cluster class
	"ClassMissing":          {spoil: replace(classYAML, "kind: ClusterClass\nmetadata:\n  name: {{ $name }}", "kind: ClusterClass\nmetadata:\n  name: {{ $name }}-class"), want: "class-missing", in: "cluster-class/Chart.yaml"},
	"ClassGenerates":        {spoil: replace(infraYAML, "docker: {}", "docker: {loadBalancer: {imageTag: \"{{ randAlphaNum 8 }}\"}}"), want: "class-generates", in: "cluster-class/Chart.yaml", on: "?1"},
	"KindRefused":           {spoil: write("cluster-class/templates/secret.yaml", "apiVersion: v1\nkind: Secret\nmetadata:\n  name: {{ .Release.Name }}-{{ .Chart.Version }}-cloud\n"), want: "kind-refused", in: "cluster-class/templates/secret.yaml", on: "kind:"},
	"NamespaceRefused":      {spoil: replace(infraYAML, "-cluster\n", "-cluster\n  namespace: kube-system\n"), want: "kind-refused", in: infraYAML, on: "namespace:"},
	"NameWithoutVersion":    {spoil: all(replace(infraYAML, "{{ .Release.Name }}-{{ .Chart.Version }}-cluster", "{{ .Release.Name }}-cluster"), replace(classYAML, "{{ $name }}-cluster", "{{ .Release.Name }}-cluster")), want: "name-without-version", in: infraYAML, on: "name:"},
	"ClassOldVersion":       {spoil: replace(workerYAML, "bootstrap.cluster.x-k8s.io/v1beta2\nkind: KubeadmConfigTemplate\nmetadata:\n  name: {{ $name }}-default-worker\nspec:\n  template:\n    spec:\n      joinConfiguration:\n        nodeRegistration:\n          {{- include \"kubelet.extraArgs\" . | nindent 10 }}", "bootstrap.cluster.x-k8s.io/v1beta1\nkind: KubeadmConfigTemplate\nmetadata:\n  name: {{ $name }}-default-worker\nspec:\n  template:\n    spec: {}"), want: "class-old-version", in: workerYAML, on: "apiVersion:"},
	"ClassUnknownField":     {spoil: replace(classYAML, "      required: false", "      optional: true\n      required: false"), want: "class-unknown-field", in: classYAML, on: "optional:"},
	"TemplateUnknownField":  {spoil: replace(cpYAML, "          apiServer:", "          colour: red\n          apiServer:"), want: "class-unknown-field", in: cpYAML, on: "colour"},
	"TemplateOfProvider":    {spoil: replace(infraYAML, "docker: {}", "docker: {colour: red}"), want: "class-unknown-field", in: infraYAML, on: "docker:"},
	"ClassFieldType":        {spoil: replace(classYAML, "required: false", "required: 'no'"), want: "class-schema", in: classYAML, on: "required:"},
	"ClassReferenceKind":    {spoil: replace(classYAML, "kind: DevClusterTemplate", "kind: devclustertemplate"), want: "class-invalid", in: classYAML, also: []string{"template-unused"}, on: "kind: devclustertemplate"},
	"ClassInvalid":          {spoil: replace(classYAML, "  infrastructure:\n    templateRef:", "  infrastructure:\n    naming: {template: '{{ \"{{\" }} .cluster.nam {{ \"}}\" }}'}\n    templateRef:"), want: "class-invalid", in: classYAML, on: "naming"},
	"VariableSchema":        {spoil: replace(classYAML, "          type: string\n", "          type: text\n"), want: "class-schema", in: classYAML, on: "type: text"},
	"VariablePattern":       {spoil: replace(classYAML, "          minLength: 1\n", "          pattern: '([a'\n"), want: "class-variable", in: classYAML, on: "pattern:"},
	"VariableDefault":       {spoil: replace(classYAML, "          minLength: 1\n", "          minLength: 1\n          default: ''\n"), want: "class-variable", in: classYAML, on: "default:"},
	"PatchEnabledIf":        {spoil: replace(classYAML, "if .imageRepository", "iff .imageRepository"), want: "class-patch", in: classYAML, on: "enabledIf"},
	"PatchPath":             {spoil: replace(classYAML, "path: /spec/template/spec/", "path: /metadata/labels/"), want: "class-patch", in: classYAML, on: "path:"},
	"PatchVariableUnknown":  {spoil: replace(classYAML, "variable: imageRepository", "variable: imageRepo"), want: "class-patch", in: classYAML, on: "variable:"},
	"PatchParentMissing":    {spoil: replace(classYAML, "clusterConfiguration/imageRepository", "clusterConfiguration/dns/imageRepository"), want: "patch-fails", in: classYAML, on: "- name: imageRepository"},
	"PatchMakesAnotherType": {why: "The patch works, and the API server refuses what it makes of the template.", spoil: all(replace(classYAML, "          minLength: 1\n          maxLength: 512\n", "          default: [a]\n          items: {type: string}\n"), replace(classYAML, "type: string\n", "type: array\n"), replace(classYAML, "          example: registry.example.com/kubernetes\n", "")), want: "patch-fails", in: classYAML, on: "- name: imageRepository"},
	"PatchOptionalVariable": {why: "Without the variable there is no value to add.", spoil: replace(classYAML, "      enabledIf: '{{ \"{{\" }} if .imageRepository {{ \"}}\" }}true{{ \"{{\" }} end {{ \"}}\" }}'\n", ""), want: "patch-fails", in: classYAML, on: "- name: imageRepository"},
	"TemplateInvalid":       {spoil: replace(cpYAML, "        clusterConfiguration:", "        files: [{path: /a, content: a}, {path: /a, content: b}]\n        clusterConfiguration:"), want: "template-invalid", in: cpYAML, on: "files:"},
	"TemplateMissing":       {spoil: replace(classYAML, "kind: DevClusterTemplate\n      name: {{ $name }}-cluster", "kind: DevClusterTemplate\n      name: {{ $name }}-infra"), want: "template-missing", in: classYAML, on: "name: {{ $name }}-infra", also: []string{"template-unused"}},
	"TemplateUnused":        {spoil: add(infraYAML, "---\napiVersion: infrastructure.cluster.x-k8s.io/v1beta2\nkind: DevMachineTemplate\nmetadata:\n  name: {{ .Release.Name }}-{{ .Chart.Version }}-gpu\nspec:\n  template:\n    spec:\n      backend:\n        docker: {}\n"), want: "template-unused", in: infraYAML, on: "-gpu"},
	"ImageOfAnotherMinor":   {spoil: replace(workerYAML, "docker: {}", "docker: {customImage: \"kindest/node:v1.34.2\"}"), want: "kubernetes-version-mismatch", in: workerYAML, on: "v1.34.2"},

	// Objects of addons
	"ObjectTwice":           {spoil: add(metrics+"templates/rbac.yaml", "---\napiVersion: v1\nkind: ServiceAccount\nmetadata:\n  name: metrics-server\n  namespace: kube-system\n"), want: "object-twice", in: metrics + "templates/rbac.yaml"},
	"ObjectClash":           {spoil: add(metrics+"templates/rbac.yaml", "---\napiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata:\n  name: kindnet\n"), want: "object-clash", in: metrics + "templates/rbac.yaml", on: "name: kindnet"},
	"NamespaceMissing":      {spoil: write(metrics+"templates/config.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: c\n  namespace: monitoring\n"), want: "namespace-missing", in: metrics + "templates/config.yaml", on: "monitoring"},
	"APIRemoved":            {spoil: write(metrics+"templates/pdb.yaml", "apiVersion: policy/v1beta1\nkind: PodDisruptionBudget\nmetadata:\n  name: m\nspec: {maxUnavailable: 1}\n"), want: "api-removed", in: metrics + "templates/pdb.yaml", on: "policy/v1beta1"},
	"ObjectUnknownField":    {spoil: replace(cniYAML, "hostNetwork: true", "hostNetworks: true"), want: "object-field", in: cniYAML, on: "hostNetworks"},
	"ObjectFieldType":       {spoil: replace(metricsYAML, "containerPort: 10250", "containerPort: https"), want: "object-field", in: metricsYAML, on: "containerPort"},
	"SelectorOfOthers":      {spoil: replace(cniYAML, "    matchLabels:\n      app.kubernetes.io/name: kindnet", "    matchLabels:\n      app.kubernetes.io/name: kindnetd"), want: "selector", in: cniYAML, on: "selector:"},
	"ServiceAccountMissing": {spoil: replace(cniYAML, "serviceAccountName: kindnet", "serviceAccountName: kindnetd"), want: "service-account-missing", in: cniYAML, on: "kindnetd"},
	"ImageLatest":           {spoil: replace(cni+"values.yaml", "kindnetd:v20260528-9350166c", "kindnetd:latest"), want: "image-unpinned", in: cni + "values.yaml", on: "latest"},
	"ImageWithoutTag":       {spoil: replace(cniYAML, "{{ .Values.image }}", "localhost:5000/kindnetd"), want: "image-unpinned", in: cniYAML, on: "localhost:5000/kindnetd"},
	"NetworkIntolerant":     {spoil: replace(cniYAML, "        - operator: Exists\n", "        - {key: node-role.kubernetes.io/control-plane, operator: Exists}\n"), want: "toleration-missing", in: cniYAML, on: "tolerations:"},
	"CloudIntolerant":       {spoil: replace(metricsYAML, "- --cert-dir=/tmp", "- cloud-controller-manager"), want: "toleration-missing", in: metricsYAML, on: "tolerations:"},
	"StorageIntolerant": {spoil: all(replace(cniYAML, "path: /etc/cni/net.d", "path: /var/lib/kubelet/plugins_registry/"), replace(cniYAML, "        - operator: Exists\n", "        - {key: a, operator: Exists}\n")),
		want: "toleration-advised", in: cniYAML, on: "tolerations:"},
}

func ids(report lint.Report) []string {
	var found []string
	for _, finding := range report.Findings {
		found = append(found, finding.Rule)
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// lineOf returns the line of a text in a file. "?7" is line 7.
func lineOf(t *testing.T, text, on string) int {
	t.Helper()
	if on == "" {
		return -1
	}
	var line int
	if _, err := fmt.Sscanf(on, "?%d", &line); err == nil {
		return line
	}
	for i, l := range strings.Split(text, "\n") {
		if strings.Contains(l, on) {
			return i + 1
		}
	}
	t.Fatalf("no line has %q", on)
	return 0
}

func TestEachFaultIsFoundWhereItIs(t *testing.T) {
	for name, tt := range faults {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := good(t)
			tt.spoil(t, f)
			report, err := lint.Stack(t.Context(), f.fsys("stack"), "stack", lint.Options{})
			if err != nil {
				t.Fatal(err)
			}
			want := append([]string{tt.want}, tt.also...)
			slices.Sort(want)
			if diff := cmp.Diff(want, ids(report)); diff != "" {
				t.Errorf("rules (-want +got): %s", diff)
			}
			line := lineOf(t, f[tt.in], tt.on)
			if !slices.ContainsFunc(report.Findings, func(got lint.Finding) bool {
				return got.Rule == tt.want && got.File == tt.in && (line < 0 || got.Line == line)
			}) {
				t.Errorf("not found at %s:%d", tt.in, line)
			}
			if t.Failed() {
				for _, finding := range report.Findings {
					t.Logf("%s:%d: %s: %s", finding.File, finding.Line, finding.Rule, finding.Message)
				}
			}
		})
	}
}

const tag = "docker-starter-1-35-v1"

// built returns the files of the release of a stack.
func built(t *testing.T, f files, version string) files {
	t.Helper()
	stack, err := build.Read(f.fsys("stack"), "stack")
	if err != nil {
		t.Fatal(err)
	}
	v, err := release.ParseVersion(version)
	if err != nil {
		t.Fatal(err)
	}
	rel, err := stack.Build(build.Versions{ClusterStack: v, ClusterAddon: v, NodeImage: v})
	if err != nil {
		t.Fatal(err)
	}
	result := files{}
	for name, data := range rel.Files {
		result[name] = string(data)
	}
	return result
}

func name(t *testing.T, tag string) release.Name {
	t.Helper()
	n, err := release.ParseName(tag)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

var releaseFaults = map[string]fault{
	"MetadataVersion":     {spoil: replace("metadata.yaml", "v1.35.4", "v1.35"), want: "metadata", in: "metadata.yaml", on: "kubernetes:"},
	"MetadataOfAnother":   {spoil: replace("metadata.yaml", "clusterStack: v1", "clusterStack: v2"), want: "release-contradiction", in: "metadata.yaml", on: "clusterStack:"},
	"ArchiveMissing":      {spoil: remove("docker-starter-1-35-cluster-class-v1.tgz"), want: "release-malformed"},
	"ArchiveDamaged":      {spoil: write("docker-starter-1-35-cluster-class-v1.tgz", "no archive"), want: "release-malformed", in: "docker-starter-1-35-cluster-class-v1.tgz"},
	"StageActionMisspelt": {spoil: replace("clusteraddon.yaml", "action: apply", "action: aply"), want: "stage-action", in: "clusteraddon.yaml", on: "aply"},
}

func TestEachFaultOfAReleaseIsFound(t *testing.T) {
	for test, tt := range releaseFaults {
		t.Run(test, func(t *testing.T) {
			f := built(t, good(t), "v1")
			tt.spoil(t, f)
			report, err := lint.Release(t.Context(), f.fsys(""), name(t, tag), lint.Options{})
			if err != nil {
				t.Fatal(err)
			}
			line := lineOf(t, f[tt.in], tt.on)
			if diff := cmp.Diff([]string{tt.want}, ids(report)); diff != "" || report.Findings[0].File != tt.in || line >= 0 && report.Findings[0].Line != line {
				t.Errorf("%s, line %d: %+v", diff, line, report.Findings)
			}
		})
	}
}

func TestNothingIsFoundInAGoodRelease(t *testing.T) {
	report, err := lint.Release(t.Context(), built(t, good(t), "v1").fsys(""), name(t, tag), lint.Options{})
	if err != nil || len(report.Findings) > 0 {
		t.Errorf("%v, %+v", err, report.Findings)
	}
}

// What is inside of an archive has its place there.
func TestFindingsInAReleaseAreBelowItsArchives(t *testing.T) {
	f := good(t)
	replace(cni+"values.yaml", "kindnetd:v20260528-9350166c", "kindnetd:latest")(t, f)
	report, err := lint.Release(t.Context(), built(t, f, "v1").fsys(""), name(t, tag), lint.Options{})
	if err != nil || len(report.Findings) != 1 || report.Findings[0].File != "docker-starter-1-35-cluster-addon-v1.tgz/cni/values.yaml" {
		t.Errorf("%v, %+v", err, report.Findings)
	}
}

// previousFaults are what the release after a good one has changed.
var previousFaults = map[string]fault{
	"WorkerClassRenamed": {spoil: replace(classYAML, "class: default-worker", "class: worker"), want: "worker-class-removed", in: classYAML, on: "workers:"},
	"VariableRemoved": {spoil: all(replace(classYAML, "    - name: imageRepository\n      required", "    - name: registry\n      required"),
		replace(classYAML, "variable: imageRepository", "variable: registry"), replace(classYAML, "if .imageRepository", "if .registry")),
		want: "variable-removed", in: classYAML, on: "variables:"},
	"VariableRequired": {spoil: replace(classYAML, "required: false", "required: true"), want: "variable-required", in: classYAML, on: "name: imageRepository"},
	"KindOfInfra":      {spoil: all(replace(classYAML, "DevClusterTemplate", "DockerClusterTemplate"), replace(infraYAML, "DevClusterTemplate", "DockerClusterTemplate"), replace(infraYAML, "spec:\n      backend:\n        docker: {}", "spec: {}")), want: "class-incompatible", in: classYAML, on: "kind: DockerClusterTemplate"},
	"AddonRemoved":     {spoil: all(remove(metrics), replace(stagesYAML, "    - name: metrics-server\n      action: apply\n", "")), want: "addon-removed", in: stagesYAML},
	"AnotherStack":     {spoil: all(replace("csctl.yaml", "clusterStackName: starter", "clusterStackName: other"), replace("cluster-class/Chart.yaml", "starter", "other")), want: "previous-release", in: "cluster-class/Chart.yaml"},
	"TwoMinorsAtOnce":  {spoil: all(replace("csctl.yaml", "v1.35.4", "v1.37.0"), replace("cluster-class/Chart.yaml", "1-35", "1-37")), want: "previous-release", in: "cluster-class/Chart.yaml"},
}

func TestWhatKeepsClustersFromMovingIsFound(t *testing.T) {
	previous, err := release.Open(built(t, good(t), "v1").fsys(""), name(t, tag))
	if err != nil {
		t.Fatal(err)
	}
	for test, tt := range previousFaults {
		t.Run(test, func(t *testing.T) {
			f := good(t)
			tt.spoil(t, f)
			report, err := lint.Stack(t.Context(), f.fsys("stack"), "stack", lint.Options{Previous: previous})
			if err != nil {
				t.Fatal(err)
			}
			line := lineOf(t, f[tt.in], tt.on)
			if diff := cmp.Diff([]string{tt.want}, ids(report)); diff != "" || report.Findings[0].File != tt.in || line >= 0 && report.Findings[0].Line != line {
				t.Errorf("%s, line %d: %+v", diff, line, report.Findings)
			}
		})
	}
	t.Run("NothingHasChanged", func(t *testing.T) {
		report, err := lint.Stack(t.Context(), good(t).fsys("stack"), "stack", lint.Options{Previous: previous})
		if err != nil || len(report.Findings) > 0 {
			t.Errorf("%v, %+v", err, report.Findings)
		}
	})
}

func TestEveryRuleIsBrokenByATest(t *testing.T) {
	broken := map[string]bool{}
	for _, table := range []map[string]fault{faults, releaseFaults, previousFaults} {
		for _, tt := range table {
			broken[tt.want] = true
		}
	}
	seen := map[string]bool{}
	for _, rule := range lint.Rules() {
		if !broken[rule.ID] {
			t.Errorf("no fault breaks %s", rule.ID)
		}
		if seen[rule.ID] || rule.Finds == "" || rule.Why == "" || rule.Mend == "" || rule.Group == "" {
			t.Errorf("%s stands twice, or lacks a text: %+v", rule.ID, rule)
		}
		seen[rule.ID] = true
	}
	if len(faults)+len(releaseFaults)+len(previousFaults) < 40 {
		t.Error("there are fewer than 40 faults")
	}
}

// What charts and stacks do in practice is no fault.
func TestNothingIsFoundInWhatIsRight(t *testing.T) {
	workload := func(kind, spec string) string {
		return "apiVersion: apps/v1\nkind: " + kind + "\nmetadata: {name: w}\nspec:\n  selector: {matchLabels: {a: w}}\n  template:\n    metadata: {labels: {a: w}}\n    spec:\n" +
			"      containers: [{name: c, image: 'registry.example.com/c:v1'}]\n" + spec
	}
	for name, tt := range map[string]struct {
		why   string
		spoil func(*testing.T, files)
	}{
		"StagesByMergeKeys":   {spoil: replace(stagesYAML, "    - name: metrics-server\n      action: apply", "    - <<: {action: apply}\n      name: metrics-server")},
		"HookOfAValue":        {why: "what it is is not known here", spoil: write(metrics+"templates/h.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: h\n  annotations:\n    helm.sh/hook: {{ .Values.hook | default \"pre-install\" }}\n")},
		"HooksOfWhichOneRuns": {spoil: write(metrics+"templates/h.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: h\n  annotations:\n    \"helm.sh/hook\": pre-install, pre-rollback\n    \"helm.sh/hook-weight\": \"1\"\n")},
		"HookInAComment":      {spoil: add(metrics+"templates/rbac.yaml", "# helm.sh/hook: test is for others\n")},
		"LookupOfNoFunction":  {spoil: add(metrics+"templates/rbac.yaml", "{{/* lookup is not called here */}}\n{{ $lookup := .Values.lookup | default \"lookup\" }}{{ if $lookup }}{{ end }}\n")},
		"TagsInWhatIsIgnored": {why: "it is not part of the release", spoil: all(write(metrics+".helmignore", "README.md\n"), write(metrics+"README.md", "Write << .Anything >> here.\n"))},
		"WindowsLines": {spoil: func(_ *testing.T, f files) {
			for file, text := range f {
				f[file] = strings.ReplaceAll(text, "\n", "\r\n")
			}
		}},
		"DeploymentOnTheHostNetwork": {why: "it may be anywhere", spoil: write(metrics+"templates/w.yaml", workload("Deployment", "      hostNetwork: true\n"))},
		"DaemonForSomeNodes":         {spoil: write(metrics+"templates/w.yaml", workload("DaemonSet", "      hostNetwork: true\n      nodeSelector: {ingress: 'true', kubernetes.io/os: linux}\n"))},
		"SecondClass": {why: "its templates are used by it", spoil: write("cluster-class/templates/second.yaml", `apiVersion: cluster.x-k8s.io/v1beta2
kind: ClusterClass
metadata:
  name: {{ .Release.Name }}-{{ .Chart.Version }}-small
spec:
  infrastructure:
    templateRef: {apiVersion: infrastructure.cluster.x-k8s.io/v1beta2, kind: DevClusterTemplate, name: "{{ .Release.Name }}-{{ .Chart.Version }}-small"}
  controlPlane:
    templateRef: {apiVersion: controlplane.cluster.x-k8s.io/v1beta2, kind: KubeadmControlPlaneTemplate, name: "{{ .Release.Name }}-{{ .Chart.Version }}-control-plane"}
---
apiVersion: infrastructure.cluster.x-k8s.io/v1beta2
kind: DevClusterTemplate
metadata:
  name: {{ .Release.Name }}-{{ .Chart.Version }}-small
spec:
  template:
    spec:
      backend:
        docker: {}
`)},
		"ChartBesideTheAddon": {why: "it is in the stack", spoil: all(
			add(metrics+"Chart.yaml", "dependencies:\n  - {name: common, version: 1.2.3, repository: file://../../common}\n"),
			write("common/Chart.yaml", "apiVersion: v2\nname: common\nversion: 1.2.3\ntype: library\n"), write("common/templates/_x.tpl", "{{ define \"x\" }}{{ end }}"),
		)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := good(t)
			tt.spoil(t, f)
			report, err := lint.Stack(t.Context(), f.fsys("stack"), "stack", lint.Options{})
			if err != nil {
				t.Fatal(err)
			}
			for _, finding := range report.Findings {
				t.Errorf("%s:%d: %s: %s", finding.File, finding.Line, finding.Rule, finding.Message)
			}
		})
	}
}

// Charts of others are looked at where they can be had; where not, all the rest is.
func TestChartsOfOthersAreLookedAt(t *testing.T) {
	f := good(t)
	add(metrics+"Chart.yaml", fmt.Sprintf(dependency, "1.2.3"))(t, f)
	packed := releasetest.Archive(map[string]string{
		"sub/Chart.yaml":       "apiVersion: v2\nname: sub\nversion: 1.2.3\n",
		"sub/templates/c.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, namespace: absent}\n",
	})
	for name, tt := range map[string]struct {
		fetch   build.Fetch
		want    string
		message string
	}{
		"There": {func(context.Context, release.IncompleteChart) ([]release.File, error) {
			return []release.File{{Name: "sub-1.2.3.tgz", Data: packed}}, nil
		}, "namespace-missing", "absent"},
		"OutOfReach": {func(context.Context, release.IncompleteChart) ([]release.File, error) {
			return nil, errors.New("no route to host")
		}, "dependency-missing", "charts/ lacks sub 1.2.3 (https://charts.example.com): no route to host"},
	} {
		t.Run(name, func(t *testing.T) {
			report, err := lint.Stack(t.Context(), f.fsys("stack"), "stack", lint.Options{Fetch: tt.fetch})
			if err != nil || len(report.Findings) != 1 || report.Findings[0].Rule != tt.want || !strings.Contains(report.Findings[0].Message, tt.message) {
				t.Errorf("%v, %+v", err, report.Findings)
			}
		})
	}
}

func TestFindingsAreSilencedWithAReason(t *testing.T) {
	f := good(t)
	all(
		replace(cni+"values.yaml", "kindnetd:v20260528-9350166c", "kindnetd:latest"),
		replace(metrics+"values.yaml", ":v0.8.0", ""),
		add("csctl.yaml", "lint:\n  ignore:\n    - id: image-unpinned\n      file: cluster-addon/cni\n      text: kindnetd\n      reason: the nodes bring it\n"),
	)(t, f)
	report, err := lint.Stack(t.Context(), f.fsys("stack"), "stack", lint.Options{})
	if err != nil || len(report.Findings) != 1 || report.Findings[0].File != metrics+"values.yaml" {
		t.Errorf("%v, %+v", err, report.Findings)
	}
	if len(report.Silenced) != 1 || report.Silenced[0].Reason != "the nodes bring it" {
		t.Errorf("%+v", report.Silenced)
	}
}

func TestSARIFHasRulesResultsAndWhatIsSilenced(t *testing.T) {
	f := good(t)
	all(
		replace(cni+"values.yaml", "kindnetd:v20260528-9350166c", "kindnetd:latest"),
		replace(cniYAML, "serviceAccountName: kindnet", "serviceAccountName: kindnetd"),
		add("csctl.yaml", "lint: {ignore: [{id: image-unpinned, reason: the nodes bring it}]}\n"),
	)(t, f)
	report, err := lint.Stack(t.Context(), f.fsys("stack"), "stack", lint.Options{})
	if err != nil {
		t.Fatal(err)
	}
	data, err := report.SARIF("my stack", "v1")
	if err != nil {
		t.Fatal(err)
	}
	var log struct {
		Version string
		Runs    []struct {
			Tool struct {
				Driver struct{ Rules []struct{ ID string } }
			}
			Results []struct {
				RuleID    string
				RuleIndex int
				Level     string
				Locations []struct {
					PhysicalLocation struct {
						ArtifactLocation struct{ URI string }
						Region           struct{ StartLine int }
					}
				}
				Suppressions []struct{ Justification string }
			}
		}
	}
	if err := json.Unmarshal(data, &log); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, run := range log.Runs {
		for _, r := range run.Results {
			at := r.Locations[0].PhysicalLocation
			got = append(got, fmt.Sprintf("%s %s %s %s:%d %v", run.Tool.Driver.Rules[r.RuleIndex].ID, r.RuleID, r.Level, at.ArtifactLocation.URI, at.Region.StartLine, r.Suppressions))
		}
	}
	want := []string{
		fmt.Sprintf("service-account-missing service-account-missing warning my%%20stack/%s:%d []", cniYAML, lineOf(t, f[cniYAML], "kindnetd")),
		fmt.Sprintf("image-unpinned image-unpinned warning my%%20stack/%svalues.yaml:%d [{the nodes bring it}]", cni, lineOf(t, f[cni+"values.yaml"], "latest")),
	}
	if diff := cmp.Diff(want, got); diff != "" || log.Version != "2.1.0" {
		t.Error(diff)
	}
}
