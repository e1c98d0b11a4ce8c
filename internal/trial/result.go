// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package trial

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Outcome is how a step ended.
type Outcome string

// The outcomes of a step.
const (
	Passed Outcome = "Passed"
	Failed Outcome = "Failed"
	// Error is a step that could not be tried to its end, which says nothing about the stack: the trial was interrupted, or
	// there is no management cluster any more.
	Error   Outcome = "Error"
	Skipped Outcome = "Skipped" // a step before it did not pass
)

// Result is what came of a trial. As JSON, its times are in seconds.
type Result struct {
	// Stack is "<provider>-<name>-<major>-<minor>".
	Stack string `json:"stack"`
	// Passed tells that all steps came to their end.
	Passed  bool    `json:"passed"`
	Seconds float64 `json:"seconds"`
	// Findings are errors in the stack because of which nothing was tried.
	Findings []Problem    `json:"findings,omitempty"`
	Steps    []StepResult `json:"steps"`
}

// Untried is the result of a trial that has not begun.
func Untried(stack string, steps []Step) Result {
	r := Result{Stack: stack, Steps: []StepResult{}}
	for i := range steps {
		r.Steps = append(r.Steps, title(steps, i))
	}
	return r
}

// Break notes why a trial did not come to its end, at the step that was to be tried.
func (r *Result) Break(why error) {
	r.Passed = false
	for i := range r.Steps {
		switch r.Steps[i].Outcome {
		case Passed:
			continue
		case Failed: // there is nothing to add
		default:
			r.Steps[i].Outcome, r.Steps[i].Error = Error, why.Error()
		}
		return
	}
}

// Unfinished is what to report of a trial that goes on: should somebody kill it, nobody takes it for one that passed.
func (r Result) Unfinished() Result {
	r.Steps = slices.Clone(r.Steps)
	r.Break(errors.New("csctl was ended before this step was"))
	return r
}

// StepResult is what came of a step. Objects are those of the workload cluster, written as
// "Deployment.apps kube-system/metrics-server".
type StepResult struct {
	Name       string  `json:"name"`
	From       string  `json:"from,omitempty"`
	Release    string  `json:"release"`
	Kubernetes string  `json:"kubernetes"`
	Outcome    Outcome `json:"outcome"`
	Seconds    float64 `json:"seconds"`
	// Error is why the step did not pass.
	Error string `json:"error,omitempty"`

	// Addons are those in the cluster after the step.
	Addons []Addon `json:"addons,omitempty"`
	// Added, Changed and Pruned are what the step did to objects of addons, as against the step before it.
	Added   []string `json:"added,omitempty"`
	Changed []string `json:"changed,omitempty"`
	Pruned  []string `json:"pruned,omitempty"`
	// Rolled are the machines that the step replaced.
	Rolled []Machine `json:"rolled,omitempty"`
	// Unhealthy are objects of addons that were not healthy at the end of the step.
	Unhealthy []Problem `json:"unhealthy,omitempty"`
	// Problems are what the objects in the management cluster, and the nodes and pods of the workload cluster, complain of
	// when the step failed.
	Problems []Problem `json:"problems,omitempty"`
}

// Addon is an addon with the number of its objects.
type Addon struct {
	Name    string `json:"name"`
	Objects int    `json:"objects"`
}

// Machine is a machine that is gone.
type Machine struct {
	Name    string `json:"name"`
	Role    string `json:"role"`
	Version string `json:"version"`
}

// Problem is an object and what is wrong with it.
type Problem struct {
	Object  string `json:"object"`
	Message string `json:"message"`
}

// String is the problem in a line.
func (p Problem) String() string { return p.Object + ": " + p.Message }

