// SPDX-License-Identifier: Apache-2.0

package expression

import (
	"fmt"
	"regexp"
	"regexp/syntax"

	celast "github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/common/operators"
	"github.com/google/cel-go/common/overloads"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	"github.com/google/cel-go/interpreter"
	lru "github.com/hashicorp/golang-lru/v2"
	"k8s.io/apimachinery/pkg/api/resource"
	apiservercel "k8s.io/apiserver/pkg/cel"
)

const (
	// maxPattern bounds a regular expression, in bytes, and maxPatternSize what it
	// is compiled to, in about instructions.
	maxPattern     = 1024
	maxPatternSize = 10_000
	cachedPatterns = 512
	// matchStepsPerStep is how many of these take as long as one of the interpreter.
	matchStepsPerStep = 50
)

// refusedFunctions make out of two short texts one that fills the memory, or look
// for a text at every place of another, letter by letter.
var refusedFunctions = map[string]string{
	"replace":     "compare with contains, startsWith, endsWith or matches instead",
	"indexOf":     "take contains, matches or split instead",
	"lastIndexOf": "take contains, matches or split instead",
}

func refuseFunctions(tree celast.NavigableExpr) error {
	for name, instead := range refusedFunctions {
		if len(celast.MatchDescendants(tree, celast.FunctionMatcher(name))) > 0 {
			return fmt.Errorf("the function %s is not offered: %s", name, instead)
		}
	}
	return nil
}

// guard meters what is evaluated, and puts guarded operations in the place of
// those of CEL.
func guard(node interpreter.InterpretableV2) (interpreter.InterpretableV2, error) {
	switch typed := node.(type) {
	case interpreter.InterpretableAttribute:
		return meteredAttribute{typed}, nil
	case interpreter.InterpretableCall:
		if operation, found := guarded[typed.Function()]; found {
			return guardedCall{typed, operation}, nil
		}
		return meteredCall{typed}, nil
	default:
		return node, nil
	}
}

// guardedCall is an operation that may go deep at once, into a text or into what
// was put together for nothing (a list of the same list over and over). It pays
// before it is done.
type guardedCall struct {
	interpreter.InterpretableCall

	operation func(m *meter, args []ref.Val) ref.Val
}

func (c guardedCall) Exec(frame *interpreter.ExecutionFrame) ref.Val {
	args := make([]ref.Val, len(c.Args()))
	for i, arg := range c.Args() {
		if args[i] = arg.Exec(frame); types.IsUnknownOrError(args[i]) {
			return args[i]
		}
	}
	m := meterOf(frame)
	m.spend(1)
	return types.LabelErrNode(c.ID(), c.operation(m, args))
}

func (c guardedCall) Eval(vars interpreter.Activation) ref.Val {
	return c.Exec(interpreter.AsFrame(vars))
}

var guarded = map[string]func(m *meter, args []ref.Val) ref.Val{
	operators.Equals: equal,
	operators.NotEquals: func(m *meter, args []ref.Val) ref.Val {
		answer := equal(m, args)
		if same, ok := answer.(types.Bool); ok {
			return !same
		}
		return answer
	},
	operators.In: func(m *meter, args []ref.Val) ref.Val {
		container, ok := args[1].(traits.Container)
		if !ok {
			return types.MaybeNoSuchOverloadErr(args[1])
		}
		if _, isMap := args[1].(traits.Mapper); !isMap {
			m.payForComparing(args[1])
		}
		return container.Contains(args[0])
	},
	operators.Add:     join,
	overloads.Matches: match,
	"quantity": func(_ *meter, args []ref.Val) ref.Val {
		quantity, err := parseQuantity(args[0])
		if err != nil {
			return types.WrapErr(err)
		}
		return apiservercel.Quantity{Quantity: &quantity}
	},
	"isQuantity": func(_ *meter, args []ref.Val) ref.Val {
		_, err := parseQuantity(args[0])
		return types.Bool(err == nil)
	},
}

func equal(m *meter, args []ref.Val) ref.Val {
	m.payForComparing(args[0])
	return types.Equal(args[0], args[1])
}

