package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"

	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/registry/catalog"
	"twinhull.dev/twinhull/internal/registry/store"
)

// Problem is something about a store that is not as it should be.
type Problem struct {
	Kind       string `json:"kind"` // see the constants
	Repository string `json:"repository,omitempty"`
	Name       string `json:"name,omitempty"` // digest, tag, version or request id
	Detail     string `json:"detail"`
	Mend       string `json:"mend"` // what mending does; "" for nothing that could be done: restore it
	Mended     bool   `json:"mended,omitempty"`

	mend func(tx store.Transaction) error
	wipe oci.Digest // content to delete when mending
}

// The kinds of problems.
const (
	DamagedBlob     = "damaged-blob"     // the bytes have another digest or size, or are gone
	DamagedManifest = "damaged-manifest" // its bytes have another digest or are gone
	Dangling        = "dangling"         // something refers to what is not there
	Inconsistent    = "inconsistent"     // two records contradict each other
	Orphan          = "orphan"           // content that nothing refers to
	Leak            = "leak"             // nothing needs it, and no collection would look at it
	Interrupted     = "interrupted"      // a decision that is not finished
)

// Checked is what a check looked at and found.
type Checked struct {
	Repositories int       `json:"repositories"`
	Tags         int       `json:"tags"`
	Manifests    int       `json:"manifests"`
	Links        int       `json:"links"`    // blobs in repositories
	Contents     int       `json:"contents"` // blobs in the store
	Bytes        int64     `json:"bytes"`    // of the contents
	Uploads      int       `json:"uploads"`
	Problems     []Problem `json:"problems,omitempty"`
}

// CheckOptions says how much is checked.
type CheckOptions struct {
	Shallow bool // contents are looked for, not read
	Mend    bool // repair what can be repaired without losing anything that is needed
	Passed  func(bytes int64)
}

// Check proves the store: every blob and manifest has its digest, every reference
// resolves, nothing is left over and nothing that will not be needed is forgotten.
// It reads one moment; what is pushed meanwhile is not reported.
func (r *Registry) Check(ctx context.Context, opt CheckOptions) (*Checked, error) {
	c := &checking{ctx: ctx, r: r, out: &Checked{}, now: r.opt.Now(), due: map[string]time.Time{}, holders: map[oci.Digest]int64{}, seen: map[oci.Digest]bool{}}
	// Contents first: what is pushed after this has its record after it too.
	if err := c.contents(opt); err != nil {
		return nil, err
	}
	if err := r.store.Records.View(ctx, c.records); err != nil {
		return nil, err
	}
	if err := c.orphans(); err != nil {
		return nil, err
	}
	if opt.Mend {
		if err := c.mend(); err != nil {
			return c.out, err
		}
	}
	return c.out, nil
}

type checking struct {
	ctx     context.Context
	r       *Registry
	out     *Checked
	now     time.Time
	due     map[string]time.Time // by kind, repository and name: the earliest
	stored  map[oci.Digest]int64 // contents: size, -1 when damaged
	young   map[oci.Digest]bool  // stored while this runs or just before
	holders map[oci.Digest]int64 // contents that repositories have, by the size that they say
	seen    map[oci.Digest]bool  // contents that are marked for deletion or in an upload
}

func (c *checking) problem(kind, repo, name, mend string, do func(tx store.Transaction) error, format string, a ...any) {
	c.out.Problems = append(c.out.Problems, Problem{Kind: kind, Repository: repo, Name: name, Detail: fmt.Sprintf(format, a...), Mend: mend, mend: do})
}

