package project

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"twinhull.dev/twinhull/internal/oci"
)

func sha(s string) oci.Digest { return digestOf([]byte(s)) }

func sha512of(s string) oci.Digest {
	return oci.Digest("sha512:" + strings.Repeat(string(sha(s))[len("sha256:"):], 2))
}

func h1(s string) string {
	d := sha(s)
	return "h1:" + base64.StdEncoding.EncodeToString([]byte(string(d)[len("sha256:"):])[:32])
}

// sampleLock uses every field.
func sampleLock() *Lock {
	day := time.Date(2026, 10, 3, 8, 0, 0, 0, time.UTC)
	until := day.AddDate(0, 0, 7)
	amd64 := oci.Platform{OS: "linux", Architecture: "amd64"}
	pkg := func(name, version, arch string) Package {
		return Package{Name: name, Version: version, Arch: arch, Source: name, SourceVersion: version, Archive: "debian/trixie", Suite: "trixie",
			Path: "pool/main/" + name[:1] + "/" + name + "/" + name + "_" + version + "_" + arch + ".deb", Size: 1234, SHA256: sha(name)}
	}
	return &Lock{
		Version: LockVersion, Assembler: 1, Project: sha("asked"), AsOf: day,
		Archives: []Archive{{Name: "debian/trixie", Suite: "trixie", InRelease: sha("in"), SignedBy: []string{strings.Repeat("0A", 20)}, Date: day, ValidUntil: &until,
			Indexes: []Index{{Path: "main/binary-amd64/Packages.xz", SHA256: sha("index"), Size: 99}}}},
		Closures: []Closure{
			{Set: "development", Platform: amd64, Packages: []string{"bash_5.2.37-2_amd64", "tzdata_2025b-4_all"}},
			{Set: "production", Platform: amd64, Packages: []string{"tzdata_2025b-4_all"}, Omitted: []OmittedItem{{"debconf", "maintenance only", "tzdata"}}},
		},
		Packages: []Package{pkg("bash", "5.2.37-2", "amd64"), pkg("tzdata", "2025b-4", "all")},
		NPM: []NPMTree{{Lockfile: "package-lock.json", SHA256: sha("pl"), Packages: []NPMPackage{
			{Location: "node_modules/@scope/x", Name: "@scope/x", Version: "1.0.0", Integrity: sha512of("x"), Dev: true, Optional: true, Scripts: true,
				OS: []string{"linux"}, CPU: []string{"x64"}, Libc: []string{"glibc"}},
			{Location: "node_modules/express", Name: "express", Version: "5.0.0", Integrity: sha512of("e")}}}},
		Go: []GoModule{{Path: "example.com/a", Version: "v1.2.3", Sum: h1("a"), ModSum: h1("am"), Zip: sha("z"), Mod: sha("m"), Info: sha("i")},
			{Path: "example.com/b/v2", Version: "v2.0.0", ModSum: h1("bm"), Mod: sha("bm")}},
		Tools: []Tool{{Name: "npm", Version: "10.9.2", PinnedBy: "package.json packageManager", Path: "npm/-/npm-10.9.2.tgz", Digest: sha512of("npm"), Size: 5},
			{Name: "zgo", Version: "1.26.8", Platform: amd64, PinnedBy: "go.mod toolchain", Path: "golang.org/toolchain/@v/v0.0.1-go1.26.8.linux-amd64.zip", Digest: sha("go"), Sum: h1("go")}},
	}
}