// payForComparing pays for going through all that is in v.
func (m *meter) payForComparing(v ref.Val) {
	m.charge(v)
	switch typed := v.(type) {
	case *types.Optional:
		if typed.HasValue() {
			m.payForComparing(typed.GetValue())
		}
	case traits.Lister:
		for it := typed.Iterator(); it.HasNext() == types.True; {
			m.payForComparing(it.Next())
		}
	case traits.Mapper:
		for it := typed.Iterator(); it.HasNext() == types.True; {
			m.payForComparing(typed.Get(it.Next()))
		}
	}
}

// join makes a list of its own of two: CEL's refers to both, so that one that is
// put together of many takes long to read.
func join(m *meter, args []ref.Val) ref.Val {
	left, isList := args[0].(traits.Lister)
	right, areLists := args[1].(traits.Lister)
	if _, grows := args[0].(traits.MutableLister); isList && areLists && !grows {
		var items []ref.Val
		for _, list := range []traits.Lister{left, right} {
			for it := list.Iterator(); it.HasNext() == types.True; {
				m.spend(1)
				items = append(items, it.Next())
			}
		}
		return types.NewRefValList(types.DefaultTypeAdapter, items)
	}
	adder, ok := args[0].(traits.Adder)
	if !ok {
		return types.MaybeNoSuchOverloadErr(args[0])
	}
	joined := adder.Add(args[1])
	m.charge(joined)
	return joined
}

// match is CEL's matches.
func match(m *meter, args []ref.Val) ref.Val {
	text, ok := args[0].Value().(string)
	if !ok {
		return types.MaybeNoSuchOverloadErr(args[0])
	}
	source, ok := args[1].Value().(string)
	if !ok {
		return types.MaybeNoSuchOverloadErr(args[1])
	}
	compiled, err := compilePattern(source)
	if err != nil {
		return types.WrapErr(err)
	}
	m.spend(uint64((len(text) + 1) * compiled.size / matchStepsPerStep)) //nolint:gosec // a count
	return types.Bool(compiled.MatchString(text))
}

// plausibleQuantity leaves out exponents that take gigabytes to write out.
var plausibleQuantity = regexp.MustCompile(`^[+-]?[0-9.]{1,30}([eE][+-]?[0-9]{1,2}|[numkMGTPE]?i?)$`)

func parseQuantity(text ref.Val) (resource.Quantity, error) {
	s, ok := text.Value().(string)
	if !ok || !plausibleQuantity.MatchString(s) {
		return resource.Quantity{}, resource.ErrFormatWrong
	}
	return resource.ParseQuantity(s)
}

// pattern is a regular expression (RE2), and how large it is compiled: a byte of the
// text may take as many steps.
type pattern struct {
	*regexp.Regexp

	size int
}

var patterns = func() *lru.Cache[string, pattern] {
	cache, err := lru.New[string, pattern](cachedPatterns)
	if err != nil {
		panic("a cache of a positive size cannot fail: " + err.Error())
	}
	return cache
}()

func compilePattern(source string) (pattern, error) {
	if known, found := patterns.Get(source); found {
		return known, nil
	}
	if len(source) > maxPattern {
		return pattern{}, fmt.Errorf("%w: the pattern has more than %d bytes", ErrCost, maxPattern)
	}
	parsed, err := syntax.Parse(source, syntax.Perl)
	if err != nil {
		return pattern{}, err
	}
	// Repetitions are counted before they are written out: x{1000} is a thousand x.
	size := sizeOf(parsed)
	if size > maxPatternSize {
		return pattern{}, fmt.Errorf("%w: the pattern repeats too much", ErrCost)
	}
	compiled, err := regexp.Compile(source)
	if err != nil {
		return pattern{}, err
	}
	patterns.Add(source, pattern{compiled, size})
	return pattern{compiled, size}, nil
}

// sizeOf is about how many instructions an expression is compiled to.
func sizeOf(e *syntax.Regexp) int {
	sum := 1
	if e.Op == syntax.OpLiteral {
		sum = len(e.Rune)
	}
	for _, inner := range e.Sub {
		sum = min(sum+sizeOf(inner), tooLarge)
	}
	if e.Op == syntax.OpRepeat {
		sum = min(sum*max(e.Min, e.Max, 1), tooLarge)
	}
	return sum
}

const tooLarge = 1 << 30
