package build

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode/utf8"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"twinhull.dev/twinhull/internal/durable"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/project"
)

// InputFile is one file of the project that an action reads.
type InputFile struct {
	Path   string     `json:"path"`           // project path
	Exec   bool       `json:"exec,omitempty"` // the only mode bit that a checkout keeps on every machine
	Link   string     `json:"link,omitempty"` // target, for symbolic links
	Size   int64      `json:"size"`
	SHA256 oci.Digest `json:"sha256,omitempty"`
}

// source reads the files of a project, each once, and remembers their hashes
// between runs by size, times and inode as git does. It sees neither what git
// keeps for itself nor what Twinhull makes. It may be used by several
// goroutines.
type source struct {
	mu    sync.Mutex // of all below that changes
	dir   string
	memo  map[string]memoEntry
	fresh map[string]memoEntry
	now   time.Time
	files []string                 // all project paths, sorted; nil before the first walk
	shut  map[string]error         // folders that could not be read
	open  func() (*os.Root, error) // the project's folder as a root that links cannot lead out of
}

type memoEntry struct {
	Size, MTime, CTime int64
	Inode              uint64
	Exec               bool
	SHA256             string
}

func memoPath(dir string) string { return filepath.Join(dir, stateDir, "hashes.json") }

// stateDir is the project's folder for what Twinhull makes.
const stateDir = ".twinhull"

func openSource(dir string, now time.Time) *source {
	s := &source{dir: dir, memo: map[string]memoEntry{}, fresh: map[string]memoEntry{}, shut: map[string]error{}, now: now}
	s.open = sync.OnceValues(func() (*os.Root, error) {
		root, err := os.OpenRoot(dir)
		if err != nil {
			return nil, fmt.Errorf("the project's folder: %w", err)
		}
		return root, nil
	})
	if b, err := os.ReadFile(memoPath(dir)); err == nil {
		_ = json.Unmarshal(b, &s.memo) // a damaged memory only costs hashing again
	}
	return s
}

// save keeps the hashes. An entry whose file changed within the last two
// seconds is left out: another change in the same tick would go unseen.
func (s *source) save() error {
	for p, e := range s.fresh {
		if s.now.UnixNano()-max(e.MTime, e.CTime) < 2*int64(time.Second) {
			delete(s.fresh, p)
		}
	}
	b, err := json.Marshal(s.fresh)
	if err != nil {
		return err
	}
	if old, err := os.ReadFile(memoPath(s.dir)); err == nil && string(old) == string(b) {
		return nil
	}
	if err := makeFolders(s.dir, stateDir); err != nil {
		return err
	}
	return durable.WriteFile(memoPath(s.dir), b, 0o600)
}

