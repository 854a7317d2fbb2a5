package gomod

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"golang.org/x/mod/module"
	modzip "golang.org/x/mod/zip"
	"golang.org/x/sync/errgroup"

	"twinhull.dev/twinhull/internal/oci"
	"twinhull.dev/twinhull/internal/project"
	"twinhull.dev/twinhull/internal/source/fetch"
)

// Get downloads what is at an address, whole. An error
// that fetch.IsNotFound knows, or that is fs.ErrNotExist, means that the proxy
// does not have it. fetch.Fetcher.Get is one, with a limit.
type Get func(ctx context.Context, url string) ([]byte, error)

// Proxies is a GOPROXY list.
type Proxies []Proxy

// Proxy is one entry of a GOPROXY list.
type Proxy struct {
	URL string // without a trailing slash; or "direct" or "off"
	// AnyError: a "|" follows, so every error goes on to the next entry; after
	// a "," only "not found" does.
	AnyError bool
}

// ParseProxies reads a GOPROXY value as the go command does
// (https://go.dev/ref/mod#goproxy-protocol).
func ParseProxies(s string) (Proxies, error) {
	var all Proxies
	for rest := s; rest != ""; {
		one, after, sep := rest, "", byte(0)
		if i := strings.IndexAny(rest, ",|"); i >= 0 {
			one, after, sep = rest[:i], rest[i+1:], rest[i]
		}
		rest = after
		one = strings.TrimSpace(one)
		if one == "" {
			continue
		}
		p := Proxy{URL: strings.TrimRight(one, "/"), AnyError: sep == '|'}
		if one == "direct" || one == "off" {
			all = append(all, p)
			break // neither lets anything behind it be reached
		}
		u, err := url.Parse(one)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return nil, fmt.Errorf("GOPROXY entry %q is not an http or https address, direct or off", one)
		}
		all = append(all, p)
	}
	if len(all) == 0 {
		return nil, errors.New("GOPROXY is empty: name a module proxy")
	}
	return all, nil
}

// get asks the proxies in order for a path relative to them.
func (p Proxies) get(ctx context.Context, get Get, what, path string) ([]byte, error) {
	var before error
	for _, proxy := range p {
		switch proxy.URL {
		case "direct":
			return nil, errors.Join(fmt.Errorf("%s: no module proxy has it, and GOPROXY goes on with \"direct\", which would run version control programs: modules are fetched from proxies only; make it available on one and name that in GOPROXY", what), before)
		case "off":
			return nil, errors.Join(fmt.Errorf("%s: GOPROXY is off: name a module proxy", what), before)
		}
		data, err := get(ctx, proxy.URL+"/"+path)
		if err == nil {
			return data, nil
		}
		before = err
		if ctx.Err() != nil || !proxy.AnyError && !notFound(err) {
			break
		}
	}
	return nil, fmt.Errorf("%s: no module proxy gives it: %w", what, before)
}

// address is the proxy-relative address of one file of a module version, with
// capitals escaped. ext is "mod", "zip" or "info".
func address(v module.Version, ext string) (string, error) {
	p, err := module.EscapePath(v.Path)
	if err != nil {
		return "", err
	}
	e, err := module.EscapeVersion(v.Version)
	if err != nil {
		return "", err
	}
	return p + "/@v/" + e + "." + ext, nil
}

// atOnce is how many modules are fetched together: enough to hide the
// latency, few enough to keep the zips in memory.
const atOnce = 8

