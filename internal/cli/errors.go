package cli

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"syscall"
	"unicode"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// Exit codes. A caller may treat every code but Done as a refusal.
const (
	Done      = 0
	Failed    = 1 // refused, a check or the work failed
	Misused   = 2 // the command line is wrong; nothing was begun
	Undecided = 3 // could not decide: what was needed to answer was not there
)

// Error is an error with an exit code and what to do next. Errors of other
// packages need no Error around them: they exit with Failed, and lines of their
// text that begin with "hint: " are shown as hints.
type Error struct {
	Code int
	Err  error  // nil for a code without a word, as the exit code of what was run
	Hint string // what to do next; "" for nothing useful
}

func (e *Error) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("exit code %d", e.Code)
	}
	return e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }

// WithHint returns the error with a hint.
func (e *Error) WithHint(format string, args ...any) *Error {
	c := *e
	c.Hint = fmt.Sprintf(format, args...)
	return &c
}

// Usagef is an error of the one who typed: exit code Misused.
func Usagef(format string, args ...any) *Error {
	return &Error{Code: Misused, Err: fmt.Errorf(format, args...)}
}

// Refusedf is a clear no: exit code Failed.
func Refusedf(format string, args ...any) *Error {
	return &Error{Code: Failed, Err: fmt.Errorf(format, args...)}
}

// Undecidedf is neither yes nor no: exit code Undecided.
func Undecidedf(format string, args ...any) *Error {
	return &Error{Code: Undecided, Err: fmt.Errorf(format, args...)}
}

// Status ends the program with the code of a command that it ran, saying
// nothing: the command has said what there was to say.
func Status(code int) error {
	if code == 0 {
		return nil
	}
	return &Error{Code: code}
}

// Interrupted is the cause of a context that a signal cancelled.
type Interrupted struct{ Signal os.Signal }

func (i Interrupted) Error() string { return "interrupted" }

// exitCode is the one place where an error becomes an exit code.
func exitCode(ctx context.Context, err error) int {
	var e *Error
	stop, stopped := errors.AsType[Interrupted](context.Cause(ctx))
	switch {
	case err == nil:
		return Done
	// Whatever failed while the program was being stopped failed because of it.
	case stopped && stop.Signal == syscall.SIGTERM:
		return 128 + int(syscall.SIGTERM)
	case stopped:
		return 128 + int(syscall.SIGINT)
	case errors.As(err, &e):
		return e.Code
	default:
		return Failed
	}
}

// printError writes "error: …" and "hint: …" lines. An error that joins several
// (errors.Join, project.Errors) is written as several.
func printError(w io.Writer, err error) {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		all := joined.Unwrap()
		// Something like fmt.Errorf("%w … %w") says more than its parts.
		parts := make([]string, len(all))
		for i, e := range all {
			parts[i] = e.Error()
		}
		if len(all) > 0 && err.Error() == strings.Join(parts, "\n") {
			for _, e := range all {
				printError(w, e)
			}
			return
		}
	}
	e, typed := errors.AsType[*Error](err)
	if typed && e.Err == nil {
		return
	}
	var hints []string
	prefix := "error: "
	for text := range strings.SplitSeq(printable(err.Error()), "\n") {
		if hint, ok := strings.CutPrefix(strings.TrimSpace(text), "hint: "); ok {
			hints = append(hints, hint)
			continue
		}
		fmt.Fprintln(w, prefix+text)
		prefix = ""
	}
	if typed && e.Hint != "" {
		hints = append(hints, printable(e.Hint))
	}
	if hint := registryHint(err); hint != "" && len(hints) == 0 {
		hints = append(hints, hint)
	}
	for _, hint := range hints {
		fmt.Fprintln(w, "hint: "+hint)
	}
}

// registryHint is what to do about an error of speaking to a registry, or "".
// The library's own words are a status and a failed handshake.
func registryHint(err error) string {
	answer, answered := errors.AsType[*transport.Error](err)
	_, unknown := errors.AsType[x509.UnknownAuthorityError](err)
	switch {
	case unknown:
		return "the registry's certificate leads to no authority that this machine knows: install it there, or name its PEM file in SSL_CERT_FILE"
	case errors.Is(err, http.ErrSchemeMismatch):
		return "the registry has no TLS: only one on a loopback address may be without"
	case answered && answer.StatusCode == http.StatusUnauthorized:
		return "sign in: `podman login HOST` or `docker login HOST`; a file elsewhere than where they keep it is named by REGISTRY_AUTH_FILE"
	case answered && answer.StatusCode == http.StatusForbidden:
		return "who is signed in may not do that there: the registry's operator grants it (`access.grants` of a server of this program)"
	}
	return ""
}

// printable takes out what could move a terminal's cursor: errors quote names
// that come from archives and servers.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n', r == '\t', unicode.IsPrint(r):
			return r
		case r == '\r':
			return -1
		}
		return unicode.ReplacementChar
	}, strings.TrimRight(s, "\n"))
}
