package server

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/registry/access"
)

// Config is everything that a server is told, complete before it is used. Default
// returns one to start from; ReadConfig fills it from a file. It holds no secret:
// secrets are in files or in the environment, and it says where.
type Config struct {
	// Listen is the address of the registry and of everything under /twinhull/.
	// Without TLS it must be this machine's own (loopback).
	Listen string

	// Metrics is the address of /metrics, /healthz and /readyz besides; "" for
	// Listen only, where /metrics then wants the scope "operate".
	Metrics string

	// Hosts are the public names, HOST or HOST:PORT, under which clients know the
	// registry. The first begins the resourceUri of every summary that it signs.
	// nil: the address that it listens on.
	Hosts []string

	// InsecurePlainHTTP allows an address that others reach without TLS: whoever is
	// on the way reads passwords and changes images.
	InsecurePlainHTTP bool

	TLS TLS

	// Data is the folder of everything that is kept on this machine.
	Data string

	Storage   Storage
	Audit     AuditLog
	Access    Access
	Retention Retention
	Release   Release
	Limits    Limits
	Log       Log
}

// TLS is the certificate to serve with; both files or none. Changed files are
// read again.
type TLS struct {
	Certificate string // PEM file: the certificate, then those that lead to a root
	Key         string // PEM file of its private key
}

// Storage is where records and blobs are kept; the zero value is in Data.
type Storage struct {
	Postgres Postgres
	S3       S3
}

// Postgres keeps the records in a database, so that several servers can serve
// one registry. Zero: in a file of Data.
type Postgres struct {
	URLFile     string // file with the connection string, password included
	URLVariable string // or an environment variable with it
}

func (p Postgres) used() bool { return p != (Postgres{}) }

// S3 keeps the blobs in a bucket. Zero: in files of Data.
type S3 struct {
	Endpoint    string // URL of the service; "": Amazon's of the region
	Region      string // "": us-east-1
	Bucket      string
	Prefix      string // before every key, with a slash at its end; may be ""
	KeyIDFile   string // file with the access key's identifier; "": AWS_ACCESS_KEY_ID
	SecretFile  string // file with its secret; "": AWS_SECRET_ACCESS_KEY
	PathStyle   bool   // the bucket is in the path and not in the host name
	Redirect    bool   // clients fetch blobs from the bucket themselves
	URLEndpoint string // how clients reach it, if not as Endpoint
}

func (s S3) used() bool { return s != (S3{}) }

// AuditLog is the log of decisions.
type AuditLog struct {
	Dir       string    // "": log in Data
	Name      string    // of this installation in a new log's origin, for ever; "": one is invented
	Witnesses []Witness // asked to cosign each checkpoint
	Quorum    int       // how many of them must have before it is published; 0: none must
	Anchors   []string  // files of checkpoints known from elsewhere, which the log must cover

	// Elsewhere says that another server of the same database and bucket has the
	// log. This one then serves pushes and pulls; it releases, revokes, erases and
	// collects nothing.
	Elsewhere bool
}

// Witness is somebody who signs what he has seen of the log.
type Witness struct {
	Name string // for messages
	URL  string
	Key  string // its verifier key, NAME+HASH+KEY
}

// Access is who may do what. The zero Access allows nothing to anybody.
type Access struct {
	// AnonymousDevelopment opens every development catalog to everybody: pull, push
	// and delete. For tests, and for one's own machine.
	AnonymousDevelopment bool

	Users   string         // htpasswd file; read again when it changes
	Tokens  []access.Token // by the hash alone
	Issuers []Issuer       // of OIDC tokens
	Grants  []access.Grant
	Proxies []netip.Prefix // whose X-Forwarded-For header is believed
}

// Issuer is access.Issuer and where its keys are.
type Issuer struct {
	access.Issuer
	KeysFile string // a JSON Web Key Set; or
	KeysURL  string // its address; neither: discovered from the issuer's URL
}

// Retention is how long what is not permanent is kept.
type Retention struct {
	Development  time.Duration // images of NAME/dev, after the last push
	Candidate    time.Duration // images of NAME/candidate, after the push
	Unreferenced time.Duration // blobs that nothing refers to, and uploads that nobody continues
	Keep         []string      // patterns of development tags that are kept for ever
	Every        time.Duration // between two collections; 0: none is begun by itself
}

// Release is how candidates are judged and what is signed.
type Release struct {
	Policy          string // file; "": the built-in policy
	Trust           string // file: who is believed; "": nobody, so that nothing is released
	Vulnerabilities string // folder of the database; "": none, so that nothing is released

	// Key signs summaries: a private key file, or a key management service's
	// reference. "": a key that is made in Data on the first start.
	Key          string
	PasswordFile string // file with the key's password; "": TWINHULL_KEY_PASSWORD, or none

	// Foreign are the hosts of other registries that a release may go to, with
	// ports as images are named. Credentials are those of the Docker configuration.
	Foreign []string
}

// Limits bound what clients may cost. 0 is no limit.
type Limits struct {
	Requests float64       // a second, of one identity or address
	Burst    int           // at once
	Blob     int64         // largest blob, in bytes
	Stall    time.Duration // without a byte from or to a client, before it is given up
	Shutdown time.Duration // for requests that run when the server is told to stop
}

// Log is what the server tells while it runs, on standard error.
type Log struct {
	Format string // "text" or "json"
	Level  string // "debug", "info", "warn" or "error"
}

