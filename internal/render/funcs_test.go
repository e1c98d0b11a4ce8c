// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"text/template"

	"github.com/Masterminds/sprig/v3"
	slimsprig "github.com/go-task/slim-sprig/v3"
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
