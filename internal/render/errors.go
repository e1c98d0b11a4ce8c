// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// InvalidError says where a chart or a values template cannot be rendered, and why. Its message is the
// same each time, and holds nothing of the values, which may be secret.
type InvalidError struct {
	// Subject is what was being rendered, such as "addon cni".
	Subject string
	// File is relative to the root of the chart; empty when the chart as a whole is at fault.
	File string
	// Line in File, from 1; 0 when it is not known.
	Line   int
	Reason string
}

func (e *InvalidError) Error() string {
	var where strings.Builder
	if e.Subject != "" {
		where.WriteString(e.Subject + ": ")
	}
	if e.File != "" {
		where.WriteString(e.File)
		if e.Line > 0 {
			fmt.Fprintf(&where, ":%d", e.Line)
		}
		where.WriteString(": ")
	}
	return where.String() + e.Reason
}

// Permanent reports that only another release, or another Cluster, can cure the error.
func (e *InvalidError) Permanent() bool { return true }

func invalid(file, format string, args ...any) *InvalidError {
	return &InvalidError{File: file, Reason: fmt.Sprintf(format, args...)}
}

// source is the text of a template, by name. Text that stands in it is the chart's own and no secret.
type source map[string]string

// ours reports whether a message was written by the author of the chart, word for word.
func (s source) ours(message string) bool {
	if message == "" {
		return false
	}
	quoted := strconv.Quote(message)
	quoted = quoted[1 : len(quoted)-1]
	for _, text := range s {
		if strings.Contains(text, message) || strings.Contains(text, quoted) {
			return true
		}
	}
	return false
}

// place is a line of a template.
type place struct {
	index int // in the message
	file  string
	line  int
}

// placesIn finds the places that a message names, in the order of the message.
func (s source) placesIn(message string) []place {
	var places []place
	for file := range s {
		for from := 0; ; {
			at := strings.Index(message[from:], file+":")
			if at < 0 {
				break
			}
			at += from
			from = at + len(file) + 1
			digits := message[from:]
			digits = digits[:len(digits)-len(strings.TrimLeft(digits, "0123456789"))]
			// The name of one template can be the end of another's.
			if line := number(digits); line > 0 && (at == 0 || strings.ContainsRune(" (\n", rune(message[at-1]))) {
				places = append(places, place{index: at, file: file, line: line})
			}
		}
	}
	slices.SortFunc(places, func(a, b place) int { return a.index - b.index })
	return places
}

var (
	// refusalForm is what Helm makes of the functions fail and required.
	refusalForm = regexp.MustCompile(`(?s)^execution error at \((\S+?):(\d+)(?::\d+)?\): (.*)$`)
	failForm    = regexp.MustCompile(`error calling fail: ([^\n]*)$`)
	callForm    = regexp.MustCompile(`error calling (\w+):`)
	missingForm = regexp.MustCompile(`function "(\w+)" not defined`)
	syntaxForm  = regexp.MustCompile(`^(?:parse error at \(.*?\)|template: .*?:\d+): ([^\n]*)$`)
	placeForm   = regexp.MustCompile(`(?s)executing "[^"]*" at <([^\n]*?)>:`)

	// harmless are the messages of text/template that name fields and types, but hold no values.
	harmless = regexp.MustCompile(`nil pointer evaluating [\w. {}*\[\]]+` +
		`|can't evaluate field \w+ in type [\w. {}*\[\]]+` +
		`|nil data; no entry for key "[^"]*"` +
		`|wrong type for value; expected [\w. {}*\[\]]+; got [\w. {}*\[\]]+` +
		`|wrong number of args for \w+: want (at least )?\d+ got \d+` +
		`|incompatible types for comparison` +
		`|(reflect: )?slice index out of range|index out of range: \d+` +
		`|cannot index slice/array with type \w+|index of untyped nil` +
		`|exceeded maximum template depth \(\d+\)` +
		`|no template "[^"\n]*"( associated with template "[^"\n]*")?|template "[^"\n]*" not defined` +
		`|integer divide by zero`)
)

