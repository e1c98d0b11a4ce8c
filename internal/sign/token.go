// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package sign

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
)

// ErrNoToken says that the environment has no identity.
var ErrNoToken = errors.New("the environment has no identity: set SIGSTORE_ID_TOKEN (in a job of GitLab id_tokens does, with the audience sigstore), give a job of GitHub Actions the permission \"id-token: write\", or sign with a key")

const (
	maxToken = 64 << 10
	audience = "sigstore"
)

// Token returns the token of OpenID Connect that the environment has: the one in SIGSTORE_ID_TOKEN, where GitLab puts it, or
// one that GitHub Actions gives to a job.
func Token(ctx context.Context, getenv func(string) string, client *http.Client) (string, error) {
	if token := getenv("SIGSTORE_ID_TOKEN"); token != "" {
		return token, nil
	}
	from, bearer := getenv("ACTIONS_ID_TOKEN_REQUEST_URL"), getenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN")
	if from == "" || bearer == "" {
		return "", ErrNoToken
	}
	u, err := url.Parse(from)
	if err != nil {
		return "", errors.New("ACTIONS_ID_TOKEN_REQUEST_URL is not a URL")
	}
	query := u.Query()
	query.Set("audience", audience)
	u.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("Authorization", "Bearer "+bearer)
	resp, err := client.Do(req)
	if err != nil {
		return "", fmt.Errorf("ask GitHub Actions for a token: %w", err)
	}
	defer func() { _ = resp.Body.Close() }() // only read from
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("ask GitHub Actions for a token: the server answered %d", resp.StatusCode)
	}
	var answer struct {
		Value string `json:"value"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxToken)).Decode(&answer); err != nil || answer.Value == "" {
		return "", errors.New("ask GitHub Actions for a token: the answer has none")
	}
	return answer.Value, nil
}
