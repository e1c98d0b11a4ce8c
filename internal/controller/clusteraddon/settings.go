// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clusteraddon

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/foreignyaml"
	"github.com/clusterstacks/cluster-stack-operator/internal/step"
)

// +kubebuilder:rbac:groups=clusterstack.x-k8s.io,resources=clusteraddonsettings,verbs=get;list;watch
// +kubebuilder:rbac:groups="",resources=configmaps,verbs=get;list;watch
// +kubebuilder:rbac:groups="",resources=secrets,verbs=get;list;watch

// userValues are the values that the user of a cluster sets for its addons.
type userValues struct {
	// of each addon, merged.
	of map[string]map[string]any
	// missing says why an addon cannot have them, with all that it lacks. It waits, and no other does.
	missing map[string]error
	// id changes when they change. It tells nothing about what a Secret holds.
	id string
	// secrets are texts that nobody may see.
	secrets []string
}

// Off returns the addons that the user has switched off.
func Off(settings *v1alpha1.ClusterAddonSettings) []string {
	if settings == nil {
		return nil
	}
	var names []string
	for _, addon := range settings.Spec.Addons {
		if addon.Disabled {
			names = append(names, addon.Name)
		}
	}
	return names
}

// Values reads the values that the settings of a Cluster have for its addons, by addon, and why an addon cannot have
// them. Settings may be nil.
func Values(ctx context.Context, live client.Reader, settings *v1alpha1.ClusterAddonSettings) (of map[string]map[string]any, missing map[string]error, err error) {
	values, err := readValues(ctx, live, settings)
	if err != nil {
		return nil, nil, err
	}
	return values.of, values.missing, nil
}

// readValues reads the values of all addons from their ConfigMaps and Secrets, each by its name: a cache would have to
// hold all Secrets of the management cluster. Only an error of the management cluster is returned.
func readValues(ctx context.Context, live client.Reader, settings *v1alpha1.ClusterAddonSettings) (*userValues, error) {
	values := &userValues{of: map[string]map[string]any{}, missing: map[string]error{}}
	if settings == nil {
		return values, nil
	}
	hash := sha256.New()
	reader := &valuesReader{live: live, settings: settings, known: map[v1alpha1.ValuesReference]valuesRead{}, text: maxValues, memory: maxDecoded}
	lacking := map[string][]error{}
	for _, addon := range settings.Spec.Addons {
		for _, ref := range addon.ValuesFrom {
			content, version, err := reader.read(ctx, ref)
			merged := values.of[addon.Name]
			if err == nil {
				merged, err = reader.overlay(merged, content)
			}
			var unusable *valuesError
			switch {
			case errors.As(err, &unusable) && ref.Optional && unusable.absent:
				continue
			case errors.As(err, &unusable):
				if !slices.ContainsFunc(lacking[addon.Name], func(known error) bool { return known.Error() == err.Error() }) {
					lacking[addon.Name] = append(lacking[addon.Name], err)
				}
				fmt.Fprintf(hash, "%s\n%v\n", addon.Name, err)
				continue
			case err != nil:
				return nil, err
			}
			fmt.Fprintf(hash, "%s\n%s\n", addon.Name, version)
			values.of[addon.Name] = merged
		}
	}
	values.secrets = reader.secrets
	for addon, errs := range lacking {
		values.missing[addon] = step.Because(v1alpha1.ValuesNotFoundReason, joined(errs))
	}
	slices.SortFunc(values.secrets, func(a, b string) int { return len(b) - len(a) })
	if len(values.of)+len(values.missing) > 0 {
		values.id = hex.EncodeToString(hash.Sum(nil)[:8])
	}
	return values, nil
}

const (
	// maxValues is how much text the values of one Cluster may have together, in bytes: all of it is read and parsed in each
	// pass.
	maxValues = 4 << 20
	// maxDecoded is how much memory they may take together, in bytes. A list of empty maps takes twenty times its text.
	maxDecoded = 16 << 20
	// maxDecoding is how much one object may seem to take before it is parsed.
	maxDecoding = 2 * maxDecoded
)