// explainTemplate turns an error of text/template, or of Helm's engine around it, into one that names
// the place and leaves out what may come from the values.
func explainTemplate(err error, templates source) *InvalidError {
	text := err.Error()
	if refused := refusalForm.FindStringSubmatch(text); refused != nil {
		reason := "the chart refuses these values"
		if message := strings.TrimSpace(refused[3]); templates.ours(message) {
			reason += ": " + message
		}
		return &InvalidError{File: refused[1], Line: number(refused[2]), Reason: reason}
	}

	e := &InvalidError{}
	within := ""
	for _, at := range templates.placesIn(text) {
		if e.File == "" {
			e.File, e.Line = at.file, at.line
		} else if at.file != e.File || at.line != e.Line {
			within = fmt.Sprintf("%s:%d", at.file, at.line)
		}
	}
	if tpl := strings.Index(text, "error calling tpl:"); tpl >= 0 {
		// What follows speaks of a template that came out of a value.
		text = text[:tpl+len("error calling tpl:")]
	}
	e.Reason = templateReason(text)
	if failed := failForm.FindStringSubmatch(text); failed != nil && templates.ours(failed[1]) {
		e.Reason = "the template refuses these values: " + failed[1]
	}
	if places := placeForm.FindAllStringSubmatch(text, -1); places != nil {
		e.Reason += " (at <" + places[len(places)-1][1] + ">)"
	}
	if within != "" {
		e.Reason = within + ": " + e.Reason
	}
	return e
}

func templateReason(text string) string {
	parsing := !placeForm.MatchString(text)
	if missing := missingForm.FindStringSubmatch(text); missing != nil && parsing {
		if why, gone := removedFunctions[missing[1]]; gone {
			return fmt.Sprintf("function %q does not exist here: %s", missing[1], why)
		}
		return fmt.Sprintf("function %q does not exist", missing[1])
	}
	if syntax := syntaxForm.FindStringSubmatch(text); syntax != nil && parsing {
		// Nothing has been executed yet: the message is about the template's own text.
		return syntax[1]
	}
	if limit := strings.LastIndex(text, limitMark); limit >= 0 {
		reason, _, _ := strings.Cut(text[limit+len(limitMark):], "\n")
		return reason
	}
	if reason := harmless.FindAllString(text, -1); reason != nil {
		return reason[len(reason)-1]
	}
	calls := callForm.FindAllStringSubmatch(text, -1)
	for i := len(calls) - 1; i >= 0; i-- {
		if function := calls[i][1]; function != "include" && function != "tpl" || i == 0 {
			return fmt.Sprintf("function %s failed (its message may hold values and is left out)", function)
		}
	}
	return "the template failed (its message may hold values and is left out)"
}

// twiceForm matches what the YAML library says of a key that stands twice.
var twiceForm = regexp.MustCompile(`(line \d+): key .* already set in map`)

// explainYAML returns what is wrong with a text that is not YAML, without quoting it.
func explainYAML(err error) string {
	reason := err.Error()
	if twice := twiceForm.FindStringSubmatch(reason); twice != nil {
		return twice[1] + ": a key stands twice in its map"
	}
	for _, prefix := range []string{"error converting YAML to JSON: ", "error unmarshaling JSON: ", "yaml: ", "json: "} {
		if at := strings.LastIndex(reason, prefix); at >= 0 {
			reason = reason[at+len(prefix):]
		}
	}
	// What stands in quotes comes from the text.
	if quote := strings.IndexAny(reason, "\"'`\n"); quote >= 0 {
		reason = strings.TrimSpace(reason[:quote])
	}
	return reason
}

func number(digits string) int {
	n, err := strconv.Atoi(digits)
	if err != nil {
		return 0
	}
	return n
}
