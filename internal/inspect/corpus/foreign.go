package corpus

import (
	"archive/tar"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"twinhull.dev/twinhull/internal/oci"
)

// stranger is an image that somebody else's builder made, who was told to name
// the zone (LABEL, --annotation) and knows nothing of writable paths.
func stranger(layers ...[]File) Spec {
	s := Spec{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"},
		Annotations: map[string]string{oci.ZoneKey: string(oci.Production)},
		Config:      ocispec.ImageConfig{User: "65532", Labels: map[string]string{oci.ZoneKey: string(oci.Production)}, Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}}}
	for _, l := range layers {
		s.Layers = append(s.Layers, Layer{Files: l})
	}
	return s
}

// system is what most minimal base images have: users, certificates, zones.
func system(osRelease string) []File {
	return []File{Dir("etc"), text("etc/passwd", "root:x:0:0:root:/root:/sbin/nologin\nnobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n"),
		text("etc/group", "root:x:0:\nnobody:x:65534:\nnonroot:x:65532:\n"), text("etc/nsswitch.conf", "hosts: files dns\n"), text("etc/os-release", osRelease),
		Dir("etc/ssl"), Dir("etc/ssl/certs"), text("etc/ssl/certs/ca-certificates.crt", certificate),
		Dir("usr"), Dir("usr/share"), Dir("usr/share/zoneinfo"), {Name: "usr/share/zoneinfo/UTC", Body: []byte("TZif2\x00\x00\x00\x00")},
		{Name: "tmp", Type: tar.TypeDir, Mode: 0o1777}, {Name: "root", Type: tar.TypeDir, Mode: 0o700}, {Name: "home", Type: tar.TypeDir}, {Name: "home/nonroot", Type: tar.TypeDir, Mode: 0o700, UID: 65532, GID: 65532}}
}

const (
	debian = "PRETTY_NAME=\"Distroless\"\nNAME=\"Debian GNU/Linux\"\nID=\"debian\"\nVERSION_ID=\"12\"\n"
	alpine = "NAME=\"Alpine Linux\"\nID=alpine\nVERSION_ID=3.22.1\nPRETTY_NAME=\"Alpine Linux v3.22\"\n"
)

