package registry

import (
	"context"
	"fmt"
	"slices"
	"time"

	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/registry/catalog"
	"twinhull.dev/twinhull/internal/registry/store"
)

// Keeping is one reason why something is kept.
type Keeping struct {
	Why   string     `json:"why"`
	Until *time.Time `json:"until,omitempty"` // nil: no end is known
}

// Fate answers why something is kept and when it will go.
type Fate struct {
	Repository string     `json:"repository"`
	Digest     oci.Digest `json:"digest"`
	Kind       string     `json:"kind"` // manifest or blob
	Kept       []Keeping  `json:"kept"`
	Goes       *time.Time `json:"goes,omitempty"` // nil: never, as things are
}

// reason is a Keeping while it is found. until is the zero time for no end.
type reason struct {
	why   string
	until time.Time
}

// maxLooked bounds how many manifests are asked to decide about one. What is so
// entangled stays.
const maxLooked = 1000

// keeper finds what keeps things, in one transaction.
type keeper struct {
	r      *Registry
	tx     store.Reader
	repo   string
	class  catalog.Class
	now    time.Time
	all    bool // every reason, not just one that holds
	looked map[oci.Digest]bool
}

func (r *Registry) keeper(tx store.Reader, repo string, now time.Time, all bool) *keeper {
	class, _ := catalog.Of(repo)
	return &keeper{r: r, tx: tx, repo: repo, class: class, now: now, all: all, looked: map[oci.Digest]bool{}}
}

func (k *keeper) holds(x reason) bool { return x.until.IsZero() || x.until.After(k.now) }

// manifest finds what keeps a manifest. It goes up only: to the tags and indexes
// that need it, and to its subject. What refers to it does not keep it.
func (k *keeper) manifest(d oci.Digest) (out []reason, err error) {
	if k.looked[d] {
		return nil, nil
	}
	if len(k.looked) >= maxLooked {
		return []reason{{why: fmt.Sprintf("more than %d manifests would have to be asked", maxLooked)}}, nil
	}
	k.looked[d] = true
	f, ok, err := get[facts](k.tx, key(kFacts, k.repo, string(d)))
	if err != nil || !ok {
		return nil, err
	}
	// add says whether enough is known.
	add := func(x reason) bool {
		out = append(out, x)
		return !k.all && k.holds(x)
	}
	if k.class == catalog.Production && add(reason{why: "it is in production, which is permanent"}) {
		return out, nil
	}
	if f.Pinned != nil && add(reason{why: "pinned by " + f.Pinned.By.Name}) {
		return out, nil
	}
	if k.class != catalog.Production {
		if add(reason{why: "pushed " + f.Pushed.UTC().Format(time.RFC3339), until: f.Pushed.Add(k.r.retention(k.class))}) {
			return out, nil
		}
	}
	for rec, err := range k.tx.Scan(key(kTagged, k.repo, string(d), ""), nil) {
		if err != nil {
			return nil, err
		}
		tag := last(rec.Key)
		_, t, ok, err := getTag(k.tx, k.repo, tag)
		if err != nil {
			return nil, err
		}
		if ok && add(reason{why: "the tag " + tag + " points to it", until: k.r.tagExpires(k.repo, tag, t)}) {
			return out, nil
		}
	}
	var over []oci.Digest
	for rec, err := range k.tx.Scan(key(kParent, k.repo, string(d), ""), nil) {
		if err != nil {
			return nil, err
		}
		over = append(over, oci.Digest(last(rec.Key)))
		if len(over) > maxLooked {
			break
		}
	}
	for _, x := range over {
		above, err := k.manifest(x)
		if err != nil {
			return nil, err
		}
		for _, why := range above {
			if k.holds(why) && add(reason{why: "the index " + string(x) + " needs it: " + why.why, until: why.until}) {
				return out, nil
			}
		}
	}
	if f.Subject != "" {
		above, err := k.manifest(f.Subject)
		if err != nil {
			return nil, err
		}
		for _, why := range above {
			if k.holds(why) && add(reason{why: "it says something about " + string(f.Subject) + ": " + why.why, until: why.until}) {
				return out, nil
			}
		}
	}
	return out, nil
}

// blob finds what keeps a blob in the repository: any manifest that refers to it,
// however long that stays, and having been pushed or let go just now.
func (k *keeper) blob(d oci.Digest) (out []reason, found bool, err error) {
	l, ok, err := get[link](k.tx, key(kBlob, k.repo, string(d)))
	if err != nil || !ok {
		return nil, false, err
	}
	for rec, err := range k.tx.Scan(key(kParent, k.repo, string(d), ""), nil) {
		if err != nil {
			return nil, false, err
		}
		out = append(out, reason{why: "the manifest " + last(rec.Key) + " refers to it"})
		if !k.all || len(out) == 100 {
			break
		}
	}
	if k.class == catalog.Production {
		out = append(out, reason{why: "it is in production, which is permanent"})
	}
	if len(out) == 0 {
		out = append(out, reason{why: "nothing has referred to it since " + l.Free.UTC().Format(time.RFC3339), until: l.Free.Add(k.r.opt.Retain.Unreferenced)})
	}
	return out, true, nil
}

// Why tells what keeps a manifest or a blob of a repository, and when it goes.
func (r *Registry) Why(ctx context.Context, repo string, d oci.Digest) (Fate, error) {
	out := Fate{Repository: repo, Digest: d}
	err := r.store.Records.View(ctx, func(tx store.Reader) error {
		k := r.keeper(tx, repo, r.opt.Now(), true)
		known, err := has(tx, key(kFacts, repo, string(d)))
		if err != nil {
			return err
		}
		var why []reason
		if known {
			out.Kind = "manifest"
			why, err = k.manifest(d)
		} else {
			out.Kind = "blob"
			why, known, err = k.blob(d)
		}
		if err != nil {
			return err
		}
		if !known {
			return errorf(ManifestUnknown, "%s has neither a manifest nor a blob %s", repo, clip(string(d)))
		}
		goes := k.now
		for _, x := range why {
			if !k.holds(x) {
				continue
			}
			kept := Keeping{Why: x.why}
			if x.until.IsZero() {
				goes = time.Time{}
			} else {
				until := x.until.UTC()
				kept.Until = &until
				if !goes.IsZero() && until.After(goes) {
					goes = until
				}
			}
			out.Kept = append(out.Kept, kept)
		}
		if !goes.IsZero() {
			out.Goes = &goes
		}
		slices.SortStableFunc(out.Kept, func(a, b Keeping) int {
			switch { // what keeps it longest first
			case a.Until == nil && b.Until == nil:
				return 0
			case a.Until == nil:
				return -1
			case b.Until == nil:
				return 1
			}
			return b.Until.Compare(*a.Until)
		})
		return nil
	})
	return out, err
}