// Lock fetches every module version of a go.sum, checks it against its h1
// hashes and puts it into the vault. What comes back is sorted by path and
// version and complete: for each the go.mod, and the zip where go.sum has its
// hash.
//
// GoModule.Info stays empty. No hash covers the .info document, proxies differ
// in what they put into it, and a build reads nothing there but the version;
// the Mirror makes it.
func Lock(ctx context.Context, get Get, proxies Proxies, put Put, sums []Sum) ([]project.GoModule, error) {
	all := make([]project.GoModule, len(sums))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for i, s := range sums {
		g.Go(func() error {
			m, err := lockOne(ctx, get, proxies, put, s)
			all[i] = m
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return all, nil
}

func lockOne(ctx context.Context, get Get, proxies Proxies, put Put, s Sum) (project.GoModule, error) {
	v := module.Version{Path: s.Path, Version: s.Version}
	m := project.GoModule{Path: s.Path, Version: s.Version, Sum: s.Zip, ModSum: s.Mod}
	at, err := address(v, "mod")
	if err != nil {
		return m, err
	}
	data, err := proxies.get(ctx, get, "go.mod of "+v.String(), at)
	if err != nil {
		return m, err
	}
	if len(data) > modzip.MaxGoMod {
		return m, fmt.Errorf("go.mod of %s is %d bytes: more than the %d of a module", v, len(data), int64(modzip.MaxGoMod))
	}
	h, err := hashMod(data)
	if err != nil {
		return m, err
	}
	if h != s.Mod {
		return m, mismatch("go.mod of "+v.String(), h, s.Mod)
	}
	if m.Mod, err = put(data); err != nil {
		return m, err
	}
	if s.Zip == "" {
		return m, nil
	}
	if m.Zip, _, _, err = lockZip(ctx, get, proxies, put, v, s.Zip); err != nil {
		return m, err
	}
	return m, nil
}

// lockZip fetches a module zip. want is its h1 hash; "" accepts any.
func lockZip(ctx context.Context, get Get, proxies Proxies, put Put, v module.Version, want string) (d oci.Digest, h1 string, size int64, err error) {
	at, err := address(v, "zip")
	if err != nil {
		return "", "", 0, err
	}
	data, err := proxies.get(ctx, get, "zip of "+v.String(), at)
	if err != nil {
		return "", "", 0, err
	}
	h1, err = hashZip(v, bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return "", "", 0, err
	}
	if want != "" && h1 != want {
		return "", "", 0, mismatch("zip of "+v.String(), h1, want)
	}
	d, err = put(data)
	return d, h1, int64(len(data)), err
}

func mismatch(what, got, want string) error {
	return fmt.Errorf("%s has the hash %s, but go.sum says %s: the proxy's copy or go.sum was changed; find out which before you go on", what, got, want)
}

// Items lists the downloads that bring locked modules back, by sha256. A
// proxy that packs a module's zip anew serves other bytes with the same h1;
// then the download fails its digest and the vault must come from elsewhere,
// or the project be locked again.
func Items(proxies Proxies, modules []project.GoModule) ([]fetch.Item, error) {
	var items []fetch.Item
	for _, m := range modules {
		v := module.Version{Path: m.Path, Version: m.Version}
		for _, part := range []struct {
			ext string
			d   oci.Digest
		}{{"mod", m.Mod}, {"zip", m.Zip}, {"info", m.Info}} {
			if part.d == "" {
				continue
			}
			at, err := address(v, part.ext)
			if err != nil {
				return nil, err
			}
			items = append(items, fetch.Item{Digest: part.d, Size: -1, Name: v.String() + "." + part.ext, URLs: proxies.urls(at)})
		}
	}
	return items, nil
}

// ToolItems lists the downloads of those tools that come from a module proxy.
func ToolItems(proxies Proxies, tools []project.Tool) []fetch.Item {
	var items []fetch.Item
	for _, t := range tools {
		if t.Name == "go" {
			items = append(items, fetch.Item{Digest: t.Digest, Size: t.Size, Name: "go " + t.Version, URLs: proxies.urls(t.Path)})
		}
	}
	return items
}

func (p Proxies) urls(path string) []string {
	var all []string
	for _, proxy := range p {
		if proxy.URL != "direct" && proxy.URL != "off" {
			all = append(all, proxy.URL+"/"+path)
		}
	}
	return all
}
