// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
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
