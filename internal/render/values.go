// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"text/template/parse"

	"helm.sh/helm/v4/pkg/chart/v2/loader"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// maxValues bounds the text that a values template makes, in bytes.
const maxValues = 1 << 20

// Values returns the values that a values template makes for a cluster. The text that comes out is the
// values; where its top level has a string under the key "values", that string is. An empty text
// means no values.
//
// Text from the objects of the cluster fills in values; it does not add, remove or move any. A template
// that would let it do so for the objects at hand is refused.
func Values(text []byte, facts Facts) (map[string]any, error) {
	return makeValues("values template", text, facts, newRecorder("", nil, nil))
}

func makeValues(name string, text []byte, facts Facts, r *recorder) (map[string]any, error) {
	// No key of the record is that of a template in the chart.
	r.file = name
	written, err := execute(name, text, facts.data(), r, nil)
	if err != nil {
		return nil, err
	}
	values, err := parseValues(written)
	if err != nil {
		return nil, invalid(name, "its output is not a map in YAML: %s", explainYAML(err))
	}

	// Would the values have the same shape if the text in them were harmless? It can be made so where
	// it is printed, or where it is read; the latter leaves alone what the template itself makes of it
	// (lists, JSON). Both follow the decisions that the template takes on the real text. Either proves
	// that the shape does not come out of the text.
	shape := shapeOf(values)
	replayed := func() *recorder {
		again := newRecorder(r.addon, r.used, nil)
		again.file = name
		return again
	}
	d := &decisions{}
	printed, err := neutralShape(name, text, facts.data(), replayed(), &harness{print: neutralText, decide: d.record})
	if err == nil && slices.Equal(shape, printed) {
		return values, nil
	}
	data, _ := neutralData(facts.data()).(map[string]any)
	read, err := neutralShape(name, text, data, replayed(), &harness{decide: d.repeat})
	if err == nil && slices.Equal(shape, read) {
		return values, nil
	}
	return nil, invalid(name, "text in a field of the Cluster, its control plane or its infrastructure changes the shape of the values below %s: print it with the function quote or toJson", firstDifference(shape, printed))
}

func neutralShape(name string, text []byte, data map[string]any, r *recorder, h *harness) ([]string, error) {
	written, err := execute(name, text, data, r, h)
	if err != nil {
		return nil, err
	}
	values, err := parseValues(written)
	if err != nil {
		return nil, err
	}
	return shapeOf(values), nil
}

// harness is what a template is run in to find out where the shape of its output comes from.
type harness struct {
	// print returns what to print in place of a value, if it is not nil.
	print func(value any) any
	// decide returns what a condition of the template, at a position in its text, is to be.
	decide func(at int, value any) (any, error)
}

// decisions are the outcomes of the conditions of a template, in the order in which it came to them.
type decisions struct {
	taken []decision
	next  int
}

type decision struct {
	at   int
	true bool
}

func (d *decisions) record(at int, value any) (any, error) {
	truth, _ := template.IsTrue(value)
	d.taken = append(d.taken, decision{at, truth})
	return value, nil
}

// repeat returns a value that has the outcome that was recorded: the given one where it has it.
func (d *decisions) repeat(at int, value any) (any, error) {
	if d.next == len(d.taken) || d.taken[d.next].at != at {
		return nil, errors.New("the template takes another way")
	}
	want := d.taken[d.next].true
	d.next++
	if truth, _ := template.IsTrue(value); truth == want {
		return value, nil
	}
	return want, nil
}

// execute runs a values template, in a harness if one is given.
func execute(name string, text []byte, data map[string]any, r *recorder, h *harness) (string, error) {
	functions := valuesFunctions(r)
	if h != nil {
		functions[printFunction], functions[decideFunction] = h.print, h.decide
	}
	source := source{name: string(text)}
	t, err := template.New(name).Funcs(functions).Parse(string(text))
	if err != nil {
		return "", explainTemplate(err, source)
	}
	if h != nil {
		for _, defined := range t.Templates() {
			h.putOn(defined.Root)
		}
	}
	out := &limitedBuilder{limit: maxValues}
	if err := t.Execute(out, copyOf(data)); err != nil {
		if errors.Is(err, errTooLong) {
			return "", invalid(name, "its output is longer than %d KiB", maxValues>>10)
		}
		return "", explainTemplate(err, source)
	}
	return out.String(), nil
}

