// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package release

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"regexp"
	"slices"
	"strings"

	"github.com/clusterstacks/cluster-stack-operator/internal/foreignyaml"
)

// The files of a release that have fixed names.
const (
	MetadataFile = "metadata.yaml"
	// StagesFile is there in releases whose addons are several charts, applied in stages.
	StagesFile = "clusteraddon.yaml"
	// LegacyValuesFile is the values template of releases whose addons are one chart.
	LegacyValuesFile = "cluster-addon-values.yaml"
	// OverwriteFile is the values template in the chart of an addon.
	OverwriteFile = "overwrite.yaml"
)

// LegacyAddon is the name of the only addon of a release without stages.
const LegacyAddon = "cluster-addon"

// Metadata is what metadata.yaml says about the versions in a release.
type Metadata struct {
	ClusterStack Version
	// Kubernetes is the exact version for the clusters of this release, such as "v1.35.4".
	Kubernetes string
	// Patches of Kubernetes that the clusters of this release may have as well.
	Patches      Patches
	ClusterAddon Version
	// NodeImage is nil in releases that bring no node images.
	NodeImage *Version
}

// Release is an opened release. It does not change.
type Release struct {
	Name     Name
	Metadata Metadata
	// Warnings are faults that do not keep the release from being used. Sorted as found, stable.
	Warnings []string
	// Contradictions are those of the warnings that say that its files are of another release than its name. Who
	// signed them did not sign them under this name.
	Contradictions []string

	classChart   Chart
	multistage   bool
	stages       map[Point][]Stage
	addonCharts  map[string]Chart
	legacyValues []byte
}

// InvalidError says why a release cannot be used.
type InvalidError struct {
	Name Name
	// File at fault; empty when it is the release as a whole.
	File   string
	Reason error
}

func (e *InvalidError) Error() string {
	if e.File == "" {
		return fmt.Sprintf("release %s: %v", e.Name, e.Reason)
	}
	return fmt.Sprintf("release %s: %s: %v", e.Name, e.File, e.Reason)
}

func (e *InvalidError) Unwrap() error { return e.Reason }

// Permanent reports that only another release can cure a malformed one.
func (e *InvalidError) Permanent() bool { return true }

// Open reads the release from its folder. The error is an *InvalidError when the release is at fault,
// and another one when its files could not be read.
func Open(fsys fs.FS, name Name) (*Release, error) {
	o := opener{fsys: fsys, rel: &Release{Name: name}}
	if err := o.open(); err != nil {
		return nil, err
	}
	return o.rel, nil
}

type opener struct {
	fsys  fs.FS
	files []string // the regular files of the folder
	rel   *Release
}

