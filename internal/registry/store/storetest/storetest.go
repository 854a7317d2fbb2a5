// Package storetest is what every implementation of package store has to pass,
// as testing/fstest is for file systems. It is for tests only.
//
// It checks what the interfaces promise, not how fast or how durable an
// implementation is: what survives a crash is for the tests beside each of them.
package storetest

import (
	"testing"

	"twinhull.dev/twinhull/internal/registry/store"
)

// Opened is an opened store, and how to close all of it.
type Opened struct {
	store.Store // the parts that are nil are not tested
	Close       func() error
}

// Place is somewhere a store is kept.
type Place struct {
	// Open opens it. Once what it gave is closed it may be called again, and what
	// was acknowledged is still there.
	Open func(t *testing.T) Opened

	// Replicas says that it may be open several times at once.
	Replicas bool
}

// Run tests an implementation. fresh makes an empty place for each test.
func Run(t *testing.T, fresh func(t *testing.T) Place) {
	groups := []struct {
		name  string
		has   func(store.Store) bool
		tests []test
	}{
		{"Records", func(s store.Store) bool { return s.Records != nil }, recordsTests},
		{"Blobs", func(s store.Store) bool { return s.Blobs != nil && s.Uploads != nil }, blobsTests},
		{"Uploads", func(s store.Store) bool { return s.Blobs != nil && s.Uploads != nil }, uploadsTests},
	}
	first := &place{t: t, Place: fresh(t)}
	first.open()
	first.close()
	for _, g := range groups {
		if !g.has(first.Store) {
			continue
		}
		t.Run(g.name, func(t *testing.T) {
			for _, one := range g.tests {
				if one.replicas && !first.Replicas {
					continue
				}
				t.Run(one.name, func(t *testing.T) {
					p := &place{t: t, Place: fresh(t)}
					p.open()
					defer p.close()
					one.run(t, p)
				})
			}
		})
	}
}

type test struct {
	name     string
	run      func(t *testing.T, p *place)
	replicas bool // for several servers on one place
}

// place is an opened Place.
type place struct {
	t *testing.T
	Place
	store.Store
	opened Opened
	isOpen bool
}

func (p *place) open() {
	p.t.Helper()
	p.opened = p.Place.Open(p.t)
	p.Store = p.opened.Store
	p.isOpen = true
}

func (p *place) close() {
	p.t.Helper()
	if !p.isOpen {
		return
	}
	p.isOpen = false
	if err := p.opened.Close(); err != nil {
		p.t.Errorf("close: %v", err)
	}
}

// reopen is the end of a server and the start of another.
func (p *place) reopen() {
	p.t.Helper()
	p.close()
	p.open()
}

// second is another server on the same place.
func (p *place) second(t *testing.T) store.Store {
	t.Helper()
	o := p.Place.Open(t)
	t.Cleanup(func() {
		if err := o.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return o.Store
}
