// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package renderworker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/clusterstacks/cluster-stack-operator/internal/fair"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/render"
)

// input is an addon with these templates, each a file in the folder templates.
func input(name string, templates ...string) render.Input {
	in := render.Input{
		Subject:     "addon " + name,
		Chart:       release.Chart{{Name: "Chart.yaml", Data: []byte("apiVersion: v2\nname: " + name + "\nversion: v1\n")}},
		Folder:      true,
		IncludeCRDs: true,
		ReleaseName: render.AddonReleaseName,
		Namespace:   render.AddonNamespace,
		Kubernetes:  "v1.35.4",
		Facts:       render.Facts{Cluster: map[string]any{"metadata": map[string]any{"name": "c", "generation": int64(12345678)}}},
		Addon:       name,
	}
	for i, text := range templates {
		in.Chart = append(in.Chart, release.File{Name: fmt.Sprintf("templates/%d.yaml", i), Data: []byte(text)})
	}
	return in
}

func configMap(value string) string {
	return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata:\n  x: " + value + "\n"
}

const (
	loop    = `{{ range until 1000000 }}{{ range until 1000000 }}{{ end }}{{ end }}`
	podHook = "apiVersion: v1\nkind: Pod\nmetadata: {name: h, annotations: {helm.sh/hook: pre-install, helm.sh/hook-weight: \"3\"}}\n"
)

func newPool(t *testing.T, o Options) *Pool {
	t.Helper()
	p := New(o)
	t.Cleanup(p.Close)
	return p
}

