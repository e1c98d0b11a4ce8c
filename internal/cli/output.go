// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"encoding/json"
	"errors"
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