var errTooLong = errors.New("too long")

type limitedBuilder struct {
	strings.Builder
	limit int
}

func (b *limitedBuilder) Write(p []byte) (int, error) {
	if b.Len()+len(p) > b.limit {
		return 0, errTooLong
	}
	return b.Builder.Write(p)
}

// parseValues reads the text as Helm reads a values file.
func parseValues(text string) (map[string]any, error) {
	values, err := readValues(text)
	if err != nil {
		return nil, err
	}
	if inner, ok := values["values"].(string); ok {
		return readValues(inner)
	}
	return values, nil
}

// readValues reads a values file. As in Helm, it can have several documents, of which the later win. A key
// that stands twice in one map is an error: Helm would take the last one without a word.
func readValues(text string) (map[string]any, error) {
	values := map[string]any{}
	documents := utilyaml.NewYAMLReader(bufio.NewReader(strings.NewReader(text)))
	for n := 0; ; n++ {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return values, checkTree(values)
		}
		if err != nil {
			return nil, err
		}
		if n == maxDocuments {
			return nil, fmt.Errorf("there are more than %d documents", maxDocuments)
		}
		data, err := yaml.YAMLToJSONStrict(document)
		if err != nil {
			return nil, err
		}
		var read map[string]any
		if err := yaml.Unmarshal(data, &read); err != nil {
			return nil, err
		}
		values = loader.MergeMaps(values, read)
	}
}

const (
	maxDocuments = 100     // in one text of values
	maxNodes     = 100_000 // maps, lists and scalars in one text of values, or in one object
	maxDepth     = 200     // of maps and lists in one another
)

// checkTree reports values that are larger or deeper than anybody could mean them to be. What works on them
// later calls itself for each level.
func checkTree(value any) error {
	nodes := 0
	var walk func(value any, depth int) error
	walk = func(value any, depth int) error {
		if nodes++; nodes > maxNodes {
			return fmt.Errorf("there are more than %d keys and values", maxNodes)
		}
		if depth > maxDepth {
			return fmt.Errorf("maps and lists stand in one another more than %d deep", maxDepth)
		}
		switch value := value.(type) {
		case map[string]any:
			for _, v := range value {
				if err := walk(v, depth+1); err != nil {
					return err
				}
			}
		case []any:
			for _, v := range value {
				if err := walk(v, depth+1); err != nil {
					return err
				}
			}
		}
		return nil
	}
	return walk(value, 0)
}

// neutral stands for text that could mean something in YAML.
const neutral = "neutral"

// Plain text is one scalar wherever it is put. The empty string is nothing wherever it is put.
var plain = regexp.MustCompile(`^([A-Za-z0-9][A-Za-z0-9._/-]*)?$`)

// neutralText returns what to print in place of a value.
func neutralText(value any) any {
	if value == nil || plain.MatchString(fmt.Sprint(value)) {
		return value
	}
	switch value.(type) {
	case bool, int, int32, int64, float32, float64:
		return value
	}
	return neutral
}

// copyOf copies maps and lists all the way down. Templates can change what they are given.
func copyOf(data any) any {
	switch data := data.(type) {
	case map[string]any:
		copied := make(map[string]any, len(data))
		for key, value := range data {
			copied[key] = copyOf(value)
		}
		return copied
	case []any:
		copied := make([]any, len(data))
		for i := range data {
			copied[i] = copyOf(data[i])
		}
		return copied
	default:
		return data
	}
}

// neutralData returns a copy of data with other strings. Numbers and booleans stay, so that a template
// can count with them. So do keys, by which templates look up, unless they could mean something in YAML.
func neutralData(data any) any {
	switch data := data.(type) {
	case string:
		return neutral
	case map[string]any:
		neutralised := make(map[string]any, len(data))
		for i, key := range slices.Sorted(maps.Keys(data)) {
			value := neutralData(data[key])
			if !plain.MatchString(key) {
				key = neutral + strconv.Itoa(i)
			}
			neutralised[key] = value
		}
		return neutralised
	case []any:
		neutralised := make([]any, len(data))
		for i := range data {
			neutralised[i] = neutralData(data[i])
		}
		return neutralised
	default:
		return data
	}
}

