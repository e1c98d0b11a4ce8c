// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package faultproxy

import (
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Plan says what goes wrong. It is what a run is replayed from, and its text form is one line:
//
//	faults: seed=7; PUT /api/** #3 drop-answer; watch /** p=0.1 cut=1000
//
// Each rule is a verb, a path, conditions and one fault. The first rule that wants a request has it.
type Plan struct {
	// Seed decides where a rule with a probability strikes.
	Seed  uint64
	Rules []Rule
}

// Rule is one fault, and the requests that meet it. Rules count the requests that match verb and path, each
// for itself and whichever rule acts on them: #3 is the third of them, always. What a rule before lets pass is
// not counted: so the renewal of leases, which comes by the clock, does not shift what is replayed.
type Rule struct {
	// Verb is a method in capitals, read (GET and HEAD that end by themselves), write (POST, PUT, PATCH, DELETE),
	// watch, upgrade (to SPDY or websocket), several of these joined by "|", or "*".
	Verb string
	// Path is a pattern for the path as it was sent: * stands for anything within a segment, ** for anything.
	// A pattern with a question mark is compared with path and query.
	Path string

	// First and Last limit the rule to some of the requests, counted from 1; a Last of 0 is no limit.
	First, Last int
	// Every limits it to each n-th request.
	Every int
	// Probability limits it to some requests, by chance that depends on the seed; 0 is no limit.
	Probability float64
	// From and Until limit it to a part of the run, in requests of any kind that reached the proxy. Rules that
	// were changed while the proxy ran have them in the plan that replays it.
	From, Until int

	Fault Fault
}

// Fault is what happens to a request. Which of the fields count depends on the kind.
type Fault struct {
	Kind Kind
	// Duration of a delay; of a freeze, for good if it is 0.
	Duration time.Duration
	// Bytes is a position in a body, or bytes per second.
	Bytes int64
	// Status, Header and Body are the answer given in place of the server's. With a Reason the body is a Status
	// of Kubernetes, as client-go understands it.
	Status int
	Header http.Header
	Body   string
	Reason string
	// First and Last are the events of a watch that are concerned, counted from 1.
	First, Last int
}

// Kind names a fault.
type Kind string

// The faults.
const (
	// Pass is none; such a rule shields requests from the rules after it and from At, which do not count them.
	Pass Kind = "pass"
	// Delay waits before the request is forwarded.
	Delay Kind = "delay"
	// DelayAnswer waits before the answer is passed on; the server has answered by then.
	DelayAnswer Kind = "delay-answer"
	// Status answers in place of the server.
	Status Kind = "status"
	// Drop ends the connection (of HTTP/2: the stream) before the request is forwarded.
	Drop Kind = "drop"
	// DropAnswer does so after the server has answered in full: done, but not known.
	DropAnswer Kind = "drop-answer"
	// Reset ends the TCP connection with RST before the request is forwarded, and all that shares it.
	Reset Kind = "reset"
	// Never takes the request, does not forward it, and says nothing until the client gives up.
	Never Kind = "never"
	// CutRequest forwards so many bytes of the request's body and ends both connections.
	CutRequest Kind = "cut-request"
	// Cut ends the connection (stream) after so many bytes of the answer's body.
	Cut Kind = "cut"
	// Truncate ends the body in good order after so many bytes, but has announced its whole length.
	Truncate Kind = "truncate"
	// Shorten ends the body after so many bytes as if that were all: only who knows what to expect notices.
	Shorten Kind = "shorten"
	// Corrupt inverts the byte at a position of the answer's body, counted from 0.
	Corrupt Kind = "corrupt"
	// Stall says nothing more after so many bytes of the answer's body.
	Stall Kind = "stall"
	// Dribble passes the answer's body on with so many bytes per second.
	Dribble Kind = "dribble"
	// Freeze lets so many events of a watch pass and says nothing from then on, for some time or for good.
	// What comes meanwhile is kept, and delivered when the time is over.
	Freeze Kind = "freeze"
	// Swallow leaves events of a watch out.
	Swallow Kind = "swallow"
	// Repeat delivers events of a watch twice.
	Repeat Kind = "repeat"
)

// argument is what follows a fault's name.
type argument int

const (
	noArgument argument = iota
	aDuration
	aPosition
	aRate
	aStatus
	aCount
	aRange
)

var arguments = map[Kind]argument{
	Pass: noArgument, Delay: aDuration, DelayAnswer: aDuration, Status: aStatus, Drop: noArgument, DropAnswer: noArgument,
	Reset: noArgument, Never: noArgument, CutRequest: aPosition, Cut: aPosition, Truncate: aPosition, Shorten: aPosition,
	Corrupt: aPosition, Stall: aPosition, Dribble: aRate, Freeze: aCount, Swallow: aRange, Repeat: aRange,
}

// Kinds are the names of all faults, sorted.
func Kinds() []Kind {
	var all []Kind
	for k := range arguments {
		all = append(all, k)
	}
	slices.Sort(all)
	return all
}

const prefix = "faults:"

// String is the plan in one line, which Parse reads.
func (p Plan) String() string {
	parts := []string{"seed=" + strconv.FormatUint(p.Seed, 10)}
	for _, r := range p.Rules {
		parts = append(parts, r.String())
	}
	return prefix + " " + strings.Join(parts, "; ")
}

// String is the rule as Parse reads it.
func (r Rule) String() string {
	words := []string{r.Verb, r.Path}
	if r.First != 0 || r.Last != 0 {
		words = append(words, "#"+rangeText(max(r.First, 1), r.Last))
	}
	if r.Every != 0 {
		words = append(words, "every="+strconv.Itoa(r.Every))
	}
	if r.Probability != 0 {
		words = append(words, "p="+strconv.FormatFloat(r.Probability, 'g', -1, 64))
	}
	if r.From != 0 {
		words = append(words, "from="+strconv.Itoa(r.From))
	}
	if r.Until != 0 {
		words = append(words, "until="+strconv.Itoa(r.Until))
	}
	return strings.Join(words, " ") + " " + r.Fault.String()
}

// String is the fault as rules have it.
func (f Fault) String() string {
	text := string(f.Kind)
	switch arguments[f.Kind] {
	case aDuration:
		text += "=" + f.Duration.String()
	case aPosition, aRate:
		text += "=" + strconv.FormatInt(f.Bytes, 10)
	case aStatus:
		text += "=" + strconv.Itoa(f.Status)
	case aCount:
		text += "=" + strconv.Itoa(f.First)
		if f.Duration != 0 {
			text += " for=" + f.Duration.String()
		}
	case aRange:
		text += "=" + rangeText(f.First, f.Last)
	case noArgument:
	}
	if f.Reason != "" {
		text += " reason=" + f.Reason
	}
	var names []string
	for name := range f.Header {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		for _, value := range f.Header[name] {
			text += " header=" + strconv.Quote(name+": "+value)
		}
	}
	if f.Body != "" {
		text += " body=" + strconv.Quote(f.Body)
	}
	return text
}

func rangeText(first, last int) string {
	switch last {
	case first:
		return strconv.Itoa(first)
	case 0:
		return strconv.Itoa(first) + "-"
	default:
		return strconv.Itoa(first) + "-" + strconv.Itoa(last)
	}
}

// Parse reads a plan: "seed=N" and rules, separated by semicolons, with or without "faults:" before them. The
// text of one rule is a plan, too.
func Parse(line string) (Plan, error) {
	var plan Plan
	statements, err := tokenize(strings.TrimPrefix(strings.TrimSpace(line), prefix))
	if err != nil {
		return Plan{}, fmt.Errorf("faults %q: %w", line, err)
	}
	seeded := false
	for _, words := range statements {
		if value, ok := strings.CutPrefix(words[0], "seed="); ok && len(words) == 1 && !seeded {
			seed, err := strconv.ParseUint(value, 10, 64)
			if err != nil {
				return Plan{}, fmt.Errorf("faults: seed=%s: want a number from 0 on", value)
			}
			plan.Seed, seeded = seed, true
			continue
		}
		rule, err := parseRule(words)
		if err != nil {
			return Plan{}, fmt.Errorf("rule %q: %w", strings.Join(words, " "), err)
		}
		plan.Rules = append(plan.Rules, rule)
	}
	return plan, nil
}

// MustParse is Parse for plans that stand in code.
func MustParse(line string) Plan {
	plan, err := Parse(line)
	if err != nil {
		panic(err)
	}
	return plan
}

// tokenize splits a line into statements and these into words. What stands in quotes, as Go writes them, is
// part of a word whatever it contains.
func tokenize(line string) ([][]string, error) {
	var statements [][]string
	var words []string
	var word strings.Builder
	endWord := func() {
		if word.Len() > 0 {
			words = append(words, word.String())
			word.Reset()
		}
	}
	endStatement := func() {
		endWord()
		if len(words) > 0 {
			statements = append(statements, words)
			words = nil
		}
	}
	for line != "" {
		switch c := line[0]; c {
		case ' ', '\t', '\n', '\r':
			endWord()
		case ';':
			endStatement()
		case '"':
			quoted, err := strconv.QuotedPrefix(line)
			if err != nil {
				return nil, errors.New("a quotation mark is not closed")
			}
			word.WriteString(quoted)
			line = line[len(quoted):]
			continue
		default:
			word.WriteByte(c)
		}
		line = line[1:]
	}
	endStatement()
	return statements, nil
}

func parseRule(words []string) (Rule, error) {
	if len(words) < 3 {
		return Rule{}, errors.New("want a verb, a path and a fault, such as PUT /api/** #3 drop-answer")
	}
	r := Rule{Verb: words[0], Path: words[1]}
	seen := map[string]bool{}
	for _, word := range words[2:] {
		if err := r.parseWord(word, seen); err != nil {
			return Rule{}, err
		}
	}
	if seen["for"] && r.Fault.Kind != Freeze {
		return Rule{}, fmt.Errorf("for= belongs to freeze=, not to %s", r.Fault.Kind)
	}
	return r, r.validate()
}

// parseWord reads one word of what stands after verb and path. Seen are those that were read already.
func (r *Rule) parseWord(word string, seen map[string]bool) (err error) {
	name, value, valued := strings.Cut(word, "=")
	if counts, ok := strings.CutPrefix(word, "#"); ok {
		name, value, valued = "#", counts, true
	}
	kind := Kind(name)
	takes, isFault := arguments[kind]
	if isFault {
		name = "fault"
	}
	if seen[name] && name != "header" {
		return fmt.Errorf("more than one %s", name)
	}
	seen[name] = true
	if isFault {
		r.Fault.Kind = kind
		if valued != (takes != noArgument) {
			return fmt.Errorf("%s: %s", kind, map[bool]string{true: "takes no value", false: "needs a value, as in " + string(kind) + "=10"}[valued])
		}
	}
	switch {
	case name == "#":
		r.First, r.Last, err = parseRange(value)
	case name == "every":
		r.Every, err = parseCount(value)
	case name == "p":
		r.Probability, err = strconv.ParseFloat(value, 64)
		if err != nil || !(r.Probability > 0 && r.Probability <= 1) {
			err = errors.New("want a number above 0 and up to 1")
		}
	case name == "from":
		r.From, err = parseCount(value)
	case name == "until":
		r.Until, err = parseCount(value)
	case name == "for" || takes == aDuration:
		r.Fault.Duration, err = time.ParseDuration(value)
		if err != nil || r.Fault.Duration <= 0 {
			err = errors.New("want a duration above 0, such as 200ms")
		}
	case name == "reason":
		r.Fault.Reason = value
	case name == "body":
		r.Fault.Body, err = unquote(value)
	case name == "header":
		err = r.parseHeader(value)
	case takes == aPosition || takes == aRate:
		r.Fault.Bytes, err = strconv.ParseInt(value, 10, 64)
		if err != nil || r.Fault.Bytes < 0 || takes == aRate && r.Fault.Bytes == 0 {
			err = errors.New("want a number of bytes")
		}
	case takes == aStatus:
		r.Fault.Status, err = strconv.Atoi(value)
		if err != nil || r.Fault.Status < 200 || r.Fault.Status > 599 {
			err = errors.New("want an HTTP status from 200 to 599")
		}
	case takes == aCount:
		r.Fault.First, err = strconv.Atoi(value)
		if err != nil || r.Fault.First < 0 {
			err = errors.New("want a number of events")
		}
	case takes == aRange:
		r.Fault.First, r.Fault.Last, err = parseRange(value)
	case isFault:
	default:
		return fmt.Errorf("%q is neither a condition nor a fault; faults are %v", word, Kinds())
	}
	if err != nil {
		return fmt.Errorf("%s: %w", word, err)
	}
	return nil
}

func (r *Rule) parseHeader(value string) error {
	text, err := unquote(value)
	if err != nil {
		return err
	}
	name, value, ok := strings.Cut(text, ":")
	if !ok || !headerName.MatchString(name) {
		return errors.New(`want "Name: value"`)
	}
	value = strings.TrimSpace(value)
	if strings.ContainsFunc(value, func(c rune) bool { return c < ' ' || c == 0x7f }) {
		return errors.New("a control character in the value")
	}
	if r.Fault.Header == nil {
		r.Fault.Header = http.Header{}
	}
	r.Fault.Header.Add(name, value)
	return nil
}

var (
	headerName = regexp.MustCompile("^[A-Za-z0-9-]+$")
	word       = regexp.MustCompile("^[A-Za-z0-9]+$")
	method     = regexp.MustCompile("^([A-Z]+|read|write|watch|upgrade)$")
)

// unquote takes the quotes off a value; one without special characters needs none.
func unquote(value string) (string, error) {
	if !strings.HasPrefix(value, `"`) {
		if strings.Contains(value, `"`) {
			return "", errors.New("a quotation mark inside a value")
		}
		return value, nil
	}
	text, err := strconv.Unquote(value)
	if err != nil {
		return "", errors.New("want text in quotation marks")
	}
	return text, nil
}

func parseCount(value string) (int, error) {
	n, err := strconv.Atoi(value)
	if err != nil || n < 1 || n > math.MaxInt32 {
		return 0, errors.New("want a number from 1 on")
	}
	return n, nil
}

// parseRange reads "3", "3-5" and "3-"; the last is 0 where it is open.
func parseRange(value string) (first, last int, err error) {
	from, to, isRange := strings.Cut(value, "-")
	if first, err = parseCount(from); err != nil {
		return 0, 0, err
	}
	switch {
	case !isRange:
		return first, first, nil
	case to == "":
		return first, 0, nil
	}
	if last, err = parseCount(to); err == nil && last < first {
		err = errors.New("it ends before it begins")
	}
	return first, last, err
}

// validate looks at what no single word can tell.
func (r Rule) validate() error {
	takes, known := arguments[r.Fault.Kind]
	switch {
	case !known:
		return fmt.Errorf("no fault; faults are %v", Kinds())
	case !strings.HasPrefix(r.Path, "/") || strings.ContainsFunc(r.Path, func(c rune) bool { return c <= ' ' || c > '~' || c == '"' || c == ';' }):
		return fmt.Errorf("path %q: want a pattern that begins with a slash", r.Path)
	case r.Every != 0 && (r.First != 0 || r.Last != 0):
		return errors.New("# and every= exclude each other")
	case r.Until != 0 && r.Until < r.From:
		return errors.New("until= is before from=")
	case takes != aStatus && (r.Fault.Header != nil || r.Fault.Body != "" || r.Fault.Reason != ""):
		return fmt.Errorf("header=, body= and reason= belong to status=, not to %s", r.Fault.Kind)
	case slices.Contains([]Kind{Freeze, Swallow, Repeat}, r.Fault.Kind) && r.Verb != "watch":
		return fmt.Errorf("%s is for watches: write watch instead of %s", r.Fault.Kind, r.Verb)
	case r.Fault.Reason != "" && (r.Fault.Body != "" || !word.MatchString(r.Fault.Reason)):
		return errors.New("reason= is one word, and makes the body itself")
	}
	if r.Verb != "*" {
		for verb := range strings.SplitSeq(r.Verb, "|") {
			if !method.MatchString(verb) {
				return fmt.Errorf("verb %q: want a method in capitals, read, write, watch, upgrade or *", verb)
			}
		}
	}
	return nil
}

// request is what rules see of a request.
type request struct {
	method, path, query string
	userAgent           string
	watch, upgrade      bool
}

func describe(r *http.Request) request {
	query := r.URL.Query()
	watch := false
	if values, asked := query["watch"]; asked && r.Method == http.MethodGet {
		// As API servers read it: anything but these two words is yes.
		watch = values[0] != "false" && values[0] != "0"
	}
	return request{
		method: r.Method, path: r.URL.EscapedPath(), query: r.URL.RawQuery, userAgent: r.UserAgent(),
		watch: watch, upgrade: r.Header.Get("Upgrade") != "",
	}
}

func matchesVerb(pattern string, r request) bool {
	for verb := range strings.SplitSeq(pattern, "|") {
		switch verb {
		case "*":
			return true
		case "watch":
			if r.watch {
				return true
			}
		case "upgrade":
			if r.upgrade {
				return true
			}
		case "read":
			if (r.method == http.MethodGet || r.method == http.MethodHead) && !r.watch && !r.upgrade {
				return true
			}
		case "write":
			switch r.method {
			case http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete:
				if !r.upgrade {
					return true
				}
			}
		case r.method:
			return true
		}
	}
	return false
}

// matcher compiles verb and path.
func matcher(verb, path string) func(request) bool {
	expression := strings.Builder{}
	for rest := path; rest != ""; {
		switch {
		case strings.HasPrefix(rest, "**"):
			expression.WriteString(".*")
			rest = rest[2:]
		case rest[0] == '*':
			expression.WriteString("[^/]*")
			rest = rest[1:]
		default:
			literal := rest
			if i := strings.IndexByte(rest, '*'); i >= 0 {
				literal = rest[:i]
			}
			expression.WriteString(regexp.QuoteMeta(literal))
			rest = rest[len(literal):]
		}
	}
	compiled := regexp.MustCompile("^(?s:" + expression.String() + ")$")
	withQuery := strings.Contains(path, "?")
	return func(r request) bool {
		if !matchesVerb(verb, r) {
			return false
		}
		if withQuery {
			return compiled.MatchString(r.path + "?" + r.query)
		}
		return compiled.MatchString(r.path)
	}
}

// strikes says whether the rule acts on the n-th request that matches it. It depends on nothing else than seed,
// rule and n, so that a run can be replayed.
func (r Rule) strikes(seed uint64, n int) bool {
	if n < r.First || r.Last != 0 && n > r.Last {
		return false
	}
	if r.Every != 0 && n%r.Every != 0 {
		return false
	}
	if r.Probability == 0 {
		return true
	}
	r.From, r.Until = 0, 0 // the plan that replays a run may have others
	hash := fnv.New64a()
	_, _ = fmt.Fprintf(hash, "%d\n%s\n%d", seed, r, n) // a hash takes all that is written
	return float64(mix(hash.Sum64()))/math.MaxUint64 < r.Probability
}

// mix spreads a hash over all bits: numbers that differ in the last digit only would otherwise stay close.
func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}
