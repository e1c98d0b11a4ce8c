// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/clusterstacks/cluster-stack-operator/internal/apply"
	"github.com/clusterstacks/cluster-stack-operator/internal/preview"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/rollout"
	"github.com/clusterstacks/cluster-stack-operator/internal/sample"
)

type renderOptions struct {
	subjectFlags
	class     bool
	addons    bool
	only      []string
	point     string
	namespace string
	output    string
	folder    string
}

func newRenderCommand() *cobra.Command {
	var options renderOptions
	cmd := &cobra.Command{
		Use:   "render <stack>|<release>",
		Short: "Print what the operator would apply for a release",
		Long: `Print what the operator would apply for a release: the cluster class in the management cluster, and the addons in a
workload cluster, each object with its namespace and marks, in the order in which the operator begins with them.

It is the operator's own code that renders. What only a running cluster knows is made up, the same each time, so that
two outputs can be compared: the cluster itself, unless --cluster gives one, and what charts generate, such as keys,
certificates, passwords and times. What is made up is told on standard error.

` + subjectHelp,
		Example: `  csctl render stacks/docker/starter/1-35
  csctl render stacks/docker/starter/1-35 --addon cni --cluster my-cluster.yaml
  csctl render releases/docker-starter-1-35-v1 --point BeforeClusterUpgrade
  csctl render oci://registry.example.org/kaas/cluster-stacks:docker-starter-1-35-v1 --output-dir rendered`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return renderRelease(cmd.Context(), args[0], options, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	options.register(cmd)
	flags := cmd.Flags()
	flags.BoolVar(&options.class, "class", false, "only the cluster class")
	flags.BoolVar(&options.addons, "addons", false, "only the addons")
	flags.StringArrayVar(&options.only, "addon", nil, "only this addon; may be repeated")
	flags.StringVar(&options.point, "point", "", "only what the stages at a lifecycle point apply, in their order, such as BeforeClusterUpgrade")
	flags.StringVarP(&options.namespace, "namespace", "n", "", "namespace of the cluster class in the management cluster; that of the Cluster by default")
	flags.StringVarP(&options.output, "output", "o", "yaml", "yaml or json")
	flags.StringVar(&options.folder, "output-dir", "", "write a file for each object into this new folder instead of printing them")
	mustComplete(cmd, "output", cobra.FixedCompletions([]string{"yaml", "json"}, cobra.ShellCompDirectiveNoFileComp))
	mustComplete(cmd, "output-dir", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return nil, cobra.ShellCompDirectiveFilterDirs
	})
	mustComplete(cmd, "namespace", cobra.NoFileCompletions)
	mustComplete(cmd, "point", cobra.FixedCompletions(pointNames(), cobra.ShellCompDirectiveNoFileComp))
	mustComplete(cmd, "addon", func(cmd *cobra.Command, args []string, _ string) (names []string, _ cobra.ShellCompDirective) {
		if len(args) == 1 {
			_ = options.with(cmd.Context(), args[0], func(rel *release.Release) error { // without it there is nothing to suggest
				names = preview.Order(rel)
				return nil
			})
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	})
	return cmd
}

func pointNames() []string {
	names := make([]string, len(sample.Points))
	for i, point := range sample.Points {
		names[i] = string(point)
	}
	return names
}

func renderRelease(ctx context.Context, subject string, options renderOptions, stdout, stderr io.Writer) error {
	switch {
	case options.output != "yaml" && options.output != "json":
		return fmt.Errorf("--output %s: there are yaml and json", options.output)
	case options.output == "json" && options.folder != "":
		return errors.New("--output-dir writes YAML: leave --output json out")
	case options.class && (options.addons || len(options.only) > 0 || options.point != ""):
		return errors.New("--class shows no addons: leave it out, or --addons, --addon and --point")
	case options.point != "" && !release.Point(options.point).Known():
		return fmt.Errorf("--point %s: there are %s", options.point, strings.Join(pointNames(), ", "))
	}
	cluster, err := options.cluster()
	if err != nil {
		return err
	}
	return options.with(ctx, subject, func(rel *release.Release) error {
		chosen, err := chooseAddons(rel, options)
		if err != nil {
			return err
		}
		p, err := preview.Of(ctx, rel, preview.Options{Cluster: cluster, Namespace: options.namespace, Addons: chosen})
		if err != nil {
			return err
		}
		if err := printNotes(stderr, slices.Concat(rel.Warnings, p.Notes)); err != nil {
			return err
		}
		r := newRendering(p, options)
		var failed []error
		for _, addon := range p.Addons {
			if addon.Err != nil {
				failed = append(failed, addon.Err)
			}
		}
		switch {
		case options.folder != "":
			err = r.write(options.folder)
		case options.output == "json":
			err = printJSON(stdout, r)
		default:
			_, err = io.WriteString(stdout, r.yaml())
		}
		return errors.Join(append(failed, err)...)
	})
}

// chooseAddons returns the addons that are to be rendered, nil for all.
func chooseAddons(rel *release.Release, options renderOptions) ([]string, error) {
	all := preview.Order(rel)
	for _, name := range options.only {
		if !slices.Contains(all, name) {
			return nil, fmt.Errorf("--addon %s: release %s has the addons %s", name, rel.Name, strings.Join(all, ", "))
		}
	}
	switch {
	case options.class:
		return []string{}, nil
	case len(options.only) > 0:
		return options.only, nil
	case options.point != "":
		chosen := []string{}
		for _, stage := range rollout.Stages(rel, release.Point(options.point)) {
			if stage.Action == release.Apply {
				chosen = append(chosen, stage.Name)
			}
		}
		return chosen, nil
	}
	return nil, nil
}

func printNotes(to io.Writer, notes []string) error {
	for _, note := range notes {
		if _, err := fmt.Fprintf(to, "Note: %s\n", note); err != nil {
			return err
		}
	}
	return nil
}

// rendering is what is printed: in JSON as it is.
type rendering struct {
	Release    string        `json:"release"`
	Kubernetes string        `json:"kubernetes"`
	Class      *renderedPart `json:"clusterClass,omitempty"`
	// Addons are in the order in which the stages apply them.
	Addons []renderedAddon `json:"addons,omitempty"`
	Notes  []string        `json:"notes,omitempty"`
}

type renderedPart struct {
	Chart   preview.Chart                `json:"chart"`
	Objects []*unstructured.Unstructured `json:"objects,omitempty"`
	Hooks   []apply.Hook                 `json:"hooks,omitempty"`
}

type renderedAddon struct {
	Name string `json:"name"`
	// Points are the lifecycle points at which it is applied.
	Points []string `json:"points,omitempty"`
	// Action is delete where the stage at the point that was asked for deletes it.
	Action release.Action `json:"action"`
	// SwitchedOff says that the settings of the cluster do that.
	SwitchedOff bool   `json:"switchedOff,omitempty"`
	Error       string `json:"error,omitempty"`
	renderedPart
}

func newRendering(p *preview.Preview, options renderOptions) rendering {
	r := rendering{Release: p.Release.Name.String(), Kubernetes: p.Release.Metadata.Kubernetes, Notes: p.Notes}
	part := func(p preview.Part) renderedPart { return renderedPart{p.Chart, p.Objects, p.Hooks} }
	if !options.addons && len(options.only) == 0 && options.point == "" {
		class := part(p.Class)
		r.Class = &class
	}
	if options.class {
		return r
	}
	for _, addon := range p.Addons {
		a := renderedAddon{Name: addon.Name, Action: release.Apply, SwitchedOff: addon.Off, renderedPart: part(addon.Part), Points: appliedAt(p.Release, addon.Name)}
		if addon.Err != nil {
			a.Error = addon.Err.Error()
		}
		r.Addons = append(r.Addons, a)
	}
	if options.point == "" {
		return r
	}
	// In the order of the stages of this point, with what it deletes.
	var staged []renderedAddon
	for _, stage := range rollout.Stages(p.Release, release.Point(options.point)) {
		if len(options.only) > 0 && !slices.Contains(options.only, stage.Name) {
			continue
		}
		i := slices.IndexFunc(r.Addons, func(a renderedAddon) bool { return a.Name == stage.Name })
		if stage.Action == release.Delete || i < 0 {
			staged = append(staged, renderedAddon{Name: stage.Name, Action: stage.Action})
			continue
		}
		staged = append(staged, r.Addons[i])
	}
	r.Addons = staged
	return r
}

// appliedAt returns the lifecycle points whose stages apply an addon.
func appliedAt(rel *release.Release, addon string) []string {
	var at []string
	for _, point := range sample.Points {
		if slices.ContainsFunc(rollout.Stages(rel, point), func(s release.Stage) bool { return s.Name == addon && s.Action == release.Apply }) {
			at = append(at, string(point))
		}
	}
	return at
}

// document is an object with what is said about it.
type document struct {
	about  string
	folder string
	object *unstructured.Unstructured
}

// documents are all objects, in their order, and what there is to say where there is no object.
func (r rendering) documents() []document {
	var all []document
	add := func(part renderedPart, source, folder string) {
		if part.Chart.Name != "" {
			source += fmt.Sprintf(", chart %s %s", part.Chart.Name, part.Chart.Version)
		}
		hooks := func(after bool) {
			for _, hook := range part.Hooks {
				if comesAfter(hook) == after {
					all = append(all, document{fmt.Sprintf("%s, hook %s (weight %d)", source, strings.Join(hook.Events, ", "), hook.Weight), filepath.Join(folder, "hooks"), hook.Object})
				}
			}
		}
		hooks(false)
		for _, object := range part.Objects {
			all = append(all, document{source, folder, object})
		}
		hooks(true)
	}
	if r.Class != nil {
		add(*r.Class, "cluster class", "cluster-class")
	}
	for _, addon := range r.Addons {
		source := "addon " + addon.Name
		switch {
		case addon.Error != "":
			all = append(all, document{about: source + " cannot be rendered"})
		case addon.SwitchedOff:
			all = append(all, document{about: source + " is switched off in this cluster"})
		case addon.Action == release.Delete:
			all = append(all, document{about: source + " is deleted"})
		default:
			add(addon.renderedPart, source, filepath.Join("cluster-addon", addon.Name))
		}
	}
	return all
}

// comesAfter reports whether a hook runs after the objects only.
func comesAfter(hook apply.Hook) bool {
	return !slices.ContainsFunc(hook.Events, func(event string) bool { return strings.HasPrefix(event, "pre-") })
}

func (r rendering) yaml() string {
	var text strings.Builder
	fmt.Fprintf(&text, "# Release %s, Kubernetes %s\n", r.Release, r.Kubernetes)
	for _, addon := range r.Addons {
		if len(addon.Points) > 0 {
			fmt.Fprintf(&text, "# Addon %s is applied at %s\n", addon.Name, strings.Join(addon.Points, ", "))
		}
	}
	for _, d := range r.documents() {
		fmt.Fprintf(&text, "---\n# Source: %s\n", d.about)
		if d.object != nil {
			text.WriteString(objectYAML(d.object))
		}
	}
	return text.String()
}

// objectYAML prints an object. What was read from YAML or JSON can be printed.
func objectYAML(object *unstructured.Unstructured) string {
	text, err := yaml.Marshal(object.Object)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// write writes the objects into a folder that is not there yet, or empty: two renderings in one could not be told apart.
func (r rendering) write(folder string) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	if entries, err := os.ReadDir(folder); err != nil {
		return err
	} else if len(entries) > 0 {
		return fmt.Errorf("--output-dir %s: the folder is not empty; remove it, or name another one", folder)
	}
	seen := map[string]bool{}
	for _, d := range r.documents() {
		if d.object == nil {
			continue
		}
		to := filepath.Join(folder, d.folder)
		if err := os.MkdirAll(to, 0o755); err != nil {
			return err
		}
		text := fmt.Sprintf("# Source: %s\n%s", d.about, objectYAML(d.object))
		file := filepath.Join(to, fileOf(d.object))
		for seen[file] { // two hooks of one name, or two names that differ in a colon only
			file = strings.TrimSuffix(file, ".yaml") + "_.yaml"
		}
		seen[file] = true
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// fileOf names the file of an object after its ID.
func fileOf(object *unstructured.Unstructured) string {
	gvk := object.GroupVersionKind()
	parts := []string{strings.ToLower(strings.Trim(gvk.Kind+"."+gvk.Group, "."))}
	if ns := object.GetNamespace(); ns != "" {
		parts = append(parts, ns)
	}
	name := strings.Map(func(r rune) rune {
		if r == '/' || r == ':' || r == '\\' {
			return '-'
		}
		return r
	}, object.GetName())
	return strings.Join(append(parts, name), "_") + ".yaml"
}
