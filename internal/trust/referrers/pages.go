package referrers

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"

	"twinhull.dev/twinhull/internal/oci"
)

// maxPages bounds how many parts a list of referrers may have.
const maxPages = 100

// allPages makes one list of the parts in which a registry gives its referrers
// (distribution specification, "Listing Referrers": a Link header leads to the
// next). The registry library reads the first part only: whoever may push could
// fill it, so that a claim that speaks against an image is on the second.
type allPages struct{ base http.RoundTripper }

func (p allPages) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := p.base.RoundTrip(r)
	if err != nil || r.Method != http.MethodGet || resp.StatusCode != http.StatusOK || !strings.Contains(r.URL.Path, "/referrers/") || next(resp) == "" {
		return resp, err
	}
	first := resp
	doc := map[string]json.RawMessage{}
	var all []json.RawMessage
	size := 0
	for page := 1; ; page++ {
		body, err := io.ReadAll(io.LimitReader(resp.Body, oci.MaxManifest+1))
		resp.Body.Close()
		if err != nil {
			return nil, err
		}
		if size += len(body); size > oci.MaxManifest {
			return nil, fmt.Errorf("the list of referrers has more than %d bytes", oci.MaxManifest)
		}
		part := map[string]json.RawMessage{}
		var manifests []json.RawMessage
		if err := json.Unmarshal(body, &part); err != nil {
			return nil, fmt.Errorf("page %d of the list of referrers: %w", page, err)
		}
		if err := json.Unmarshal(part["manifests"], &manifests); err != nil {
			return nil, fmt.Errorf("page %d of the list of referrers: manifests: %w", page, err)
		}
		if page == 1 {
			doc = part
		}
		all = append(all, manifests...)
		link := next(resp)
		if link == "" {
			break
		}
		if page == maxPages {
			return nil, fmt.Errorf("the list of referrers has more than %d pages", maxPages)
		}
		u, err := r.URL.Parse(link)
		if err != nil || u.Scheme != r.URL.Scheme || u.Host != r.URL.Host {
			// The request carries credentials, which are for this host.
			return nil, fmt.Errorf("page %d of the list of referrers: the registry leads elsewhere, to %.200q", page+1, link)
		}
		q := r.Clone(r.Context())
		q.URL = u
		if resp, err = p.base.RoundTrip(q); err != nil {
			return nil, err
		}
		if resp.StatusCode != http.StatusOK {
			resp.Body.Close()
			return nil, fmt.Errorf("page %d of the list of referrers: %s", page+1, resp.Status)
		}
	}
	if doc["manifests"], err = json.Marshal(all); err != nil {
		return nil, err
	}
	whole, err := json.Marshal(doc)
	if err != nil {
		return nil, err
	}
	first.Header = first.Header.Clone()
	first.Header.Del("Link")
	first.Header.Del("Content-Length")
	first.Body, first.ContentLength = io.NopCloser(bytes.NewReader(whole)), int64(len(whole))
	return first, nil
}

// next is where the next page is (RFC 8288), "" on the last one.
func next(resp *http.Response) string {
	for _, line := range resp.Header.Values("Link") {
		target, params, ok := strings.Cut(strings.TrimSpace(line), ">")
		target, begins := strings.CutPrefix(target, "<")
		if !ok || !begins {
			continue
		}
		for param := range strings.SplitSeq(params, ";") {
			name, value, _ := strings.Cut(strings.TrimSpace(param), "=")
			if strings.EqualFold(name, "rel") && strings.EqualFold(strings.Trim(value, `" `), "next") {
				return cmp.Or(target, ".")
			}
		}
	}
	return ""
}
