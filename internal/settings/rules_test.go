// SPDX-License-Identifier: Apache-2.0

package settings

import (
	"strings"
	"testing"
)

func TestCheckSensitive(t *testing.T) {
	for _, c := range []struct {
		valueType, rules string
		good, bad        []string
	}{
		{TypeString, "", []string{"", "any"}, []string{strings.Repeat("x", maxValue+1)}},
		{TypeInteger, "", []string{"0", "-3", "007", "9223372036854775807"}, []string{"", " 5", "+5", "1.0", "9223372036854775808", "1_000"}},
		{TypeFloat, "", []string{"0.5", ".5", "5.", "1e-3", "-0", "0e-999", "0.000E5", "1e-320", "0." + strings.Repeat("3", 398)},
			[]string{"", "NaN", "Inf", "0x1p4", "1e309", "1_0.5", "1e400", "1e-400", "-1E-400", "1e99999999999", strings.Repeat("1", 401), strings.Repeat("1", 390)}},
		{TypeBoolean, "", []string{"true", "false"}, []string{"", "TRUE", "1"}},
		{TypeJSON, "", []string{"null", `{"a": [1]}`}, []string{"", "{"}},
		{TypeInteger, `{"min": 1, "max": 10}`, []string{"1", "10"}, []string{"0", "11"}},
		{TypeFloat, `{"min": 0.5}`, []string{"0.5"}, []string{"0.49999999999999999999"}},
		{TypeString, `{"min": 1}`, nil, []string{"5"}},
		{TypeString, `{"enum": ["low", "high"]}`, []string{"low"}, []string{"Low"}},
		{TypeInteger, `{"enum": [1, 2]}`, []string{"02"}, []string{"3"}},
		{TypeJSON, `{"enum": [{"a": 1, "b": 2}]}`, []string{`{"b":2,"a":1.0}`}, []string{`{"a":2}`}},
		{TypeString, `{"pattern": "^[a-z]+$"}`, []string{"abc"}, []string{"ab1"}},
		{TypeString, `{"pattern": "(?<=x)"}`, nil, []string{"abc"}}, // Go does not know it: refused
		{TypeString, `{"maxLength": 2}`, []string{"çö"}, []string{"abc"}},
		{TypeString, `[]`, nil, []string{"abc"}},
	} {
		for _, value := range c.good {
			if err := CheckSensitive(value, c.valueType, c.rules); err != nil {
				t.Errorf("%s %s %q: %v", c.valueType, c.rules, value, err)
			}
		}
		for _, value := range c.bad {
			err := CheckSensitive(value, c.valueType, c.rules)
			if err == nil {
				t.Errorf("%s %s %.20q was accepted", c.valueType, c.rules, value)
			} else if len(value) > 2 && strings.Contains(err.Error(), value) {
				t.Errorf("%s %s: the error holds the value: %v", c.valueType, c.rules, err)
			}
		}
	}
}
