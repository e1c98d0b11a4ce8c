// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package bombs_test lets charts and values templates do their worst to workers that have the limits that
// they have in production. That cannot be seen under the race detector, whose programs need more memory.
package bombs_test

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/render"
	"github.com/clusterstacks/cluster-stack-operator/internal/renderworker"
)

const (
	cpu    = 300 * time.Millisecond
	memory = 384 << 20
)

// These say which limit a bomb meets. Where a bomb can meet more than one, it depends on the machine.
const (
	anyLimit = ""
	finishes = "finishes" // it costs little, after all
)

const chartYAML = "apiVersion: v2\nname: bomb\nversion: v1\n"

// template is a chart with one template.
func template(text string) map[string]string { return map[string]string{"templates/a.yaml": text} }

// object is a template of one object with an expression in it.
func object(expression string) map[string]string {
	return template("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n  a: {{ " + expression + " | toString | sha256sum }}\n")
}

func values(text string) map[string]string { return map[string]string{"overwrite.yaml": text} }

func aliases(levels int) string {
	var text strings.Builder
	text.WriteString("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n")
	for i := 1; i <= levels; i++ {
		alias := fmt.Sprintf("*a%d", i-1)
		fmt.Fprintf(&text, "a%d: &a%d [%s]\n", i, i, strings.Join([]string{alias, alias, alias, alias, alias, alias, alias, alias, alias, alias}, ", "))
	}
	return text.String()
}

const manifest = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n"

