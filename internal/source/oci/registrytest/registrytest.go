// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package registrytest has an OCI registry for tests: the one of the project distribution, in memory.
package registrytest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	_ "github.com/distribution/distribution/v3/registry/auth/htpasswd" // makes it known
	"github.com/distribution/distribution/v3/registry/auth/token"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/inmemory" // makes it known
	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/sirupsen/logrus"
	"golang.org/x/crypto/bcrypt"
)

// handler returns an empty registry. It lives as long as ctx.
func handler(ctx context.Context, auth configuration.Auth) http.Handler {
	logrus.SetOutput(io.Discard) // it says more than anybody wants to know
	config := &configuration.Configuration{
		Storage: configuration.Storage{"inmemory": configuration.Parameters{}},
		Auth:    auth,
	}
	config.HTTP.RelativeURLs = true
	config.Catalog.MaxEntries = 1000
	return handlers.NewApp(ctx, config)
}

// Options are settings whose zero value is a registry without TLS that asks for no credentials.
type Options struct {
	TLS bool
	// Username and Password are asked for when they are set: with each request, or with Token set by a
	// server of tokens.
	Username, Password string
	Token              bool
	// TokenHost is another name or address of this machine, by which clients are told to ask for tokens.
	TokenHost string
	// Wrap puts something between the registry and its clients.
	Wrap func(http.Handler) http.Handler
}

// Registry is a registry on loopback.
type Registry struct {
	// Host is where it is, "127.0.0.1:34567".
	Host string
	// CA is the certificate of its authority in PEM, when it has TLS.
	CA []byte
}

// Start starts a registry that ends with the test.
func Start(t testing.TB, o Options) *Registry {
	t.Helper()
	mux := http.NewServeMux()
	serve := httptest.NewUnstartedServer(mux)
	if o.TLS {
		serve.StartTLS()
	} else {
		serve.Start()
	}
	t.Cleanup(serve.Close)
	var auth configuration.Auth
	switch {
	case o.Token:
		realm := serve.URL + "/token"
		if o.TokenHost != "" {
			realm = strings.Replace(realm, "127.0.0.1", o.TokenHost, 1)
		}
		auth = tokens(t, mux, realm, o)
	case o.Username != "":
		auth = passwords(t, o)
	}
	registry := handler(t.Context(), auth)
	if o.Wrap != nil {
		registry = o.Wrap(registry)
	}
	mux.Handle("/v2/", registry)
	r := &Registry{Host: serve.Listener.Addr().String()}
	if o.TLS {
		r.CA = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: serve.Certificate().Raw})
	}
	return r
}

func passwords(t testing.TB, o Options) configuration.Auth {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(o.Password), bcrypt.MinCost)
	check(t, err)
	file := filepath.Join(t.TempDir(), "htpasswd")
	check(t, os.WriteFile(file, []byte(o.Username+":"+string(hash)+"\n"), 0o600))
	return configuration.Auth{"htpasswd": configuration.Parameters{"realm": "test", "path": file}}
}

// tokens serves bearer tokens to whoever knows the password, under the path /token.
func tokens(t testing.TB, mux *http.ServeMux, realm string, o Options) configuration.Auth {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	public := jose.JSONWebKey{Key: key.Public(), KeyID: "test", Algorithm: string(jose.ES256), Use: "sig"}
	data, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{public}})
	check(t, err)
	file := filepath.Join(t.TempDir(), "jwks.json")
	check(t, os.WriteFile(file, data, 0o600))
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, (&jose.SignerOptions{}).WithHeader("kid", "test"))
	check(t, err)
	mux.HandleFunc("/token", func(w http.ResponseWriter, req *http.Request) {
		if user, password, _ := req.BasicAuth(); user != o.Username || password != o.Password {
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		claims := token.ClaimSet{
			Issuer: "test", Audience: []string{"registry"}, Subject: o.Username,
			IssuedAt: time.Now().Unix(), NotBefore: time.Now().Add(-time.Minute).Unix(), Expiration: time.Now().Add(time.Hour).Unix(),
		}
		for _, scope := range req.URL.Query()["scope"] {
			for one := range strings.FieldsSeq(scope) {
				if part := strings.SplitN(one, ":", 3); len(part) == 3 {
					claims.Access = append(claims.Access, &token.ResourceActions{Type: part[0], Name: part[1], Actions: strings.Split(part[2], ",")})
				}
			}
		}
		text, err := jwt.Signed(signer).Claims(claims).Serialize()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]string{"token": text}) // who does not read it asks again
	})
	return configuration.Auth{"token": configuration.Parameters{"realm": realm, "service": "registry", "issuer": "test", "jwks": file}}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
