package debfile

import (
	"errors"
	"fmt"
	"io"
	"strings"
)

// arReader reads the ar archive that a .deb is, as deb(5) restricts it: plain
// member names of at most 16 bytes, no symbol or name tables.
type arReader struct {
	r    io.Reader
	left int64 // bytes of the current member not yet read
	pad  bool  // the current member has odd length: one newline follows it
}

const arMagic = "!<arch>\n"

func newArReader(r io.Reader) (*arReader, error) {
	var magic [len(arMagic)]byte
	if _, err := io.ReadFull(r, magic[:]); err != nil {
		return nil, arError("the archive's first line", err)
	}
	if string(magic[:]) != arMagic {
		return nil, fmt.Errorf("not a Debian package: it begins with %q, not with %q", magic[:], arMagic)
	}
	return &arReader{r: r}, nil
}

// next skips to the next member and returns its name and length in bytes, or
// io.EOF after the last.
func (a *arReader) next() (name string, size int64, err error) {
	if _, err := io.Copy(io.Discard, a); err != nil {
		return "", 0, err
	}
	if a.pad {
		var b [1]byte
		if _, err := io.ReadFull(a.r, b[:]); err != nil {
			return "", 0, arError("the padding of a member", err)
		}
		if b[0] != '\n' {
			return "", 0, fmt.Errorf("damaged ar archive: a member is padded with %q instead of a newline", b[:])
		}
		a.pad = false
	}
	var h [60]byte
	if n, err := io.ReadFull(a.r, h[:]); err != nil {
		if n == 0 && err == io.EOF {
			return "", 0, io.EOF
		}
		return "", 0, arError("a member's header", err)
	}
	if h[58] != '`' || h[59] != '\n' {
		return "", 0, fmt.Errorf("damaged ar archive: a member's header ends with %q", h[58:])
	}
	name = strings.TrimRight(string(h[:16]), " ")
	name = strings.TrimSuffix(name, "/") // GNU ar's spelling
	if name == "" || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '/' }) {
		return "", 0, fmt.Errorf("damaged ar archive: member name %q", h[:16])
	}
	digits := strings.TrimRight(string(h[48:58]), " ")
	for _, c := range []byte(digits) {
		if c < '0' || c > '9' {
			return "", 0, fmt.Errorf("damaged ar archive: member %s has length %q", name, h[48:58])
		}
		size = size*10 + int64(c-'0')
	}
	if digits == "" {
		return "", 0, fmt.Errorf("damaged ar archive: member %s has no length", name)
	}
	a.left, a.pad = size, size%2 == 1
	return name, size, nil
}

// Read reads the current member.
func (a *arReader) Read(b []byte) (int, error) {
	if a.left == 0 {
		return 0, io.EOF
	}
	if int64(len(b)) > a.left {
		b = b[:a.left]
	}
	n, err := a.r.Read(b)
	a.left -= int64(n)
	if err == io.EOF && a.left > 0 {
		return n, arError("a member", err)
	}
	if err == io.EOF {
		err = nil // the archive's end, not the member's: the next call says so
	}
	return n, err
}

func arError(where string, err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("truncated ar archive: it ends inside %s: %w", where, io.ErrUnexpectedEOF)
	}
	return err
}
