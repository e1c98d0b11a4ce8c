// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package build

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"

	"sigs.k8s.io/yaml"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
)

// Release is a release as it was built, not written anywhere yet.
type Release struct {
	Name release.Name
	// Files by name.
	Files map[string][]byte
}

// Build makes the release of a stack in the given versions.
func (s *Stack) Build(versions Versions) (*Release, error) {
	b := builder{
		stack:    s,
		versions: versions,
		release:  &Release{Name: s.Name(versions.ClusterStack), Files: map[string][]byte{}},
	}
	if _, err := release.ParseName(b.release.Name.String()); err != nil {
		return nil, err
	}
	for _, step := range []func() error{b.addClass, b.addAddons, b.addTexts, b.addHashes, b.addMetadata} {
		if err := step(); err != nil {
			return nil, fmt.Errorf("build %s: %w", b.release.Name, err)
		}
	}
	return b.release, nil
}

type builder struct {
	stack    *Stack
	versions Versions
	release  *Release
}

func (b *builder) addClass() error {
	return b.addPackage(classDir, b.versions.ClusterStack)
}

// addPackage adds the Helm package of the chart in a folder of the stack. Its file is called after
// the chart, and that name is the only way for a reader to find it.
func (b *builder) addPackage(folder string, version release.Version) error {
	files, err := b.chart(folder)
	if err != nil {
		return err
	}
	name := b.release.Name.Prefix() + "-" + folder
	if got, err := chartName(files["Chart.yaml"]); err != nil || got != name {
		return errors.Join(err, fmt.Errorf("%s/Chart.yaml: the chart must be called %s, not %q: the operator finds it by that name", folder, name, got))
	}
	if files["Chart.yaml"], err = setChartVersion(files["Chart.yaml"], version); err != nil {
		return fmt.Errorf("%s/Chart.yaml: %w", folder, err)
	}
	return b.addArchive(name+"-"+version.String()+".tgz", below(name, files))
}

func (b *builder) addAddons() error {
	if len(b.stack.paths(addonDir)) == 0 {
		return errNoAddons
	}
	if !b.stack.multistage() {
		return b.addPackage(addonDir, b.versions.ClusterAddon)
	}
	bundle := map[string][]byte{}
	for _, name := range b.stack.paths(addonDir) {
		if topFolder(name) == "" {
			bundle[name] = b.stack.files[path.Join(addonDir, name)]
		}
	}
	for _, addon := range b.stack.Addons() {
		files, err := b.chart(path.Join(addonDir, addon))
		if err != nil {
			return err
		}
		maps.Copy(bundle, below(addon, files))
	}
	name := b.release.Name.Prefix() + "-" + addonDir + "-" + b.versions.ClusterAddon.String() + ".tgz"
	return b.addArchive(name, bundle)
}

// chart returns the files of a chart with the versions filled in.
func (b *builder) chart(folder string) (map[string][]byte, error) {
	files, err := b.stack.chartFiles(folder)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", folder, err)
	}
	if _, found := files["Chart.yaml"]; !found {
		return nil, fmt.Errorf("%s is not a chart: it has no Chart.yaml", folder)
	}
	maps.Copy(files, b.stack.dependencies[folder])
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(files)) {
		filled, err := fillIn(path.Join(folder, name), files[name], b.versions)
		files[name] = filled
		errs = append(errs, err)
	}
	return files, errors.Join(errs...)
}

func chartName(data []byte) (string, error) {
	var chart struct {
		Name string `json:"name"`
	}
	err := yaml.Unmarshal(data, &chart)
	return chart.Name, err
}

func (b *builder) addArchive(name string, files map[string][]byte) error {
	packed, err := pack(files)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	b.release.Files[name] = packed
	return nil
}

// addTexts adds the files that go into a release as they are but for versions.
func (b *builder) addTexts() error {
	for _, name := range []string{release.StagesFile, release.LegacyValuesFile} {
		data, found := b.stack.files[name]
		if !found {
			continue
		}
		filled, err := fillIn(name, data, b.versions)
		if err != nil {
			return err
		}
		b.release.Files[name] = filled
	}
	return nil
}

func (b *builder) addHashes() error {
	hashes, err := b.stack.Hash()
	if err != nil {
		return err
	}
	b.release.Files[HashesFile], err = hashes.encode()
	return err
}

func (b *builder) addMetadata() error {
	b.release.Files[release.MetadataFile] = fmt.Appendf(nil, `apiVersion: metadata.clusterstack.x-k8s.io/v1alpha1
versions:
    clusterStack: %s
    kubernetes: %s
    components:
        clusterAddon: %s
        nodeImage: %s
`, b.versions.ClusterStack, b.stack.Config.Kubernetes, b.versions.ClusterAddon, b.versions.NodeImage)
	return nil
}
