// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package operator_test

import (
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"github.com/clusterstacks/cluster-stack-operator/internal/operator"
)

func parse(args ...string) (operator.Config, error) {
	c := operator.Defaults()
	fs := pflag.NewFlagSet("cluster-stack-operator", pflag.ContinueOnError)
	fs.SetOutput(io.Discard)
	c.AddFlags(fs)
	return c, fs.Parse(operator.DoubleDashes(fs, args))
}

func TestFlags(t *testing.T) {
	for name, tc := range map[string]struct {
		why  string
		args []string
		want func(*operator.Config)
	}{
		"None": {
			want: func(*operator.Config) {},
		},
		"OneDash": {
			why: "The chart of the existing operator writes -source oci.", args: []string{"-source", "oci", "-release-dir=/r"},
			want: func(c *operator.Config) { c.Source, c.ReleaseDir = "oci", "/r" },
		},
		"FormerNames": {
			args: []string{"--metrics-bind-address=:8080", "--health-probe-bind-address", ":9441", "--qps=50", "--burst", "60", "--log-level=debug"},
			want: func(c *operator.Config) {
				c.Diagnostics.DiagnosticsAddress, c.HealthAddress, c.ClusterQPS, c.ClusterBurst = ":8080", ":9441", 50, 60
				c.Logs.Verbosity = 5
			},
		},
		"ExistingInstallation": {
			args: []string{
				"--leader-elect", "--leader-elect-namespace=x", "--watch-filter=w", "--namespace=n", "--local",
				"--clusterstack-concurrency=2", "--clusterstackrelease-concurrency=3", "--clusteraddon-concurrency=4",
				"--hook-port=9", "--hook-cert-dir=/c",
			},
			want: func(c *operator.Config) {
				c.LeaderElectNamespace, c.WatchFilter, c.Namespace, c.Local = "x", "w", "n", true
				c.ClusterStackConcurrency, c.ClusterStackReleaseConcurrency, c.ClusterAddonConcurrency = 2, 3, 4
				c.HookPort, c.HookCertDir = 9, "/c"
			},
		},
		"Features": {
			args: []string{"--feature-gates=LoggingAlphaOptions=true,ContextualLogging=false", "--contention-profiling"},
			want: func(c *operator.Config) {
				c.FeatureGates, c.ContentionProfiling = map[string]bool{"LoggingAlphaOptions": true, "ContextualLogging": false}, true
			},
		},
		"ShortVerbosityStays": {
			args: []string{"-v", "4"},
			want: func(c *operator.Config) { c.Logs.Verbosity = 4 },
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parse(tc.args...)
			if err != nil {
				t.Fatal(err)
			}
			want, err := parse()
			if err != nil {
				t.Fatal(err)
			}
			tc.want(&want)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.why, diff)
			}
		})
	}
}

func TestValidate(t *testing.T) {
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"Directory":     {[]string{"--source=directory"}, ""},
		"Local":         {[]string{"--local"}, ""},
		"OCI":           {[]string{"--source=oci"}, ""},
		"NoNetwork":     {[]string{"--local", "--allow-networks=10.0.0.1"}, "10.0.0.0/8"},
		"Mirror":        {[]string{"--local", "--chart-mirrors=oci://a.example.org=oci+http://b.example.org:5000/x"}, ""},
		"NoMirror":      {[]string{"--local", "--chart-mirrors=oci://a.example.org"}, "--chart-mirrors: "},
		"SecretMirror":  {[]string{"--local", "--chart-mirrors=https://a.example.org=https://me:s3cret@b.example.org"}, "--chart-mirror-credentials"},
		"NoCredentials": {[]string{"--local", "--chart-mirror-credentials=/does/not/exist"}, "--chart-mirror-credentials: "},
		"Unknown":       {[]string{"--source=ftp"}, "must be directory, github or oci"},
		"NoStore":       {[]string{"--local", "--store-dir="}, "--store-dir"},
		"UnknownGate":   {[]string{"--local", "--feature-gates=Colour=true"}, "--feature-gates: unrecognized feature gate: Colour"},
		"KnownGate":     {[]string{"--local", "--feature-gates=LoggingAlphaOptions=true"}, ""},
		"NoConcurrency": {[]string{"--local", "--clusteraddon-concurrency=0"}, "--clusteraddon-concurrency"},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := parse(tc.args...)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Validate(); (err != nil) != (tc.want != "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("Validate: %v, want %q", err, tc.want)
			} else if err != nil && strings.Contains(err.Error(), "s3cret") {
				t.Errorf("Validate tells a secret: %v", err)
			}
		})
	}
}
