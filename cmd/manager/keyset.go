// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/acgs/dgm-operator/internal/keyset"
)

const keysetSecretFlag = "keyset-secret"

func bindKeysetSecret(flags *pflag.FlagSet, secret *string) {
	flags.StringVar(secret, keysetSecretFlag, "dgm-system/dgm-operator-keyset",
		"Secret, as namespace/name, with the keys that encrypt rollback bytes and sensitive configurations; the operator makes it when absent")
}

func keysetName(secret string) (types.NamespacedName, error) {
	namespace, name, ok := strings.Cut(secret, "/")
	if !ok || namespace == "" || name == "" {
		return types.NamespacedName{}, fmt.Errorf("--%s=%s: write it as namespace/name", keysetSecretFlag, secret)
	}
	return types.NamespacedName{Namespace: namespace, Name: name}, nil
}

func newKeysetCommand() *cobra.Command {
	var secret string
	command := &cobra.Command{
		Use:   "keyset",
		Args:  cobra.NoArgs, // of its own: a command that is misspelled is an error
		RunE:  func(command *cobra.Command, _ []string) error { return command.Help() },
		Short: "Look at and rotate the encryption keys, as the user of your kubeconfig",
		Long: "Rotating adds a key that encrypts from now on; the older ones stay, to decrypt with. The operator brings sensitive configurations under the\n" +
			"new key within two minutes; stored rollback bytes stay under the key that they were written with.",
	}
	bindKeysetSecret(command.PersistentFlags(), &secret)
	command.AddCommand(
		keysetCommand(&secret, "status", "List the keys; the primary one encrypts", runKeysetStatus),
		keysetCommand(&secret, "rotate", "Add a key and encrypt with it from now on", runKeysetRotate),
	)
	return command
}

func keysetCommand(secret *string, use, short string, run func(*cobra.Command, client.Client, types.NamespacedName) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			name, err := keysetName(*secret)
			if err != nil {
				return err
			}
			config, err := ctrl.GetConfig()
			if err != nil {
				return fmt.Errorf("find the cluster (set KUBECONFIG to the file that says where it is): %w", err)
			}
			c, err := client.New(config, client.Options{})
			if err != nil {
				return fmt.Errorf("reach the cluster: %w", err)
			}
			return run(command, c, name)
		},
	}
}

func runKeysetStatus(command *cobra.Command, c client.Client, name types.NamespacedName) error {
	keys, err := keyset.Keys(command.Context(), c, name)
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(command.OutOrStdout(), 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "KEY\tPRIMARY\tENABLED")
	for _, key := range keys {
		_, _ = fmt.Fprintf(table, "%s\t%t\t%t\n", key.ID, key.Primary, key.Enabled)
	}
	return table.Flush()
}

func runKeysetRotate(command *cobra.Command, c client.Client, name types.NamespacedName) error {
	id, err := keyset.Rotate(context.WithoutCancel(command.Context()), c, c, name)
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintln(command.OutOrStdout(), "key", id, "is the primary one now; back up the Secret", name.String())
	return nil
}
