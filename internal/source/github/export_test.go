// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package github

import "github.com/google/go-github/v82/github"

// Uploads returns where a source uploads to when the API of GitHub says this template.
func Uploads(s *Source, template string) (string, error) {
	return s.uploads(&github.RepositoryRelease{ID: github.Ptr(int64(7)), UploadURL: &template})
}
