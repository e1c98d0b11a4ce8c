// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package probe asks programs whether they are well. How often, and what follows from the answer, is the caller's.
package probe

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
)

// answer is how much of an answer an error tells: some programs list there what is wrong.
const answer = 1 << 10

// Get succeeds when the URL answers 200. It reads the answer to its end, so that a connection can be used again.
func Get(ctx context.Context, client *http.Client, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	told, err := io.ReadAll(io.LimitReader(response.Body, answer))
	if err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s: %s", url, response.Status, bytes.TrimSpace(told))
	}
	return nil
}
