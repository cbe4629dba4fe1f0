// SPDX-License-Identifier: Apache-2.0

package expression

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/google/cel-go/cel"
	celast "github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/ext"
	"github.com/google/cel-go/interpreter"
	lru "github.com/hashicorp/golang-lru/v2"
	"k8s.io/apiserver/pkg/cel/library"
)

// Limits of the cost of one expression: of those that users write, and of those of
// the platform. A million steps take some tenths of a second.
const (
	UserLimit     = 300_000
	PlatformLimit = 20_000_000
)

const (
	// deadline ends what the cost limit has not.
	deadline = 5 * time.Second
	// interruptEvery is how many turns of a comprehension go by unasked.
	interruptEvery = 100
	// maxNesting bounds comprehensions within comprehensions.
	maxNesting = 3
	// cachedPrograms bounds the memory of the compiled.
	cachedPrograms = 512
)

// ErrCost marks an expression that asked for more than its limits allow.
var ErrCost = errors.New("it costs more than the limit")

// Language compiles expressions under a limit. It is safe for concurrent use.
type Language struct {
	env      *cel.Env
	limit    uint64
	programs *lru.Cache[string, *Expression]
}

// New makes a language whose expressions may cost limit steps each.
func New(limit uint64) (*Language, error) {
	options := []cel.EnvOption{
		cel.StdLib(),
		cel.OptionalTypes(cel.OptionalTypesVersion(0)),
		// Without optMap and optFlatMap: each writes its operand out twice, so that
		// sixteen in a row are 65,536 before anything could be counted.
		cel.ClearMacros(), cel.Macros(cel.StandardMacros...),
		ext.Strings(ext.StringsVersion(0)),
		library.Quantity(),
		cel.CrossTypeNumericComparisons(true),
		cel.DefaultUTCTimeZone(true),
		cel.ASTValidators(
			cel.ValidateDurationLiterals(), cel.ValidateTimestampLiterals(), cel.ValidateRegexLiterals(),
			cel.ValidateComprehensionNestingLimit(maxNesting),
		),
	}
	for _, name := range Variables() {
		options = append(options, cel.Variable(name, types.DynType))
	}
	environment, err := cel.NewCustomEnv(options...)
	if err != nil {
		return nil, fmt.Errorf("make the CEL environment: %w", err)
	}
	programs, err := lru.New[string, *Expression](cachedPrograms)
	if err != nil {
		return nil, err
	}
	return &Language{env: environment, limit: limit, programs: programs}, nil
}

// Expression is one that was compiled.
type Expression struct {
	program cel.Program
	tree    celast.NavigableExpr
	limit   uint64
}

// Compile checks an expression without evaluating it; a later call with the same
// text costs nothing. Its errors show where in the text.
func (l *Language) Compile(source string) (*Expression, error) {
	if known, found := l.programs.Get(source); found {
		return known, nil
	}
	checked, issues := l.env.Compile(source)
	if issues.Err() != nil {
		return nil, issues.Err()
	}
	if out := checked.OutputType(); !out.IsExactType(types.BoolType) && !out.IsExactType(types.DynType) {
		return nil, fmt.Errorf("it is of type %s, and must be true or false", out)
	}
	tree := celast.NavigateAST(checked.NativeRep())
	if err := refuseFunctions(tree); err != nil {
		return nil, err
	}
	program, err := l.env.Program(checked,
		cel.InterruptCheckFrequency(interruptEvery),
		cel.CustomDecoratorV2(guard),
	)
	if err != nil {
		return nil, err
	}
	expression := &Expression{program: program, tree: tree, limit: l.limit}
	l.programs.Add(source, expression)
	return expression, nil
}

// Holds evaluates an expression and returns what it cost. Any other answer than
// true or false is an error, ErrCost among them: no verdict.
func (e *Expression) Holds(ctx context.Context, facts Facts) (holds bool, cost uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	metered := maps.Clone(facts)
	m := &meter{limit: e.limit}
	metered[meterName] = m
	value, _, err := e.program.ContextEval(ctx, map[string]any(metered))
	var cancelled interpreter.EvalCancelledError
	switch {
	case errors.As(err, &cancelled):
		return false, m.spent, fmt.Errorf("%w of %d", ErrCost, e.limit)
	case ctx.Err() != nil:
		return false, m.spent, fmt.Errorf("%w: it does not end within %s", ErrCost, deadline)
	case err != nil:
		return false, m.spent, err
	}
	holds, ok := value.Value().(bool)
	if !ok {
		return false, m.spent, fmt.Errorf("it is of type %s, and must be true or false", value.Type().TypeName())
	}
	return holds, m.spent, nil
}
