// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/acgs/dgm-operator/internal/pgstore"
)

func newMigrateCommand() *cobra.Command {
	var database databaseFlags
	command := &cobra.Command{
		Use:   "migrate",
		Args:  cobra.NoArgs, // of its own: a command that is misspelled is an error
		RunE:  func(command *cobra.Command, _ []string) error { return command.Help() },
		Short: "Look at and apply the migrations of schema dgm by hand",
		Long:  "The operator applies migrations by itself when it starts; these commands are for looking first, and for going back.",
	}
	database.bind(command.PersistentFlags())
	var failOnDrift bool
	status := migrateCommand(&database, "status", "List every migration and when it was applied, and what in the schema is not as they made it",
		func(command *cobra.Command, migrator *pgstore.Migrator) error {
			return runStatus(command, migrator, failOnDrift)
		})
	status.Flags().BoolVar(&failOnDrift, "fail-on-drift", false, "exit with an error when the live schema is not what the migrations made")
	command.AddCommand(
		status,
		migrateCommand(&database, "plan", "Print the SQL of the migrations that are pending", runPlan),
		migrateCommand(&database, "up", "Apply the migrations that are pending", runUp),
		migrateCommand(&database, "down", "Undo the newest migration; what it added is lost", runDown),
	)
	return command
}

func migrateCommand(database *databaseFlags, use, short string, run func(*cobra.Command, *pgstore.Migrator) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			url, err := database.migrationURL()
			if err != nil {
				return err
			}
			migrator, err := pgstore.NewMigrator(command.Context(), url)
			if err != nil {
				return err
			}
			defer func() { _ = migrator.Close() }()
			return run(command, migrator)
		},
	}
}

func runStatus(command *cobra.Command, migrator *pgstore.Migrator, failOnDrift bool) error {
	migrations, err := migrator.Status(command.Context())
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(command.OutOrStdout(), 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "VERSION\tNAME\tAPPLIED")
	for _, m := range migrations {
		applied := "pending"
		if !m.AppliedAt.IsZero() {
			applied = m.AppliedAt.UTC().Format(time.RFC3339)
		}
		_, _ = fmt.Fprintf(table, "%d\t%s\t%s\n", m.Version, m.Name, applied)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	drift, err := migrator.Drift(command.Context())
	if err != nil {
		return err
	}
	printDrift(command.OutOrStdout(), drift)
	if failOnDrift && drift.Drifted() {
		return errors.New("the live schema is not what the migrations made")
	}
	return nil
}

// printDrift says in plain words what is not as the migrations made it, and how
// to mend it.
func printDrift(w io.Writer, drift pgstore.SchemaDrift) {
	_, _ = fmt.Fprintln(w)
	switch {
	case drift.NotJudged != "":
		_, _ = fmt.Fprintf(w, "drift: not judged: %s\n", drift.NotJudged)
	case !drift.Drifted():
		_, _ = fmt.Fprintln(w, "drift: none: the live schema is what the migrations made")
	default:
		_, _ = fmt.Fprintf(w, "drift: not as the migrations made them (%d)\n", len(drift.Differences))
	}
	for _, d := range drift.Differences {
		if d.Missing {
			_, _ = fmt.Fprintf(w, "  %s is missing\n", d.Object)
		} else {
			_, _ = fmt.Fprintf(w, "  %s was changed\n    expected: %s\n    is:       %s\n", d.Object, d.Expected, d.Actual)
		}
		_, _ = fmt.Fprintf(w, "    mend:     %s\n", d.Mend)
	}
	for _, object := range drift.Extra {
		_, _ = fmt.Fprintf(w, "  of your own, and left alone: %s\n", object)
	}
}

func runPlan(command *cobra.Command, migrator *pgstore.Migrator) error {
	return migrator.Plan(command.Context(), command.OutOrStdout())
}

func runUp(command *cobra.Command, migrator *pgstore.Migrator) error {
	applied, err := migrator.Up(command.Context())
	for _, name := range applied {
		_, _ = fmt.Fprintln(command.OutOrStdout(), "applied", name)
	}
	for _, notice := range migrator.Notices() {
		_, _ = fmt.Fprintln(command.ErrOrStderr(), "notice:", notice)
	}
	if err != nil {
		return err
	}
	built, err := migrator.FinishIndexes(command.Context())
	if built > 0 {
		_, _ = fmt.Fprintf(command.OutOrStdout(), "built %d indexes of partitions\n", built)
	}
	if err == nil && len(applied) == 0 && built == 0 {
		_, _ = fmt.Fprintln(command.OutOrStdout(), "nothing is pending")
	}
	return err
}

func runDown(command *cobra.Command, migrator *pgstore.Migrator) error {
	undone, err := migrator.Down(command.Context())
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintln(command.OutOrStdout(), "undone", undone)
	return nil
}
