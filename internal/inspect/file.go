package inspect

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"path"
	"strings"
	"unicode/utf8"

	"twinhull.dev/twinhull/internal/elfclosure"
)

// Sizes of what a worker holds. A worker is one goroutine reading one layer.
const (
	chunkSize  = 256 << 10 // read at a time; most files are one chunk
	wholeLimit = 24 << 20  // ELF files and zip archives up to this size are held whole
	keepLimit  = 64 << 20  // package databases
	smallLimit = 4 << 20   // package.json and the like
)

// content is what one regular file's bytes are. Only what matters later is
// kept, so that a million uninteresting files cost nothing.
type content struct {
	elf     *elfclosure.File
	static  bool   // an ELF program without a dynamic linker
	interp  string // of a script: the path behind #!
	argv    string // of a script: what follows the interpreter
	tools   []tool
	secrets []secret
	more    int // secrets beyond those kept
	pkgs    []Package
	marks   []mark // findings by content that are neither tools nor secrets
	keep    []byte // of the few files that are read as a whole: /etc/passwd, md5sums
	text    bool
	errs    []string
}

// mark is a finding that a file's contents alone tell.
type mark struct {
	rule, subject, detail string
	inside                string // path inside an archive
	folder                string // relative, where to draw such marks together; "" for the file itself
}

// empty says that nothing is known of the content that anybody asks for.
func (c *content) empty() bool {
	return c.elf == nil && c.interp == "" && len(c.tools)+len(c.secrets)+len(c.pkgs)+len(c.marks)+len(c.errs) == 0 && c.keep == nil
}

// fileInfo is what a file's header says.
type fileInfo struct {
	path string // relative, clean
	size int64  // -1 when it is not known before the end
	mode int64
	// dependency: the archive that the file lies in belongs to a dependency.
	dependency bool
}

// isDependency tells whether the file belongs to an installed dependency.
func (i fileInfo) isDependency() bool { return i.dependency || isDependency(i.path) }

// worker has the buffers and automata of one goroutine.
type worker struct {
	ctx    context.Context
	buf    []byte // chunkSize + what the text scan wants to see again
	whole  []byte // grows up to wholeLimit
	tools  *toolScan
	text   *textScan
	rules  *secretRules
	unpack unpackers
	ahead  [][]byte // buffers of readAhead
	inner  *worker  // for files inside archives, made when it is needed
	depth  int      // how many archives this worker's files lie in
	left   *budget  // of the archives that this worker's files lie in
}

func newWorker(ctx context.Context, rules *secretRules) *worker {
	return &worker{ctx: ctx, rules: rules, buf: make([]byte, textBehind+textAhead+chunkSize), tools: newToolScan(), text: newTextScan(rules)}
}

// within makes the worker for files inside archives ready.
func (w *worker) within(left *budget) {
	if w.inner == nil {
		w.inner = newWorker(w.ctx, w.rules)
		w.inner.depth = w.depth + 1
	}
	w.inner.left = left
}

