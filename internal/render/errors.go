// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"fmt"
	"regexp"
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

var (
	// refusalForm is what Helm makes of the functions fail and required.
	refusalForm  = regexp.MustCompile(`(?s)^execution error at \((\S+?):(\d+)(?::\d+)?\): (.*)$`)
	locationForm = regexp.MustCompile(`([^\s()"<>]+):(\d+)(?::\d+)?`)
	callForm     = regexp.MustCompile(`error calling (\w+):`)
	missingForm  = regexp.MustCompile(`function "(\w+)" not defined`)
	placeForm    = regexp.MustCompile(`(?s)executing "[^"]*" at <([^\n]*?)>:`)

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
	for _, at := range locationForm.FindAllStringSubmatch(text, -1) {
		if _, known := templates[at[1]]; !known {
			continue
		}
		if e.File == "" {
			e.File, e.Line = at[1], number(at[2])
		} else if deeper := at[1] + ":" + at[2]; deeper != fmt.Sprintf("%s:%d", e.File, e.Line) {
			within = deeper
		}
	}
	e.Reason = templateReason(text)
	if places := placeForm.FindAllStringSubmatch(text, -1); places != nil {
		e.Reason += " (at " + places[len(places)-1][1] + ")"
	}
	if within != "" {
		e.Reason = within + ": " + e.Reason
	}
	return e
}

func templateReason(text string) string {
	if missing := missingForm.FindStringSubmatch(text); missing != nil {
		if why, gone := removedFunctions[missing[1]]; gone {
			return fmt.Sprintf("function %q does not exist here: %s", missing[1], why)
		}
		return fmt.Sprintf("function %q does not exist", missing[1])
	}
	if strings.HasPrefix(text, "parse error at (") {
		// Nothing has been executed yet: the message is about the chart's own text.
		_, reason, _ := strings.Cut(text, "): ")
		return reason
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

// explainYAML returns what is wrong with a text that is not YAML, without quoting it.
func explainYAML(err error) string {
	reason := err.Error()
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
