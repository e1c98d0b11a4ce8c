// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package ledger keeps what the operator must not forget about an object, in
// Secrets that the object owns.
//
// A ledger holds opaque bytes, compressed. What fits is one Secret; what does not
// is split into parts beside it, written first, so that whoever dies in between
// leaves the previous content readable. Of two writers who loaded the same
// content the second gets a conflict, never the last word.
//
// What the bytes mean is the caller's.
package ledger

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	// SecretType is the type of the Secrets of a ledger.
	SecretType corev1.SecretType = "clusterstack.x-k8s.io/inventory"

	// partLabel marks the parts of a ledger with a digest of its Secret's name.
	partLabel = "clusterstack.x-k8s.io/part-of"
	// baseAnnotation of a part is the resource version of the head that its writer
	// had loaded: parts of a writer who came too late can be told by it.
	baseAnnotation = "clusterstack.x-k8s.io/base"

	// The keys of a Secret's data. A head has either the content or an index of its parts.
	contentKey = "content"
	indexKey   = "index"

	// maxPart is the most that one Secret holds, in compressed bytes; etcd takes 1.5 MiB.
	maxPart = 700 << 10
	// maxContent bounds what is unpacked, in bytes.
	maxContent = 64 << 20
)

// index is the head's list of parts, in order.
type index struct {
	Parts []string `json:"parts"`
	// SHA256 is of the compressed content.
	SHA256 string `json:"sha256"`
	// Stale are parts of the content before, which may not be deleted yet.
	Stale []string `json:"stale,omitempty"`
}

// Ledger is the state of one object, as loaded by one user. It is not safe for
// concurrent use.
type Ledger struct {
	client client.Client
	reader client.Reader
	owner  metav1.OwnerReference
	key    client.ObjectKey
	part   int

	loaded bool
	// head is the Secret as last read or written, nil if there is none.
	head    *corev1.Secret
	index   index
	content []byte
}

// New returns the ledger with the given suffix of an object: the Secret
// "<object>-<suffix>" in the object's namespace, owned by it. reader must not be
// a cache, which could show what was true before our last write.
func New(c client.Client, reader client.Reader, owner client.Object, gvk schema.GroupVersionKind, suffix string) *Ledger {
	apiVersion, kind := gvk.ToAPIVersionAndKind()
	return &Ledger{
		client: c,
		reader: reader,
		owner:  metav1.OwnerReference{APIVersion: apiVersion, Kind: kind, Name: owner.GetName(), UID: owner.GetUID()},
		key:    client.ObjectKey{Namespace: owner.GetNamespace(), Name: owner.GetName() + "-" + suffix},
		part:   maxPart,
	}
}

// Load reads the content, nil when there is none. Content that does not fit
// together is an error, because to go on without would mean to forget.
func (l *Ledger) Load(ctx context.Context) ([]byte, error) {
	l.loaded, l.head, l.index, l.content = false, nil, index{}, nil
	head := &corev1.Secret{}
	err := l.reader.Get(ctx, l.key, head)
	if apierrors.IsNotFound(err) {
		l.loaded = true
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read Secret %s: %w", l.key, err)
	}
	if head.Type != SecretType {
		return nil, l.foreign(head)
	}
	content, idx, err := l.read(ctx, head)
	if err != nil {
		return nil, err
	}
	l.loaded, l.head, l.index, l.content = true, head, idx, content
	return bytes.Clone(content), nil
}

func (l *Ledger) read(ctx context.Context, head *corev1.Secret) ([]byte, index, error) {
	var idx index
	packed := head.Data[contentKey]
	if raw, ok := head.Data[indexKey]; ok {
		if err := json.Unmarshal(raw, &idx); err != nil {
			return nil, idx, l.damaged(errors.New("its index cannot be read"))
		}
	}
	for _, name := range idx.Parts {
		part := &corev1.Secret{}
		if err := l.reader.Get(ctx, client.ObjectKey{Namespace: l.key.Namespace, Name: name}, part); err != nil {
			if apierrors.IsNotFound(err) {
				return nil, idx, l.damaged(fmt.Errorf("its part %s is missing", name))
			}
			return nil, idx, fmt.Errorf("read Secret %s/%s: %w", l.key.Namespace, name, err)
		}
		if part.Type != SecretType {
			return nil, idx, l.damaged(fmt.Errorf("its part %s is a Secret of somebody else", name))
		}
		packed = append(packed, part.Data[contentKey]...)
	}
	if len(idx.Parts) > 0 && sum(packed) != idx.SHA256 {
		return nil, idx, l.damaged(errors.New("its parts do not have the recorded digest"))
	}
	content, err := unpack(packed)
	if err != nil {
		return nil, idx, l.damaged(err)
	}
	return content, idx, nil
}

