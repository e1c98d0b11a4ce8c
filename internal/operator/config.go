// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package operator puts the controllers and the hook server together and runs them.
package operator

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/api/resource"
	cliflag "k8s.io/component-base/cli/flag"
	"k8s.io/component-base/featuregate"
	logsv1 "k8s.io/component-base/logs/api/v1"
	_ "k8s.io/component-base/logs/json/register" // makes --logging-format=json known
	"sigs.k8s.io/cluster-api/util/flags"

	"github.com/clusterstacks/cluster-stack-operator/internal/controller/clusterstackrelease"
	"github.com/clusterstacks/cluster-stack-operator/internal/controller/releases"
)

// Config is all that an administrator can set. Its zero value is not usable; Defaults is.
type Config struct {
	// Kubeconfig is a file; without it the usual places are looked at, and in a Pod its service account.
	Kubeconfig string
	// Namespace restricts the operator to one namespace, empty means all.
	Namespace string
	// WatchFilter is the value of the label cluster.x-k8s.io/watch-filter of objects to look at, empty means all.
	WatchFilter string

	LeaderElect              bool
	LeaderElectNamespace     string
	LeaderElectLeaseDuration time.Duration
	LeaderElectRenewDeadline time.Duration
	LeaderElectRetryPeriod   time.Duration

	// SyncPeriod is how often everything is looked at although nothing has changed.
	SyncPeriod   time.Duration
	KubeAPIQPS   float32
	KubeAPIBurst int
	// ClusterQPS and ClusterBurst limit the requests to each workload cluster.
	ClusterQPS   float32
	ClusterBurst int

	ClusterStackConcurrency        int
	ClusterStackReleaseConcurrency int
	ClusterAddonConcurrency        int
	ClusterCacheConcurrency        int

	// Source is where releases come from: directory, github or oci.
	Source string
	// Local is another way to say that releases are in the folder cluster-stacks below ReleaseDir.
	Local bool
	// ReleaseDir is the folder with releases of the source directory.
	ReleaseDir string
	// StoreDir is where releases are kept once they are fetched and checked.
	StoreDir string
	// StoreQuota is how much room releases may take in StoreDir, 0 means as much as there is.
	StoreQuota resource.Quantity
	// VerifyPolicy is a file that says whose signatures releases must have, VerifyTrustedRoot one with a trusted root.
	VerifyPolicy, VerifyTrustedRoot string
	// ChartRepositories are those from which charts may be fetched that a release depends on and does not bring
	// along; ChartMirrors, as repository=mirror, are where they are to be had instead.
	ChartRepositories, ChartMirrors []string
	// ChartMirrorCredentials is a config.json of Docker with credentials for ChartMirrors.
	ChartMirrorCredentials string
	// SourcePollInterval is how often a source is asked for new releases, 0 means as suits the source.
	SourcePollInterval time.Duration
	// AllowNetworks are networks inside, such as 10.0.0.0/8, in which sources may be that ClusterStacks name.
	AllowNetworks []string
	// Environment has the variables that say where the operator's own source is.
	Environment map[string]string
	// ClassGroups are the API groups of which a cluster class may have objects.
	ClassGroups []string
	// ProviderGroups are the API groups of provider integrations.
	ProviderGroups []string

	// RenderWorkers is how many charts are rendered at a time, 0 means as many as there are cores.
	RenderWorkers int
	// RenderCPULimit and RenderMemoryLimit bound the processor time of a render, and the memory of a process
	// that renders.
	RenderCPULimit    time.Duration
	RenderMemoryLimit resource.Quantity

	HookBindAddress string
	HookPort        int
	HookCertDir     string
	// HookClientCAName is a file in HookCertDir; callers have to have a certificate of it. Empty means that anybody may call.
	HookClientCAName string

	WebhookBindAddress string
	// WebhookPort is 0 where webhooks are not served.
	WebhookPort    int
	WebhookCertDir string

	// CertificateSecret is <namespace>/<name> of the Secret in which the operator keeps its own certificate for hooks
	// and webhooks. Without it there must be files in HookCertDir and WebhookCertDir.
	CertificateSecret string
	// CertificateNames are the names and addresses under which hooks and webhooks are called.
	CertificateNames []string

	HealthAddress   string
	ProfilerAddress string
	// ContentionProfiling has the profiler tell where goroutines wait for one another. It is a setting of the process.
	ContentionProfiling bool
	// Diagnostics says where and how metrics are served.
	Diagnostics flags.ManagerOptions

	// Logs are settings of the process, not of what Run does.
	Logs *logsv1.LoggingConfiguration
	// FeatureGates turn features on or off that are not settled yet. Today they are all of the log.
	FeatureGates map[string]bool
}

