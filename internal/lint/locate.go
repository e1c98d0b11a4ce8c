// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"path"
	"regexp"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/render"
)

// chart is a chart of the stack or release with what it renders to.
type chart struct {
	// name of the addon; empty for the cluster class.
	name   string
	folder string // where its files are for the author
	files  release.Chart
	result *render.Result
	from   render.Files
}

// at returns the place of a line in a file of the chart. What is inside of a chart that it depends on is mended where
// that one is named.
func (c chart) at(file string, line int) place {
	if file == "" {
		return place{path.Join(c.folder, chartFile), 0}
	}
	if _, found := c.files.File(file); !found {
		if dependency, is := strings.CutPrefix(file, "charts/"); is {
			name, _, _ := strings.Cut(dependency, "/")
			data, _ := c.files.File(chartFile)
			return place{path.Join(c.folder, chartFile), lineOfText(data, "name: "+name)}
		}
	}
	return place{path.Join(c.folder, file), line}
}

// find returns where in its template an object has something: the line of the first hint that is found in it, else that
// of its name or kind. A template may look different from what it renders to, so this is a guess, and a good one.
func (c chart) find(object *unstructured.Unstructured, hints ...string) place {
	file := c.from[object]
	data, found := c.files.File(file)
	if !found {
		return c.at(file, 0)
	}
	from, lines := documentOf(string(data), object)
	for _, hint := range hints {
		for i, line := range lines {
			if hint != "" && strings.Contains(line, hint) {
				return c.at(file, from+i+1)
			}
		}
	}
	return c.at(file, from+lineOfHead(lines)+1)
}

// findField returns where in its template an object has a field, as errors of the API name it.
func (c chart) findField(object *unstructured.Unstructured, field string) place {
	file := c.from[object]
	data, found := c.files.File(file)
	if !found {
		return c.at(file, 0)
	}
	from, lines := documentOf(string(data), object)
	at := lineOfHead(lines)
	for _, hint := range hintsOf(object.Object, field) {
		for i := range lines {
			// Nothing stands before what it is below of, but for the kind, which may stand anywhere.
			if i >= at && hint.MatchString(lines[i]) {
				at = i
				break
			}
		}
	}
	return c.at(file, from+at+1)
}

// documentOf returns the document of a template which an object is from, and how many lines come before it.
func documentOf(text string, object *unstructured.Unstructured) (from int, lines []string) {
	all := strings.Split(text, "\n")
	best, score := [2]int{0, len(all)}, -1
	begin := 0
	for i := 0; i <= len(all); i++ {
		if i < len(all) && strings.TrimRight(all[i], " ") != "---" {
			continue
		}
		if s := alike(all[begin:i], object); s > score {
			best, score = [2]int{begin, i}, s
		}
		begin = i + 1
	}
	return best[0], all[best[0]:best[1]]
}

// alike counts what a document has of an object.
func alike(lines []string, object *unstructured.Unstructured) int {
	score := 0
	name := object.GetName()
	kind := regexp.MustCompile(`^kind:\s*["']?` + regexp.QuoteMeta(object.GetKind()) + `["']?\s*$`)
	exact := regexp.MustCompile(`^\s+name:\s*["']?` + regexp.QuoteMeta(name) + `["']?\s*$`)
	for _, line := range lines {
		if kind.MatchString(line) {
			score += 4
		}
		if exact.MatchString(line) {
			score += 2
		}
		// A template makes the beginning of the name; its end is the same.
		if _, end, is := strings.Cut(line, "}}-"); is && strings.Contains(line, "name:") && strings.HasSuffix(name, "-"+strings.Trim(end, `"' `)) {
			score++
		}
	}
	return score
}

// lineOfHead returns the line of metadata.name, else that of the kind, else the first.
func lineOfHead(lines []string) int {
	at := 0
	for i, line := range lines {
		if strings.HasPrefix(line, "kind:") {
			at = i
		}
	}
	for i, line := range lines {
		if strings.HasPrefix(line, "metadata:") {
			for j := i + 1; j < len(lines) && strings.HasPrefix(lines[j], " "); j++ {
				if strings.HasPrefix(strings.TrimSpace(lines[j]), "name:") {
					return j
				}
			}
		}
	}
	return at
}

var segmentForm = regexp.MustCompile(`([^.\[\]]+)|\[([^\]]*)\]`)

// hintsOf returns what the lines down to a field look like, from above to below.
func hintsOf(value any, field string) []*regexp.Regexp {
	var hints []*regexp.Regexp
	hint := func(form string) { hints = append(hints, regexp.MustCompile(form)) }
	for _, part := range segmentForm.FindAllStringSubmatch(field, -1) {
		switch index, err := strconv.Atoi(part[2]); {
		case part[1] != "":
			hint(`^\s*(- )?["']?` + regexp.QuoteMeta(part[1]) + `["']?:`)
			in, _ := value.(map[string]any)
			value = in[part[1]]
		case err != nil:
			hint(`:\s*["']?` + regexp.QuoteMeta(strings.Trim(part[2], `"`)) + `["']?\s*$`)
			value = nil
		default:
			list, _ := value.([]any)
			if value = nil; index < len(list) {
				value = list[index]
			}
			item, _ := value.(map[string]any)
			for _, key := range []string{"name", "class", "op"} {
				if text, is := item[key].(string); is {
					hint(key + `:\s*["']?` + regexp.QuoteMeta(text) + `["']?\s*$`)
					break
				}
			}
		}
	}
	return hints
}
