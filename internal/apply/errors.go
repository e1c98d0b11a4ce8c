// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package apply

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unicode"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/clusterstacks/cluster-stack-operator/internal/panicked"
)

// IncompleteError says that not all objects are as wanted. The operation did
// what it could for the others; trying again is safe.
type IncompleteError struct {
	Conflicts []Conflict
	Failed    []Failure
}

// WaitingError says that a hook is still running. What comes after it has not begun.
type WaitingError struct {
	ID
	// Version is the API version that the object was sent in, without its group.
	Version string
}

func (e *WaitingError) Error() string { return fmt.Sprintf("hook %s has not ended yet", e.ID) }

// shown is how many objects an error names one by one.
const shown = 5

func (e *IncompleteError) Error() string {
	var parts []string
	for _, f := range e.Failed {
		parts = append(parts, fmt.Sprintf("%s: %v", f.ID, f.Err))
	}
	for _, c := range e.Conflicts {
		parts = append(parts, fmt.Sprintf("%s: %s manages %s; remove the object or those fields from that manager to let the cluster stack have them",
			c.ID, strconv.Quote(c.Manager), strings.Join(c.Fields, ", ")))
	}
	more := len(parts) - shown
	if more > 0 {
		parts = append(parts[:shown], fmt.Sprintf("and %d more", more))
	}
	return strings.Join(parts, "; ")
}

// Unwrap gives the errors of the failed objects.
func (e *IncompleteError) Unwrap() []error {
	var errs []error
	for _, f := range e.Failed {
		errs = append(errs, f.Err)
	}
	return errs
}

// RefusedError says that a set was not applied, nor any object of it, because of
// what it contains.
type RefusedError struct{ problems []error }

func (e *RefusedError) Error() string {
	var lines []string
	for _, err := range e.problems {
		lines = append(lines, err.Error())
	}
	slices.Sort(lines)
	return strings.Join(lines, "; ")
}

// Unwrap gives the single problems.
func (e *RefusedError) Unwrap() []error { return e.problems }

// Permanent reports that only another set can cure it.
func (e *RefusedError) Permanent() bool { return true }

func refusedf(format string, args ...any) error {
	return &RefusedError{problems: []error{fmt.Errorf(format, args...)}}
}

// RequestError is a request for one object that was not fulfilled. Its text is
// stable and has no values out of the object: they could be secret, and they
// belong to a cluster that we do not trust to write into our status.
type RequestError struct {
	// Code is the HTTP status, 0 when there was no answer.
	Code int
	// Reason is the API server's, empty when there was no answer.
	Reason metav1.StatusReason
	// Fields are the paths that the API server refused, each with its rule.
	Fields []FieldError
	// Text is what is known besides.
	Text string

	// immutable says that only the change is refused, not what the object is changed to.
	immutable bool
	// unchanged says that nothing was changed, although the status is one after which that is not certain.
	unchanged bool
	// webhook is the name of the admission webhook that did not answer, and so kept the object out.
	webhook string
	// conversion says that the webhook which converts objects of the kind did not answer.
	conversion bool
	// cure says what is to be done, with what joins it to the rest.
	cure string
	// conflicts are the other managers of fields that we wanted to set.
	conflicts []Conflict
	cause     error
}

// FieldError is one path of an object that the API server refused.
type FieldError struct{ Path, Rule string }

func (e *RequestError) Error() string { return e.refusal() + e.cure }

// Immutable reports whether a field was changed that can only be set when the object is made.
func (e *RequestError) Immutable() bool { return e.immutable }

func (e *RequestError) refusal() string {
	var parts []string
	for _, f := range e.Fields {
		if part := strings.Trim(f.Path+": "+f.Rule, ": "); part != "" {
			parts = append(parts, part)
		}
	}
	switch {
	case len(parts) > 0 && e.Reason == metav1.StatusReasonInvalid:
		return "invalid: " + strings.Join(parts, "; ")
	case len(parts) > 0 && e.Text == "":
		return string(e.Reason) + ": " + strings.Join(parts, "; ")
	case e.Text == "" && e.Reason != "":
		return string(e.Reason)
	case e.Text == "":
		return "HTTP " + strconv.Itoa(e.Code)
	default:
		return e.Text
	}
}

