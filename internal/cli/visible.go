// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"regexp"
	"strconv"
	"strings"
	"unicode"
)

// Names of files, tags and images come from places where others have put them, and a terminal obeys what is in them.

// visibleName returns a name as it is if it is nothing but visible, and otherwise in quotes with all else written out.
func visibleName(name string) string {
	if strings.IndexFunc(name, func(r rune) bool { return !strconv.IsPrint(r) }) < 0 {
		return name
	}
	return strconv.Quote(name)
}

// visible returns a text of several lines in which what a terminal would obey is written out. Format characters, which turn
// text around, are some of that.
func visible(text string) string {
	obeyed := func(r rune) bool {
		return r != '\n' && r != '\t' && (unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == unicode.ReplacementChar)
	}
	if strings.IndexFunc(text, obeyed) < 0 {
		return text
	}
	out := &strings.Builder{}
	for _, r := range text {
		if !obeyed(r) {
			out.WriteRune(r)
			continue
		}
		quoted := strconv.QuoteRuneToASCII(r)
		out.WriteString(quoted[1 : len(quoted)-1])
	}
	return out.String()
}

// colour is a sequence of those that we write ourselves: whoever writes it into a name makes that red, and nothing else.
var colour = regexp.MustCompile("\x1b\\[(0|1|2|31|32|33)m")

// visibleInColour is visible for a text that may have our colours in it.
func visibleInColour(text string) string {
	out, last := &strings.Builder{}, 0
	for _, at := range colour.FindAllStringIndex(text, -1) {
		out.WriteString(visible(text[last:at[0]]))
		out.WriteString(text[at[0]:at[1]])
		last = at[1]
	}
	out.WriteString(visible(text[last:]))
	return out.String()
}
