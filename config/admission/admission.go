// SPDX-License-Identifier: Apache-2.0

// Package admission carries the admission policies that are installed with the
// operator, so that it can tell whether those in the cluster are the same.
package admission

import _ "embed"

// ServiceAccountPolicy is the manifest, in YAML, of the policy that lets only
// those name a ServiceAccount who may impersonate it, and of its binding.
//
//go:embed serviceaccount.yaml
var ServiceAccountPolicy []byte

// SandboxPolicy is the manifest, in YAML, of the policy that keeps the operator's
// right to make namespaces to sandboxes, and of its binding.
//
//go:embed sandbox.yaml
var SandboxPolicy []byte

// ApprovalPolicy is the manifest, in YAML, of the policy that lets only those approve
// a plan who have the verb approve, and of its binding.
//
//go:embed approval.yaml
var ApprovalPolicy []byte