// foreign are clean images as other builders make them.
func foreign() []Case {
	image := func(name string, spec func(t *Tools) (Spec, error)) Case {
		return Case{Name: name, Spec: spec}
	}
	return []Case{
		image("ko-on-distroless-static", func(t *Tools) (Spec, error) {
			b, err := t.GoProgram("example.com/shop/cmd/api")
			s := stranger(append(system(debian), Dir("var"), Dir("var/lib"), Dir("var/lib/dpkg"), Dir("var/lib/dpkg/status.d"),
				text("var/lib/dpkg/status.d/base-files", "Package: base-files\nVersion: 12.4\nArchitecture: amd64\n"), text("var/lib/dpkg/status.d/base-files.md5sums", md5hex([]byte("motd"))+"  usr/share/base-files/motd\n"), text("usr/share/base-files/motd", "motd")),
				[]File{Dir("var/run"), Dir("var/run/ko"), text("var/run/ko/index.html", "<p>kodata</p>\n")}, []File{Dir("ko-app"), {Name: "ko-app/api", Mode: 0o555, Body: b}})
			s.Config.User, s.Config.Entrypoint = "65532", []string{"/ko-app/api"}
			s.Config.Env = append(s.Config.Env, "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt", "KO_DATA_PATH=/var/run/ko")
			s.Config.ExposedPorts = map[string]struct{}{"8080/tcp": {}}
			return s, err
		}),
		image("scratch-with-one-program", func(t *Tools) (Spec, error) {
			b, err := t.GoProgram("example.com/one")
			s := stranger([]File{{Name: "one", Mode: 0o755, Body: b}})
			s.Config.Entrypoint, s.Config.User = []string{"/one"}, "10001:10001"
			return s, err
		}),
		image("nginx-like", func(t *Tools) (Spec, error) {
			f, err := t.ProgramClosure("nginx", "usr/sbin/nginx")
			s := stranger(system(debian), f, []File{Dir("etc/nginx"), text("etc/nginx/nginx.conf", "pid /tmp/nginx.pid;\nevents {}\nhttp { server { listen 8080; root /usr/share/nginx/html; location /auth { proxy_set_header Authorization $http_authorization; } } }\n"),
				Dir("usr/share/nginx"), Dir("usr/share/nginx/html"), text("usr/share/nginx/html/index.html", "<!doctype html><script src=/app.js></script>\n"), text("usr/share/nginx/html/app.js", "(()=>{const e=document.cookie;fetch('/api',{headers:{token:e}})})();\n"),
				Dir("var"), Dir("var/log"), Dir("var/log/nginx"), Link("var/log/nginx/access.log", "/dev/stdout"), Link("var/log/nginx/error.log", "/dev/stderr")})
			s.Config.Entrypoint, s.Config.Cmd = []string{"/usr/sbin/nginx"}, []string{"-g", "daemon off;"}
			s.Config.ExposedPorts = map[string]struct{}{"8080/tcp": {}}
			s.Config.StopSignal = "SIGQUIT"
			return s, err
		}),
		image("java-like", func(t *Tools) (Spec, error) {
			f, err := t.Closure("java", "usr/lib/jvm/java-17/bin/java")
			lib := zipped("META-INF/maven/org.slf4j/slf4j-api/pom.properties", []byte("groupId=org.slf4j\nartifactId=slf4j-api\nversion=2.0.13\n"))
			s := stranger(system(debian), f, []File{Dir("app"), {Name: "app/app.jar", Body: zipped("BOOT-INF/lib/slf4j-api-2.0.13.jar", lib)}, {Name: "app/lib.jar", Body: zipped("com/example/Main.class", []byte{0xca, 0xfe, 0xba, 0xbe, 0, 0, 0, 65})}})
			s.Config.Entrypoint = []string{"/usr/lib/jvm/java-17/bin/java", "-XX:MaxRAMPercentage=75", "-jar", "/app/app.jar"}
			s.Config.Env = append(s.Config.Env, "JAVA_TOOL_OPTIONS=-Dfile.encoding=UTF-8", "LANG=C.UTF-8")
			return s, err
		}),
		image("python-distroless-like", func(t *Tools) (Spec, error) {
			f, err := t.ProgramClosure("python", "usr/bin/python3.11")
			s := stranger(system(debian), append(f, Link("usr/bin/python3", "python3.11"), Link("usr/bin/python", "python3"), Dir("usr/lib"), Dir("usr/lib/python3.11"), text("usr/lib/python3.11/os.py", "import sys\n"),
				File{Name: "usr/lib/python3.11/pdb.py", Mode: 0o755, Body: []byte("#! /usr/bin/env python3\n\"\"\"The Python Debugger Pdb\"\"\"\n")}, File{Name: "usr/lib/python3.11/cgi.py", Mode: 0o755, Body: []byte("#! /usr/bin/python3.11\n")}),
				[]File{Dir("app"), text("app/main.py", "import os\nTOKEN = os.environ['API_TOKEN']\nprint('up')\n"), text("app/site-packages/requests-2.32.3.dist-info/METADATA", "Metadata-Version: 2.1\nName: requests\nVersion: 2.32.3\n\n"), text("app/site-packages/requests/auth.py", "def basic(user, password):\n    return user + ':' + password\n")})
			s.Config.Entrypoint, s.Config.Cmd = []string{"/usr/bin/python3.11"}, []string{"/app/main.py"}
			s.Config.Env = append(s.Config.Env, "PYTHONPATH=/app/site-packages", "PYTHONDONTWRITEBYTECODE=1", "PYTHON_SHA256="+token(51, 64, hexes), "GPG_KEY="+strings.ToUpper(token(52, 40, hexes)))
			return s, err
		}),
		image("node-distroless-like", func(*Tools) (Spec, error) {
			s := stranger(system(debian), []File{Dir("nodejs"), Dir("nodejs/bin"), program("nodejs/bin/node", "Usage: node [options] [ script.js ] [arguments]", "NODE_REPL_HISTORY", "NODE_PENDING_DEPRECATION")},
				[]File{Dir("app"), text("app/index.js", "require('./lib')(process.env.TOKEN)\n"), text("app/lib/index.js", "module.exports = t => t\n"), text("app/node_modules/express/package.json", `{"name":"express","version":"4.21.0","license":"MIT","repository":"expressjs/express"}`),
					{Name: "app/node_modules/qs/bin/run", Mode: 0o755, Body: []byte("#!/usr/bin/env node\n")}, {Name: "app/node_modules/sh/setup.sh", Mode: 0o755, Body: []byte("#!/bin/sh\n")}})
			s.Config.Entrypoint, s.Config.Cmd, s.Config.WorkingDir, s.Config.User = []string{"/nodejs/bin/node"}, []string{"index.js"}, "/app", "nonroot"
			s.Config.Env = append(s.Config.Env, "NODE_ENV=production", "NODE_VERSION=22.12.0", "YARN_VERSION=1.22.22")
			s.Config.ExposedPorts = map[string]struct{}{"3000/tcp": {}}
			return s, nil
		}),
		image("alpine-like-without-shell", func(*Tools) (Spec, error) {
			s := stranger(append(system(alpine), text("etc/alpine-release", "3.22.1\n"), Dir("lib"), Dir("lib/apk"), Dir("lib/apk/db"), text("lib/apk/db/installed", "C:Q1abc=\nP:musl\nV:1.2.5-r10\nA:x86_64\nL:MIT\no:musl\n\nC:Q1def=\nP:ca-certificates-bundle\nV:20250911-r0\nA:x86_64\nL:MPL-2.0 AND MIT\no:ca-certificates\n\n"), text("etc/apk/world", "ca-certificates-bundle\nmusl\n"), text("etc/apk/repositories", "# none\n")),
				[]File{Dir("usr/local"), Dir("usr/local/bin"), program("usr/local/bin/app", "a program")})
			s.Config.Entrypoint, s.Config.User = []string{"app"}, "nobody"
			return s, nil
		}),
		image("buildkit-history", func(t *Tools) (Spec, error) {
			f, err := t.Closure("ls", "srv/app")
			s := stranger(system(debian), f, []File{Dir("srv"), text("srv/config.yaml", "listen: 8080\nauth: ${AUTH}\n")})
			for i := range s.Layers {
				s.Layers[i].MediaType = oci.MediaTypeDockerLayer
			}
			when := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
			for _, h := range []ocispec.History{
				{CreatedBy: "# debian.sh --arch 'amd64' out/ 'bookworm' '@1737331200'", Comment: "debuerreotype 0.15"},
				{CreatedBy: "ARG TOKEN_FILE=/run/secrets/token", EmptyLayer: true}, {CreatedBy: "ENV PATH=/usr/local/bin:/usr/bin:/bin", EmptyLayer: true},
				{CreatedBy: "RUN |1 VERSION=1.2.3 /bin/sh -c apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/* # buildkit"},
				{CreatedBy: "COPY --link /out/ /srv/ # buildkit"}, {CreatedBy: "USER 65532", EmptyLayer: true}, {CreatedBy: `ENTRYPOINT ["/srv/app"]`, EmptyLayer: true},
			} {
				h.Created = &when
				if h.Comment == "" {
					h.Comment = "buildkit.dockerfile.v0"
				}
				s.History = append(s.History, h)
			}
			s.Config.Entrypoint = []string{"/srv/app"}
			s.Healthcheck = []string{"CMD", "/srv/app", "--version"}
			s.Config.Labels["org.opencontainers.image.revision"], s.Config.Labels["org.opencontainers.image.source"], s.Config.Labels["com.docker.compose.project"] = token(53, 40, hexes), "https://git.example/shop/app", "shop"
			s.Annotations["org.opencontainers.image.base.digest"] = "sha256:" + token(54, 64, hexes)
			return s, err
		}),
		image("docker-save", func(*Tools) (Spec, error) {
			s := stranger(system(debian), []File{Dir("app"), {Name: "app/server", Mode: 0o755, Body: Program()}})
			s.Config.Entrypoint, s.DockerSave = []string{"/app/server"}, true
			return s, nil
		}),
		image("whiteouts-that-clean-up", func(*Tools) (Spec, error) {
			s := stranger(append(system(debian), Dir("usr/share/doc"), text("usr/share/doc/x/copyright", "MIT\n"), Dir("usr/share/man"), text("usr/share/man/man1/x.1", ".TH X 1\n"), Dir("app"), text("app/settings.json", "{}\n")),
				[]File{Whiteout("usr/share", "man"), {Name: "usr/share/doc/.wh..wh..opq"}, text("app/settings.json", `{"level":"info"}`), {Name: "app/server", Mode: 0o755, Body: Program()}},
				[]File{{Name: "app/current", Type: tar.TypeLink, Link: "app/server"}, Whiteout("app", "settings.json"), Whiteout("app", "never-was"), {Name: ".wh..wh.plnk", Type: tar.TypeDir}})
			s.Config.Entrypoint = []string{"/app/current"}
			return s, nil
		}),
		image("static-with-zstd-and-empty-layer", func(t *Tools) (Spec, error) {
			b, err := t.GoProgram("example.com/zstd")
			s := stranger(system(debian), nil, []File{Dir("app"), {Name: "app/x", Mode: 0o755, Body: b}})
			for i := range s.Layers {
				s.Layers[i].MediaType = ocispec.MediaTypeImageLayerZstd
			}
			s.Config.Entrypoint = []string{"/app/x"}
			return s, err
		}),
	}
}