// Features returns which features are on.
func (c *Config) Features() (featuregate.FeatureGate, error) {
	gate, err := features()
	if err != nil {
		return nil, err
	}
	if err := gate.SetFromMap(c.FeatureGates); err != nil {
		return nil, fmt.Errorf("--feature-gates: %w", err)
	}
	return gate, nil
}

// features returns the features that there are, as they are by default.
func features() (featuregate.MutableVersionedFeatureGate, error) {
	gate := featuregate.NewFeatureGate()
	return gate, logsv1.AddFeatureGates(gate)
}

// Sources of releases.
const (
	SourceDirectory = "directory"
	SourceGitHub    = "github"
	SourceOCI       = "oci"
)

// Defaults returns what holds where an administrator says nothing.
func Defaults() Config {
	logs := logsv1.NewLoggingConfiguration()
	logs.Verbosity = 2
	return Config{
		LeaderElect:              true,
		LeaderElectLeaseDuration: 15 * time.Second,
		LeaderElectRenewDeadline: 10 * time.Second,
		LeaderElectRetryPeriod:   2 * time.Second,

		SyncPeriod:   10 * time.Minute,
		KubeAPIQPS:   100,
		KubeAPIBurst: 200,
		ClusterQPS:   100,
		ClusterBurst: 200,

		ClusterStackConcurrency:        10,
		ClusterStackReleaseConcurrency: 10,
		ClusterAddonConcurrency:        10,
		ClusterCacheConcurrency:        100,

		Source:      SourceGitHub,
		ReleaseDir:  "/tmp/downloads/",
		StoreDir:    defaultStoreDir(),
		StoreQuota:  resource.MustParse("1Gi"),
		Environment: sourceEnvironment(os.Getenv),
		ClassGroups: clusterstackrelease.Kinds(), ProviderGroups: releases.ProviderGroups(),

		ChartRepositories: []string{"https://", "oci://"},

		RenderCPULimit:    15 * time.Second,
		RenderMemoryLimit: resource.MustParse("512Mi"),

		HookPort:    9442,
		HookCertDir: "/tmp/k8s-hook-server/serving-certs/",

		WebhookPort:      9443,
		WebhookCertDir:   "/tmp/k8s-webhook-server/serving-certs/",
		CertificateNames: []string{"cso-webhook-service.cso-system.svc", "cso-hook-server-svc.cso-system.svc"},

		HealthAddress: ":9440",
		Logs:          logs,
	}
}

func defaultStoreDir() string {
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir() // a container without a home
	}
	return filepath.Join(cache, "cluster-stack-operator")
}

