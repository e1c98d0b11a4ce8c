// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package faultproxy

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	for name, tc := range map[string]struct {
		give string
		want Plan
		// canonical is how the plan prints, if not as given.
		canonical string
	}{
		"Empty":           {give: "", want: Plan{}, canonical: "faults: seed=0"},
		"SeedAndARule":    {give: "faults: seed=7; PUT /api/** #3 drop-answer", want: Plan{Seed: 7, Rules: []Rule{{Verb: "PUT", Path: "/api/**", First: 3, Last: 3, Fault: Fault{Kind: DropAnswer}}}}},
		"ARuleAlone":      {give: "* /v2/* never", want: Plan{Rules: []Rule{{Verb: "*", Path: "/v2/*", Fault: Fault{Kind: Never}}}}, canonical: "faults: seed=0; * /v2/* never"},
		"Range":           {give: "faults: seed=0; read /** #2-5 cut=10", want: Plan{Rules: []Rule{{Verb: "read", Path: "/**", First: 2, Last: 5, Fault: Fault{Kind: Cut, Bytes: 10}}}}},
		"OpenRange":       {give: "faults: seed=0; read /** #2- reset", want: Plan{Rules: []Rule{{Verb: "read", Path: "/**", First: 2, Fault: Fault{Kind: Reset}}}}},
		"Every":           {give: "faults: seed=0; GET|HEAD /** every=4 delay=200ms", want: Plan{Rules: []Rule{{Verb: "GET|HEAD", Path: "/**", Every: 4, Fault: Fault{Kind: Delay, Duration: 200 * time.Millisecond}}}}},
		"Chance":          {give: "faults: seed=0; * /** p=0.25 dribble=100", want: Plan{Rules: []Rule{{Verb: "*", Path: "/**", Probability: 0.25, Fault: Fault{Kind: Dribble, Bytes: 100}}}}},
		"PartOfARun":      {give: "faults: seed=0; * /** from=10 until=20 pass", want: Plan{Rules: []Rule{{Verb: "*", Path: "/**", From: 10, Until: 20, Fault: Fault{Kind: Pass}}}}},
		"AnyOrderOfWords": {give: "* /** drop p=1 #1", want: Plan{Rules: []Rule{{Verb: "*", Path: "/**", First: 1, Last: 1, Probability: 1, Fault: Fault{Kind: Drop}}}}, canonical: "faults: seed=0; * /** #1 p=1 drop"},
		"Answer": {
			give: `faults: seed=0; write /** status=429 reason=TooManyRequests header="Retry-After: 1"`,
			want: Plan{Rules: []Rule{{Verb: "write", Path: "/**", Fault: Fault{Kind: Status, Status: 429, Reason: "TooManyRequests", Header: http.Header{"Retry-After": {"1"}}}}}},
		},
		"AnswerWithSeparatorsInQuotes": {
			give: `faults: seed=0; * /** status=502 body="bad; \"gateway\"\n"; * /x pass`,
			want: Plan{Rules: []Rule{
				{Verb: "*", Path: "/**", Fault: Fault{Kind: Status, Status: 502, Body: "bad; \"gateway\"\n"}},
				{Verb: "*", Path: "/x", Fault: Fault{Kind: Pass}},
			}},
		},
		"FreezeForSomeTime": {give: "faults: seed=0; watch /** freeze=0 for=10s", want: Plan{Rules: []Rule{{Verb: "watch", Path: "/**", Fault: Fault{Kind: Freeze, Duration: 10 * time.Second}}}}},
		"Swallow":           {give: "faults: seed=0; watch /** swallow=2-", want: Plan{Rules: []Rule{{Verb: "watch", Path: "/**", Fault: Fault{Kind: Swallow, First: 2}}}}},
		"Repeat":            {give: "faults: seed=0; watch /** repeat=1-3", want: Plan{Rules: []Rule{{Verb: "watch", Path: "/**", Fault: Fault{Kind: Repeat, First: 1, Last: 3}}}}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Parse(tc.give)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
			canonical := tc.canonical
			if canonical == "" {
				canonical = tc.give
			}
			if got.String() != canonical {
				t.Errorf("prints as\n%s, want\n%s", got, canonical)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	for give, want := range map[string]string{
		"GET":                                `rule "GET": want a verb, a path and a fault, such as PUT /api/** #3 drop-answer`,
		"GET / #3":                           "no fault; faults are",
		"GET / explode":                      `"explode" is neither a condition nor a fault`,
		"GET api drop":                       "begins with a slash",
		"get / drop":                         `verb "get": want a method in capitals`,
		"GET / drop reset":                   "more than one fault",
		"GET / #3 every=2 drop":              "exclude each other",
		"GET / #0 drop":                      "want a number from 1 on",
		"GET / #5-3 drop":                    "it ends before it begins",
		"GET / p=2 drop":                     "above 0 and up to 1",
		"GET / cut":                          "needs a value",
		"GET / drop=3":                       "takes no value",
		"GET / cut=-1":                       "want a number of bytes",
		"GET / dribble=0":                    "want a number of bytes",
		"GET / status=99":                    "want an HTTP status",
		"GET / delay=-1s":                    "want a duration above 0",
		"GET / delay=1s for=2s":              "for= belongs to freeze=",
		"GET / drop body=x":                  "belong to status=",
		"GET / status=500 body=x reason=Bad": "makes the body itself",
		`GET / status=500 header="a"`:        `want "Name: value"`,
		`GET / status=500 body="`:            "a quotation mark is not closed",
		"GET / from=5 until=4 drop":          "until= is before from=",
		"GET / freeze=1":                     "freeze is for watches",
		"seed=x":                             "want a number from 0 on",
	} {
		if _, err := Parse(give); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Parse(%q): %v, want %s", give, err, want)
		}
	}
}

// What is made in Go goes into the line that replays a run, so it must be what could have been read from one.
func TestRulesRefuseWhatCannotBeWritten(t *testing.T) {
	for name, give := range map[string]Rule{
		"ADelayOfNothing":      {Verb: "*", Path: "/**", Fault: Fault{Kind: Delay}},
		"DribbleWithoutARate":  {Verb: "*", Path: "/**", Fault: Fault{Kind: Dribble}},
		"AStatusThatIsNone":    {Verb: "*", Path: "/**", Fault: Fault{Kind: Status}},
		"ANegativePosition":    {Verb: "*", Path: "/**", Fault: Fault{Kind: Cut, Bytes: -1}},
		"AHeaderThatIsNone":    {Verb: "*", Path: "/**", Fault: Fault{Kind: Status, Status: 500, Header: http.Header{"a b": {"c"}}}},
		"ARangeThatGoesBack":   {Verb: "*", Path: "/**", First: 5, Last: 3, Fault: Fault{Kind: Drop}},
		"AnImpossibleChance":   {Verb: "*", Path: "/**", Probability: 2, Fault: Fault{Kind: Drop}},
		"EventsBeforeTheFirst": {Verb: "watch", Path: "/**", Fault: Fault{Kind: Swallow}},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := newRules(Plan{Rules: []Rule{give}}); err == nil {
				t.Errorf("%s is taken", give)
			}
		})
	}
	r, err := newRules(Plan{})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.at(Arrived, Rule{Verb: "*", Path: "/**", Fault: Fault{Kind: Pass}}, func(Event) {}); err == nil {
		t.Error("a call for a request that never comes is taken")
	}
}