// contents lists what is stored and reads it.
func (c *checking) contents(opt CheckOptions) error {
	c.stored, c.young = map[oci.Digest]int64{}, map[oci.Digest]bool{}
	for i, err := range c.r.store.Blobs.List(c.ctx) {
		if err != nil {
			return err
		}
		c.out.Contents++
		c.out.Bytes += i.Size
		c.stored[i.Digest] = i.Size
		c.young[i.Digest] = c.now.Sub(i.Stored) < time.Minute
		if opt.Shallow {
			continue
		}
		if err := c.read(i.Digest, opt.Passed); err != nil {
			if c.ctx.Err() != nil {
				return c.ctx.Err()
			}
			c.stored[i.Digest] = -1
			c.problem(DamagedBlob, "", string(i.Digest), "", nil, "%v", err)
		}
	}
	return nil
}

func (c *checking) read(d oci.Digest, passed func(int64)) error {
	b, err := c.r.store.Blobs.Open(c.ctx, d)
	if errors.Is(err, store.ErrNotFound) {
		return nil // collected meanwhile
	}
	if err != nil {
		return err
	}
	defer b.Content.Close()
	h := d.Algorithm().Hash()
	buf := make([]byte, 256<<10)
	for {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		n, err := b.Content.Read(buf)
		h.Write(buf[:n])
		if passed != nil {
			passed(int64(n))
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("the bytes cannot be read: %w", err)
		}
	}
	if got := digest.NewDigest(d.Algorithm(), h); got != d {
		return fmt.Errorf("the bytes have the digest %s", got)
	}
	return nil
}

// records goes through every record.
func (c *checking) records(tx store.Reader) error {
	// A check may be long: records that a retry of the view sees again count once.
	for rec, err := range tx.Scan([]byte{kDue}, nil) {
		if err != nil {
			return err
		}
		at, kind, repo, name, ok := readDue(rec.Key)
		if !ok {
			c.problem(Inconsistent, "", "", "delete the record", remove(rec.Key), "a record of what is due cannot be read")
			continue
		}
		k := kind + repo + "\x00" + name
		if have, ok := c.due[k]; !ok || at.Before(have) {
			c.due[k] = at
		}
	}
	for _, part := range []struct {
		kind byte
		look func(tx store.Reader, key, value []byte) error
	}{
		{kRepo, c.repository}, {kDeleting, c.deleting}, {kHolder, c.holder}, {kBlob, c.blob}, {kFacts, c.manifest}, {kContent, c.content},
		{kParent, c.parent}, {kReferrer, c.referrer}, {kTag, c.tag}, {kTagged, c.tagged}, {kVersion, c.version}, {kIntent, c.intent},
	} {
		for rec, err := range tx.Scan([]byte{part.kind}, nil) {
			if err != nil {
				return err
			}
			if err := c.ctx.Err(); err != nil {
				return err
			}
			if err := part.look(tx, rec.Key, rec.Value); err != nil {
				return err
			}
		}
	}
	return nil
}

func remove(k []byte) func(tx store.Transaction) error {
	k = slices.Clone(k)
	return func(tx store.Transaction) error { return tx.Delete(k) }
}

func (c *checking) repository(_ store.Reader, k, _ []byte) error {
	c.out.Repositories++
	return nil
}

func (c *checking) deleting(_ store.Reader, k, _ []byte) error {
	c.seen[oci.Digest(last(k))] = true
	return nil
}

func (c *checking) holder(tx store.Reader, k, _ []byte) error {
	f := fields(k)
	if len(f) != 2 {
		c.problem(Inconsistent, "", "", "delete the record", remove(k), "a record of who has a blob cannot be read")
		return nil
	}
	l, ok, err := get[link](tx, key(kBlob, f[1], f[0]))
	if err != nil {
		return err
	}
	if !ok {
		c.problem(Inconsistent, f[1], f[0], "delete the record", remove(k), "the blob's record says that the repository has it, the repository's does not")
		return nil
	}
	d := oci.Digest(f[0])
	c.holders[d] = l.Size
	if c.seen[d] {
		c.problem(Inconsistent, f[1], f[0], "take the mark away", remove(key(kDeleting, f[0])), "the blob is marked for deletion and a repository has it")
	}
	switch size, ok := c.stored[d]; {
	case !ok:
		// It may have been pushed after the contents were listed.
		if _, err := c.r.store.Blobs.Size(c.ctx, d); errors.Is(err, store.ErrNotFound) {
			c.problem(DamagedBlob, f[1], f[0], "", nil, "the repository has the blob, and its bytes are not in the store")
		} else if err != nil {
			return err
		}
	case size >= 0 && size != l.Size:
		c.problem(DamagedBlob, f[1], f[0], "", nil, "the blob should have %d bytes and has %d", l.Size, size)
	}
	return nil
}

