// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package statefile keeps a value in a JSON file that is there whole or not at all, whenever its writer is killed and
// whoever reads it at that moment. Two writers of one file at a time are the caller's to prevent.
package statefile

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// Read reads a file into a value. The error is fs.ErrNotExist when there is none.
func Read(file string, into any) error {
	raw, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}

// Write replaces a file in one step. Folders on the way are made; only the owner can read what is written.
func Write(file string, value any) error {
	raw, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	return Replace(file, raw)
}

// Replace is Write for what is no JSON.
func Replace(file string, raw []byte) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	tmp := file + ".tmp"
	if err := os.WriteFile(tmp, raw, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, file)
}
