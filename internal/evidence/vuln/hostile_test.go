package vuln

import (
	"archive/zip"
	"bytes"
	"compress/flate"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"runtime/metrics"
	"slices"
	"strings"
	"testing"
	"time"

	"twinhull.dev/twinhull/internal/inspect"
)

// member is a file of a zip that is written by hand, so that it can lie.
type member struct {
	name      string
	localName string // "" for name
	data      []byte
	method    uint16
	flags     uint16
	size      int // -1: the truth
	crc       uint32
	crcWrong  bool
	at        int // place that the directory names, when not 0
}

func deflated(data []byte) []byte {
	var b bytes.Buffer
	w, _ := flate.NewWriter(&b, 9)
	w.Write(data)
	w.Close()
	return b.Bytes()
}

// forge writes a zip of members; count is what the end record says, -1 for the
// truth.
func forge(members []member, count int) []byte {
	var b, dir bytes.Buffer
	for _, m := range members {
		packed := m.data
		if m.method == 8 {
			packed = deflated(m.data)
		}
		size, crc := uint32(len(m.data)), crc32.ChecksumIEEE(m.data)
		if m.size >= 0 {
			size = uint32(m.size)
		}
		if m.crcWrong {
			crc = m.crc
		}
		local := m.localName
		if local == "" {
			local = m.name
		}
		at := b.Len()
		if m.at != 0 {
			at = m.at - 1
		}
		put := func(w *bytes.Buffer, v ...any) {
			for _, x := range v {
				binary.Write(w, binary.LittleEndian, x)
			}
		}
		put(&dir, uint32(zipCentral), uint16(20), uint16(20), m.flags, m.method, uint32(0), crc, uint32(len(packed)), size, uint16(len(m.name)), uint16(0), uint16(0), uint16(0), uint16(0), uint32(0), uint32(at))
		dir.WriteString(m.name)
		if m.at != 0 {
			continue // only the directory names it
		}
		put(&b, uint32(zipLocal), uint16(20), m.flags, m.method, uint32(0), crc, uint32(len(packed)), size, uint16(len(local)), uint16(0))
		b.WriteString(local)
		b.Write(packed)
	}
	if count < 0 {
		count = len(members)
	}
	from := b.Len()
	b.Write(dir.Bytes())
	for _, v := range []any{uint32(zipEOCD), uint16(0), uint16(0), uint16(count), uint16(count), uint32(dir.Len()), uint32(from), uint16(0)} {
		binary.Write(&b, binary.LittleEndian, v)
	}
	return b.Bytes()
}

func one(id string) []byte { return []byte(rec(id, "npm", "left", from0to2, "")) }

