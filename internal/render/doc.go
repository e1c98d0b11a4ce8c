// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package render turns the charts of a release into Kubernetes objects.
//
// A render is what `helm template` prints, as objects: no client, no network, no files, no environment.
// The same Input gives the same bytes. What a chart generates by chance or by the clock (keys,
// certificates, passwords, times) is written into a Record, and a render that is given the Record
// repeats it.
//
// Charts are foreign code, and a template cannot be stopped from within the process. What is bounded
// here is the size of what comes out; bounding time and memory is for whoever calls Input.Render in a
// process that can be killed. Input and Result survive a trip through JSON for this purpose.
//
// Which objects belong in which namespace, and in which order they are applied, is the applier's.
package render
