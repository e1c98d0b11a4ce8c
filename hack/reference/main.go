// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Command reference writes the pages of docs/reference that say what the code says: commands and flags from
// the programs, kinds from their definitions, conditions and reasons from the comments of the API module. It is run from the root of
// the repository, by `make generate`.
package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/clusterstacks/cluster-stack-operator/config"
	"github.com/clusterstacks/cluster-stack-operator/internal/cli"
	"github.com/clusterstacks/cluster-stack-operator/internal/lint"
	"github.com/clusterstacks/cluster-stack-operator/internal/operator"
)

const notice = "<!-- Written by `make generate`; edit the code instead. -->\n\n"

func main() {
	if err := run(); err != nil {
		fmt.Fprintf(os.Stderr, "Error: %v\n", err)
		os.Exit(1)
	}
}

func run() error {
	// Defaults below the home of whoever generates would differ from machine to machine.
	for _, name := range []string{"XDG_CACHE_HOME", "XDG_STATE_HOME"} {
		if err := os.Unsetenv(name); err != nil {
			return err
		}
	}
	if err := os.Setenv("HOME", "~"); err != nil {
		return err
	}
	conditions, err := conditionsPage(filepath.Join("api", "v1alpha1", "conditions.go"))
	if err != nil {
		return err
	}
	kinds, err := kindsPage(config.CRDs())
	if err != nil {
		return err
	}
	for name, page := range map[string][]byte{
		"api.md":                    kinds,
		"conditions.md":             conditions,
		"csctl.md":                  csctlPage(cli.Root()),
		"lint.md":                   lintPage(lint.Rules()),
		"cluster-stack-operator.md": operatorPage(),
	} {
		if err := os.WriteFile(filepath.Join("docs", "reference", name), page, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func csctlPage(root *cobra.Command) []byte {
	var page bytes.Buffer
	page.WriteString(notice + "# csctl\n\n" + root.Short + ".\n")
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		for _, child := range c.Commands() {
			if !child.IsAvailableCommand() || child.Name() == "completion" || child.Name() == "help" {
				continue
			}
			if child.Runnable() {
				describe(&page, child)
			}
			walk(child)
		}
	}
	walk(root)
	page.WriteString("\n`csctl completion bash|zsh|fish|powershell` prints a script for completion in your shell.\n")
	return page.Bytes()
}

func describe(page *bytes.Buffer, c *cobra.Command) {
	fmt.Fprintf(page, "\n## %s\n\n", c.CommandPath())
	about := c.Long
	if about == "" {
		about = c.Short
	}
	fmt.Fprintf(page, "%s\n\n```\n%s\n```\n", fenced(strings.TrimSuffix(strings.TrimSpace(about), ".")+"."), c.UseLine())
	if c.Example != "" {
		fmt.Fprintf(page, "\n```\n%s\n```\n", strings.TrimRight(c.Example, "\n"))
	}
	flagTable(page, c.LocalFlags())
}

// fenced puts lines that a help page indents into blocks of code: Markdown would run them together.
func fenced(help string) string {
	var result []string
	inside := false
	for _, line := range strings.Split(help, "\n") {
		if indented := strings.HasPrefix(line, "  "); indented != inside {
			if indented {
				result = append(result, "")
			}
			result = append(result, "```")
			if inside && line != "" {
				result = append(result, "")
			}
			inside = indented
		}
		result = append(result, line)
	}
	if inside {
		result = append(result, "```")
	}
	return strings.Join(result, "\n")
}

func operatorPage() []byte {
	var page bytes.Buffer
	page.WriteString(notice + "# cluster-stack-operator\n\nRuns beside Cluster API in a management cluster: controllers, and the runtime extension that answers its lifecycle hooks.\nFlags may be written with one dash, too.\n")
	settings := operator.Defaults()
	flags := pflag.NewFlagSet("cluster-stack-operator", pflag.ContinueOnError)
	settings.AddFlags(flags)
	flagTable(&page, flags)

	page.WriteString("\n## Ports\n\nOf an operator that is started without flags.\n\n| address | flag | for |\n|---|---|---|\n")
	for _, port := range settings.Ports() {
		fmt.Fprintf(&page, "| `%s` | `--%s` | %s |\n", port.Address, port.Flag, port.Meaning)
	}
	page.WriteString("\n## Environment\n\nWhere the releases of ClusterStacks come from that name no source. White space around a value is ignored.\n\n| variable | meaning |\n|---|---|\n")
	for _, v := range operator.Variables() {
		fmt.Fprintf(&page, "| `%s` | %s |\n", v.Name, v.Meaning)
	}
	page.WriteString("\n## Exit codes\n\n0 after it was asked to stop, or with `--help`; 1 when it cannot start or go on, with a sentence on what to do as its last line.\n")
	return page.Bytes()
}

func flagTable(page *bytes.Buffer, flags *pflag.FlagSet) {
	var shown []*pflag.Flag
	flags.VisitAll(func(f *pflag.Flag) {
		if !f.Hidden && f.Name != "help" {
			shown = append(shown, f)
		}
	})
	if len(shown) == 0 {
		return
	}
	page.WriteString("\n| flag | default | meaning |\n|---|---|---|\n")
	for _, f := range shown {
		name := "`--" + f.Name + "`"
		if f.Shorthand != "" {
			name = "`-" + f.Shorthand + "`, " + name
		}
		value := ""
		switch f.DefValue {
		case "", "[]", "0", "0s": // not given
		default:
			value = "`" + f.DefValue + "`"
		}
		_, usage := pflag.UnquoteUsage(f)
		usage = strings.ReplaceAll(strings.ReplaceAll(usage, "|", "\\|"), "\n", " ")
		fmt.Fprintf(page, "| %s | %s | %s |\n", name, value, usage)
	}
}

// conditionsPage makes tables of the constants of a file, one for each block, and of what their comments say.
func conditionsPage(file string) ([]byte, error) {
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
	if err != nil {
		return nil, err
	}
	var page bytes.Buffer
	page.WriteString(notice + "# Conditions and reasons\n\nEvery condition has a reason and a message. `kubectl wait --for=condition=Ready` works on all kinds.\n")
	for _, decl := range parsed.Decls {
		block, ok := decl.(*ast.GenDecl)
		if !ok || block.Tok != token.CONST {
			continue
		}
		title, rest, _ := strings.Cut(oneLine(block.Doc.Text()), ".")
		fmt.Fprintf(&page, "\n## %s\n", title)
		if rest = strings.TrimSpace(rest); rest != "" {
			fmt.Fprintf(&page, "\n%s\n", rest)
		}
		page.WriteString("\n| name | meaning, and what to do |\n|---|---|\n")
		for _, spec := range block.Specs {
			constant, ok := spec.(*ast.ValueSpec)
			if !ok || len(constant.Values) != 1 {
				continue
			}
			literal, ok := constant.Values[0].(*ast.BasicLit)
			if !ok {
				continue
			}
			value, err := strconv.Unquote(literal.Value)
			if err != nil {
				return nil, err
			}
			fmt.Fprintf(&page, "| `%s` | %s |\n", value, meaning(constant.Names[0].Name, oneLine(constant.Doc.Text())))
		}
	}
	return page.Bytes(), nil
}

// meaning takes the name of the constant off its comment: "FooReason: it failed." becomes "It failed."
func meaning(name, comment string) string {
	text := strings.TrimPrefix(comment, name)
	text = strings.TrimSpace(strings.TrimPrefix(text, ":"))
	if of, ok := strings.CutPrefix(text, "of a "); ok {
		text = "Of a " + of
	}
	if text == "" {
		return ""
	}
	return strings.ToUpper(text[:1]) + text[1:]
}

func oneLine(comment string) string {
	return strings.Join(strings.Fields(comment), " ")
}
