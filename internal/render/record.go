// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// Record holds generated values, each under the call that generated it: addon, function, arguments,
// template file, and the ordinal among equal calls from this file. It is as secret as the keys and
// passwords in it. The form of its keys is this package's own.
//
// The arguments count by content. A certificate is therefore made anew when the authority that signs
// it is another one, and repeated when the authority is repeated.
type Record map[string]string

// of returns the entries of one addon.
func (r Record) of(addon string) Record {
	own := Record{}
	for key, value := range r {
		if strings.HasPrefix(key, addon+" ") {
			own[key] = value
		}
	}
	return own
}

func (r Record) copy() Record {
	copied := make(Record, len(r))
	maps.Copy(copied, r)
	return copied
}

const (
	// maxGenerated bounds what one render may add to a Record, which has to fit into Secrets.
	maxGenerated = 1 << 20
	// maxReplays bounds how often a render is repeated to find the calls that have moved. Each round
	// settles one level of calls whose arguments are themselves generated; three is the most we know.
	maxReplays = 8
)

// call names a generating call in a template.
type call struct {
	group   string // addon, function, arguments
	file    string
	ordinal int
}

func (c call) key() string { return c.group + " " + c.file + " " + strconv.Itoa(c.ordinal) }

func (c call) compare(other call) int {
	if byFile := strings.Compare(c.file, other.file); byFile != 0 {
		return byFile
	}
	return c.ordinal - other.ordinal
}

// recorder stands between templates and the functions that generate values, for one pass.
type recorder struct {
	addon    string
	recorded Record
	// moved maps calls of this render to the keys that their values are recorded under.
	moved map[string]string

	// placeholders says that nothing is left to chance.
	placeholders bool

	file     string // the template being executed
	from     Files  // which files the objects are from, once it is done
	ordinals map[string]int
	used     Record
	claimed  map[string]bool // keys of recorded that were repeated
	missed   []call
	size     int
}

func newRecorder(addon string, recorded Record, moved map[string]string) *recorder {
	return &recorder{
		addon:    addon,
		recorded: recorded,
		moved:    moved,
		ordinals: map[string]int{},
		used:     Record{},
		claimed:  map[string]bool{},
	}
}

// replay runs a render until every recorded value that it can use has found its place.
//
// The first pass is the only one, as a rule. In a new release a template may have moved to another
// file, or an authority may be asked for by another file first. Its call then finds nothing recorded,
// while a value of the very same function and arguments is left over: the pass is repeated with that
// value in place of the new one. Values that depend on it find their own places in that pass.
func replay[T any](addon string, recorded Record, render func(*recorder) (T, error)) (T, *recorder, error) {
	recorded = recorded.of(addon)
	moved := map[string]string{}
	for pass := 1; ; pass++ {
		r := newRecorder(addon, recorded, moved)
		result, err := render(r)
		if err != nil {
			return result, r, err
		}
		found := r.leftovers()
		if len(found) == 0 || pass == maxReplays {
			return result, r, nil
		}
		maps.Copy(moved, found)
	}
}

// leftovers pairs calls that found nothing with recorded values of the same call that nobody asked for.
func (r *recorder) leftovers() map[string]string {
	pairs := map[string]string{}
	misses := map[string][]call{}
	for _, c := range r.missed {
		misses[c.group] = append(misses[c.group], c)
	}
	for group, missed := range misses {
		// The same value can stand under an old and a new name; it must not serve two calls.
		taken := map[string]bool{}
		for key := range r.claimed {
			taken[r.recorded[key]] = true
		}
		var left []call
		for key, value := range r.recorded {
			if c, ok := parseKey(group, key); ok && !r.claimed[key] && !taken[value] {
				left = append(left, c)
			}
		}
		slices.SortFunc(left, call.compare)
		slices.SortFunc(missed, call.compare)
		for _, from := range left {
			value := r.recorded[from.key()]
			if len(missed) == 0 {
				break
			}
			if taken[value] {
				continue
			}
			taken[value] = true
			pairs[missed[0].key()] = from.key()
			missed = missed[1:]
		}
	}
	return pairs
}

func parseKey(group, key string) (call, bool) {
	rest, ok := strings.CutPrefix(key, group+" ")
	if !ok {
		return call{}, false
	}
	cut := strings.LastIndexByte(rest, ' ')
	if cut < 0 {
		return call{}, false
	}
	ordinal, err := strconv.Atoi(rest[cut+1:])
	if err != nil {
		return call{}, false
	}
	return call{group: group, file: rest[:cut], ordinal: ordinal}, true
}