func mustRender(t *testing.T, p *Pool, in render.Input) *render.Result {
	t.Helper()
	result, err := p.Render(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

// A worker gives what the function gives, errors too.
func TestAWorkerRendersAsTheFunctionDoes(t *testing.T) {
	p := newPool(t, Options{Workers: 2})
	generated := input("generated", configMap(`{{ randAlphaNum 20 }}`), configMap(`{{ (genCA "x" 10).Cert | quote }}`), podHook)
	generated.Recorded = mustRender(t, p, generated).Record
	if len(generated.Recorded) != 2 {
		t.Fatalf("recorded: %v", generated.Recorded)
	}
	values := input("values", configMap("{{ .Values.a }}{{ .Values.n }}{{ .Values.f }}{{ kindOf .Values.none }}"), "- {a: 1.5, b: [1, null, true, {}, []], c: 9007199254740993}")
	values.Chart[2].Data = []byte("apiVersion: x/v1\nkind: Y\nmetadata: {name: y}\nspec: {a: 1.5, b: [1, null, true, {}, []], c: 9007199254740993, d: -1, e: 1e30}\n")
	values.ValuesTemplate, values.ValuesFile = []byte("a: {{ .Cluster.metadata.generation }}\nnone: {{ .ControlPlane }}\n"), "overwrite.yaml"
	values.Facts.Values = map[string]map[string]any{"values": {"n": int64(7), "f": 0.5}}
	empty := input("empty")
	empty.ValuesTemplate = []byte{}
	neighbour := input("neighbour", configMap(`{{ .Capabilities.APIVersions.Has "example.com/v1/Widget" | quote }}`))
	neighbour.Neighbours = []release.Chart{append(slices.Clip(empty.Chart), release.File{Name: "crds/a.yaml", Data: []byte(
		"apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: x}\nspec: {group: example.com, names: {kind: Widget}, versions: [{name: v1, served: true}]}\n")})}

	for _, in := range []render.Input{generated, values, empty, neighbour, input("missing", "{{ .Values.a.b.c }}"), input("syntax", "{{"), input("object", "a: b"), {Subject: "nothing"}} {
		want, wantErr := in.Render()
		for range 2 { // the second one is remembered
			got, err := p.Render(t.Context(), in)
			if diff := cmp.Diff(wantErr, err); diff != "" {
				t.Errorf("%s: error (-want +got):\n%s", in.Subject, diff)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", in.Subject, diff)
			}
		}
	}
	if n := len(p.workers()); n != 1 {
		t.Errorf("%d workers, want 1", n)
	}
}

// No two clusters share what is generated.
func TestWhatAWorkerGeneratesIsNotRemembered(t *testing.T) {
	p := newPool(t, Options{})
	in := input("x", configMap("{{ randAlphaNum 30 }}"))
	if one, two := mustRender(t, p, in), mustRender(t, p, in); cmp.Equal(one.Record, two.Record) {
		t.Error("two clusters share a generated value")
	}
}

// A namespace with many charts that take long, none of which is known to, holds up itself. Others have a worker at once, one
// after the other.
func TestOneNamespaceDoesNotHoldUpOthers(t *testing.T) {
	p := newPool(t, Options{Workers: 2})
	ctx, cancel := context.WithCancel(t.Context())
	var bombs sync.WaitGroup
	defer bombs.Wait()
	defer cancel()
	var over atomic.Int64
	for i := range 20 {
		bombs.Go(func() {
			_, _ = p.Render(fair.With(ctx, "greedy"), input(fmt.Sprintf("bomb-%d", i), loop, configMap(fmt.Sprint(i))))
			over.Add(1)
		})
	}
	for waiting, running := p.Load(); waiting+running < 20; waiting, running = p.Load() {
		<-time.After(time.Millisecond)
	}
	for i := range 10 {
		if _, err := p.Render(fair.With(t.Context(), fmt.Sprintf("other-%d", i)), input("good", configMap(fmt.Sprint(i)))); err != nil {
			t.Fatal(err)
		}
	}
	if n := over.Load(); n > 0 {
		t.Errorf("%d charts of another namespace had to end first", n)
	}
	if n := len(p.workers()); n > 3 {
		t.Errorf("%d workers", n)
	}
}

// Whoever waits for a render knows whether it is at work, and may give up one that is not.
func TestTellsThatARenderHasAWorker(t *testing.T) {
	p := newPool(t, Options{Workers: 2})
	ctx, cancel := context.WithCancel(t.Context())
	var bombs sync.WaitGroup
	defer bombs.Wait()
	defer cancel()
	begun := make(chan struct{}, 3)
	ctx = fair.OnTurn(ctx, func() { begun <- struct{}{} })
	for i := range 3 {
		bombs.Go(func() { _, _ = p.Render(ctx, input(fmt.Sprintf("bomb-%d", i), loop, configMap(fmt.Sprint(i)))) })
	}
	<-begun
	<-begun
	for waiting, _ := p.Load(); waiting < 1; waiting, _ = p.Load() {
		<-time.After(time.Millisecond)
	}
	if n := len(begun); n > 0 {
		t.Error("one that waits for a worker is said to have one")
	}
}

func TestOneBombDoesNotHoldUpOthers(t *testing.T) {
	p := newPool(t, Options{Workers: 2, CPU: time.Second})
	bomb := input("bomb", loop)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()

	// One bomb after another, for many clusters at a time.
	var bombs sync.WaitGroup
	failed := make(chan error, 100)
	for range 4 {
		bombs.Go(func() {
			for ctx.Err() == nil {
				_, err := p.Render(ctx, bomb)
				failed <- err
			}
		})
	}
	var invalid *render.InvalidError
	if err := <-failed; !errors.As(err, &invalid) || err.Error() != "addon bomb: takes more than 1s of processor time" {
		t.Errorf("error: %v", err)
	}
	for i := range 20 {
		mustRender(t, p, input("good", configMap(fmt.Sprint(i))))
	}
	cancel()
	bombs.Wait()
}

func TestWorkersAreReplaced(t *testing.T) {
	p := newPool(t, Options{Workers: 2, Renders: 3, Idle: time.Millisecond})
	seen := map[int]bool{}
	for i := range 7 {
		mustRender(t, p, input("x", configMap(fmt.Sprint(i))))
		for _, id := range p.workers() {
			seen[id] = true
		}
	}
	// At rest there is none.
	for deadline := time.Now().Add(time.Minute); len(p.workers()) > 0; {
		if time.Now().After(deadline) {
			t.Fatalf("workers %v are idle and stay", p.workers())
		}
		<-time.After(10 * time.Millisecond)
	}
	if len(seen) == 0 {
		t.Error("no workers seen")
	}
}

// Somebody else may end a worker: the render is done by another one.
func TestAWorkerThatDiesIsReplaced(t *testing.T) {
	p := newPool(t, Options{Workers: 2})
	for i := range 3 {
		mustRender(t, p, input("x", configMap(fmt.Sprint(i))))
		for _, id := range p.workers() {
			if err := syscall.Kill(id, syscall.SIGKILL); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestARenderEndsWithItsCaller(t *testing.T) {
	p := newPool(t, Options{Workers: 2})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := p.Render(ctx, input("bomb", loop)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error: %v", err)
	}
	mustRender(t, p, input("good", configMap("x")))
}

func TestCloseEndsRenders(t *testing.T) {
	p := New(Options{Workers: 2})
	failed := make(chan error)
	go func() {
		_, err := p.Render(context.Background(), input("bomb", loop))
		failed <- err
	}()
	for len(p.workers()) == 0 {
		<-time.After(time.Millisecond)
	}
	p.Close()
	p.Close()
	if err := <-failed; !errors.Is(err, ErrClosed) {
		t.Errorf("error: %v", err)
	}
	if _, err := p.Render(t.Context(), input("x")); !errors.Is(err, ErrClosed) {
		t.Errorf("error: %v", err)
	}
}

// A worker is confined as TestMain confines a process for this test, and cannot do what is tried there.
func TestAConfinedProcessReachesNothing(t *testing.T) {
	canary := filepath.Join(t.TempDir(), "canary")
	if err := os.WriteFile(canary, []byte("geheim"), 0o600); err != nil {
		t.Fatal(err)
	}
	probe := exec.CommandContext(t.Context(), "/proc/self/exe", canary)
	probe.Args[0] = probeName
	probe.Env = []string{}
	var out bytes.Buffer
	probe.Stdout, probe.Stderr = &out, &out
	if err := probe.Run(); err != nil {
		t.Errorf("%v\n%s", err, out.String())
	}
	if !strings.Contains(out.String(), "all refused") {
		t.Errorf("output: %s", out.String())
	}
}

// The environment of the operator has credentials; that of a worker has nothing.
func TestAWorkerKnowsNoEnvironment(t *testing.T) {
	t.Setenv("CANARY", "geheim")
	p := newPool(t, Options{})
	mustRender(t, p, input("x", configMap("x")))
	for _, id := range p.workers() {
		environment, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", id))
		if len(environment) > 0 {
			t.Errorf("environment %q, error %v", environment, err)
		}
	}
}

func BenchmarkWorker(b *testing.B) {
	p := New(Options{})
	defer p.Close()
	// About as large as a CNI.
	in := input("x")
	for i := range 30 {
		in.Chart = append(in.Chart, release.File{Name: fmt.Sprintf("templates/x%d.yaml", i), Data: []byte(strings.Replace(configMap(strings.Repeat("x", 3000)), "name: x", "name: {{ .Values.n }}", 1))})
	}
	for _, c := range []struct {
		name   string
		render func(render.Input) (*render.Result, error)
	}{
		{"Worker", func(in render.Input) (*render.Result, error) { return p.Render(context.Background(), in) }},
		{"Function", render.NewCache(0).Render},
	} {
		b.Run(c.name, func(b *testing.B) {
			n := 0
			for b.Loop() {
				n++
				in.Facts.Values = map[string]map[string]any{"x": {"n": fmt.Sprint("n", n)}}
				if _, err := c.render(in); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
