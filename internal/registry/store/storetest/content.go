package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	digest "github.com/opencontainers/go-digest"

	"github.com/google/go-cmp/cmp"

	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/registry/store"
)

var blobsTests = []test{
	{name: "Digests", run: testDigests},
	{name: "WrongDigest", run: testWrongDigest},
	{name: "Ranges", run: testRanges},
	{name: "Delete", run: testDelete},
	{name: "ReadWhileDeleted", run: testReadWhileDeleted},
	{name: "List", run: testList},
	{name: "HostileDigests", run: testHostileDigests},
	{name: "SameContentTogether", run: testSameContentTogether},
	{name: "ContentSurvives", run: testContentSurvives},
	{name: "Replicas", run: testContentReplicas, replicas: true},
}

var uploadsTests = []test{
	{name: "InParts", run: testInParts},
	{name: "ResumedAfterRestart", run: testResumedAfterRestart},
	{name: "WrongOffset", run: testWrongOffset},
	{name: "FailingReader", run: testFailingReader},
	{name: "TwoWriters", run: testTwoWriters},
	{name: "CommitTwice", run: testCommitTwice},
	{name: "CommittedTakesNothing", run: testCommittedTakesNothing},
	{name: "CommitThenDiscard", run: testCommitThenDiscard},
	{name: "Discard", run: testDiscard},
	{name: "Listing", run: testUploadsListing},
	{name: "HostileIDs", run: testHostileIDs},
	{name: "Empty", run: testEmpty},
	{name: "Large", run: testLarge},
	{name: "Replicas", run: testUploadsReplicas, replicas: true},
}

// noise is content that no implementation can squeeze.
func noise(n int, seed uint64) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)}).Read(b)
	return b
}

func begin(t *testing.T, u store.Uploads) string {
	t.Helper()
	id, err := u.Create(t.Context())
	if err != nil {
		t.Fatalf("Create: %v", err)
	}
	if err := store.CheckID(id); err != nil {
		t.Fatalf("Create gave %q: %v", id, err)
	}
	return id
}

func appendTo(t *testing.T, u store.Uploads, id string, at int64, b []byte) {
	t.Helper()
	n, err := u.Append(t.Context(), id, at, bytes.NewReader(b))
	if err != nil || n != at+int64(len(b)) {
		t.Fatalf("Append of %d bytes at %d: %d, %v", len(b), at, n, err)
	}
}

func commit(t *testing.T, u store.Uploads, id string, d oci.Digest, size int) {
	t.Helper()
	n, err := u.Commit(t.Context(), id, d)
	if err != nil || n != int64(size) {
		t.Fatalf("Commit of %s: %d, %v; want %d", d, n, err, size)
	}
}

// push makes b content, and keeps no upload.
func push(t *testing.T, s store.Store, b []byte) oci.Digest {
	t.Helper()
	d := digest.FromBytes(b)
	pushAs(t, s, b, d)
	return d
}

func pushAs(t *testing.T, s store.Store, b []byte, d oci.Digest) {
	t.Helper()
	id := begin(t, s.Uploads)
	appendTo(t, s.Uploads, id, 0, b)
	commit(t, s.Uploads, id, d, len(b))
	if err := s.Uploads.Discard(t.Context(), id); err != nil {
		t.Fatalf("Discard: %v", err)
	}
}

func wantContent(t *testing.T, b store.Blobs, d oci.Digest, want []byte) {
	t.Helper()
	blob, err := b.Open(t.Context(), d)
	if err != nil {
		t.Errorf("Open %s: %v", d, err)
		return
	}
	defer blob.Content.Close()
	got, err := io.ReadAll(blob.Content)
	if err != nil || !bytes.Equal(got, want) || blob.Size != int64(len(want)) {
		t.Errorf("%s: %d bytes, said to be %d, %v; want %d", d, len(got), blob.Size, err, len(want))
	}
	if n, err := b.Size(t.Context(), d); err != nil || n != int64(len(want)) {
		t.Errorf("Size of %s: %d, %v; want %d", d, n, err, len(want))
	}
}