func TestHostileZips(t *testing.T) {
	good := member{name: "GHSA-aaaa-aaaa-aaaa.json", data: one("GHSA-aaaa-aaaa-aaaa"), method: 8, size: -1}
	with := func(change func(*member)) []byte {
		m := good
		change(&m)
		return forge([]member{m}, -1)
	}
	bomb := bytes.Repeat([]byte(" "), maxRecord+1)
	for _, tt := range []struct {
		name string
		zip  []byte
		want string // in the error; "" for none
	}{
		{"well made", forge([]member{good}, -1), ""},
		{"stored", with(func(m *member) { m.method = 0 }), ""},
		{"empty", nil, "no end record"},
		{"no zip", bytes.Repeat([]byte("x"), 4000), "no end record"},
		{"no members", forge(nil, -1), "holds no records"},
		{"cut off", forge([]member{good}, -1)[:100], "no end record"},
		{"something behind it", append(forge([]member{good}, -1), "tail"...), "no end record"},
		{"something before it", append([]byte("head"), forge([]member{good}, -1)...), "central directory is not where"},
		{"bomb", with(func(m *member) { m.data = bomb }), "more than the"},
		{"bomb that denies it", with(func(m *member) { m.data, m.size = bomb, 1000 }), "does not have the 1000 bytes"},
		{"bigger than it can be", with(func(m *member) { m.size = 10 << 20 }), "cannot come out of"},
		{"shorter than it says", with(func(m *member) { m.size = len(m.data) + 10 }), "does not have"},
		{"wrong CRC", with(func(m *member) { m.crcWrong = true }), "wrong CRC"},
		{"two names", with(func(m *member) { m.localName = "GHSA-bbbb-bbbb-bbbb.json" }), "is called"},
		{"path", with(func(m *member) { m.name = "../GHSA-aaaa-aaaa-aaaa.json" }), "want only files ID.json"},
		{"absolute path", with(func(m *member) { m.name = "/GHSA-aaaa-aaaa-aaaa.json" }), "want only files ID.json"},
		{"folder", with(func(m *member) { m.name, m.data, m.method = "npm/", nil, 0 }), "want only files ID.json"},
		{"backslash", with(func(m *member) { m.name = `x\y.json` }), "want only files ID.json"},
		{"zero in a name", with(func(m *member) { m.name = "a\x00b.json" }), "want only files ID.json"},
		{"long name", with(func(m *member) { m.name = strings.Repeat("a", 300) + ".json" }), "a member's name"},
		{"other id", with(func(m *member) { m.name = "GHSA-bbbb-bbbb-bbbb.json" }), "holds the record GHSA-aaaa-aaaa-aaaa"},
		{"encrypted", with(func(m *member) { m.flags = 1 }), "encrypted"},
		{"another method", with(func(m *member) { m.method = 12 }), "compressed by method 12"},
		{"no JSON", with(func(m *member) { m.data = []byte("hello") }), "invalid character"},
		{"duplicate key", with(func(m *member) {
			m.data = bytes.Replace(m.data, []byte(`"id":`), []byte(`"id":"GHSA-zzzz-zzzz-zzzz","id":`), 1)
		}), `duplicate name "id"`},
		{"key in another case", with(func(m *member) { m.data = bytes.Replace(m.data, []byte(`"affected"`), []byte(`"Affected"`), 1) }), `want "affected"`},
		{"two values", with(func(m *member) { m.data = append(slices.Clone(m.data), "{}"...) }), "more than one JSON value"},
		{"same member twice in the directory", forge([]member{good, {name: good.name, data: good.data, method: 8, size: -1, at: 1}}, -1), "lies over another"},
		{"record twice", forge([]member{good, good}, -1), "is there twice"},
		{"fewer members than it says", forge([]member{good}, 2), "central directory"},
		{"more members than it says", forge([]member{good, {name: "GHSA-bbbb-bbbb-bbbb.json", data: one("GHSA-bbbb-bbbb-bbbb"), method: 8, size: -1}}, 1), "more members than the end record"},
		{"other ecosystems only in common by chance", forge([]member{
			{name: "A-1.json", data: []byte(rec("A-1", "crates.io", "x", from0to2, "")), method: 8, size: -1},
			{name: "A-2.json", data: []byte(rec("A-2", "Go", "x", from0to2, "")), method: 8, size: -1},
		}, -1), "--ecosystem"},
		{"too many values", with(func(m *member) {
			m.data = []byte(`{"id":"GHSA-aaaa-aaaa-aaaa","affected":[{"package":{"ecosystem":"npm","name":"x"},"versions":[` + strings.Repeat(`"",`, maxValues) + `""]}]}`)
		}), "values in one record"},
		{"too many names", with(func(m *member) {
			m.data = []byte(`{"id":"GHSA-aaaa-aaaa-aaaa","aliases":[` + strings.Repeat(`"CVE-2026-1",`, maxNames) + `"CVE-2026-1"]}`)
		}), "more than"},
		{"names that every package repeats", with(func(m *member) {
			alias := make([]string, 900)
			for i := range alias {
				alias[i] = fmt.Sprintf("%q", fmt.Sprintf("CVE-%0100d", i))
			}
			pkgs := make([]string, 20000)
			for i := range pkgs {
				pkgs[i] = fmt.Sprintf(`{"package":{"ecosystem":"npm","name":"p%d"},"versions":["1"]}`, i)
			}
			m.data = []byte(`{"id":"GHSA-aaaa-aaaa-aaaa","aliases":[` + strings.Join(alias, ",") + `],"affected":[` + strings.Join(pkgs, ",") + `]}`)
		}), "bytes in the database"},
		{"control characters in a package", with(func(m *member) {
			m.data = bytes.Replace(m.data, []byte(`"name":"left"`), []byte(`"name":"le\u0000ft"`), 1)
		}), "affected[0]"},
		{"time", with(func(m *member) { m.data = bytes.Replace(m.data, []byte("2026-11-20T10"), []byte("yesterday"), 1) }), "RFC 3339"},
		{"schema of the future", with(func(m *member) {
			m.data = bytes.Replace(m.data, []byte(`{"id"`), []byte(`{"schema_version":"2.0.0","id"`), 1)
		}), "schema_version"},
		{"deep", with(func(m *member) {
			m.data = bytes.Replace(m.data, []byte(`{"id"`), []byte(`{"database_specific":`+strings.Repeat("[", 5000)+strings.Repeat("]", 5000)+`,"id"`), 1)
		}), "deep"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "npm.zip")
			if err := os.WriteFile(path, tt.zip, 0o644); err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			_, err := importInto(t, dir, ImportOptions{}, path)
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("error %v, want %q", err, tt.want)
			case err != nil && !strings.Contains(err.Error(), path) && !strings.Contains(err.Error(), lastTwo(path)):
				t.Errorf("the error does not say which file: %v", err)
			}
			if err != nil {
				if _, err := Open(dir); !errors.Is(err, ErrNoDatabase) {
					t.Errorf("a refused import left a database: %v", err)
				}
			}
		})
	}
}