func FuzzParse(f *testing.F) {
	f.Add("faults: seed=7; PUT /api/** #3 drop-answer; watch /** p=0.1 cut=1000")
	f.Add(`write /** status=429 reason=TooManyRequests header="Retry-After: 1"; watch /** every=3 freeze=2 for=1m`)
	f.Add(`GET|read /a?b=*c from=3 until=9 status=500 body="\x00;" header=A:b`)
	f.Fuzz(func(t *testing.T, line string) {
		plan, err := Parse(line)
		if err != nil {
			return
		}
		again, err := Parse(plan.String())
		if err != nil {
			t.Fatalf("%q prints as %q, which is refused: %v", line, plan, err)
		}
		if diff := cmp.Diff(plan, again); diff != "" {
			t.Fatalf("%q prints as %q, which is another plan:\n%s", line, plan, diff)
		}
		for _, r := range plan.Rules {
			matcher(r.Verb, r.Path)(request{method: "GET", path: "/a"})
		}
	})
}

func TestRulesMatchRequests(t *testing.T) {
	for name, tc := range map[string]struct {
		verb, path  string
		method, url string
		upgrade     bool
		want        bool
	}{
		"AnyVerb":                           {verb: "*", path: "/**", method: "OPTIONS", url: "/a/b", want: true},
		"Method":                            {verb: "PUT", path: "/**", method: "PUT", url: "/a", want: true},
		"OtherMethod":                       {verb: "PUT", path: "/**", method: "GET", url: "/a"},
		"OneOfSeveral":                      {verb: "PUT|PATCH", path: "/**", method: "PATCH", url: "/a", want: true},
		"StarStaysInItsSegment":             {verb: "*", path: "/api/v1/*", method: "GET", url: "/api/v1/pods/a"},
		"StarIsAPartOfASegment":             {verb: "*", path: "/api/v1/po*", method: "GET", url: "/api/v1/pods", want: true},
		"TwoStarsCrossSegments":             {verb: "*", path: "/api/**/a", method: "GET", url: "/api/v1/pods/a", want: true},
		"WithoutStarsItIsTheWholePath":      {verb: "*", path: "/api", method: "GET", url: "/api/v1"},
		"QueryIsIgnored":                    {verb: "*", path: "/api", method: "GET", url: "/api?limit=1", want: true},
		"QueryIsComparedWhenAsked":          {verb: "*", path: "/api?limit=*", method: "GET", url: "/api?limit=1", want: true},
		"QueryDiffers":                      {verb: "*", path: "/api?limit=2", method: "GET", url: "/api?limit=1"},
		"PathIsComparedAsSent":              {verb: "*", path: "/a%2Fb", method: "GET", url: "/a%2Fb", want: true},
		"DotsMeanDots":                      {verb: "*", path: "/a.b", method: "GET", url: "/aXb"},
		"Watch":                             {verb: "watch", path: "/**", method: "GET", url: "/pods?watch=true", want: true},
		"WatchAsAPIServersReadIt":           {verb: "watch", path: "/**", method: "GET", url: "/pods?watch", want: true},
		"NoWatch":                           {verb: "watch", path: "/**", method: "GET", url: "/pods?watch=0"},
		"AWatchIsNoRead":                    {verb: "read", path: "/**", method: "GET", url: "/pods?watch=1"},
		"AWatchIsAGET":                      {verb: "GET", path: "/**", method: "GET", url: "/pods?watch=1", want: true},
		"Read":                              {verb: "read", path: "/**", method: "HEAD", url: "/pods", want: true},
		"Write":                             {verb: "write", path: "/**", method: "DELETE", url: "/pods/a", want: true},
		"Upgrade":                           {verb: "upgrade", path: "/**", method: "POST", url: "/exec", upgrade: true, want: true},
		"AnUpgradeIsNoWriteWhateverItsVerb": {verb: "write", path: "/**", method: "POST", url: "/exec", upgrade: true},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest(tc.method, tc.url, nil)
			if tc.upgrade {
				r.Header.Set("Upgrade", "SPDY/3.1")
			}
			if got := matcher(tc.verb, tc.path)(describe(r)); got != tc.want {
				t.Errorf("%s %s matches %s %s: %v", tc.verb, tc.path, tc.method, tc.url, got)
			}
		})
	}
}