func TestLockGolden(t *testing.T) {
	l := sampleLock()
	if err := l.Check(); err != nil {
		t.Fatal(err)
	}
	golden(t, "testdata/sample.lock", l.Encode())
	got, err := ParseLock(LockName, read(t, "testdata/sample.lock"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(l, got); diff != "" {
		t.Error(diff)
	}
	for i, line := range bytes.Split(l.Encode(), []byte("\n")) {
		if bytes.Count(line, []byte(`"sourceVersion"`)) > 1 {
			t.Errorf("line %d holds more than one package", i+1)
		}
	}
}

func TestLockFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), LockName)
	l := sampleLock()
	l.Packages[0], l.Packages[1] = l.Packages[1], l.Packages[0]
	if err := WriteLock(name, l); err != nil {
		t.Fatal(err)
	}
	got, err := ReadLock(name)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sampleLock(), got); diff != "" {
		t.Errorf("what was written unsorted comes back: %s", diff)
	}
	l.Packages[0].SHA256 = "sha256:0"
	if err := WriteLock(name, l); err == nil {
		t.Error("an invalid lock was written")
	}
	if _, err := ReadLock(name); err != nil {
		t.Errorf("the old lock is gone: %v", err)
	}
	if _, err := ReadLock(name + "x"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent lock: %v", err)
	}
}

func TestBadLocks(t *testing.T) {
	good := string(sampleLock().Encode())
	set := func(old, new string) string {
		t.Helper()
		if !strings.Contains(good, old) {
			t.Fatalf("%q is not in the sample", old)
		}
		return strings.Replace(good, old, new, 1)
	}
	for _, c := range []struct{ name, data, want string }{
		{"empty", "", "twinhull.lock:1:1: is empty"},
		{"truncated", good[:len(good)/2], "ends in the middle"},
		{"truncated in a key", good[:30], "ends in the middle"},
		{"garbled", set(`"assembler": 1`, `"assembler": @`), "twinhull.lock:3:16: assembler: is not JSON"},
		{"no comma", set(`"assembler": 1,`, `"assembler": 1`), "twinhull.lock:4:3"},
		{"trailing", good + "{}", "something follows the lock"},
		{"yaml", "version: 1\n", "is not JSON"},
		{"list", "[]", "want an object"},
		{"null", set(`"assembler": 1`, `"assembler": null`), "assembler: want a whole number"},
		{"newer", set(`"version": 1`, `"version": 7`), "twinhull.lock:2:14: version: made by a newer Twinhull (lock version 7, this program knows 1)\n  hint: update twinhull, or run `twinhull lock` to make it again"},
		{"newer with unknown keys", `{"future": {"x": [1]}, "version": 2}`, "twinhull.lock:1:35: version: made by a newer Twinhull (lock version 2"},
		{"version 0", set(`"version": 1`, `"version": 0`), "there is no lock version 0"},
		{"version text", set(`"version": 1`, `"version": "1"`), "want a whole number"},
		{"unknown key", set(`"assembler"`, `"asembler"`), `twinhull.lock:3:3: asembler: unknown key: did you mean "assembler"?`},
		{"key in other letters", set(`"assembler"`, `"Assembler"`), "unknown key"},
		{"duplicate key", set(`"assembler": 1,`, `"assembler": 1, "assembler": 1,`), "twinhull.lock:3:19: assembler: is here twice"},
		{"duplicate in package", set(`"name":"bash",`, `"name":"bash","name":"bash",`), "packages[0].name: is here twice"},
		{"missing key", set(`"name":"bash",`, ""), `packages[0]: lacks the key "name"`},
		{"fraction", set(`"size":1234`, `"size":1234.5`), "packages[0].size: want a whole number"},
		{"huge", set(`"size":1234`, `"size":99999999999999999999`), "packages[0].size: want a whole number"},
		{"size 0", set(`"size":1234`, `"size":0`), "packages[0].size: want a size above 0"},
		{"time zone", set(`"asOf": "2026-10-03T08:00:00Z"`, `"asOf": "2026-10-03T10:00:00+02:00"`), "asOf: want a time in UTC"},
		{"fraction of a second", set(`"asOf": "2026-10-03T08:00:00Z"`, `"asOf": "2026-10-03T08:00:00.5Z"`), "asOf: want a time in UTC"},
		{"digest", set(string(sha("asked")), "sha256:zz"), "project: \"sha256:zz\" is not a sha256 digest"},
		{"digest algorithm", set(string(sha("asked")), string(sha512of("a"))), "is not a sha256 digest"},
		{"digest letters", set(string(sha("asked")), "sha256:"+strings.Repeat("A", 64)), "is not a sha256 digest"},
		{"path up", set(`pool/main/b`, `pool/../../b`), "packages[0].path"},
		{"path absolute", set(`pool/main/b`, `/pool/main/b`), "packages[0].path"},
		{"path with host", set(`pool/main/b`, `http://x/b`), "packages[0].path"},
		{"path not a deb", set(`_amd64.deb`, `_amd64.rpm`), "is not a .deb"},
		{"architecture", set(`"arch":"amd64"`, `"arch":"i386"`), "unknown architecture"},
		{"suite", set(`"suite":"trixie","path"`, `"suite":"sid","path"`), "is not in archives"},
		{"order", set(`"name":"bash"`, `"name":"zsh"`), "packages[1]: is out of order"},
		{"closure of nothing", set(`"bash_5.2.37-2_amd64"`, `"bash_9_amd64"`), `closures[0].packages[0]: "bash_9_amd64" is not in packages`},
		{"closure twice", set(`"bash_5.2.37-2_amd64",`, `"tzdata_2025b-4_all",`), "is here twice"},
		{"set", set(`"set": "production"`, `"set": "prod"`), "unknown set"},
		{"platform", set(`"architecture":"amd64"`, `"architecture":"riscv64"`), "unknown platform"},
		{"omitted in development", set(`"set": "production"`, `"set": "tools"`), "only the production set omits"},
		{"fingerprint", set("0A0A", "0a0A"), "fingerprint"},
		{"integrity", set(string(sha512of("e")), string(sha("e"))), "npm[0].packages[1].integrity"},
		{"location", set(`node_modules/express`, `node_modules/../express`), "npm[0].packages[1].location"},
		{"lockfile", set(`"lockfile": "package-lock.json"`, `"lockfile": "../package-lock.json"`), "npm[0].lockfile"},
		{"go sum", set(h1("am"), "h1:x"), "go[0].modSum"},
		{"go path", set("example.com/b/v2", "example.com/b"), "go[1].path"},
		{"zip without sum", set(`"sum":"`+h1("a")+`",`, ""), "go[0].sum"},
		{"tool path", set(`npm/-/npm`, `../npm/-/npm`), "tools[0].path"},
		{"not UTF-8", set(`maintenance`, "maint\xffenance"), "byte 0xff is not UTF-8"},
		{"conflict", set("\n  \"packages\": [", "\n<<<<<<< ours\n  \"packages\": ["), "holds an unresolved merge"},
		{"deep", strings.Repeat("[", 100_000), "want an object"},
		{"deep in unknown", `{"version": 1, "x": ` + strings.Repeat("[", 100_000), "unknown key"},
		{"deep before version", `{"x": ` + strings.Repeat("[", 1_000_000), "unknown key"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, err := ParseLock(LockName, []byte(c.data))
			if err == nil || l != nil {
				t.Fatalf("ParseLock = %v, %v: want an error and no lock", l, err)
			}
			if !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "twinhull.lock:") {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
		})
	}
}

