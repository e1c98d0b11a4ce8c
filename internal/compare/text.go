// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package compare

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// TextOptions say how a comparison is told to people.
type TextOptions struct {
	// Colour uses the colours of a terminal.
	Colour bool
	// All tells of fields in which only a version changes, and cuts nothing.
	All bool
}

// Text tells the comparison to people: what will happen first, then what changes in the cluster class and in each addon.
func (c *Comparison) Text(o TextOptions) string {
	w := &writer{TextOptions: o}
	w.line(0, w.paint(bold, c.From+" -> "+c.To))
	if c.Same {
		w.line(0, "Nothing changes but names and versions of the release.")
		if !o.All {
			return w.String()
		}
	} else {
		w.summary(c)
	}
	w.class(c)
	for _, addon := range c.Addons {
		if addon.Change != Same || o.All {
			w.addon(addon)
		}
	}
	w.stages(c.Stages)
	return w.String()
}

// The colours of changes.
const (
	bold   = "1"
	red    = "31"
	green  = "32"
	yellow = "33"
)

type writer struct {
	TextOptions
	strings.Builder
}

func (w *writer) paint(colour, text string) string {
	if !w.Colour {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

func (w *writer) line(depth int, format string, args ...any) {
	if len(args) > 0 {
		format = fmt.Sprintf(format, args...)
	}
	w.WriteString(strings.TrimRight(strings.Repeat("  ", depth)+format, " ") + "\n")
}

// mark is the sign before a change, in its colour.
func (w *writer) mark(change Change) string {
	switch change {
	case Added:
		return w.paint(green, "+")
	case Removed:
		return w.paint(red, "-")
	default:
	}
	return w.paint(yellow, "~")
}

func (w *writer) title(text string) {
	w.line(0, "")
	w.line(0, w.paint(bold, text))
}

// summary tells what a cluster is in for.
func (w *writer) summary(c *Comparison) {
	w.title("What will happen to a cluster")
	for _, p := range c.Problems {
		w.line(1, "%s %s: %s", w.paint(red, "!"), p.Subject, p.Message)
	}
	for _, v := range c.Variables {
		if v.Consequence != "" {
			w.line(1, "%s variable %s: %s", w.paint(red, "!"), v.Name, v.Consequence)
		}
	}
	for _, m := range c.Machines {
		subject := m.Set
		if m.Set != infrastructure {
			subject = "machines of the " + m.Set
		}
		switch m.Effect {
		case Untouched:
			w.line(1, "  %s: untouched", subject)
			continue
		case Replaced:
			w.line(1, "%s %s: %s", w.paint(red, "!"), subject, w.paint(red, string(m.Effect)))
		default:
			w.line(1, "%s %s: %s", w.paint(yellow, "~"), subject, m.Effect)
		}
		for _, reason := range m.Reasons {
			w.line(4, "%s", reason)
		}
	}
	for _, a := range c.Addons {
		if a.Change == Same {
			w.line(1, "  addon %s: %s", a.Name, a.told())
			continue
		}
		w.line(1, "%s addon %s: %s", w.mark(a.Change), a.Name, a.told())
	}
	for _, s := range c.Stages {
		w.line(1, "%s stages at %s", w.mark(Changed), s.Point)
	}
}

// told says in a few words what happens to an addon.
func (a AddonChange) told() string {
	switch moved := a.moved(); a.Change {
	case Added:
		return "new, " + objects(len(a.Objects)) + moved
	case Removed:
		return "removed with " + objects(len(a.Objects)) + moved
	default:
	}
	count := map[Change]int{}
	versions := 0
	var restarting []string
	for _, o := range a.Objects {
		if o.Restarts {
			restarting = append(restarting, o.String())
		}
		if o.VersionOnly {
			versions++
			continue
		}
		if o.FromAddon == "" && o.ToAddon == "" {
			count[o.Change]++
		}
	}
	var parts []string
	if a.AppVersion != nil {
		parts = append(parts, fmt.Sprintf("%s -> %s", orNone(a.AppVersion.From), orNone(a.AppVersion.To)))
	} else if a.Chart != nil && !a.Follows {
		parts = append(parts, fmt.Sprintf("chart %s -> %s", a.Chart.From, a.Chart.To))
	}
	for _, change := range []Change{Added, Removed, Changed} {
		if n := count[change]; n > 0 {
			parts = append(parts, fmt.Sprintf("%s %s", objects(n), change))
		}
	}
	if versions > 0 {
		parts = append(parts, objects(versions)+" with another version only")
	}
	if moved := a.moved(); moved != "" {
		parts = append(parts, strings.TrimPrefix(moved, ", "))
	}
	if len(restarting) > 0 {
		parts = append(parts, "pods restart: "+strings.Join(restarting, ", "))
	}
	return strings.Join(parts, "; ")
}

// moved says how many objects come from other addons, and go to others.
func (a AddonChange) moved() string {
	came, went := 0, 0
	for _, o := range a.Objects {
		if o.FromAddon != "" {
			came++
		}
		if o.ToAddon != "" {
			went++
		}
	}
	text := ""
	if came > 0 {
		text += fmt.Sprintf(", %d from another addon", came)
	}
	if went > 0 {
		text += fmt.Sprintf(", %d to another addon", went)
	}
	return text
}

func objects(n int) string {
	if n == 1 {
		return "1 object"
	}
	return fmt.Sprintf("%d objects", n)
}

func (w *writer) class(c *Comparison) {
	if c.Kubernetes == nil && c.Patches == nil && c.NodeImages == nil && len(c.Variables)+len(c.Class.Objects) == 0 {
		return
	}
	w.title("Cluster class")
	if k := c.Kubernetes; k != nil {
		w.line(1, "%s Kubernetes %s -> %s", w.mark(Changed), k.From, k.To)
	}
	if p := c.Patches; p != nil {
		w.line(1, "%s other patch versions of Kubernetes %s -> %s", w.mark(Changed), orNone(p.From), orNone(p.To))
	}
	if n := c.NodeImages; n != nil {
		w.line(1, "%s node images %s -> %s", w.mark(Changed), orNone(n.From), orNone(n.To))
	}
	for _, v := range c.Variables {
		required := ""
		if v.Required {
			required = ", required"
		}
		w.line(1, "%s variable %s%s", w.mark(v.Change), v.Name, required)
		if v.Note != "" {
			w.line(3, "%s", v.Note)
		}
		w.fields(v.Fields)
	}
	w.part(c.Class)
}

func (w *writer) addon(a AddonChange) {
	w.title("Addon " + a.Name)
	if v := a.Chart; v != nil && a.Change != Added && (!a.Follows || w.All) {
		w.line(1, "%s chart %s -> %s", w.mark(Changed), v.From, v.To)
	}
	if v := a.AppVersion; v != nil && a.Change != Added {
		w.line(1, "%s application %s -> %s", w.mark(Changed), orNone(v.From), orNone(v.To))
	}
	w.part(a.PartChange)
}

func (w *writer) part(p PartChange) {
	for _, image := range p.Images {
		switch {
		case image.From == "":
			w.line(1, "%s image %s", w.mark(Added), whole(image.Repository, image.To))
		case image.To == "":
			w.line(1, "%s image %s", w.mark(Removed), whole(image.Repository, image.From))
		default:
			w.line(1, "%s image %s %s -> %s", w.mark(Changed), image.Repository, image.From, image.To)
		}
	}
	var versions []Object
	for _, o := range p.Objects {
		if o.VersionOnly && !o.Restarts && !w.All {
			versions = append(versions, o)
			continue
		}
		if o.Kind == "ClusterClass" && !w.All {
			// They have been told with what follows from them.
			o.Fields = slices.DeleteFunc(slices.Clone(o.Fields), func(f Field) bool { return strings.HasPrefix(f.Path, "spec.variables[") })
		}
		w.object(o)
	}
	if len(versions) == 0 {
		return
	}
	verb := "change"
	if len(versions) == 1 {
		verb = "changes"
	}
	w.line(1, "%s %s %s in names and versions only", w.mark(Changed), objects(len(versions)), verb)
}

// whole writes an image as a chart does.
func whole(repository, version string) string {
	if strings.HasPrefix(version, "sha256:") {
		return repository + "@" + version
	}
	return repository + ":" + version
}

func (w *writer) object(o Object) {
	text := o.String()
	if o.Hook {
		text += " (hook)"
	}
	if o.Was != "" {
		text += ", was " + o.Was
	}
	if o.Restarts {
		text += w.paint(yellow, ", pods restart")
	}
	if o.Note != "" {
		text += ", " + o.Note
	}
	if o.FromAddon != "" {
		text += ", comes over from addon " + o.FromAddon
	}
	if o.ToAddon != "" {
		text += ", goes over to addon " + o.ToAddon
	}
	w.line(1, "%s %s", w.mark(o.Change), text)
	w.fields(o.Fields)
}

func (w *writer) fields(fields []Field) {
	left := 0
	for _, f := range fields {
		if f.VersionOnly && !w.All && len(fields) > 1 {
			left++
			continue
		}
		w.field(f)
	}
	if left > 0 && left < len(fields) {
		w.line(4, "and %d with another version only", left)
	}
}

func (w *writer) field(f Field) {
	at := 3
	if f.Hidden {
		w.line(at, "%s %s: (hidden)", w.mark(f.Change), f.Path)
		return
	}
	old, oldText := f.Old.(string)
	next, nextText := f.New.(string)
	switch {
	case f.Change == Added:
		w.line(at, "%s %s: %s", w.mark(Added), f.Path, w.value(f.New))
	case f.Change == Removed:
		w.line(at, "%s %s: %s", w.mark(Removed), f.Path, w.value(f.Old))
	case f.Change == Reordered:
		w.line(at, "%s %s: another order", w.mark(f.Change), f.Path)
	case oldText && nextText && (strings.Contains(old, "\n") || strings.Contains(next, "\n")):
		w.line(at, "%s %s:", w.mark(f.Change), f.Path)
		w.text(old, next)
	default:
		w.line(at, "%s %s: %s -> %s", w.mark(f.Change), f.Path, w.value(f.Old), w.value(f.New))
	}
}

// Longer values are cut, and of longer texts so many lines are shown.
const (
	maxValue = 120
	maxLines = 24
)

func (w *writer) value(value any) string {
	var text strings.Builder
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return fmt.Sprint(value) // what was read from YAML can be written as JSON
	}
	shown := strings.TrimSpace(text.String())
	if runes := []rune(shown); len(runes) > maxValue && !w.All {
		return string(runes[:maxValue]) + "..."
	}
	return shown
}

// text shows the lines in which two texts differ.
func (w *writer) text(old, next string) {
	a, b := strings.Split(old, "\n"), strings.Split(next, "\n")
	var lines []string
	i, j := 0, 0
	for _, pair := range append(common(a, b), [2]int{len(a), len(b)}) {
		for ; i < pair[0]; i++ {
			lines = append(lines, w.paint(red, "- "+a[i]))
		}
		for ; j < pair[1]; j++ {
			lines = append(lines, w.paint(green, "+ "+b[j]))
		}
		i, j = pair[0]+1, pair[1]+1
	}
	for n, line := range lines {
		if n == maxLines && !w.All {
			w.line(5, "... and %d lines more", len(lines)-n)
			return
		}
		w.WriteString(strings.Repeat("  ", 5) + line + "\n")
	}
}

func (w *writer) stages(stages []StageChange) {
	if len(stages) == 0 {
		return
	}
	w.title("Stages")
	for _, s := range stages {
		if slices.Equal(s.From, s.To) {
			w.line(1, "%s %s", w.mark(Changed), s.Point)
		} else {
			w.line(1, "%s %s: %s -> %s", w.mark(Changed), s.Point, listed(s.From), listed(s.To))
		}
		for _, detail := range s.Details {
			w.line(3, "%s", detail)
		}
	}
}

func listed(names []string) string {
	if len(names) == 0 {
		return "nothing"
	}
	return strings.Join(names, ", ")
}
