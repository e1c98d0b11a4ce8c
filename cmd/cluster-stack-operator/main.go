// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Command cluster-stack-operator runs beside Cluster API in a management cluster.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/spf13/pflag"
	_ "golang.org/x/crypto/x509roots/fallback" // our image has no file with authorities
	"k8s.io/component-base/featuregate"
	"k8s.io/component-base/logs"
	logsv1 "k8s.io/component-base/logs/api/v1"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/clusterstacks/cluster-stack-operator/internal/operator"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run is main with everything handed in. It returns the exit code.
func run(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	c := operator.Defaults()
	fs := pflag.NewFlagSet("cluster-stack-operator", pflag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = func() {} // a mistake in the arguments is told in one line
	c.AddFlags(fs)
	err := fs.Parse(operator.DoubleDashes(fs, args))
	if errors.Is(err, pflag.ErrHelp) {
		_, _ = fmt.Fprintf(stdout, "Usage: cluster-stack-operator [flags]\n\n%s", fs.FlagUsages())
		return 0
	}
	if err == nil && fs.NArg() > 0 {
		err = fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	if err == nil {
		err = c.Validate()
	}
	var features featuregate.FeatureGate
	if err == nil {
		features, err = c.Features()
	}
	if err == nil {
		err = logsv1.ValidateAndApply(c.Logs, features)
	}
	if err == nil {
		defer logs.FlushLogs()
		if c.ContentionProfiling {
			runtime.SetBlockProfileRate(1)
		}
		ctrl.SetLogger(klog.Background())
		// Helm warns through the standard loggers, and its warnings quote values, which may be secret.
		slog.SetDefault(slog.New(slog.DiscardHandler))
		log.SetFlags(0)
		log.SetOutput(httpOnly{stderr})
		go operator.KeepRoom(ctx)
		err = operator.Run(ctrl.LoggerInto(ctx, klog.Background()), c)
	}
	if err != nil {
		_, _ = fmt.Fprintf(stderr, "Error: %v\n", err)
		return 1
	}
	return 0
}

// httpOnly lets through what servers of net/http log, such as panics and failed handshakes.
type httpOnly struct{ out io.Writer }

func (w httpOnly) Write(p []byte) (int, error) {
	if bytes.HasPrefix(p, []byte("http: ")) {
		return w.out.Write(p)
	}
	return len(p), nil
}
