// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/sandboxtest"
)

func TestMain(m *testing.M) { sandboxtest.Main(m) }

// desk is a namespace with an object that owns ledgers.
type desk struct {
	t      testing.TB
	client client.WithWatch
	owner  *corev1.ConfigMap
}

func newDesk(t testing.TB) *desk {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	c, err := client.NewWithWatch(sandboxtest.APIServer(t), client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "ledger-"}}
	if err := c.Create(t.Context(), ns); err != nil {
		t.Fatal(err)
	}
	owner := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns.Name, Name: "cluster-addon-a"}}
	if err := c.Create(t.Context(), owner); err != nil {
		t.Fatal(err)
	}
	return &desk{t: t, client: c, owner: owner}
}

// ledger is one user's, with parts small enough for a test.
func (d *desk) ledger(c client.Client) *Ledger {
	l := New(c, d.client, d.owner, corev1.SchemeGroupVersion.WithKind("ConfigMap"), "inventory")
	l.part = 1000
	return l
}

// secrets names what is there.
func (d *desk) secrets() []string {
	d.t.Helper()
	list := &corev1.SecretList{}
	if err := d.client.List(d.t.Context(), list, client.InNamespace(d.owner.Namespace)); err != nil {
		d.t.Fatal(err)
	}
	var out []string
	for _, s := range list.Items {
		out = append(out, s.Name)
		if s.Type != SecretType || len(s.OwnerReferences) != 1 || s.OwnerReferences[0].UID != d.owner.UID {
			d.t.Errorf("Secret %s has type %s and owners %v", s.Name, s.Type, s.OwnerReferences)
		}
	}
	return out
}

func (d *desk) load(l *Ledger) []byte {
	d.t.Helper()
	content, err := l.Load(d.t.Context())
	if err != nil {
		d.t.Fatal(err)
	}
	return content
}

// noise does not compress, and is the same for the same seed.
func noise(seed uint64, size int) []byte {
	r := rand.New(rand.NewPCG(seed, 0))
	out := make([]byte, size)
	for i := range out {
		out[i] = byte(r.UintN(256))
	}
	return out
}

func TestWhatIsSavedIsLoaded(t *testing.T) {
	d := newDesk(t)
	l := d.ledger(d.client)
	if err := l.Save(t.Context(), []byte("x")); err == nil {
		t.Error("saved without having looked")
	}
	if got := d.load(l); got != nil {
		t.Errorf("loaded %q where nothing is", got)
	}
	// From one Secret to several, to others, and back.
	for i, content := range [][]byte{[]byte("small"), noise(1, 2500), noise(2, 4500), noise(2, 4500), noise(1, 2500), []byte("small again"), {}} {
		if err := l.Save(t.Context(), content); err != nil {
			t.Fatal(err)
		}
		if got := d.load(d.ledger(d.client)); !bytes.Equal(got, content) {
			t.Errorf("content %d: %d bytes loaded, %d saved", i, len(got), len(content))
		}
		if got, want := len(d.secrets()), 1+len(l.index.Parts); got != want {
			t.Errorf("content %d: %d Secrets, want %d: %v", i, got, want, d.secrets())
		}
	}
	if err := l.Save(t.Context(), noise(3, 2500)); err != nil {
		t.Fatal(err)
	}
	if err := l.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := d.secrets(); len(got) > 0 {
		t.Errorf("left over: %v", got)
	}
	if err := l.Save(t.Context(), []byte("anew")); err != nil {
		t.Error(err)
	}
}

func TestTheRealSizeFitsIntoEtcd(t *testing.T) {
	d := newDesk(t)
	l := d.ledger(d.client)
	l.part = maxPart
	d.load(l)
	content := noise(1, 3*maxPart)
	if err := l.Save(t.Context(), content); err != nil {
		t.Fatal(err)
	}
	if got := d.load(d.ledger(d.client)); !bytes.Equal(got, content) {
		t.Errorf("%d bytes loaded, %d saved", len(got), len(content))
	}
}