// AddFlags adds a flag for each setting to fs. The names are those of Cluster API's managers; those of
// the operator that existing installations start are understood as well.
func (c *Config) AddFlags(fs *pflag.FlagSet) {
	fs.StringVar(&c.Kubeconfig, "kubeconfig", c.Kubeconfig, "Kubeconfig file for the management cluster. Default: $KUBECONFIG, the service account of the Pod, or ~/.kube/config.")
	fs.StringVar(&c.Namespace, "namespace", c.Namespace, "Look only at objects in this namespace. Default: all namespaces.")
	fs.StringVar(&c.WatchFilter, "watch-filter", c.WatchFilter, "Look only at objects whose label cluster.x-k8s.io/watch-filter has this value. Default: all objects.")

	fs.BoolVar(&c.LeaderElect, "leader-elect", c.LeaderElect, "Let only one of several replicas run the controllers. Hooks are answered by all.")
	fs.StringVar(&c.LeaderElectNamespace, "leader-elect-namespace", c.LeaderElectNamespace, "Namespace of the lease. Default: the namespace of the Pod.")
	fs.DurationVar(&c.LeaderElectLeaseDuration, "leader-elect-lease-duration", c.LeaderElectLeaseDuration, "How long a lease is valid that is not renewed.")
	fs.DurationVar(&c.LeaderElectRenewDeadline, "leader-elect-renew-deadline", c.LeaderElectRenewDeadline, "How long the leader tries to renew its lease before it gives up.")
	fs.DurationVar(&c.LeaderElectRetryPeriod, "leader-elect-retry-period", c.LeaderElectRetryPeriod, "How often a replica tries to become or to stay the leader.")

	fs.DurationVar(&c.SyncPeriod, "sync-period", c.SyncPeriod, "How often everything is looked at although nothing has changed.")
	fs.Float32Var(&c.KubeAPIQPS, "kube-api-qps", c.KubeAPIQPS, "Requests per second to the management cluster.")
	fs.IntVar(&c.KubeAPIBurst, "kube-api-burst", c.KubeAPIBurst, "Requests at once to the management cluster.")
	fs.Float32Var(&c.ClusterQPS, "clustercache-client-qps", c.ClusterQPS, "Requests per second to each workload cluster.")
	fs.IntVar(&c.ClusterBurst, "clustercache-client-burst", c.ClusterBurst, "Requests at once to each workload cluster.")

	fs.IntVar(&c.ClusterStackConcurrency, "clusterstack-concurrency", c.ClusterStackConcurrency, "ClusterStacks worked on at a time.")
	fs.IntVar(&c.ClusterStackReleaseConcurrency, "clusterstackrelease-concurrency", c.ClusterStackReleaseConcurrency, "ClusterStackReleases worked on at a time.")
	fs.IntVar(&c.ClusterAddonConcurrency, "clusteraddon-concurrency", c.ClusterAddonConcurrency, "ClusterAddons worked on at a time.")
	fs.IntVar(&c.ClusterCacheConcurrency, "clustercache-concurrency", c.ClusterCacheConcurrency, "Connections to workload clusters made or checked at a time.")

	fs.StringVar(&c.Source, "source", c.Source, "Where the releases of ClusterStacks come from that name no source: directory, github or oci. The variables GIT_* and OCI_* of the environment say which repository.")
	fs.BoolVar(&c.Local, "local", c.Local, "Take releases from the folder cluster-stacks below --release-dir, whatever --source says.")
	fs.StringVar(&c.ReleaseDir, "release-dir", c.ReleaseDir, "Folder with releases for --source=directory, one folder for each, named like it. Directories of ClusterStacks are relative to it.")
	fs.StringVar(&c.StoreDir, "store-dir", c.StoreDir, "Folder in which releases are kept once they are fetched and checked. On a volume it survives restarts.")
	fs.Var(quantity{&c.StoreQuota}, "store-quota", "How much room releases may take in --store-dir, for example 1Gi; 0 means as much as there is. What nobody uses makes room first.")
	fs.StringVar(&c.VerifyPolicy, "verify-policy", c.VerifyPolicy, "File in YAML that says whose signatures releases must have, with the fields of spec.verify of a ClusterStack. Default: nobody's, unless a ClusterStack says so.")
	fs.StringVar(&c.VerifyTrustedRoot, "verify-trusted-root", c.VerifyTrustedRoot, "File trusted_root.json of the sigstore instance that certifies the identities in --verify-policy, and those in ClusterStacks that name no other.")
	fs.StringSliceVar(&c.ChartRepositories, "chart-repositories", c.ChartRepositories, "Chart repositories and registries from which charts may be fetched that a release depends on and does not bring along. https:// and oci:// stand for all of these, an empty value for none.")
	fs.StringSliceVar(&c.ChartMirrors, "chart-mirrors", c.ChartMirrors, "Mirrors of chart repositories, as <repository>=<mirror>. A mirror may be http://, https://, oci:// or, without TLS, oci+http://, and in any network.")
	fs.StringVar(&c.ChartMirrorCredentials, "chart-mirror-credentials", c.ChartMirrorCredentials, "File in the form of Docker's config.json with credentials for the hosts of --chart-mirrors. It is read whenever they are needed. Repositories that charts name themselves never see them.")
	fs.DurationVar(&c.SourcePollInterval, "source-poll-interval", c.SourcePollInterval, "How often a source is asked for new releases. Default: 2s for a directory, 5m for all others.")
	fs.StringSliceVar(&c.AllowNetworks, "allow-networks", c.AllowNetworks, "Private and local networks, such as 10.0.0.0/8, in which sources may be that ClusterStacks name. Default: none.")
	fs.StringSliceVar(&c.ProviderGroups, "provider-api-groups", c.ProviderGroups, "API groups that spec.providerRef of a ClusterStack or ClusterStackRelease may name. The ClusterRole of the operator has to allow them, too.")
	fs.StringSliceVar(&c.ClassGroups, "class-api-groups", c.ClassGroups, "API groups, or kinds as group/Kind, of which a cluster class may have objects in the management cluster. The ClusterRole of the operator has to allow them, too.")

	fs.IntVar(&c.RenderWorkers, "render-workers", c.RenderWorkers, "Charts rendered at a time, each in a process of its own, and one more for a namespace that has none while all are taken. Default: as many as there are cores, and at least two.")
	fs.DurationVar(&c.RenderCPULimit, "render-cpu-limit", c.RenderCPULimit, "Processor time that rendering one chart may take.")
	fs.Var(quantity{&c.RenderMemoryLimit}, "render-memory-limit", "Memory that a process that renders charts may use. The limit of the Pod has to leave room for all of them.")

	fs.StringVar(&c.HookBindAddress, "hook-bind-address", c.HookBindAddress, "Address on which the lifecycle hooks of Cluster API are answered. Default: all addresses.")
	fs.IntVar(&c.HookPort, "hook-port", c.HookPort, "Port on which the lifecycle hooks of Cluster API are answered.")
	fs.StringVar(&c.HookCertDir, "hook-cert-dir", c.HookCertDir, "Folder with tls.crt and tls.key for the hooks.")
	fs.StringVar(&c.HookClientCAName, "hook-client-ca-name", c.HookClientCAName, "File in the folder of --hook-cert-dir with the authority of Cluster API's client certificate. Default: none, anybody may call.")

	fs.StringVar(&c.WebhookBindAddress, "webhook-bind-address", c.WebhookBindAddress, "Address on which webhooks are served. Default: all addresses.")
	fs.IntVar(&c.WebhookPort, "webhook-port", c.WebhookPort, "Port on which webhooks are served; 0 to serve none.")
	fs.StringVar(&c.WebhookCertDir, "webhook-cert-dir", c.WebhookCertDir, "Folder with tls.crt and tls.key for the webhooks.")
	fs.StringVar(&c.CertificateSecret, "certificate-secret", c.CertificateSecret, "Secret, as <namespace>/<name>, in which the operator keeps a certificate of its own for hooks and webhooks, instead of the two folders.")
	fs.StringSliceVar(&c.CertificateNames, "certificate-names", c.CertificateNames, "Names and addresses in the certificate of --certificate-secret.")

	fs.StringVar(&c.HealthAddress, "health-addr", c.HealthAddress, "Address of /healthz and /readyz.")
	fs.StringVar(&c.ProfilerAddress, "profiler-address", c.ProfilerAddress, "Address of pprof, for example localhost:6060. Default: none.")
	fs.BoolVar(&c.ContentionProfiling, "contention-profiling", c.ContentionProfiling, "Have the profiler tell where goroutines wait for one another.")
	flags.AddManagerOptions(fs, &c.Diagnostics)
	// Cluster API's text lacks a space, and says less.
	fs.Lookup("diagnostics-address").Usage = "Address of /metrics, pprof and the level of the log, over TLS and for those who have the right to get these URLs."
	fs.Lookup("insecure-diagnostics").Usage = "Serve metrics, and nothing else, over HTTP to everybody."
	fs.Var(cliflag.NewMapStringBool(&c.FeatureGates), "feature-gates", "Features to turn on or off, as <name>=true|false. There are:\n"+knownFeatures())
	logsv1.AddFlags(c.Logs, fs)
	fs.Var(logLevel{c.Logs}, "log-level", "debug, info or error.")
	_ = fs.MarkDeprecated("log-level", "use --v")

	fs.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if now, ok := formerNames[name]; ok {
			name = now
		}
		return pflag.NormalizedName(name)
	})
}

