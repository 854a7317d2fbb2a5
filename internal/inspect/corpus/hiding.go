package corpus

import (
	"archive/tar"
	"bytes"
	"fmt"
	"strings"

	"twinhull.dev/twinhull/internal/inspect"
	"twinhull.dev/twinhull/internal/oci"
)

// kinds are further tools of each class, real ones under other names where they
// can be had.
func kinds() []Case {
	return []Case{
		tool("fish-renamed", inspect.RuleShell, "fish", "opt/f", renamed),
		tool("tcsh-renamed", inspect.RuleShell, "tcsh", "opt/t", renamed),
		tool("yash-renamed", inspect.RuleShell, "yash", "opt/y", renamed),
		tool("ksh-renamed", inspect.RuleShell, "ksh", "opt/k", renamed),
		tool("toybox-renamed", inspect.RuleShell, "toybox", "opt/init", renamed),
		lower("busybox-deleted", inspect.RuleShell, "busybox-static", Whiteout("opt/x", "tool")),

		tool("rpm-renamed", inspect.RulePackageManager, "rpm", "opt/r", renamed),
		files("dnf-static", inspect.RulePackageManager, static, program("app/d", "Usage: microdnf")),
		files("yum-script", inspect.RulePackageManager, renamed, File{Name: "app/up", Mode: 0o755, Body: []byte("#!/app/server\nimport yummain\n")}),
		files("pacman-static", inspect.RulePackageManager, static, program("app/pac", "usage:  %s <operation> [...]")),
		files("uv-static", inspect.RulePackageManager, static, program("app/u", "UV_INDEX_URL", "uv pip install")),
		files("bun-static", inspect.RulePackageManager, static, program("app/b", "bun.lockb", "bunx ")),
		files("conda-script", inspect.RulePackageManager, renamed, File{Name: "app/env", Mode: 0o755, Body: []byte("#!/app/server\nfrom conda.cli import main\n")}),
		files("poetry-package", inspect.RulePackageManager, inText, text("app/site-packages/poetry-1.8.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: poetry\nVersion: 1.8.0\n\n")),
		files("yarn-package", inspect.RulePackageManager, inText, text("app/node_modules/yarn/package.json", `{"name":"yarn","version":"1.22.22","bin":{"yarn":"./bin/yarn.js"}}`)),
		hidden("npm-deleted", inspect.RulePackageManager, text("app/node_modules/npm/package.json", `{"name":"npm","version":"10.9.2","bin":{"npm":"bin/npm-cli.js"}}`)),

		files("clang-static", inspect.RuleCompiler, static, program("app/c", "clang LLVM compiler")),
		files("lld-static", inspect.RuleCompiler, static, program("app/l", "lld is a generic driver.")),
		files("mold-static", inspect.RuleCompiler, static, program("app/l", "mold: fatal: ")),
		files("cc1-static", inspect.RuleCompiler, static, program("app/c", "GGC heuristics: --param ggc-min-expand=")),
		files("esbuild-package", inspect.RuleBuildTool, inText, text("app/node_modules/esbuild/package.json", `{"name":"esbuild","version":"0.24.0","bin":{"esbuild":"bin/esbuild"}}`)),

		tool("gdbserver-renamed", inspect.RuleDebugger, "gdbserver", "opt/g", renamed),
		tool("ltrace-renamed", inspect.RuleDebugger, "ltrace", "opt/l", renamed),
		tool("valgrind-renamed", inspect.RuleDebugger, "valgrind", "opt/v", renamed),
		tool("rr-renamed", inspect.RuleDebugger, "rr", "opt/r", renamed),
		tool("bpftrace-renamed", inspect.RuleDebugger, "bpftrace", "opt/b", renamed),
		files("debugpy-package", inspect.RuleDebugger, inText, text("app/site-packages/debugpy-1.8.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: debugpy\nVersion: 1.8.0\n\n")),

		tool("dig-renamed", inspect.RuleNetworkClient, "dig", "opt/d", renamed),
		tool("tcpdump-renamed", inspect.RuleNetworkClient, "tcpdump", "opt/t", renamed),
		tool("git-renamed", inspect.RuleNetworkClient, "git", "opt/g", renamed),
		tool("rsync-renamed", inspect.RuleNetworkClient, "rsync", "opt/r", renamed),
		tool("telnet-renamed", inspect.RuleNetworkClient, "telnet", "opt/t", renamed),
		tool("ncat-renamed", inspect.RuleNetworkClient, "ncat", "opt/n", renamed),
		tool("nmap-renamed", inspect.RuleNetworkClient, "nmap", "opt/m", renamed),

		tool("python-renamed", inspect.RuleInterpreter, "python", "opt/p", renamed),
		tool("lua-renamed", inspect.RuleInterpreter, "lua", "opt/l", renamed),
		tool("php-renamed", inspect.RuleInterpreter, "php", "opt/p", renamed),
		tool("mawk-renamed", inspect.RuleInterpreter, "mawk", "opt/a", renamed),
		tool("gawk-renamed", inspect.RuleInterpreter, "gawk", "opt/g", renamed),
		files("node-static", inspect.RuleInterpreter, static, program("app/n", "Usage: node [options] [ script.js ]", "NODE_REPL_HISTORY")),
	}
}

