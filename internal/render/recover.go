// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"cmp"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Recover returns in.Recorded together with what it can find out about generated values that a cluster
// has already, from somebody who did not record them. A render with the result then repeats them.
//
// A value is known by its place: where the chart writes a newly generated one into a Secret, the live Secret
// has the one before. live returns the data of a Secret of the cluster; a Secret that is not there has none.
// What is in no Secret, or is not whole there, such as a certificate without its key, stays unrecorded
// and will be generated.
//
// render is called several times: a certificate can be recognised only once its authority has been.
func Recover(in Input, render func(Input) (*Result, error), live func(namespace, name string) (data map[string][]byte, found bool, err error)) (Record, error) {
	known := in.Recorded.copy()
	secrets := map[string]map[string][]byte{}
	data := func(secret *unstructured.Unstructured) (map[string][]byte, error) {
		namespace := cmp.Or(secret.GetNamespace(), in.Namespace)
		key := namespace + "/" + secret.GetName()
		if _, asked := secrets[key]; !asked {
			found, _, err := live(namespace, secret.GetName())
			if err != nil {
				return nil, err
			}
			secrets[key] = found
		}
		return secrets[key], nil
	}

	for range maxReplays {
		in.Recorded = known
		result, err := render(in)
		if err != nil {
			return nil, err
		}
		fresh := generated{}
		for key, value := range result.Record {
			if _, recorded := known[key]; !recorded {
				fresh.add(key, value)
			}
		}
		objects := slices.Clone(result.Objects)
		for _, hook := range result.Hooks {
			objects = append(objects, hook.Object)
		}
		for _, object := range objects {
			if object.GetKind() != "Secret" || object.GetAPIVersion() != "v1" {
				continue
			}
			has, err := data(object)
			if err != nil {
				return nil, err
			}
			rendered := secretData(object)
			for _, key := range slices.Sorted(maps.Keys(rendered)) {
				if text, ok := has[key]; ok {
					fresh.compare(rendered[key], string(text))
				}
			}
		}
		found := fresh.recovered()
		if len(found) == 0 {
			break
		}
		maps.Copy(known, found)
	}
	return known, nil
}

// secretData is what a Secret of a render will hold.
func secretData(secret *unstructured.Unstructured) map[string]string {
	data := map[string]string{}
	encoded, _, _ := unstructured.NestedMap(secret.Object, "data")
	for key, value := range encoded {
		if text, ok := value.(string); ok {
			if decoded, err := base64.StdEncoding.DecodeString(text); err == nil {
				data[key] = string(decoded)
			}
		}
	}
	plain, _, _ := unstructured.NestedMap(secret.Object, "stringData")
	for key, value := range plain {
		if text, ok := value.(string); ok {
			data[key] = text
		}
	}
	return data
}

// generated are newly generated values, in the parts in which they can stand in a text.
type generated struct {
	parts []*part
	// whole are the parts of a value, by the key of its record.
	whole map[string][]*part
}

// part is a string that was generated, or one of the two of a certificate.
type part struct {
	field string // of a certificate: Cert or Key
	text  string
	live  string // what stands in its place; empty when that is not known
}

// recognisable is how long a part has to be to be told from the text around it, in bytes.
const recognisable = 8

func (g *generated) add(key, value string) {
	if g.whole == nil {
		g.whole = map[string][]*part{}
	}
	var certificate struct{ Cert, Key string }
	if json.Unmarshal([]byte(value), &certificate) == nil && certificate.Cert != "" {
		g.whole[key] = []*part{{field: "Cert", text: certificate.Cert}, {field: "Key", text: certificate.Key}}
	} else {
		g.whole[key] = []*part{{text: value}}
	}
	g.parts = append(g.parts, g.whole[key]...)
}

// occurrence is where a part stands in a text, as it is or in base64.
type occurrence struct {
	part       *part
	start, end int
	encoded    bool
}

// compare reads a text of the cluster by the form of the same text in the render.
func (g *generated) compare(rendered, live string) {
	var found []occurrence
	for _, p := range g.parts {
		forms := []string{p.text, base64.StdEncoding.EncodeToString([]byte(p.text))}
		for i, form := range forms {
			if rendered != form && len(form) < recognisable || p.text == "" {
				continue
			}
			for from := 0; ; {
				at := strings.Index(rendered[from:], form)
				if at < 0 {
					break
				}
				at += from
				from = at + len(form)
				found = append(found, occurrence{p, at, from, i == 1})
			}
		}
	}
	slices.SortStableFunc(found, func(a, b occurrence) int { return cmp.Or(a.start-b.start, b.end-a.end) })

	form := strings.Builder{}
	form.WriteString(`(?s)\A`)
	end := 0
	var captured []occurrence
	for _, o := range found {
		if o.start < end {
			continue // within another one
		}
		form.WriteString(regexp.QuoteMeta(rendered[end:o.start]) + `(.+?)`)
		captured = append(captured, o)
		end = o.end
	}
	if captured == nil {
		return
	}
	form.WriteString(regexp.QuoteMeta(rendered[end:]) + `\z`)
	matcher, err := regexp.Compile(form.String())
	if err != nil {
		return // longer than expressions may be; its values are generated anew
	}
	groups := matcher.FindStringSubmatch(live)
	if groups == nil {
		return
	}
	for i, o := range captured {
		text := groups[i+1]
		if o.encoded {
			decoded, err := base64.StdEncoding.DecodeString(text)
			if err != nil {
				continue
			}
			text = string(decoded)
		}
		if o.part.live == "" {
			o.part.live = text
		}
	}
}

// recovered returns the values of which all parts are known.
func (g *generated) recovered() Record {
	found := Record{}
	for key, parts := range g.whole {
		switch {
		case slices.ContainsFunc(parts, func(p *part) bool { return p.live == "" }):
		case len(parts) == 1:
			found[key] = parts[0].live
		default:
			// Of two Secrets that were made at different times, the one may not fit the other.
			if _, err := tls.X509KeyPair([]byte(parts[0].live), []byte(parts[1].live)); err != nil {
				continue
			}
			value, err := json.Marshal(map[string]string{parts[0].field: parts[0].live, parts[1].field: parts[1].live})
			if err == nil {
				found[key] = string(value)
			}
		}
	}
	return found
}