// damaged says what to do about a ledger that cannot be read.
func (l *Ledger) damaged(err error) error {
	return fmt.Errorf("Secret %s is damaged: %w; restore it from a backup, or delete it to have what it held found out anew", l.key, err)
}

// Save replaces what was loaded or saved before. It gives an error for which
// [apierrors.IsConflict] is true if somebody else has written since; load again
// then. Saving the same content again is no request.
func (l *Ledger) Save(ctx context.Context, content []byte) error {
	if !l.loaded {
		return fmt.Errorf("Secret %s: it has to be loaded before it is saved", l.key)
	}
	if l.head != nil && bytes.Equal(content, l.content) && owned(l.head, l.owner) {
		return nil
	}
	packed, err := pack(content)
	if err != nil {
		return fmt.Errorf("Secret %s: %w", l.key, err)
	}
	if err := l.forget(ctx); err != nil {
		return err
	}
	head, idx := l.next(packed)
	if err := l.writeParts(ctx, packed, idx.Parts); err != nil {
		return err
	}
	before := l.head
	if before == nil {
		err = l.client.Create(ctx, head)
		if apierrors.IsAlreadyExists(err) {
			err = apierrors.NewConflict(corev1.Resource("secrets"), l.key.Name, errors.New("somebody else has created it"))
		}
	} else {
		err = l.client.Update(ctx, head)
		if apierrors.IsNotFound(err) {
			err = apierrors.NewConflict(corev1.Resource("secrets"), l.key.Name, errors.New("somebody else has deleted it"))
		}
	}
	if err != nil {
		// Whether it was written is not certain: the next save has to look first.
		l.loaded = false
		return fmt.Errorf("save Secret %s: %w", l.key, err)
	}
	l.head, l.index, l.content = head, idx, bytes.Clone(content)
	return l.collect(ctx, before)
}

// next builds the head for packed content.
func (l *Ledger) next(packed []byte) (*corev1.Secret, index) {
	head := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: l.key.Namespace, Name: l.key.Name}}
	if l.head != nil {
		head = l.head.DeepCopy()
	}
	head.Type = SecretType
	own(head, l.owner)
	var idx index
	if len(packed) > l.part {
		idx.SHA256 = sum(packed)
		for i := range (len(packed) + l.part - 1) / l.part {
			// A name of its own for each content on each base: no writer ever changes a part
			// that another needs, and none deletes one that comes back with old content.
			attempt := sum([]byte(l.base() + "/" + idx.SHA256))[:10]
			idx.Parts = append(idx.Parts, fmt.Sprintf("%s-%s-%d", l.key.Name, attempt, i+1))
		}
	}
	for _, name := range slices.Concat(l.index.Parts, l.index.Stale) {
		if !slices.Contains(idx.Parts, name) {
			idx.Stale = append(idx.Stale, name)
		}
	}
	head.Data = map[string][]byte{}
	if len(idx.Parts) == 0 {
		head.Data[contentKey] = packed
	}
	if len(idx.Parts)+len(idx.Stale) > 0 {
		head.Data[indexKey], _ = json.Marshal(idx) // Strings can always be marshalled.
	}
	return head, idx
}

func (l *Ledger) base() string {
	if l.head == nil {
		return ""
	}
	return l.head.ResourceVersion
}

func (l *Ledger) writeParts(ctx context.Context, packed []byte, names []string) error {
	for i, name := range names {
		part := &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: l.key.Namespace, Name: name,
				Labels:          map[string]string{partLabel: l.label()},
				Annotations:     map[string]string{baseAnnotation: l.base()},
				OwnerReferences: []metav1.OwnerReference{l.owner},
			},
			Type: SecretType,
			Data: map[string][]byte{contentKey: packed[i*l.part : min((i+1)*l.part, len(packed))]},
		}
		err := l.client.Create(ctx, part)
		if apierrors.IsAlreadyExists(err) {
			// Of an earlier attempt at the same content, on the same base.
			err = l.client.Update(ctx, part)
		}
		if err != nil {
			return fmt.Errorf("save Secret %s/%s: %w", l.key.Namespace, name, err)
		}
	}
	return nil
}

// forget drops from the index what was stale and is gone. The head would name more of it with each writing, until it is
// too large to be written.
func (l *Ledger) forget(ctx context.Context) error {
	if len(l.index.Stale) == 0 {
		return nil
	}
	parts, err := l.parts(ctx)
	if err != nil {
		return err
	}
	there := map[string]bool{}
	for _, part := range parts {
		there[part.Name] = true
	}
	l.index.Stale = slices.DeleteFunc(l.index.Stale, func(name string) bool { return !there[name] })
	return nil
}

