// Package registry holds the registry's protocol against another program that
// speaks it: olareg, which passes the whole of the OCI conformance tests.
package registry

import (
	"flag"
	"net/http/httptest"
	"os"
	"testing"

	"github.com/olareg/olareg"
	"github.com/olareg/olareg/config"

	"twinhull.dev/twinhull/internal/registry/distribution/conformance"
)

// A few seconds of sequences, unless somebody asks for more (-rapid.checks).
func TestMain(m *testing.M) {
	flag.Parse()
	asked := false
	flag.Visit(func(f *flag.Flag) { asked = asked || f.Name == "rapid.checks" })
	if !asked {
		flag.Set("rapid.checks", "250")
	}
	os.Exit(m.Run())
}

// oracle serves olareg from memory until the test ends.
func oracle(t testing.TB) *httptest.Server {
	t.Helper()
	yes := true
	o := olareg.New(config.Config{
		Storage: config.ConfigStorage{StoreType: config.StoreMem, GC: config.ConfigGC{Frequency: -1, RepoUploadMax: -1}},
		API:     config.ConfigAPI{DeleteEnabled: &yes, Blob: config.ConfigAPIBlob{DeleteEnabled: &yes}},
	})
	srv := httptest.NewServer(o)
	t.Cleanup(func() { srv.Close(); o.Close() })
	return srv
}

// The suite is about the specification and not about us: another registry passes
// it, but for what is known.
func TestOracleConforms(t *testing.T) {
	srv := oracle(t)
	conformance.Run(t, conformance.Target{URL: srv.URL, Client: srv.Client(), Lenient: true, Deviations: map[string]string{
		"end-2/blob-ranges":             "refuses a Range of an unknown unit with 416, which a server must ignore (RFC 9110, 14.2)",
		"end-2/conditional":             "sends no entity tags, which the specification does not ask for",
		"end-3/conditional":             "sends no entity tags, which the specification does not ask for",
		"end-6/unknown-upload":          "answers 400 where the table of end-points has 404",
		"uploads/cancel":                "answers 400 where the table of end-points has 404",
		"uploads/of-another-repository": "answers 400 where the table of end-points has 404",
		"http/continue":                 "answers 400 where the table of end-points has 404",
		"end-7/large":                   "cuts a manifest that comes without a length off at its limit, and then finds it invalid: 400, not 413",
		"end-8/list-tags":               "panics at n=0",
		"end-8/unknown-repository":      "lists no tags of a repository that is not there, with 200",
		"end-12/nothing":                "answers 200 to a digest with an invalid syntax, where 400 is a MUST",
		"errors/method":                 "sends no Allow header with 405",
	}})
}
