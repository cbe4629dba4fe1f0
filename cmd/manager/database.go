// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

// databaseFlags name the files that hold the database's URLs. Files, so that no
// password is in an argument or in the environment, and a new one is taken up
// at the next connection.
type databaseFlags struct {
	urlFile, migrationURLFile string
}

func (f *databaseFlags) bind(flags *pflag.FlagSet) {
	flags.StringVar(&f.urlFile, "database-url-file", "/etc/dgm/database/url",
		"file with the URL of the PostgreSQL database, like postgres://user:password@host:5432/dgm?sslmode=verify-full")
	flags.StringVar(&f.migrationURLFile, "migration-url-file", "",
		"file with a direct, unpooled URL of the same database, for migrations; a missing file means the one of --database-url-file")
}

// analyticsFlags name the read replica that answers the analytics, if there is one.
type analyticsFlags struct {
	urlFile string
	maxLag  time.Duration
}

func (f *analyticsFlags) bind(flags *pflag.FlagSet) {
	flags.StringVar(&f.urlFile, "analytics-url-file", "",
		"file with the URL of a streaming replica of the database, which the questions of the analytics are asked of; a missing file means the database itself")
	flags.DurationVar(&f.maxLag, "analytics-max-lag", 30*time.Second, "how far that replica may be behind; beyond, the database itself is asked")
}

// url returns an error that is fs.ErrNotExist when there is no replica.
func (f *analyticsFlags) url() (string, error) {
	if f.urlFile == "" {
		return "", fs.ErrNotExist
	}
	return readURL(f.urlFile)
}

// url is the run-time URL.
func (f *databaseFlags) url() (string, error) {
	url, err := readURL(f.urlFile)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%w: write the database's URL into it, or name another file with --database-url-file", err)
	}
	return url, err
}

// migrationURL is the URL for migrations.
func (f *databaseFlags) migrationURL() (string, error) {
	if f.migrationURLFile == "" {
		return f.url()
	}
	url, err := readURL(f.migrationURLFile)
	if errors.Is(err, fs.ErrNotExist) {
		return f.url()
	}
	return url, err
}

func readURL(file string) (string, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	url := strings.TrimSpace(string(content))
	if url == "" {
		return "", fmt.Errorf("%s is empty: write the database's URL into it", file)
	}
	return url, nil
}