// Positions of mistakes of content are those of the values.
func TestLockPositions(t *testing.T) {
	data := bytes.Replace(sampleLock().Encode(), []byte(`"arch":"amd64"`), []byte(`"arch":"i386"`), 1)
	_, err := ParseLock(LockName, data)
	var one *Error
	if !errors.As(err, &one) {
		t.Fatal(err)
	}
	var all Errors
	errors.As(err, &all)
	found := false
	for _, e := range all {
		if e.Key == "packages[0].arch" {
			line := strings.Split(string(data), "\n")[e.Line-1]
			found = strings.HasPrefix(line[e.Column-1:], `"i386"`)
		}
	}
	if !found {
		t.Errorf("no place for packages[0].arch: %v", err)
	}
}

func lockGen() *rapid.Generator[*Lock] {
	return rapid.Custom(func(t *rapid.T) *Lock {
		l := sampleLock()
		l.Assembler = rapid.IntRange(1, 100).Draw(t, "assembler")
		l.AsOf = time.Unix(rapid.Int64Range(0, 4e9).Draw(t, "asOf"), 0).UTC()
		if rapid.Bool().Draw(t, "no until") {
			l.Archives[0].ValidUntil = nil
		}
		names := rapid.SliceOfDistinct(rapid.StringMatching(`[a-z0-9][a-z0-9+.-]{1,8}`), func(s string) string { return s }).Draw(t, "names")
		l.Packages = nil
		l.Closures = nil
		var ids []string
		for _, n := range names {
			p := Package{Name: n, Version: rapid.StringMatching(`([0-9]:)?[0-9][A-Za-z0-9.+~:-]{0,6}`).Draw(t, "version"), Arch: rapid.SampledFrom([]string{"all", "amd64"}).Draw(t, "arch"),
				Source: n, SourceVersion: "1", Archive: "debian/trixie", Suite: "trixie", Path: "pool/" + n + ".deb",
				Size: rapid.Int64Range(1, 1<<62).Draw(t, "size"), SHA256: sha(n)}
			l.Packages = append(l.Packages, p)
			if rapid.Bool().Draw(t, "used") {
				ids = append(ids, p.ID())
			}
		}
		if len(ids) > 0 {
			reason := rapid.StringMatching(`[ -~é<>&"\\]{1,20}`).Draw(t, "reason")
			l.Closures = []Closure{{Set: "production", Platform: oci.Platform{OS: "linux", Architecture: "amd64"}, Packages: ids,
				Omitted: []OmittedItem{{"perl-base", reason, "tzdata"}}}}
		}
		if rapid.Bool().Draw(t, "no npm") {
			l.NPM = nil
		}
		if rapid.Bool().Draw(t, "no go") {
			l.Go = nil
		}
		if rapid.Bool().Draw(t, "no tools") {
			l.Tools = nil
		}
		l.Sort()
		return l
	})
}

