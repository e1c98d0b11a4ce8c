// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package crds

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// most is how many bytes an archive may unpack to; the CustomResourceDefinitions of the largest provider are a
// tenth of it.
const most = 64 << 20

// kustomizationFile is the only name that providers of Cluster API give to it.
const kustomizationFile = "kustomization.yaml"

// Kustomization is what is read of a kustomization.yaml: the providers of Cluster API use no more of it for their
// kinds, but for patches that set up conversion.
type Kustomization struct {
	Namespace  string   `json:"namespace"`
	NamePrefix string   `json:"namePrefix"`
	Resources  []string `json:"resources"`
	Labels     []struct {
		Pairs map[string]string `json:"pairs"`
	} `json:"labels"`
	CommonLabels map[string]string `json:"commonLabels"`
}

// ReadKustomization reads the kustomization of a folder.
func ReadKustomization(files fs.FS, dir string) (Kustomization, error) {
	var k Kustomization
	file := path.Join(dir, kustomizationFile)
	raw, err := fs.ReadFile(files, file)
	if err != nil {
		return k, err
	}
	if err := yaml.Unmarshal(raw, &k); err != nil {
		return k, fmt.Errorf("%s: %w", file, err)
	}
	return k, nil
}

// Label gives an object the labels of the kustomization.
func (k Kustomization) Label(o interface {
	GetLabels() map[string]string
	SetLabels(map[string]string)
}) {
	labels := maps.Clone(o.GetLabels())
	if labels == nil {
		labels = map[string]string{}
	}
	maps.Copy(labels, k.CommonLabels)
	for _, l := range k.Labels {
		maps.Copy(labels, l.Pairs)
	}
	o.SetLabels(labels)
}

// ReadFolder reads a folder: as kustomize would, without patches, where it has a kustomization.yaml, else all .yaml,
// .yml and .json files below it. What it gives is as it was found, but for the labels.
func ReadFolder(files fs.FS, dir string) ([]*apiextensionsv1.CustomResourceDefinition, error) {
	found, err := readFolder(files, dir, nil)
	return found.crds, err
}

// found are the CustomResourceDefinitions of a path, and how many other objects there are.
type found struct {
	crds   []*apiextensionsv1.CustomResourceDefinition
	others int
}

func (f *found) add(other found) {
	f.crds = append(f.crds, other.crds...)
	f.others += other.others
}

func find(name string) (found, error) {
	info, err := os.Stat(name)
	switch {
	case err != nil:
		return found{}, err
	case info.IsDir():
		f, err := readFolder(os.DirFS(name), ".", nil)
		if err != nil {
			return found{}, fmt.Errorf("%s: %w", name, err)
		}
		return f, nil
	case strings.HasSuffix(name, ".tar.gz") || strings.HasSuffix(name, ".tgz"):
		f, err := readArchive(name)
		if err != nil {
			return found{}, fmt.Errorf("%s: %w", name, err)
		}
		return f, nil
	}
	raw, err := os.ReadFile(name)
	if err != nil {
		return found{}, err
	}
	return parse(name, raw)
}

// readFolder reads a folder that was come to by way of others.
func readFolder(files fs.FS, dir string, way []string) (found, error) {
	if slices.Contains(way, dir) {
		return found{}, fmt.Errorf("%s leads back to the folder %s, which names it", path.Join(way[len(way)-1], kustomizationFile), dir)
	}
	way = append(slices.Clone(way), dir)
	k, err := ReadKustomization(files, dir)
	switch {
	case err == nil:
		return readKustomized(files, dir, k, way)
	case !errors.Is(err, fs.ErrNotExist):
		return found{}, err
	}
	entries, err := fs.ReadDir(files, dir)
	if err != nil {
		return found{}, err
	}
	var all found
	for _, entry := range entries {
		name := path.Join(dir, entry.Name())
		var f found
		switch {
		case entry.IsDir():
			f, err = readFolder(files, name, way)
		case slices.Contains([]string{".yaml", ".yml", ".json"}, path.Ext(name)):
			f, err = readFile(files, name)
		}
		if err != nil {
			return found{}, err
		}
		all.add(f)
	}
	return all, nil
}

