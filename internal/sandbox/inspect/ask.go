// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package inspect

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/process"
)

// patience is how long a program may take to answer: longer than any that works needs.
const patience = 3 * time.Second

// askPrograms fills in what the programs say about themselves, all at once.
func askPrograms(ctx context.Context, programs []Program, running []process.Running) {
	byPID := map[int]process.Running{}
	for _, r := range running {
		byPID[r.PID] = r
	}
	var all sync.WaitGroup
	for i := range programs {
		p := &programs[i]
		if p.Address == "" {
			continue
		}
		all.Go(func() {
			ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("no answer within %s", patience))
			defer cancel()
			health, err := ask(ctx, byPID[p.PID])
			switch {
			case ctx.Err() != nil:
				health = context.Cause(ctx).Error()
			case err != nil:
				health = err.Error()
			}
			p.Health = health
		})
	}
	all.Wait()
}

const (
	apiServer = "kube-apiserver"
	etcd      = "etcd"
)

// addressOf is where a program answers, as its arguments say; empty for programs that nobody asks.
func addressOf(r process.Running) string {
	switch r.Program {
	case apiServer:
		return net.JoinHostPort(argument(r, "bind-address"), argument(r, "secure-port"))
	case etcd:
		first, _, _ := strings.Cut(argument(r, "listen-client-urls"), ",")
		if u, err := url.Parse(first); err == nil {
			return u.Host
		}
	}
	return ""
}

func argument(r process.Running, name string) string {
	for _, arg := range r.Args {
		if value, ok := strings.CutPrefix(arg, "--"+name+"="); ok {
			return value
		}
	}
	return ""
}

// sharedEtcd tells where API servers keep objects that have a part of an etcd only; empty for all others.
func sharedEtcd(running []process.Running) string {
	for _, r := range running {
		if prefix := argument(r, "etcd-prefix"); r.Program == apiServer && prefix != "" {
			return fmt.Sprintf("shared, %s at %s", prefix, argument(r, "etcd-servers"))
		}
	}
	return ""
}

func ask(ctx context.Context, r process.Running) (health string, err error) {
	if r.Program == etcd {
		return askEtcd(ctx, r)
	}
	return askAPIServer(ctx, r)
}

// askAPIServer asks as everybody may.
func askAPIServer(ctx context.Context, r process.Running) (string, error) {
	config, err := tlsConfig(argument(r, "client-ca-file"), "", "")
	if err != nil {
		return "", err
	}
	transport := &http.Transport{TLSClientConfig: config}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+addressOf(r)+"/readyz", nil)
	if err != nil {
		return "", err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusOK {
		return "ready", nil
	}
	if failed := failedChecks(response.Body); len(failed) > 0 {
		return "not ready: " + strings.Join(failed, ", "), nil
	}
	return "", errors.New(response.Status)
}

// failedChecks reads the names of the checks that an API server lists as failed.
func failedChecks(body io.Reader) []string {
	var failed []string
	for lines := bufio.NewScanner(body); lines.Scan(); {
		if check, ok := strings.CutPrefix(lines.Text(), "[-]"); ok {
			name, _, _ := strings.Cut(check, " ")
			failed = append(failed, name)
		}
	}
	return failed
}

// askEtcd asks one member about itself. Its certificate for serving is one for asking, too.
func askEtcd(ctx context.Context, r process.Running) (string, error) {
	config, err := tlsConfig(argument(r, "trusted-ca-file"), argument(r, "cert-file"), argument(r, "key-file"))
	if err != nil {
		return "", err
	}
	endpoint := "https://" + addressOf(r)
	client, err := clientv3.New(clientv3.Config{Context: ctx, Endpoints: []string{endpoint}, TLS: config, Logger: zap.NewNop()})
	if err != nil {
		return "", err
	}
	defer client.Close()
	status, err := client.Status(ctx, endpoint)
	if err != nil {
		return "", err
	}
	role := "follower"
	switch {
	case status.IsLearner:
		role = "learner"
	case status.Leader == 0:
		return "no leader", nil
	case status.Leader == status.Header.MemberId:
		role = "leader"
	}
	// Without a leader there is no quorum, and no answer here.
	members, err := client.MemberList(ctx)
	if err != nil {
		return role + ", no quorum", nil
	}
	health := fmt.Sprintf("%s of %d, %d KiB", role, len(members.Members), status.DbSize>>10)
	if len(status.Errors) > 0 {
		health += ": " + strings.Join(status.Errors, ", ")
	}
	return health, nil
}

func tlsConfig(caFile, certFile, keyFile string) (*tls.Config, error) {
	ca, err := os.ReadFile(caFile)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}
	config.RootCAs.AppendCertsFromPEM(ca)
	if certFile != "" {
		pair, err := tls.LoadX509KeyPair(certFile, keyFile)
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}