func wantAbsent(t *testing.T, b store.Blobs, d oci.Digest) {
	t.Helper()
	if blob, err := b.Open(t.Context(), d); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Open %q: %v, want ErrNotFound", d, err)
		if err == nil {
			blob.Content.Close()
		}
	}
	if _, err := b.Size(t.Context(), d); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Size of %q: %v, want ErrNotFound", d, err)
	}
}

func list(t *testing.T, b store.Blobs) map[oci.Digest]int64 {
	t.Helper()
	all := map[oci.Digest]int64{}
	for info, err := range b.List(t.Context()) {
		if err != nil {
			t.Fatalf("List: %v", err)
		}
		if _, twice := all[info.Digest]; twice {
			t.Errorf("%s is listed twice", info.Digest)
		}
		if info.Stored.IsZero() {
			t.Errorf("%s was stored at no time", info.Digest)
		}
		all[info.Digest] = info.Size
	}
	return all
}

func wantUploads(t *testing.T, u store.Uploads, want ...store.Upload) {
	t.Helper()
	got := []store.Upload{}
	for one, err := range u.Uploads(t.Context()) {
		if err != nil {
			t.Fatalf("Uploads: %v", err)
		}
		if one.Changed.IsZero() {
			t.Errorf("%s was changed at no time", one.ID)
		}
		one.Changed = time.Time{}
		got = append(got, one)
	}
	byID := func(a, b store.Upload) int { return strings.Compare(a.ID, b.ID) }
	want = append([]store.Upload{}, want...)
	slices.SortFunc(got, byID)
	slices.SortFunc(want, byID)
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("uploads (-want +got):\n%s", d)
	}
}

func wantStatus(t *testing.T, u store.Uploads, id string, size int, committing oci.Digest) {
	t.Helper()
	got, err := u.Status(t.Context(), id)
	if err != nil || got.ID != id || got.Size != int64(size) || got.Committing != committing || got.Changed.IsZero() {
		t.Errorf("Status: %+v, %v; want size %d, committing %q", got, err, size, committing)
	}
}

func testDigests(t *testing.T, p *place) {
	for i, size := range []int{1, 511, 512, 70_000, 1 << 20, 3<<20 + 17} {
		b := noise(size, uint64(i))
		for _, alg := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
			d := alg.FromBytes(b)
			wantAbsent(t, p.Blobs, d)
			pushAs(t, p.Store, b, d)
			wantContent(t, p.Blobs, d, b)
		}
	}
	wantUploads(t, p.Uploads)
}

func testWrongDigest(t *testing.T, p *place) {
	b := []byte("content")
	wrong := digest.FromString("other")
	id := begin(t, p.Uploads)
	appendTo(t, p.Uploads, id, 0, b)
	for _, d := range []oci.Digest{
		wrong, digest.SHA512.FromString("other"), "", "sha256:", "content", digest.SHA384.FromBytes(b),
		digest.NewDigestFromEncoded(digest.SHA256, strings.ToUpper(digest.FromBytes(b).Encoded())),
		digest.NewDigestFromEncoded(digest.SHA256, "../../x"),
	} {
		if _, err := p.Uploads.Commit(t.Context(), id, d); !errors.Is(err, store.ErrDigest) {
			t.Errorf("Commit as %q: %v, want ErrDigest", d, err)
		}
	}
	wantAbsent(t, p.Blobs, wrong)
	if all := list(t, p.Blobs); len(all) != 0 {
		t.Errorf("content of a wrong digest: %v", all)
	}
	// The upload stays, and the right one is still taken.
	wantStatus(t, p.Uploads, id, len(b), "")
	commit(t, p.Uploads, id, digest.FromBytes(b), len(b))
	wantContent(t, p.Blobs, digest.FromBytes(b), b)
}

