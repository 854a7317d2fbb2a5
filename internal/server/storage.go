package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"twinhull.dev/twinhull/internal/registry/store"
	"twinhull.dev/twinhull/internal/registry/store/files"
	"twinhull.dev/twinhull/internal/registry/store/postgres"
	"twinhull.dev/twinhull/internal/registry/store/s3"
)

// opened is the store that a configuration names.
type opened struct {
	store.Store
	files *files.Files // nil: nothing of it is in files
	rest  string       // what of it is elsewhere; "" for nothing
	close func() error
}

// openStore opens the store: records and blobs in files, blobs in a bucket beside
// records in files, or a database and a bucket.
func openStore(ctx context.Context, c Config, getenv func(string) string) (*opened, error) {
	o := &opened{}
	if !c.Storage.Postgres.used() {
		f, err := files.Open(filepath.Join(c.Data, "store"), files.Options{})
		if err != nil {
			return nil, err
		}
		o.Store, o.files, o.close = f.Store(), f, f.Close
	} else {
		// No store locks the folder, and two servers' sockets and keys are there.
		unlock, err := lockData(c.Data)
		if err != nil {
			return nil, err
		}
		url, err := c.Storage.Postgres.url(getenv)
		if err == nil {
			o.Records, err = postgres.Open(ctx, url)
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("storage.postgres: %w", err), unlock())
		}
		o.rest = "the database and the bucket"
		o.close = func() error { return errors.Join(o.Records.Close(), unlock()) }
	}
	if c.Storage.S3.used() {
		b, err := openBucket(ctx, c.Storage.S3)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("storage.s3: %w", err), o.close())
		}
		o.Store = b.Store(o.Records)
		o.rest = cmp.Or(o.rest, "the bucket")
	}
	return o, nil
}

func lockData(dir string) (func() error, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o640)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: another server uses this folder: stop it, or give this one a folder of its own", dir)
	}
	return f.Close, nil
}

// url is the connection string, which is a secret.
func (p Postgres) url(getenv func(string) string) (string, error) {
	if p.URLVariable != "" {
		if v := getenv(p.URLVariable); v != "" {
			return v, nil
		}
		return "", fmt.Errorf("the environment variable %s is empty", p.URLVariable)
	}
	return readSecret(p.URLFile)
}

// maxSecret bounds files of secrets, in bytes.
const maxSecret = 64 << 10

func readSecret(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	b, err := readLimited(path, maxSecret)
	return strings.TrimSpace(string(b)), err
}

func openBucket(ctx context.Context, c S3) (*s3.Bucket, error) {
	o := s3.Options{Bucket: c.Bucket, Prefix: c.Prefix, Region: c.Region, Endpoint: c.Endpoint, PathStyle: c.PathStyle, URLEndpoint: c.URLEndpoint, NoURLs: !c.Redirect}
	var err error
	if o.AccessKey, err = readSecret(c.KeyIDFile); err != nil {
		return nil, err
	}
	if o.SecretKey, err = readSecret(c.SecretFile); err != nil {
		return nil, err
	}
	return s3.Open(ctx, o)
}

// check looks at what the store itself can tell of its state.
func (o *opened) check(ctx context.Context) error {
	if o.files == nil {
		return nil
	}
	if err := o.files.Check(ctx); err != nil {
		return fmt.Errorf("records: %w", err)
	}
	return nil
}
