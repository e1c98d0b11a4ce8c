// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"

	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
)

// Credentials are shown to one registry and to nobody else, not even where it redirects to. The zero value
// is none. The first of the fields that is set counts.
type Credentials struct {
	// Token is shown as a bearer token: encoded in base64 as some registries want it, and as it is where
	// that is not understood.
	Token              string
	Username, Password string
	// DockerConfig is a config.json of Docker. Without an entry for the registry it has no credentials.
	DockerConfig []byte
	// Store is asked for the credentials of the registry, when there is something to ask for.
	Store credentials.Store
}

func (c *Credentials) given() bool {
	return c.Token != "" || c.Username != "" || c.Password != "" || len(c.DockerConfig) > 0 || c.Store != nil
}

// forRegistry returns the credentials for a registry. It answers for no other.
func (c *Credentials) forRegistry(registry string) (auth.CredentialFunc, error) {
	switch {
	case c.Token != "":
		return auth.StaticCredential(registry, auth.Credential{AccessToken: c.Token}), nil
	case c.Username != "" || c.Password != "":
		if c.Username == "" || c.Password == "" {
			return nil, errors.New("a user name needs a password, and a password a user name")
		}
		return auth.StaticCredential(registry, auth.Credential{Username: c.Username, Password: c.Password}), nil
	case len(c.DockerConfig) > 0:
		store, err := credentials.NewMemoryStoreFromDockerConfig(c.DockerConfig)
		if err != nil {
			// The error of the parser may quote what it could not read.
			return nil, errors.New(".dockerconfigjson is not a configuration of Docker")
		}
		return func(ctx context.Context, hostport string) (auth.Credential, error) {
			cred, err := store.Get(ctx, credentials.ServerAddressFromRegistry(registry))
			if err != nil {
				return auth.EmptyCredential, fmt.Errorf(".dockerconfigjson: %w", err)
			}
			return auth.StaticCredential(registry, cred)(ctx, hostport)
		}, nil
	case c.Store != nil:
		return func(ctx context.Context, hostport string) (auth.Credential, error) {
			cred, err := c.Store.Get(ctx, credentials.ServerAddressFromRegistry(registry))
			if err != nil {
				return auth.EmptyCredential, fmt.Errorf("credentials for %s: %w", registry, err)
			}
			return auth.StaticCredential(registry, cred)(ctx, hostport)
		}, nil
	}
	return nil, nil //nolint:nilnil // which is how a client is told that there are none
}

// tokenForms shows a token in the form that the registry understands, which is found out by trying.
type tokenForms struct {
	next  http.RoundTripper
	host  string
	token string
	// plain says that the token is wanted as it is.
	plain atomic.Bool
}

func (t *tokenForms) RoundTrip(req *http.Request) (*http.Response, error) {
	plain := "Bearer " + t.token
	if req.Header.Get("Authorization") != plain || !strings.EqualFold(req.URL.Host, t.host) {
		return t.next.RoundTrip(req)
	}
	if t.plain.Load() {
		return t.next.RoundTrip(req)
	}
	encoded := req.Clone(req.Context())
	encoded.Header.Set("Authorization", "Bearer "+base64.StdEncoding.EncodeToString([]byte(t.token)))
	resp, err := t.next.RoundTrip(encoded)
	if err != nil || resp.StatusCode != http.StatusUnauthorized || req.Body != nil && req.GetBody == nil {
		return resp, err
	}
	again := req.Clone(req.Context())
	if req.GetBody != nil {
		if again.Body, err = req.GetBody(); err != nil {
			return resp, nil //nolint:nilerr // the answer that we have stands
		}
	}
	_ = resp.Body.Close() // not wanted any more
	resp, err = t.next.RoundTrip(again)
	if err == nil && resp.StatusCode != http.StatusUnauthorized {
		t.plain.Store(true)
	}
	return resp, err
}

func (t *tokenForms) CloseIdleConnections() { (&http.Client{Transport: t.next}).CloseIdleConnections() }