// These functions are put at the end of what a template prints and of its conditions. No author can
// call them by these names.
const (
	printFunction  = "cluster_stack_print"
	decideFunction = "cluster_stack_decide"
)

// putOn rewrites a template so that all that it prints and all that it decides by goes through the
// harness, but for what stands in the template itself.
func (h *harness) putOn(node parse.Node) {
	switch node := node.(type) {
	case *parse.ListNode:
		if node != nil {
			for _, n := range node.Nodes {
				h.putOn(n)
			}
		}
	case *parse.ActionNode:
		if h.print != nil && len(node.Pipe.Decl) == 0 && dependsOnData(node.Pipe) {
			pipeThrough(node.Pipe, parse.NewIdentifier(printFunction).SetPos(node.Pos))
		}
	case *parse.IfNode:
		h.branch(&node.BranchNode)
	case *parse.WithNode:
		h.branch(&node.BranchNode)
	case *parse.RangeNode:
		h.putOn(node.List)
		h.putOn(node.ElseList)
	}
}

func (h *harness) branch(node *parse.BranchNode) {
	if dependsOnData(node.Pipe) {
		at := int(node.Pos)
		pipeThrough(node.Pipe, parse.NewIdentifier(decideFunction).SetPos(node.Pos),
			&parse.NumberNode{NodeType: parse.NodeNumber, Pos: node.Pos, IsInt: true, Int64: int64(at), Text: strconv.Itoa(at)})
	}
	h.putOn(node.List)
	h.putOn(node.ElseList)
}

func pipeThrough(pipe *parse.PipeNode, call ...parse.Node) {
	pipe.Cmds = append(pipe.Cmds, &parse.CommandNode{NodeType: parse.NodeCommand, Pos: pipe.Pos, Args: call})
}

func dependsOnData(node parse.Node) bool {
	switch node := node.(type) {
	case *parse.PipeNode:
		return slices.ContainsFunc(node.Cmds, func(n *parse.CommandNode) bool { return dependsOnData(n) })
	case *parse.CommandNode:
		return slices.ContainsFunc(node.Args, dependsOnData)
	case *parse.BoolNode, *parse.NumberNode, *parse.StringNode, *parse.NilNode, *parse.IdentifierNode:
		return false
	}
	return true
}

// shapeOf returns the paths of all values, and whether each is a map, a list or a scalar. Sorted.
func shapeOf(values map[string]any) []string {
	var shape []string
	var walk func(path string, value any)
	walk = func(path string, value any) {
		switch value := value.(type) {
		case map[string]any:
			shape = append(shape, path+" map")
			for key, v := range value {
				walk(path+"."+strconv.Quote(key), v)
			}
		case []any:
			shape = append(shape, path+" list")
			for i, v := range value {
				walk(path+"["+strconv.Itoa(i)+"]", v)
			}
		default:
			shape = append(shape, path+" scalar")
		}
	}
	walk("", values)
	slices.Sort(shape)
	return shape
}

// firstDifference returns the path below which a shape differs from that of harmless text. Only paths
// of the latter are named: the others may be made of somebody's text.
func firstDifference(shape, harmless []string) string {
	differs := func(all, others []string) string {
		for _, entry := range all {
			if !slices.Contains(others, entry) {
				return entry[:strings.LastIndexByte(entry, ' ')]
			}
		}
		return ""
	}
	path := differs(harmless, shape)
	if path == "" {
		path = differs(shape, harmless)
	}
	for path != "" {
		path = path[:max(0, strings.LastIndexAny(path, ".["))]
		if slices.Contains(harmless, path+" map") || slices.Contains(harmless, path+" list") {
			break
		}
	}
	if path == "" {
		return "the top level"
	}
	return strconv.Quote(strings.ReplaceAll(path[1:], `"`, ""))
}
