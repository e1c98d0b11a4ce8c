// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"k8s.io/client-go/rest"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/faultproxy"
)

func TestProxyRunsACommandBehindFaults(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "whole") }))
	t.Cleanup(server.Close)
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Transport: transport}

	// The command says where it was sent, and stays until we have been there.
	run := func(t *testing.T, args ...string) (answers []string, told string, code int) {
		t.Helper()
		stdinReader, stdin := io.Pipe()
		stdout, stdoutWriter := io.Pipe()
		var stderr sharedBuffer
		done := make(chan int, 1)
		go func() {
			args = append([]string{"sandbox", "proxy", "--target", server.URL}, args...)
			done <- Run(append(args, "--", "sh", "-c", `echo "$PROXY_URL"; read -r code; exit "$code"`), stdinReader, stdoutWriter, &stderr)
			_ = stdoutWriter.Close()
		}()
		url, err := bufio.NewReader(stdout).ReadString('\n')
		if err != nil {
			t.Fatalf("exit code %d: %s", <-done, stderr.String())
		}
		for range 3 {
			resp, err := client.Get(strings.TrimSpace(url) + "/a")
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			answers = append(answers, string(body))
		}
		if _, err := io.WriteString(stdin, "3\n"); err != nil {
			t.Fatal(err)
		}
		_ = stdin.Close()
		code = <-done
		return answers, stderr.String(), code
	}

	answers, told, code := run(t, "--seed", "5", "--rule", "GET /a #2 shorten=2", "--rule", "GET /b never")
	if got := strings.Join(answers, " "); got != "whole wh whole" {
		t.Errorf("answers: %s", got)
	}
	if code != 1 || !strings.Contains(told, "Error: sh: exit status 3") {
		t.Errorf("exit code %d of a command that has failed", code)
	}
	const line = "faults: seed=5; GET /a #2 shorten=2; GET /b never"
	for _, want := range []string{
		"2 GET /a: shorten=2 (match 2 of GET /a #2 shorten=2)\n",
		"3 requests, 1 faults. Again, with --replay:\n" + line + "\n",
	} {
		if !strings.Contains(told, want) {
			t.Errorf("it does not tell %q:\n%s", want, told)
		}
	}
	again, _, _ := run(t, "--replay", line)
	if strings.Join(again, " ") != "whole wh whole" {
		t.Errorf("replayed: %v", again)
	}
}

// sharedBuffer is a standard error that the command and csctl write to.
type sharedBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (b *sharedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.Write(p)
}

func (b *sharedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.String()
}

func TestProxyRefuses(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"BadRule":         {[]string{"--rule", "GET / explode"}, `--rule: rule "GET / explode": "explode" is neither a condition nor a fault; faults are [`},
		"BadReplay":       {[]string{"--replay", "faults: seed=x"}, "--replay: faults: seed=x: want a number from 0 on"},
		"NoSandbox":       {nil, "sandbox default does not run; start it with csctl sandbox up"},
		"BadTarget":       {[]string{"--target", "localhost:80"}, `target "localhost:80": want an http or https URL`},
		"NoCertificates":  {[]string{"--target", "https://127.0.0.1:1", "--target-ca", "proxy_linux_test.go"}, "proxy_linux_test.go has no certificate in PEM"},
		"CAOfNothing":     {[]string{"--target-ca", "ca.pem"}, "--target-ca is for the server of --target"},
		"CommandWithout-": {[]string{"kubectl", "get"}, `"kubectl": write -- before the command that is to run`},
	} {
		t.Run(name, func(t *testing.T) {
			var stderr bytes.Buffer
			if code := Run(append([]string{"sandbox", "proxy"}, tc.args...), nil, io.Discard, &stderr); code != 1 || !strings.Contains(stderr.String(), tc.want) {
				t.Errorf("exit code %d: %s", code, stderr.String())
			}
		})
	}
}

func TestProxyOverwritesOnlyItsOwnKubeconfig(t *testing.T) {
	proxy, err := faultproxy.ListenKubernetes(t.Context(), &rest.Config{Host: "https://127.0.0.1:1"}, faultproxy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	f := proxyFlags{kubeconfigOut: filepath.Join(t.TempDir(), "config")}
	for range 2 { // The second time it is its own.
		if _, _, err := f.writeKubeconfig(proxy); err != nil {
			t.Fatal(err)
		}
	}
	const somebodys = "apiVersion: v1\nkind: Config\ncontexts: [{name: production, context: {cluster: c, user: u}}]\n"
	if err := os.WriteFile(f.kubeconfigOut, []byte(somebodys), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := f.writeKubeconfig(proxy); err == nil || !strings.Contains(err.Error(), "is not the kubeconfig of a proxy; name another file") {
		t.Error(err)
	}
	if left, err := os.ReadFile(f.kubeconfigOut); err != nil || string(left) != somebodys {
		t.Errorf("%s, %v", left, err)
	}
}
