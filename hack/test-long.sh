#!/usr/bin/env bash
# What takes hours: every fuzz test for FUZZTIME (default 10m), then all tests under the race detector and the
# end-to-end tests, COUNT times each (default 5), with those that have the build tag long. Goes on after a failure and tells at the end.
set -o nounset -o pipefail
cd "$(dirname "$0")/.."
fuzztime=${FUZZTIME:-10m}
count=${COUNT:-5}
failed=()

run() {
	echo "== $*"
	"$@" || failed+=("$*")
}

while read -r file name; do
	run go test -run '^$' -fuzz "^${name}\$" -fuzztime "$fuzztime" "./$(dirname "$file")"
done < <(git grep -oE '^func Fuzz[A-Za-z0-9_]+' -- '*_test.go' | sed 's/:func / /')

run go test -tags long -race -count "$count" -timeout 4h $(go list ./... | grep -v /test/)
run go test -tags long -p 1 -count "$count" -timeout 4h ./test/...

if [ ${#failed[@]} -gt 0 ]; then
	printf 'failed: %s\n' "${failed[@]}" >&2
	exit 1
fi
echo "all passed: fuzzing for $fuzztime a test, everything else $count times"
