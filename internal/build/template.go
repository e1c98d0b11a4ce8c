// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package build

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"unicode/utf8"

	"sigs.k8s.io/yaml"

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

var chartVersionForm = regexp.MustCompile(`(?m)^version:[^\r\n]*`)

// setChartVersion writes the version into a Chart.yaml and leaves the rest as its author wrote it.
func setChartVersion(chart []byte, version release.Version) ([]byte, error) {
	line := []byte("version: " + version.String())
	var written []byte
	if at := chartVersionForm.FindIndex(chart); at == nil {
		written = append(append(bytes.TrimRight(bytes.Clone(chart), "\r\n"), '\n'), append(line, '\n')...)
	} else {
		written = bytes.Join([][]byte{chart[:at[0]], line, chart[at[1]:]}, nil)
	}
	// YAML can be written in many ways.
	var before, after map[string]any
	if err := errors.Join(yaml.Unmarshal(chart, &before), yaml.UnmarshalStrict(written, &after)); err == nil {
		before["version"] = version.String()
		if reflect.DeepEqual(before, after) {
			return written, nil
		}
	}
	return nil, errors.New("the version cannot be filled in: write it on a line of its own, as \"version: v1\"")
}