// Default is what a server does when it is told nothing.
func Default() Config {
	return Config{
		Listen: "127.0.0.1:5000",
		Retention: Retention{
			Development: 7 * 24 * time.Hour, Candidate: 30 * 24 * time.Hour, Unreferenced: 24 * time.Hour,
			Keep: []string{"main"}, Every: 15 * time.Minute,
		},
		Limits:  Limits{Stall: time.Minute, Shutdown: 30 * time.Second},
		Log:     Log{Format: "text", Level: "info"},
		Storage: Storage{S3: S3{}},
	}
}

// Check finds what contradicts itself. Files are looked at later.
func (c Config) Check() error {
	switch {
	case c.Data == "":
		return fmt.Errorf("no folder to keep everything in\nhint: --data DIR, or data: in the configuration")
	case (c.TLS.Certificate == "") != (c.TLS.Key == ""):
		return fmt.Errorf("tls: want certificate and key, or neither")
	}
	loopback, err := checkAddress("listen", c.Listen)
	if err != nil {
		return err
	}
	if !loopback && c.TLS.Certificate == "" && !c.InsecurePlainHTTP {
		return fmt.Errorf("listen: %s is reached from elsewhere, and there is no TLS\nhint: give tls: certificate and key, listen on 127.0.0.1, or, behind a proxy that has the certificate, say --insecure-plain-http", c.Listen)
	}
	if c.Metrics != "" {
		if _, err := checkAddress("metrics", c.Metrics); err != nil {
			return err
		}
	}
	for name, all := range map[string][]string{"hosts": c.Hosts, "release.foreign": c.Release.Foreign} {
		for _, h := range all {
			if err := checkHost(h); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	if p := c.Storage.Postgres; p.used() && (p.URLFile == "") == (p.URLVariable == "") {
		return fmt.Errorf("storage.postgres: want urlFile or urlVariable")
	}
	if s := c.Storage.S3; s.used() {
		if s.Bucket == "" {
			return fmt.Errorf("storage.s3: bucket is missing")
		}
		if (s.KeyIDFile == "") != (s.SecretFile == "") {
			return fmt.Errorf("storage.s3: want keyIDFile and secretFile, or neither")
		}
	} else if c.Storage.Postgres.used() {
		return fmt.Errorf("storage.postgres: blobs in files of one server would be missing to the others: want storage.s3 too")
	}
	if c.Audit.Elsewhere && !(c.Storage.Postgres.used() && c.Storage.S3.used()) {
		return fmt.Errorf("audit.elsewhere: is for several servers on one database and bucket: want storage.postgres and storage.s3")
	}
	if c.Audit.Quorum < 0 || c.Audit.Quorum > len(c.Audit.Witnesses) {
		return fmt.Errorf("audit.quorum: %d of %d witnesses", c.Audit.Quorum, len(c.Audit.Witnesses))
	}
	for name, d := range map[string]time.Duration{
		"development": c.Retention.Development, "candidate": c.Retention.Candidate, "unreferenced": c.Retention.Unreferenced,
	} {
		if d <= 0 {
			return fmt.Errorf("retention.%s: want more than zero", name)
		}
	}
	if c.Retention.Unreferenced < time.Minute {
		return fmt.Errorf("retention.unreferenced: %v: a push whose blobs are collected before its manifest comes fails: want a minute at least", c.Retention.Unreferenced)
	}
	if !slices.Contains(formats, c.Log.Format) || !slices.Contains(levels, c.Log.Level) {
		return fmt.Errorf("log: want format %s and level %s", strings.Join(formats, " or "), strings.Join(levels, ", "))
	}
	if _, err := access.Compile(c.grants()); err != nil {
		return fmt.Errorf("access: %w", err)
	}
	return nil
}

var (
	formats = []string{"text", "json"}
	levels  = []string{"debug", "info", "warn", "error"}
)

// grants are the configured ones and what AnonymousDevelopment stands for.
func (c Config) grants() []access.Grant {
	all := slices.Clone(c.Access.Grants)
	if c.Access.AnonymousDevelopment {
		all = append(all, access.Grant{To: []string{access.Anybody}, Repositories: []string{"**"}, May: []access.Scope{
			{Verb: access.Pull, Catalog: "development"}, {Verb: access.Push, Catalog: "development"}, {Verb: access.Delete, Catalog: "development"},
		}})
	}
	return all
}

// logDir is the folder of the audit log.
func (c Config) logDir() string {
	if c.Audit.Dir != "" {
		return c.Audit.Dir
	}
	return filepath.Join(c.Data, "log")
}

// host is the public name that summaries are signed for.
func (c Config) host() string {
	if len(c.Hosts) > 0 {
		return c.Hosts[0]
	}
	host, port, _ := net.SplitHostPort(c.Listen)
	if a, err := netip.ParseAddr(host); host == "" || err == nil && a.IsUnspecified() {
		host = "localhost" // the only name that is sure to lead here
	}
	return net.JoinHostPort(host, port)
}

// checkAddress tells whether an address is this machine's own only.
func checkAddress(name, s string) (loopback bool, err error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil || port == "" {
		return false, fmt.Errorf("%s: %q: want ADDRESS:PORT, such as 127.0.0.1:5000 or :5000", name, s)
	}
	if host == "localhost" {
		return true, nil
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback(), nil
}

func checkHost(h string) error {
	ref, err := oci.ParseRef(h + "/x")
	if err != nil || ref.Kind != oci.RegistryRef || ref.Host != h {
		return fmt.Errorf("%q: want HOST or HOST:PORT, as images are named with it", h)
	}
	return nil
}
