// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package observe tells what a cluster says about objects: whether the condition
// of a stage is met, and whether objects are healthy.
//
// It only reads. What is read belongs to a cluster that we do not trust, so an
// evaluation is bounded in time and cost, and texts out of the cluster are bounded
// in length. When to look again is the caller's.
package observe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/interpreter"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
)

// Reader reads one object from a cluster. An object that does not exist gives an
// error for which [apierrors.IsNotFound] is true, a kind that is not served one
// for which [meta.IsNoMatchError] is.
type Reader interface {
	Get(ctx context.Context, gvk schema.GroupVersionKind, namespace, name string) (*unstructured.Unstructured, error)
}

// Object names an object in the version to read it in.
type Object struct {
	schema.GroupVersionKind
	Namespace, Name string
}

// String prints the object as people write it: "Deployment.apps kube-system/metrics-server".
func (o Object) String() string {
	name := o.Name
	if o.Namespace != "" {
		name = o.Namespace + "/" + name
	}
	return o.GroupKind().String() + " " + name
}

// Compare orders objects by group, kind, namespace and name.
func (o Object) Compare(other Object) int {
	return cmp.Or(
		cmp.Compare(o.Group, other.Group), cmp.Compare(o.Kind, other.Kind),
		cmp.Compare(o.Namespace, other.Namespace), cmp.Compare(o.Name, other.Name),
	)
}

const (
	maxExpression = 2 << 10 // bytes
	maxObjects    = 16
	maxCost       = 1_000_000 // as Kubernetes allows for one expression
	maxTime       = time.Second
	checkEvery    = 100 // iterations, between two looks at the time
)

// GateError is a condition of a stage that cannot be evaluated, whatever the
// cluster says.
type GateError struct{ text string }

func (e *GateError) Error() string { return e.text }

// Permanent reports that only another release can cure it.
func (e *GateError) Permanent() bool { return true }

func gateErrorf(format string, args ...any) error {
	return &GateError{text: "condition of the stage: " + fmt.Sprintf(format, args...)}
}

// Gate is a compiled condition of a stage. It is safe for concurrent use.
type Gate struct {
	expression string
	objects    []Object
	keys       []string
	program    cel.Program
	patience   time.Duration // that an evaluation may take
}

// CompileGate checks a condition and prepares it for evaluation. The expression
// sees CEL's standard library and each object under its key, and has to yield a
// boolean. Every error is a [*GateError].
func CompileGate(c *release.Condition) (*Gate, error) {
	if len(c.Expression) > maxExpression {
		return nil, gateErrorf("the expression has %d bytes, at most %d are allowed", len(c.Expression), maxExpression)
	}
	if len(c.Objects) > maxObjects {
		return nil, gateErrorf("it names %d objects, at most %d are allowed", len(c.Objects), maxObjects)
	}
	g := &Gate{expression: c.Expression, patience: maxTime}
	var options []cel.EnvOption
	for _, o := range c.Objects {
		if o.Key == "" || o.Kind == "" || o.Name == "" || o.APIVersion == "" {
			return nil, gateErrorf("object %q lacks one of key, apiVersion, kind and name", o.Key)
		}
		if slices.Contains(g.keys, o.Key) {
			return nil, gateErrorf("two objects have the key %q", o.Key)
		}
		gv, err := schema.ParseGroupVersion(o.APIVersion)
		if err != nil {
			return nil, gateErrorf("object %q: %v", o.Key, err)
		}
		g.keys = append(g.keys, o.Key)
		g.objects = append(g.objects, Object{GroupVersionKind: gv.WithKind(o.Kind), Namespace: o.Namespace, Name: o.Name})
		options = append(options, cel.Variable(o.Key, cel.MapType(cel.StringType, cel.DynType)))
	}
	env, err := cel.NewEnv(options...)
	if err != nil {
		return nil, gateErrorf("%v", err)
	}
	ast, issues := env.Compile(c.Expression)
	if issues.Err() != nil {
		return nil, gateErrorf("%v", issues.Err())
	}
	if out := ast.OutputType(); !out.IsExactType(cel.BoolType) && !out.IsExactType(cel.DynType) {
		return nil, gateErrorf("the expression yields %s, it has to yield true or false", out)
	}
	g.program, err = env.Program(ast, cel.CostTracking(textCost{}), cel.CostLimit(maxCost), cel.InterruptCheckFrequency(checkEvery))
	if err != nil {
		return nil, gateErrorf("%v", err)
	}
	return g, nil
}