// hiding are ways to hide that the other cases do not use.
func hiding() []Case {
	dash := func(name, hides string, make func(b []byte) Spec) Case {
		return Case{Name: name, Rule: inspect.RuleShell, Hides: hides, Spec: func(t *Tools) (Spec, error) {
			b, err := t.Unlinked("dash")
			if err != nil {
				return Spec{}, err
			}
			return make(b), nil
		}}
	}
	above := func(s Spec, list ...File) Spec {
		s.Layers = append(s.Layers, Layer{Files: list})
		return s
	}
	return []Case{
		// Archives in archives.
		packed("shell-in-tar-gz-in-zip", inspect.RuleShell, "dash", "app/plugin.jar", func(b []byte) []byte { return zipped("data/x.tgz", gz(tarball("a/b", 0o644, b))) }),
		packed("shell-in-zip-in-tar", inspect.RuleShell, "dash", "app/backup", func(b []byte) []byte { return tarball("x.zip", 0o644, zipped("y", b)) }),
		packed("shell-in-jar-in-war-in-zip", inspect.RuleShell, "dash", "app/app.zip", func(b []byte) []byte {
			return zipped("app.war", zipped("WEB-INF/lib/x.jar", zipped("native/linux/helper", b)))
		}),
		packed("shell-in-gzip-in-gzip", inspect.RuleShell, "dash", "app/m.gz", func(b []byte) []byte { return gz(gz(b)) }),
		packed("shell-in-zstd", inspect.RuleShell, "dash", "app/m.bin", zst),
		packed("shell-in-zip-behind-program", inspect.RuleShell, "dash", "app/setup", func(b []byte) []byte { return append(Program(), zipped("x", b)...) }),
		packed("shell-in-zip-behind-script", inspect.RuleShell, "dash", "app/tool.pyz", func(b []byte) []byte { return append([]byte("#!/app/server\n"), zipped("x", b)...) }),
		packed("shell-in-second-gzip-member", inspect.RuleShell, "dash", "app/m.gz", func(b []byte) []byte {
			t := tarball("x", 0o644, b)
			return append(gz(t[:700]), gz(t[700:])...)
		}),
		packed("shell-behind-other-members", inspect.RuleShell, "dash", "app/many.zip", func(b []byte) []byte {
			list := []File{}
			for i := range 500 {
				list = append(list, text(fmt.Sprintf("f/%d.txt", i), strings.Repeat("text\n", i)))
			}
			t, err := Tar(append(list, File{Name: "z", Body: b}))
			if err != nil {
				panic(err) // to memory
			}
			return zipped("all.tar", t)
		}),
		files("archives-too-deep", inspect.RuleUnreadable, inArchive, File{Name: "app/deep.gz", Body: deep(9, []byte("text\n"))}),
		files("nested-bomb", inspect.RuleUnreadable, inArchive, File{Name: "app/deep.zip", Body: zipped("a.gz", gz(gz(make([]byte, 200<<20))))}),

		// Shadows.
		dash("shell-folder-replaced-by-file", lowerLayer, func(b []byte) Spec {
			return above(With(Dir("app/x"), File{Name: "app/x/y", Mode: 0o755, Body: b}), text("app/x", "no folder any more"))
		}),
		dash("shell-replaced-by-link", lowerLayer, func(b []byte) Spec {
			return above(With(File{Name: "app/x", Mode: 0o755, Body: b}), Link("app/x", "server"))
		}),
		dash("shell-two-layers-down", lowerLayer, func(b []byte) Spec {
			return above(above(With(File{Name: "app/x", Mode: 0o755, Body: b}), Whiteout("app", "x")), File{Name: "app/x", Mode: 0o755, Body: Program()})
		}),
		dash("shell-brought-back", renamed, func(b []byte) Spec { // a whiteout in the same layer is about lower layers
			return above(With(text("app/x", "1")), Whiteout("app", "x"), File{Name: "app/x", Mode: 0o755, Body: b})
		}),
		dash("shell-beside-its-whiteout", renamed, func(b []byte) Spec { // the whiteout comes last, and is about lower layers all the same
			return above(Base(), File{Name: "app/x", Mode: 0o755, Body: b}, Whiteout("app", "x"))
		}),
		dash("shell-under-opaque-of-its-layer", renamed, func(b []byte) Spec {
			return above(Base(), Dir("srv"), File{Name: "srv/x", Mode: 0o755, Body: b}, File{Name: "srv/.wh..wh..opq"})
		}),
		dash("shell-whiteout-without-file", renamed, func(b []byte) Spec { // deletes another case of the name
			return above(With(File{Name: "app/Tool", Mode: 0o755, Body: b}), Whiteout("app", "tool"))
		}),
		dash("shell-hard-link-from-higher-layer", behindLink, func(b []byte) Spec {
			return above(above(With(File{Name: "app/x", Mode: 0o755, Body: b}), File{Name: "app/y", Type: tar.TypeLink, Link: "app/x"}), Whiteout("app", "x"))
		}),
		dash("shell-through-linked-folder", behindLink, func(b []byte) Spec {
			return above(With(Dir("srv"), Link("app/lib", "../srv")), File{Name: "app/lib/x", Mode: 0o755, Body: b})
		}),
		dash("shell-odd-name", renamed, func(b []byte) Spec {
			return With(File{Name: "app//./.../x", Mode: 0o755, Body: b})
		}),
		dash("shell-name-not-utf-8", renamed, func(b []byte) Spec {
			s := Base()
			s.Layers = append(s.Layers, Layer{Raw: rawTar("app/\xff\xfe", b)})
			return s
		}),
		dash("shell-contiguous-file", renamed, func(b []byte) Spec { // an old type of regular file
			return With(File{Name: "app/x", Type: tar.TypeCont, Mode: 0o755, Body: b})
		}),

		// What hides in the configuration.
		config("secret-in-annotation", inspect.RuleSecret, func(s *Spec) { s.Annotations["org.example.ci"] = githubToken() }),
		config("secret-in-entrypoint", inspect.RuleSecret, func(s *Spec) { s.Config.Cmd = []string{"--token=" + slackToken()} }),
		config("secret-in-health-check", inspect.RuleSecret, func(s *Spec) { s.Healthcheck = []string{"CMD", "/app/server", "--token=" + slackToken()} }),
		config("secret-in-url-in-environment", inspect.RuleSecret, func(s *Spec) {
			s.Config.Env = append(s.Config.Env, "CACHE=redis://:"+token(41, 18, letters)+"@cache.internal:6379/0")
		}),
		{Name: "debugger-in-first-line", Rule: inspect.RuleDebugFlag, Hides: inText, Spec: func(*Tools) (Spec, error) {
			s := With(program("usr/bin/node", "Usage: node [options] [ script.js ]", "NODE_REPL_HISTORY"), File{Name: "app/main", Mode: 0o755, Body: []byte("#!/usr/bin/node --inspect=0.0.0.0\n1\n")})
			s.Config.Entrypoint = []string{"/app/main"}
			return s, nil
		}},
		config("zone-says-development", inspect.RuleInconsistent, func(s *Spec) { s.Config.Labels[oci.ZoneKey] = string(oci.Development) }),
		config("zone-without-annotation", inspect.RuleInconsistent, func(s *Spec) { delete(s.Annotations, oci.ZoneKey) }),

		// Secrets.
		files("openssh-key", inspect.RuleSecret, renamed, File{Name: "app/id", Body: openSSHKey()}),
		files("secret-in-utf-16", inspect.RuleSecret, inText, File{Name: "app/settings.ini", Body: utf16("token = " + githubToken() + "\r\n")}),
		files("secret-in-gzip", inspect.RuleSecret, inArchive, File{Name: "app/dump.gz", Body: gz([]byte("insert into t values ('" + githubToken() + "')\n"))}),
		files("secret-in-jar-in-zip", inspect.RuleSecret, inArchive, File{Name: "app/a.zip", Body: zipped("b.jar", zipped("application.properties", []byte("slack="+slackToken()+"\n")))}),
		files("netrc", inspect.RuleSecret, "", text("root/.netrc", "machine git.example login bot password "+token(42, 20, letters)+"\n")),
		files("git-credentials", inspect.RuleSecret, "", text("root/.git-credentials", "https://bot:"+token(43, 20, letters)+"@git.example\n")),
		files("pgpass", inspect.RuleSecret, "", text("root/.pgpass", "db.internal:5432:app:app:"+token(44, 16, letters)+"\n")),
		files("gcp-key", inspect.RuleSecret, inText, text("app/maps.js", "const key = 'AI"+"za"+token(45, 35, letters)+"';\n")),
		files("stripe-key", inspect.RuleSecret, inText, text("app/pay.py", "stripe.api_key = \"sk"+"_live_"+token(46, 24, letters)+"\"\n")),
		files("token-in-dependency", inspect.RuleSecret, inText, text("app/node_modules/x/index.js", "const t = '"+githubToken()+"';\n")),
		{Name: "secret-under-two-layers", Rule: inspect.RuleSecret, Hides: lowerLayer, Spec: func(*Tools) (Spec, error) {
			s := With(text("app/config.json", `{"t":"`+githubToken()+`"}`))
			s.Layers = append(s.Layers, Layer{Files: []File{text("app/config.json", `{}`)}}, Layer{Files: []File{Whiteout("app", "config.json")}})
			return s, nil
		}},

		// Would it run?
		files("script-without-interpreter", inspect.RuleUnresolvedScript, "", File{Name: "app/bin/report", Mode: 0o755, Body: []byte("#!/usr/bin/python3\nprint(1)\n")}),
		{Name: "entry-script-without-interpreter", Rule: inspect.RuleBrokenEntrypoint, Spec: func(*Tools) (Spec, error) {
			s := With(File{Name: "app/run", Mode: 0o755, Body: []byte("#!/usr/bin/python3\nprint(1)\n")})
			s.Config.Entrypoint = []string{"/app/run"}
			return s, nil
		}},
		{Name: "entry-script-for-missing-shell-by-env", Rule: inspect.RuleShellEntrypoint, Hides: inText, Spec: func(*Tools) (Spec, error) {
			s := With(Dir("usr/bin"), program("usr/bin/env", "env"), File{Name: "app/run", Mode: 0o755, Body: []byte("#!/usr/bin/env -S bash -eu\nexec /app/server\n")})
			s.Config.Entrypoint = []string{"/app/run"}
			return s, nil
		}},
		{Name: "missing-interpreter", Rule: inspect.RuleUnresolvedProgram, Spec: func(t *Tools) (Spec, error) {
			f, err := t.Closure("ls", "app/server")
			if err != nil {
				return Spec{}, err
			}
			var rest []File
			for _, x := range f {
				if !strings.HasPrefix(x.Name, "lib64/") {
					rest = append(rest, x)
				}
			}
			return With(rest...), nil
		}},
		{Name: "program-for-another-machine", Rule: inspect.RuleUnresolvedProgram, Spec: func(*Tools) (Spec, error) {
			b := bytes.Clone(Program())
			b[18] = 183 // EM_AARCH64
			return With(File{Name: "app/server", Mode: 0o755, Body: b}), nil
		}},
		config("privileged-udp-port", inspect.RulePrivilegedPort, func(s *Spec) { s.Config.ExposedPorts = map[string]struct{}{"53/udp": {}} }),
	}
}

// deep is a file compressed n times over.
func deep(n int, b []byte) []byte {
	for range n {
		b = gz(b)
	}
	return b
}