func readKustomized(files fs.FS, dir string, k Kustomization, way []string) (found, error) {
	var all found
	for _, resource := range k.Resources {
		name := path.Join(dir, resource)
		var f found
		info, err := fs.Stat(files, name)
		switch {
		case err != nil:
			err = fmt.Errorf("%s names the resource %s: %w; a sandbox reads what lies inside the given folder", path.Join(dir, kustomizationFile), resource, err)
		case info.IsDir():
			f, err = readFolder(files, name, way)
		default:
			f, err = readFile(files, name)
		}
		if err != nil {
			return found{}, err
		}
		all.add(f)
	}
	for _, crd := range all.crds {
		k.Label(crd)
	}
	return all, nil
}

func readFile(files fs.FS, name string) (found, error) {
	raw, err := fs.ReadFile(files, name)
	if err != nil {
		return found{}, err
	}
	return parse(name, raw)
}

// readArchive unpacks an archive beside the user's temporary files, to read it as a folder.
func readArchive(name string) (_ found, err error) {
	dir, err := os.MkdirTemp("", "cluster-stack-crds-")
	if err != nil {
		return found{}, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := unpack(name, dir); err != nil {
		return found{}, err
	}
	return readFolder(os.DirFS(dir), ".", nil)
}

// unpack writes the regular files of an archive below a folder, and nothing outside of it.
func unpack(archive, dir string) error {
	file, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer file.Close()
	compressed, err := gzip.NewReader(file)
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	content := &io.LimitedReader{R: compressed, N: most}
	reader := tar.NewReader(content)
	for {
		header, err := reader.Next()
		switch {
		case content.N == 0:
			return fmt.Errorf("unpacks to more than %d MiB", most>>20)
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case header.Typeflag != tar.TypeReg:
			continue
		}
		raw, err := io.ReadAll(reader)
		if err != nil {
			return err
		}
		if err := root.MkdirAll(filepath.Dir(header.Name), 0o700); err != nil {
			return err
		}
		if err := root.WriteFile(header.Name, raw, 0o600); err != nil {
			return err
		}
	}
}

// parse reads the documents of a file.
func parse(name string, raw []byte) (found, error) {
	var all found
	reader := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(raw)))
	for {
		doc, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return found{}, fmt.Errorf("%s: %w", name, err)
		}
		f, err := parseDocument(doc)
		if err != nil {
			return found{}, fmt.Errorf("%s: %w", name, err)
		}
		all.add(f)
	}
}

func parseDocument(doc []byte) (found, error) {
	if !hasContent(doc) {
		return found{}, nil
	}
	var meta struct {
		Kind  string            `json:"kind"`
		Items []json.RawMessage `json:"items"`
	}
	if err := yaml.Unmarshal(doc, &meta); err != nil && !bytes.Contains(doc, []byte("kind: CustomResourceDefinition")) {
		// A document of a component file may be no YAML before its variables are filled in.
		return found{others: 1}, nil
	}
	switch meta.Kind {
	case "List", "CustomResourceDefinitionList": // as kubectl puts out
		var all found
		for _, item := range meta.Items {
			f, err := parseDocument(item)
			if err != nil {
				return found{}, err
			}
			all.add(f)
		}
		return all, nil
	case "CustomResourceDefinition", "":
	default:
		return found{others: 1}, nil
	}
	var crd apiextensionsv1.CustomResourceDefinition
	if err := yaml.Unmarshal(doc, &crd); err != nil {
		return found{}, err
	}
	if crd.Kind == "" {
		return found{others: 1}, nil
	}
	return found{crds: []*apiextensionsv1.CustomResourceDefinition{&crd}}, nil
}

// hasContent tells a document from one of comments and blank lines only.
func hasContent(doc []byte) bool {
	for line := range bytes.Lines(doc) {
		line = bytes.TrimSpace(line)
		if len(line) > 0 && line[0] != '#' && !bytes.Equal(line, []byte("---")) {
			return true
		}
	}
	return false
}