// knownFeatures describes the features, a line for each.
func knownFeatures() string {
	gate, err := features()
	if err != nil {
		panic(err) // two features of one name, in code that never varies
	}
	return strings.Join(gate.KnownFeatures(), "\n")
}

// formerNames are flags of the operator that existing installations start, by the names that they have here.
var formerNames = map[string]string{
	"metrics-bind-address":      "diagnostics-address",
	"health-probe-bind-address": "health-addr",
	"qps":                       "clustercache-client-qps",
	"burst":                     "clustercache-client-burst",
}

// quantity is a number of bytes as Kubernetes writes it.
type quantity struct{ value *resource.Quantity }

func (q quantity) String() string { return q.value.String() }
func (quantity) Type() string     { return "bytes" }

func (q quantity) Set(text string) error {
	parsed, err := resource.ParseQuantity(text)
	if err != nil {
		return errors.New("must be a number of bytes such as 512Mi")
	}
	*q.value = parsed
	return nil
}

// logLevel sets the verbosity by a word.
type logLevel struct{ logs *logsv1.LoggingConfiguration }

func (logLevel) String() string { return "info" }
func (logLevel) Type() string   { return "level" }

func (l logLevel) Set(level string) error {
	verbosity, ok := map[string]logsv1.VerbosityLevel{"debug": 5, "info": 2, "error": 0}[level]
	if !ok {
		return errors.New("must be debug, info or error")
	}
	l.logs.Verbosity = verbosity
	return nil
}

