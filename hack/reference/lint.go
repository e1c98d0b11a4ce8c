// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"

	"github.com/clusterstacks/cluster-stack-operator/internal/lint"
)

// Its quotes stand for those of Markdown, which Go has no way to write in a text of several lines.
const lintIntroduction = `# What csctl lint looks for

["csctl lint"](csctl.md#csctl-lint) looks at the folder of a cluster stack, or of a release. An error fails for sure, a warning
fails for some or costs later, an info is good to know.

A finding that is meant to stay is silenced in "csctl.yaml" of the stack, with a reason:

"""yaml
# csctl.yaml
apiVersion: csctl.clusterstack.x-k8s.io/v1alpha1
config:
  kubernetesVersion: v1.35.4
  clusterStackName: mystack
  provider:
    type: docker
lint:
  ignore:
    - id: image-unpinned
      file: cluster-addon/cni
      text: registry.example.com/
      reason: our registry never changes what a tag stands for
"""

"id" and "reason" are needed. "file" is a file or a folder, "text" a part of the message; without them every finding of the rule is
meant. An entry that silences nothing is a finding itself. Releases are judged as they are: nothing is silenced in them.
`

// lintPage explains each rule of csctl lint.
func lintPage(rules []lint.Rule) []byte {
	var page bytes.Buffer
	page.WriteString(notice + strings.ReplaceAll(lintIntroduction, `"`, "`"))
	group := ""
	for _, rule := range rules {
		if rule.Group != group {
			group = rule.Group
			fmt.Fprintf(&page, "\n## %s\n", group)
		}
		fmt.Fprintf(&page, "\n### %s\n\n%s: %s.\n\n%s\n\n*To mend it:* %s\n", rule.ID, severity(rule.Severity), code(rule.Finds), code(rule.Why), code(rule.Mend))
	}
	return page.Bytes()
}

func severity(s lint.Severity) string { return strings.ToUpper(string(s[:1])) + string(s[1:]) }

var codeForm = regexp.MustCompile(`<< \.\w+ >>|<\w+>(?:-<\w+>)+[\w-]*|<no value>|\{\{ [^}]* \}\}(?:-\{\{ [^}]* \}\})*|\.Cluster\b|--[a-z-]+|\b[A-Za-z]+\.(?:yaml|lock)\b|\bspec\.\w+|csctl dependency update|file://|csctl create|charts/`)

// code marks what in a sentence is code.
func code(sentence string) string { return codeForm.ReplaceAllString(sentence, "`$0`") }