// valuesReader reads each reference once in a pass, however often it is named. What it returns is shared by all who name it,
// and never changed.
type valuesReader struct {
	live     client.Reader
	settings *v1alpha1.ClusterAddonSettings
	known    map[v1alpha1.ValuesReference]valuesRead
	secrets  []string // texts that nobody may see
	text     int      // what is left of maxValues
	memory   int      // what is left of maxDecoded
}

type valuesRead struct {
	values  map[string]any
	version string
	err     error
}

func (r *valuesReader) read(ctx context.Context, ref v1alpha1.ValuesReference) (values map[string]any, version string, err error) {
	ref.Optional = false // the same object
	was, is := r.known[ref]
	if !is {
		was.values, was.version, was.err = r.readReference(ctx, ref)
		if ref.Kind == v1alpha1.ValuesFromSecret {
			r.secrets = texts(r.secrets, was.values)
		}
		r.known[ref] = was
	}
	return was.values, was.version, was.err
}

// valuesError says why values cannot be used. Only another object cures it, whose change is watched.
type valuesError struct {
	what   string
	absent bool
}

func (e *valuesError) Error() string   { return e.what }
func (e *valuesError) Permanent() bool { return true }

// readReference returns the values of a ConfigMap or Secret, and what identifies them.
func (r *valuesReader) readReference(ctx context.Context, ref v1alpha1.ValuesReference) (values map[string]any, version string, err error) {
	tooMuch := &valuesError{what: fmt.Sprintf("the values that ClusterAddonSettings %s names have more than %d MiB together", r.settings.Name, maxValues>>20)}
	switch {
	case r.text < 0:
		return nil, "", tooMuch
	case r.memory < 0:
		return nil, "", r.tooMany()
	}
	key := client.ObjectKey{Namespace: r.settings.Namespace, Name: ref.Name}
	at := ref.Key
	if at == "" {
		at = v1alpha1.DefaultValuesKey
	}
	var text []byte
	var has bool
	switch ref.Kind {
	case v1alpha1.ValuesFromSecret:
		secret := &corev1.Secret{}
		err = r.live.Get(ctx, key, secret)
		text, has = secret.Data[at]
		version = fmt.Sprintf("%s %s %q", secret.UID, secret.ResourceVersion, at)
	default:
		object := &corev1.ConfigMap{}
		err = r.live.Get(ctx, key, object)
		var plain string
		if plain, has = object.Data[at]; has {
			text = []byte(plain)
		} else {
			text, has = object.BinaryData[at]
		}
		version = string(text)
	}
	switch {
	case apierrors.IsNotFound(err):
		return nil, "", &valuesError{what: fmt.Sprintf("%s %s with values is missing: create it, or make the reference in ClusterAddonSettings %s optional", ref.Kind, ref.Name, r.settings.Name), absent: true}
	case err != nil:
		return nil, "", fmt.Errorf("get %s %s with values: %w", ref.Kind, ref.Name, err)
	case !has:
		return nil, "", &valuesError{what: fmt.Sprintf("%s %s has no key %s with values", ref.Kind, ref.Name, at), absent: true}
	}
	if r.text -= len(text); r.text < 0 {
		return nil, "", tooMuch
	}
	if decoding(text) > maxDecoding {
		return nil, "", r.tooMany()
	}
	// What a parser says may quote the text.
	malformed := &valuesError{what: fmt.Sprintf("key %s of %s %s is not a map in YAML", at, ref.Kind, ref.Name)}
	document, err := foreignyaml.YAMLToJSON(text)
	if err != nil {
		return nil, "", malformed
	}
	if err := json.Unmarshal(document, new(map[string]any)); err != nil {
		return nil, "", malformed
	}
	if err := utiljson.Unmarshal(document, &values); err != nil {
		return nil, "", malformed
	}
	if err := utiljson.ConvertMapNumbers(values, 0); err != nil {
		return nil, "", malformed
	}
	if r.memory -= decoded(values); r.memory < 0 {
		return nil, "", r.tooMany()
	}
	return values, version, nil
}

func (r *valuesReader) tooMany() error {
	return &valuesError{what: fmt.Sprintf("the values that ClusterAddonSettings %s names have so many entries that they take more than %d MiB of memory together", r.settings.Name, maxDecoded>>20)}
}

