// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"encoding/json"
	"net/url"
	"path"
)

// The few objects of SARIF 2.1.0 that are needed, as described in
// https://docs.oasis-open.org/sarif/sarif/v2.1.0/os/sarif-v2.1.0-os.html
type (
	sarifLog struct {
		Schema  string     `json:"$schema"`
		Version string     `json:"version"`
		Runs    []sarifRun `json:"runs"`
	}
	sarifRun struct {
		Tool    sarifTool     `json:"tool"`
		Results []sarifResult `json:"results"`
	}
	sarifTool struct {
		Driver sarifDriver `json:"driver"`
	}
	sarifDriver struct {
		Name    string      `json:"name"`
		Version string      `json:"version,omitempty"`
		Rules   []sarifRule `json:"rules"`
	}
	sarifRule struct {
		ID               string       `json:"id"`
		ShortDescription sarifText    `json:"shortDescription"`
		FullDescription  sarifText    `json:"fullDescription"`
		Help             sarifText    `json:"help"`
		Default          sarifDefault `json:"defaultConfiguration"`
	}
	sarifDefault struct {
		Level string `json:"level"`
	}
	sarifText struct {
		Text string `json:"text"`
	}
	sarifResult struct {
		RuleID       string             `json:"ruleId"`
		RuleIndex    int                `json:"ruleIndex"`
		Level        string             `json:"level"`
		Message      sarifText          `json:"message"`
		Locations    []sarifLocation    `json:"locations"`
		Suppressions []sarifSuppression `json:"suppressions,omitempty"`
	}
	sarifLocation struct {
		Physical sarifPhysical `json:"physicalLocation"`
	}
	sarifPhysical struct {
		Artifact sarifArtifact `json:"artifactLocation"`
		Region   *sarifRegion  `json:"region,omitempty"`
	}
	sarifArtifact struct {
		URI string `json:"uri"`
	}
	sarifRegion struct {
		StartLine int `json:"startLine"`
	}
	sarifSuppression struct {
		Kind          string `json:"kind"`
		Justification string `json:"justification"`
	}
)

var sarifLevels = map[Severity]string{Error: "error", Warning: "warning", Info: "note"}

// SARIF returns the report in the format of code scanners, with all rules and what is silenced. Paths begin with the
// given folder; the version is that of the program.
func (r Report) SARIF(folder, version string) ([]byte, error) {
	run := sarifRun{Tool: sarifTool{sarifDriver{Name: "csctl lint", Version: version}}, Results: []sarifResult{}}
	index := map[string]int{}
	for i, rule := range rules {
		index[rule.ID] = i
		run.Tool.Driver.Rules = append(run.Tool.Driver.Rules, sarifRule{
			ID: rule.ID, ShortDescription: sarifText{rule.Finds}, FullDescription: sarifText{rule.Why}, Help: sarifText{rule.Mend},
			Default: sarifDefault{sarifLevels[rule.Severity]},
		})
	}
	add := func(finding Finding, suppressions ...sarifSuppression) {
		at := sarifPhysical{Artifact: sarifArtifact{URI: (&url.URL{Path: path.Join(folder, finding.File)}).String()}}
		if finding.Line > 0 {
			at.Region = &sarifRegion{StartLine: finding.Line}
		}
		run.Results = append(run.Results, sarifResult{
			RuleID: finding.Rule, RuleIndex: index[finding.Rule], Level: sarifLevels[finding.Severity],
			Message: sarifText{finding.Message + ". " + finding.Mend}, Locations: []sarifLocation{{at}}, Suppressions: suppressions,
		})
	}
	for _, finding := range r.Findings {
		add(finding)
	}
	for _, silenced := range r.Silenced {
		add(silenced.Finding, sarifSuppression{Kind: "external", Justification: silenced.Reason})
	}
	return json.MarshalIndent(sarifLog{
		Schema: "https://json.schemastore.org/sarif-2.1.0.json", Version: "2.1.0", Runs: []sarifRun{run},
	}, "", "  ")
}
