// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/cluster-api/util/kubeconfig"
	"sigs.k8s.io/cluster-api/util/secret"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// connection is one to an API server that has answered.
type connection struct {
	config *rest.Config
	// sum identifies the kubeconfig that it was made from.
	sum [sha256.Size]byte
	// client asks whether the API server answers, and misses counts the questions in a row that it did not answer.
	client *http.Client
	misses int

	// ctx ends with the connection.
	ctx context.Context //nolint:containedctx // it is the life of the connection
	end func()

	mu      sync.Mutex
	watches map[string]*purpose
}

// errUnauthorized is what a cluster answers to credentials that it does not know, or no longer.
var errUnauthorized = errors.New("it does not accept the credentials of the kubeconfig")

// dial makes a connection and asks for a first answer.
func (c *Clusters) dial(ctx context.Context, of *clusterv1.Cluster) (*connection, error) {
	config, sum, err := c.kubeconfig(ctx, of)
	if err != nil {
		return nil, err
	}
	config.QPS, config.Burst, config.UserAgent = c.options.QPS, c.options.Burst, c.options.UserAgent
	made, err := newConnection(config, sum)
	if err != nil {
		return nil, err
	}
	if err := made.ask(ctx); err != nil {
		made.end()
		return nil, err
	}
	return made, nil
}

func newConnection(config *rest.Config, sum [sha256.Size]byte) (*connection, error) {
	shared, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("its kubeconfig cannot be used: %w", err)
	}
	asking := &http.Client{
		Transport: shared.Transport,
		Timeout:   patience,
		// A redirection would take the credentials elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	ctx, end := context.WithCancel(context.Background())
	return &connection{config: config, sum: sum, client: asking, watches: map[string]*purpose{}, ctx: ctx, end: func() {
		end()
		utilnet.CloseIdleConnectionsFor(asking.Transport)
	}}, nil
}

// kubeconfig reads the Secret that Cluster API makes for each Cluster, and a sum of it.
func (c *Clusters) kubeconfig(ctx context.Context, of *clusterv1.Cluster) (*rest.Config, [sha256.Size]byte, error) {
	var none [sha256.Size]byte
	key := client.ObjectKeyFromObject(of)
	name := key.Namespace + "/" + secret.Name(key.Name, secret.Kubeconfig)
	raw, err := kubeconfig.FromSecret(ctx, c.secrets, key)
	if apierrors.IsNotFound(err) {
		return nil, none, fmt.Errorf("there is no Secret %s yet", name)
	} else if err != nil {
		return nil, none, fmt.Errorf("read the Secret %s: %w", name, err)
	}
	config, err := parse(raw)
	if err != nil {
		return nil, none, fmt.Errorf("the kubeconfig in the Secret %s: %w", name, err)
	}
	return config, sha256.Sum256(raw), nil
}

// parse reads a kubeconfig. Whoever can write that Secret must not get at files of the operator, such as the token of its
// ServiceAccount, nor have it run programs: what names either is refused.
func parse(raw []byte) (*rest.Config, error) {
	loaded, err := clientcmd.Load(raw)
	if err != nil {
		return nil, err
	}
	if err := clientcmdapi.MinifyConfig(loaded); err != nil {
		return nil, err
	}
	for name, user := range loaded.AuthInfos {
		for field, value := range map[string]string{
			"tokenFile": user.TokenFile, "client-certificate": user.ClientCertificate, "client-key": user.ClientKey,
		} {
			if value != "" {
				return nil, fmt.Errorf("user %q names a file in %s: put the content in, as kubectl config view --flatten does", name, field)
			}
		}
		if user.Exec != nil || user.AuthProvider != nil {
			return nil, fmt.Errorf("user %q asks for a program or a plugin: use a client certificate or a token", name)
		}
	}
	for name, cluster := range loaded.Clusters {
		if cluster.CertificateAuthority != "" {
			return nil, fmt.Errorf("cluster %q names a file in certificate-authority: put the content in, as kubectl config view --flatten does", name)
		}
	}
	return clientcmd.NewDefaultClientConfig(*loaded, &clientcmd.ConfigOverrides{}).ClientConfig()
}

// ask returns nil if the API server answers.
func (c *connection) ask(ctx context.Context) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(c.config.Host, "/")+"/version", nil)
	if err != nil {
		return fmt.Errorf("its kubeconfig cannot be used: %w", err)
	}
	response, err := c.client.Do(request)
	if err != nil {
		return cause(err)
	}
	defer func() { _ = response.Body.Close() }()
	// So much that the connection can be used again.
	_, _ = io.CopyN(io.Discard, response.Body, 64<<10)
	switch response.StatusCode {
	// Who may not read the version may read other things, and somebody who has no time now is there.
	case http.StatusOK, http.StatusForbidden, http.StatusTooManyRequests:
		return nil
	case http.StatusUnauthorized:
		return errUnauthorized
	}
	return fmt.Errorf("it answers %s", response.Status)
}

// cause returns why a request has failed, without addresses and times that differ from request to request: it is told in
// conditions, which are written when they change.
func cause(err error) error {
	var invalid x509.CertificateInvalidError
	if errors.As(err, &invalid) && invalid.Reason == x509.Expired {
		return errors.New("its certificate has expired or is not valid yet")
	}
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return fmt.Errorf("no answer within %s", patience)
	}
	var request *url.Error
	if errors.As(err, &request) {
		err = request.Err
	}
	var network *net.OpError
	if errors.As(err, &network) {
		err = network.Err
	}
	return err
}
