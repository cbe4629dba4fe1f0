// SPDX-License-Identifier: Apache-2.0

// Package expression evaluates the CEL expressions that judge an improvement.
// They see what Facts hold and nothing else: no clock, no network, no objects but
// those of the improvement. Whatever they ask for, they end within milliseconds:
// by a limit on their cost, and by guards on the few operations whose price is
// known only when it is paid. It is pure.
package expression
