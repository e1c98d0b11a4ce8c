// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Channel is the kind of releases that a ClusterStack subscribes to.
// +kubebuilder:validation:Enum=stable;beta;custom
type Channel string

const (
	// ChannelStable has the numbered releases: v1, v2, v3.
	ChannelStable Channel = "stable"
	// ChannelBeta has what leads up to numbered releases: v2-beta.1, v2-beta.2.
	ChannelBeta Channel = "beta"
	// ChannelCustom has all other releases: v0-sha.abc1234, v1-custom.foo, v0-ttl.1713.
	ChannelCustom Channel = "custom"
)

// ReleasePhase says how far a release got.
type ReleasePhase string

const (
	// ReleasePhaseNone means that nothing was done yet.
	ReleasePhaseNone ReleasePhase = ""
	// ReleasePhaseDownloading means that the release is being fetched.
	ReleasePhaseDownloading ReleasePhase = "downloading release assets"
	// ReleasePhaseProvider means that the provider integration is at work.
	ReleasePhaseProvider ReleasePhase = "provider-specific work"
	// ReleasePhaseApplying means that the cluster class is being applied.
	ReleasePhaseApplying ReleasePhase = "applying objects"
	// ReleasePhaseDone means that the release can be used.
	ReleasePhaseDone ReleasePhase = "done"
)

// ClusterStackSpec says which releases of a cluster stack shall be usable.
// +kubebuilder:validation:XValidation:rule="(has(self.noProvider) && self.noProvider) || has(self.providerRef)",message="providerRef is required unless noProvider is true"
// +kubebuilder:validation:XValidation:rule="(has(self.noProvider) && self.noProvider) || !has(self.providerRef) || (has(self.providerRef.apiVersion) && has(self.providerRef.kind) && self.providerRef.kind.matches('.Template$') && has(self.providerRef.name) && size(self.providerRef.name) > 0)",message="providerRef needs apiVersion, name, and a kind that ends in Template"
// +kubebuilder:validation:XValidation:rule="self.channel != 'stable' || !has(self.versions) || self.versions.all(v, v.matches('^v[0-9]+$') || (oldSelf.hasValue() && has(oldSelf.value().versions) && v in oldSelf.value().versions))",message="versions of the channel stable have the form v1; use the channel beta or custom for others",fieldPath=".versions",optionalOldSelf=true
// +kubebuilder:validation:XValidation:rule="self.channel != 'beta' || !has(self.versions) || self.versions.all(v, v.matches('^v[0-9]+-beta[.][0-9]+$'))",message="versions of the channel beta have the form v1-beta.2",fieldPath=".versions"
type ClusterStackSpec struct {
	// provider is the name of the infrastructure provider, as in the names of the releases.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=40
	// +kubebuilder:validation:Pattern=`^[a-z0-9]+$`
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="provider cannot be changed"
	Provider string `json:"provider"`

	// name of the cluster stack, as in the names of the releases.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=40
	// +kubebuilder:validation:Pattern=`^[a-z0-9]+$`
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="name cannot be changed"
	Name string `json:"name"`

	// kubernetesVersion is the minor version of Kubernetes, for example 1.36.
	// +required
	// +kubebuilder:validation:MaxLength=8
	// +kubebuilder:validation:Pattern=`^\d\.\d+$`
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="kubernetesVersion cannot be changed: make another ClusterStack for another minor version"
	KubernetesVersion string `json:"kubernetesVersion"`

	// channel of releases to subscribe to.
	// +optional
	// +kubebuilder:default:=stable
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="channel cannot be changed"
	Channel Channel `json:"channel,omitempty"`

	// versions that are always kept, for example v1 or, in the channel custom, v0-sha.abc1234.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=128
	// +kubebuilder:validation:items:MaxLength=63
	// +kubebuilder:validation:items:Pattern=`^v\d+(-\w+\.\w+)?$`
	Versions []string `json:"versions,omitempty"`

	// autoSubscribe makes the newest release of the channel usable as soon as it is published.
	// +optional
	// +kubebuilder:default:=true
	AutoSubscribe bool `json:"autoSubscribe"`

	// noProvider tells that nothing has to be done on the provider for a release to be usable.
	// +optional
	// +kubebuilder:default:=false
	NoProvider bool `json:"noProvider,omitempty"`

	// providerRef refers to the template from which the object of the provider integration is made
	// for each release. It is looked up in the namespace of the ClusterStack.
	// +optional
	ProviderRef *corev1.ObjectReference `json:"providerRef,omitempty"`

	// source of the releases. Without it they come from the source that the operator was started with.
	// +optional
	Source *ReleaseSource `json:"source,omitempty"`

	// verify says whose signature a release must have. Without it the operator's own rules apply.
	// +optional
	Verify *Verification `json:"verify,omitempty"`

	// historyLimit is how many releases before the newest usable one are kept although nobody uses or
	// names them, so that Clusters can go back to them. Without it none are; a release that is in use
	// always stays.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100
	HistoryLimit int32 `json:"historyLimit,omitempty"`

	// paused makes the operator leave the ClusterStack and its releases as they are.
	// +optional
	Paused bool `json:"paused,omitempty"`
}