var bombs = map[string]struct {
	files map[string]string
	want  string
}{
	"Loop":                {template(`{{ range until 1000000 }}{{ range until 1000000 }}{{ end }}{{ end }}`), "processor time"},
	"RangeOverNumber":     {template(`{{ range 1000000000000 }}{{ end }}`), anyLimit},
	"Until":               {template(`{{ until 2000000000 }}`), "more than 1000000 items"},
	"UntilNegative":       {template(`{{ until -2000000000 }}`), "more than 1000000 items"},
	"UntilStep":           {template(`{{ untilStep 0 2000000000 1 }}`), "more than 1000000 items"},
	"UntilStepZero":       {template(`{{ untilStep 0 10 0 }}`), anyLimit},
	"Seq":                 {template(`{{ seq 1 2000000000 }}`), "more than 1000000 items"},
	"Repeat":              {object(`repeat 2000000000 "x"`), "more than 20971520 items"},
	"RepeatNegative":      {object(`repeat -1 "x"`), anyLimit},
	"RepeatOfRepeat":      {object(`repeat 20000000 "x" | repeat 1000`), "more than 20971520 items"},
	"Doubling":            {template(`{{ $s := "xxxxxxxxxxxxxxxx" }}{{ range until 60 }}{{ $s = print $s $s }}{{ end }}`), anyLimit},
	"DoublingByReplace":   {template(`{{ $s := "xxxxxxxxxxxxxxxx" }}{{ range until 60 }}{{ $s = replace "x" "xx" $s }}{{ end }}`), anyLimit},
	"DoublingByRegex":     {template(`{{ $s := "xxxxxxxxxxxxxxxx" }}{{ range until 60 }}{{ $s = regexReplaceAll "x" $s "xx" }}{{ end }}`), anyLimit},
	"DoublingByJoin":      {template(`{{ $s := "xxxxxxxxxxxxxxxx" }}{{ range until 60 }}{{ $s = join $s (list $s $s $s) }}{{ end }}`), anyLimit},
	"DoublingByBase32":    {template(`{{ $s := "xxxxxxxxxxxxxxxx" }}{{ range until 100 }}{{ $s = b32enc $s }}{{ end }}`), anyLimit},
	"DoublingOfLists":     {template(`{{ $l := list 1 2 3 4 }}{{ range until 60 }}{{ $l = concat $l $l }}{{ end }}`), anyLimit},
	"DoublingOfJSON":      {template(`{{ $s := "\"" }}{{ range until 60 }}{{ $s = toJson $s }}{{ end }}`), anyLimit},
	"DoublingOfQuotes":    {template(`{{ $s := "\"" }}{{ range until 60 }}{{ $s = quote $s }}{{ end }}`), anyLimit},
	"Output":              {template(`{{ range until 1000000 }}{{ range until 1000 }}xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx{{ end }}{{ end }}`), anyLimit},
	"Width":               {object(`printf "%1000000d%1000000d%1000000d" 1 2 3`), finishes},
	"Indent":              {object(`indent 2000000000 "x"`), anyLimit},
	"Nindent":             {object(`nindent 2000000000 "x"`), anyLimit},
	"IndentOfLines":       {object(`repeat 1000000 "\n" | indent 1000`), anyLimit},
	"Wrap":                {object(`repeat 10000000 "x " | wrapWith 1 (repeat 1000 "y")`), anyLimit},
	"Recursion":           {map[string]string{"templates/_h.tpl": `{{ define "h" }}{{ include "h" . }}{{ end }}`, "templates/a.yaml": `{{ include "h" . }}`}, anyLimit},
	"RecursionByTemplate": {template(`{{ define "h" }}{{ template "h" . }}{{ end }}{{ template "h" . }}`), anyLimit},
	"RecursionByTpl":      {map[string]string{"values.yaml": "t: '{{ tpl .Values.t . }}'\n", "templates/a.yaml": `{{ tpl .Values.t . }}`}, anyLimit},
	"Fanout":              {template(`{{ define "a" }}xxxxxxxx{{ end }}` + fanout(20) + `{{ include "f20" . }}`), anyLimit},
	"FanoutOfTpl":         {template(`{{ $t := "x" }}{{ range until 40 }}{{ $t = tpl (print $t $t) $ }}{{ end }}`), anyLimit},
	"PrivateKeys":         {template(`{{ range until 1000 }}{{ $k := genPrivateKey "rsa" }}{{ end }}`), "processor time"},
	"DSA":                 {template(`{{ range until 1000 }}{{ $k := genPrivateKey "dsa" }}{{ end }}`), "processor time"},
	"Authorities":         {template(`{{ range until 1000 }}{{ $k := genCA "x" 1 }}{{ end }}`), "processor time"},
	"Bcrypt":              {template(`{{ range until 10000 }}{{ $k := bcrypt "x" }}{{ end }}`), "processor time"},
	"Htpasswd":            {template(`{{ range until 10000 }}{{ $k := htpasswd "x" "y" }}{{ end }}`), "processor time"},
	"DerivedPasswords":    {template(`{{ range until 10000 }}{{ $k := derivePassword 1 "long" "x" "y" "z" }}{{ end }}`), "processor time"},
	"RandomText":          {template(`{{ randAlphaNum 2000000000 }}`), "more than 65536 items"},
	"RandomTexts":         {template(`{{ range until 1000000 }}{{ $k := randAscii 60000 }}{{ end }}`), anyLimit},
	"RandomNumbers":       {template(`{{ range until 1000000 }}{{ $k := randInt 0 1000000 }}{{ end }}`), anyLimit},
	"UUIDs":               {template(`{{ range until 1000000 }}{{ $k := uuidv4 }}{{ end }}`), anyLimit},
	"Shuffle":             {template(`{{ $s := repeat 1000000 "xy" }}{{ range until 1000000 }}{{ $s = shuffle $s }}{{ end }}`), anyLimit},
	"Uniq":                {template(`{{ $k := uniq (until 1000000) }}`), "processor time"},
	"Without":             {template(`{{ $l := until 100000 }}{{ range $l }}{{ $k := without $l . }}{{ end }}`), anyLimit},
	"Sort":                {template(`{{ $l := until 1000000 }}{{ range $l }}{{ $k := sortAlpha $l }}{{ end }}`), anyLimit},
	"Chunk":               {template(`{{ range until 1000 }}{{ $k := chunk 1 (until 1000000) }}{{ end }}`), anyLimit},
	"Split":               {template(`{{ $s := repeat 20000000 "," }}{{ $k := splitList "," $s }}{{ $k = split "," $s }}`), anyLimit},
	"Regex":               {object(`regexMatch "(x+x+)+y" (repeat 20000000 "x")`), anyLimit},
	"RegexOfRepetitions":  {object(`mustRegexMatch "((((a{30}){30}){30}){30})" "a"`), "mustRegexMatch"},
	"Versions":            {object(`semverCompare (repeat 100000 "1.0.0 || ") "1.0.0"`), anyLimit},
	"Cycle":               {template(`{{ $d := dict }}{{ $_ := set $d "d" $d }}{{ $k := $d | toYaml }}`), anyLimit},
	"CycleInJSON":         {template(`{{ $d := dict }}{{ $_ := set $d "d" $d }}{{ $k := $d | toJson }}`), anyLimit},
	"CyclePrinted":        {template(`{{ $d := dict }}{{ $_ := set $d "d" $d }}{{ $d }}`), anyLimit},
	"CycleCopied":         {template(`{{ $d := dict }}{{ $_ := set $d "d" $d }}{{ $k := deepCopy $d }}`), anyLimit},
	"CycleCompared":       {template(`{{ $d := dict }}{{ $_ := set $d "d" $d }}{{ $e := dict }}{{ $_ := set $e "d" $e }}{{ deepEqual $d $e }}`), anyLimit},
	"CycleInValues":       {template(`{{ $_ := set .Values "d" .Values }}{{ $k := .Values | toYaml }}`), anyLimit},
	"Aliases":             {template(manifest + "data:\n" + strings.ReplaceAll("\n"+aliases(9), "\n", "\n  ")), "does not render to YAML"},
	"AliasesInValues":     {map[string]string{"values.yaml": aliases(9)}, anyLimit},
	"AliasesParsed":       {map[string]string{"files/a": aliases(9), "templates/a.yaml": `{{ $k := .Files.Get "files/a" | fromYaml }}{{ $k }}`}, anyLimit},
	"AliasesInDefinition": {map[string]string{"crds/a.yaml": manifest + aliases(9)}, anyLimit},
	"AliasesInChart":      {map[string]string{"Chart.yaml": chartYAML + aliases(9)}, anyLimit},
	"Depth":               {template(manifest + "data: {{ repeat 1000000 \"[\" }}"), anyLimit},
	"DepthBalanced":       {template(manifest + "data: {{ repeat 9000 \"[\" }}{{ repeat 9000 \"]\" }}"), "more than 200 deep"},
	"DepthOfJSON":         {template(`{{ $k := print (repeat 9000000 "[") (repeat 9000000 "]") | fromJson }}`), anyLimit},
	"DepthOfTemplate":     {template(strings.Repeat("{{ if true }}", 200_000) + strings.Repeat("{{ end }}", 200_000)), anyLimit},
	"DepthOfParentheses":  {template("{{ " + strings.Repeat("(", 500_000) + "1" + strings.Repeat(")", 500_000) + " }}"), anyLimit},
	"Keys":                {template(manifest + "data:\n{{ range until 400000 }}  k{{ . }}: x\n{{ end }}"), anyLimit},
	"Documents":           {template("{{ range until 1000000 }}---\n{{ end }}"), anyLimit},
	"Comments":            {template("{{ repeat 20000000 \"#\" }}\n"), anyLimit},
	"Objects":             {template("{{ range until 100000 }}---\n{apiVersion: v1, kind: Secret, metadata: {name: a{{ . }}}}\n{{ end }}"), anyLimit},
	"List":                {template("apiVersion: v1\nkind: List\nitems:\n{{ range until 100000 }}- {apiVersion: v1, kind: Secret, metadata: {name: a{{ . }}}}\n{{ end }}"), anyLimit},
	"Templates":           {manyTemplates(20_000), anyLimit},
	"Glob":                {map[string]string{"files/" + strings.Repeat("a", 200): "x", "templates/a.yaml": `{{ $k := .Files.Glob "files/` + strings.Repeat("*a", 60) + `b" }}`}, anyLimit},
	"Schema":              {map[string]string{"values.yaml": "a: [[[[[[[[[[1]]]]]]]]]]\n", "values.schema.json": `{"$defs": {` + schemas(25) + `}, "$ref": "#/$defs/s25"}`}, anyLimit},
	"SchemaOfItself":      {map[string]string{"values.schema.json": `{"$ref": "#"}`}, anyLimit},
	"SchemaPattern":       {map[string]string{"values.yaml": "a: " + strings.Repeat("x", 100_000) + "\n", "values.schema.json": `{"properties": {"a": {"pattern": "(x{1000}){1000}y"}}}`}, anyLimit},

	"ValuesLoop":      {values(`{{ range until 1000000 }}{{ range until 1000000 }}{{ end }}{{ end }}`), "processor time"},
	"ValuesDoubling":  {values(`{{ $s := "xxxxxxxxxxxxxxxx" }}{{ range until 60 }}{{ $s = print $s $s }}{{ end }}`), anyLimit},
	"ValuesOutput":    {values(`{{ repeat 20000000 "x" }}`), "longer than 1024 KiB"},
	"ValuesAliases":   {values(aliases(9)), "not a map in YAML"},
	"ValuesDepth":     {values(`a: {{ repeat 100000 "[" }}{{ repeat 100000 "]" }}`), anyLimit},
	"ValuesDocuments": {values(`{{ repeat 200000 "---\n" }}`), anyLimit},
	"ValuesRecursion": {values(`{{ define "h" }}{{ template "h" . }}{{ end }}{{ template "h" . }}`), anyLimit},
}