// textCost lets new text cost what CEL lets it cost where it knows the types: a tenth of its length. The fields
// of objects have no types that it knows, and a list of long texts would take all the memory for little.
type textCost struct{}

func (textCost) CallCost(_, _ string, _ []ref.Val, result ref.Val) *uint64 {
	var length int
	switch text := result.(type) {
	case types.String:
		length = len(text)
	case types.Bytes:
		length = len(text)
	default:
		return nil
	}
	cost := uint64(1 + length/10)
	return &cost
}

// Objects are what the gate looks at, for a caller that wants to watch them.
func (g *Gate) Objects() []Object { return slices.Clone(g.objects) }

// Verdict is the answer of a gate.
type Verdict struct {
	// Met says that the stage may go on.
	Met bool
	// Waiting says what for, when it may not.
	Waiting string
}

// Eval reads the gate's objects and evaluates its expression. A missing object
// and a field that is not there yet mean to wait. An error that is not a
// [*GateError] is worth another try.
func (g *Gate) Eval(ctx context.Context, r Reader) (Verdict, error) {
	input := map[string]any{}
	var missing []string
	for i, o := range g.objects {
		obj, err := r.Get(ctx, o.GroupVersionKind, o.Namespace, o.Name)
		switch {
		case absent(err):
			missing = append(missing, o.String())
		case err != nil:
			return Verdict{}, fmt.Errorf("read %s: %w", o, err)
		default:
			input[g.keys[i]] = obj.Object
		}
	}
	if len(missing) > 0 {
		return Verdict{Waiting: strings.Join(missing, ", ") + " to exist"}, nil
	}
	bounded, cancel := context.WithTimeout(ctx, g.patience)
	defer cancel()
	out, _, err := g.program.ContextEval(bounded, input)
	if err != nil {
		return g.failed(ctx, err)
	}
	met, ok := out.(types.Bool)
	if !ok {
		return Verdict{}, gateErrorf("the expression yields %s, it has to yield true or false: %s", typeName(out), g.expression)
	}
	if !met {
		return Verdict{Waiting: g.expression}, nil
	}
	return Verdict{Met: true}, nil
}

// failed tells a status that is not filled in yet from an expression that cannot work.
func (g *Gate) failed(ctx context.Context, err error) (Verdict, error) {
	var cancelled interpreter.EvalCancelledError
	switch text := err.Error(); {
	case ctx.Err() != nil:
		return Verdict{}, ctx.Err()
	case strings.HasPrefix(text, noSuchKey), strings.HasPrefix(text, outOfBounds):
		return Verdict{Waiting: fmt.Sprintf("%s (%s)", g.expression, g.publicly(text))}, nil
	case errors.As(err, &cancelled) && cancelled.Cause == interpreter.CostLimitExceeded:
		return Verdict{}, gateErrorf("the expression costs more than %d: %s", maxCost, g.expression)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, interpreter.InterruptError{}):
		// Not the release's fault alone: on a busy machine anything takes long.
		return Verdict{}, fmt.Errorf("condition of the stage: the expression takes longer than %s: %s", g.patience, g.expression)
	default:
		return Verdict{}, fmt.Errorf("condition of the stage: %s: %s", g.publicly(text), g.expression)
	}
}

const (
	noSuchKey   = "no such key: "
	outOfBounds = "index out of bounds: "
)

// withoutValues are the beginnings of what CEL says that go on with names and types at most.
var withoutValues = []string{
	"no such overload", "no such attribute", "division by zero", "modulus by zero", "integer overflow", "unsigned integer overflow",
	"integer divide by zero", "type conversion error from", "unsupported key type", "unsupported index type", "NaN values cannot be ordered",
}

// publicly returns what CEL says about an evaluation as everybody may read it. Objects may be Secrets, and some
// messages quote their values: the expression that cannot be compiled, the text that is no number.
func (g *Gate) publicly(text string) string {
	for _, prefix := range []string{noSuchKey, outOfBounds} {
		if key, ok := strings.CutPrefix(text, prefix); ok {
			if strings.Contains(g.expression, key) {
				return text // as the release says it
			}
			return strings.TrimSuffix(prefix, ": ")
		}
	}
	if slices.ContainsFunc(withoutValues, func(beginning string) bool { return strings.HasPrefix(text, beginning) }) {
		return text
	}
	return "it cannot be evaluated for what the objects have in them"
}

func typeName(v ref.Val) string { return v.Type().TypeName() }

// absent reports whether there is no such object yet, or not even its kind.
func absent(err error) bool {
	return apierrors.IsNotFound(err) || meta.IsNoMatchError(err)
}
