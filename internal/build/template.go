// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package build

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"unicode/utf8"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
)

// A tag is a name with a dot in front between << and >>. Heredocs and shifts are none.
var tagForm = regexp.MustCompile(`<<[ \t]*\.([A-Za-z][A-Za-z0-9_.]*)[ \t]*>>`)

// fillIn replaces the tags in a file by versions. Files that are not text are left alone.
func fillIn(name string, data []byte, versions Versions) ([]byte, error) {
	if !isText(data) {
		return data, nil
	}
	tags := map[string]release.Version{
		"ClusterClassVersion": versions.ClusterStack,
		"ClusterAddonVersion": versions.ClusterAddon,
		"NodeImageVersion":    versions.NodeImage,
	}
	var (
		out  []byte
		rest int
		errs []error
	)
	for _, at := range tagForm.FindAllSubmatchIndex(data, -1) {
		version, known := tags[string(data[at[2]:at[3]])]
		if !known {
			line := 1 + bytes.Count(data[:at[0]], []byte("\n"))
			errs = append(errs, fmt.Errorf("%s:%d: unknown tag %s: there are << .ClusterClassVersion >>, << .ClusterAddonVersion >> and << .NodeImageVersion >>", name, line, data[at[0]:at[1]]))
		}
		out = append(append(out, data[rest:at[0]]...), version.String()...)
		rest = at[1]
	}
	return append(out, data[rest:]...), errors.Join(errs...)
}

func isText(data []byte) bool {
	return utf8.Valid(data) && bytes.IndexByte(data, 0) < 0
}

var chartVersionForm = regexp.MustCompile(`(?m)^version:[^\n]*`)

// setChartVersion writes the version into a Chart.yaml and leaves the rest as its author wrote it.
func setChartVersion(chart []byte, version release.Version) []byte {
	line := []byte("version: " + version.String())
	at := chartVersionForm.FindIndex(chart)
	if at == nil {
		return append(append(bytes.TrimRight(bytes.Clone(chart), "\n"), '\n'), append(line, '\n')...)
	}
	return bytes.Join([][]byte{chart[:at[0]], line, chart[at[1]:]}, nil)
}