// ReleaseSource is a place from which releases are fetched.
// +kubebuilder:validation:XValidation:rule="[has(self.directory), has(self.oci), has(self.github)].filter(given, given).size() == 1",message="exactly one of directory, oci and github is required"
// +kubebuilder:validation:XValidation:rule="!has(self.directory) || !has(self.secretRef)",message="a directory needs no secretRef"
type ReleaseSource struct {
	// directory is a folder with one folder for each release.
	// +optional
	Directory *DirectorySource `json:"directory,omitempty"`

	// oci is a repository in an OCI registry, whose tags are the names of releases.
	// +optional
	OCI *OCISource `json:"oci,omitempty"`

	// github is a repository on GitHub or GitHub Enterprise, whose releases are called like ours.
	// +optional
	GitHub *GitHubSource `json:"github,omitempty"`

	// secretRef names a Secret in the namespace of the ClusterStack with what the source asks for:
	// username and password, or .dockerconfigjson, or token, and ca.crt with the certificates of
	// authorities to trust.
	// +optional
	SecretRef *LocalReference `json:"secretRef,omitempty"`

	// timeout for one request to the source, by default the operator's.
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('1h')",message="timeout must be between 1s and 1h"
	Timeout *metav1.Duration `json:"timeout,omitempty"`

	// pollInterval is how often the source is asked for new releases, by default the operator's.
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('24h')",message="pollInterval must be between 1s and 24h"
	PollInterval *metav1.Duration `json:"pollInterval,omitempty"`
}

// DirectorySource is a folder of releases in the file system of the operator.
type DirectorySource struct {
	// path of the folder, relative to the operator's --release-dir.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:XValidation:rule="!self.startsWith('/') && !self.split('/').exists(part, part == '..')",message="path must be relative and stay below the operator's --release-dir"
	Path string `json:"path"`
}

// OCISource is a repository in an OCI registry.
type OCISource struct {
	// repository with its registry, for example ghcr.io/example/cluster-stacks.
	// +required
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:Pattern=`^([A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(:[0-9]+)?(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)+$`
	Repository string `json:"repository"`

	// plainHTTP speaks to the registry without TLS.
	// +optional
	PlainHTTP bool `json:"plainHTTP,omitempty"`
}

// GitHubSource is a repository on GitHub or GitHub Enterprise.
type GitHubSource struct {
	// owner of the repository: a user or an organization.
	// +required
	// +kubebuilder:validation:MaxLength=100
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9][A-Za-z0-9_-]*$`
	Owner string `json:"owner"`

	// repository is its name without the owner.
	// +required
	// +kubebuilder:validation:MaxLength=100
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9._-]*[A-Za-z0-9_-]$`
	Repository string `json:"repository"`

	// apiURL of GitHub Enterprise, for example https://github.example.com/api/v3. Without it
	// it is GitHub's.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:Pattern=`^https?://[^@?#[:space:]]+$`
	APIURL string `json:"apiURL,omitempty"`
}

// LocalReference names an object in the same namespace.
type LocalReference struct {
	// name of the object.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
}

// Verification says whose signature a release must have. One key or identity that has signed it is
// enough. Where neither is listed, the operator's own count.
type Verification struct {
	// required refuses releases without a valid signature. If false they are used, and their status
	// does not name a signer.
	// +optional
	// +kubebuilder:default:=true
	Required *bool `json:"required,omitempty"`

	// publicKeys in PEM form whose signatures are trusted, as made by cosign generate-key-pair.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=8192
	// +kubebuilder:validation:items:Pattern=`^\s*-----BEGIN (RSA )?PUBLIC KEY-----`
	PublicKeys []string `json:"publicKeys,omitempty"`

	// identities whose signatures are trusted, as certified for keyless signing.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	Identities []CertificateIdentity `json:"identities,omitempty"`

	// trustedRootRef names a ConfigMap in the namespace of the ClusterStack whose key trusted_root.json has the
	// certificate authorities and transparency logs that certify identities. Without it they are the
	// operator's.
	// +optional
	TrustedRootRef *LocalReference `json:"trustedRootRef,omitempty"`
}