func (o *opener) open() error {
	entries, err := fs.ReadDir(o.fsys, ".")
	if err != nil {
		return fmt.Errorf("read release %s: %w", o.rel.Name, err)
	}
	for _, entry := range entries {
		if entry.Type().IsRegular() {
			o.files = append(o.files, entry.Name())
		}
	}
	for _, step := range []func() error{o.readMetadata, o.readClassChart, o.readStages, o.readAddonCharts, o.readDependencies} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (o *opener) readMetadata() error {
	data, err := o.read(MetadataFile, maxConfigSize)
	if err != nil {
		return err
	}
	metadata, err := parseMetadata(data)
	if err != nil {
		return o.invalid(MetadataFile, err)
	}
	o.rel.Metadata = metadata
	if metadata.ClusterStack != o.rel.Name.Version {
		o.contradict(MetadataFile, "versions.clusterStack is %s, but the release is called %s", metadata.ClusterStack, o.rel.Name)
	}
	if !strings.HasPrefix(metadata.Kubernetes, "v"+o.rel.Name.Kubernetes+".") {
		o.contradict(MetadataFile, "versions.kubernetes is %s, but the release is called %s", metadata.Kubernetes, o.rel.Name)
	}
	return nil
}

// A cluster's topology.version must equal this one, and Cluster API demands all of it there.
var kubernetesForm = regexp.MustCompile(`^v[0-9]+\.[0-9]+\.[0-9]+([-+][0-9A-Za-z.+-]+)?$`)

// ReadMetadata reads what the release in a folder says about itself. The rest of it need not be sound.
func ReadMetadata(fsys fs.FS) (Metadata, error) {
	data, err := fs.ReadFile(fsys, MetadataFile)
	if err != nil {
		return Metadata{}, err
	}
	metadata, err := parseMetadata(data)
	if err != nil {
		return Metadata{}, fmt.Errorf("%s: %w", MetadataFile, err)
	}
	return metadata, nil
}

func parseMetadata(data []byte) (Metadata, error) {
	var file struct {
		Versions struct {
			ClusterStack string `json:"clusterStack"`
			Kubernetes   string `json:"kubernetes"`
			Patches      string `json:"kubernetesPatches"`
			Components   struct {
				ClusterAddon string `json:"clusterAddon"`
				NodeImage    string `json:"nodeImage"`
			} `json:"components"`
		} `json:"versions"`
	}
	if err := foreignyaml.Unmarshal(data, &file); err != nil {
		return Metadata{}, err
	}
	var (
		metadata Metadata
		err      error
	)
	if metadata.ClusterStack, err = ParseVersion(file.Versions.ClusterStack); err != nil {
		return Metadata{}, fmt.Errorf("versions.clusterStack: %w", err)
	}
	metadata.Kubernetes = file.Versions.Kubernetes
	if !kubernetesForm.MatchString(metadata.Kubernetes) {
		return Metadata{}, fmt.Errorf("versions.kubernetes: %q is not a version with patch, such as v1.35.4", metadata.Kubernetes)
	}
	if metadata.Patches, err = ParsePatches(file.Versions.Patches); err != nil {
		return Metadata{}, fmt.Errorf("versions.kubernetesPatches: %w", err)
	}
	if metadata.ClusterAddon, err = ParseVersion(file.Versions.Components.ClusterAddon); err != nil {
		return Metadata{}, fmt.Errorf("versions.components.clusterAddon: %w", err)
	}
	if nodeImage := file.Versions.Components.NodeImage; nodeImage != "" {
		version, err := ParseVersion(nodeImage)
		if err != nil {
			return Metadata{}, fmt.Errorf("versions.components.nodeImage: %w", err)
		}
		metadata.NodeImage = &version
	}
	return metadata, nil
}

func (o *opener) readClassChart() error {
	file, err := o.findPackage("cluster-class", o.rel.Name.Version)
	if err != nil {
		return err
	}
	chart, err := o.readPackage(file)
	if err != nil {
		return err
	}
	header, err := readChartHeader(chart)
	if err != nil {
		return o.invalid(file, err)
	}
	if header.Version != o.rel.Name.Version.String() {
		o.contradict(file, "the chart's version is %q, so its ClusterClass may not be called %s", header.Version, o.rel.Name.ClassName())
	}
	o.rel.classChart = chart
	return nil
}

func (o *opener) readStages() error {
	if !slices.Contains(o.files, StagesFile) {
		legacy := []Stage{{Name: LegacyAddon, Action: Apply}}
		o.rel.stages = map[Point][]Stage{AfterControlPlaneInitialized: legacy, BeforeClusterUpgrade: legacy}
		return nil
	}
	o.rel.multistage = true
	data, err := o.read(StagesFile, maxConfigSize)
	if err != nil {
		return err
	}
	stages, warnings, err := parseStages(data)
	if err != nil {
		return o.invalid(StagesFile, err)
	}
	for _, warning := range warnings {
		o.warn(StagesFile, "%s", warning)
	}
	o.rel.stages = stages
	return nil
}

func (o *opener) readAddonCharts() error {
	file, err := o.findPackage("cluster-addon", o.rel.Metadata.ClusterAddon)
	if err != nil {
		return err
	}
	if !o.rel.multistage {
		chart, err := o.readPackage(file)
		if err != nil {
			return err
		}
		if _, err := readChartHeader(chart); err != nil {
			return o.invalid(file, err)
		}
		o.rel.addonCharts = map[string]Chart{LegacyAddon: chart}
		o.rel.legacyValues, err = o.read(LegacyValuesFile, maxConfigSize)
		return err
	}

	files, err := o.readArchive(file)
	if err != nil {
		return err
	}
	charts := map[string]Chart{}
	for _, f := range files {
		// A file beside the folders belongs to no chart.
		if addon, name, inside := strings.Cut(f.Name, "/"); inside {
			charts[addon] = append(charts[addon], File{Name: name, Data: f.Data})
		}
	}
	for _, point := range points {
		for _, stage := range o.rel.stages[point] {
			// What is deleted is known from what was applied; its chart may be gone.
			if stage.Action == Delete {
				continue
			}
			if _, err := readChartHeader(charts[stage.Name]); err != nil {
				return o.invalid(file, fmt.Errorf("addon %s of the stages at %s: %w", stage.Name, point, err))
			}
		}
	}
	o.rel.addonCharts = charts
	return nil
}

// findPackage finds the package of a chart. Its file name comes from the chart's name and version, and
// may say more than what we look for, but not less.
func (o *opener) findPackage(part string, version Version) (string, error) {
	stem := o.rel.Name.Prefix() + "-" + part + "-" + version.String()
	if file := stem + ".tgz"; slices.Contains(o.files, file) {
		return file, nil
	}
	var found []string
	for _, file := range o.files {
		before, after, contains := strings.Cut(file, stem)
		if rest, packed := strings.CutSuffix(after, ".tgz"); contains && packed && !begunBy(before) && !goesOn(rest) {
			found = append(found, file)
		}
	}
	switch len(found) {
	case 0:
		return "", o.invalid("", fmt.Errorf("file %s.tgz is missing", stem))
	case 1:
		return found[0], nil
	}
	return "", o.invalid("", fmt.Errorf("files %s could each be %s.tgz", strings.Join(found, ", "), stem))
}

// begunBy reports whether what comes before a provider makes another one of it: "docker" is the end of "mydocker".
func begunBy(before string) bool {
	return before != "" && isAlphanumeric(before[len(before)-1])
}

// goesOn reports whether what follows a version makes another version of it: "v1" is the beginning of "v10", "v1.2"
// and "v1-sha.abc", too.
func goesOn(rest string) bool {
	if rest == "" {
		return false
	}
	return rest[0] == '.' || rest[0] == '-' || isAlphanumeric(rest[0])
}

func isAlphanumeric(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// readPackage reads a Helm package, in which everything is in one folder.
func (o *opener) readPackage(file string) (Chart, error) {
	files, err := o.readArchive(file)
	if err != nil {
		return nil, err
	}
	chart, err := chartOf(files)
	if err != nil {
		return nil, o.invalid(file, err)
	}
	return chart, nil
}

// chartOf takes the files of a package out of the folder that all of them have to be in.
func chartOf(files []File) (Chart, error) {
	chart := make(Chart, 0, len(files))
	folder := ""
	for _, f := range files {
		top, name, inside := strings.Cut(f.Name, "/")
		if !inside || folder != "" && top != folder {
			return nil, fmt.Errorf("%q is outside of the chart's folder", f.Name)
		}
		folder = top
		chart = append(chart, File{Name: name, Data: f.Data})
	}
	return chart, nil
}

// ReadPackage reads a Helm package within the limits that hold for releases, and returns the name and the version
// that its chart says it has.
func ReadPackage(packed []byte) (name, version string, err error) {
	chart, err := OpenPackage(packed)
	if err != nil {
		return "", "", err
	}
	header, err := readChartHeader(chart)
	return header.Name, header.Version, err
}

// OpenPackage returns the chart in a Helm package, within the same limits.
func OpenPackage(packed []byte) (Chart, error) {
	files, err := readArchive(packed)
	if err != nil {
		return nil, err
	}
	return chartOf(files)
}

func (o *opener) readArchive(file string) ([]File, error) {
	packed, err := o.read(file, maxArchiveSize)
	if err != nil {
		return nil, err
	}
	files, err := readArchive(packed)
	if err != nil {
		return nil, o.invalid(file, err)
	}
	return files, nil
}

// read returns a file of the release's folder, which must be a regular one.
func (o *opener) read(file string, limit int64) ([]byte, error) {
	if !slices.Contains(o.files, file) {
		return nil, o.invalid("", fmt.Errorf("file %s is missing", file))
	}
	return o.readFile(file, limit)
}

func (o *opener) readFile(file string, limit int64) ([]byte, error) {
	f, err := o.fsys.Open(file)
	if err != nil {
		return nil, fmt.Errorf("read release %s: %w", o.rel.Name, err)
	}
	defer func() { _ = f.Close() }() // only read from
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read release %s: %s: %w", o.rel.Name, file, err)
	}
	if int64(len(data)) > limit {
		return nil, o.invalid(file, fmt.Errorf("larger than %d MiB", limit>>20))
	}
	return data, nil
}

func (o *opener) invalid(file string, reason error) error {
	return &InvalidError{Name: o.rel.Name, File: file, Reason: reason}
}

func (o *opener) warn(file, format string, args ...any) {
	o.rel.Warnings = append(o.rel.Warnings, file+": "+fmt.Sprintf(format, args...))
}

func (o *opener) contradict(file, format string, args ...any) {
	o.warn(file, format, args...)
	o.rel.Contradictions = append(o.rel.Contradictions, o.rel.Warnings[len(o.rel.Warnings)-1])
}

// chartHeader is what we need of Chart.yaml. The version is free text: charts of cluster stacks carry
// versions such as "v1", which are not semantic ones.
type chartHeader struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

func readChartHeader(chart Chart) (chartHeader, error) {
	data, found := chart.File("Chart.yaml")
	if !found {
		return chartHeader{}, errors.New("no Chart.yaml found")
	}
	var header chartHeader
	if err := foreignyaml.Unmarshal(data, &header); err != nil {
		return chartHeader{}, fmt.Errorf("Chart.yaml: %w", err)
	}
	if header.Name == "" || header.Version == "" {
		return chartHeader{}, errors.New("Chart.yaml lacks a name or a version")
	}
	return header, nil
}

// ClassChart returns the chart with the ClusterClass and its templates.
func (r *Release) ClassChart() Chart { return r.classChart }

// Multistage reports whether the addons of the release are several charts, applied in stages.
func (r *Release) Multistage() bool { return r.multistage }

// Stages returns what is to be done at a lifecycle point, in order. A release without stages applies
// its only addon, LegacyAddon, when the control plane is there and before each upgrade.
func (r *Release) Stages(point Point) []Stage { return slices.Clone(r.stages[point]) }

// Addons returns the addons that a cluster of this release has once it has passed all lifecycle
// points, sorted.
func (r *Release) Addons() []string { return addonsOf(r.stages) }

// Capabilities says which APIs the chart of an addon sees. An addon that asks for those of the cluster at one
// point sees them at all: it must not render differently from one to the next.
func (r *Release) Capabilities(addon string) Capabilities {
	for _, stages := range r.stages {
		for _, stage := range stages {
			if stage.Name == addon && stage.Capabilities == ClusterCapabilities {
				return ClusterCapabilities
			}
		}
	}
	return StandardCapabilities
}

// AddonChart returns the chart of an addon.
func (r *Release) AddonChart(addon string) (Chart, error) {
	chart, found := r.addonCharts[addon]
	if !found {
		return nil, &InvalidError{Name: r.Name, Reason: fmt.Errorf("it has no chart for addon %q", addon)}
	}
	return chart, nil
}

// ValuesTemplate returns the text from which the values of an addon are made for each cluster.
func (r *Release) ValuesTemplate(addon string) (template []byte, found bool) {
	if !r.multistage {
		return r.legacyValues, addon == LegacyAddon
	}
	return r.addonCharts[addon].File(OverwriteFile)
}

// Size returns how much memory the files of the release take, in bytes.
func (r *Release) Size() int {
	size := len(r.legacyValues) + r.classChart.size()
	for _, chart := range r.addonCharts {
		size += chart.size()
	}
	return size
}
