package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"twinhull.dev/twinhull/internal/audit"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/registry"
	"twinhull.dev/twinhull/internal/registry/catalog"
)

// CheckOptions says how much is checked.
type CheckOptions struct {
	Shallow bool              // blobs are looked for, not read
	Mend    bool              // repair what can be repaired without losing anything that is needed
	Passed  func(bytes int64) // how much was read; only when no server runs
}

// The problems that only the log and the store together show.
const (
	// MissingDecision is an entry of the audit log whose effect the store does not
	// have: the store is older than the log.
	MissingDecision = "missing-decision"
	// UnloggedDecision is the opposite: the log is older than the store, or is
	// another one.
	UnloggedDecision = "unlogged-decision"
	// DamagedRecords is what the store itself finds in its file.
	DamagedRecords = "damaged-records"
)

// CheckStore proves the store of a configuration: every blob hashes, every
// reference resolves, nothing is left over, and the store and the audit log agree.
// A server that runs is asked to do it; else the store is opened as a server would
// open it, which finishes what a crash has left.
func CheckStore(ctx context.Context, c Config, opt Options, o CheckOptions) (*registry.Checked, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	out := new(registry.Checked)
	err := ask(ctx, c.Data, "check", checkRequest{o.Shallow, o.Mend}, out)
	if err == nil {
		return out, nil
	}
	if !errors.Is(err, errNoServer) {
		return nil, err
	}
	s, err := openStopped(ctx, c, opt)
	if err != nil {
		return nil, err
	}
	out, err = s.check(ctx, o)
	return out, errors.Join(err, s.Close())
}

// openStopped opens what is there, without serving, and makes nothing where
// nothing is: a folder that was mistyped is no empty registry.
func openStopped(ctx context.Context, c Config, opt Options) (_ *Server, err error) {
	if !c.Storage.Postgres.used() {
		if _, err := os.Stat(filepath.Join(c.Data, "store", "records.db")); errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("there is no registry in %s", c.Data)
		}
	}
	if _, err := os.Stat(filepath.Join(c.logDir(), "checkpoint")); !c.Audit.Elsewhere && errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no audit log in %s", c.logDir())
	}
	s := newServer(c, opt)
	if err := s.openCore(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Server) check(ctx context.Context, o CheckOptions) (*registry.Checked, error) {
	done, err := s.oneAtATime()
	if err != nil {
		return nil, err
	}
	defer done()
	var problems []registry.Problem
	if err := s.store.check(ctx); err != nil {
		if ctx.Err() != nil {
			return nil, err
		}
		problems = append(problems, registry.Problem{Kind: DamagedRecords, Detail: err.Error()})
	}
	out, err := s.reg.Check(ctx, registry.CheckOptions{Shallow: o.Shallow, Mend: o.Mend, Passed: o.Passed})
	if err != nil {
		return out, err
	}
	more, err := s.compareLog(ctx)
	if err != nil {
		return out, fmt.Errorf("comparing the store with the audit log: %w", err)
	}
	out.Problems = append(append(problems, out.Problems...), more...)
	return out, nil
}

// compareLog holds the store against the log, in both directions.
func (s *Server) compareLog(ctx context.Context) (out []registry.Problem, err error) {
	if s.audit == nil {
		return nil, nil
	}
	type version struct{ repository, version string }
	logged := map[version]oci.Digest{}
	at := map[version]uint64{}
	revoked := map[oci.Digest]map[string]uint64{}
	erased := map[version]bool{}
	size, err := s.audit.Size(ctx)
	if err != nil {
		return nil, err
	}
	err = s.entries(ctx, 0, func(i uint64, e audit.Entry) error {
		o := e.Object
		if e.Verdict != audit.Allowed || o.Repository == "" {
			return nil
		}
		// A release to another registry has its host in the name.
		if ref, err := oci.ParseRef(o.Repository); err == nil && ref.Kind == oci.RegistryRef && ref.Host+"/"+ref.Name == o.Repository {
			return nil
		}
		switch e.Action {
		case audit.Release:
			v := version{o.Repository, o.Tag}
			logged[v], at[v] = o.Digest, i
		case audit.Revoke:
			if revoked[o.Digest] == nil {
				revoked[o.Digest] = map[string]uint64{}
			}
			revoked[o.Digest][o.Repository] = i
		case audit.Erase:
			erased[version{o.Repository, string(o.Digest)}] = true
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	missing := func(repository, name, format string, a ...any) {
		out = append(out, registry.Problem{Kind: MissingDecision, Repository: repository, Name: name, Detail: fmt.Sprintf(format, a...)})
	}
	// By repository, since the registry tells versions so.
	names := map[string]bool{}
	for v := range logged {
		names[v.repository] = true
	}
	for p := (registry.Page{Limit: 1000}); ; {
		some, more, err := s.reg.Repositories(ctx, p)
		if err != nil {
			return nil, err
		}
		for _, n := range some {
			if class, _ := catalog.Of(n); class == catalog.Production {
				names[n] = true
			}
		}
		if !more || len(some) == 0 {
			break
		}
		p.After = some[len(some)-1]
	}
	for name := range names {
		versions, err := s.reg.Versions(ctx, name)
		if e, ok := errors.AsType[*registry.Error](err); ok && e.Code == registry.NameUnknown {
			versions, err = nil, nil
		}
		if err != nil {
			return nil, err
		}
		have := map[string]registry.Released{}
		for _, v := range versions {
			have[v.Version] = v
			d, ok := logged[version{name, v.Version}]
			switch {
			case v.Entry >= size:
				out = append(out, registry.Problem{Kind: UnloggedDecision, Repository: name, Name: v.Version,
					Detail: fmt.Sprintf("was released by entry %d, and the audit log has %d entries: the log is older than the store", v.Entry, size)})
			case !ok || d != v.Digest:
				out = append(out, registry.Problem{Kind: UnloggedDecision, Repository: name, Name: v.Version,
					Detail: fmt.Sprintf("is %s here, and no entry of the audit log released that", v.Digest)})
			}
		}
		for v, d := range logged {
			if v.repository != name {
				continue
			}
			if _, ok := have[v.version]; !ok && !erased[version{name, string(d)}] {
				missing(name, v.version, "entry %d of the audit log released %s, and the store does not have it: the store is older than the log; release it again", at[v], d)
			}
		}
	}
	for d, in := range revoked {
		for name, i := range in {
			r, err := s.reg.Revoked(ctx, name, d)
			if err != nil {
				return nil, err
			}
			if r == nil {
				missing(name, string(d), "entry %d of the audit log revoked it, and the store does not say so: the store is older than the log; revoke it again", i)
			}
		}
	}
	return out, nil
}