// CertificateIdentity is whom a certificate for keyless signing was issued to, and by whom.
// Expressions must match the whole text.
// +kubebuilder:validation:XValidation:rule="has(self.issuer) != has(self.issuerRegExp)",message="exactly one of issuer and issuerRegExp is required"
// +kubebuilder:validation:XValidation:rule="has(self.subject) != has(self.subjectRegExp)",message="exactly one of subject and subjectRegExp is required"
type CertificateIdentity struct {
	// issuer of the identity, for example https://token.actions.githubusercontent.com.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Issuer string `json:"issuer,omitempty"`

	// issuerRegExp is a regular expression for the issuer.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	IssuerRegExp string `json:"issuerRegExp,omitempty"`

	// subject is who signs: an e-mail address, or the URL of a workflow.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Subject string `json:"subject,omitempty"`

	// subjectRegExp is a regular expression for the subject.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	SubjectRegExp string `json:"subjectRegExp,omitempty"`
}

// ClusterStackStatus says which releases are usable.
type ClusterStackStatus struct {
	// latestRelease is the newest usable release and its Kubernetes version, as "<name> | <version>".
	// +optional
	LatestRelease string `json:"latestRelease,omitempty"`

	// summary has one entry for each release.
	// +optional
	// +listType=map
	// +listMapKey=name
	Summary []ClusterStackReleaseSummary `json:"summary,omitempty"`

	// usableVersions are the versions that can be used, separated by ", ".
	// +optional
	UsableVersions string `json:"usableVersions,omitempty"`

	// observedGeneration is the generation that this status belongs to.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// conditions of the ClusterStack.
	// +optional
	Conditions Conditions `json:"conditions,omitempty"`
}

// ClusterStackReleaseSummary tells how far one release got.
type ClusterStackReleaseSummary struct {
	// name is the version of the release in the form of release names, for example v0-sha-abc1234.
	Name string `json:"name"`
	// ready is true when the release can be used.
	Ready bool `json:"ready"`
	// phase says how far the release got.
	Phase ReleasePhase `json:"phase"`
	// message says what the release waits for.
	// +optional
	Message string `json:"message,omitempty"`
}

// ClusterStack asks for releases of one cluster stack for one minor version of Kubernetes.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:path=clusterstacks,scope=Namespaced,shortName=csk,categories={cluster-api,cluster-stack}
// +kubebuilder:subresource:status
// +kubebuilder:metadata:labels={"cluster.x-k8s.io/provider=cluster-stack-operator","cluster.x-k8s.io/v1beta1=v1beta1","clusterctl.cluster.x-k8s.io=","clusterctl.cluster.x-k8s.io/move-hierarchy="}
// +kubebuilder:printcolumn:name="Provider",type="string",JSONPath=".spec.provider"
// +kubebuilder:printcolumn:name="ClusterStack",type="string",JSONPath=".spec.name"
// +kubebuilder:printcolumn:name="K8s",type="string",JSONPath=".spec.kubernetesVersion"
// +kubebuilder:printcolumn:name="Channel",type="string",JSONPath=".spec.channel"
// +kubebuilder:printcolumn:name="Autosubscribe",type="string",JSONPath=".spec.autoSubscribe"
// +kubebuilder:printcolumn:name="Usable",type="string",JSONPath=".status.usableVersions"
// +kubebuilder:printcolumn:name="Latest",type="string",JSONPath=".status.latestRelease"
// +kubebuilder:printcolumn:name="Age",type="date",JSONPath=".metadata.creationTimestamp",description="Time since the ClusterStack was created"
// +kubebuilder:printcolumn:name="Reason",type="string",JSONPath=".status.conditions[?(@.type=='Ready')].reason"
// +kubebuilder:printcolumn:name="Message",type="string",JSONPath=".status.conditions[?(@.type=='Ready')].message"
// +kubebuilder:printcolumn:name="Paused",type="string",priority=10,JSONPath=".status.conditions[?(@.type=='Paused')].status"
type ClusterStack struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   ClusterStackSpec   `json:"spec,omitempty"`
	Status ClusterStackStatus `json:"status,omitempty"`
}

// GetConditions returns the conditions of the ClusterStack.
func (c *ClusterStack) GetConditions() Conditions { return c.Status.Conditions }

// SetConditions replaces the conditions of the ClusterStack.
func (c *ClusterStack) SetConditions(conditions Conditions) { c.Status.Conditions = conditions }

// ClusterStackList is a list of ClusterStacks.
//
// +kubebuilder:object:root=true
type ClusterStackList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []ClusterStack `json:"items"`
}
