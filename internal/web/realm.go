// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package web

import (
	"crypto/rand"
	"encoding/base64"
	"net/http"
	"net/url"
	"regexp"
	"strings"
)

// TokenServers lets an OCI client ask servers of tokens at private addresses. The client library refuses those that
// have another host name than their registry, whatever the Guard allows, and a registry inside a company usually has
// one of these. So the library is told that the server is the registry itself, and its requests are sent to where they
// belong: where these may go the transport beneath decides, by the address that it connects to. Without one it is the
// default of net/http, as in a client.
func TokenServers(next http.RoundTripper) http.RoundTripper {
	if next == nil {
		next = http.DefaultTransport
	}
	return &tokenServers{next: next, prefix: "/.token-server/" + rand.Text() + "/"}
}

type tokenServers struct {
	next http.RoundTripper
	// prefix begins the paths that stand for a server of tokens. It never leaves this process, so no redirect can name it.
	prefix string
}

// realmParameter is where the challenge of a registry names its server of tokens.
var realmParameter = regexp.MustCompile(`(?i)(\brealm=")([^"]*)(")`)

func (t *tokenServers) RoundTrip(req *http.Request) (*http.Response, error) {
	if encoded, is := strings.CutPrefix(req.URL.Path, t.prefix); is {
		return t.ask(req, encoded)
	}
	resp, err := t.next.RoundTrip(req)
	if err != nil || resp.StatusCode != http.StatusUnauthorized {
		return resp, err
	}
	challenge := resp.Header.Get("Www-Authenticate")
	if scheme, _, _ := strings.Cut(challenge, " "); strings.EqualFold(scheme, "bearer") {
		resp.Header.Set("Www-Authenticate", realmParameter.ReplaceAllStringFunc(challenge, func(parameter string) string {
			part := realmParameter.FindStringSubmatch(parameter)
			return part[1] + t.alias(req.URL, part[2]) + part[3]
		}))
	}
	return resp, nil
}

// alias returns the URL by which the server of tokens goes. One that needs none, or that nobody could ask, keeps its own.
func (t *tokenServers) alias(registry *url.URL, realm string) string {
	server, err := url.Parse(realm)
	if err != nil || server.Host == "" || strings.EqualFold(server.Hostname(), registry.Hostname()) {
		return realm
	}
	if server.Scheme != "https" && (server.Scheme != "http" || registry.Scheme != "http") {
		return realm // which the library refuses, and says why
	}
	return registry.Scheme + "://" + registry.Host + t.prefix + base64.RawURLEncoding.EncodeToString([]byte(realm))
}

// ask sends a request for a token to the server that the alias in its path stands for.
func (t *tokenServers) ask(req *http.Request, encoded string) (*http.Response, error) {
	realm, err := base64.RawURLEncoding.DecodeString(encoded)
	var server *url.URL
	if err == nil {
		server, err = url.Parse(string(realm))
	}
	if err != nil {
		closeBody(req)
		return nil, final{err}
	}
	query := server.Query()
	for key, values := range req.URL.Query() {
		query[key] = values
	}
	server.RawQuery = query.Encode()
	sent := req.Clone(req.Context())
	sent.URL, sent.Host = server, ""
	resp, err := t.next.RoundTrip(sent)
	if err != nil {
		return nil, err
	}
	resp.Request = sent // messages about the answer name the server that gave it
	if location := resp.Header.Get("Location"); location != "" {
		if to, err := server.Parse(location); err == nil {
			resp.Header.Set("Location", to.String()) // it is relative to where the request went
		}
	}
	return resp, nil
}

func (t *tokenServers) CloseIdleConnections() { closeIdle(t.next) }
