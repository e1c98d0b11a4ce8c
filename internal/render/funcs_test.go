// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"flag"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/template"

	"github.com/Masterminds/sprig/v3"
	slimsprig "github.com/go-task/slim-sprig/v3"
	"github.com/google/go-cmp/cmp"
)

// steadyByNature are the functions whose results depend on nothing but their arguments. A function
// that a new version of the libraries brings has to be put here, or to be recorded.
const steadyByNature = `
	abbrev abbrevboth add add1 add1f addf adler32sum all any append atoi b32dec b32enc b64dec b64enc base biggest
	buildCustomCert camelcase cat ceil chunk clean coalesce compact concat contains dateModify date_modify
	decryptAES deepCopy deepEqual default derivePassword dict dig dir div divf duration empty ext fail first
	float64 floor fromJson get has hasKey hasPrefix hasSuffix hello indent initial initials int int64 isAbs join
	kebabcase kindIs kindOf last list lower max maxf merge mergeOverwrite min minf mod mul mulf mustAppend
	mustChunk mustCompact mustDateModify mustDeepCopy mustFirst mustFromJson mustHas mustInitial mustLast
	mustMerge mustMergeOverwrite mustPrepend mustPush mustRegexFind mustRegexFindAll mustRegexMatch
	mustRegexReplaceAll mustRegexReplaceAllLiteral mustRegexSplit mustRest mustReverse mustSlice mustToJson
	mustToPrettyJson mustToRawJson mustUniq mustWithout must_date_modify nindent nospace omit osBase osClean osDir
	osExt osIsAbs pick pluck plural prepend push quote regexFind regexFindAll regexMatch regexQuoteMeta
	regexReplaceAll regexReplaceAllLiteral regexSplit replace rest reverse round semver semverCompare set sha1sum
	sha256sum sha512sum slice snakecase sortAlpha split splitList splitn squote sub subf substr swapcase ternary
	title toDecimal toJson toPrettyJson toRawJson toString toStrings trim trimAll trimPrefix trimSuffix trimall
	trunc tuple typeIs typeIsLike typeOf uniq unixEpoch unset untitle upper urlJoin urlParse without wrap wrapWith
`

func TestEveryFunctionIsSteadyOrRecorded(t *testing.T) {
	steady := strings.Fields(steadyByNature)
	r := newRecorder("x", nil, nil)
	replaced := slices.Collect(maps.Keys(chartFunctions(r)))
	for library, functions := range map[string]template.FuncMap{"sprig": sprig.TxtFuncMap(), "slim-sprig": slimsprig.TxtFuncMap()} {
		for name := range functions {
			_, removed := removedFunctions[name]
			if !removed && !slices.Contains(steady, name) && !slices.Contains(replaced, name) {
				t.Errorf("%s: nobody has decided whether %s gives the same result each time", library, name)
			}
		}
	}
	for _, name := range steady {
		if slices.Contains(replaced, name) {
			t.Errorf("%s is replaced and need not be named", name)
		}
	}
	for name := range removedFunctions {
		if _, ok := valuesFunctions(r)[name]; ok {
			t.Errorf("values templates have the function %s", name)
		}
	}
}

// testdata/functions.txt has an expression on each line that is not indented, and below it what a values template
// makes of it: the results that the templates of existing stacks rely on.
func TestFunctionsOfValuesTemplates(t *testing.T) {
	const golden = "testdata/functions.txt"
	data, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	var all []string
	for line := range strings.Lines(string(data)) {
		expression := strings.TrimSpace(line)
		if strings.HasPrefix(line, "\t") || expression == "" {
			continue
		}
		all = append(all, expression)
		out, err := execute("t", []byte("{{ "+expression+" }}"), map[string]any{}, newRecorder("", nil, nil), nil)
		if err != nil {
			out = "error: " + err.Error()
		} else {
			out = strconv.Quote(out)
		}
		got.WriteString(expression + "\n\t" + out + "\n")
	}
	if f := flag.Lookup("update"); f != nil && f.Value.String() == "true" {
		if err := os.WriteFile(golden, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(string(data), got.String()); diff != "" {
		t.Errorf("results (-want +got); if this is right, run the test with -update:\n%s", diff)
	}
	words := strings.FieldsFunc(strings.Join(all, " "), func(r rune) bool { return strings.ContainsRune(" ()|", r) })
	for name := range slimsprig.TxtFuncMap() {
		if !slices.Contains(words, name) {
			t.Errorf("no expression uses the function %s", name)
		}
	}
}