// WriteJUnit writes the result in the format of JUnit that continuous integration reads
// (https://github.com/testmoapp/junitxml): the stack is the suite, each step a case. Errors that were found before
// anything was tried are a case of their own.
func (r Result) WriteJUnit(w io.Writer) error {
	type reason struct {
		Message string `xml:"message,attr"`
		Type    string `xml:"type,attr"`
		Text    string `xml:",chardata"`
	}
	type skipped struct {
		Message string `xml:"message,attr"`
	}
	type testcase struct {
		Name      string   `xml:"name,attr"`
		Classname string   `xml:"classname,attr"`
		Time      string   `xml:"time,attr"`
		Skipped   *skipped `xml:"skipped,omitempty"`
		Error     *reason  `xml:"error,omitempty"`
		Failure   *reason  `xml:"failure,omitempty"`
		Output    string   `xml:"system-out,omitempty"`
	}
	type suite struct {
		XMLName  xml.Name   `xml:"testsuite"`
		Name     string     `xml:"name,attr"`
		Tests    int        `xml:"tests,attr"`
		Failures int        `xml:"failures,attr"`
		Errors   int        `xml:"errors,attr"`
		Skipped  int        `xml:"skipped,attr"`
		Time     string     `xml:"time,attr"`
		Cases    []testcase `xml:"testcase"`
	}
	seconds := func(s float64) string { return fmt.Sprintf("%.3f", s) }
	s := suite{Name: r.Stack, Time: seconds(r.Seconds)}
	if len(r.Findings) > 0 {
		s.Failures++
		s.Cases = append(s.Cases, testcase{
			Name: "csctl lint", Classname: r.Stack, Time: seconds(0),
			Failure: &reason{Message: r.found(), Type: string(Failed), Text: strings.Join(texts(r.Findings), "\n")},
		})
	}
	for _, step := range r.Steps {
		c := testcase{Name: step.Name, Classname: r.Stack, Time: seconds(step.Seconds), Output: strings.Join(step.lines(), "\n")}
		why := &reason{Message: step.Error, Type: string(step.Outcome), Text: strings.Join(texts(step.Problems), "\n")}
		switch step.Outcome {
		case Passed:
		case Failed:
			s.Failures++
			c.Failure = why
		case Error:
			s.Errors++
			c.Error = why
		case Skipped:
			s.Skipped++
			c.Skipped = &skipped{Message: "a step before it did not pass"}
		}
		s.Cases = append(s.Cases, c)
	}
	s.Tests = len(s.Cases)
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	encoder := xml.NewEncoder(w)
	encoder.Indent("", "  ")
	if err := encoder.Encode(s); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}

// found sums up the findings.
func (r Result) found() string {
	if len(r.Findings) == 1 {
		return "the stack has an error, so nothing was tried"
	}
	return fmt.Sprintf("the stack has %d errors, so nothing was tried", len(r.Findings))
}

func texts(problems []Problem) []string {
	lines := make([]string, 0, len(problems))
	for _, p := range problems {
		lines = append(lines, p.String())
	}
	return lines
}

// maxListed is how many objects a person is told of in a line.
const maxListed = 4

// lines tell what a step did.
func (r StepResult) lines() []string {
	var lines []string
	if len(r.Addons) > 0 {
		addons := make([]string, 0, len(r.Addons))
		for _, a := range r.Addons {
			addons = append(addons, fmt.Sprintf("%s (%d)", a.Name, a.Objects))
		}
		lines = append(lines, "addons, with their objects: "+strings.Join(addons, ", "))
	}
	list := func(what string, objects []string) {
		if len(objects) == 0 {
			return
		}
		text := fmt.Sprintf("%s: %s", what, strings.Join(objects[:min(len(objects), maxListed)], ", "))
		if more := len(objects) - maxListed; more > 0 {
			text += fmt.Sprintf(", and %d more", more)
		}
		lines = append(lines, text)
	}
	if r.From != "" {
		list("added", r.Added)
		list("changed", r.Changed)
		list("pruned", r.Pruned)
	}
	rolled := map[string]int{}
	var roles []string
	for _, m := range r.Rolled {
		if rolled[m.Role]++; rolled[m.Role] == 1 {
			roles = append(roles, m.Role)
		}
	}
	for i, role := range roles {
		roles[i] = fmt.Sprintf("%s (%d)", role, rolled[role])
	}
	list("machines that were replaced", roles)
	for _, p := range r.Unhealthy {
		lines = append(lines, "not healthy: "+p.String())
	}
	return lines
}

// WriteText writes the result for people.
func (r Result) WriteText(w io.Writer) error {
	var text strings.Builder
	if len(r.Findings) > 0 {
		fmt.Fprintf(&text, "✗ %s: %s\n", r.Stack, r.found())
		for _, line := range texts(r.Findings) {
			fmt.Fprintf(&text, "     %s\n", line)
		}
	}
	for i, step := range r.Steps {
		mark := map[Outcome]string{Passed: "✓", Failed: "✗", Error: "!", Skipped: "-"}[step.Outcome]
		fmt.Fprintf(&text, "%s %d. %s", mark, i+1, step.Name)
		if step.Outcome == Skipped {
			text.WriteString(": not tried\n")
			continue
		}
		fmt.Fprintf(&text, ", Kubernetes %s: %.1fs\n", step.Kubernetes, step.Seconds)
		for _, line := range step.lines() {
			fmt.Fprintf(&text, "     %s\n", line)
		}
		if step.Error != "" {
			what := "failed"
			if step.Outcome == Error {
				what = "not tried to its end"
			}
			fmt.Fprintf(&text, "     %s: %s\n", what, step.Error)
		}
		for _, line := range texts(step.Problems) {
			fmt.Fprintf(&text, "       %s\n", line)
		}
	}
	_, err := io.WriteString(w, text.String())
	return err
}
