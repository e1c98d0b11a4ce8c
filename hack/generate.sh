#!/usr/bin/env bash
# Writes every generated file anew.
set -o errexit -o nounset -o pipefail
cd "$(dirname "$0")/.."

(cd api && go tool -modfile=../tools/go.mod controller-gen object paths=./...)
go generate ./...
go run ./hack/reference
