// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package render_test

import (
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/clusterstacks/cluster-stack-operator/internal/render"
)

// A chart sees its own files, the values and the facts. It does not get at the environment, the files and
// the network of the operator, nor at objects of a cluster.
func TestHostileChartsGetNothing(t *testing.T) {
	const canary = "canary-geheim"
	t.Setenv("OCI_PASSWORD", canary)
	folder := t.TempDir()
	file := filepath.Join(folder, "canary")
	if err := os.WriteFile(file, []byte(canary), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Chdir(folder)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the network was used") }))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server.Listener = listener
	server.Start()
	defer server.Close()

	for name, expression := range map[string]string{
		"Environment":           `env "OCI_PASSWORD"`,
		"ExpandedEnvironment":   `expandenv "$OCI_PASSWORD"`,
		"EnvironmentInTpl":      `tpl "{{ env \"OCI_PASSWORD\" }}" .`,
		"NameServer":            `getHostByName "localhost"`,
		"File":                  `.Files.Get "` + file + `"`,
		"FileAbove":             `.Files.Get "../canary"`,
		"FileFarAbove":          `.Files.Get "../../../../../../../../../../../../etc/hostname"`,
		"FileHere":              `.Files.Get "canary"`,
		"Glob":                  `(.Files.Glob "/**").AsConfig`,
		"GlobAbove":             `(.Files.Glob "../**").AsSecrets`,
		"Lines":                 `.Files.Lines "` + file + `"`,
		"Lookup":                `lookup "v1" "Secret" "kube-system" "canary"`,
		"LookupOfAll":           `lookup "v1" "Namespace" "" ""`,
		"Template":              `include "` + file + `" .`,
		"Process":               `env "PATH"`,
		"MethodOfFacts":         `.Cluster`,
		"MethodOfFiles":         `.Files.New`,
		"EngineOfTheTemplate":   `.Template.Root`,
		"TimeZoneThatIsAFile":   `dateInZone "2006" now "../../../../` + file + `"`,
		"CapabilitiesOfMachine": `.Capabilities.HelmVersion`,
	} {
		for _, where := range []string{"chart", "values"} {
			files := secrets(map[string]string{"a": expression})
			if where == "values" {
				files = secrets(map[string]string{"a": ".Values"})
				files["overwrite.yaml"] = "a: {{ " + expression + " | quote }}\n"
			}
			// An error is as good as an empty answer.
			result, err := render.Addon(addonOf(t, files), "x", facts(), nil)
			var out string
			if err != nil {
				out = err.Error()
			} else {
				for key, value := range valuesIn(result) {
					out += key + "=" + value + "\n"
				}
			}
			if strings.Contains(out, canary) || strings.Contains(out, os.Getenv("PATH")) {
				t.Errorf("%s in the %s gets %q", name, where, out)
			}
		}
	}
}
