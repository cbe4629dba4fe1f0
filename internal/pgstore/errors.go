// SPDX-License-Identifier: Apache-2.0

package pgstore

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

var (
	// ErrUnavailable says that nothing was written because the database is away,
	// not migrated, or not ours to write yet. Trying again later is right.
	ErrUnavailable = errors.New("database is not available")
	// ErrDeposed says that another leader writes for this cluster now. Nothing
	// that this one still writes is accepted.
	ErrDeposed = errors.New("another leader has taken over writing to the database")
	// ErrClusterMismatch says that the cluster name belongs to another cluster.
	ErrClusterMismatch = errors.New("cluster name belongs to another cluster")
	// ErrIntegrity says that stored bytes are not what was stored, or are not
	// what is to be stored now.
	ErrIntegrity = errors.New("snapshot integrity")

	// errFenceLost says that the fence is not held by anybody newer, and not by
	// this leader either: the database was restored or edited.
	errFenceLost = errors.New("the database has lost this leader's fence")
	// errServerChanged says that a failover or a restore happened.
	errServerChanged = errors.New("the database server or its timeline changed")
	// errRestored says that tables were restored from a dump or made anew.
	errRestored = errors.New("tables of the database were restored or made anew")
	errStandby  = errors.New("the database is a read-only standby")
	// errNoConstitution: rows must say under which one they were written (P7).
	errNoConstitution = errors.New("no constitution is active: set active on a row of dgm.known_constitutions")
)

// RowError says that the database refuses this object's rows as they are: the
// object must be changed. Its text is safe for a status.
type RowError struct {
	Table, Column, Constraint, Message string
}

func (e *RowError) Error() string {
	var where []string
	for _, part := range []struct{ label, value string }{
		{"table", e.Table}, {"column", e.Column}, {"constraint", e.Constraint},
	} {
		if part.value != "" {
			where = append(where, part.label+" "+part.value)
		}
	}
	if len(where) == 0 {
		return "the database refuses the row: " + e.Message
	}
	return fmt.Sprintf("the database refuses the row (%s): %s", strings.Join(where, ", "), e.Message)
}

func newRowError(e *pgconn.PgError) *RowError {
	return &RowError{Table: e.TableName, Column: e.ColumnName, Constraint: e.ConstraintName, Message: fmt.Sprintf("%.200s", e.Message)}
}

// failure is what an error of a write transaction asks for.
type failure int

const (
	failureOther      failure = iota // give up the session and begin again
	failureRow                       // one of the rows is at fault: find it
	failureContention                // the same again, on the same connection
	failureConnection                // the same again, on a new connection
	failureSchema                    // schema or rights do not fit: wait for a person
)

// rowClasses are the classes of SQLSTATE that one row's content can cause:
// cardinality, data, constraints, check options, unsupported, limits (a name too
// long for an index) and what triggers raise.
var rowClasses = []string{"21", "22", "23", "44", "0A", "54", "P0"}

func classify(err error) failure {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) {
		return failureConnection
	}
	code := pgErr.Code
	switch {
	case code == "40001", code == "40P01", code == "55P03", code == "57014":
		return failureContention
	case strings.HasPrefix(code, "53"), strings.HasPrefix(code, "57P0"), strings.HasPrefix(code, "08"), code == "25006":
		return failureConnection
	case slices.Contains(rowClasses, code[:min(2, len(code))]):
		return failureRow
	case strings.HasPrefix(code, "42"):
		return failureSchema
	}
	return failureOther
}

func rowErrorOf(err error) *pgconn.PgError {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && classify(err) == failureRow {
		return pgErr
	}
	return nil
}

// reason is the short form of an error for conditions: the same text each time
// the same thing goes wrong, and never an address with a password.
func reason(err error) string {
	var pgErr *pgconn.PgError
	var dnsErr *net.DNSError
	var rights *rightsError
	var locked *lockedError
	var unreadable pgx.ScanArgError
	if why := tlsReason(err); why != "" {
		return why
	}
	switch {
	case errors.As(err, &rights):
		return rights.Error()
	case errors.As(err, &locked):
		return locked.Error()
	case errors.As(err, &pgErr):
		return fmt.Sprintf("%s (SQLSTATE %s)", pgErr.Message, pgErr.Code)
	case errors.Is(err, ErrClusterMismatch), errors.Is(err, ErrIncompatible), errors.Is(err, ErrDeposed),
		errors.Is(err, errFenceLost), errors.Is(err, errServerChanged), errors.Is(err, errRestored), errors.Is(err, errStandby), errors.Is(err, errURL),
		errors.Is(err, errNoConstitution):
		return err.Error()
	case errors.As(err, &unreadable):
		return fmt.Sprintf("it holds a value that cannot be read, in what is selected as %s", unreadable.FieldName)
	case errors.As(err, &dnsErr):
		return "its host name cannot be resolved"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "it refuses connections"
	case errors.Is(err, context.DeadlineExceeded):
		return "it does not answer in time"
	}
	return "the connection to it failed"
}

func unavailable(why string) error { return fmt.Errorf("%w: %s", ErrUnavailable, why) }

// tlsReason says what is wrong with the server's certificate; empty when that is
// not what went wrong.
func tlsReason(err error) string {
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &unknown):
		return "its certificate is not signed by a CA that is trusted: name the file with the CA's certificate in the URL, sslrootcert=FILE"
	case errors.As(err, &host):
		return fmt.Sprintf("its certificate is not for the host %s of the URL, but for %s", host.Host, certificateHosts(host.Certificate))
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Sprintf("its certificate, or that of its CA, is valid from %s to %s only",
			invalid.Cert.NotBefore.UTC().Format(time.RFC3339), invalid.Cert.NotAfter.UTC().Format(time.RFC3339))
	case errors.As(err, &invalid):
		return "its certificate is not valid: " + invalid.Error()
	case err != nil && strings.Contains(err.Error(), "server refused TLS connection"):
		return "it does not speak TLS, which the sslmode of the URL asks for: set ssl = on there"
	}
	return ""
}

func certificateHosts(c *x509.Certificate) string {
	hosts := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		hosts = append(hosts, ip.String())
	}
	if len(hosts) == 0 {
		return "none"
	}
	return strings.Join(hosts, ", ")
}
