// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"net/url"
	"os"
	"path"
	"path/filepath"
	"testing"
)

// TestLinks follows each link that stays within the repository, to its heading where it names one.
func TestLinks(t *testing.T) {
	for _, p := range pages(t, "") {
		for _, link := range links(p.text) {
			to, err := url.Parse(link)
			if err != nil {
				t.Errorf("%s: link %s: %v", p.path, link, err)
				continue
			}
			if to.Scheme != "" {
				continue
			}
			if path.IsAbs(to.Path) {
				t.Errorf("%s: link %s: leads to another place on each machine; write it relative to the page", p.path, link)
				continue
			}
			target := p.path
			if to.Path != "" {
				target = path.Join(path.Dir(p.path), to.Path)
			}
			file := filepath.Join(root, filepath.FromSlash(target))
			if _, err := os.Stat(file); err != nil {
				t.Errorf("%s: link %s: there is no %s", p.path, link, target)
				continue
			}
			if to.Fragment == "" || path.Ext(target) != ".md" {
				continue
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !anchors(string(text))[to.Fragment] {
				t.Errorf("%s: link %s: %s has no such heading", p.path, link, target)
			}
		}
	}
}
