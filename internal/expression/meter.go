// SPDX-License-Identifier: Apache-2.0

package expression

import (
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	"github.com/google/cel-go/interpreter"
)

// CEL's own accounting searches a stack that grows with every turn of a loop, so
// that a million steps take minutes instead of milliseconds (cel-go v0.29,
// interpreter/runtimecost.go). This one counts: a step for each call and each
// variable that is looked at, and one for every bytesPerStep of a text.
const bytesPerStep = 16

// meterName is a variable that no expression can name.
const meterName = "#meter"

type meter struct {
	spent, limit uint64
}

func (m *meter) charge(value ref.Val) {
	length := 0
	switch typed := value.(type) {
	case types.String:
		length = len(typed)
	case types.Bytes:
		length = len(typed)
	}
	m.spend(1 + uint64(length/bytesPerStep)) //nolint:gosec // a length
}

func (m *meter) spend(steps uint64) {
	m.spent += steps
	if m.spent > m.limit {
		panic(interpreter.EvalCancelledError{Cause: interpreter.CostLimitExceeded, Message: ErrCost.Error()}) // the program recovers it
	}
}

func meterOf(vars interpreter.Activation) *meter {
	found, _ := vars.ResolveName(meterName)
	m, ok := found.(*meter)
	if !ok {
		panic("an expression is evaluated without a meter")
	}
	return m
}

type meteredCall struct{ interpreter.InterpretableCall }

func (c meteredCall) Exec(frame *interpreter.ExecutionFrame) ref.Val {
	value := c.InterpretableCall.Exec(frame)
	m := meterOf(frame)
	m.charge(value)
	if list, ok := value.(traits.Lister); ok { // that it was made of: split
		if size, ok := list.Size().(types.Int); ok {
			m.spend(uint64(size)) //nolint:gosec // a length
		}
	}
	return value
}

func (c meteredCall) Eval(vars interpreter.Activation) ref.Val {
	return c.Exec(interpreter.AsFrame(vars))
}

type meteredAttribute struct {
	interpreter.InterpretableAttribute
}

func (a meteredAttribute) Exec(frame *interpreter.ExecutionFrame) ref.Val {
	value := a.InterpretableAttribute.Exec(frame)
	meterOf(frame).charge(value)
	return value
}

func (a meteredAttribute) Eval(vars interpreter.Activation) ref.Val {
	return a.Exec(interpreter.AsFrame(vars))
}
