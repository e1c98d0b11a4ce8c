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
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/cluster-api/util/kubeconfig"
	"sigs.k8s.io/cluster-api/util/secret"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/internal/apply"
)

// connection is one to an API server that has answered.
type connection struct {
	config *rest.Config
	// sum identifies the kubeconfig that it was made from.
	sum [sha256.Size]byte
	// client asks whether the API server answers, and misses counts the questions in a row that it did not answer.
	client *http.Client
	misses int
	// compareAt is when to look whether the kubeconfig has changed, and compare how long that was after the last look.
	compareAt time.Time
	compare   time.Duration

	// ctx ends with the connection.
	ctx context.Context //nolint:containedctx // it is the life of the connection
	end func()

	mu      sync.Mutex
	watches map[string]*purpose
}

var (
	// errUnauthorized is what a cluster answers to credentials that it does not know, or no longer.
	errUnauthorized = errors.New("it does not accept the credentials of the kubeconfig")
	// errForbidden is what it answers to credentials with few rights. They may suffice for other things.
	errForbidden = errors.New("it forbids to read its version")
	// errChanged ends a connection whose kubeconfig is another one now.
	errChanged = errors.New("its kubeconfig has changed")
)

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
	if err := made.ask(ctx); err != nil && !errors.Is(err, errForbidden) || ctx.Err() != nil {
		made.end()
		return nil, err
	}
	return made, nil
}

func newConnection(config *rest.Config, sum [sha256.Size]byte) (*connection, error) {
	// For whoever uses it.
	config.Wrap(apply.Wary)
	shared, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("its kubeconfig cannot be used: %w", err)
	}
	asking := &http.Client{Transport: shared.Transport, Timeout: patience}
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
		return nil, none, fmt.Errorf("read the Secret %s: %w", name, cause(err))
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
	case http.StatusOK, http.StatusTooManyRequests: // who has no time now is there
		return nil
	case http.StatusForbidden:
		return errForbidden
	case http.StatusUnauthorized:
		return errUnauthorized
	}
	return fmt.Errorf("it answers %d %s", response.StatusCode, http.StatusText(response.StatusCode))
}

// cause returns why a request has failed, without addresses and times that differ from request to request: it is told in
// conditions, which are written when they change.
func cause(err error) error {
	var invalid x509.CertificateInvalidError
	if errors.As(err, &invalid) && invalid.Reason == x509.Expired {
		return errors.New("its certificate has expired or is not valid yet")
	}
	var lookup *net.DNSError
	if errors.As(err, &lookup) {
		if lookup.IsNotFound {
			return fmt.Errorf("there is no host %s", lookup.Name)
		}
		return fmt.Errorf("the name of the host %s cannot be looked up", lookup.Name)
	}
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return fmt.Errorf("no answer within %s", patience)
	}
	var request *url.Error
	if errors.As(err, &request) {
		err = request.Err
	}
	for network := (*net.OpError)(nil); errors.As(err, &network); {
		err = network.Err
	}
	if text := err.Error(); len(text) > maxCause {
		return errors.New(strings.ToValidUTF8(text[:maxCause], "") + " …")
	}
	return err
}

// maxCause is how much is told of what somebody else has said, in bytes.
const maxCause = 200
