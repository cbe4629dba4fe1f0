// SPDX-License-Identifier: Apache-2.0

package settings

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Types of a system configuration, as value_type names them.
const (
	TypeString  = "string"
	TypeInteger = "integer"
	TypeFloat   = "float"
	TypeBoolean = "boolean"
	TypeJSON    = "json"
)

// maxValue bounds a value, in bytes; the database has the same bound.
const maxValue = 1 << 20

// rules are what a value must satisfy; the form of validation_rules.
type rules struct {
	Min       *json.Number      `json:"min"`
	Max       *json.Number      `json:"max"`
	Enum      []json.RawMessage `json:"enum"`
	Pattern   *string           `json:"pattern"`
	MaxLength *int              `json:"maxLength"`
}

// CheckSensitive says whether a value is of a type and satisfies rules, each a
// JSON document or empty. The database judges every other value, by the same
// rules; a sensitive one must not even pass through its log. Errors never hold
// the value. A pattern that Go does not know is a refusal.
func CheckSensitive(value, valueType string, documents ...string) error {
	if err := checkType(value, valueType); err != nil {
		return err
	}
	for _, document := range documents {
		if document == "" {
			continue
		}
		var r rules
		if err := json.Unmarshal([]byte(document), &r); err != nil {
			return fmt.Errorf("the rules for it cannot be read: %w", err)
		}
		if err := r.check(value, valueType); err != nil {
			return err
		}
	}
	return nil
}

var decimal = regexp.MustCompile(`^-?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]{1,3})?$`)

func checkType(value, valueType string) error {
	if len(value) > maxValue {
		return fmt.Errorf("the value has more than %d bytes", maxValue)
	}
	ok := true
	switch valueType {
	case TypeInteger:
		_, err := strconv.ParseInt(value, 10, 64)
		ok = err == nil && value[0] != '+'
	case TypeFloat:
		number, err := strconv.ParseFloat(value, 64)
		ok = err == nil && len(value) <= 400 && decimal.MatchString(value) && (number != 0 || isZero(value))
	case TypeBoolean:
		ok = value == "true" || value == "false"
	case TypeJSON:
		ok = json.Valid([]byte(value))
	}
	if !ok && valueType == TypeFloat {
		return errors.New("the value is not of type float: it must be a finite decimal that 64 bits can hold, of at most 400 characters")
	}
	if !ok {
		return fmt.Errorf("the value is not of type %s", valueType)
	}
	return nil
}

// isZero tells a zero from a decimal that is too small for 64 bits, which
// PostgreSQL does not take for one.
func isZero(decimal string) bool {
	mantissa, _, _ := strings.Cut(strings.ToLower(decimal), "e")
	return !strings.ContainsAny(mantissa, "123456789")
}

func (r rules) check(value, valueType string) error {
	if r.MaxLength != nil && utf8.RuneCountInString(value) > *r.MaxLength {
		return fmt.Errorf("the value has more than maxLength %d characters", *r.MaxLength)
	}
	if r.Pattern != nil {
		pattern, err := regexp.Compile(*r.Pattern)
		if err != nil {
			return fmt.Errorf("the pattern of its rules cannot be applied to a sensitive value: %w", err)
		}
		if !pattern.MatchString(value) {
			return fmt.Errorf("the value does not match the pattern %q", *r.Pattern)
		}
	}
	if r.Enum != nil && !slices.ContainsFunc(r.Enum, func(item json.RawMessage) bool { return allows(item, value, valueType) }) {
		return fmt.Errorf("the value is none of the %d that enum allows", len(r.Enum))
	}
	return r.checkRange(value, valueType)
}

func (r rules) checkRange(value, valueType string) error {
	if r.Min == nil && r.Max == nil {
		return nil
	}
	number := rational(value)
	if number == nil || (valueType != TypeInteger && valueType != TypeFloat) {
		return fmt.Errorf("its rules have min or max, which the type %s does not know", valueType)
	}
	for _, bound := range []struct {
		name  string
		value *json.Number
		sign  int
	}{{"min", r.Min, -1}, {"max", r.Max, 1}} {
		if bound.value == nil {
			continue
		}
		limit := rational(bound.value.String())
		if limit == nil || number.Cmp(limit) == bound.sign {
			return fmt.Errorf("the value is beyond %s %s", bound.name, bound.value)
		}
	}
	return nil
}

// allows compares as the database does: numbers by value, JSON by content.
func allows(item json.RawMessage, value, valueType string) bool {
	if valueType == TypeJSON {
		var a, b any
		return json.Unmarshal(item, &a) == nil && json.Unmarshal([]byte(value), &b) == nil && reflect.DeepEqual(a, b)
	}
	if valueType == TypeInteger || valueType == TypeFloat {
		a, b := rational(string(item)), rational(value)
		return a != nil && b != nil && a.Cmp(b) == 0
	}
	var text string
	if json.Unmarshal(item, &text) != nil {
		text = string(item)
	}
	return text == value
}

// rational is a decimal exactly; nil when it is none, or has an exponent that
// would take gigabytes to write out.
func rational(text string) *big.Rat {
	if len(text) > 400 || !decimal.MatchString(text) {
		return nil
	}
	r, ok := new(big.Rat).SetString(text)
	if !ok {
		return nil
	}
	return r
}
