#!/usr/bin/env bash
# Prints the results of the tests as `go test -json` does, for gotestsum to read: the packages that test
# fast under the race detector, then the tests of the whole system once.
set -o nounset -o pipefail
cd "$(dirname "$0")/.."

# What failed is run once more, alone: gotestsum then adds "-test.run=^TestSomething$" and the package.
if [[ "${*: -2:1}" == -test.run=* ]]; then
	case "${*: -1}" in
	*/api/*) cd api && exec go test -json -race "${@: -2}" ;;
	*/cluster-stack-operator/test/*) exec go test -json -count=1 -timeout 40m "${@: -2}" ;;
	*) exec go test -json -count=1 -race -timeout 20m "${@: -2}" ;;
	esac
fi

status=0
(cd api && go test -json -race ./...) || status=1
go test -json -race -timeout 20m $(go list ./... | grep -v /test/) || status=1
if [ "${1:-}" != fast ]; then
	# -count=1: what these prove depends on programs that Go's test cache does not know.
	# Three packages at once: each spends most of its time waiting for Cluster API.
	go test -json -count=1 -p 3 -timeout 40m ./test/... || status=1
fi
exit $status
