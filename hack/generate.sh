#!/usr/bin/env bash
# Writes every generated file anew. make generate puts the pinned tools on the PATH.
set -o errexit -o nounset -o pipefail
cd "$(dirname "$0")/.."

(cd api && controller-gen object paths=./...)
(cd api && controller-gen crd paths=./... output:crd:dir=../config/crd)
controller-gen rbac:roleName=cluster-stack-operator paths=./internal/... output:rbac:dir=config/rbac
go generate ./internal/...
