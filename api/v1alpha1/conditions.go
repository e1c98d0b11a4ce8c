// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package v1alpha1

// Condition types. True is the state that a user wants, but for PausedCondition.
const (
	// ReadyCondition sums up all other conditions of an object.
	ReadyCondition = "Ready"

	// AssetsClientAPIAvailableCondition of a ClusterStack that subscribes: its source can be used, as far as settings
	// and credentials go. Whether it answers is said by ReleasesSynced. It has no part in Ready.
	AssetsClientAPIAvailableCondition = "AssetsClientAPIAvailable"
	// ReleasesSyncedCondition of a ClusterStack that subscribes: the list of releases at the source was read, and is no
	// older than what came from there. It has no part in Ready.
	ReleasesSyncedCondition = "ReleasesSynced"
	// ProviderClusterStackReleasesSyncedCondition of a ClusterStack: the objects of the provider
	// integration exist for all its releases.
	ProviderClusterStackReleasesSyncedCondition = "ProviderClusterStackReleasesSynced"
	// ClusterStackReleasesSyncedCondition of a ClusterStack: its ClusterStackReleases exist, and
	// those that nobody needs are gone.
	ClusterStackReleasesSyncedCondition = "ClusterStackReleasesSynced"
	// ClusterStackReleaseAvailableCondition of a ClusterStack: at least one release can be used.
	ClusterStackReleaseAvailableCondition = "ClusterStackReleaseAvailable"

	// ClusterStackReleaseDownloadedCondition of a ClusterStackRelease or ClusterAddon: the release is
	// in the store, checked and well formed.
	ClusterStackReleaseDownloadedCondition = "ClusterStackReleaseDownloaded"
	// ProviderClusterStackReleaseReadyCondition of a ClusterStackRelease: the provider integration has
	// done its work.
	ProviderClusterStackReleaseReadyCondition = "ProviderClusterStackReleaseReady"
	// SourceUnchangedCondition of a ClusterStackRelease: its source offers what was fetched from it. It has no part
	// in Ready, since the operator keeps to what it has.
	SourceUnchangedCondition = "SourceUnchanged"
	// HelmChartAppliedCondition of a ClusterStackRelease: the cluster class is in the management
	// cluster. Of a ClusterAddon: the addons of the release are in the cluster.
	HelmChartAppliedCondition = "HelmChartApplied"

	// ClusterReadyCondition of a ClusterAddon: the control plane is initialized and can be reached.
	ClusterReadyCondition = "ClusterReady"
	// EvaluatedCELCondition of a ClusterAddon: no condition of a stage is waited for.
	EvaluatedCELCondition = "EvaluatedCEL"
	// LeftoversPrunedCondition of a ClusterStackRelease or ClusterAddon: what an earlier release had
	// and this one has not is gone.
	LeftoversPrunedCondition = "LeftoversPruned"
	// InSyncCondition of a ClusterAddon: nobody has changed or deleted objects of its addons, as far as
	// that is only to be told and not corrected. It has no part in Ready.
	InSyncCondition = "InSync"
	// PausedCondition is there, and True, while the object or, of a ClusterAddon, its Cluster or, of a
	// ClusterStackRelease, its ClusterClass is paused. It is the one condition that is not a state to wish
	// for; the name is the one that all of Cluster API uses.
	PausedCondition = "Paused"
)

// Reasons of every kind.
const (
	// DoneReason is the reason of a condition that is True. Nothing to do.
	DoneReason = "Done"
	// WaitingReason is the reason of a condition that an earlier one holds up. See that one.
	WaitingReason = "Waiting"
	// InternalErrorReason: something failed that has no reason of its own; it is tried again. See the
	// message and the log of the operator.
	InternalErrorReason = "InternalError"
	// PausedReason: the object, its Cluster or its ClusterClass is paused. Remove the annotation
	// cluster.x-k8s.io/paused, or set spec.paused of the ClusterStack or Cluster to false.
	PausedReason = "Paused"
	// DeletingReason: the object is being deleted. See the message for what it waits for.
	DeletingReason = "Deleting"
)

