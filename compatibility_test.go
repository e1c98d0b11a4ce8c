// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package repository_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What people rely on, and the tests that hold it: folder, test, and the case where there are several. It is about
// what docs/compatibility.md promises of the operator.
var compatibility = map[string][]string{
	"stored objects stay valid under our definitions": {
		"config TestStoredObjectsStayValid/ClusterStack", "config TestStoredObjectsStayValid/ClusterStackRelease",
		"config TestStoredObjectsStayValid/ClusterAddonInTheMiddleOfAHook", "config TestReplacesTheFormerKindsInPlace", "test/operator/skew TestDefinitionsOfOthers",
	},
	"short names and columns":                         {"config TestColumnsAndShortNames"},
	"defaults of a ClusterStack":                      {"config TestStoredObjectsStayValid/ClusterStackDefaults"},
	"names of releases and classes in all forms":      {"internal/release TestNameForms", "internal/release TestParseVersion/v1-alpha.1", "internal/controller/clusterstack TestVersionsWithDots"},
	"ClusterAddons that exist are adopted":            {"internal/controller/clusteraddon TestReconcile/StartsAnewWithoutARecord", "internal/controller/clusteraddon TestCreator"},
	"releases that exist are adopted":                 {"internal/controller/clusterstackrelease TestTakesOverFromTheFormerOperator", "internal/controller/clusterstack TestDecide/AnotherClusterStackHasIt"},
	"owner references without controller":             {"internal/controller/clusterstack TestSubscriptionFollowsTheNewest", "internal/controller/clusterstack TestReleaseOfAnEarlierClusterStackOfThisName"},
	"finalizers let go":                               {"internal/controller/clusteraddon TestReconcile/LetsGoWithTheCluster", "internal/controller/clusterstackrelease TestDeletionWaitsForClustersOfAllNamespaces"},
	"form of latestRelease and usableVersions":        {"internal/controller/clusterstack TestSubscriptionFollowsTheNewest", "internal/controller/clusterstack TestVersionsWithDots"},
	"every reason is explained":                       {". TestReferenceKnowsEveryConditionAndReason"},
	"label on objects and pod templates":              {"internal/render TestObjectsAreLabelled"},
	"take-over of fields from the existing operator":  {"test/operator/lifecycle TestTakesOverFromTheExistingOperator", "internal/apply TestTakeOverFromTheExistingOperator", "internal/apply TestAKillDuringATakeOverIsRecoveredFrom", "internal/apply TestTakeOverKeepsWhatIsWrittenAtTheSameTime"},
	"the way back to the existing operator":           {"test/operator/lifecycle TestTakesOverFromTheExistingOperator"},
	"generated values survive a take-over":            {"internal/render TestGeneratedValuesAreRecovered", "internal/render TestCertificatesOfCiliumAreRecovered"},
	"releases with stages and with a single chart":    {"internal/release TestOpenMultistage", "internal/release TestOpenLegacy", "internal/controller/clusteraddon TestReconcile/AppliesAReleaseWithoutStages"},
	"files that are not ours in a release":            {"internal/release TestOpenTolerates/UnknownFiles"},
	"metadata without nodeImage":                      {"internal/release TestOpenTolerates/NoNodeImage"},
	"lifecycle points that nobody knows":              {"internal/release TestOpenTolerates/UnknownPoint"},
	"a short list of BeforeClusterUpgrade":            {"internal/rollout TestStages/AnUpgradeBringsWhatItsListLeavesOut"},
	"conditions of stages":                            {"internal/observe TestGate", "internal/controller/clusteraddon TestReconcile/HoldsAtGates"},
	"Clusters in the shape of v1beta1 for templates":  {"internal/render TestClusterFactsHaveTheShapeThatTemplatesKnow"},
	"both forms of values, and values without quotes": {"internal/render TestValues/StringUnderValues", "internal/render TestValues/Plain", "internal/render TestValues/NameThatIsANumber"},
	"no environment in values":                        {"internal/render TestValues/Environment", "internal/render TestValues/NameServer"},
	"rendering as Helm 3 does":                        {"internal/render TestChartsRenderToTheirObjects", "internal/render TestCiliumRendersToItsObjectsAndRepeats", "internal/render TestMetricsServerRendersToItsObjects"},
	"flags":                                           {"internal/operator TestFlags", "cmd/cluster-stack-operator TestRun"},
	"versions of the spec are kept":                   {"internal/controller/clusterstack TestDecide/SpecStaysBesideSubscription"},
	"the previous release stays until the next works": {"internal/controller/clusterstack TestDecide/PreviousStaysUntilNewestIsReady", "internal/controller/clusterstack TestDecide/PreviousGoes"},
	"releases in use stay, in any namespace":          {"internal/controller/clusterstack TestSubscriptionFollowsTheNewest", "internal/controller/clusterstack TestVersionsWithDots", "internal/controller/clusterstack TestAddonsInUseKeepTheirRelease"},
	"wrong version of a known class":                  {"internal/admission TestClusterIsJudgedByItsRelease/WrongVersion", "internal/admission TestWebhooks"},
	"another provider or stack":                       {"internal/admission TestClusterIsJudgedByItsRelease/Provider", "internal/admission TestClusterIsJudgedByItsRelease/Stack"},
	"two minors at once, and back":                    {"internal/admission TestClusterIsJudgedByItsRelease/TwoMinors", "internal/admission TestClusterIsJudgedByItsRelease/MinorBefore"},
	"foreign Clusters are admitted":                   {"internal/admission TestClusterIsJudgedByItsRelease/Foreign", "internal/admission TestClusterIsJudgedByItsRelease/NoTopology"},
	"foreign Clusters are not held":                   {"internal/hookserver TestBeforeClusterUpgrade/GoesOnWithAForeignClass", "internal/hookserver TestBeforeClusterUpgrade/GoesOnWithoutTopology"},
	"Clusters of hooks in v1beta1 and v1beta2":        {"internal/hookserver TestBeforeClusterUpgrade/GoesOnWithTheProof", "internal/hookserver TestBeforeClusterUpgrade/GoesOnWithTheProofInV1Beta1"},
	"provider integrations":                           {"internal/controller/clusterstack TestProvider", "internal/controller/clusterstackrelease TestProviderIsAwaited"},
	"groups of cluster classes":                       {"internal/controller/clusterstackrelease TestForeignObjectsAreRefused"},
	"csctl create and its exit codes":                 {"cmd/csctl TestScripts", "internal/build TestNextVersions", "internal/build TestNoChange"},
	"signatures that both demand":                     {"internal/controller/releases TestWhoseSignatureIsWanted"},
	"one lease for both operators":                    {"internal/operator TestOnlyTheLeaderChangesAnything"},

	"sources of all kinds, and what both producers publish": {
		"internal/source/oci TestBothProducersAreRead", "internal/source/github TestTagsDecideAndDraftsDoNotExist", "internal/source/dir TestSharedBehaviour",
		"test/operator/sources TestReleasesFromRegistries",
	},
	"charts that a release does not bring along": {
		"internal/store TestMissingChartsAreFetchedOnEntryOnly", "internal/store TestMissingChartsStayInTheStore", "internal/chartrepo TestMirrorTakesThePlaceOfARepository",
	},
	"environment variables":                            {"internal/operator TestEnvironmentOfExistingInstallations"},
	"names of an installation, and its Secret":         {"config TestAnInstallationKeepsItsNames"},
	"classes in v1beta1 and v1beta2":                   {"test/operator/lifecycle TestClassesOfTheOlderVersion"},
	"clusters that the existing operator has finished": {"internal/controller/clusteraddon TestReconcile/TakesOver", "internal/controller/clusteraddon TestReconcile/TakesOverInTheMiddle"},
	"conditions that keep their names":                 {"internal/controller/clusterstack TestFailedListingChangesNothing", "internal/controller/clusteraddon TestReconcile/Creates"},
	"upgrades of releases that are a single chart":     {"internal/controller/clusteraddon TestReconcile/UpgradesReleasesWithoutStages"},
}

func TestCompatibilityIsHeldByTests(t *testing.T) {
	for item, tests := range compatibility {
		if len(tests) == 0 {
			t.Errorf("%s: no test", item)
		}
		for _, test := range tests {
			folder, name, _ := strings.Cut(test, " ")
			name, tableCase, _ := strings.Cut(name, "/")
			if !hasTest(t, folder, name, tableCase) {
				t.Errorf("%s: there is no test %s", item, test)
			}
		}
	}
}

// hasTest tells whether a folder has a test, and the name of a case in the same file.
func hasTest(t *testing.T, folder, name, tableCase string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, text, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range parsed.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == name {
				return tableCase == "" || strings.Contains(string(text), `"`+tableCase+`":`)
			}
		}
	}
	return false
}
