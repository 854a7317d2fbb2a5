package server

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"
)

// certificate serves with a certificate that is read again when its files
// change. Files that cannot be used leave the certificate that was there.
type certificate struct {
	files TLS
	log   *slog.Logger
	now   func() time.Time
	have  atomic.Pointer[tls.Certificate]
	state string // of the files that were looked at last
}

func newCertificate(files TLS, log *slog.Logger, now func() time.Time) (*certificate, error) {
	c := &certificate{files: files, log: log, now: now, state: fileState(files.Certificate, files.Key)}
	one, err := c.read()
	if err != nil {
		return nil, err
	}
	c.have.Store(one)
	return c, nil
}

func (c *certificate) read() (*tls.Certificate, error) {
	one, err := tls.LoadX509KeyPair(c.files.Certificate, c.files.Key)
	if err != nil {
		return nil, fmt.Errorf("TLS certificate: %w", err)
	}
	if one.Leaf == nil {
		if one.Leaf, err = x509.ParseCertificate(one.Certificate[0]); err != nil {
			return nil, fmt.Errorf("TLS certificate: %s: %w", c.files.Certificate, err)
		}
	}
	if !c.now().Before(one.Leaf.NotAfter) {
		return nil, fmt.Errorf("TLS certificate: %s expired on %s", c.files.Certificate, one.Leaf.NotAfter.Format(time.DateOnly))
	}
	return &one, nil
}

// refresh looks at the files. It must not be called by two at once.
func (c *certificate) refresh() {
	state := fileState(c.files.Certificate, c.files.Key)
	if state == c.state {
		return
	}
	one, err := c.read()
	if err != nil {
		// The two files are often replaced one after the other: what is here stays,
		// and the next look may find both. state is kept, so that it looks again.
		c.log.Error("the new TLS certificate cannot be used, the old one stays", "error", err)
		return
	}
	c.state = state
	c.have.Store(one)
	c.log.Info("TLS certificate read again", "expires", one.Leaf.NotAfter)
}

// expires is when the certificate that is served with does.
func (c *certificate) expires() time.Time { return c.have.Load().Leaf.NotAfter }

func (c *certificate) config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return c.have.Load(), nil
		},
	}
}

// fileState changes when one of the files does, or what its name leads to.
func fileState(paths ...string) string {
	var s string
	for _, p := range paths {
		fi, err := os.Stat(p)
		if err != nil {
			s += p + " is missing\n"
			continue
		}
		s += fmt.Sprintf("%s %d %d %v\n", p, fi.Size(), fi.ModTime().UnixNano(), inode(fi))
	}
	return s
}