func testRanges(t *testing.T, p *place) {
	b := noise(300_000, 5)
	d := push(t, p.Store, b)
	blob, err := p.Blobs.Open(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	defer blob.Content.Close()
	if err := iotest.TestReader(io.NewSectionReader(readerAt{blob.Content}, 0, 1000), b[:1000]); err != nil {
		t.Errorf("the first 1000 bytes: %v", err)
	}
	for _, r := range [][2]int{{299_999, 1}, {0, 1}, {100_000, 100_000}, {5, 0}, {150_000, 150_000}} {
		if n, err := blob.Content.Seek(int64(r[0]), io.SeekStart); err != nil || n != int64(r[0]) {
			t.Fatalf("Seek to %d: %d, %v", r[0], n, err)
		}
		got := make([]byte, r[1])
		if _, err := io.ReadFull(blob.Content, got); err != nil || !bytes.Equal(got, b[r[0]:r[0]+r[1]]) {
			t.Errorf("%d bytes from %d: %v", r[1], r[0], err)
		}
	}
	if n, err := blob.Content.Seek(-10, io.SeekEnd); err != nil || n != 299_990 {
		t.Errorf("Seek to the last ten: %d, %v", n, err)
	}
	if got, err := io.ReadAll(blob.Content); err != nil || !bytes.Equal(got, b[299_990:]) {
		t.Errorf("the last ten: %d bytes, %v", len(got), err)
	}
	if n, err := blob.Content.Seek(0, io.SeekCurrent); err != nil || n != 300_000 {
		t.Errorf("at the end: %d, %v", n, err)
	}
	if _, err := blob.Content.Seek(-1, io.SeekStart); err == nil {
		t.Error("Seek before the start succeeds")
	}
}

// readerAt reads anywhere by seeking.
type readerAt struct{ io.ReadSeeker }

func (r readerAt) ReadAt(b []byte, at int64) (int, error) {
	if _, err := r.Seek(at, io.SeekStart); err != nil {
		return 0, err
	}
	n, err := io.ReadFull(r.ReadSeeker, b)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF
	}
	return n, err
}

func testDelete(t *testing.T, p *place) {
	b := []byte("content")
	d := push(t, p.Store, b)
	other := push(t, p.Store, []byte("other"))
	for range 2 { // the second time there is nothing
		if err := p.Blobs.Delete(t.Context(), d); err != nil {
			t.Errorf("Delete: %v", err)
		}
		wantAbsent(t, p.Blobs, d)
	}
	wantContent(t, p.Blobs, other, []byte("other"))
	p.reopen()
	wantAbsent(t, p.Blobs, d)
	push(t, p.Store, b)
	wantContent(t, p.Blobs, d, b)

	// Many at once, more than fit into one request to a bucket.
	var all []oci.Digest
	for i := range 60 {
		all = append(all, push(t, p.Store, noise(i, uint64(300+i))))
	}
	for i := range 1200 {
		all = append(all, digest.FromString(fmt.Sprint("absent", i)))
	}
	if err := errors.Join(p.Blobs.Delete(t.Context(), all...), p.Blobs.Delete(t.Context())); err != nil {
		t.Fatal(err)
	}
	if got := list(t, p.Blobs); len(got) != 2 {
		t.Errorf("%d contents are left, want 2", len(got))
	}
}

