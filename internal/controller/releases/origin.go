// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package releases

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/clusterstacks/cluster-stack-operator/api/v1alpha1"
	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/source"
)

// Origin is where the releases of a ClusterStack come from.
type Origin struct {
	// Location names the source for people: "oci://registry.example.org/stacks". Digests of the same location
	// can be compared.
	Location string
	// Key is the Location, who answers there, and whose credentials are shown to him. What was fetched under
	// one key is not handed out under another: a private release would be private no longer, and what
	// somebody was sent without TLS would be taken for what others are sent with it.
	Key string
	// Stack is the ClusterStack that names the source or leaves that to the operator; nil when there is none.
	Stack *v1alpha1.ClusterStack
	// Poll is how often the source is asked for new releases.
	Poll time.Duration

	// spec is nil for the source of the operator, and for one that nobody names any more.
	spec *v1alpha1.ReleaseSource
	// gone says that the release was fetched for a ClusterStack that is not there any more.
	gone      bool
	namespace string
	// settings tells apart sources of one key that are spoken to in different ways.
	settings string
}

// errNoSource is what a person sees who has named no source at all.
var errNoSource = errors.New("no source of releases is named: set spec.source of the ClusterStack, or start the operator with --source and what belongs to it")

// errStackGone is what a person sees whose release has to be fetched and whose ClusterStack was deleted.
var errStackGone = errors.New("the ClusterStack that named this source is gone, and with it what is needed to fetch the release again: make it again, or have no Cluster use the release")

// Of returns the origin of the releases of a ClusterStack.
func (r *Releases) Of(stack *v1alpha1.ClusterStack) Origin {
	spec := stack.Spec.Source
	if spec == nil {
		o := r.fallback()
		o.Stack = stack
		return o
	}
	o := Origin{Stack: stack, spec: spec, namespace: stack.Namespace, Poll: r.options.Poll}
	switch {
	case spec.Directory != nil:
		o.Location = DirectoryLocation(filepath.Join(r.options.Directory, spec.Directory.Path))
		o.Key = o.Location
		o.Poll = r.options.DirectoryPoll
	case spec.OCI != nil:
		o.Location = "oci://" + spec.OCI.Repository
		o.Key = o.Location
		if spec.OCI.PlainHTTP {
			o.Key += " without TLS"
		}
	case spec.GitHub != nil:
		host := "github.com"
		if _, rest, is := strings.Cut(spec.GitHub.APIURL, "://"); is {
			host, _, _ = strings.Cut(rest, "/")
		}
		o.Location = fmt.Sprintf("github://%s/%s/%s", host, spec.GitHub.Owner, spec.GitHub.Repository)
		o.Key = o.Location
		if spec.GitHub.APIURL != "" {
			o.Key += " at " + spec.GitHub.APIURL
		}
	}
	if spec.SecretRef != nil {
		o.Key += " of Secret " + stack.Namespace + "/" + spec.SecretRef.Name
		if in := r.incarnations.of(stack); in != "" {
			o.Key += " in namespace " + string(in)
		} else if r.options.Namespace != nil {
			// Nothing was ever fetched under this key.
			o.Key += " in a namespace that is not known yet"
		}
	}
	if spec.Timeout != nil {
		o.settings += " " + spec.Timeout.Duration.String()
	}
	if spec.PollInterval != nil {
		o.Poll = spec.PollInterval.Duration
	}
	o.settings = o.Key + o.settings
	return o
}

// DirectoryLocation names a folder of releases.
func DirectoryLocation(path string) string { return "directory:" + path }

// fallback is the origin of what names no source.
func (r *Releases) fallback() Origin {
	return Origin{Location: r.location, Key: r.key, Poll: r.options.DefaultPoll, settings: r.key}
}

// Origin returns where a release comes from: from the source of the ClusterStack that asks for it. Of several
// that do, it is the one whose source it was fetched from before, or else the first: as long as nobody has
// to, nobody changes where a release comes from.
func (r *Releases) Origin(ctx context.Context, namespace string, name release.Name) (Origin, *v1alpha1.ClusterStackRelease, error) {
	rel := &v1alpha1.ClusterStackRelease{}
	err := r.reader.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name.String()}, rel)
	if err != nil && !apierrors.IsNotFound(err) {
		return Origin{}, nil, fmt.Errorf("get ClusterStackRelease %s: %w", name, err)
	}
	stacks := &v1alpha1.ClusterStackList{}
	if err := r.reader.List(ctx, stacks, client.InNamespace(namespace)); err != nil {
		return Origin{}, nil, fmt.Errorf("list ClusterStacks: %w", err)
	}
	for i := range stacks.Items {
		if err := r.meet(ctx, &stacks.Items[i]); err != nil {
			return Origin{}, nil, err
		}
	}
	var origins []Origin
	// In the order of the owners. Those that have not become owners yet are as good.
	for _, ref := range rel.OwnerReferences {
		for i := range stacks.Items {
			if ref.Kind == v1alpha1.ClusterStackKind && ref.Name == stacks.Items[i].Name {
				origins = append(origins, r.Of(&stacks.Items[i]))
			}
		}
	}
	if len(origins) == 0 {
		slices.SortFunc(stacks.Items, func(a, b v1alpha1.ClusterStack) int { return strings.Compare(a.Name, b.Name) })
		for i := range stacks.Items {
			if spec := stacks.Items[i].Spec; (release.Name{Provider: spec.Provider, Stack: spec.Name, Kubernetes: spec.KubernetesVersion}).Prefix() == name.Prefix() {
				origins = append(origins, r.Of(&stacks.Items[i]))
			}
		}
	}
	pinned := PinOf(rel).Source
	if own := r.fallback(); len(origins) == 0 && pinned != "" && pinned != own.Location {
		// Its ClusterStack was deleted. What the operator's own source has under that name is another release.
		return departed(pinned, own.Poll), rel, nil
	}
	chosen := append(origins, r.fallback())[0]
	for _, o := range origins {
		if o.Location == pinned {
			chosen = o
			break
		}
	}
	for _, o := range origins {
		// One of them trusts nobody else's word: then all who share the release have it verified.
		if o.Location == chosen.Location && !demandsSignature(chosen) && demandsSignature(o) {
			chosen = o
		}
	}
	return chosen, rel, nil
}

