// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"text/template"
	"time"
	_ "time/tzdata" // dates in a named zone must not depend on the machine's files

	"github.com/Masterminds/sprig/v3"
	slimsprig "github.com/go-task/slim-sprig/v3"
)

// limitMark stands before messages of ours in errors that come back through a template.
const limitMark = "cluster stacks: "

// generating are the functions whose results are left to chance. There is one list for charts and
// values templates; the latter have fewer of them.
var generating = []string{
	"genCA", "genCAWithKey", "genSelfSignedCert", "genSelfSignedCertWithKey",
	"genSignedCert", "genSignedCertWithKey", "genPrivateKey",
	"bcrypt", "htpasswd", "encryptAES",
	"randAlphaNum", "randAlpha", "randAscii", "randNumeric", "randBytes", "randInt",
	"shuffle", "uuidv4",
}

// removedFunctions do not exist in values templates, though they once did.
var removedFunctions = map[string]string{
	"env":           "it would hand out the operator's environment, which holds credentials",
	"expandenv":     "it would hand out the operator's environment, which holds credentials",
	"getHostByName": "a render has no network, and its result must not depend on a name server",
}

const (
	maxRepeated = maxRendered // bytes that the function repeat may return
	maxCounted  = 1_000_000   // numbers that until, untilStep and seq may return
	maxRandom   = 64 << 10    // characters of one random string
)

// chartFunctions returns what replaces functions of Helm: the ones whose results are recorded, and the
// ones whose results would depend on the machine, the clock or the order of a map.
func chartFunctions(r *recorder) template.FuncMap {
	helm := sprig.TxtFuncMap()
	functions := steady(helm, r)
	functions[fileMarker] = r.enter
	return functions
}

// valuesFunctions returns all functions of values templates.
func valuesFunctions(r *recorder) template.FuncMap {
	functions := slimsprig.TxtFuncMap()
	maps.Copy(functions, steady(functions, r))
	for name := range removedFunctions {
		delete(functions, name)
	}
	return functions
}

// fileMarker is the function that tells the recorder which template file is being executed. The name
// is not one that an author would choose.
const fileMarker = "clusterStackTemplateFile"

// enter notes the file that a template is executed for. Files that another one includes count as that
// other one, as .Template does.
func (r *recorder) enter(dot any) string {
	if file := templateName(dot); file != "" {
		r.file = file
	}
	return ""
}

// steady returns replacements for the functions in all that would make two renders differ.
func steady(all template.FuncMap, r *recorder) template.FuncMap {
	functions := template.FuncMap{}
	for _, name := range generating {
		if fn, ok := all[name]; ok {
			functions[name] = r.record(name, fn)
		}
	}
	for _, name := range []string{"randAlphaNum", "randAlpha", "randAscii", "randNumeric", "randBytes"} {
		if fn, ok := functions[name]; ok {
			functions[name] = bounded(name, fn, maxRandom, firstInt)
		}
	}
	for _, name := range []string{"until", "untilStep", "seq"} {
		if fn, ok := all[name]; ok {
			functions[name] = bounded(name, fn, maxCounted, span)
		}
	}
	functions["repeat"] = bounded("repeat", all["repeat"], maxRepeated, func(args []reflect.Value) int64 {
		return args[0].Int() * int64(max(1, args[1].Len()))
	})

	// These take their order from a Go map, which has none.
	functions["keys"] = sortedKeys
	functions["values"] = sortedValues

	d := dates{recorder: r}
	maps.Copy(functions, template.FuncMap{
		"now":            d.now,
		"ago":            d.ago(all["ago"]),
		"durationRound":  d.durationRound(all["durationRound"]),
		"date":           func(layout string, date any) (string, error) { return d.format(layout, date, "UTC") },
		"dateInZone":     d.format,
		"date_in_zone":   d.format,
		"htmlDate":       func(date any) (string, error) { return d.format(time.DateOnly, date, "UTC") },
		"htmlDateInZone": func(date any, zone string) (string, error) { return d.format(time.DateOnly, date, zone) },
		"toDate": func(layout, text string) time.Time {
			date, err := parseDate(layout, text)
			if err != nil {
				return time.Time{}
			}
			return date
		},
		"mustToDate": parseDate,
	})
	return functions
}

