// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package observe

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
)

// nest puts comprehensions over the same list into one another.
func nest(levels int, macro, inner string) string {
	for i := range levels {
		inner = fmt.Sprintf("dep.spec.l.%s(v%d, %s)", macro, i, inner)
	}
	return inner
}

// An expression of a release, over objects of a cluster, cannot hold the operator up, nor take its memory.
func TestAdversarialExpressionsEnd(t *testing.T) {
	numbers := make([]any, 1000)
	words := make([]any, 1000)
	byKey := map[string]any{}
	for i := range numbers {
		numbers[i] = int64(i)
		words[i] = fmt.Sprint("word", i)
		byKey[fmt.Sprint("key", i)] = int64(i)
	}
	deep := map[string]any{}
	for range 1000 {
		deep = map[string]any{"d": deep}
	}
	object := deployment(map[string]any{
		"l": numbers, "w": words, "m": byKey, "deep": deep,
		"text": strings.Repeat("x", 1<<19), "lines": strings.Repeat("x\n", 1<<18),
	}, nil)

	for name, expression := range map[string]string{
		"All2":               nest(2, "all", "true"),
		"All3":               nest(3, "all", "v0 + v1 + v2 >= 0"),
		"All10":              nest(10, "all", "true"),
		"Exists5":            nest(5, "exists", "false"),
		"ExistsOne4":         nest(4, "exists_one", "true"),
		"Map3":               nest(3, "map", "v0") + ".size() > 0",
		"Map6":               nest(6, "map", "v0") + ".size() > 0",
		"Filter4":            nest(4, "filter", "false") + ".size() > 0",
		"MapOfMaps":          "dep.spec.l.map(a, dep.spec.m).map(b, dep.spec.l.map(c, b)).size() > 0",
		"MapOfText":          "dep.spec.l.map(a, dep.spec.text + dep.spec.text).size() > 0",
		"GrowingText":        "dep.spec.l.map(a, dep.spec.l.map(b, dep.spec.text + string(a) + string(b))).size() > 0",
		"TextTwice":          "(" + strings.Repeat("dep.spec.text + ", 120) + "'') != ''",
		"ListTwice":          "(" + strings.Repeat("dep.spec.l + ", 120) + "[]).all(x, (" + strings.Repeat("dep.spec.l + ", 30) + "[]).exists(y, y < 0))",
		"RegexOnText":        "dep.spec.text.matches('(x+x+)+y')",
		"RegexesOnText":      "dep.spec.l.all(a, !dep.spec.text.matches('(x+x+)+y' + string(a)))",
		"RegexRepeated":      "dep.spec.text.matches('((((x{30}){30}){30}){30})')",
		"RegexOfText":        "'x'.matches(dep.spec.text)",
		"RegexesOfTexts":     "dep.spec.w.all(a, !'x'.matches('(' + a + '){1000}'))",
		"RegexAlternatives":  "dep.spec.lines.matches('(" + strings.Repeat("x|", 500) + "y)*z')",
		"Contains":           "dep.spec.l.all(a, !dep.spec.text.contains(dep.spec.text + 'y'))",
		"StartsWith":         "dep.spec.l.all(a, dep.spec.text.startsWith(dep.spec.text))",
		"EqualTexts":         "dep.spec.l.all(a, dep.spec.text == dep.spec.text + '')",
		"EqualLists":         "dep.spec.l.all(a, dep.spec.l == dep.spec.l)",
		"EqualMaps":          "dep.spec.l.all(a, dep.spec.m == dep.spec.m)",
		"EqualObjects":       "dep.spec.l.all(a, dep == dep)",
		"EqualDepth":         "dep.spec.l.all(a, dep.spec.deep == dep.spec.deep)",
		"InList":             "dep.spec.w.all(a, a in dep.spec.w)",
		"InNumbers":          "dep.spec.l.all(a, dep.spec.l.all(b, a in dep.spec.l))",
		"KeysOfMap":          "dep.spec.m.all(a, dep.spec.m.all(b, dep.spec.m.all(c, true)))",
		"Conversions":        "dep.spec.l.all(a, dep.spec.l.all(b, int(string(a)) + int(string(b)) >= 0))",
		"Times":              "dep.spec.l.all(a, dep.spec.l.all(b, timestamp(a) + duration(string(b) + 's') > timestamp(0)))",
		"ListOfConversions":  "dep.spec.l.map(a, string(bytes(dep.spec.text))).size() > 0",
		"Bytes":              "dep.spec.l.all(a, bytes(dep.spec.text) == bytes(dep.spec.text))",
		"Size":               "dep.spec.l.all(a, size(dep.spec.text) > 0 && size(dep.spec.lines) > 0)",
		"Parentheses":        strings.Repeat("(", 900) + "true" + strings.Repeat(")", 900),
		"Negations":          strings.Repeat("!", 1800) + "true",
		"Conditions":         strings.Repeat("true ? ", 200) + "true" + strings.Repeat(" : false", 200),
		"Lists":              strings.Repeat("[", 900) + strings.Repeat("]", 900) + " == []",
		"Maps":               strings.Repeat("{'a': ", 300) + "1" + strings.Repeat("}", 300) + " == {}",
		"Selections":         "dep.spec.deep" + strings.Repeat(".d", 900) + " == {}",
		"LiteralList":        "[" + strings.Repeat("1, ", 600) + "1].all(a, dep.spec.l.all(b, dep.spec.l.all(c, true)))",
		"Disjunctions":       strings.Repeat("false || ", 200) + "true",
		"Arithmetic":         strings.Repeat("1 + ", 450) + "1 > 0",
		"Overflow":           "9223372036854775807 + 1 > 0",
		"DivisionByZero":     "1 / (1 - 1) == 0",
		"ErrorsAreAbsorbed":  "dep.spec.l.exists(a, dep.spec.l.exists(b, 1 / (a - a) > 0))",
		"FieldsOfEverything": "dep.spec.l.all(a, has(dep.spec.l) && has(dep.spec.m.key1) && has(dep.spec.deep.d.d.d))",
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			start := time.Now()
			g, err := CompileGate(&release.Condition{Objects: []release.ObjectRef{dep}, Expression: expression})
			if err == nil {
				g.patience = maxTime / 20
				_, err = g.Eval(t.Context(), cluster{"Deployment.apps kube-system/dep": object})
			}
			took := time.Since(start)
			runtime.ReadMemStats(&after)
			// On a busy machine anything takes long; unbounded, these would take minutes to years.
			if took > 20*maxTime {
				t.Errorf("it took %s", took)
			}
			if allocated := after.TotalAlloc - before.TotalAlloc; allocated > 2<<30 {
				t.Errorf("it took %d MiB of memory in all, what was freed again included", allocated>>20)
			}
			t.Logf("%s, %d MiB: %.200v", took, (after.TotalAlloc-before.TotalAlloc)>>20, err)
		})
	}
}