// TestZip64 reads a zip with more members than the old end record can count.
func TestZip64(t *testing.T) {
	if testing.Short() {
		t.Skip("makes 66,000 records")
	}
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for i := range 66_000 {
		f, err := w.Create(fmt.Sprintf("T-%d.json", i))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(f, `{"id":"T-%d","modified":"2026-11-20T10:00:00Z","affected":[{"package":{"ecosystem":"npm","name":"p%d"},"versions":["1.0.0"]}]}`, i, i%1000)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	db := mustOpen(t, ImportOptions{}, feed(t, map[string][]byte{"npm": b.Bytes()}))
	if s := db.Status(); s.Records != 66_000 || s.Packages != 1000 {
		t.Errorf("%d records, %d packages", s.Records, s.Packages)
	}
	if r := match(t, db, inspect.OSRelease{}, npm("p7", "1.0.0"), npm("p999", "1.0.0"), npm("p7", "1.0.1")); len(r.Findings) != 66+66 {
		t.Errorf("%d findings", len(r.Findings))
	}
}

// TestMemory imports what costs most: records as large and as full of values as
// they may be, and many of them.
func TestMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("imports 100 MB")
	}
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	// Many events make much memory out of few bytes, and distinct versions keep
	// the entries as large as the records.
	for i := range 8 {
		f, err := w.Create(fmt.Sprintf("T-%d.json", i))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(f, `{"id":"T-%d","modified":"2026-11-20T10:00:00Z","affected":[{"package":{"ecosystem":"npm","name":"p%d"},"versions":["0"`, i, i)
		for j := range 150_000 {
			fmt.Fprintf(f, `,"%d.%d.%d-%060d"`, j, i, j, j)
		}
		io.WriteString(f, `],"ranges":[{"type":"ECOSYSTEM","events":[{"introduced":"0"}`)
		for j := range 100_000 {
			fmt.Fprintf(f, `,{"fixed":"%d"}`, j)
		}
		io.WriteString(f, `]}]}]}`)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	dir := feed(t, map[string][]byte{"npm": b.Bytes()})
	b = bytes.Buffer{}

	stop, peak := make(chan struct{}), make(chan uint64)
	sample := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	read := func() uint64 {
		metrics.Read(sample)
		return sample[0].Value.Uint64() - sample[1].Value.Uint64()
	}
	before := read()
	go func() {
		var most uint64
		for {
			select {
			case <-stop:
				peak <- most
				return
			case <-time.After(2 * time.Millisecond):
				most = max(most, read())
			}
		}
	}()
	_, err := importInto(t, t.TempDir(), ImportOptions{}, dir)
	close(stop)
	most := <-peak
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("memory: %d MiB before, at most %d MiB", before>>20, most>>20)
	if most > 300<<20 && !raceEnabled {
		t.Errorf("import took %d MiB, more than 300", most>>20)
	}
}