// story sends requests through rules and tells what became of each.
func story(t *testing.T, r *rules, requests ...string) []string {
	t.Helper()
	var told []string
	for _, text := range requests {
		method, path, _ := strings.Cut(text, " ")
		told = append(told, r.decide(request{method: method, path: path}).event.Fault)
	}
	return told
}

func TestTheFirstRuleThatWantsARequestHasIt(t *testing.T) {
	r, err := newRules(MustParse("GET /healthz pass; GET /b #2 drop; * /** every=2 never"))
	if err != nil {
		t.Fatal(err)
	}
	got := story(t, r, "GET /healthz", "GET /healthz", "GET /b", "GET /b", "GET /b", "GET /c")
	// Each rule counts for itself, so /b #2 is the fourth request for the last rule.
	if diff := cmp.Diff([]string{"", "", "", "drop", "", "never"}, got); diff != "" {
		t.Error(diff)
	}
}

// Leases are renewed by the clock. Which write is the third must not depend on that.
func TestWhatPassesIsNotCounted(t *testing.T) {
	r, err := newRules(MustParse("* /leases/** pass; write /** #2 drop"))
	if err != nil {
		t.Fatal(err)
	}
	called := ""
	if err := r.at(Arrived, Rule{Verb: "write", Path: "/**", First: 3, Last: 3, Fault: Fault{Kind: Pass}}, func(e Event) { called = e.Path }); err != nil {
		t.Fatal(err)
	}
	told := story(t, r, "PUT /leases/l", "PUT /a", "PUT /leases/l", "PUT /b")
	if diff := cmp.Diff([]string{"", "", "", "drop"}, told); diff != "" {
		t.Error(diff)
	}
	for _, path := range []string{"/leases/l", "/c", "/d"} {
		r.decide(request{method: "PUT", path: path}).reach(Arrived)
	}
	if called != "/c" {
		t.Errorf("called for %q", called)
	}
}

