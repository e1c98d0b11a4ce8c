// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Command schemas writes the schemas of the kinds that a cluster class is made of into the current folder. It takes them
// from the modules of Cluster API, without descriptions, and is run by `make generate`.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/crds"
)

// sources are folders with CustomResourceDefinitions, by the go.mod that pins their module.
var sources = []struct{ modfile, module, folder string }{
	{"go.mod", "sigs.k8s.io/cluster-api", "core/config/crd/bases/cluster.x-k8s.io_clusterclasses.yaml"},
	{"go.mod", "sigs.k8s.io/cluster-api", "bootstrap/kubeadm/config/crd/bases/*templates.yaml"},
	{"go.mod", "sigs.k8s.io/cluster-api", "controlplane/kubeadm/config/crd/bases/*templates.yaml"},
	{"internal/sandbox/binaries/embedded.mod", "sigs.k8s.io/cluster-api/test", "infrastructure/docker/config/crd/bases/*_d*templates.yaml"},
}

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintf(os.Stderr, "Error: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	here, err := os.Getwd()
	if err != nil {
		return err
	}
	root, err := output(ctx, "go", "list", "-m", "-f", "{{.Dir}}")
	if err != nil {
		return err
	}
	for _, s := range sources {
		// Downloaded by its own module file: it may be another version than that of the operator.
		if _, err := output(ctx, "go", "mod", "download", "-modfile="+filepath.Join(root, s.modfile), s.module); err != nil {
			return err
		}
		dir, err := output(ctx, "go", "list", "-modfile="+filepath.Join(root, s.modfile), "-m", "-f", "{{.Dir}}", s.module)
		if err != nil {
			return err
		}
		files, err := filepath.Glob(filepath.Join(dir, s.folder))
		if err != nil || len(files) == 0 {
			return errors.Join(err, fmt.Errorf("%s has no %s", s.module, s.folder))
		}
		for _, file := range files {
			if err := write(here, file); err != nil {
				return err
			}
		}
	}
	return nil
}

func output(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	return strings.TrimSpace(string(out)), err
}

func write(folder, file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var crd map[string]any
	if err := yaml.Unmarshal(data, &crd); err != nil {
		return err
	}
	delete(crd, "metadata")
	delete(crd, "status")
	short, err := json.Marshal(crds.WithoutDescriptions(crd))
	if err != nil {
		return err
	}
	name := strings.TrimSuffix(filepath.Base(file), ".yaml") + ".json"
	return os.WriteFile(filepath.Join(folder, name), append(short, '\n'), 0o644)
}