func TestTheSecondOfTwoWritersGetsAConflict(t *testing.T) {
	for name, test := range map[string]struct{ before, first, second []byte }{
		"NothingBefore": {nil, []byte("first"), []byte("second")},
		"Small":         {[]byte("before"), []byte("first"), []byte("second")},
		"Split":         {noise(0, 2500), noise(1, 3500), noise(2, 4500)},
		"SameContent":   {noise(0, 2500), noise(1, 3500), noise(1, 3500)},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t)
			if test.before != nil {
				l := d.ledger(d.client)
				d.load(l)
				if err := l.Save(t.Context(), test.before); err != nil {
					t.Fatal(err)
				}
			}
			a, b := d.ledger(d.client), d.ledger(d.client)
			d.load(a)
			d.load(b)
			if err := a.Save(t.Context(), test.first); err != nil {
				t.Fatal(err)
			}
			if err := b.Save(t.Context(), test.second); !apierrors.IsConflict(err) {
				t.Errorf("error %v, want a conflict", err)
			}
			if err := b.Save(t.Context(), test.second); err == nil {
				t.Error("the second writer may go on without looking")
			}
			if got := d.load(b); !bytes.Equal(got, test.first) {
				t.Errorf("%d bytes loaded, the first writer saved %d", len(got), len(test.first))
			}
			// Having looked, it may write, and clears up.
			if err := b.Save(t.Context(), noise(9, 1500)); err != nil {
				t.Fatal(err)
			}
			if got := d.load(d.ledger(d.client)); !bytes.Equal(got, noise(9, 1500)) {
				t.Errorf("%d bytes loaded", len(got))
			}
		})
	}
}

var errDead = errors.New("the process is dead")

// mortal is a client of a process that dies at its n-th change, before or after
// the API server has made it.
func (d *desk) mortal(n int, after bool) (client.Client, *bool) {
	changes, dead := 0, false
	die := func(do func() error) error {
		if dead {
			return errDead
		}
		changes++
		if changes < n {
			return do()
		}
		dead = true
		if after {
			if err := do(); err != nil {
				d.t.Error(err)
			}
		}
		return errDead
	}
	return interceptor.NewClient(d.client, interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.CreateOption) error {
			return die(func() error { return c.Create(ctx, obj, opts...) })
		},
		Update: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.UpdateOption) error {
			return die(func() error { return c.Update(ctx, obj, opts...) })
		},
		Delete: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.DeleteOption) error {
			return die(func() error { return c.Delete(ctx, obj, opts...) })
		},
	}), &dead
}

// Whenever the writer dies, the ledger has the old content or the new, and the
// next save leaves no parts behind.
func TestAKillWhileSavingLosesNothing(t *testing.T) {
	old, target := noise(1, 3500), noise(2, 2500)
	for _, after := range []bool{false, true} {
		for n := 1; ; n++ {
			d := newDesk(t)
			l := d.ledger(d.client)
			d.load(l)
			if err := l.Save(t.Context(), old); err != nil {
				t.Fatal(err)
			}
			mortal, dead := d.mortal(n, after)
			m := d.ledger(mortal)
			d.load(m)
			if err := m.Save(t.Context(), target); (err != nil) != *dead {
				t.Errorf("death %d: error %v", n, err)
			}
			next := d.ledger(d.client)
			if got := d.load(next); !bytes.Equal(got, old) && !bytes.Equal(got, target) {
				t.Errorf("death %d: %d bytes that nobody saved", n, len(got))
			}
			if err := next.Save(t.Context(), noise(3, 1500)); err != nil {
				t.Errorf("death %d: %v", n, err)
			}
			if got, want := d.secrets(), append([]string{"cluster-addon-a-inventory"}, next.index.Parts...); !cmp.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want))) {
				t.Errorf("death %d: Secrets %v, want %v", n, got, want)
			}
			if !*dead {
				if n < 6 {
					t.Errorf("only %d changes", n-1)
				}
				break
			}
		}
	}
}

