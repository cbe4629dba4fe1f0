// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

func TestCommandsThatCannotRunSayWhatToDo(t *testing.T) {
	t.Setenv("KUBECONFIG", "/nowhere/kubeconfig")
	for _, test := range []struct {
		command *cobra.Command
		args    []string
		says    string
	}{
		{newMigrateCommand(), []string{"staus"}, `unknown command "staus"`},
		{newKeysetCommand(), []string{"rotat"}, `unknown command "rotat"`},
		{newMigrateCommand(), []string{"status", "--database-url-file", "/nowhere/url"}, "write the database's URL into it, or name another file with --database-url-file"},
		{newMigrateCommand(), []string{"status", "--database-url-file", "/dev/null"}, "is empty"},
		{newKeysetCommand(), []string{"status", "--keyset-secret", "keyset"}, "write it as namespace/name"},
		{newKeysetCommand(), []string{"status"}, "set KUBECONFIG"},
	} {
		test.command.SetArgs(test.args)
		test.command.SetOut(io.Discard)
		test.command.SilenceUsage, test.command.SilenceErrors = true, true
		if err := test.command.Execute(); err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s %q = %v, want it to say %q", test.command.Use, test.args, err, test.says)
		}
	}
}
