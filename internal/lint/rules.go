// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package lint

import "slices"

// Rule is one thing that is looked for. Its texts are sentences without their full stop, or several with all but the last.
type Rule struct {
	// ID is how findings, and the settings that silence them, name the rule. It never changes.
	ID       string
	Severity Severity
	// Group is the heading under which it stands in the reference.
	Group string
	// Finds says what is wrong, Why why that matters, and Mend what to do.
	Finds, Why, Mend string
}

// Rules returns all rules in the order of the reference.
func Rules() []Rule { return slices.Clone(rules) }

// ruleOf returns a rule that is known to be there: a test breaks each of them.
func ruleOf(id string) Rule {
	i := slices.IndexFunc(rules, func(r Rule) bool { return r.ID == id })
	if i < 0 {
		panic("lint: there is no rule " + id)
	}
	return rules[i]
}

// Groups of rules.
const (
	folderGroup   = "The folder"
	releaseGroup  = "Releases"
	chartGroup    = "Charts"
	stageGroup    = "Stages"
	valueGroup    = "Values"
	classGroup    = "The cluster class"
	previousGroup = "From the previous release (--previous)"
	objectGroup   = "Objects of addons"
)

var rules = []Rule{
	{
		ID: "config", Severity: Error, Group: folderGroup,
		Finds: "csctl.yaml is malformed, or a setting in it is",
		Why:   "The name of a release is made of these settings, and nothing can be built without them.",
		Mend:  "Write the setting in the form that the message names.",
	},
	{
		ID: "config-unknown-key", Severity: Warning, Group: folderGroup,
		Finds: "csctl.yaml has a key that nobody reads",
		Why:   "A setting that is misspelt has no effect, and nobody says so when the stack is built.",
		Mend:  "Correct the spelling, or take the key out.",
	},
	{
		ID: "stack-unreadable", Severity: Error, Group: folderGroup,
		Finds: "the folder cannot be read as a stack",
		Why:   "What cannot be read cannot be built: a link leads out of the folder, or there are too many or too large files.",
		Mend:  "Mend what the message names.",
	},
	{
		ID: "file-unused", Severity: Warning, Group: folderGroup,
		Finds: "a file is not read",
		Why:   "A stack with clusteraddon.yaml takes its values from overwrite.yaml in the folder of each addon.",
		Mend:  "Move its contents to overwrite.yaml of the addons, and delete the file.",
	},
	{
		ID: "release-name", Severity: Error, Group: folderGroup,
		Finds: "the name of a release would be too long",
		Why:   "The name is the value of labels, which have at most 63 characters.",
		Mend:  "Give provider or stack a shorter name.",
	},
	{
		ID: "tag", Severity: Error, Group: folderGroup,
		Finds: "a tag for a version is misspelt",
		Why:   "Only the tags that are known are filled in; the build refuses others, or leaves them in the release as they are.",
		Mend:  "Write << .ClusterClassVersion >>, << .ClusterAddonVersion >> or << .NodeImageVersion >>.",
	},
	{
		ID: "build", Severity: Error, Group: folderGroup,
		Finds: "the stack cannot be built",
		Why:   "csctl create would fail the same way.",
		Mend:  "Mend what the message names.",
	},
	{
		ID: "ignore", Severity: Error, Group: folderGroup,
		Finds: "an entry of lint.ignore is malformed",
		Why:   "Who reads the stack later has to know what was silenced, and why.",
		Mend:  "Give the entry the id of a rule and a reason.",
	},
	{
		ID: "ignore-unused", Severity: Warning, Group: folderGroup,
		Finds: "an entry of lint.ignore silences nothing",
		Why:   "It would silence the next such finding, which nobody has thought about.",
		Mend:  "Take the entry out.",
	},
	{
		ID: "metadata", Severity: Error, Group: releaseGroup,
		Finds: "metadata.yaml is malformed",
		Why:   "The operator refuses a release whose versions it cannot read.",
		Mend:  "Build the release anew with csctl create.",
	},
	{
		ID: "release-malformed", Severity: Error, Group: releaseGroup,
		Finds: "a release lacks a file, or one is malformed",
		Why:   "The operator refuses it.",
		Mend:  "Build the release anew with csctl create, and copy it as a whole.",
	},
	{
		ID: "release-contradiction", Severity: Warning, Group: releaseGroup,
		Finds: "a release says that it is another one than its name does",
		Why:   "Its ClusterClass may have another name than Clusters ask for, and a signature is for another name.",
		Mend:  "Build the release anew; do not rename its folder.",
	},
	{
		ID: "chart-missing", Severity: Error, Group: chartGroup,
		Finds: "there is no chart where one has to be, or no values for it",
		Why:   "A release has a chart of the cluster class and one for each addon; without clusteraddon.yaml, the values of the only addon are in cluster-addon-values.yaml.",
		Mend:  "Add the file that is missing, or delete the folder.",
	},
	{
		ID: "chart-malformed", Severity: Error, Group: chartGroup,
		Finds: "Chart.yaml is malformed",
		Why:   "Helm refuses the chart.",
		Mend:  "Mend what the message names; a chart needs apiVersion, name and version.",
	},
	{
		ID: "chart-name", Severity: Error, Group: chartGroup,
		Finds: "the chart has another name than its package",
		Why:   "The operator finds the package of a chart by its name.",
		Mend:  "Call the chart <provider>-<stack>-<major>-<minor>-cluster-class (or -cluster-addon).",
	},
	{
		ID: "template", Severity: Error, Group: chartGroup,
		Finds: "a chart cannot be rendered",
		Why:   "The operator holds the rollout with the same error.",
		Mend:  "Mend the line that the message names.",
	},
	{
		ID: "forbidden-function", Severity: Error, Group: chartGroup,
		Finds: "a template calls a function that does not exist here",
		Why:   "Templates see neither the environment nor the network of the operator: it holds credentials, and two renders have to be the same.",
		Mend:  "Write the value into values.yaml, or take it from .Cluster.",
	},
	{
		ID: "lookup", Severity: Info, Group: chartGroup,
		Finds: "a template calls lookup",
		Why:   "Charts are rendered without a cluster, so lookup finds nothing and the template takes the way for a first install each time.",
		Mend:  "Do without; what has to be generated once is recorded anyway (genCA, randAlphaNum and the like).",
	},
	{
		ID: "hook-ignored", Severity: Info, Group: chartGroup,
		Finds: "an object is for a hook of Helm that never runs",
		Why:   "Only hooks of install, upgrade and delete run; tests and hooks of a rollback do not, and are not applied.",
		Mend:  "Nothing, if that is meant. Otherwise take the object out of the chart, or make it one of these hooks.",
	},
	{
		ID: "kubernetes-version", Severity: Error, Group: chartGroup,
		Finds: "a chart does not want the Kubernetes version of the stack",
		Why:   "Helm refuses to render it.",
		Mend:  "Take a version of the chart that is made for it, or correct kubeVersion.",
	},
	{
		ID: "dependency-missing", Severity: Info, Group: chartGroup,
		Finds: "a chart that is depended on could not be had",
		Why:   "Without it the chart cannot be rendered, so nothing of it has been checked; csctl create cannot build without it either.",
		Mend:  "Lint where its repository can be reached, or say where else it is (--chart-mirrors); for a release, build it with csctl create, which packs such charts.",
	},
	{
		ID: "dependency-nowhere", Severity: Error, Group: chartGroup,
		Finds: "a chart that is depended on is to be had nowhere",
		Why:   "It is not in charts/ and no repository is named that others can ask, so nobody can fetch it.",
		Mend:  "Name its repository, or put it into charts/; a release that csctl create has made brings charts along that are named by file://.",
	},
	{
		ID: "dependency-unpinned", Severity: Error, Group: chartGroup,
		Finds: "a dependency has no fixed version",
		Why:   "Two builds of the same stack would give two releases, so csctl create refuses it.",
		Mend:  "Write an exact version, or add Chart.lock (csctl dependency update).",
	},
	{
		ID: "dependency-version", Severity: Error, Group: chartGroup,
		Finds: "charts/ has another version than Chart.yaml or Chart.lock wants",
		Why:   "What is applied is what lies in charts/, not what was reviewed.",
		Mend:  "Remove it from charts/, and csctl create fetches the right one; or correct the version.",
	},
	{
		ID: "lock-outdated", Severity: Error, Group: chartGroup,
		Finds: "Chart.lock was made for other dependencies",
		Why:   "Neither csctl create nor the operator nor Helm fetches by it.",
		Mend:  "Run csctl dependency update.",
	},
	{
		ID: "stages-malformed", Severity: Error, Group: stageGroup,
		Finds: "clusteraddon.yaml is malformed",
		Why:   "The operator refuses the release.",
		Mend:  "Mend the line that the message names.",
	},
	{
		ID: "stages-empty", Severity: Warning, Group: stageGroup,
		Finds: "there are no stages",
		Why:   "Clusters of this release get no addons, not even a network.",
		Mend:  "List the addons under AfterControlPlaneInitialized and BeforeClusterUpgrade.",
	},
	{
		ID: "stages-unknown-key", Severity: Warning, Group: stageGroup,
		Finds: "a key in clusteraddon.yaml is not known",
		Why:   "It has no effect, so what was meant by it is not done.",
		Mend:  "Correct the spelling, or take the key out.",
	},
	{
		ID: "hook-unknown", Severity: Error, Group: stageGroup,
		Finds: "a list is for a lifecycle point that does not exist",
		Why:   "Its stages never run.",
		Mend:  "Write one of the lifecycle points in the reference of the release format.",
	},
	{
		ID: "stage-name", Severity: Error, Group: stageGroup,
		Finds: "a stage has no name, or one that no folder can have",
		Why:   "The name is that of the addon's folder.",
		Mend:  "Write the name of the folder in cluster-addon.",
	},
	{
		ID: "stage-action", Severity: Error, Group: stageGroup,
		Finds: "a stage has an unknown action",
		Why:   "The operator refuses the release.",
		Mend:  "Write apply or delete.",
	},
	{
		ID: "stage-twice", Severity: Error, Group: stageGroup,
		Finds: "an addon stands in a list twice",
		Why:   "The operator refuses the release: which one counts?",
		Mend:  "Take one of them out.",
	},
	{
		ID: "stage-without-chart", Severity: Error, Group: stageGroup,
		Finds: "a stage is for an addon without a chart",
		Why:   "The operator refuses the release.",
		Mend:  "Add the folder with its chart, or take the stage out.",
	},
	{
		ID: "chart-without-stage", Severity: Warning, Group: stageGroup,
		Finds: "no stage applies an addon",
		Why:   "It is part of the release and never applied.",
		Mend:  "Add it to the lists, or delete the folder.",
	},
	{
		ID: "stage-condition", Severity: Error, Group: stageGroup,
		Finds: "the condition of a stage is malformed",
		Why:   "The rollout would wait at this stage for ever.",
		Mend:  "Mend the expression; the names in it are the keys of its objects, and it yields true or false.",
	},
	{
		ID: "upgrade-incomplete", Severity: Warning, Group: stageGroup,
		Finds: "the list of an upgrade lacks addons",
		Why:   "Those that it lacks move after all others, without order and conditions, in other operators not at all.",
		Mend:  "List all addons under BeforeClusterUpgrade, such as by a YAML alias.",
	},
	{
		ID: "values-template", Severity: Error, Group: valueGroup,
		Finds: "a values template fails",
		Why:   "The operator holds the rollout with the same error.",
		Mend:  "Mend the line that the message names; text of the Cluster is printed with quote or toJson.",
	},
	{
		ID: "values-minimal", Severity: Warning, Group: valueGroup,
		Finds: "an addon cannot be rendered for some Clusters",
		Why:   "Clusters whose optional fields are not set would get no addons.",
		Mend:  "Ask whether a field is there with if or with, or give a default.",
	},
	{
		ID: "values-missing", Severity: Warning, Group: valueGroup,
		Finds: "a values template prints a field that is not there",
		Why:   "The text <no value> ends up in the objects.",
		Mend:  "Ask whether the field is there with if or with, or give a default; check its spelling against the v1beta1 shape of a Cluster.",
	},
	{
		ID: "addon-generates", Severity: Info, Group: valueGroup,
		Finds: "an addon generates values by chance",
		Why:   "They are recorded for each cluster and stay as they are, in a Secret of the management cluster that has to be backed up.",
		Mend:  "Nothing, if that is meant. Better charts let a Job or cert-manager do it in the workload cluster.",
	},
	{
		ID: "class-missing", Severity: Error, Group: classGroup,
		Finds: "there is no ClusterClass with the name of the release",
		Why:   "Clusters refer to it by this name.",
		Mend:  "Call it {{ .Release.Name }}-{{ .Chart.Version }}.",
	},
	{
		ID: "class-generates", Severity: Error, Group: classGroup,
		Finds: "the class generates values by chance",
		Why:   "Its templates must not change under the same name: Cluster API would replace all machines.",
		Mend:  "Take the generated value out of the chart of the class.",
	},
	{
		ID: "kind-refused", Severity: Error, Group: classGroup,
		Finds: "the class has an object that the operator refuses",
		Why:   "A release is foreign code; in the management cluster it may only create what a class is made of, in the namespace of its ClusterStack.",
		Mend:  "Move the object to an addon, or have the administrator allow its kind (--class-api-groups).",
	},
	{
		ID: "name-without-version", Severity: Error, Group: classGroup,
		Finds: "an object of the class has the same name in all versions",
		Why:   "Templates cannot be changed, and a change under the same name would reach clusters of other versions.",
		Mend:  "Let the name begin with {{ .Release.Name }}-{{ .Chart.Version }}.",
	},
	{
		ID: "class-old-version", Severity: Info, Group: classGroup,
		Finds: "an object is written in v1beta1 of Cluster API",
		Why:   "Cluster API converts it for now, and stops serving v1beta1 in version 1.16.",
		Mend:  "Write it in v1beta2.",
	},
	{
		ID: "class-unknown-field", Severity: Error, Group: classGroup,
		Finds: "an object of the class has a field that does not exist",
		Why:   "The API server refuses it or drops the field, so what was meant by it is not done.",
		Mend:  "Correct the spelling; fields of v1beta1 may have another name or place in v1beta2.",
	},
	{
		ID: "class-schema", Severity: Error, Group: classGroup,
		Finds: "a field of an object of the class is refused",
		Why:   "The API server refuses the object by its schema.",
		Mend:  "Mend the field that the message names.",
	},
	{
		ID: "class-invalid", Severity: Error, Group: classGroup,
		Finds: "Cluster API refuses the ClusterClass",
		Why:   "Its webhook answers the same when the operator applies the class.",
		Mend:  "Mend the field that the message names.",
	},
	{
		ID: "class-variable", Severity: Error, Group: classGroup,
		Finds: "Cluster API refuses a variable of the class",
		Why:   "The schema of a variable and its default have to be valid.",
		Mend:  "Mend the field that the message names.",
	},
	{
		ID: "class-patch", Severity: Error, Group: classGroup,
		Finds: "Cluster API refuses a patch of the class",
		Why:   "Paths, templates and selectors of patches have to be valid.",
		Mend:  "Mend the field that the message names.",
	},
	{
		ID: "patch-fails", Severity: Error, Group: classGroup,
		Finds: "a patch fails on the templates of the class",
		Why:   "Clusters of the class would stay in error; it was tried with and without optional variables.",
		Mend:  "Add to a path whose parents exist, replace and remove what is there, and give variables that a patch reads a default or ask for them in enabledIf.",
	},
	{
		ID: "template-invalid", Severity: Error, Group: classGroup,
		Finds: "Cluster API refuses a template",
		Why:   "Its webhook answers the same when the operator applies the class.",
		Mend:  "Mend the field that the message names.",
	},
	{
		ID: "template-missing", Severity: Error, Group: classGroup,
		Finds: "the class refers to a template that is not in the chart",
		Why:   "Clusters of the class would stay in error.",
		Mend:  "Correct the name, or add the template.",
	},
	{
		ID: "template-unused", Severity: Warning, Group: classGroup,
		Finds: "nothing refers to a template",
		Why:   "It is applied and never used; most often a name is misspelt.",
		Mend:  "Refer to it, or take it out.",
	},
	{
		ID: "kubernetes-version-mismatch", Severity: Warning, Group: classGroup,
		Finds: "an object of the class speaks of another Kubernetes version",
		Why:   "Nodes of another minor version than the release is for may not be able to join.",
		Mend:  "Take the image of the version in csctl.yaml.",
	},
	{
		ID: "previous-release", Severity: Error, Group: previousGroup,
		Finds: "clusters cannot come from the given release",
		Why:   "An upgrade stays in one stack, and goes on by one minor version of Kubernetes at most.",
		Mend:  "Compare with the release that clusters will come from.",
	},
	{
		ID: "addon-removed", Severity: Info, Group: previousGroup,
		Finds: "the previous release had an addon that this one has not",
		Why:   "The upgrade deletes it from the clusters.",
		Mend:  "Nothing, if that is meant.",
	},
	{
		ID: "worker-class-removed", Severity: Error, Group: previousGroup,
		Finds: "a class of workers is gone or has another name",
		Why:   "Clusters whose workers use it cannot move on: Cluster API refuses them.",
		Mend:  "Keep the name; add another class for what is new.",
	},
	{
		ID: "variable-removed", Severity: Error, Group: previousGroup,
		Finds: "a variable is gone",
		Why:   "Clusters that set it are refused when they move on.",
		Mend:  "Keep the variable, if need be without effect.",
	},
	{
		ID: "variable-required", Severity: Error, Group: previousGroup,
		Finds: "a variable has become required",
		Why:   "Clusters that do not set it are refused when they move on.",
		Mend:  "Give the variable a default.",
	},
	{
		ID: "class-incompatible", Severity: Error, Group: previousGroup,
		Finds: "the class is not compatible with the one before",
		Why:   "Cluster API refuses clusters that move from one to the other.",
		Mend:  "Keep kinds of templates and schemas of variables as they were.",
	},
	{
		ID: "object-twice", Severity: Error, Group: objectGroup,
		Finds: "a chart renders an object twice",
		Why:   "The later one wins, and what the other one says is lost.",
		Mend:  "Take one of them out.",
	},
	{
		ID: "object-clash", Severity: Error, Group: objectGroup,
		Finds: "two addons have the same object",
		Why:   "Each overwrites what the other applied, and deletes it for both.",
		Mend:  "Give them different names, or let one addon have it.",
	},
	{
		ID: "namespace-missing", Severity: Warning, Group: objectGroup,
		Finds: "an object is in a namespace that nobody creates",
		Why:   "It cannot be applied until somebody creates the namespace by hand.",
		Mend:  "Add the Namespace to the addon, or to one that comes before.",
	},
	{
		ID: "api-removed", Severity: Error, Group: objectGroup,
		Finds: "an object is written in a version that is no longer served",
		Why:   "The API server of the stack's Kubernetes version does not know it.",
		Mend:  "Write it in the version that has replaced it, or take a newer version of the chart.",
	},
	{
		ID: "object-field", Severity: Error, Group: objectGroup,
		Finds: "an object has a field that does not exist or is of another type",
		Why:   "The API server refuses the object.",
		Mend:  "Mend the field that the message names.",
	},
	{
		ID: "selector", Severity: Error, Group: objectGroup,
		Finds: "a workload does not select its own pods",
		Why:   "The API server refuses it.",
		Mend:  "Let spec.selector match labels of spec.template.",
	},
	{
		ID: "service-account-missing", Severity: Warning, Group: objectGroup,
		Finds: "pods run as a ServiceAccount that nobody creates",
		Why:   "They are never started.",
		Mend:  "Add the ServiceAccount, or correct its name.",
	},
	{
		ID: "image-unpinned", Severity: Warning, Group: objectGroup,
		Finds: "an image has no fixed version",
		Why:   "Nodes that pull it later get another program, and no upgrade brings it or takes it back.",
		Mend:  "Write a tag with a version, or a digest.",
	},
	{
		ID: "toleration-missing", Severity: Error, Group: objectGroup,
		Finds: "what makes nodes ready cannot run before they are",
		Why:   "Nodes of Cluster API are tainted until network and cloud controller have done their work: both wait for one another.",
		Mend:  "Tolerate the taints, such as with operator: Exists.",
	},
	{
		ID: "toleration-advised", Severity: Warning, Group: objectGroup,
		Finds: "what every node needs does not run on the control plane",
		Why:   "Machines of the control plane are tainted; on them volumes cannot be mounted, or the program is missing.",
		Mend:  "Tolerate the taint, if it is to run there too.",
	},
}
