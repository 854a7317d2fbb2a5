package origin

import (
	"encoding/json"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"

	"twinhull.dev/twinhull/internal/build"
	"twinhull.dev/twinhull/internal/evidence"
)

func TestRead(t *testing.T) {
	image := digest.FromString("image")
	doc, err := json.Marshal(build.Origins{Version: 1, Image: image, Name: "app"})
	if err != nil {
		t.Fatal(err)
	}
	encode := func(v any) json.RawMessage {
		b, err := evidence.Encode(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	good := encode(Predicate(doc))
	if o, err := Read(good, image, doc); err != nil || o.Name != "app" {
		t.Fatalf("%+v, %v", o, err)
	}
	two := Predicate(doc)
	two.References = append(two.References, two.References[0])
	for name, c := range map[string]struct {
		predicate json.RawMessage
		image     string
		doc       string
		wrong     string
	}{
		"other document":  {good, string(image), string(doc) + "\n", "has digest"},
		"other image":     {good, string(digest.FromString("other")), string(doc), "is about"},
		"other type":      {encode(evidence.Refer("origins", evidence.MediaSPDX, digest.FromBytes(doc))), string(image), string(doc), "want one reference"},
		"two documents":   {encode(two), string(image), string(doc), "want one reference"},
		"nothing":         {json.RawMessage(`{}`), string(image), string(doc), "0 references"},
		"no digest":       {json.RawMessage(`{"references":[{"mediaType":"x"}]}`), string(image), string(doc), "no digest"},
		"a weaker digest": {json.RawMessage(`{"references":[{"mediaType":"x","digest":{"md5":"x"}}]}`), string(image), string(doc), "neither"},
	} {
		if _, err := Read(c.predicate, digest.Digest(c.image), []byte(c.doc)); err == nil || !strings.Contains(err.Error(), c.wrong) {
			t.Errorf("%s: %v, want %q", name, err, c.wrong)
		}
	}
}
