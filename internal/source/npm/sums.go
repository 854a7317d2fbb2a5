package npm

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"twinhull.dev/twinhull/internal/durable"
	"twinhull.dev/twinhull/internal/oci"
)

// contentsVersion is part of a cached table's name: raise it when the reading
// of tarballs changes.
const contentsVersion = "1"

// Table gives the Contents of locked tarballs. With a folder it keeps them
// there, one file a tarball, named by the tarball's digest, so that a warm
// proof decompresses nothing. The folder is as trusted as the program's other
// caches: whoever writes there decides what Prove believes, so it must belong
// to the user. Safe for several goroutines and processes.
type Table struct {
	vault  Vault
	folder string

	mu   sync.Mutex
	have map[oci.Digest]*Contents
}

// NewTable returns a table over the vault. folder "" keeps nothing on disk; it
// is made when needed.
func NewTable(vault Vault, folder string) *Table {
	return &Table{vault: vault, folder: folder, have: make(map[oci.Digest]*Contents)}
}

// Contents reads the tarball with this digest, or remembers it.
func (t *Table) Contents(d oci.Digest) (*Contents, error) {
	t.mu.Lock()
	c := t.have[d]
	t.mu.Unlock()
	if c != nil {
		return c, nil
	}
	if err := d.Validate(); err != nil {
		return nil, fmt.Errorf("tarball %q: %w", d, err)
	}
	var name string
	if t.folder != "" {
		name = filepath.Join(t.folder, string(d.Algorithm())+"-"+d.Encoded()+".v"+contentsVersion+".json")
		if data, err := os.ReadFile(name); err == nil {
			c = new(Contents)
			if json.Unmarshal(data, c) != nil || c.Files == nil {
				c = nil // damaged: read the tarball again
			}
		}
	}
	if c == nil {
		f, err := t.vault.Open(d)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		if c, err = Files(f, Limits{}); err != nil {
			return nil, err
		}
		if name != "" {
			// A table that could not be kept costs time later, nothing else.
			if data, err := json.Marshal(c); err == nil && durable.MkdirAll(t.folder, 0o755) == nil {
				_ = durable.WriteFile(name, data, 0o644)
			}
		}
	}
	t.mu.Lock()
	t.have[d] = c
	t.mu.Unlock()
	return c, nil
}
