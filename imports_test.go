// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package repository_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/clusterstacks/cluster-stack-operator"

// layer is where a package stands. A package imports only layers below its own; which exceptions
// there are is said in allowed.
type layer string

const (
	domain   layer = "domain"   // values in, values out
	edge     layer = "edge"     // talks to one thing outside
	driver   layer = "driver"   // asks for work, and when
	workshop layer = "workshop" // what tests and developers stand on
	command  layer = "command"  // mains
	types    layer = "api"      // the kinds, a module of its own
)

// layers maps the packages below the module to their layer, by the longest prefix.
var layers = map[string]layer{
	"api":                               types,
	"cmd":                               command,
	"config":                            types, // the generated form of the kinds
	"hack":                              command,
	"internal/admission":                driver,
	"internal/apitest":                  workshop,
	"internal/apply":                    edge,
	"internal/build":                    domain,
	"internal/chartlock":                domain,
	"internal/chartrepo":                edge,
	"internal/chartrepo/chartrepotest":  workshop,
	"internal/cli":                      driver,
	"internal/compare":                  domain,
	"internal/controller":               driver,
	"internal/fair":                     edge, // it makes others wait
	"internal/foreignyaml":              domain,
	"internal/glance":                   edge,
	"internal/hookserver":               driver,
	"internal/ledger":                   edge,
	"internal/lint":                     workshop,
	"internal/observe":                  edge,
	"internal/operator":                 driver,
	"internal/panicked":                 domain,
	"internal/preview":                  driver,
	"internal/release":                  domain,
	"internal/render":                   domain,
	"internal/renderworker":             edge,
	"internal/rollout":                  domain,
	"internal/sample":                   domain,
	"internal/sandbox":                  workshop,
	"internal/scaffold":                 domain,
	"internal/servingcert":              driver,
	"internal/sign":                     edge,
	"internal/sign/signtest":            workshop,
	"internal/source":                   edge,
	"internal/source/github/githubtest": workshop,
	"internal/source/oci/registrytest":  workshop,
	"internal/source/sourcetest":        workshop,
	"internal/step":                     driver,
	"internal/store":                    edge,
	"internal/story":                    workshop,
	"internal/trial":                    workshop,
	"internal/verify":                   domain,
	"internal/web":                      edge,
	"internal/workload":                 driver,
	"stacks":                            workshop,
	"test":                              workshop,
}

// common are edges that other edges stand on.
var common = []string{"internal/fair", "internal/web"}

// families are edges of more than one package: the members may import the root of their family.
var families = []string{"internal/source"}

// allowed says whether a package may import another one of ours. Test files are not asked: a test may
// stand on the workshop.
func allowed(from, to string) bool {
	if from == to {
		return true
	}
	switch lf, lt := layerOf(from), layerOf(to); lf {
	case types:
		return lt == types
	case domain:
		return lt == domain
	case edge:
		sameFamily := slices.ContainsFunc(families, func(f string) bool {
			return to == f && strings.HasPrefix(from, f+"/")
		})
		return lt == domain || sameFamily || slices.Contains(common, to)
	case driver:
		// Which implementation is in use, only operator and cli know; the CLI brings up sandboxes.
		if lt == workshop {
			return strings.HasPrefix(from, "internal/cli")
		}
		if lt == edge && strings.HasPrefix(to, "internal/source/") {
			return strings.HasPrefix(from, "internal/operator") || strings.HasPrefix(from, "internal/cli")
		}
		return lt == domain || lt == edge || lt == driver || lt == types
	case workshop:
		return lt != command
	case command:
		return true
	}
	return false
}

func TestImportsPointFromDriversToEdgesToDomain(t *testing.T) {
	packages := list(t, "./...")
	if len(packages) == 0 {
		t.Fatal("go list found no packages")
	}
	for _, p := range packages {
		from := strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
		if from == "" {
			continue
		}
		if layerOf(from) == "" {
			t.Errorf("%s stands in no layer: give it one in imports_test.go", from)
			continue
		}
		for _, imported := range p.Imports {
			to, ok := strings.CutPrefix(imported, module+"/")
			if !ok {
				continue
			}
			if !allowed(from, to) {
				t.Errorf("%s (%s) imports %s (%s): imports point from drivers to edges to domain", from, layerOf(from), to, layerOf(to))
			}
		}
	}
}

func TestDomainKnowsNoClientAndNoClock(t *testing.T) {
	foreign := []string{"k8s.io/client-go", "sigs.k8s.io/controller-runtime", "net/http", "os/exec"}
	for _, p := range list(t, "./...") {
		from := strings.TrimPrefix(p.ImportPath, module+"/")
		if layerOf(from) != domain {
			continue
		}
		for _, imported := range p.Imports {
			if slices.ContainsFunc(foreign, func(f string) bool { return imported == f || strings.HasPrefix(imported, f+"/") }) {
				t.Errorf("%s imports %s; the domain is values in, values out", from, imported)
			}
		}
	}
}

func TestReleaseNeedsOnlyTheStandardLibraryAndYAML(t *testing.T) {
	for _, p := range list(t, "./internal/release") {
		for _, imported := range p.Imports {
			first, _, _ := strings.Cut(imported, "/")
			if strings.Contains(first, ".") && imported != module+"/internal/foreignyaml" {
				t.Errorf("internal/release imports %s", imported)
			}
		}
	}
}

func TestTheTableOfLayersRefusesWhatTheStyleForbids(t *testing.T) {
	for name, edge := range map[string][2]string{
		"DomainImportsEdge":        {"internal/rollout", "internal/apply"},
		"EdgeImportsEdge":          {"internal/store", "internal/source"},
		"EdgeImportsKinds":         {"internal/apply", "api/v1alpha1"},
		"DriverImportsSandbox":     {"internal/controller/clusteraddon", "internal/sandbox"},
		"ControllerChoosesASource": {"internal/controller/clusterstack", "internal/source/dir"},
		"KindsImportInternals":     {"api/v1alpha1", "internal/release"},
	} {
		t.Run(name, func(t *testing.T) {
			if allowed(edge[0], edge[1]) {
				t.Errorf("%s may import %s", edge[0], edge[1])
			}
		})
	}
}

func layerOf(path string) layer {
	for p := path; p != ""; {
		if l, ok := layers[p]; ok {
			return l
		}
		cut := strings.LastIndex(p, "/")
		if cut < 0 {
			break
		}
		p = p[:cut]
	}
	return ""
}

type listed struct {
	ImportPath string
	Imports    []string
}

func list(t *testing.T, pattern string) []listed {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports", pattern)
	out, err := cmd.Output()
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		t.Fatalf("go list %s: %s", pattern, failed.Stderr)
	}
	if err != nil {
		t.Fatal(err)
	}
	var all []listed
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}
