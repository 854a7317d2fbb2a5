package cli

import (
	"encoding/json"
	"fmt"
	"log"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"twinhull.dev/twinhull/internal/evidence"
	"twinhull.dev/twinhull/internal/gate"
	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/policy"
)

func results(t *testing.T, text string) gate.Results {
	t.Helper()
	var out gate.Results
	// Behind the document follows what is said on standard error.
	if err := json.NewDecoder(strings.NewReader(text)).Decode(&out); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return out
}

func outcomes(v policy.Verdict) map[string]policy.Outcome {
	m := map[string]policy.Outcome{}
	for _, r := range v.Rules {
		m[r.Rule] = r.Outcome
	}
	return m
}

// TestCheckRegistry judges an image where it is pushed, with claims that are
// there, and leaves its verdict there.
func TestCheckRegistry(t *testing.T) {
	d := newDesk(t)
	server := httptest.NewServer(registry.New(registry.Logger(log.New(t.Output(), "", 0)), registry.WithReferrersSupport(true)))
	defer server.Close()
	repository := strings.TrimPrefix(server.URL, "http://") + "/shop/app"
	path, err := layout.FromPath(d.store.Dir())
	if err != nil {
		t.Fatal(err)
	}
	idx, err := path.ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	hash, err := v1.NewHash(string(d.image.Digest))
	if err != nil {
		t.Fatal(err)
	}
	img, err := idx.Image(hash)
	if err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag(repository + ":1.0")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(tag, img); err != nil {
		t.Fatal(err)
	}
	ref := repository + ":1.0"
	d.do(0, "sign", ref, "--key", "k.key")
	d.do(0, "attest", ref, "--key", "k.key")
	out := results(t, d.do(1, "check", ref, "--key", "k.pub", "--output", "json", "--attest", "k.key"))
	if out.Allowed || len(out.Images) != 1 {
		t.Fatalf("%+v", out)
	}
	got := outcomes(out.Images[0].Verdict)
	for rule, want := range map[string]policy.Outcome{
		policy.RuleZone: policy.Pass, policy.RuleSignature: policy.Pass, policy.RuleProvenance: policy.Pass, policy.RuleExplained: policy.Pass,
		policy.RuleTests: policy.Fail, policy.RuleVulnerabilities: policy.CannotTell, "no-entrypoint": policy.Fail,
	} {
		if got[rule] != want {
			t.Errorf("%s: %s, want %s", rule, got[rule], want)
		}
	}
	if out.Images[0].Verdict.Repository != repository || len(out.Images[0].Claims) != 5 {
		t.Errorf("%+v", out.Images[0])
	}
	// The failed verdict is kept as well, and is no pass.
	d.wants(d.do(0, "verify", ref, "--key", "k.pub", "--require", "absence"), "verified, FAILED for oci://"+repository, "absence")
	d.wants(d.do(1, "verify", ref, "--key", "k.pub", "--require", "summary,absence"), "the summary claim that key signed: the verification result is FAILED: ")

	// In the development catalog the same image is refused for its place.
	devTag, err := name.NewTag(repository + "/dev:1.0")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(devTag, img); err != nil {
		t.Fatal(err)
	}
	text := d.do(1, "check", repository+"/dev:1.0", "--key", "k.pub")
	d.wants(text, "is a repository for development images")

	// What is not there cannot be judged.
	d.wants(d.do(3, "check", repository+":2.0", "--key", "k.pub"), "error:")
	server.Close()
	d.wants(d.do(3, "check", ref, "--key", "k.pub"), "error:")
}