func TestSpool(t *testing.T) {
	s := newSpool(t.TempDir())
	s.limit = 200 // so that runs are merged into runs
	const n = 5000
	for i := range n {
		if err := s.add(fmt.Appendf(nil, "%05d", i*7919%n), fmt.Appendf(nil, "v%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	i := 0
	for p, err := range s.sorted() {
		if err != nil {
			t.Fatal(err)
		}
		if got, want := string(p.key), fmt.Sprintf("%05d", i); got != want {
			t.Fatalf("pair %d has key %s", i, got)
		}
		i++
	}
	if i != n || len(s.runs) > maxRuns {
		t.Errorf("%d pairs, %d runs", i, len(s.runs))
	}
}

func TestSources(t *testing.T) {
	npmZip := zipOf(t, rec("GHSA-aaaa-aaaa-aaaa", "npm", "left", from0to2, ""))
	t.Run("folder of records", func(t *testing.T) {
		dir := t.TempDir()
		for _, r := range []string{rec("PYSEC-1", "PyPI", "a", from0to2, ""), rec("PYSEC-2", "PyPI", "b", from0to2, "")} {
			id, _, _ := strings.Cut(strings.TrimPrefix(r, `{"id":"`), `"`)
			if err := os.WriteFile(filepath.Join(dir, id+".json"), []byte(r), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		s := mustOpen(t, ImportOptions{}, dir).Status()
		if s.Records != 2 || !slices.Equal(s.Sources[0].Ecosystems, []string{"PyPI"}) {
			t.Errorf("%+v", s)
		}
		// A link out of the folder is not followed.
		if err := os.Symlink("/etc/passwd", filepath.Join(dir, "PYSEC-3.json")); err != nil {
			t.Fatal(err)
		}
		if _, err := importInto(t, t.TempDir(), ImportOptions{}, dir); err == nil {
			t.Error("a link out of the folder was followed")
		}
	})
	t.Run("one ecosystem twice", func(t *testing.T) {
		a, b := feed(t, map[string][]byte{"npm": npmZip}), feed(t, map[string][]byte{"npm": npmZip})
		if _, err := importInto(t, t.TempDir(), ImportOptions{}, a, b); err == nil || !strings.Contains(err.Error(), "both hold npm") {
			t.Error(err)
		}
		all := zipOf(t, rec("A-1", "Debian:12", "x", from0to2, ""), rec("A-2", "Debian:13", "x", from0to2, ""))
		only := zipOf(t, rec("A-3", "Debian:13", "x", from0to2, ""))
		for _, order := range [][2][]byte{{all, only}, {only, all}} {
			dir := feed(t, map[string][]byte{"a": order[0], "b": order[1]})
			if _, err := importInto(t, t.TempDir(), ImportOptions{}, dir); err == nil || !strings.Contains(err.Error(), "both hold Debian") {
				t.Error(err)
			}
		}
		if _, err := importInto(t, t.TempDir(), ImportOptions{}, feed(t, map[string][]byte{"a": zipOf(t, rec("A-1", "Debian:12", "x", from0to2, "")), "b": only})); err != nil {
			t.Errorf("two releases: %v", err)
		}
	})
	t.Run("several ecosystems in common", func(t *testing.T) {
		both := `{"id":"A-1","modified":"2026-11-20T10:00:00Z","affected":[{"package":{"ecosystem":"npm","name":"x"},"versions":["1"]},{"package":{"ecosystem":"Maven","name":"g:x"},"versions":["1"]}]}`
		if s := mustOpen(t, ImportOptions{}, feed(t, map[string][]byte{"Maven": zipOf(t, both)})).Status(); !slices.Equal(s.Sources[0].Ecosystems, []string{"Maven"}) {
			t.Errorf("the folder's name was not taken: %+v", s)
		}
		if _, err := importInto(t, t.TempDir(), ImportOptions{}, feed(t, map[string][]byte{"x": zipOf(t, both)})); err == nil || !strings.Contains(err.Error(), "Maven and npm") {
			t.Error(err)
		}
		db := mustOpen(t, ImportOptions{Ecosystems: []string{"npm", "PyPI"}}, feed(t, map[string][]byte{"x": zipOf(t, both)}))
		if s := db.Status(); !slices.Equal(s.Sources[0].Ecosystems, []string{"npm"}) || s.Packages != 1 {
			t.Errorf("%+v", s)
		}
	})
	t.Run("nothing", func(t *testing.T) {
		if _, err := importInto(t, t.TempDir(), ImportOptions{}, t.TempDir()); err == nil {
			t.Error("an empty folder was imported")
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		dir := t.TempDir()
		if _, err := Import(ctx, dir, []string{feed(t, map[string][]byte{"npm": npmZip})}, ImportOptions{Now: now}); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		left, _ := os.ReadDir(dir)
		if len(left) > 1 {
			t.Errorf("left %v", left)
		}
	})
}

// reseal gives changed bytes the digest that the footer needs.
func reseal(data []byte) []byte {
	data = slices.Clone(data)
	n := len(data) - footerSize
	if n < 0 {
		return data
	}
	at, length := le.Uint64(data[n:]), le.Uint64(data[n+8:])+le.Uint64(data[n+24:])
	if at > uint64(n) || length > uint64(n)-at {
		return data
	}
	sum := sha256.Sum256(data[at : at+length])
	copy(data[n+32:], sum[:])
	return data
}
