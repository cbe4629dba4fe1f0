package snapshot

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"reflect"

	kjson "sigs.k8s.io/json"
)

// Value is one JSON value in canonical form.
type Value json.RawMessage

// MarshalJSON returns the value itself.
func (v Value) MarshalJSON() ([]byte, error) {
	return json.RawMessage(v).MarshalJSON()
}

// UnmarshalJSON reads any JSON value and makes it canonical.
func (v *Value) UnmarshalJSON(data []byte) error {
	canonical, err := recode(data)
	if err != nil {
		return err
	}
	*v = canonical
	return nil
}

// maybe is a value that can be absent, which differs from being null.
type maybe struct {
	value   any
	present bool
}

func some(value any) maybe { return maybe{value: value, present: true} }

func (m maybe) equal(o maybe) bool {
	return m.present == o.present && reflect.DeepEqual(m.value, o.value)
}

// pointer encodes a decoded, and so normal, value.
func (m maybe) pointer() (*Value, error) {
	if !m.present {
		return nil, nil
	}
	canonical, err := json.Marshal(m.value)
	if err != nil {
		return nil, err
	}
	value := Value(canonical)
	return &value, nil
}

func (v *Value) maybe() (maybe, error) {
	if v == nil {
		return maybe{}, nil
	}
	decoded, err := decode(*v)
	if err != nil {
		return maybe{}, err
	}
	return some(decoded), nil
}

// Canonical returns the one JSON form of a value: keys sorted, no white space, numbers in their shortest form
// (1.0 is 1) and HTML characters escaped, as the API server itself writes JSON, so that what was stored in an
// object reads back byte for byte.
func Canonical(value any) ([]byte, error) {
	data, err := json.Marshal(value)
	if err != nil {
		return nil, fmt.Errorf("encode as JSON: %w", err)
	}
	return recode(data)
}

// Digest returns the SHA-256 of canonical bytes in lower-case hexadecimal.
func Digest(canonical []byte) string {
	sum := sha256.Sum256(canonical)
	return hex.EncodeToString(sum[:])
}

func recode(data []byte) ([]byte, error) {
	value, err := decode(data)
	if err != nil {
		return nil, err
	}
	out, err := json.Marshal(value)
	if err != nil {
		return nil, fmt.Errorf("encode as JSON: %w", err)
	}
	return out, nil
}

// decode reads one JSON value; whole numbers become int64 where they fit, as in unstructured objects.
func decode(data []byte) (any, error) {
	var value any
	if err := kjson.UnmarshalCaseSensitivePreserveInts(data, &value); err != nil {
		return nil, fmt.Errorf("decode JSON: %w", err)
	}
	return settleNumbers(value), nil
}

// settleNumbers turns floats that are written as whole numbers (1.0, 1e3) into integers, so that equal numbers are
// equal values.
func settleNumbers(value any) any {
	switch typed := value.(type) {
	case map[string]any:
		for key, item := range typed {
			typed[key] = settleNumbers(item)
		}
	case []any:
		for i, item := range typed {
			typed[i] = settleNumbers(item)
		}
	case float64:
		return settleFloat(typed)
	}
	return value
}

func settleFloat(number float64) any {
	text, err := json.Marshal(number)
	if err != nil || bytes.ContainsAny(text, ".eE") {
		return number
	}
	var settled any
	if err := kjson.UnmarshalCaseSensitivePreserveInts(text, &settled); err != nil {
		return number
	}
	return settled
}

// normalize returns a deep copy in which equal values are deeply equal.
func normalize(object map[string]any) (map[string]any, error) {
	data, err := json.Marshal(object)
	if err != nil {
		return nil, fmt.Errorf("encode the object as JSON: %w", err)
	}
	value, err := decode(data)
	if err != nil {
		return nil, err
	}
	normal, ok := value.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("the object is empty")
	}
	return normal, nil
}

// clone copies a decoded JSON value.
func clone(value any) any {
	switch typed := value.(type) {
	case map[string]any:
		out := make(map[string]any, len(typed))
		for key, item := range typed {
			out[key] = clone(item)
		}
		return out
	case []any:
		out := make([]any, len(typed))
		for i, item := range typed {
			out[i] = clone(item)
		}
		return out
	}
	return value
}