// walk lists the project's files. Folders that can never hold inputs are not
// entered.
func (s *source) walk() error {
	if s.files != nil {
		return nil
	}
	files := []string{}
	err := filepath.WalkDir(s.dir, func(p string, d fs.DirEntry, err error) error {
		rel, relErr := filepath.Rel(s.dir, p)
		if relErr != nil {
			return relErr
		}
		rel = filepath.ToSlash(rel)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // gone between listing and looking: an editor's temporary
		case errors.Is(err, fs.ErrPermission) && rel != ".":
			s.shut[rel] = err // of no concern until a step asks for what may be in it
			return fs.SkipDir
		case err != nil:
			return err
		case d.IsDir():
			switch path.Base(rel) {
			case ".git", ".hg", ".svn", stateDir, "node_modules":
				return fs.SkipDir
			}
			return nil
		case d.Type().IsRegular() || d.Type()&fs.ModeSymlink != 0:
			files = append(files, rel) // sockets, devices and pipes are never inputs
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("reading the project: %w", err)
	}
	sort.Strings(files)
	s.files = files
	return nil
}

// match returns the files that a step's input patterns name, in byte order of
// their paths. A pattern that names nothing is an error: it is misspelt, or
// what it names has not been made.
func (s *source) match(step string, patterns []string) ([]InputFile, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.walk(); err != nil {
		return nil, err
	}
	all, err := project.ParsePatterns(patterns)
	if err != nil {
		return nil, fmt.Errorf("build.steps.%s.inputs: %w", step, err)
	}
	for _, dir := range sortedKeys(s.shut) {
		if all.MayContain(dir) {
			return nil, fmt.Errorf("build.steps.%s.inputs: %s may hold inputs, but %w: make it readable, or exclude it with \"!%s\"", step, dir, s.shut[dir], dir)
		}
	}
	var out []InputFile
	for _, p := range s.files {
		if all.Match(p) {
			f, err := s.hashed(p)
			if err != nil {
				return nil, err
			}
			out = append(out, f)
		}
	}
	for _, one := range patterns {
		if strings.HasPrefix(one, "!") {
			continue
		}
		single, err := project.ParsePatterns([]string{one})
		if err != nil {
			return nil, err
		}
		found := false
		for _, p := range s.files {
			if found = single.Match(p); found {
				break
			}
		}
		if !found {
			return nil, fmt.Errorf("build.steps.%s.inputs: %q names no file of the project (folders of git, node_modules and %s are never inputs)", step, one, stateDir)
		}
	}
	return out, nil
}

// file hashes one file of the project, or takes its hash from memory. A path
// that leads out of the project through links is refused.
func (s *source) file(rel string) (InputFile, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hashed(rel)
}

func (s *source) hashed(rel string) (InputFile, error) {
	if !utf8.ValidString(rel) {
		return InputFile{}, fmt.Errorf("%q: its name is not UTF-8, so that no record could name it: rename it", rel)
	}
	root, err := s.open()
	if err != nil {
		return InputFile{}, err
	}
	fi, err := root.Lstat(filepath.FromSlash(rel))
	if errors.Is(err, fs.ErrNotExist) {
		return InputFile{}, fmt.Errorf("%s: the project file names it, but it is not there", rel)
	}
	if err != nil {
		return InputFile{}, fmt.Errorf("%s: %w", rel, err)
	}
	if fi.Mode()&fs.ModeSymlink != 0 {
		target, err := root.Readlink(filepath.FromSlash(rel))
		if err != nil {
			return InputFile{}, err
		}
		if !utf8.ValidString(target) {
			return InputFile{}, fmt.Errorf("%s: a link to %q, which is not UTF-8", rel, target)
		}
		if path.IsAbs(target) || !filepath.IsLocal(path.Join(path.Dir(rel), target)) {
			return InputFile{}, fmt.Errorf("%s: a link to %s, which is outside the project: steps see only the project's own files", rel, target)
		}
		return InputFile{Path: rel, Link: target}, nil
	}
	if !fi.Mode().IsRegular() {
		return InputFile{}, fmt.Errorf("%s: not a regular file", rel)
	}
	e := memoOf(fi)
	if old, ok := s.memo[rel]; ok {
		sum := old.SHA256
		old.SHA256 = ""
		if old == e {
			e.SHA256 = sum
		}
	}
	if e.SHA256 == "" {
		f, err := root.OpenFile(filepath.FromSlash(rel), os.O_RDONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			return InputFile{}, fmt.Errorf("%s: %w", rel, err)
		}
		defer f.Close()
		h := sha256.New()
		if _, err := io.Copy(h, f); err != nil {
			return InputFile{}, fmt.Errorf("%s: %w", rel, err)
		}
		// The file is looked at again: what was hashed must be what the memory
		// will say it was.
		if fi, err := f.Stat(); err != nil || memoOf(fi) != e {
			return InputFile{}, fmt.Errorf("%s: changed while it was read: build again", rel)
		}
		e.SHA256 = hex.EncodeToString(h.Sum(nil))
	}
	s.fresh[rel] = e
	return InputFile{Path: rel, Exec: e.Exec, Size: e.Size, SHA256: digest.NewDigestFromEncoded(digest.SHA256, e.SHA256)}, nil
}

// memoOf is what a file's hash is remembered by.
func memoOf(fi fs.FileInfo) memoEntry {
	e := memoEntry{Size: fi.Size(), MTime: fi.ModTime().UnixNano(), Exec: fi.Mode()&0o111 != 0}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		e.CTime, e.Inode = syscall.TimespecToNsec(st.Ctim), st.Ino
	}
	return e
}

// maxProjectFile bounds the files that are read whole: manifests and lock files
// of package managers.
const maxProjectFile = 64 << 20

// readProjectFile reads a file of the project, which links must not lead out
// of. A missing one is fs.ErrNotExist.
func readProjectFile(dir, rel string) ([]byte, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := root.OpenFile(filepath.FromSlash(rel), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", rel, err)
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: not a regular file", rel)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxProjectFile+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", rel, err)
	}
	if len(b) > maxProjectFile {
		return nil, fmt.Errorf("%s: longer than %d bytes", rel, maxProjectFile)
	}
	return b, nil
}

// tree lists a file, or every file below a folder, of the project.
func (s *source) tree(rel string) ([]InputFile, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	root, err := s.open()
	if err != nil {
		return nil, err
	}
	fi, err := root.Lstat(filepath.FromSlash(rel))
	if err == nil && fi.IsDir() {
		if err := s.walk(); err != nil {
			return nil, err
		}
		for _, dir := range sortedKeys(s.shut) {
			if dir == rel || strings.HasPrefix(dir, rel+"/") {
				return nil, fmt.Errorf("%s: %w", dir, s.shut[dir])
			}
		}
		var out []InputFile
		for _, p := range s.files {
			if strings.HasPrefix(p, rel+"/") {
				f, err := s.hashed(p)
				if err != nil {
					return nil, err
				}
				out = append(out, f)
			}
		}
		if len(out) == 0 {
			return nil, fmt.Errorf("%s: the folder holds no file (folders of git, node_modules and %s do not count)", rel, stateDir)
		}
		return out, nil
	}
	f, err := s.hashed(rel)
	if err != nil {
		return nil, err
	}
	return []InputFile{f}, nil
}