// Reasons of ClusterStack.
const (
	// FailedCreateAssetsClientReason: the source cannot be used, or does not accept the credentials. Check spec.source,
	// the Secret that it names, and the flags and the environment of the operator.
	FailedCreateAssetsClientReason = "FailedCreateAssetsClient"
	// FailedToSyncReason: the list of releases could not be read; releases that are there stay. Check
	// that the source is reachable.
	FailedToSyncReason = "FailedToSync"
	// ProviderTemplateNotFoundReason: spec.providerRef refers to nothing. Create the template in the
	// namespace of the ClusterStack.
	ProviderTemplateNotFoundReason = "ProviderTemplateNotFound"
	// FailedToCreateOrUpdateReason: an object could not be written. See the message; often a right
	// is missing.
	FailedToCreateOrUpdateReason = "FailedToCreateOrUpdate"
	// NoReleaseReadyReason: no release can be used yet. See status.summary.
	NoReleaseReadyReason = "NoReleaseReady"
	// InvalidSpecReason: the spec asks for something that cannot be. Correct what the message names.
	InvalidSpecReason = "InvalidSpec"
	// ReleasesUnorderedReason: the newest release cannot be told, since versions such as hashes have no
	// order and the source does not say when they were published. Name the wanted ones in spec.versions.
	ReleasesUnorderedReason = "ReleasesUnordered"
	// SourceRollbackReason: the source offers only releases that are older than one that came from it before;
	// the subscription stays with that one. Find out who took it away. If it was withdrawn on purpose, delete its
	// ClusterStackRelease.
	SourceRollbackReason = "SourceRollback"
)

// Reasons of ClusterStackRelease.
const (
	// ReleaseAssetsNotDownloadedYetReason: the release is being fetched. Wait.
	ReleaseAssetsNotDownloadedYetReason = "ReleaseAssetsNotDownloadedYet"
	// IssueWithReleaseAssetsReason: the release is malformed. Publish a corrected release.
	IssueWithReleaseAssetsReason = "IssueWithReleaseAssets"
	// NotPublishedReason: the source has no such release. Publish it, or correct spec.versions of
	// the ClusterStack.
	NotPublishedReason = "NotPublished"
	// FetchFailedReason: the release could not be fetched. Check that the source is reachable.
	FetchFailedReason = "FetchFailed"
	// VerificationFailedReason: the release is not signed by anybody whose signature counts. Have it signed, or
	// correct spec.verify of the ClusterStack.
	VerificationFailedReason = "VerificationFailed"
	// StoreFullReason: the operator has no place for another release; those it has stay usable. Give its volume
	// more space, raise --store-quota, or remove releases that nobody needs.
	StoreFullReason = "StoreFull"
	// NotOfferedReason: the source no longer has the release. It stays in use; publish it again, so that it can be
	// fetched should the operator lose its copy.
	NotOfferedReason = "NotOffered"
	// ReleaseMovedReason: the source offers other content under the name of a release that is in use;
	// the content fetched first stays in use. Publish changed content under a new version, or delete the
	// ClusterStackRelease once no Cluster uses it.
	ReleaseMovedReason = "ReleaseMoved"
	// ProcessOngoingReason: the provider integration is at work. See its object.
	ProcessOngoingReason = "ProcessOngoing"
	// InUseReason: the release is being deleted and a Cluster still uses it. Move or delete the
	// Cluster.
	InUseReason = "InUse"
	// NotAllowedReason: the cluster class has an object that may not be created in the management
	// cluster, or spec.providerRef names a kind that is not one of a provider integration. Remove it.
	NotAllowedReason = "NotAllowed"
)