// Unwrap gives the end of the caller's context, if that is what cut the request.
func (e *RequestError) Unwrap() error { return e.cause }

// Unanswered reports whether the request may have been carried out all the same.
func (e *RequestError) Unanswered() bool {
	return e.Code == 0 || e.Code >= 500 && e.webhook == "" && !e.conversion && !e.unchanged
}

// cluster reports whether the failure is the cluster's rather than the
// object's, so that the next request would only fail in the same way.
func (e *RequestError) cluster() bool {
	return e.Code == 0 || e.Code == http.StatusUnauthorized || e.Code == http.StatusTooManyRequests
}

// precondition reports whether the object may not be the one that was meant: a
// UID that differs is a conflict if there is no object of the name, and invalid if there is.
func (e *RequestError) precondition() bool {
	return e.Code == http.StatusConflict && len(e.conflicts) == 0 ||
		slices.ContainsFunc(e.Fields, func(f FieldError) bool { return f.Path == "metadata.uid" })
}

func (e *RequestError) notFound() bool { return e.Code == http.StatusNotFound }

// requestError turns any error of a request into one that is fit for status.
// secret says that even the API server's own words may hold content.
func requestError(ctx context.Context, err error, secret bool) *RequestError {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		e := &RequestError{Text: transportText(err)}
		// The caller's own deadline is to be told from that of one request.
		if ctx.Err() != nil {
			e.cause = ctx.Err()
		}
		var defect *panicked.Error
		if errors.As(err, &defect) {
			e.cause = defect // the log wants to know where it was
		}
		return e
	}
	s := status.Status()
	e := &RequestError{Code: int(s.Code), Reason: s.Reason}
	if s.Details != nil {
		e.conflicts = conflicts(s.Details.Causes)
		for _, c := range s.Details.Causes {
			if c.Type == metav1.CauseTypeFieldManagerConflict || c.Type == metav1.CauseTypeUnexpectedServerResponse {
				continue
			}
			rule := rule(c.Message)
			if secret {
				rule = string(c.Type)
			}
			e.Fields = append(e.Fields, FieldError{Path: oneLine(c.Field), Rule: oneLine(rule)})
		}
	}
	slices.SortFunc(e.Fields, func(a, b FieldError) int {
		return strings.Compare(a.Path+"\x00"+a.Rule, b.Path+"\x00"+b.Rule)
	})
	e.Fields = slices.Compact(e.Fields)
	if !secret {
		e.Text = oneLine(withoutValues(s.Message))
	}
	e.explainWebhook(s.Message)
	e.explain(s, secret)
	return e
}

var (
	// formless is what an API server says about an object that server-side apply cannot read; it names the object before.
	formless = regexp.MustCompile(`(?s)^failed to create typed patch object \([^)]*\): (.*)$`)
	// denied is how an API server names who refused an object. What follows are that one's own words.
	denied = regexp.MustCompile(`(?:ValidatingAdmissionPolicy '[^']{1,253}' with binding '[^']{1,253}'|admission webhook "[^"]{1,253}") denied (?:the )?request`)
)

// explain says in other words what an API server says badly, and adds what is to be done.
func (e *RequestError) explain(s metav1.Status, secret bool) {
	switch parts := formless.FindStringSubmatch(s.Message); {
	case parts != nil:
		e.unchanged = true
		if !secret {
			e.Text = "it does not have the form of its kind: " + oneLine(withoutValues(strings.TrimPrefix(parts[1], "errors:")))
		}
		switch {
		case strings.Contains(parts[1], "duplicate entries for key"):
			e.cure = "; the chart, or the values that it is given, must name each only once"
		case strings.Contains(parts[1], "expected string"):
			e.cure = "; the chart must put it in quotes"
		}
	case strings.HasPrefix(s.Message, "etcdserver: request is too large"):
		e.unchanged = true
		e.Text = "it is larger than what the cluster stores as one object, which is 1.5 MiB by default; the chart must split it"
	case e.Code == http.StatusRequestEntityTooLarge:
		e.cure = "; the chart must split the object"
	case e.Code == http.StatusNotFound && s.Details != nil && s.Details.Kind == "namespaces":
		e.Text = fmt.Sprintf("there is no Namespace %s; the chart must bring it, or somebody make it", oneLine(s.Details.Name))
	case secret:
		e.Text = oneLine(denied.FindString(s.Message))
	}
}

