// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// block is a fenced block of a page.
type block struct {
	// language after the opening fence, such as "console".
	language string
	// line of the opening fence, from 1.
	line int
	text string
}

// blocks returns the fenced blocks of a page in order, and the page without them.
func blocks(text string) (found []block, prose string) {
	var (
		current *block
		out     strings.Builder
	)
	for i, line := range strings.Split(text, "\n") {
		language, fence := strings.CutPrefix(strings.TrimSpace(line), "```")
		switch {
		case fence && current == nil:
			current = &block{language: language, line: i + 1}
		case fence:
			found = append(found, *current)
			current = nil
		case current != nil:
			current.text += line + "\n"
		default:
			out.WriteString(line + "\n")
		}
	}
	return found, out.String()
}

// commands returns what a reader types in a console block: the lines after "$ ", with those that a
// backslash continues. All other lines are what the reader sees.
func commands(text string) []string {
	var found []string
	continued := false
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		typed, prompt := strings.CutPrefix(line, "$ ")
		switch {
		case continued:
			found[len(found)-1] += "\n" + line
		case prompt:
			found = append(found, typed)
		}
		continued = (continued || prompt) && strings.HasSuffix(line, `\`)
	}
	return found
}

var (
	linkForm    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	headingForm = regexp.MustCompile(`(?m)^#+ +(.+)$`)
	inlineForm  = regexp.MustCompile("`[^`\n]*`")
)

// links returns the targets of the links of a page.
func links(text string) []string {
	_, prose := blocks(text)
	var found []string
	for _, match := range linkForm.FindAllStringSubmatch(inlineForm.ReplaceAllString(prose, "`"), -1) {
		found = append(found, match[1])
	}
	return found
}

// anchors returns the fragments that lead to the headings of a page, as GitHub makes them.
func anchors(text string) map[string]bool {
	_, prose := blocks(text)
	found := map[string]bool{}
	for _, match := range headingForm.FindAllStringSubmatch(prose, -1) {
		found[strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-' || r == '_' || 'a' <= r && r <= 'z' || '0' <= r && r <= '9' || r > 127:
				return r
			}
			return -1
		}, strings.ToLower(match[1]))] = true
	}
	return found
}

func TestMarkdown(t *testing.T) {
	text := strings.Join([]string{
		"# What is `real`, and why",
		"See [concepts](concepts.md#our-words), not `[x](y)`.",
		"```console",
		"$ make \\",
		"    all",
		"made [it](here)",
		"$ ls",
		"```",
	}, "\n")
	found, _ := blocks(text)
	want := []block{{language: "console", line: 3, text: "$ make \\\n    all\nmade [it](here)\n$ ls\n"}}
	if diff := cmp.Diff(want, found, cmp.AllowUnexported(block{})); diff != "" {
		t.Errorf("blocks (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"make \\\n    all", "ls"}, commands(found[0].text)); diff != "" {
		t.Errorf("commands (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"concepts.md#our-words"}, links(text)); diff != "" {
		t.Errorf("links (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]bool{"what-is-real-and-why": true}, anchors(text)); diff != "" {
		t.Errorf("anchors (-want +got):\n%s", diff)
	}
}