func TestLockRoundTrip(t *testing.T) {
	gen := lockGen()
	rapid.Check(t, func(t *rapid.T) {
		l := gen.Draw(t, "lock")
		if err := l.Check(); err != nil {
			t.Fatal(err)
		}
		data := l.Encode()
		got, err := ParseLock(LockName, data)
		if err != nil {
			t.Fatalf("%v\n%s", err, data)
		}
		if diff := cmp.Diff(l, got); diff != "" {
			t.Fatal(diff)
		}
		if again := got.Encode(); !bytes.Equal(data, again) {
			t.Fatal("encoding is not stable")
		}
	})
}

func FuzzParseLock(f *testing.F) {
	good := sampleLock().Encode()
	f.Add(good)
	f.Add(good[:100])
	f.Add([]byte(`{"version": 2}`))
	f.Add([]byte(`{"version": 1, "packages": [{"name": "a"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := ParseLock(LockName, data)
		if err != nil {
			var all Errors
			if l != nil || !errors.As(err, &all) || len(all) == 0 {
				t.Fatalf("ParseLock = %v, %T", l, err)
			}
			return
		}
		out := l.Encode()
		again, err := ParseLock(LockName, out)
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if diff := cmp.Diff(l, again); diff != "" {
			t.Fatal(diff)
		}
		if !bytes.Equal(out, again.Encode()) {
			t.Fatal("encoding is not stable")
		}
	})
}

func BenchmarkParseLock(b *testing.B) {
	l := sampleLock()
	one := l.Packages[0]
	l.Packages, l.Closures = nil, nil
	for i := range 1000 {
		p := one
		p.Name = fmt.Sprintf("package%04d", i)
		l.Packages = append(l.Packages, p)
	}
	data := l.Encode()
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if _, err := ParseLock(LockName, data); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParse(b *testing.B) {
	data := read(b, "testdata/good/node-api.yaml")
	for b.Loop() {
		if _, err := Parse(FileName, data); err != nil {
			b.Fatal(err)
		}
	}
}
