// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	"strings"
	"time"
)

// Duration is a time span like "90s", "2m" or "1h30m". It is kept as it was
// written: a GitOps tool sees no difference, and one that cannot be read spoils
// no list of objects.
//
// +kubebuilder:validation:MinLength=2
// +kubebuilder:validation:MaxLength=32
// +kubebuilder:validation:Pattern=`^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$`
type Duration string

// Or is the time span, or what it is when nothing was said.
func (d Duration) Or(unsaid time.Duration) time.Duration {
	parsed, err := time.ParseDuration(string(d))
	if err != nil {
		return unsaid
	}
	return parsed
}

// FormatDuration is a time span for people, without the units that are 0: "2m"
// for what time.Duration shows as "2m0s".
func FormatDuration(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
