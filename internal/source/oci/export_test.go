// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package oci

// PublishTag publishes under a tag that need not be the name of a release.
var PublishTag = (*Source).publish