// file reads one file to its end. An error is of the reader; what is wrong with
// the file itself is in the content.
func (w *worker) file(info fileInfo, r io.Reader) (*content, error) {
	c := &content{}
	if info.size == 0 {
		return c, nil
	}
	if err := w.ctx.Err(); err != nil {
		return nil, context.Cause(w.ctx)
	}
	head := w.buf[textBehind+textAhead:]
	n, err := io.ReadFull(r, head)
	ended := err == io.EOF || err == io.ErrUnexpectedEOF
	if err != nil && !ended {
		return nil, err
	}
	head = head[:n]
	if !ended && info.size == int64(n) {
		ended = true
	}
	f := &opened{w: w, info: info, r: r, head: head, ended: ended, c: c}
	if err := f.judge(); err != nil {
		return nil, err
	}
	// Whatever a detector left unread belongs to the file's digest.
	if !f.ended {
		if _, err := io.CopyBuffer(io.Discard, onlyReader{r}, w.buf[:chunkSize]); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// onlyReader hides WriterTo, so that the buffer is used.
type onlyReader struct{ io.Reader }

// opened is a file of which the first chunk has been read.
type opened struct {
	w     *worker
	info  fileInfo
	r     io.Reader
	head  []byte // in w.buf, behind room for the text scan
	ended bool   // head is the whole file
	c     *content
}

// rest is everything from the file's beginning.
func (f *opened) rest() io.Reader {
	if f.ended {
		return bytes.NewReader(f.head)
	}
	return io.MultiReader(bytes.NewReader(f.head), f.r)
}

// readAll returns the whole file when it has at most limit bytes. The bytes are
// the worker's and go with the next file.
func (f *opened) readAll(limit int) ([]byte, bool, error) {
	return f.readAllSeeing(limit, nil)
}

// readAllSeeing calls see, which may be nil, with each piece and its place as
// soon as it has been read, while the processor still has it at hand. Of a file
// that is larger than limit it has then seen what is returned.
func (f *opened) readAllSeeing(limit int, see func(b []byte, at int64)) ([]byte, bool, error) {
	if see == nil {
		see = func([]byte, int64) {}
	}
	if f.ended {
		see(f.head, 0)
		return f.head, len(f.head) <= limit, nil
	}
	if f.info.size > int64(limit) {
		return nil, false, nil
	}
	w := f.w
	if size := int(f.info.size); size > cap(w.whole) {
		w.whole = make([]byte, 0, size+size/8)
	}
	w.whole = append(w.whole[:0], f.head...)
	see(w.whole, 0)
	seen := len(w.whole)
	for {
		if len(w.whole) == cap(w.whole) {
			w.whole = append(w.whole, 0)[:len(w.whole)]
		}
		n, err := f.r.Read(w.whole[len(w.whole):min(cap(w.whole), limit+1)])
		w.whole = w.whole[:len(w.whole)+n]
		if len(w.whole)-seen >= chunkSize || err != nil || len(w.whole) > limit {
			see(w.whole[seen:], int64(seen))
			seen = len(w.whole)
		}
		if err == io.EOF {
			f.ended = true
			return w.whole, true, nil
		}
		if err != nil {
			return nil, false, err
		}
		if len(w.whole) > limit {
			return w.whole, false, nil
		}
	}
}

// judge tells what the file is by its first bytes and lets the detectors of
// that kind see the rest.
func (f *opened) judge() error {
	head := f.head
	switch {
	case len(head) == 0:
		return nil
	case elfclosure.IsELF(head) && len(head) >= 20:
		return f.elfFile()
	case bytes.HasPrefix(head, []byte("MZ")) && len(head) > 64:
		return f.peFile()
	case f.wantsWhole():
		return f.database()
	}
	if kind := archiveKind(head); kind != "" {
		return f.archive(kind)
	}
	switch {
	case bytes.HasPrefix(head, []byte("!<arch>\n")):
		if bytes.HasPrefix(head[8:], []byte("debian-binary")) {
			f.c.marks = append(f.c.marks, mark{rule: RulePackageCache, subject: "Debian package", detail: "the file is a Debian package"})
		} else {
			f.c.marks = append(f.c.marks, mark{rule: RuleHeaders, subject: "static library"})
		}
		return nil
	case bytes.HasPrefix(head, []byte{0xed, 0xab, 0xee, 0xdb}):
		f.c.marks = append(f.c.marks, mark{rule: RulePackageCache, subject: "RPM package", detail: "the file is an RPM package"})
		return nil
	case bytes.HasPrefix(head, []byte("PACK\x00\x00\x00\x02")):
		f.c.marks = append(f.c.marks, mark{rule: RuleVCS, subject: "git pack", detail: "the file is a pack of git objects"})
		return nil
	case bytes.HasPrefix(head, []byte("7z\xbc\xaf\x27\x1c")), bytes.HasPrefix(head, []byte("Rar!\x1a\x07")), bytes.HasPrefix(head, []byte("\x04\x22\x4d\x18")), bytes.HasPrefix(head, []byte("hsqs")):
		f.c.errs = append(f.c.errs, "an archive of a kind that is not read (7z, rar, lz4 or squashfs)")
		return nil
	}
	if isText(head) {
		return f.textFile()
	}
	if bytes.HasPrefix(head, []byte("#!")) && bytes.Contains(head, []byte("PK\x03\x04")) {
		f.shebang()
		b, whole, err := f.readAll(wholeLimit)
		if err != nil {
			return err
		}
		if whole {
			f.appended(b)
		} else {
			f.c.errs = append(f.c.errs, "a script with an archive behind it, larger than is looked into")
		}
	}
	return nil
}

// archiveKind names what can be looked into.
func archiveKind(head []byte) string {
	switch {
	case bytes.HasPrefix(head, []byte("PK\x03\x04")), bytes.HasPrefix(head, []byte("PK\x05\x06")):
		return "zip"
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b, 8}):
		return "gzip"
	case bytes.HasPrefix(head, []byte("\xfd7zXZ\x00")):
		return "xz"
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return "zstd"
	case bytes.HasPrefix(head, []byte("BZh")) && len(head) > 10 && string(head[4:10]) == "1AY&SY":
		return "bzip2"
	case bytes.HasPrefix(head, []byte("070701")), bytes.HasPrefix(head, []byte("070702")):
		return "cpio"
	case isTar(head):
		return "tar"
	}
	return ""
}

func isTar(head []byte) bool {
	return len(head) >= 512 && string(head[257:262]) == "ustar"
}

// isText tells text from data by its first bytes: no zero byte, hardly any
// control characters. UTF-16 has a mark at its beginning.
func isText(head []byte) bool {
	if len(head) >= 2 && (head[0] == 0xff && head[1] == 0xfe || head[0] == 0xfe && head[1] == 0xff) {
		return true
	}
	head = head[:min(len(head), 4096)]
	control := 0
	for _, c := range head {
		switch {
		case c == 0:
			return false
		case c < 0x20 && c != '\n' && c != '\r' && c != '\t' && c != '\f' && c != 0x1b && c != '\b':
			control++
		}
	}
	if control*20 > len(head) {
		return false
	}
	if utf8.Valid(head[:max(0, len(head)-3)]) {
		return true
	}
	high := 0
	for _, c := range head {
		if c >= 0x80 {
			high++
		}
	}
	return high*3 < len(head) // Latin-1 and its like
}