func TestChanceDependsOnSeedRuleAndCountOnly(t *testing.T) {
	run := func(line string) string {
		r, err := newRules(MustParse(line))
		if err != nil {
			t.Fatal(err)
		}
		text := ""
		for range 1000 {
			text += fmt.Sprint(len(story(t, r, "GET /a")[0]) / 4)
		}
		return text
	}
	same := run("seed=1; GET /** p=0.3 drop")
	if run("seed=1; PUT /b pass; GET /** p=0.3 drop") != same {
		t.Error("a rule before it changes what a rule does")
	}
	if run("seed=2; GET /** p=0.3 drop") == same {
		t.Error("another seed changes nothing")
	}
	if n := strings.Count(same, "1"); n < 250 || n > 350 {
		t.Errorf("%d of 1000 requests meet a rule with p=0.3", n)
	}
}

func TestARunWhoseRulesWereChangedIsReplayedFromOneLine(t *testing.T) {
	first, err := newRules(MustParse("seed=3; GET /** #2 drop"))
	if err != nil {
		t.Fatal(err)
	}
	requests := []string{"GET /a", "GET /a", "GET /a", "GET /a", "GET /a", "GET /a"}
	told := story(t, first, requests[:2]...)
	if err := first.set(MustParse("GET /** #1 never").Rules); err != nil {
		t.Fatal(err)
	}
	if err := first.set(MustParse("GET /** #2 reset").Rules); err != nil {
		t.Fatal(err)
	}
	told = append(told, story(t, first, requests[2:4]...)...)
	if err := first.add(MustParse("GET /** p=0.5 cut=1").Rules); err != nil {
		t.Fatal(err)
	}
	told = append(told, story(t, first, requests[4:]...)...)

	line := first.replay().String()
	const want = "faults: seed=3; GET /** #2 until=2 drop; GET /** #2 from=3 reset; GET /** p=0.5 from=5 cut=1"
	if line != want {
		t.Errorf("replayed from\n%s, want\n%s", line, want)
	}
	second, err := newRules(MustParse(line))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(told, story(t, second, requests...)); diff != "" {
		t.Errorf("the second run differs:\n%s", diff)
	}
}

// Whatever rules come and go in the middle of a run, one line replays it.
func TestAnyRunIsReplayedFromOneLine(t *testing.T) {
	texts := []string{"GET /** #2 drop", "* /a p=0.5 never", "write /** every=2 reset", "* /b pass", "GET /** from=3 until=9 cut=1", "* /** #3- p=0.3 stall=2", "PUT /a #1-4 drop-answer", "* /** from=6 delay=1s"}
	requests := []string{"GET /a", "GET /b", "PUT /a", "PUT /b"}
	for seed := range uint64(200) {
		chance := rand.New(rand.NewPCG(seed, 0))
		first, err := newRules(Plan{Seed: seed})
		if err != nil {
			t.Fatal(err)
		}
		var asked, told []string
		for range 40 {
			rules := MustParse(texts[chance.IntN(len(texts))]).Rules
			switch chance.IntN(8) {
			case 0: // Refused where the time of a rule is over; then nothing may have changed.
				_ = first.set(rules)
			case 1:
				_ = first.add(rules)
			default:
				request := requests[chance.IntN(len(requests))]
				asked = append(asked, request)
				told = append(told, story(t, first, request)...)
			}
		}
		line := first.replay().String()
		second, err := newRules(MustParse(line))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(told, story(t, second, asked...)); diff != "" {
			t.Fatalf("%s\ntells another story:\n%s", line, diff)
		}
	}
}

// The page for people is not generated; this keeps it from forgetting a fault, or showing a rule that is none.
func TestThePageNamesEveryFault(t *testing.T) {
	page, err := os.ReadFile("../../../docs/how-to/inject-faults.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(page)
	for _, kind := range Kinds() {
		if !strings.Contains(text, "| `"+string(kind)+"`") && !strings.Contains(text, "| `"+string(kind)+"=") {
			t.Errorf("no row for %s", kind)
		}
	}
	for _, block := range strings.Split(text, "```text\n")[1:] {
		block, _, _ = strings.Cut(block, "```")
		for line := range strings.Lines(block) {
			if _, err := Parse(strings.TrimSpace(line)); err != nil {
				t.Error(err)
			}
		}
	}
}