// overlay returns values with over laid over them: maps are merged, everything else is replaced. Neither is changed, as
// others have them, too.
func (r *valuesReader) overlay(values, over map[string]any) (map[string]any, error) {
	if len(values) == 0 {
		return over, nil
	}
	if r.memory -= decodedMap(len(values) + len(over)); r.memory < 0 {
		return nil, r.tooMany()
	}
	merged := maps.Clone(values)
	for key, value := range over {
		below, isMap := value.(map[string]any)
		if was, wasMap := values[key].(map[string]any); isMap && wasMap {
			both, err := r.overlay(was, below)
			if err != nil {
				return nil, err
			}
			value = both
		}
		merged[key] = value
	}
	return merged, nil
}

// decoded returns about how much memory a value takes, in bytes.
func decoded(value any) int {
	switch v := value.(type) {
	case map[string]any:
		size := decodedMap(len(v))
		for key, below := range v {
			size += len(key) + decoded(below)
		}
		return size
	case []any:
		size := 24 + 24*len(v)
		for _, below := range v {
			size += decoded(below)
		}
		return size
	case string:
		return 16 + len(v)
	}
	return 8
}

// decodedMap is what a map of so many entries takes besides their contents: it has room for eight from the first on, and for
// up to twice as many as it has.
func decodedMap(entries int) int {
	if entries == 0 {
		return 48
	}
	return 48 + 33*max(8, 2*entries)
}

// decoding returns how much memory a document takes at most once it is parsed, as far as that can be told without parsing it:
// each of these characters may begin a map, or be text after all.
func decoding(document []byte) int {
	size := len(document)
	for _, c := range document {
		switch c {
		case '{', ':', '?':
			size += 48 + 33*8
		case ',', '-', '[', '\n':
			size += 48
		}
	}
	return size
}

// texts appends the texts in a value that are long enough to be recognized.
func texts(list []string, value any) []string {
	switch v := value.(type) {
	case string:
		if len(v) >= 4 {
			list = append(list, v)
		}
	case map[string]any:
		for _, below := range v {
			list = texts(list, below)
		}
	case []any:
		for _, below := range v {
			list = texts(list, below)
		}
	}
	return list
}

// hide takes texts of Secrets out of an error: a chart, or an API server that refuses an object, may quote them.
func (v *userValues) hide(err error) error {
	if err == nil || v == nil || len(v.secrets) == 0 {
		return err
	}
	if text := v.hidden(err.Error()); text != err.Error() {
		return &hiddenError{err: err, text: text}
	}
	return err
}

func (v *userValues) hidden(text string) string {
	if v != nil {
		for _, secret := range v.secrets {
			text = strings.ReplaceAll(text, secret, "(hidden)")
		}
	}
	return text
}

type hiddenError struct {
	err  error
	text string
}

func (e *hiddenError) Error() string { return e.text }
func (e *hiddenError) Unwrap() error { return e.err }

// addonsOfValues maps a ConfigMap or Secret to the ClusterAddons whose settings refer to it.
func (r *Reconciler) addonsOfValues(kind v1alpha1.ValuesKind) func(context.Context, client.Object) []reconcile.Request {
	return func(ctx context.Context, obj client.Object) []reconcile.Request {
		list := &v1alpha1.ClusterAddonSettingsList{}
		if err := r.client.List(ctx, list, client.InNamespace(obj.GetNamespace())); err != nil {
			// A cache that cannot list is not there; its watch would not have called us.
			ctrl.LoggerFrom(ctx).Error(err, "Listing ClusterAddonSettings failed")
			return nil
		}
		var requests []reconcile.Request
		for i := range list.Items {
			settings := &list.Items[i]
			if slices.ContainsFunc(settings.Spec.Addons, func(a v1alpha1.AddonSettings) bool {
				return slices.ContainsFunc(a.ValuesFrom, func(ref v1alpha1.ValuesReference) bool {
					return ref.Kind == kind && ref.Name == obj.GetName()
				})
			}) {
				requests = append(requests, OfCluster(ctx, settings)...)
			}
		}
		return requests
	}
}