// unused returns what is recorded for the addon but was not used by this pass under its key.
func (r *recorder) unused() Record {
	left := Record{}
	for key, value := range r.recorded {
		if _, ok := r.used[key]; !ok {
			left[key] = value
		}
	}
	return left
}

// unrecorded reports whether this pass used anything that is not recorded under its key.
func (r *recorder) unrecorded() bool {
	for key := range r.used {
		if _, ok := r.recorded[key]; !ok {
			return true
		}
	}
	return false
}

// result returns the value of a generating call: the recorded one, or a new one.
func (r *recorder) result(function string, args []any, generate func() (string, error)) (string, error) {
	content, err := json.Marshal(args)
	if err != nil {
		return "", errors.New(limitMark + "function " + function + " is given something that cannot be recorded")
	}
	sum := sha256.Sum256(content)
	c := call{
		group: strings.Join([]string{r.addon, function, hex.EncodeToString(sum[:12])}, " "),
		file:  r.file,
	}
	counted := c.group + " " + c.file
	c.ordinal = r.ordinals[counted]
	r.ordinals[counted]++
	if r.placeholders {
		generate = func() (string, error) { return placeholder(function, args, c) }
	}
	return r.value(c, generate)
}

// once returns a value that all calls in all templates of the addon share.
func (r *recorder) once(function string, generate func() (string, error)) (string, error) {
	c := call{group: r.addon + " " + function}
	if value, ok := r.used[c.key()]; ok {
		return value, nil
	}
	return r.value(c, generate)
}

func (r *recorder) value(c call, generate func() (string, error)) (string, error) {
	from := c.key()
	if _, ok := r.recorded[from]; !ok {
		from = r.moved[from]
	}
	value, ok := r.recorded[from]
	if ok {
		r.claimed[from] = true
	} else {
		var err error
		if value, err = generate(); err != nil {
			return "", err
		}
		r.missed = append(r.missed, c)
		if r.size += len(value); r.size > maxGenerated {
			return "", fmt.Errorf("%sthe templates generate more than %d KiB of random values", limitMark, maxGenerated>>10)
		}
	}
	r.used[c.key()] = value
	return value, nil
}

var errorType = reflect.TypeFor[error]()

// record returns a function of the same parameters as fn whose results are recorded. fn has one result,
// or a result and an error; the returned one always has both.
//
// Reflection, because some of these functions take and return a certificate type that their library
// does not export.
func (r *recorder) record(name string, fn any) any {
	f := reflect.ValueOf(fn)
	t := f.Type()
	var in []reflect.Type
	for i := range t.NumIn() {
		in = append(in, t.In(i))
	}
	out := t.Out(0)

	wrapped := func(args []reflect.Value) []reflect.Value {
		value := reflect.New(out)
		err := func() error {
			content := make([]any, len(args))
			for i, arg := range args {
				content[i] = arg.Interface()
			}
			encoded, err := r.result(name, content, func() (string, error) {
				results := f.Call(args)
				if len(results) == 2 && !results[1].IsNil() {
					if err, ok := results[1].Interface().(error); ok {
						return "", err
					}
				}
				return encode(results[0])
			})
			if err != nil {
				return err
			}
			// New values take the way of repeated ones too, so that both come out equal.
			return decode(encoded, value)
		}()
		failed := reflect.Zero(errorType)
		if err != nil {
			failed = reflect.ValueOf(&err).Elem()
		}
		return []reflect.Value{value.Elem(), failed}
	}
	return reflect.MakeFunc(reflect.FuncOf(in, []reflect.Type{out, errorType}, false), wrapped).Interface()
}

// encode writes strings as they are, to be readable in a Secret, and all else as JSON.
func encode(value reflect.Value) (string, error) {
	if value.Kind() == reflect.String {
		return value.String(), nil
	}
	data, err := json.Marshal(value.Interface())
	return string(data), err
}

func decode(encoded string, into reflect.Value) error {
	if into.Elem().Kind() == reflect.String {
		into.Elem().SetString(encoded)
		return nil
	}
	if err := json.Unmarshal([]byte(encoded), into.Interface()); err != nil {
		return errors.New(limitMark + "a recorded value is damaged: remove it from the Secret of generated values")
	}
	return nil
}