func (c *checking) blob(tx store.Reader, k, _ []byte) error {
	c.out.Links++
	f := fields(k)
	if len(f) != 2 {
		c.problem(Inconsistent, "", "", "delete the record", remove(k), "a record of a blob cannot be read")
		return nil
	}
	if ok, err := has(tx, key(kHolder, f[1], f[0])); err != nil {
		return err
	} else if !ok {
		holder := key(kHolder, f[1], f[0])
		c.problem(Inconsistent, f[0], f[1], "write the blob's record", func(tx store.Transaction) error { return tx.Put(holder, nil) },
			"the repository's record says that it has the blob, the blob's does not")
	}
	return c.leak(tx, dueBlob, f[0], f[1])
}

// leak reports what will not be needed for ever and is not due.
func (c *checking) leak(tx store.Reader, kind, repo, name string) error {
	class, _ := catalog.Of(repo)
	if class == catalog.Production {
		return nil
	}
	k := c.r.keeper(tx, repo, c.now, false)
	var why []reason
	var err error
	if kind == dueBlob {
		why, _, err = k.blob(oci.Digest(name))
	} else {
		why, err = k.manifest(oci.Digest(name))
	}
	if err != nil {
		return err
	}
	for _, x := range why {
		if x.until.IsZero() {
			return nil
		}
	}
	if _, ok := c.due[kind+repo+"\x00"+name]; ok {
		return nil
	}
	// What belongs to something is looked at when that goes.
	if above, err := anyOf(tx, key(kParent, repo, name, "")); err != nil || above {
		return err
	}
	if f, _, err := get[facts](tx, key(kFacts, repo, name)); err != nil {
		return err
	} else if f.Subject != "" {
		if above, err := has(tx, key(kFacts, repo, string(f.Subject))); err != nil || above {
			return err
		}
	}
	dk := dueKey(c.now, kind, repo, name)
	c.problem(Leak, repo, name, "have the next collection look at it", func(tx store.Transaction) error { return tx.Put(dk, nil) }, "no collection would look at it")
	return nil
}

