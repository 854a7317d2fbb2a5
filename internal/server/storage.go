package server

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"twinhull.dev/twinhull/internal/registry/store"
	"twinhull.dev/twinhull/internal/registry/store/files"
)

// opened is the store that a configuration names.
type opened struct {
	store.Store
	files *files.Files // nil: nothing of it is in files
	dir   string       // of the files
	close func() error
}

// openStore opens the store. readOnly makes and mends nothing.
func openStore(_ context.Context, c Config, readOnly bool) (*opened, error) {
	if c.Storage.Postgres.used() || c.Storage.S3.used() {
		return nil, errors.New("storage: PostgreSQL and S3 are not built in")
	}
	dir := filepath.Join(c.Data, "store")
	f, err := files.Open(dir, files.Options{ReadOnly: readOnly})
	if err != nil {
		return nil, err
	}
	return &opened{Store: f.Store(), files: f, dir: dir, close: f.Close}, nil
}

// check looks at what the store itself can tell of its state.
func (o *opened) check(ctx context.Context) error {
	if o.files == nil {
		return nil
	}
	if err := o.files.Check(ctx); err != nil {
		return fmt.Errorf("records: %w", err)
	}
	return nil
}
