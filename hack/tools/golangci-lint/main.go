// Copyright 2026 The DGM operator authors.
// SPDX-License-Identifier: Apache-2.0

// Command golangci-lint is golangci-lint with the Kubernetes API linter compiled in.
// The usual way to add it, `golangci-lint custom`, clones a git repository; this needs only the Go module proxy.
package main

import (
	"fmt"
	"os"
	"runtime/debug"
	"strings"

	"github.com/golangci/golangci-lint/v2/pkg/commands"
	"github.com/golangci/golangci-lint/v2/pkg/exitcodes"

	_ "sigs.k8s.io/kube-api-linter"
)

const golangciModule = "github.com/golangci/golangci-lint/v2"

func main() {
	if err := commands.Execute(buildInfo()); err != nil {
		fmt.Fprintf(os.Stderr, "golangci-lint: %v\n", err)
		os.Exit(exitcodes.Failure)
	}
}

// buildInfo reports the version of the golangci-lint module that is linked in, not that of this module.
func buildInfo() commands.BuildInfo {
	info := commands.BuildInfo{Version: "unknown", Commit: "unknown", Date: "unknown"}
	build, ok := debug.ReadBuildInfo()
	if !ok {
		return info
	}
	info.GoVersion = build.GoVersion
	for _, dep := range build.Deps {
		if dep.Path == golangciModule {
			info.Version, info.Commit = strings.TrimPrefix(dep.Version, "v"), dep.Sum
		}
	}
	return info
}