func (c *checking) manifest(tx store.Reader, k, v []byte) error {
	c.out.Manifests++
	f := fields(k)
	if len(f) != 2 {
		c.problem(Inconsistent, "", "", "delete the record", remove(k), "a record of a manifest cannot be read")
		return nil
	}
	repo, d := f[0], oci.Digest(f[1])
	var have facts
	if err := json.Unmarshal(v, &have); err != nil {
		c.problem(DamagedManifest, repo, f[1], "", nil, "what is known of the manifest cannot be read: %v", err)
		return nil
	}
	raw, ok, err := tx.Get(key(kContent, repo, f[1]))
	if err != nil {
		return err
	}
	if !ok {
		c.problem(DamagedManifest, repo, f[1], "", nil, "the manifest's bytes are gone")
		return nil
	}
	media, content, _ := bytes.Cut(raw, []byte{0})
	if d.Validate() != nil || d.Algorithm().FromBytes(content) != d {
		c.problem(DamagedManifest, repo, f[1], "", nil, "the manifest's bytes have another digest")
		return nil
	}
	doc, err := readManifest(string(media), content, d)
	if err != nil {
		c.problem(DamagedManifest, repo, f[1], "", nil, "the manifest's bytes cannot be read: %v", err)
		return nil
	}
	if !slices.Equal(doc.Children, have.Children) || doc.Subject != have.Subject {
		c.problem(Inconsistent, repo, f[1], "", nil, "what is known of the manifest is not what it says")
	}
	for _, x := range doc.Children {
		edge := key(kParent, repo, string(x), f[1])
		if ok, err := has(tx, edge); err != nil {
			return err
		} else if !ok {
			c.problem(Inconsistent, repo, string(x), "write the record", func(tx store.Transaction) error { return tx.Put(edge, nil) }, "%s refers to it, and nothing says so", d)
		}
		isBlob, err := has(tx, key(kBlob, repo, string(x)))
		if err != nil {
			return err
		}
		isManifest, err := has(tx, key(kFacts, repo, string(x)))
		if err != nil {
			return err
		}
		if !isBlob && !isManifest && !slices.ContainsFunc(doc.blobs, func(b oci.Descriptor) bool { return b.Digest == x && foreign(b) }) {
			c.problem(Dangling, repo, f[1], "", nil, "the manifest refers to %s, which the repository does not have", x)
		}
	}
	if doc.Subject != "" {
		ref, want := key(kReferrer, repo, string(doc.Subject), f[1]), doc.referrer
		if ok, err := has(tx, ref); err != nil {
			return err
		} else if !ok {
			c.problem(Inconsistent, repo, f[1], "write the record", func(tx store.Transaction) error { return put(tx, ref, want) }, "it refers to %s, whose list does not have it", doc.Subject)
		}
	}
	return c.leak(tx, dueManifest, repo, f[1])
}

func (c *checking) content(tx store.Reader, k, _ []byte) error {
	f := fields(k)
	if ok, err := has(tx, key(kFacts, f...)); err != nil || ok {
		return err
	}
	c.problem(Inconsistent, f[0], last(k), "delete the bytes", remove(k), "there are a manifest's bytes, and nothing is known of it")
	return nil
}

// parent: the manifest that refers to something must be there.
func (c *checking) parent(tx store.Reader, k, _ []byte) error {
	f := fields(k)
	if len(f) == 3 {
		if ok, err := has(tx, key(kFacts, f[0], f[2])); err != nil || ok {
			return err
		}
	}
	c.problem(Inconsistent, f[0], last(k), "delete the record", remove(k), "a manifest that is not there refers to something")
	return nil
}

func (c *checking) referrer(tx store.Reader, k, _ []byte) error {
	f := fields(k)
	if len(f) == 3 {
		if ok, err := has(tx, key(kFacts, f[0], f[2])); err != nil || ok {
			return err
		}
	}
	c.problem(Inconsistent, f[0], last(k), "delete the record", remove(k), "a list of referrers has a manifest that is not there")
	return nil
}

func (c *checking) tag(tx store.Reader, k, v []byte) error {
	c.out.Tags++
	f := fields(k)
	d, t, err := readTag(v)
	if err != nil || len(f) != 2 {
		c.problem(Inconsistent, f[0], last(k), "", nil, "the tag's record cannot be read")
		return nil
	}
	repo, tag := f[0], f[1]
	known, err := has(tx, key(kFacts, repo, string(d)))
	if err != nil {
		return err
	}
	erased, err := has(tx, key(kTomb, repo, string(d)))
	if err != nil {
		return err
	}
	if !known && !erased {
		c.problem(Dangling, repo, tag, "", nil, "the tag points to %s, which is not there", d)
	}
	back := key(kTagged, repo, string(d), tag)
	if ok, err := has(tx, back); err != nil {
		return err
	} else if !ok {
		c.problem(Inconsistent, repo, tag, "write the record", func(tx store.Transaction) error { return tx.Put(back, nil) }, "the manifest does not know that the tag points to it")
	}
	class, _ := catalog.Of(repo)
	if class == catalog.Production {
		return c.productionTag(tx, repo, tag, d, t)
	}
	if at := c.r.tagExpires(repo, tag, t); !at.IsZero() {
		if _, ok := c.due[dueTag+repo+"\x00"+tag]; !ok {
			c.problem(Leak, repo, tag, "have the next collection look at it", func(tx store.Transaction) error { return tx.Put(dueKey(at, dueTag, repo, tag), nil) }, "no collection would look at the tag")
		}
	}
	return nil
}