// TestCheckIndex: an index is judged image by image, and one that hides an image
// behind another name is not judged at all.
func TestCheckIndex(t *testing.T) {
	d := newDesk(t)
	desc := d.image
	desc.Platform = &ocispec.Platform{OS: "linux", Architecture: "amd64"}
	put := func(tag string, entries ...oci.Descriptor) {
		t.Helper()
		raw, err := json.Marshal(ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: entries})
		if err != nil {
			t.Fatal(err)
		}
		raw = []byte(strings.Replace(string(raw), `{`, `{"schemaVersion":2,`, 1))
		raw = []byte(strings.Replace(string(raw), `,"schemaVersion":0`, ``, 1))
		i, err := d.store.PutBytes(ocispec.MediaTypeImageIndex, raw)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.store.SetTag(tag, i); err != nil {
			t.Fatal(err)
		}
	}
	attestation := desc
	attestation.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
	put("both", desc, attestation)
	store := "oci:" + d.store.Dir()
	if out := results(t, d.do(1, "check", store+":both", "--output", "json")); len(out.Images) != 1 {
		t.Errorf("%d images", len(out.Images))
	}
	hiding := desc
	hiding.ArtifactType = "application/vnd.example"
	put("hiding", desc, hiding)
	d.wants(d.do(1, "check", store+":hiding"), "call themselves artifacts")

	// A claim about the index counts for its images.
	d.do(0, "sign", store+":both", "--key", "k.key")
	out := results(t, d.do(1, "check", store+":both", "--key", "k.pub", "--repository", "registry.example/shop", "--output", "json", "--attest", "k.key"))
	if outcomes(out.Images[0].Verdict)[policy.RuleSignature] != policy.Pass || len(out.Images[0].Claims) != 2 {
		t.Errorf("%+v", out.Images[0].Claims)
	}
	if n := strings.Count(d.do(0, "verify", store+":both", "--key", "k.pub", "--require", "none"), "verification_summary"); n != 2 {
		t.Errorf("%d summaries, want one about the image and one about the index", n)
	}
	// A bill of materials or a scan is of one platform; of an index with two
	// images somebody must say which.
	arm, err := d.store.PutBytes(d.image.MediaType, append(readAll(t, d.store, d.image), '\n'))
	if err != nil {
		t.Fatal(err)
	}
	arm.Platform = &ocispec.Platform{OS: "linux", Architecture: "arm64"}
	put("two", desc, arm)
	d.write("scan.json", `{"scanner":{"uri":"https://scanner.example","db":{"lastUpdate":"2026-11-21T00:00:00Z"}},"metadata":{"scanStartedOn":"2026-11-21T00:00:00Z","scanFinishedOn":"2026-11-21T00:00:00Z"}}`)
	d.write("bom.json", `{"bomFormat":"CycloneDX","specVersion":"1.6","version":1,"components":[{"type":"library","name":"ms","version":"1","purl":"pkg:npm/ms@1"}]}`)
	d.write("own.json", `{"hello":"world"}`)
	for _, c := range []struct{ kind, file string }{{"vulnerabilities", "scan.json"}, {evidence.TypeVulns, "scan.json"}, {"sbom", "bom.json"}, {"cyclonedx", "bom.json"}, {evidence.TypeCycloneDX, "bom.json"}} {
		attest := []string{"attest", store + ":two", "--key", "k.key", "--type", c.kind, "--predicate", c.file}
		d.wants(d.do(2, attest...), "cannot be about the 2 images", "hint: --platform says which image it is about: linux/amd64, linux/arm64")
		d.wants(d.do(0, append(attest, "--platform", "linux/arm64")...), string(arm.Digest))
	}
	if out := d.do(0, "verify", store+":two", "--key", "k.pub", "--platform", "linux/amd64", "--require", "none"); strings.Contains(out, "vulns") {
		t.Errorf("the other image's scan:\n%s", out)
	}
	d.wants(d.do(0, "attest", store+":two", "--key", "k.key", "--type", "https://example.test/own", "--predicate", "own.json"), string(desc.Digest), string(arm.Digest))

	// A summary is about production and a repository.
	d.wants(d.do(2, "check", store+":both", "--key", "k.pub", "--attest", "k.key"), "nobody says which repository")
	d.wants(d.do(2, "check", store+":both", "--key", "k.pub", "--attest", "k.key", "--zone", "development"), "judged for development")
}

// rawManifest is pushed as it is.
type rawManifest struct {
	mediaType types.MediaType
	text      string
}

func (r rawManifest) RawManifest() ([]byte, error)        { return []byte(r.text), nil }
func (r rawManifest) MediaType() (types.MediaType, error) { return r.mediaType, nil }

