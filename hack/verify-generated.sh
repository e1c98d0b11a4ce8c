#!/usr/bin/env bash
# Fails when `make generate` changes a file. Compares the files before and after rather than with the
# last commit, so that it can be run with changes at hand; what it generated stays.
set -o errexit -o nounset -o pipefail
cd "$(dirname "$0")/.."

state() {
	git ls-files --cached --others --exclude-standard -z | while IFS= read -r -d '' file; do
		if [ -f "$file" ]; then sha256sum "$file"; fi
	done
}

before=$(state)
hack/generate.sh
after=$(state)
if ! changed=$(diff <(printf '%s\n' "$before") <(printf '%s\n' "$after")); then
	echo "Generated files were out of date and have been written anew; review and commit them:" >&2
	printf '%s\n' "$changed" | awk '/^[<>]/ {print "  " $3}' | sort -u >&2
	exit 1
fi