// conflicts gathers the fields in dispute by manager, as `conflict with "kubectl" using apps/v1` names it.
func conflicts(causes []metav1.StatusCause) []Conflict {
	paths := map[string][]string{}
	for _, c := range causes {
		if c.Type != metav1.CauseTypeFieldManagerConflict {
			continue
		}
		manager := strings.TrimPrefix(c.Message, "conflict with ")
		if quoted, err := strconv.QuotedPrefix(manager); err == nil {
			manager, _ = strconv.Unquote(quoted)
		}
		manager = oneLine(manager)
		paths[manager] = append(paths[manager], oneLine(c.Field))
	}
	var conflicts []Conflict
	for _, manager := range slices.Sorted(maps.Keys(paths)) {
		fields := paths[manager]
		slices.Sort(fields)
		conflicts = append(conflicts, Conflict{Manager: manager, Fields: slices.Compact(fields)})
	}
	return conflicts
}

// transportText tells a failure below HTTP without what changes from one
// attempt to the next, such as the local port.
func transportText(err error) string {
	var (
		errno syscall.Errno
		dns   *net.DNSError
		uerr  *url.Error
		nerr  net.Error
	)
	switch {
	case errors.Is(err, context.Canceled):
		return "the request was cancelled"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &nerr) && nerr.Timeout():
		return "no answer in time from the API server"
	case errors.Is(err, errTooLarge):
		return "API server: " + errTooLarge.Error()
	case errors.As(err, &errno):
		return "API server: " + errno.Error()
	case errors.As(err, &dns):
		return "API server: no such host " + dns.Name
	case errors.As(err, &uerr):
		return "API server: " + oneLine(uerr.Err.Error())
	default:
		return oneLine(err.Error())
	}
}

// rule takes the refused value out of the API server's text about a field:
// `Invalid value: "x": must be no more than 63 characters` without the "x".
func rule(message string) string {
	kind, rest, found := strings.Cut(message, ": ")
	if !found {
		return message
	}
	switch kind {
	case "Required value", "Forbidden", "Too long", "Too short", "Internal error":
		return message
	}
	if quoted, err := strconv.QuotedPrefix(rest); err == nil {
		return strings.TrimSpace(kind + strings.TrimPrefix(rest, quoted))
	}
	decoder := json.NewDecoder(strings.NewReader(rest))
	var value json.RawMessage
	if decoder.Decode(&value) == nil {
		return kind + rest[decoder.InputOffset():]
	}
	// A value that cannot be told from the text after it: only what ends every
	// such message, and holds nothing that a value could, is kept.
	if i := strings.LastIndex(rest, ": "); i >= 0 && !strings.ContainsAny(rest[i:], `"'{}[]()=`) {
		return kind + rest[i:]
	}
	return kind
}

// withoutValues cuts a message of the API server where it begins to print values.
func withoutValues(message string) string {
	for _, mark := range []string{"got &", "got \"", "Invalid value: ", "unable to parse"} {
		if i := strings.Index(message, mark); i >= 0 {
			message = strings.TrimRight(message[:i], " ,:") + " …"
		}
	}
	return message
}

// maxText bounds what a foreign cluster can put into a message, in bytes.
const maxText = 512

// oneLine makes foreign text fit for a status: one line, printable, bounded.
func oneLine(s string) string {
	s = strings.Join(strings.FieldsFunc(strings.ToValidUTF8(s, "?"), func(r rune) bool { return r == ' ' || !unicode.IsPrint(r) }), " ")
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "") + "…"
	}
	return s
}
