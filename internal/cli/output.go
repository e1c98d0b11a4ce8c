// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

// outputFlag lets a command print JSON for programs. What it prints for people may change at any time.
func outputFlag(cmd *cobra.Command) *output {
	o := new(output)
	cmd.Flags().VarP(o, "output", "o", "json for programs; without it, a text for people")
	mustComplete(cmd, "output", cobra.FixedCompletions([]string{"json"}, cobra.ShellCompDirectiveNoFileComp))
	return o
}

// output is empty or json.
type output string

func (o *output) String() string { return string(*o) }
func (o *output) Type() string   { return "format" }

func (o *output) Set(value string) error {
	if value != "json" {
		return errors.New("use json, or leave it out for a text")
	}
	*o = output(value)
	return nil
}

func (o *output) json() bool { return *o == "json" }

// mustComplete sets how a flag is completed. It fails only for flags that are not there.
func mustComplete(cmd *cobra.Command, flag string, complete cobra.CompletionFunc) {
	if err := cmd.RegisterFlagCompletionFunc(flag, complete); err != nil {
		panic(err)
	}
}

func printJSON(out io.Writer, value any) error {
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}

// transfer tells of files on their way: each on a line of its own, and in a terminal all on one that is gone at the end.
type transfer struct {
	out  io.Writer
	live bool
}

func newTransfer(out io.Writer) *transfer { return &transfer{out: out, live: isTerminal(out)} }

func (t *transfer) file(what string, size int64, there bool) {
	text := fmt.Sprintf("%s (%s)", visibleName(what), inBytes(size))
	if there {
		text += ", there already"
	}
	if t.live {
		_, _ = fmt.Fprintf(t.out, "\r\033[K  %s", text) // who does not see it misses nothing
		return
	}
	_, _ = fmt.Fprintf(t.out, "  %s\n", text) // likewise
}

// done clears the line of a terminal.
func (t *transfer) done() {
	if t.live {
		_, _ = fmt.Fprint(t.out, "\r\033[K") // likewise
	}
}

// inBytes writes a size for people.
func inBytes(n int64) string {
	switch {
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%d B", n)
}
