// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const plain = `apiVersion: v1
kind: Config
current-context: c
contexts: [{name: c, context: {cluster: one, user: me}}]
clusters: [{name: one, cluster: {server: "https://127.0.0.1:1"CLUSTER}}, {name: other, cluster: {server: "https://127.0.0.1:2", certificate-authority: /ca}}]
users: [{name: me, user: {USER}}, {name: other, user: {exec: {apiVersion: client.authentication.k8s.io/v1, command: other}}}]
`

func TestKubeconfigsGetAtNothingOfTheOperator(t *testing.T) {
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("the token of the operator"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct{ cluster, user, want string }{
		"token":               {user: "token: t"},
		"user and password":   {user: "username: u, password: p"},
		"unverified":          {cluster: ", insecure-skip-tls-verify: true", user: "token: t"},
		"file with a token":   {user: "tokenFile: " + token, want: `user "me" names a file in tokenFile`},
		"file beside a token": {user: "token: t, tokenFile: " + token, want: `user "me" names a file in tokenFile`},
		"certificate":         {user: "client-certificate: /c", want: `user "me" names a file in client-certificate`},
		"key":                 {user: "client-key: /k", want: `user "me" names a file in client-key`},
		"authority":           {cluster: ", certificate-authority: " + token, user: "token: t", want: `cluster "one" names a file in certificate-authority`},
		"program":             {user: "exec: {apiVersion: client.authentication.k8s.io/v1, command: id, interactiveMode: Never}", want: `user "me" asks for a program or a plugin`},
		"plugin":              {user: "auth-provider: {name: oidc}", want: `user "me" asks for a program or a plugin`},
	} {
		t.Run(name, func(t *testing.T) {
			config, err := parse([]byte(strings.NewReplacer("CLUSTER", test.cluster, "USER", test.user).Replace(plain)))
			if test.want == "" {
				if err != nil || config.Host != "https://127.0.0.1:1" {
					t.Errorf("%v, %v", config, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("says %v, want %q", err, test.want)
			}
		})
	}
	for name, content := range map[string]string{"nothing": "", "no YAML": "{", "no context": "apiVersion: v1\nkind: Config\n"} {
		if _, err := parse([]byte(content)); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

// A redirection would take the credentials of a cluster elsewhere, or have the operator call what only it can reach.
func TestNobodyIsFollowed(t *testing.T) {
	var elsewhere atomic.Int32
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	defer other.Close()
	var asked atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		http.Redirect(w, r, other.URL, http.StatusFound)
	}))
	defer server.Close()
	c := asking(t, server.URL)
	if err := c.ask(t.Context()); err == nil || !strings.Contains(err.Error(), "302") {
		t.Errorf("says %v", err)
	}
	of := &clusterv1.Cluster{}
	clusters := New(nil, nil, Options{})
	clusters.known[client.ObjectKeyFromObject(of)] = &cluster{connection: c}
	defer c.end()
	if err := clusters.Watch(of, "test", "", map[schema.GroupVersionKind]string{{Version: "v1", Kind: "Secret"}: "secrets"}, nil); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(limit); asked.Load() < 3; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nobody watches")
		}
	}
	if elsewhere.Load() > 0 {
		t.Error("the redirection was followed")
	}
}

func TestNoAnswerIsEndless(t *testing.T) {
	var sent atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "items": [`))
		for r.Context().Err() == nil {
			n, err := w.Write(bytes.Repeat([]byte("{},"), 10000))
			if err != nil {
				return
			}
			sent.Add(int64(n))
		}
	}))
	defer server.Close()
	c := asking(t, server.URL)
	defer c.end()
	objects, err := metadata.NewForConfig(c.config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := objects.Resource(schema.GroupVersionResource{Version: "v1", Resource: "secrets"}).List(t.Context(), metav1.ListOptions{}); err == nil {
		t.Error("an endless list was read")
	}
	// What the kernel holds comes on top.
	if got := sent.Load(); got > 64<<20 {
		t.Errorf("%d bytes were taken", got)
	}
}

// asking returns what asks a server whether it answers.
func asking(t *testing.T, host string) *connection {
	t.Helper()
	c, err := newConnection(&rest.Config{Host: host}, [32]byte{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestAnAnswerIsWhatAnAPIServerWouldSay(t *testing.T) {
	for status, answers := range map[int]bool{200: true, 429: true, 403: false, 401: false, 404: false, 500: false, 502: false, 503: false, 301: false} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
		if err := asking(t, server.URL).ask(t.Context()); err == nil != answers {
			t.Errorf("%d: %v", status, err)
		}
		server.Close()
	}
}

// Causes are told in conditions, which are written whenever they differ.
func TestCausesAreAlwaysTheSame(t *testing.T) {
	through := func(err error) error {
		return &url.Error{Op: "Get", URL: "https://127.0.0.1:6443/version", Err: &net.OpError{
			Op: "read", Net: "tcp", Err: err,
			Source: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 43210}, Addr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 6443},
		}}
	}
	for _, test := range []struct {
		err  error
		want string
	}{
		{through(os.NewSyscallError("connect", syscall.ECONNREFUSED)), "connect: connection refused"},
		{through(os.NewSyscallError("read", syscall.ECONNRESET)), "read: connection reset by peer"},
		{&url.Error{Op: "Get", URL: "u", Err: context.DeadlineExceeded}, "no answer within 5s"},
		{&url.Error{Op: "Get", URL: "u", Err: x509.CertificateInvalidError{Reason: x509.Expired, Detail: "current time 2026"}}, "its certificate has expired or is not valid yet"},
		{&url.Error{Op: "Get", URL: "u", Err: x509.UnknownAuthorityError{}}, "x509: certificate signed by unknown authority"},
		{&url.Error{Op: "Get", URL: "u", Err: &net.OpError{Op: "proxyconnect", Err: &net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ECONNRESET)}}}, "read: connection reset by peer"},
		{through(&net.DNSError{Err: "no such host", Name: "api.example.com", Server: "127.0.0.1:43702", IsNotFound: true}), "there is no host api.example.com"},
		{through(&net.DNSError{Err: "read udp 127.0.0.1:43702->127.0.0.1:53: connection refused", Name: "api.example.com"}), "the name of the host api.example.com cannot be looked up"},
		{errors.New("other"), "other"},
		{errors.New(strings.Repeat("é", 1000)), strings.Repeat("é", maxCause/2) + " …"},
	} {
		if got := cause(test.err).Error(); got != test.want {
			t.Errorf("says %q, want %q", got, test.want)
		}
	}
}
