package corpus

import (
	"archive/tar"
	"fmt"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"twinhull.dev/twinhull/internal/oci"
)

func clean(name string, list ...File) Case {
	return Case{Name: name, Spec: func(*Tools) (Spec, error) { return With(list...), nil }}
}

// Clean are images that no rule may refuse, although many of them look as if
// one should. Not all have the form that Twinhull gives its images.
func Clean() []Case {
	nodeELF := program("usr/bin/node", "Usage: node [options] [ script.js ] [arguments]", "NODE_REPL_HISTORY", "NODE_PENDING_DEPRECATION")
	pythonELF := program("usr/bin/python3.13", "PYTHONDONTWRITEBYTECODE", "PYTHONFAULTHANDLER", "PYTHONTRACEMALLOC")
	return slices.Concat(foreign(), []Case{
		clean("static-program"),
		{Name: "one-layer", Spec: func(*Tools) (Spec, error) { // as ko writes them, without a history of its own
			s := Base()
			var all []File
			for _, l := range s.Layers {
				all = append(all, l.Files...)
			}
			s.Layers = []Layer{{Files: all, History: "ko build ko://example.com/server"}}
			return s, nil
		}},
		{Name: "docker-media-types", Spec: func(*Tools) (Spec, error) {
			s := Base()
			for i := range s.Layers {
				s.Layers[i].MediaType = oci.MediaTypeDockerLayer
				s.Layers[i].History = "COPY /out /app # buildkit"
			}
			return s, nil
		}},
		{Name: "zstd-layers", Spec: func(*Tools) (Spec, error) {
			s := Base()
			for i := range s.Layers {
				s.Layers[i].MediaType = ocispec.MediaTypeImageLayerZstd
			}
			return s, nil
		}},
		{Name: "plain-layers", Spec: func(*Tools) (Spec, error) {
			s := Base()
			for i := range s.Layers {
				s.Layers[i].MediaType = ocispec.MediaTypeImageLayer
			}
			return s, nil
		}},
		{Name: "dynamic-program", Spec: func(t *Tools) (Spec, error) {
			f, err := t.Closure("ls", "app/server")
			return With(f...), err
		}},
		{Name: "go-program", Spec: func(t *Tools) (Spec, error) {
			b, err := t.GoProgram("example.com/shop/cmd/server")
			return With(File{Name: "app/server", Mode: 0o755, Body: b}), err
		}},
		{Name: "node", Spec: func(*Tools) (Spec, error) {
			s := With(nodeELF, text("app/server.js", "require('http').createServer().listen(3000)\n"), text("app/package.json", `{"name":"shop","version":"1.0.0","scripts":{"start":"node server.js"}}`),
				text("app/node_modules/ms/package.json", `{"name":"ms","version":"2.1.3","license":"MIT"}`), text("app/node_modules/ms/index.js", "module.exports = s => s\n"))
			s.Config.Entrypoint, s.Config.Cmd = []string{"/usr/bin/node"}, []string{"server.js"}
			s.Config.Env = append(s.Config.Env, "NODE_ENV=production", "NODE_OPTIONS=--max-old-space-size=512")
			return s, nil
		}},
		{Name: "python", Spec: func(*Tools) (Spec, error) {
			s := With(pythonELF, Link("usr/bin/python3", "python3.13"), text("app/serve.py", "print('hello')\n"), text("app/site-packages/six-1.16.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: six\nVersion: 1.16.0\nLicense: MIT\n\n"))
			s.Config.Entrypoint = []string{"python3", "/app/serve.py"}
			return s, nil
		}},
		{Name: "script-for-its-interpreter", Spec: func(*Tools) (Spec, error) {
			s := With(pythonELF, File{Name: "app/serve", Mode: 0o755, Body: []byte("#!/usr/bin/python3.13\nprint('hello')\n")})
			s.Config.Entrypoint = []string{"/app/serve"}
			return s, nil
		}},
		{Name: "merged-usr", Spec: func(*Tools) (Spec, error) {
			return With(Dir("usr/bin"), Dir("usr/lib"), Link("bin", "usr/bin"), Link("lib", "usr/lib"), text("bin/note", "lies in /usr/bin")), nil
		}},
		{Name: "debian-packages", Spec: func(*Tools) (Spec, error) {
			return With(text("var/lib/dpkg/status.d/tzdata", "Package: tzdata\nVersion: 2026a-1\nArchitecture: all\nSource: tzdata\n"),
				text("var/lib/dpkg/status.d/tzdata.md5sums", md5hex([]byte("TZ"))+"  usr/share/zoneinfo/Iceland\n"), text("usr/share/zoneinfo/Iceland", "TZ")), nil
		}},
		clean("names-of-tools-on-data", text("app/data/bash", "not a program"), text("app/bash.md", "# How to leave bash behind\n"), File{Name: "app/host", Mode: 0o755, Body: Program()}, text("app/strace.txt", "Usage: strace [-CdffhiqrtttTvVxxy]\n")),
		clean("words-of-tools-in-text", text("app/help.txt", "Usage: curl [options...] <url>\nGNU Wget, a non-interactive network retriever.\nVIM - Vi IMproved\nBusyBox v1.36 applet not found\n")),
		clean("example-keys-in-documentation", File{Name: "usr/share/doc/openssl/example.pem", Body: privateKey(21)}, File{Name: "app/node_modules/jwa/test/rsa.pem", Body: rsaLike()}),
		clean("key-with-three-dots", text("app/README", "-----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----\n"), text("app/usage.js", "// -----BEGIN RSA PRIVATE KEY----- goes here\n")),
		clean("public-keys", text("app/known_hosts", "host ssh-ed25519 "+b64(token(30, 51, letters))+"\n"), text("app/jwks.json", `{"keys":[{"kty":"RSA","n":"`+token(31, 340, letters)+`","e":"AQAB"}]}`), text("app/pub.pem", "-----BEGIN PUBLIC KEY-----\n"+b64(token(32, 44, letters))+"\n-----END PUBLIC KEY-----\n")),
		clean("hashes", text("app/integrity.json", `{"sha512":"sha512-`+token(33, 86, letters)+`==","commit":"`+token(34, 40, hexes)+`","key":"title"}`), text("app/SHA256SUMS", token(35, 64, hexes)+"  server\n")),
		{Name: "variables-that-name-secrets", Spec: func(*Tools) (Spec, error) {
			s := Base()
			s.Config.Env = append(s.Config.Env, "DB_PASSWORD_FILE=/run/secrets/db", "TOKEN_TTL=3600", "SECRET=${SECRET}", "API_KEY=", "GPG_KEY="+strings.ToUpper(token(36, 40, hexes)), "AUTH_URL=https://login.example", "DEBUG=0", "SECRET_NAME=prod/db")
			return s, nil
		}},
		{Name: "files-deleted-and-replaced", Spec: func(*Tools) (Spec, error) {
			s := With(text("app/a", "1"), text("app/b", "1"))
			s.Layers = append(s.Layers, Layer{Files: []File{Whiteout("app", "a"), text("app/b", "2")}})
			return s, nil
		}},
		clean("hard-links", text("app/a", "1"), File{Name: "app/b", Type: tar.TypeLink, Link: "app/a"}),
		clean("archives-of-data", File{Name: "app/data.tgz", Body: gz(tarball("a/b.csv", 0o644, []byte("1,2\n")))}, File{Name: "app/lib.jar", Body: zipped("META-INF/maven/org.example/lib/pom.properties", []byte("groupId=org.example\nartifactId=lib\nversion=1.2.3\n"))}, File{Name: "app/n.gz", Body: gz([]byte("text"))}),
		{Name: "temporary-folder-of-the-user", Spec: func(*Tools) (Spec, error) {
			s := With(File{Name: "var/cache/app", Type: tar.TypeDir, Mode: 0o755, UID: 65532, GID: 65532}, text("etc/passwd", "root:x:0:0:root:/root:/x\napp:x:65532:65532:app:/home/app:/x\n"), File{Name: "home/app", Type: tar.TypeDir, Mode: 0o700, UID: 65532, GID: 65532})
			s.Config.Labels["dev.twinhull.writable"] = "/tmp,/var/cache/app"
			return s, nil
		}},
		{Name: "many-files", Spec: func(*Tools) (Spec, error) {
			var list []File
			for i := range 3000 {
				list = append(list, text(fmt.Sprintf("app/data/%d/%d", i%50, i), "x"))
			}
			return With(list...), nil
		}},
		{Name: "a-user-by-name", Spec: func(*Tools) (Spec, error) {
			s := Base()
			s.Config.User = "app"
			return s, nil
		}},
	})
}
