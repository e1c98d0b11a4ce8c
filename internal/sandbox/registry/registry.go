// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package registry serves an OCI registry without TLS and credentials, for a sandbox on one machine: the one of the
// project distribution, with what is in it in a folder.
//
// It keeps what was pushed when it is started again. Who may reach it is a matter of the address.
package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem" // makes it known
	"github.com/sirupsen/logrus"
)

// Options describe a registry.
type Options struct {
	// Address is host and port to listen on.
	Address string
	// Dir is the folder for what is in the registry. It is created when it is not there.
	Dir string
	// LogFile is written to by all registries of this process, since distribution has one logger: the last one that was
	// started says where.
	LogFile string
	// Ready is called when the registry can be used.
	Ready func()
}

// Run serves a registry until ctx ends.
func Run(ctx context.Context, o Options) error {
	log, err := os.OpenFile(o.LogFile, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	logrus.SetOutput(log)
	defer func() {
		logrus.SetOutput(io.Discard) // requests that are being answered may still have something to say
		_ = log.Close()
	}()
	app, err := open(ctx, o.Dir)
	if err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.Address)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: app, ReadHeaderTimeout: 10 * time.Second}
	closed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = server.Close() // what it says nobody can do anything about
		close(closed)
	})
	o.Ready()
	if err := server.Serve(listener); stop() {
		return err
	}
	<-closed // until then who is connected already may still get an answer
	return nil
}

// open returns the handler for what is in a folder.
func open(ctx context.Context, dir string) (app http.Handler, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	config := &configuration.Configuration{Storage: configuration.Storage{
		"filesystem": configuration.Parameters{"rootdirectory": dir},
		// So that somebody can find out what happens when a release is not there any more.
		"delete": configuration.Parameters{"enabled": true},
		// It runs for as long as the process does, and a sandbox does not get old enough to need it.
		"maintenance": configuration.Parameters{"uploadpurging": map[any]any{"enabled": false}},
	}}
	config.HTTP.RelativeURLs = true
	config.Catalog.MaxEntries = 1000
	defer func() {
		// This is how it says that something is wrong with its settings.
		if p := recover(); p != nil {
			err = errors.Join(err, fmt.Errorf("open the registry in %s: %v", dir, p))
		}
	}()
	return handlers.NewApp(ctx, config), nil
}