// Port is an address on which the operator is called.
type Port struct{ Address, Flag, Meaning string }

// Ports returns the addresses on which the operator is called.
func (c *Config) Ports() []Port {
	of := func(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }
	return []Port{
		{of(c.WebhookBindAddress, c.WebhookPort), "webhook-port", "Webhooks, TLS, called by the API server."},
		{of(c.HookBindAddress, c.HookPort), "hook-port", "Lifecycle hooks, TLS, called by Cluster API."},
		{c.Diagnostics.DiagnosticsAddress, "diagnostics-address", "`/metrics`, TLS, for those who may `get` that URL: bind them to the ClusterRole `cso-metrics-reader`."},
		{c.HealthAddress, "health-addr", "`/healthz` and `/readyz`."},
	}
}

// DoubleDashes gives arguments that are written with one dash, such as -source, the second one, if there
// is a flag of that name. Charts of existing installations write them so.
func DoubleDashes(fs *pflag.FlagSet, args []string) []string {
	fixed := make([]string, len(args))
	for i, arg := range args {
		if arg == "--" {
			copy(fixed[i:], args[i:])
			break
		}
		fixed[i] = arg
		name, isFlag := strings.CutPrefix(arg, "-")
		name, _, _ = strings.Cut(name, "=")
		if isFlag && len(name) > 1 && fs.Lookup(name) != nil {
			fixed[i] = "-" + arg
		}
	}
	return fixed
}

// Validate reports settings with which the operator cannot run.
func (c *Config) Validate() error {
	var errs []error
	if c.Source != SourceDirectory && c.Source != SourceGitHub && c.Source != SourceOCI {
		errs = append(errs, fmt.Errorf("--source=%s: must be directory, github or oci", c.Source))
	} else if _, _, _, err := c.ownSource(nil); err != nil {
		errs = append(errs, err)
	}
	if _, err := c.guard(); err != nil {
		errs = append(errs, err)
	} else if _, err := c.chartRepositories(); err != nil {
		errs = append(errs, err)
	}
	if _, err := c.Features(); err != nil {
		errs = append(errs, err)
	}
	if c.StoreDir == "" {
		errs = append(errs, errors.New("--store-dir must not be empty"))
	}
	if c.CertificateSecret != "" {
		_, err := namespacedName("certificate-secret", c.CertificateSecret)
		errs = append(errs, err)
		if len(c.CertificateNames) == 0 {
			errs = append(errs, errors.New("--certificate-names must not be empty"))
		}
	}
	if c.WebhookPort < 0 || c.WebhookPort > 65535 {
		errs = append(errs, errors.New("--webhook-port must be between 0 and 65535"))
	}
	if c.SourcePollInterval < 0 {
		errs = append(errs, errors.New("--source-poll-interval must not be negative"))
	}
	if c.RenderWorkers < 0 {
		errs = append(errs, errors.New("--render-workers must not be negative"))
	}
	if c.RenderCPULimit < time.Second {
		errs = append(errs, errors.New("--render-cpu-limit must be at least 1s"))
	}
	// With less, a Go program does not start.
	if c.RenderMemoryLimit.Value() < 256<<20 {
		errs = append(errs, errors.New("--render-memory-limit must be at least 256Mi"))
	}
	for _, n := range []struct {
		flag  string
		value int
	}{
		{"clusterstack-concurrency", c.ClusterStackConcurrency},
		{"clusterstackrelease-concurrency", c.ClusterStackReleaseConcurrency},
		{"clusteraddon-concurrency", c.ClusterAddonConcurrency},
		{"clustercache-concurrency", c.ClusterCacheConcurrency},
	} {
		if n.value < 1 {
			errs = append(errs, fmt.Errorf("--%s must be at least 1", n.flag))
		}
	}
	return errors.Join(errs...)
}

// directory is the folder of the source directory.
func (c *Config) directory() string {
	if c.Local {
		return filepath.Join(c.ReleaseDir, "cluster-stacks")
	}
	return c.ReleaseDir
}