// Reasons of ClusterStackRelease and ClusterAddon about applying.
const (
	// FailedToApplyObjectsReason: objects could not be applied. See the message and status.resources.
	FailedToApplyObjectsReason = "FailedToApplyObjects"
	// ObjectsApplyingOngoingReason: objects are being applied, or a render waits for its turn. Wait.
	ObjectsApplyingOngoingReason = "ObjectsApplyingOngoing"
	// RenderFailedReason: a chart of the release cannot be rendered. Publish a corrected release.
	RenderFailedReason = "RenderFailed"
	// ConflictReason: somebody else manages a field that the release sets, or two of its addons have one
	// object. Let go of the field, remove the object, or take it out of one of the charts.
	ConflictReason = "Conflict"
	// ImmutableFieldChangedReason: the release changes a field that can only be set when the object is
	// made. Publish a release that leaves it as it was, or annotate the object with
	// clusterstack.x-k8s.io/recreate=allowed to have it deleted and made anew.
	ImmutableFieldChangedReason = "ImmutableFieldChanged"
	// FailedToDeleteObjectsReason: objects could not be deleted. See the message.
	FailedToDeleteObjectsReason = "FailedToDeleteObjects"
)

// Reasons of ClusterAddon.
const (
	// NotAClusterStackReason: the Cluster no longer uses a release of a cluster stack; its addons are
	// left as they are. Nothing to do, unless that is a mistake: then name the class of a release.
	NotAClusterStackReason = "NotAClusterStack"
	// ControlPlaneNotReadyReason: the control plane is not initialized yet, or there is no connection to it;
	// then the message says why. See the conditions of the Cluster, and the Secret CLUSTER-kubeconfig.
	ControlPlaneNotReadyReason = "ControlPlaneNotReady"
	// ParsingClusterAddonConfigFailedReason: a condition of a stage is malformed. Publish a corrected
	// release.
	ParsingClusterAddonConfigFailedReason = "ParsingClusterAddonConfigFailed"
	// WaitingForPreConditionReason: the condition before a stage is not met. See the message for the
	// objects that it looks at.
	WaitingForPreConditionReason = "WaitingForPreCondition"
	// WaitingForPostConditionReason: the condition after a stage is not met. See the message for the
	// objects that it looks at.
	WaitingForPostConditionReason = "WaitingForPostCondition"
	// StageNotHealthyReason: a stage asks for healthy objects and some are not. See the message for
	// which.
	StageNotHealthyReason = "StageNotHealthy"
	// VersionMismatchReason: spec.topology.version of the Cluster is not the version that the release
	// is made for. Set it to the version in the message.
	VersionMismatchReason = "VersionMismatch"
	// DriftedReason: somebody has changed or deleted objects of the addons, and the settings say to leave
	// them. See the message for which.
	DriftedReason = "Drifted"
	// ValuesNotFoundReason: values that the ClusterAddonSettings of the Cluster refer to are missing or malformed. Create
	// or correct the ConfigMap or Secret in the message.
	ValuesNotFoundReason = "ValuesNotFound"
	// LeftoversKeptReason: objects of an earlier release stay, because they are shared, protected or
	// in use. See the message.
	LeftoversKeptReason = "LeftoversKept"
)

// Reasons of events.
const (
	// ClusterStackReleaseCreatedReason: a ClusterStackRelease was made for a ClusterStack.
	ClusterStackReleaseCreatedReason = "ClusterStackReleaseCreated"
	// ClusterStackReleaseDeletedReason: a ClusterStackRelease that nobody needs was deleted.
	ClusterStackReleaseDeletedReason = "ClusterStackReleaseDeleted"
	// RolloutStartedReason: the addons of a release are on their way. A first release that is in the cluster at once is
	// told of by its end only.
	RolloutStartedReason = "RolloutStarted"
	// RolloutFinishedReason: the addons of a release are in the cluster.
	RolloutFinishedReason = "RolloutFinished"
	// HookSkippedReason: Cluster API was let go on at a lifecycle point without waiting for the addons, because
	// an annotation of the Cluster says so.
	HookSkippedReason = "HookSkipped"
	// HookExpiredReason: Cluster API was let go on with a deletion although the release of the Cluster wanted
	// something done before, which took too long.
	HookExpiredReason = "HookExpired"
	// TakenOverReason: the addons that the operator before this one had applied are this one's now.
	TakenOverReason = "TakenOver"
	// DriftCorrectedReason: objects of the addons had been changed or deleted and were applied again.
	DriftCorrectedReason = "DriftCorrected"
)
