// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package apply

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

var (
	silentWebhook    = regexp.MustCompile(`failed calling webhook "([^"]{1,253})"`)
	silentConversion = regexp.MustCompile(`conversion webhook for [^ ]{1,400}, Kind=[^ ]{1,100} failed`)
)

// explainWebhook replaces what an API server says about a webhook that does not
// answer: it names the URL and what went wrong this time, and so never repeats itself.
func (e *RequestError) explainWebhook(message string) {
	if e.Code < http.StatusInternalServerError {
		return
	}
	if parts := silentWebhook.FindStringSubmatch(message); parts != nil {
		e.webhook = oneLine(parts[1])
		e.Text = fmt.Sprintf("the admission webhook %q, which is asked about it, does not answer", e.webhook)
	} else if silentConversion.MatchString(message) {
		e.conversion = true
		e.Text = "the conversion webhook of its kind does not answer; look at what the CustomResourceDefinition names as its service"
	}
}

// lockedOut sends the objects once more that a webhook without a backend has
// kept out. All others are there by now: what the webhook needs to run, and
// its configuration, which the release may have put right. What is still kept
// out then is told with whose webhook it is, because our own addon's is easily got rid of.
func (r *run) lockedOut(ctx context.Context, items []*item) {
	var again []*item
	r.report.Failed = slices.DeleteFunc(r.report.Failed, func(f Failure) bool {
		var failure *RequestError
		if !errors.As(f.Err, &failure) || failure.webhook == "" {
			return false
		}
		i := slices.IndexFunc(items, func(it *item) bool { return it.id == f.ID })
		if i >= 0 {
			again = append(again, items[i])
		}
		return i >= 0
	})
	if len(again) == 0 {
		return
	}
	for _, it := range again {
		r.enter(it, "") // Refused for the first time, it was forgotten.
	}
	if err := r.save(ctx); err != nil {
		r.stop(err)
		return
	}
	r.each(len(again), func(i int) { r.send(ctx, again[i]) })
	var owners map[string]Entry
	for _, f := range r.report.Failed {
		var failure *RequestError
		if !errors.As(f.Err, &failure) || failure.webhook == "" {
			continue
		}
		if owners == nil {
			owners = r.webhooks(ctx)
		}
		if e, ours := owners[failure.webhook]; ours {
			failure.cure = fmt.Sprintf("; it is one of %s, which addon %s brought: see why that addon's pods do not run, "+
				"or delete this configuration, which is applied again with the addon", e.ID, e.Set)
		}
	}
	r.checkpoint(ctx)
}

// webhooks finds the configurations of ours that name webhooks, by the webhooks' names.
func (r *run) webhooks(ctx context.Context) map[string]Entry {
	owners := map[string]Entry{}
	known, _, err := r.mapper.kinds(ctx)
	if err != nil {
		return owners
	}
	for _, e := range r.inv.Entries() {
		if !slices.Contains(webhookKinds, e.GroupKind()) {
			continue
		}
		where, served := known.lookup(e.GroupKind(), "")
		if !served {
			continue
		}
		bounded, cancel := context.WithTimeout(ctx, r.timeout)
		live, err := r.at(where, "").Get(bounded, e.Name, metav1.GetOptions{})
		cancel()
		if err != nil {
			continue // It only helps to explain.
		}
		list, _, _ := unstructured.NestedSlice(live.Object, "webhooks")
		for _, w := range list {
			w, _ := w.(map[string]any)
			if name, _ := w["name"].(string); name != "" {
				owners[name] = e
			}
		}
	}
	return owners
}