// textFile streams a text through the rules.
func (f *opened) textFile() error {
	f.c.text = true
	head := f.head
	f.shebang()
	if bytes.HasPrefix(head, []byte("ref: refs/")) && path.Base(f.info.path) == "HEAD" && len(head) < 256 {
		f.c.marks = append(f.c.marks, mark{rule: RuleVCS, subject: "git repository", detail: "the folder holds a git repository"})
	}
	if envFile(f.info.path) && bytes.IndexByte(head, '=') > 0 && (!f.info.isDependency() || strings.HasPrefix(path.Base(f.info.path), ".env")) {
		f.c.marks = append(f.c.marks, mark{rule: RuleEnvFile, subject: path.Base(f.info.path)})
		for _, s := range envSecrets(head) {
			f.c.secrets = append(f.c.secrets, s)
		}
	}
	t := f.w.text
	t.reset(f.info.path, f.info.dependency)
	if t.skip {
		return nil // tests, examples and documentation of dependencies
	}
	wide := len(head) >= 2 && (head[0] == 0xff && head[1] == 0xfe || head[0] == 0xfe && head[1] == 0xff)
	const room = textBehind + textAhead
	window, base, from := f.head, int64(0), 0
	for {
		if wide {
			window = append(window[:from], bytes.ReplaceAll(window[from:], []byte{0}, nil)...)
		}
		t.feed(window, base, from, f.ended)
		if f.ended {
			break
		}
		keep := min(len(window), room)
		base += int64(len(window) - keep)
		copy(f.w.buf[room-keep:room], window[len(window)-keep:])
		n, err := io.ReadFull(f.r, f.w.buf[room:])
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			f.ended = true
		} else if err != nil {
			return err
		}
		window, from = f.w.buf[room-keep:room+n], keep
	}
	f.c.secrets = append(f.c.secrets, t.found...)
	f.c.more = t.more
	f.c.tools = append(f.c.tools, t.tools()...)
	return nil
}

// shebang reads the first line of a script.
func (f *opened) shebang() {
	if !bytes.HasPrefix(f.head, []byte("#!")) {
		return
	}
	line, _, _ := bytes.Cut(f.head[2:min(len(f.head), 512)], []byte("\n"))
	if fields := strings.Fields(string(line)); len(fields) > 0 {
		f.c.interp = fields[0]
		f.c.argv = strings.Join(fields[1:], " ")
	}
}

// envSecrets reads NAME=VALUE lines.
func envSecrets(b []byte) []secret {
	var out []secret
	n := 0
	at := int64(0)
	for line := range bytes.Lines(b) {
		n++
		from := at
		at += int64(len(line))
		name, value, ok := strings.Cut(strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(string(line)), "export ")), "=")
		if !ok || strings.HasPrefix(name, "#") || !secretVariable(name, value) {
			continue
		}
		value = strings.Trim(value, `"'`)
		out = append(out, secret{rule: "env-" + strings.ToLower(name), fingerprint: fingerprint("env", value), line: n, rank: 2, from: from, to: at, tail: fmt.Sprintf("%s of %d characters", name, len(value))})
		if len(out) >= maxSecrets {
			break
		}
	}
	return out
}

// peFile looks for tools in a Windows executable, which .NET assemblies are.
func (f *opened) peFile() error {
	scan := f.w.tools
	scan.reset()
	b, whole, err := f.readAll(wholeLimit)
	switch {
	case err != nil:
		return err
	case whole:
		scan.feed(b)
		f.appended(b)
	case b != nil: // longer than its header said
		scan.feed(b)
		if err := f.streamFrom(int64(len(b)), func(b []byte, _ int64) { scan.feed(b) }); err != nil {
			return err
		}
	default:
		if err := f.stream(func(b []byte, _ int64) { scan.feed(b) }); err != nil {
			return err
		}
	}
	f.c.tools = append(f.c.tools, scan.tools(nil, false)...)
	return nil
}

// stream gives the whole file in chunks.
func (f *opened) stream(see func(b []byte, at int64)) error {
	see(f.head, 0)
	return f.streamFrom(int64(len(f.head)), see)
}

// streamFrom gives what follows the first at bytes, which have been read.
func (f *opened) streamFrom(at int64, see func(b []byte, at int64)) error {
	buf := f.w.buf[textBehind+textAhead:]
	for !f.ended {
		n, err := io.ReadFull(f.r, buf)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			f.ended = true
		} else if err != nil {
			return err
		}
		see(buf[:n], at)
		at += int64(n)
	}
	return nil
}
