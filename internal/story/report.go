// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package story

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// Report tells a story while it happens: chapters, and below each the facts as they change.
type Report struct {
	out      io.Writer
	now      func() time.Time
	began    time.Time
	chapters []chapter

	// Columns, if set, is how wide the terminal is that the report goes to: longer lines are cut, since conditions and
	// messages can be pages long. Zero is as wide as it takes.
	Columns func() int
}

type chapter struct {
	title string
	began time.Time
	took  time.Duration
}

// NewReport writes to out, one line for each fact, without escapes: it reads the same in a log and in a test's output.
// See Columns for a terminal.
func NewReport(out io.Writer) *Report {
	return &Report{out: out, now: time.Now, began: time.Now()}
}

// Chapter ends the chapter before it and begins another.
func (r *Report) Chapter(title string) {
	r.end()
	r.chapters = append(r.chapters, chapter{title: title, began: r.now()})
	fmt.Fprintf(r.out, "\n%d. %s\n", len(r.chapters), title)
}

// Say adds a line to the chapter.
func (r *Report) Say(format string, args ...any) {
	var since time.Duration
	if n := len(r.chapters); n > 0 {
		since = r.now().Sub(r.chapters[n-1].began)
	}
	// A fact is a line, whatever stands in a message.
	text := strings.Join(strings.Fields(fmt.Sprintf(format, args...)), " ")
	fmt.Fprintln(r.out, r.cut(fmt.Sprintf("   %6s  %s", seconds(since), text)))
}

// cut shortens a line to the width of the terminal.
func (r *Report) cut(line string) string {
	if r.Columns == nil {
		return line
	}
	runes, columns := []rune(line), r.Columns()
	if columns <= 0 || len(runes) <= columns {
		return line
	}
	return string(runes[:columns-1]) + "…"
}

// Summary ends the last chapter and prints how long each took.
func (r *Report) Summary() {
	r.end()
	fmt.Fprintf(r.out, "\n")
	for i, c := range r.chapters {
		fmt.Fprintf(r.out, "   %6s  %d. %s\n", seconds(c.took), i+1, c.title)
	}
	fmt.Fprintf(r.out, "   %6s  in all\n", seconds(r.now().Sub(r.began)))
}

// Took is how long a finished chapter lasted.
func (r *Report) Took(title string) time.Duration {
	for _, c := range r.chapters {
		if c.title == title {
			return c.took
		}
	}
	return 0
}

func (r *Report) end() {
	if n := len(r.chapters); n > 0 && r.chapters[n-1].took == 0 {
		r.chapters[n-1].took = r.now().Sub(r.chapters[n-1].began)
	}
}

func seconds(d time.Duration) string {
	return fmt.Sprintf("%.1fs", d.Seconds())
}

// Facts are what is known of a situation: a subject ("Machine demo-x7k2p") and its state in words.
type Facts map[string]string

// changes are the lines that tell how the facts moved, in the order of their subjects. A subject that is
// gone is said to be gone once.
func changes(before, after Facts) []string {
	var lines []string
	subjects := maps.Clone(before)
	if subjects == nil {
		subjects = Facts{}
	}
	maps.Copy(subjects, after)
	for _, subject := range slices.Sorted(maps.Keys(subjects)) {
		was, existed := before[subject]
		is, exists := after[subject]
		switch {
		case !exists:
			lines = append(lines, subject+": gone")
		case !existed || was != is:
			lines = append(lines, strings.TrimSpace(subject+": "+is))
		}
	}
	return lines
}