func TestADamagedLedgerIsAnErrorThatSaysWhatToDo(t *testing.T) {
	for name, test := range map[string]struct {
		change func(d *desk, l *Ledger)
		want   string
	}{
		"PartMissing": {func(d *desk, l *Ledger) {
			part := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: d.owner.Namespace, Name: l.index.Parts[1]}}
			if err := d.client.Delete(d.t.Context(), part); err != nil {
				d.t.Fatal(err)
			}
		}, "is missing"},
		"PartChanged": {func(d *desk, l *Ledger) {
			part := &corev1.Secret{}
			if err := d.client.Get(d.t.Context(), client.ObjectKey{Namespace: d.owner.Namespace, Name: l.index.Parts[1]}, part); err != nil {
				d.t.Fatal(err)
			}
			part.Data[contentKey][0]++
			if err := d.client.Update(d.t.Context(), part); err != nil {
				d.t.Fatal(err)
			}
		}, "digest"},
		"NotCompressed": {func(d *desk, l *Ledger) {
			head := l.head.DeepCopy()
			head.Data = map[string][]byte{contentKey: []byte("x")}
			if err := d.client.Update(d.t.Context(), head); err != nil {
				d.t.Fatal(err)
			}
		}, "not compressed"},
		"NoIndex": {func(d *desk, l *Ledger) {
			head := l.head.DeepCopy()
			head.Data = map[string][]byte{indexKey: []byte("x")}
			if err := d.client.Update(d.t.Context(), head); err != nil {
				d.t.Fatal(err)
			}
		}, "index"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t)
			l := d.ledger(d.client)
			d.load(l)
			if err := l.Save(t.Context(), noise(1, 2500)); err != nil {
				t.Fatal(err)
			}
			test.change(d, l)
			_, err := d.ledger(d.client).Load(t.Context())
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "delete it to have") {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestSavingTheSameIsNoRequest(t *testing.T) {
	d := newDesk(t)
	mortal, dead := d.mortal(2, false)
	l := d.ledger(mortal)
	d.load(l)
	for range 3 {
		if err := l.Save(t.Context(), []byte("same")); err != nil || *dead {
			t.Fatalf("%v", err)
		}
	}
}

// Each pass of a reconciler loads anew and saves a few times.
func TestWritingOftenDoesNotLetTheHeadGrow(t *testing.T) {
	d := newDesk(t)
	size := 0
	for i := range 12 {
		l := d.ledger(d.client)
		d.load(l)
		for j := range 2 {
			if err := l.Save(t.Context(), noise(uint64(2*i+j), 2500)); err != nil {
				t.Fatal(err)
			}
		}
		if l = d.ledger(d.client); !bytes.Equal(d.load(l), noise(uint64(2*i+1), 2500)) {
			t.Fatalf("pass %d: other content than was saved", i)
		}
		if i == 0 {
			size = len(l.head.Data[indexKey])
		}
		if got := len(l.head.Data[indexKey]); got != size {
			t.Fatalf("after pass %d the index has %d bytes, after the first one %d: %v", i, got, size, l.index.Stale)
		}
	}
	// What fits into one Secret again is one, and nothing is asked about parts any more.
	l := d.ledger(d.client)
	d.load(l)
	for i := range 2 {
		if err := l.Save(t.Context(), []byte{byte(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if len(l.index.Stale) > 0 || len(d.secrets()) != 1 {
		t.Errorf("stale: %v, Secrets: %v", l.index.Stale, d.secrets())
	}
}

func TestASecretOfSomebodyElseIsNeitherReadNorChangedNorDeleted(t *testing.T) {
	d := newDesk(t)
	l := d.ledger(d.client)
	theirs := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: l.key.Namespace, Name: l.key.Name},
		Type:       corev1.SecretTypeOpaque,
		Data:       map[string][]byte{"password": []byte("theirs")},
	}
	if err := d.client.Create(t.Context(), theirs); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Load(t.Context()); err == nil {
		t.Error("it was loaded")
	}
	if err := l.Save(t.Context(), []byte("ours")); err == nil {
		t.Error("it was saved over")
	}
	if err := l.Delete(t.Context()); err == nil {
		t.Error("it was deleted without an error")
	}
	after := &corev1.Secret{}
	if err := d.client.Get(t.Context(), l.key, after); err != nil {
		t.Fatal(err)
	}
	if after.ResourceVersion != theirs.ResourceVersion {
		t.Error("it was changed")
	}
}

// Whoever can write the Secret of a ledger can name any Secret in it.
func TestALedgerNamesNoSecretsOfSomebodyElse(t *testing.T) {
	d := newDesk(t)
	l := d.ledger(d.client)
	d.load(l)
	if err := l.Save(t.Context(), noise(1, 3000)); err != nil {
		t.Fatal(err)
	}
	secrets := map[string]*corev1.Secret{
		"theirs":         {Type: corev1.SecretTypeOpaque},
		"looks-like-one": {Type: corev1.SecretTypeOpaque, ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{partLabel: l.label()}}},
		"of-our-type":    {Type: SecretType},
	}
	for name, secret := range secrets {
		secret.Namespace, secret.Name = d.owner.Namespace, name
		if err := d.client.Create(t.Context(), secret); err != nil {
			t.Fatal(err)
		}
	}
	head := &corev1.Secret{}
	if err := d.client.Get(t.Context(), l.key, head); err != nil {
		t.Fatal(err)
	}
	idx := l.index
	for name := range secrets {
		idx.Stale = append(idx.Stale, name)
	}
	head.Data[indexKey], _ = json.Marshal(idx)
	if err := d.client.Update(t.Context(), head); err != nil {
		t.Fatal(err)
	}

	l = d.ledger(d.client)
	d.load(l)
	for i := range 3 {
		if err := l.Save(t.Context(), noise(uint64(2+i), 3000)); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, secret := range secrets {
		if err := d.client.Get(t.Context(), client.ObjectKeyFromObject(secret), secret); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	list := &corev1.SecretList{}
	if err := d.client.List(t.Context(), list, client.InNamespace(d.owner.Namespace)); err != nil {
		t.Fatal(err)
	}
	if len(list.Items) != len(secrets) {
		t.Errorf("%d Secrets are left, want %d", len(list.Items), len(secrets))
	}
}
