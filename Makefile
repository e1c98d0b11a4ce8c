# Copyright The Cluster Stack Operator Authors.
# SPDX-License-Identifier: Apache-2.0

# Everything here needs Go, git, make and (for the race detector) a C compiler on a Linux, nothing else.
SHELL := /usr/bin/env bash -o errexit -o nounset -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
COMMIT ?= $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
# No flags that change how packages compile: build, vet, lint and tests then share Go's build cache.
LDFLAGS := -s -w \
	-X github.com/clusterstacks/cluster-stack-operator/internal/cli.version=$(VERSION) \
	-X github.com/clusterstacks/cluster-stack-operator/internal/cli.commit=$(COMMIT)

TOOLS := bin/tools
# Real control planes on a machine that is busy with others of them have bad moments. A test that fails is run once more,
# alone; the summary names it all the same, and who sees it there mends it. More than five are not bad luck.
GOTESTSUM := $(TOOLS)/gotestsum --format pkgname-and-test-fails --format-hide-empty-pkg --hide-summary=skipped \
	--rerun-fails=1 --rerun-fails-max-failures=5 --rerun-fails-run-root-test --rerun-fails-abort-on-data-race
export PATH := $(CURDIR)/$(TOOLS):$(PATH)

##@ Use

.PHONY: quickstart
quickstart: build ## Run the main job: a sandbox, a cluster stack, a cluster, two upgrades; leaves all running
	@bin/quickstart

.PHONY: quickstart-down
quickstart-down: ## End what `make quickstart` left running
	@if [ -x bin/csctl ]; then bin/csctl sandbox down --name quickstart; fi; rm -rf bin/quickstart-releases

.PHONY: build
build: ## Build the binaries into bin/
	@mkdir -p bin
	@go build -ldflags "$(LDFLAGS)" -o bin/ ./cmd/... ./hack/quickstart

##@ Prove

.PHONY: test
test: check programs ## All that proves the product: checks, then every test once (what CI runs)
	@$(GOTESTSUM) --raw-command hack/test.sh

.PHONY: test-fast
test-fast: tools ## Packages that test in seconds, under the race detector
	@$(GOTESTSUM) --raw-command hack/test.sh fast

.PHONY: test-long
test-long: check programs ## What takes hours: fuzzing, and the real tests again and again
	@hack/test-long.sh

.PHONY: bench
bench: programs ## What the operator costs, compared with its bars; into bench/results.json (25 minutes)
	@go test -tags bench -run '^$$' -bench . -benchtime 1x -timeout 40m ./test/bench

.PHONY: bench-packages
bench-packages: programs ## The benchmarks of single packages
	@go test -run '^$$' -bench . -benchmem ./internal/...

.PHONY: check
check: verify-generated lint vet ## Generated files are up to date, linter and vet are content

.PHONY: lint
lint: tools ## Run the linter over both modules with code
	@echo "lint"
	@golangci-lint run ./...
	@cd api && golangci-lint run --config ../.golangci.yml ./...

.PHONY: vet
vet: ## Run go vet over both modules with code
	@echo "vet"
	@go vet -tags long,bench ./...
	@cd api && go vet ./...

##@ Make

.PHONY: generate
generate: ## Write the generated files anew
	@hack/generate.sh

IMAGE ?= ghcr.io/clusterstacks/cluster-stack-operator:main
.PHONY: manifests
manifests: ## Render all that installs the operator, with IMAGE, into bin/cluster-stack-operator.yaml
	@case "$(notdir $(IMAGE))" in *:*) ;; *) echo "IMAGE=$(IMAGE): must have a tag, such as $(IMAGE):v1" >&2; exit 1;; esac
	@mkdir -p bin/manifests
	@printf 'resources: [../../config/default]\nimages: [{name: ghcr.io/clusterstacks/cluster-stack-operator, newName: "%s", newTag: "%s"}]\n' \
		"$(IMAGE:%:$(lastword $(subst :, ,$(IMAGE)))=%)" "$(lastword $(subst :, ,$(IMAGE)))" >bin/manifests/kustomization.yaml
	@go tool -modfile=tools/go.mod kustomize build bin/manifests >bin/cluster-stack-operator.yaml
	@echo bin/cluster-stack-operator.yaml

.PHONY: image
image: ## Build the image of the operator for amd64 and arm64 into bin/image, an OCI layout
	@go run ./hack/image -output bin/image -revision "$(COMMIT)"

.PHONY: verify-generated
verify-generated: ## Fail when generated files are out of date
	@echo "generate, and compare"
	@hack/verify-generated.sh

.PHONY: tools
tools: ## Build the pinned tools into bin/tools
	@mkdir -p $(TOOLS)
	@cd tools && GOFLAGS= go build -o ../$(TOOLS)/ tool

.PHONY: programs
programs: ## Build the real Kubernetes and Cluster API programs of the sandbox (cached below the user's cache folder)
	@go run ./hack/programs

.PHONY: help
help: ## Show this page
	@awk 'BEGIN {FS = ":.*## "; printf "Usage: make <target>\n"} \
		/^##@/ {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' Makefile
