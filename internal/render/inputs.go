// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
)

// digestChart returns a chart of our own whose only object says which values it was given. It is another one for each
// values template, so that those who remember which charts overstay do not take the one for the other.
func digestChart(template []byte) release.Chart {
	return release.Chart{
		{Name: "Chart.yaml", Data: []byte("apiVersion: v2\nname: values\nversion: 1.0.0\n")},
		{Name: "made-by", Data: template},
		{Name: "templates/digest.yaml", Data: []byte(`apiVersion: v1
kind: ConfigMap
metadata:
  name: values
data:
  digest: "{{ .Values | toJson | sha256sum }}"
`)},
	}
}

// ValuesInput returns an input whose result has the digest of the values that an addon's values template makes, and
// false if the addon has no such template. Whoever only asks whether the values have changed needs a render, too: a
// values template is as foreign as a chart, and may run only where charts do.
func ValuesInput(rel *release.Release, addon string, facts Facts) (Input, bool, error) {
	facts.Values = nil // the digest is for everybody's eyes
	in, err := AddonInput(rel, addon, facts, nil)
	if err != nil || in.ValuesTemplate == nil {
		return Input{}, false, err
	}
	in.Chart, in.Neighbours, in.Folder = digestChart(in.ValuesTemplate), nil, false
	return in, true, nil
}

// ValuesDigest returns what the result of such an input says, nothing where the template makes values by chance.
func ValuesDigest(r *Result) string {
	if r.NewValues || len(r.Objects) == 0 {
		return ""
	}
	digest, _, _ := unstructured.NestedString(r.Objects[0].Object, "data", "digest")
	return digest
}
