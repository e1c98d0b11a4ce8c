// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package renderworker

import (
	"encoding/binary"
	"fmt"
	"io"
	"reflect"

	"github.com/fxamacker/cbor/v2"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/render"
)

// What goes through the pipes is a sequence of messages: four bytes of length, big endian, and so many
// bytes of CBOR. Both ends are the same program, so the form needs no versions.
//
// A worker first says hello. A conversation then is: a request; where the worker lacks charts, which ones,
// and the charts; the key of the render, and whether it shall be done; the answer.

// hello is the first message of a worker.
type hello struct {
	// Problem says why the worker cannot work safely.
	Problem string
}

// request asks for a render.
type request struct {
	// Input is without its charts, which are named instead: most renders use one that is known already.
	Input      render.Input
	Chart      render.Digest
	Neighbours []render.Digest
}

// answer is what a worker says during a conversation: one of its fields is set.
type answer struct {
	Lacking []render.Digest
	Key     *key
	Result  *result
	Invalid *render.InvalidError
}

type key struct {
	Digest render.Digest
	Known  bool
}

// result is a render.Result.
type result struct {
	Objects        []map[string]any
	Hooks          []hook
	Record, Unused render.Record
	NewValues      bool
}

type hook struct {
	Object         map[string]any
	Events         []string
	Weight         int
	DeletePolicies []string
}

func pack(r *render.Result) *result {
	packed := &result{Record: r.Record, Unused: r.Unused, NewValues: r.NewValues}
	for _, object := range r.Objects {
		packed.Objects = append(packed.Objects, object.Object)
	}
	for _, h := range r.Hooks {
		packed.Hooks = append(packed.Hooks, hook{h.Object.Object, h.Events, h.Weight, h.DeletePolicies})
	}
	return packed
}

func (r *result) unpack() *render.Result {
	unpacked := &render.Result{Record: r.Record, Unused: r.Unused, NewValues: r.NewValues}
	for _, object := range r.Objects {
		unpacked.Objects = append(unpacked.Objects, &unstructured.Unstructured{Object: object})
	}
	for _, h := range r.Hooks {
		unpacked.Hooks = append(unpacked.Hooks, render.Hook{
			Object: &unstructured.Unstructured{Object: h.Object}, Events: h.Events, Weight: h.Weight, DeletePolicies: h.DeletePolicies,
		})
	}
	return unpacked
}

// charts are what a worker lacked.
type charts map[render.Digest]release.Chart

// decision says whether a render is to be done after all.
type decision struct{ Render bool }

// Messages are bounded by what releases and renders are bounded by, and some more for their form.
const maxMessage = 256 << 20

var (
	encoding = must(cbor.EncOptions{}.EncMode())
	decoding = must(cbor.DecOptions{
		DefaultMapType:  reflect.TypeFor[map[string]any](),
		IntDec:          cbor.IntDecConvertSignedOrFail,
		MaxNestedLevels: 2048,
		MaxMapPairs:     1 << 24, MaxArrayElements: 1 << 24,
		UTF8: cbor.UTF8DecodeInvalid, // a value is passed on, not judged
	}.DecMode())
)

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func send(w io.Writer, message any) error {
	data, err := encoding.Marshal(message)
	if err != nil {
		return err
	}
	if len(data) > maxMessage {
		return fmt.Errorf("a message of %d MiB is longer than %d MiB", len(data)>>20, maxMessage>>20)
	}
	if _, err := w.Write(binary.BigEndian.AppendUint32(nil, uint32(len(data)))); err != nil {
		return err
	}
	_, err = w.Write(data)
	return err
}

// receive reads the next message, whole.
func receive(r io.Reader) ([]byte, error) {
	var length [4]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(length[:])
	if n > maxMessage {
		return nil, fmt.Errorf("a message of %d MiB is longer than %d MiB", n>>20, maxMessage>>20)
	}
	data := make([]byte, n)
	_, err := io.ReadFull(r, data)
	return data, err
}

func receiveInto(r io.Reader, message any) error {
	data, err := receive(r)
	if err != nil {
		return err
	}
	return decoding.Unmarshal(data, message)
}