// TestIndexAsImage: an index that is listed as if it were an image is not judged
// by the one of its images that is for this machine.
func TestIndexAsImage(t *testing.T) {
	d := newDesk(t)
	server := httptest.NewServer(registry.New(registry.Logger(log.New(t.Output(), "", 0)), registry.WithReferrersSupport(true)))
	defer server.Close()
	repository := strings.TrimPrefix(server.URL, "http://") + "/shop/app"
	push := func(r rawManifest) oci.Digest {
		t.Helper()
		sum := digest.FromString(r.text)
		for _, to := range []string{"@" + sum.String(), ":latest"} {
			ref, err := name.ParseReference(repository + to)
			if err != nil {
				t.Fatal(err)
			}
			if err := remote.Put(ref, r); err != nil {
				t.Fatal(err)
			}
		}
		return sum
	}
	path, err := layout.FromPath(d.store.Dir())
	if err != nil {
		t.Fatal(err)
	}
	idx, err := path.ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	hash, err := v1.NewHash(string(d.image.Digest))
	if err != nil {
		t.Fatal(err)
	}
	img, err := idx.Image(hash)
	if err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag(repository + ":image")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(tag, img); err != nil {
		t.Fatal(err)
	}
	entry := func(mediaType string, d oci.Digest, size int64) string {
		return fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[{"mediaType":%q,"digest":%q,"size":%d,"platform":{"os":"linux","architecture":%q}}]}`,
			ocispec.MediaTypeImageIndex, mediaType, d, size, runtime.GOARCH)
	}
	inner := entry(ocispec.MediaTypeImageManifest, d.image.Digest, d.image.Size)
	sum := push(rawManifest{types.OCIImageIndex, inner})
	push(rawManifest{types.OCIImageIndex, entry(ocispec.MediaTypeImageManifest, sum, int64(len(inner)))})
	d.wants(d.do(3, "check", repository+":latest", "--key", "k.pub", "--attest", "k.key"), "is not the image")
}

// TestHostileIndexes: lists that never end, that name one thing twice, or that
// say another zone than their images.
func TestHostileIndexes(t *testing.T) {
	d := newDesk(t)
	store := "oci:" + d.store.Dir()
	put := func(tag, text string) oci.Descriptor {
		t.Helper()
		i, err := d.store.PutBytes(ocispec.MediaTypeImageIndex, []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if err := d.store.SetTag(tag, i); err != nil {
			t.Fatal(err)
		}
		return i
	}
	index := func(more string, entries ...oci.Descriptor) string {
		t.Helper()
		raw, err := json.Marshal(entries)
		if err != nil {
			t.Fatal(err)
		}
		return `{"schemaVersion":2,` + more + `"manifests":` + string(raw) + `}`
	}
	entry := oci.Descriptor{MediaType: d.image.MediaType, Digest: d.image.Digest, Size: d.image.Size, Platform: &ocispec.Platform{OS: "linux", Architecture: "amd64"}}
	// Three levels of five hundred entries each would be 125 million.
	level := put("level0", index("", entry))
	for range 3 {
		level = put("bomb", index("", slices.Repeat([]oci.Descriptor{level}, 500)...))
	}
	if out := results(t, d.do(1, "check", store+":bomb", "--output", "json")); len(out.Images) != 1 {
		t.Errorf("%d images", len(out.Images))
	}
	put("many", index("", slices.Repeat([]oci.Descriptor{entry}, gate.MaxImages+1)...))
	d.wants(d.do(3, "check", store+":many"), "more than 256 images")
	put("twice", index(`"Manifests":[],`, entry))
	d.wants(d.do(3, "check", store+":twice"), `name "Manifests", want "manifests"`)
	put("both", index(`"layers":[],`, entry))
	d.wants(d.do(3, "check", store+":both"), "image at the same time")
	put("zone", index(`"annotations":{"dev.twinhull.zone":"development"},`, entry))
	d.wants(d.do(1, "check", store+":zone"), `the index around the image says "development"`)
	entry.Annotations = map[string]string{oci.ZoneKey: "development"}
	put("entry", index("", entry))
	d.wants(d.do(1, "check", store+":entry"), `the index around the image says "development"`)

	for _, wrong := range []string{"registry.example/shop:1", "registry.example/shop/dev/", "shop", "registry.example/shop@" + d.image.Digest.String()} {
		d.wants(d.do(2, "check", "production", "--repository", wrong), "want HOST/NAME")
	}
}

func TestLowerFirst(t *testing.T) {
	for title, want := range map[string]string{"No shell": "no shell", "SBOM": "SBOM", "": "", "X": "X", "Über": "über"} {
		if got := lowerFirst(title); got != want {
			t.Errorf("%q: %q", title, got)
		}
	}
}

func TestRulesCommand(t *testing.T) {
	d := newDesk(t)
	text := d.do(0, "rules")
	for _, r := range policy.Rules() {
		if !strings.Contains(text, r.ID) {
			t.Errorf("%s is not listed", r.ID)
		}
		d.wants(d.do(0, "rules", r.ID), r.Title, "proves ", "why ", "fix ", "waive ")
	}
	var list []policy.Rule
	if err := json.Unmarshal([]byte(d.do(0, "rules", "--json")), &list); err != nil || len(list) != len(policy.Rules()) {
		t.Errorf("%d rules, %v", len(list), err)
	}
	if !slices.ContainsFunc(list, func(r policy.Rule) bool { return r.ID == "shell" && r.Production == policy.Refuses }) {
		t.Error("shell is not among them")
	}
	d.wants(d.do(2, "rules", "shel"), `did you mean "shell"?`)
}