// demandsSignature tells whether the ClusterStack of an origin refuses releases that are not signed.
func demandsSignature(o Origin) bool {
	if o.Stack == nil || o.Stack.Spec.Verify == nil {
		return false
	}
	required := o.Stack.Spec.Verify.Required
	return required == nil || *required
}

// departed is the origin of a release whose ClusterStack is gone. What the store has stays usable, unless
// credentials were needed for it: nobody shows any now, and what is written on an object proves none.
func departed(location string, poll time.Duration) Origin {
	key := location
	if strings.Contains(location, " ") {
		key = "gone: " + location // the name of no source; it could be the key of one
	}
	return Origin{Location: location, Key: key, Poll: poll, gone: true}
}

// incarnations has the UIDs of the namespaces that ClusterStacks are in, by their own UIDs: an object is in one namespace
// all its life, which can have had others of the same name before.
type incarnations struct {
	mu    sync.Mutex
	known map[types.UID]types.UID
}

// maxIncarnations bounds the memory for ClusterStacks that are long gone.
const maxIncarnations = 100_000

func (i *incarnations) of(stack *v1alpha1.ClusterStack) types.UID {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.known[stack.UID]
}

func (i *incarnations) note(stack *v1alpha1.ClusterStack, namespace types.UID) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.known == nil {
		i.known = map[types.UID]types.UID{}
	}
	if len(i.known) >= maxIncarnations {
		for any := range i.known {
			delete(i.known, any) // it is found out again where it is needed
			break
		}
	}
	i.known[stack.UID] = namespace
}

// meet finds out which namespace a ClusterStack is in, if it names credentials: what was fetched with those of a namespace
// that is gone is not for whoever got its name. A namespace is asked for once for each ClusterStack.
func (r *Releases) meet(ctx context.Context, stack *v1alpha1.ClusterStack) error {
	src := stack.Spec.Source
	if src == nil || src.SecretRef == nil || r.options.Namespace == nil || r.incarnations.of(stack) != "" {
		return nil
	}
	uid, err := r.options.Namespace(ctx, stack.Namespace)
	if err != nil {
		return fmt.Errorf("get the namespace %s: %w", stack.Namespace, err)
	}
	r.incarnations.note(stack, uid)
	return nil
}

// source returns what an origin stands for. Its credentials are read each time: they may have changed.
func (r *Releases) source(ctx context.Context, o Origin) (source.Source, string, error) {
	if o.gone {
		return nil, "", errStackGone
	}
	if o.spec == nil {
		if r.fixed == nil {
			return nil, "", errNoSource
		}
		return r.fixed, "", nil
	}
	if r.options.Build == nil {
		return nil, "", errors.New("sources of ClusterStacks are switched off in this operator")
	}
	data, version, err := r.secret(ctx, o)
	if err != nil {
		return nil, version, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if b, ok := r.built[o.settings]; ok && b.version == version {
		return b.source, version, nil
	}
	src, err := r.options.Build(*o.spec, data)
	if err != nil {
		return nil, version, fmt.Errorf("%s: %w", o.Location, err)
	}
	r.built[o.settings] = built{source: src, version: version}
	return src, version, nil
}

// secret returns the credentials for an origin, and a text that changes with them.
func (r *Releases) secret(ctx context.Context, o Origin) (map[string][]byte, string, error) {
	if o.spec == nil || o.spec.SecretRef == nil {
		return nil, "", nil
	}
	secret, err := r.options.Secret(ctx, client.ObjectKey{Namespace: o.namespace, Name: o.spec.SecretRef.Name})
	if apierrors.IsNotFound(err) {
		return nil, "none", fmt.Errorf("%w: spec.source.secretRef: there is no Secret %s in the namespace %s", source.ErrUnauthorized, o.spec.SecretRef.Name, o.namespace)
	}
	if err != nil {
		return nil, "", fmt.Errorf("get Secret %s: %w", o.spec.SecretRef.Name, err)
	}
	return secret.Data, string(secret.UID) + "/" + secret.ResourceVersion, nil
}

// built is a source with the version of the credentials that it was built with.
type built struct {
	source  source.Source
	version string
}