func testReadWhileDeleted(t *testing.T, p *place) {
	b := noise(10_000, 6)
	d := push(t, p.Store, b)
	blob, err := p.Blobs.Open(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	defer blob.Content.Close()
	first := make([]byte, 100)
	if _, err := io.ReadFull(blob.Content, first); err != nil {
		t.Fatal(err)
	}
	if err := p.Blobs.Delete(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(blob.Content)
	if err != nil || !bytes.Equal(append(first, rest...), b) {
		t.Errorf("read on: %d bytes, %v", len(rest), err)
	}
}

func testList(t *testing.T, p *place) {
	want := map[oci.Digest]int64{}
	for i := range 40 {
		b := noise(i+1, uint64(100+i))
		want[push(t, p.Store, b)] = int64(i + 1)
		if i%10 == 0 {
			d := digest.SHA512.FromBytes(b)
			pushAs(t, p.Store, b, d)
			want[d] = int64(i + 1)
		}
	}
	id := begin(t, p.Uploads)
	appendTo(t, p.Uploads, id, 0, []byte("no content yet"))
	if d := cmp.Diff(want, list(t, p.Blobs)); d != "" {
		t.Errorf("content (-want +got):\n%s", d)
	}
	for range p.Blobs.List(t.Context()) {
		break
	}
}

func testHostileDigests(t *testing.T, p *place) {
	for _, d := range []oci.Digest{
		"", "sha256", "sha256:", "sha256:abc", ":", "sha256:../../../../etc/passwd", "../x:abc",
		digest.NewDigestFromEncoded(digest.SHA256, strings.Repeat("../", 21)+"a"),
		digest.NewDigestFromEncoded(digest.SHA256, strings.Repeat("G", 64)),
		digest.NewDigestFromEncoded("md5", strings.Repeat("a", 32)),
		digest.SHA384.FromString("x"),
		digest.NewDigestFromEncoded("sha256\x00", strings.Repeat("a", 64)),
	} {
		wantAbsent(t, p.Blobs, d)
		if err := p.Blobs.Delete(t.Context(), d); err != nil && !errors.Is(err, store.ErrDigest) {
			t.Errorf("Delete of %q: %v", d, err)
		}
	}
}

func testSameContentTogether(t *testing.T, p *place) {
	b := noise(200_000, 7)
	d := digest.FromBytes(b)
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			id, err := p.Uploads.Create(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := p.Uploads.Append(t.Context(), id, 0, bytes.NewReader(b)); err != nil {
				t.Error(err)
				return
			}
			if _, err := p.Uploads.Commit(t.Context(), id, d); err != nil {
				t.Error(err)
			}
			wantContent(t, p.Blobs, d, b)
			if err := p.Uploads.Discard(t.Context(), id); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	wantContent(t, p.Blobs, d, b)
	if all := list(t, p.Blobs); len(all) != 1 {
		t.Errorf("%d contents, want one", len(all))
	}
}

func testContentSurvives(t *testing.T, p *place) {
	b := noise(100_000, 8)
	d := push(t, p.Store, b)
	p.reopen()
	wantContent(t, p.Blobs, d, b)
	if got := list(t, p.Blobs); got[d] != int64(len(b)) || len(got) != 1 {
		t.Errorf("listed after reopening: %v", got)
	}
}

func testContentReplicas(t *testing.T, p *place) {
	other := p.second(t)
	b := noise(100_000, 9)
	d := push(t, p.Store, b)
	wantContent(t, other.Blobs, d, b)
	if err := other.Blobs.Delete(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	wantAbsent(t, p.Blobs, d)
	push(t, other, b)
	wantContent(t, p.Blobs, d, b)
}

func testInParts(t *testing.T, p *place) {
	b := noise(1_000_000, 10)
	for _, alg := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		id := begin(t, p.Uploads)
		wantStatus(t, p.Uploads, id, 0, "")
		at := 0
		for _, n := range []int{1, 4095, 100_000, 0, 500_000, 395_904} {
			appendTo(t, p.Uploads, id, int64(at), b[at:at+n])
			at += n
			wantStatus(t, p.Uploads, id, at, "")
		}
		commit(t, p.Uploads, id, alg.FromBytes(b), len(b))
		wantContent(t, p.Blobs, alg.FromBytes(b), b)
	}
}

func testResumedAfterRestart(t *testing.T, p *place) {
	b := noise(500_000, 11)
	id := begin(t, p.Uploads)
	appendTo(t, p.Uploads, id, 0, b[:123_456])
	p.reopen()
	wantStatus(t, p.Uploads, id, 123_456, "")
	appendTo(t, p.Uploads, id, 123_456, b[123_456:300_000])
	p.reopen()
	appendTo(t, p.Uploads, id, 300_000, b[300_000:])
	d := digest.FromBytes(b)
	commit(t, p.Uploads, id, d, len(b))
	p.reopen()
	wantStatus(t, p.Uploads, id, len(b), d)
	commit(t, p.Uploads, id, d, len(b))
	wantContent(t, p.Blobs, d, b)
	if err := p.Uploads.Discard(t.Context(), id); err != nil {
		t.Error(err)
	}
	wantContent(t, p.Blobs, d, b)

	// Wrong from its first bytes, told only after the restart.
	id = begin(t, p.Uploads)
	appendTo(t, p.Uploads, id, 0, []byte("wrong"))
	p.reopen()
	appendTo(t, p.Uploads, id, 5, []byte("right"))
	if _, err := p.Uploads.Commit(t.Context(), id, digest.FromString("right")); !errors.Is(err, store.ErrDigest) {
		t.Errorf("Commit: %v, want ErrDigest", err)
	}
	commit(t, p.Uploads, id, digest.FromString("wrongright"), 10)
}

func testWrongOffset(t *testing.T, p *place) {
	id := begin(t, p.Uploads)
	appendTo(t, p.Uploads, id, 0, []byte("0123456789"))
	for _, at := range []int64{0, 9, 11, -1, 1 << 40} {
		r := strings.NewReader("abc")
		n, err := p.Uploads.Append(t.Context(), id, at, r)
		if !errors.Is(err, store.ErrOffset) || r.Len() != 3 {
			t.Errorf("Append at %d: %d, %v, read %d bytes; want ErrOffset and nothing read", at, n, err, 3-r.Len())
		}
	}
	appendTo(t, p.Uploads, id, 10, []byte("x"))
	commit(t, p.Uploads, id, digest.FromString("0123456789x"), 11)
}

func testFailingReader(t *testing.T, p *place) {
	b := noise(400_000, 12)
	mine := errors.New("connection is gone")
	id := begin(t, p.Uploads)
	size, err := p.Uploads.Append(t.Context(), id, 0, io.MultiReader(bytes.NewReader(b[:150_000]), iotest.ErrReader(mine)))
	if !errors.Is(err, mine) || size != 150_000 {
		t.Errorf("Append: %d, %v; want what was read, and the reader's error", size, err)
	}
	wantStatus(t, p.Uploads, id, int(size), "")
	if n, err := p.Uploads.Append(t.Context(), id, size, iotest.ErrReader(mine)); !errors.Is(err, mine) || n != size {
		t.Errorf("Append of nothing: %d, %v", n, err)
	}
	appendTo(t, p.Uploads, id, size, b[size:])
	commit(t, p.Uploads, id, digest.FromBytes(b), len(b))
	wantContent(t, p.Blobs, digest.FromBytes(b), b)
}

func testTwoWriters(t *testing.T, p *place) {
	id := begin(t, p.Uploads)
	r, w := io.Pipe()
	first := make(chan error)
	go func() {
		n, err := p.Uploads.Append(t.Context(), id, 0, r)
		if err == nil && n != 10 {
			err = fmt.Errorf("size %d", n)
		}
		first <- err
	}()
	if _, err := w.Write([]byte("01234")); err != nil {
		t.Fatal(err)
	}
	// The first is inside for certain: it has read. Whoever tries now is refused,
	// or finds at the end that it was overtaken.
	second, err := p.Uploads.Append(t.Context(), id, 0, strings.NewReader("abcdefghij"))
	won := err == nil
	if !won && !errors.Is(err, store.ErrBusy) {
		t.Errorf("the second: %d, %v; want ErrBusy", second, err)
	}
	_, _ = w.Write([]byte("56789"))
	w.Close()
	err = <-first
	if won == (err == nil) {
		t.Fatalf("second won: %t; the first got %v: want exactly one to win", won, err)
	}
	want := "0123456789"
	if won {
		want = "abcdefghij"
		if !errors.Is(err, store.ErrBusy) && !errors.Is(err, store.ErrOffset) {
			t.Errorf("the first got %v, want ErrBusy", err)
		}
	}
	wantStatus(t, p.Uploads, id, 10, "")
	commit(t, p.Uploads, id, digest.FromString(want), 10)

	// Many at once: what comes out is what those who were told so have written.
	id = begin(t, p.Uploads)
	var mu sync.Mutex
	var taken []string
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 4 {
				u, err := p.Uploads.Status(t.Context(), id)
				if err != nil {
					t.Error(err)
					return
				}
				part := fmt.Sprintf("[%d.%d]", i, j)
				n, err := p.Uploads.Append(t.Context(), id, u.Size, strings.NewReader(part))
				switch {
				case err == nil:
					mu.Lock()
					taken = append(taken, fmt.Sprintf("%06d%s", n, part))
					mu.Unlock()
				case !errors.Is(err, store.ErrBusy) && !errors.Is(err, store.ErrOffset):
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	slices.Sort(taken)
	all := ""
	for _, one := range taken {
		all += one[6:]
	}
	commit(t, p.Uploads, id, digest.FromString(all), len(all))
}

func testCommitTwice(t *testing.T, p *place) {
	b := noise(10_000, 13)
	d := digest.FromBytes(b)
	id := begin(t, p.Uploads)
	appendTo(t, p.Uploads, id, 0, b)
	commit(t, p.Uploads, id, d, len(b))
	wantStatus(t, p.Uploads, id, len(b), d)
	commit(t, p.Uploads, id, d, len(b))
	wantContent(t, p.Blobs, d, b)
	// A second upload of what is there already.
	again := begin(t, p.Uploads)
	appendTo(t, p.Uploads, again, 0, b)
	commit(t, p.Uploads, again, d, len(b))
	wantUploads(t, p.Uploads, store.Upload{ID: id, Size: 10_000, Committing: d}, store.Upload{ID: again, Size: 10_000, Committing: d})
	for _, one := range []string{id, again} {
		if err := p.Uploads.Discard(t.Context(), one); err != nil {
			t.Error(err)
		}
		wantContent(t, p.Blobs, d, b)
	}
	// Deleted and committed again by an upload that stayed.
	id = begin(t, p.Uploads)
	appendTo(t, p.Uploads, id, 0, b)
	commit(t, p.Uploads, id, d, len(b))
	if err := p.Blobs.Delete(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	commit(t, p.Uploads, id, d, len(b))
	wantContent(t, p.Blobs, d, b)
}

func testCommittedTakesNothing(t *testing.T, p *place) {
	b := []byte("content")
	d := digest.FromBytes(b)
	id := begin(t, p.Uploads)
	appendTo(t, p.Uploads, id, 0, b)
	commit(t, p.Uploads, id, d, len(b))
	check := func() {
		t.Helper()
		for _, at := range []int64{0, 7} {
			if _, err := p.Uploads.Append(t.Context(), id, at, strings.NewReader("more")); !errors.Is(err, store.ErrCommitted) {
				t.Errorf("Append at %d: %v, want ErrCommitted", at, err)
			}
		}
		if _, err := p.Uploads.Commit(t.Context(), id, digest.SHA512.FromBytes(b)); !errors.Is(err, store.ErrCommitted) {
			t.Errorf("Commit as something else: %v, want ErrCommitted", err)
		}
		wantContent(t, p.Blobs, d, b)
	}
	check()
	p.reopen()
	check()
}

func testCommitThenDiscard(t *testing.T, p *place) {
	b := noise(5000, 14)
	d := digest.FromBytes(b)
	id := begin(t, p.Uploads)
	appendTo(t, p.Uploads, id, 0, b)
	commit(t, p.Uploads, id, d, len(b))
	if err := p.Uploads.Discard(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Uploads.Commit(t.Context(), id, d); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Commit after Discard: %v, want ErrNotFound", err)
	}
	p.reopen()
	wantContent(t, p.Blobs, d, b)
	wantUploads(t, p.Uploads)
}

func testDiscard(t *testing.T, p *place) {
	id, other := begin(t, p.Uploads), begin(t, p.Uploads)
	appendTo(t, p.Uploads, id, 0, []byte("content"))
	appendTo(t, p.Uploads, other, 0, []byte("other"))
	for range 2 {
		if err := p.Uploads.Discard(t.Context(), id); err != nil {
			t.Errorf("Discard: %v", err)
		}
	}
	unknown(t, p.Uploads, id)
	wantUploads(t, p.Uploads, store.Upload{ID: other, Size: 5})
	commit(t, p.Uploads, other, digest.FromString("other"), 5)
}

func unknown(t *testing.T, u store.Uploads, id string) {
	t.Helper()
	if _, err := u.Status(t.Context(), id); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Status of %q: %v, want ErrNotFound", id, err)
	}
	r := strings.NewReader("abc")
	if _, err := u.Append(t.Context(), id, 0, r); !errors.Is(err, store.ErrNotFound) || r.Len() != 3 {
		t.Errorf("Append to %q: %v, want ErrNotFound and nothing read", id, err)
	}
	if _, err := u.Commit(t.Context(), id, digest.FromString("abc")); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Commit of %q: %v, want ErrNotFound", id, err)
	}
}

func testUploadsListing(t *testing.T, p *place) {
	var want []store.Upload
	for i := range 25 {
		id := begin(t, p.Uploads)
		b := noise(i, uint64(200+i))
		appendTo(t, p.Uploads, id, 0, b)
		u := store.Upload{ID: id, Size: int64(i)}
		if i%3 == 0 {
			u.Committing = digest.FromBytes(b)
			commit(t, p.Uploads, id, u.Committing, i)
		}
		want = append(want, u)
	}
	wantUploads(t, p.Uploads, want...)
	p.reopen()
	wantUploads(t, p.Uploads, want...)
	for range p.Uploads.Uploads(t.Context()) {
		break
	}
}

func testHostileIDs(t *testing.T, p *place) {
	id := begin(t, p.Uploads)
	appendTo(t, p.Uploads, id, 0, []byte("abc"))
	for _, hostile := range []string{
		"", ".", "..", "/", "../" + id, "./" + id, id + "/", id + "/..", "../uploads/" + id, id + "\x00", id + "x", strings.ToLower(id),
		"../../../../../../etc/passwd", "%2e%2e%2f" + id, strings.Repeat("A", 5000), "\x00", id[:len(id)-1], "*", id[:10] + "*",
		id + "@sha256:" + digest.FromString("abc").Encoded(),
	} {
		unknown(t, p.Uploads, hostile)
		if _, err := p.Uploads.Status(t.Context(), hostile); err != nil && hostile != id[:len(id)-1] && !errors.Is(err, store.ErrUnusableID) && store.CheckID(hostile) != nil {
			t.Errorf("Status of %q: %v, want ErrUnusableID", hostile, err)
		}
		if err := p.Uploads.Discard(t.Context(), hostile); err != nil && !errors.Is(err, store.ErrUnusableID) {
			t.Errorf("Discard of %q: %v", hostile, err)
		}
	}
	wantUploads(t, p.Uploads, store.Upload{ID: id, Size: 3})
	unknown(t, p.Uploads, store.NewID())
}

func testEmpty(t *testing.T, p *place) {
	for _, d := range []oci.Digest{digest.FromString(""), digest.SHA512.FromString("")} {
		id := begin(t, p.Uploads)
		commit(t, p.Uploads, id, d, 0)
		wantContent(t, p.Blobs, d, nil)
	}
	id := begin(t, p.Uploads)
	appendTo(t, p.Uploads, id, 0, nil)
	commit(t, p.Uploads, id, digest.FromString(""), 0)
}

func testLarge(t *testing.T, p *place) {
	b := noise(24<<20+123, 15)
	id := begin(t, p.Uploads)
	const part = 7<<20 + 11
	for at := 0; at < len(b); at += part {
		// A reader that gives little at a time, as connections do.
		end := min(at+part, len(b))
		n, err := p.Uploads.Append(t.Context(), id, int64(at), io.LimitReader(struct{ io.Reader }{bytes.NewReader(b[at:end])}, part))
		if err != nil || n != int64(end) {
			t.Fatalf("Append: %d, %v", n, err)
		}
	}
	d := digest.FromBytes(b)
	commit(t, p.Uploads, id, d, len(b))
	p.reopen()
	wantContent(t, p.Blobs, d, b)
}

func testUploadsReplicas(t *testing.T, p *place) {
	other := p.second(t)
	b := noise(300_000, 16)
	id := begin(t, p.Uploads)
	appendTo(t, p.Uploads, id, 0, b[:100_000])
	wantStatus(t, other.Uploads, id, 100_000, "")
	appendTo(t, other.Uploads, id, 100_000, b[100_000:200_000])
	if _, err := p.Uploads.Append(t.Context(), id, 100_000, strings.NewReader("x")); !errors.Is(err, store.ErrOffset) {
		t.Errorf("Append where the other replica has been: %v, want ErrOffset", err)
	}
	appendTo(t, p.Uploads, id, 200_000, b[200_000:])
	d := digest.FromBytes(b)
	commit(t, other.Uploads, id, d, len(b))
	wantStatus(t, p.Uploads, id, len(b), d)
	commit(t, p.Uploads, id, d, len(b))
	wantContent(t, p.Blobs, d, b)
	if err := p.Uploads.Discard(t.Context(), id); err != nil {
		t.Error(err)
	}
	unknown(t, other.Uploads, id)
}