func fanout(levels int) string {
	text := `{{ define "f0" }}xxxxxxxx{{ end }}`
	for i := 1; i <= levels; i++ {
		text += fmt.Sprintf(`{{ define "f%d" }}{{ include "f%d" . }}{{ include "f%d" . }}{{ end }}`, i, i-1, i-1)
	}
	return text
}

func schemas(levels int) string {
	all := []string{`"s0": {"type": ["array", "object", "integer"]}`}
	for i := 1; i <= levels; i++ {
		all = append(all, fmt.Sprintf(`"s%d": {"allOf": [{"$ref": "#/$defs/s%d"}, {"$ref": "#/$defs/s%d"}]}`, i, i-1, i-1))
	}
	return strings.Join(all, ", ")
}

func manyTemplates(n int) map[string]string {
	files := map[string]string{}
	for i := range n {
		files[fmt.Sprintf("templates/%d.yaml", i)] = `{{ range until 1000 }}{{ end }}`
	}
	return files
}

func input(name string, files map[string]string) render.Input {
	in := render.Input{
		Subject: name, Folder: true, IncludeCRDs: true,
		ReleaseName: render.AddonReleaseName, Namespace: render.AddonNamespace, Kubernetes: "v1.35.4",
		Facts: render.Facts{Cluster: map[string]any{"metadata": map[string]any{"name": "c"}}},
		Addon: "x", ValuesFile: release.OverwriteFile,
	}
	if _, own := files["Chart.yaml"]; !own {
		in.Chart = append(in.Chart, release.File{Name: "Chart.yaml", Data: []byte(chartYAML)})
	}
	for name, text := range files {
		in.Chart = append(in.Chart, release.File{Name: name, Data: []byte(text)})
		if name == release.OverwriteFile {
			in.ValuesTemplate = []byte(text)
		}
	}
	return in
}