// bounded returns fn with an error when measure of its arguments exceeds limit: such a call would eat
// the memory before anybody could stop it.
func bounded(name string, fn any, limit int64, measure func([]reflect.Value) int64) any {
	f := reflect.ValueOf(fn)
	t := f.Type()
	var in []reflect.Type
	for i := range t.NumIn() {
		in = append(in, t.In(i))
	}
	return reflect.MakeFunc(reflect.FuncOf(in, []reflect.Type{t.Out(0), errorType}, t.IsVariadic()), func(args []reflect.Value) []reflect.Value {
		if measure(args) > limit {
			err := fmt.Errorf("%sfunction %s is asked for more than %d items", limitMark, name, limit)
			return []reflect.Value{reflect.Zero(t.Out(0)), reflect.ValueOf(&err).Elem()}
		}
		var results []reflect.Value
		if t.IsVariadic() {
			results = f.CallSlice(args)
		} else {
			results = f.Call(args)
		}
		if len(results) == 1 {
			results = append(results, reflect.Zero(errorType))
		}
		return results
	}).Interface()
}

func firstInt(args []reflect.Value) int64 { return args[0].Int() }

// span returns how far apart the integers in args are at most, single ones and those in a list.
func span(args []reflect.Value) int64 {
	var low, high int64
	for _, arg := range args {
		switch arg.Kind() {
		case reflect.Int:
			low, high = min(low, arg.Int()), max(high, arg.Int())
		case reflect.Slice:
			for i := range arg.Len() {
				low, high = min(low, arg.Index(i).Int()), max(high, arg.Index(i).Int())
			}
		default:
		}
	}
	return high - low
}

func sortedKeys(maps_ ...map[string]any) []string {
	all := []string{}
	for _, m := range maps_ {
		all = append(all, slices.Sorted(maps.Keys(m))...)
	}
	return all
}

func sortedValues(m map[string]any) []any {
	all := []any{}
	for _, key := range sortedKeys(m) {
		all = append(all, m[key])
	}
	return all
}

// dates are the functions that ask for the time. For an addon, it is always that of its first render.
type dates struct{ recorder *recorder }

func (d dates) now() (time.Time, error) {
	encoded, err := d.recorder.once("now", func() (string, error) {
		if d.recorder.placeholders {
			return placeholderTime.Format(time.RFC3339Nano), nil
		}
		return time.Now().UTC().Format(time.RFC3339Nano), nil
	})
	if err != nil {
		return time.Time{}, err
	}
	return time.Parse(time.RFC3339Nano, encoded)
}

// format writes a date in a time zone. As in Helm, something that is no date means now; the local
// zone is UTC on every machine.
func (d dates) format(layout string, date any, zone string) (string, error) {
	var t time.Time
	switch date := date.(type) {
	case time.Time:
		t = date
	case *time.Time:
		t = *date
	case int64:
		t = time.Unix(date, 0)
	case int:
		t = time.Unix(int64(date), 0)
	case int32:
		t = time.Unix(int64(date), 0)
	default:
		now, err := d.now()
		if err != nil {
			return "", err
		}
		t = now
	}
	location := time.UTC
	if named, err := time.LoadLocation(zone); err == nil && named != time.Local {
		location = named
	}
	return t.In(location).Format(layout), nil
}

// ago and durationRound measure from a date to now.
func (d dates) ago(fn any) any { return d.recorder.record("ago", fn) }

func (d dates) durationRound(fn any) any {
	since := reflect.ValueOf(d.recorder.record("durationRound", fn))
	return func(duration any) (string, error) {
		call := reflect.ValueOf(fn)
		if _, isDate := duration.(time.Time); isDate {
			call = since
		}
		arg := reflect.New(reflect.TypeFor[any]()).Elem()
		if duration != nil {
			arg.Set(reflect.ValueOf(duration))
		}
		results := call.Call([]reflect.Value{arg})
		if len(results) == 2 && !results[1].IsNil() {
			if err, ok := results[1].Interface().(error); ok {
				return "", err
			}
		}
		return results[0].String(), nil
	}
}

func parseDate(layout, text string) (time.Time, error) {
	return time.ParseInLocation(layout, text, time.UTC)
}
