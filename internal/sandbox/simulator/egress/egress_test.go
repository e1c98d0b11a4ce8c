// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package egress

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/go-logr/logr/testr"
)

func TestProxy(t *testing.T) {
	kubelet := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "kubelet") }))
	t.Cleanup(kubelet.Close)
	p, err := Listen(t.Context(), fmt.Sprintf("@cluster-stack-egress-test-%d", os.Getpid()), testr.New(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	free, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := free.Addr().String()
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}

	cases := map[string]struct{ why, method, target, want string }{
		"Kubelet":  {"On loopback something may be.", http.MethodConnect, kubelet.Listener.Addr().String(), "200 "},
		"Pod":      {"The address may be somebody's on the network of the machine.", http.MethodConnect, "10.244.0.7:443", "502 " + noNetwork},
		"Name":     {"A name would be asked of the machine's DNS.", http.MethodConnect, "example.com:443", "502 " + noNetwork},
		"Nobody":   {"", http.MethodConnect, nobody, "502 " + noListener},
		"NotProxy": {"", http.MethodGet, kubelet.Listener.Addr().String(), "405 "},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			conn, err := (&net.Dialer{}).DialContext(t.Context(), "unix", p.Address())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			target := c.target
			if c.method == http.MethodGet {
				target = "/"
			}
			if _, err := fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: %s\r\n\r\n", c.method, target, c.target); err != nil {
				t.Fatal(err)
			}
			reader := bufio.NewReader(conn)
			response, err := http.ReadResponse(reader, &http.Request{Method: c.method})
			if err != nil {
				t.Fatal(err)
			}
			_ = response.Body.Close()
			if !strings.HasPrefix(response.Status, c.want) {
				t.Errorf("got %q, want %q. %s", response.Status, c.want, c.why)
			}
			if response.StatusCode != http.StatusOK {
				return
			}
			if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: kubelet\r\nConnection: close\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			answer, err := io.ReadAll(reader)
			if err != nil || !strings.HasSuffix(string(answer), "kubelet") {
				t.Errorf("through the proxy: %q, %v", answer, err)
			}
		})
	}
}
