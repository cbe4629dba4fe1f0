// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"sort"
	"strconv"
	"strings"
)

//go:embed migrations/*.sql
var embeddedMigrations embed.FS

//go:embed bootstrap.sql
var bootstrapSQL string

// migrationFile is one migration as this binary knows it.
type migrationFile struct {
	Version int64
	Name    string
	SHA256  string
	// MinCompatibleBinary is the lowest schema version that a binary must know
	// to work with a database that has this migration.
	MinCompatibleBinary int64
	// NoTransaction marks a file whose statements run one by one, each on its own.
	NoTransaction bool
	Up            string
}

var minCompatiblePattern = regexp.MustCompile(`(?m)^-- min-compatible-binary: (\d+)$`)

// readMigrations returns the migrations of a directory in order.
func readMigrations(dir fs.FS) ([]migrationFile, error) {
	names, err := fs.Glob(dir, "*.sql")
	if err != nil {
		return nil, err
	}
	sort.Strings(names)
	files := make([]migrationFile, 0, len(names))
	for _, name := range names {
		content, err := fs.ReadFile(dir, name)
		if err != nil {
			return nil, err
		}
		file, err := parseMigration(name, string(content))
		if err != nil {
			return nil, err
		}
		files = append(files, file)
	}
	return files, nil
}

func parseMigration(name, content string) (migrationFile, error) {
	number, _, _ := strings.Cut(path.Base(name), "_")
	version, err := strconv.ParseInt(number, 10, 64)
	if err != nil {
		return migrationFile{}, fmt.Errorf("migration %s: its name must begin with a number and an underscore: %w", name, err)
	}
	mark := minCompatiblePattern.FindStringSubmatch(content)
	if mark == nil {
		return migrationFile{}, fmt.Errorf("migration %s: the line `-- min-compatible-binary: N` is missing", name)
	}
	minBinary, err := strconv.ParseInt(mark[1], 10, 64)
	if err != nil {
		return migrationFile{}, fmt.Errorf("migration %s: min-compatible-binary: %w", name, err)
	}
	_, up, _ := strings.Cut(content, "-- +goose Up\n")
	up, _, _ = strings.Cut(up, "-- +goose Down\n")
	noTransaction := strings.Contains(content, "-- +goose NO TRANSACTION\n")
	for _, index := range concurrentIndex.FindAllStringSubmatch(up, -1) {
		if noTransaction && index[1] == "" {
			return migrationFile{}, fmt.Errorf("migration %s: build index %s with IF NOT EXISTS: the file may run again after it was interrupted", name, index[2])
		}
	}
	sum := sha256.Sum256([]byte(content))
	return migrationFile{
		Version: version, Name: name, SHA256: hex.EncodeToString(sum[:]), MinCompatibleBinary: minBinary,
		NoTransaction: noTransaction, Up: strings.TrimSpace(up),
	}, nil
}