// productionTag: every tag of production is of a released version.
func (c *checking) productionTag(tx store.Reader, repo, tag string, d oci.Digest, t tagRecord) error {
	have, ok, err := get[Released](tx, key(kVersion, repo, t.Version))
	if err != nil {
		return err
	}
	v, bad := catalog.ParseVersion(t.Version)
	switch {
	case !ok || bad != nil || have.Digest != d:
		c.problem(Inconsistent, repo, tag, "", nil, "the tag points to %s, which is not what was released as %q", d, t.Version)
	case tag != t.Version && !slices.Contains(v.Tags(), tag):
		c.problem(Inconsistent, repo, tag, "", nil, "the tag points to %s, for which it is no tag", t.Version)
	}
	return nil
}

func (c *checking) tagged(tx store.Reader, k, _ []byte) error {
	f := fields(k)
	if len(f) == 3 {
		d, _, ok, err := getTag(tx, f[0], f[2])
		if err != nil || ok && string(d) == f[1] {
			return err
		}
	}
	c.problem(Inconsistent, f[0], last(k), "delete the record", remove(k), "a manifest says that a tag points to it, and it does not")
	return nil
}

func (c *checking) version(tx store.Reader, k, v []byte) error {
	f := fields(k)
	var have Released
	if err := json.Unmarshal(v, &have); err != nil || len(f) != 2 {
		c.problem(Inconsistent, f[0], last(k), "", nil, "the record of a version cannot be read")
		return nil
	}
	d, _, ok, err := getTag(tx, f[0], f[1])
	if err != nil {
		return err
	}
	if !ok || d != have.Digest {
		c.problem(Inconsistent, f[0], f[1], "", nil, "the version's tag does not point to what was released")
	}
	return nil
}

func (c *checking) intent(_ store.Reader, k, v []byte) error {
	var in intent
	if err := json.Unmarshal(v, &in); err != nil {
		c.problem(Interrupted, "", last(k), "", nil, "a decision that is not finished cannot be read: %v", err)
	} else if c.now.Sub(in.At) > time.Minute {
		c.problem(Interrupted, in.Production, in.ID, "", nil, "the decision (%s) is not finished: repeat the request, or restart the server", in.Kind)
	}
	return nil
}

// orphans looks for contents that nobody has and that nothing will delete.
func (c *checking) orphans() error {
	for u, err := range c.r.store.Uploads.Uploads(c.ctx) {
		if err != nil {
			return err
		}
		c.out.Uploads++
		if u.Committing != "" {
			c.seen[u.Committing] = true
		}
	}
	for d, size := range c.stored {
		if _, ok := c.holders[d]; ok || c.seen[d] || c.young[d] {
			continue
		}
		c.out.Problems = append(c.out.Problems, Problem{Kind: Orphan, Name: string(d), Detail: fmt.Sprintf("no repository has the blob (%d bytes)", max(size, 0)), Mend: "delete it", wipe: d})
	}
	slices.SortStableFunc(c.out.Problems, func(a, b Problem) int {
		return strings.Compare(a.Kind+a.Repository+"\x00"+a.Name, b.Kind+b.Repository+"\x00"+b.Name)
	})
	return nil
}

func (c *checking) mend() error {
	for i := range c.out.Problems {
		p := &c.out.Problems[i]
		var err error
		switch {
		case p.wipe != "":
			err = c.r.orphan(c.ctx, p.wipe)
		case p.mend != nil:
			err = c.r.store.Records.Update(c.ctx, p.mend)
		default:
			continue
		}
		if err != nil {
			return err
		}
		p.Mended = true
	}
	return nil
}