// Each bomb ends, by its own limit or that of the worker, while other charts are rendered as if there were
// none.
func TestBombsEndAndOthersGoOn(t *testing.T) {
	pool := renderworker.New(renderworker.Options{Workers: 2, CPU: cpu, Memory: memory})
	defer pool.Close()

	for name, bomb := range bombs {
		t.Run(name, func(t *testing.T) {
			var beside sync.WaitGroup
			defer beside.Wait()
			beside.Go(func() {
				in := input("good", map[string]string{"templates/a.yaml": manifest + "data: {n: {{ .Values.n | quote }}}\n"})
				in.Facts.Values = map[string]map[string]any{"x": {"n": name}}
				if _, err := pool.Render(t.Context(), in); err != nil {
					t.Errorf("a good chart: %v", err)
				}
			})
			start := time.Now()
			result, err := pool.Render(t.Context(), input("bomb", bomb.files))
			took := time.Since(start)
			var invalid *render.InvalidError
			switch {
			case bomb.want == finishes && err != nil:
				t.Errorf("error %v, want none", err)
			case err != nil && !errors.As(err, &invalid):
				t.Errorf("error %v is no InvalidError", err)
			case err != nil && !strings.Contains(err.Error(), bomb.want):
				t.Errorf("error %v, want one with %q", err, bomb.want)
			case err == nil && bomb.want != anyLimit && bomb.want != finishes:
				t.Errorf("%d objects, want an error with %q", len(result.Objects), bomb.want)
			}
			t.Logf("%s: %v", took.Round(time.Millisecond), err)
		})
	}
	// What a bomb takes, it takes from a worker.
	if peak := peakMemory(t); peak > memory {
		t.Errorf("this process took %d MiB", peak>>20)
	}
}

// peakMemory is the most that this process has had in memory, in bytes.
func peakMemory(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return kib << 10
}
