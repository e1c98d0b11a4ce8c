// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

func TestCredentialsForMirrorsAreReadAgain(t *testing.T) {
	const host = "mirror.example.org"
	file := filepath.Join(t.TempDir(), "config.json")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	config := func(password string) string {
		return fmt.Sprintf(`{"auths":{%q:{"username":"u","password":%q}}}`, host, password)
	}
	write(config("first"))
	credential, err := mirrorCredentials(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct{ text, want string }{
		{config("first"), "first"},
		{config("second"), "second"},
		{"{", "second"}, // half written
		{config("third"), "third"},
	} {
		write(step.text)
		if got, err := credential(t.Context(), host); err != nil || got.Password != step.want {
			t.Errorf("after %s: %q, %v; want %q", step.text, got.Password, err, step.want)
		}
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if got, err := credential(t.Context(), host); err != nil || got.Password != "third" {
		t.Errorf("without the file: %q, %v", got.Password, err)
	}
	if got, err := credential(t.Context(), "other.example.org"); err != nil || got.Password != "" {
		t.Errorf("another host is shown %q, %v", got.Password, err)
	}
}
