package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"twinhull.dev/twinhull/internal/audit"
	"twinhull.dev/twinhull/internal/oci"
)

// auditLog DIR FILE makes a log of four decisions, and keeps the checkpoint of
// the first two in FILE.
func auditLog(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: auditlog DIR FILE")
	}
	ctx := context.Background()
	l, err := audit.Open(ts.MkAbs(args[0]), audit.Options{Installation: "script"})
	ts.Check(err)
	defer l.Close()
	app := audit.Object{Repository: "team/app", Tag: "1.0.0", Digest: oci.Digest("sha256:" + strings.Repeat("a", 64))}
	for i, e := range []audit.Entry{
		{Action: audit.Release, Verdict: audit.Allowed, Object: app},
		{Action: audit.RefuseDelete, Verdict: audit.Refused, Object: app},
		{Action: audit.Collect, Verdict: audit.Allowed},
		{Action: audit.Revoke, Verdict: audit.Allowed, Object: audit.Object{Repository: app.Repository, Digest: app.Digest}},
	} {
		e.ID, e.Actor = fmt.Sprint("request-", i), audit.Actor{Name: "ci"}
		at, err := l.Append(ctx, e)
		ts.Check(err)
		raw, err := l.Await(ctx, at)
		ts.Check(err)
		if i == 1 {
			ts.Check(os.WriteFile(ts.MkAbs(args[1]), raw, 0o644))
		}
	}
	ts.Check(l.Close())
}

// alter FILE OLD NEW replaces text in a file that is not text.
func alter(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: alter FILE OLD NEW")
	}
	data := ts.ReadFile(args[0])
	if !strings.Contains(data, args[1]) {
		ts.Fatalf("%s does not hold %q", args[0], args[1])
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(strings.ReplaceAll(data, args[1], args[2])), 0o644))
}