// collect deletes the parts that nobody needs any more: those of the content
// before, and those of writers who had loaded it and did not come through. Parts
// of a writer who has loaded our content are not touched, they may be needed next.
func (l *Ledger) collect(ctx context.Context, before *corev1.Secret) error {
	if len(l.index.Parts)+len(l.index.Stale) == 0 {
		return nil
	}
	base := ""
	if before != nil {
		base = before.ResourceVersion
	}
	parts, err := l.parts(ctx)
	if err != nil {
		return err
	}
	// Only of those: whoever can write the head could otherwise have us delete any Secret by its name.
	for i, part := range parts {
		if slices.Contains(l.index.Parts, part.Name) || part.Annotations[baseAnnotation] != base && !slices.Contains(l.index.Stale, part.Name) {
			continue
		}
		if err := l.client.Delete(ctx, &parts[i], client.Preconditions{UID: &part.UID}); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("delete Secret %s/%s: %w", l.key.Namespace, part.Name, err)
		}
	}
	// The head lists what was stale until its next writing; a second look does no harm.
	return nil
}

// parts are the Secrets of our type that say that they are of this ledger.
func (l *Ledger) parts(ctx context.Context) ([]metav1.PartialObjectMetadata, error) {
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("SecretList"))
	err := l.reader.List(ctx, list, client.InNamespace(l.key.Namespace),
		client.MatchingLabels{partLabel: l.label()}, client.MatchingFields{"type": string(SecretType)})
	if err != nil {
		return nil, fmt.Errorf("list the parts of Secret %s: %w", l.key, err)
	}
	return list.Items, nil
}

// Delete removes the ledger with all its parts. Afterwards it is as one that
// never was. The parts go first: what is left after a kill is found by its head.
func (l *Ledger) Delete(ctx context.Context) error {
	parts, err := l.parts(ctx)
	if err != nil {
		return err
	}
	for i := range parts {
		if err := l.client.Delete(ctx, &parts[i], client.Preconditions{UID: &parts[i].UID}); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("delete Secret %s/%s: %w", l.key.Namespace, parts[i].Name, err)
		}
	}
	head := &corev1.Secret{}
	if err := l.reader.Get(ctx, l.key, head); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("read Secret %s: %w", l.key, err)
	} else if err == nil {
		if head.Type != SecretType {
			return l.foreign(head)
		}
		if err := l.client.Delete(ctx, head, client.Preconditions{UID: &head.UID}); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("delete Secret %s: %w", l.key, err)
		}
	}
	l.loaded, l.head, l.index, l.content = true, nil, index{}, nil
	return nil
}

// foreign is the error about a Secret of our name that somebody else made.
func (l *Ledger) foreign(head *corev1.Secret) error {
	return fmt.Errorf("the Secret %s is of type %s, not %s, and so not the operator's: give it another name", l.key, head.Type, SecretType)
}

// label is short enough for the value of a label, whatever the length of the name.
func (l *Ledger) label() string { return sum([]byte(l.key.Name))[:40] }

func owned(secret *corev1.Secret, owner metav1.OwnerReference) bool {
	return slices.ContainsFunc(secret.OwnerReferences, func(o metav1.OwnerReference) bool { return o.UID == owner.UID })
}

// own makes the owner's reference current: a restored or moved owner has another UID.
func own(secret *corev1.Secret, owner metav1.OwnerReference) {
	secret.OwnerReferences = slices.DeleteFunc(secret.OwnerReferences, func(o metav1.OwnerReference) bool {
		return o.Kind == owner.Kind && o.Name == owner.Name
	})
	secret.OwnerReferences = append(secret.OwnerReferences, owner)
}

func sum(data []byte) string {
	s := sha256.Sum256(data)
	return hex.EncodeToString(s[:])
}

// pack compresses. Equal content gives equal bytes: the header has no time.
func pack(content []byte) ([]byte, error) {
	var b bytes.Buffer
	w := packers.Get().(*gzip.Writer)
	defer packers.Put(w)
	w.Reset(&b)
	if _, err := w.Write(content); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// packers compress. An inventory is saved before and after each stage, so speed counts for more than the last tenth
// of the size, and a compressor is half a megabyte to allocate.
var packers = sync.Pool{New: func() any {
	w, err := gzip.NewWriterLevel(io.Discard, gzip.BestSpeed)
	if err != nil {
		panic(err) // the level is one that there is
	}
	return w
}}

func unpack(packed []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, errors.New("its content is not compressed as it should be")
	}
	content, err := io.ReadAll(io.LimitReader(r, maxContent+1))
	if err != nil {
		return nil, errors.New("its content is cut off")
	}
	if len(content) > maxContent {
		return nil, fmt.Errorf("its content is larger than %d MiB", maxContent>>20)
	}
	return content, nil
}
