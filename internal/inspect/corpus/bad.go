package corpus

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"twinhull.dev/twinhull/internal/inspect"
	"twinhull.dev/twinhull/internal/oci"
)

// Ways to hide.
const (
	renamed    = "renamed"
	static     = "statically linked"
	lowerLayer = "lower layer"
	behindLink = "behind a link"
	inArchive  = "inside an archive"
	inText     = "among other text"
)

// tool is a case with a real program at a path that says nothing.
func tool(name, rule, program, at, hides string) Case {
	return Case{Name: name, Rule: rule, Hides: hides, Spec: func(t *Tools) (Spec, error) {
		b, err := t.Unlinked(program)
		return With(Dir("opt"), File{Name: at, Mode: 0o755, Body: b}), err
	}}
}

// packed is a case with a real program inside something else.
func packed(name, rule, program, at string, wrap func([]byte) []byte) Case {
	return Case{Name: name, Rule: rule, Hides: inArchive, Spec: func(t *Tools) (Spec, error) {
		b, err := t.Unlinked(program)
		if err != nil {
			return Spec{}, err
		}
		return With(File{Name: at, Body: wrap(b)}), nil
	}}
}

// lower is a case with a real program in a layer under others that delete or
// replace it.
func lower(name, rule, program string, above ...File) Case {
	return Case{Name: name, Rule: rule, Hides: lowerLayer, Spec: func(t *Tools) (Spec, error) {
		b, err := t.Unlinked(program)
		s := With(Dir("opt"), Dir("opt/x"), File{Name: "opt/x/tool", Mode: 0o755, Body: b})
		s.Layers = append(s.Layers, Layer{Files: above})
		return s, err
	}}
}

// files is a case with further files.
func files(name, rule, hides string, list ...File) Case {
	return Case{Name: name, Rule: rule, Hides: hides, Spec: func(*Tools) (Spec, error) { return With(list...), nil }}
}

// hidden is a case with files of which a higher layer deletes the first.
func hidden(name, rule string, list ...File) Case {
	return Case{Name: name, Rule: rule, Hides: lowerLayer, Spec: func(*Tools) (Spec, error) {
		s := With(list...)
		dir, base := "", list[0].Name
		if i := strings.LastIndex(base, "/"); i >= 0 {
			dir, base = base[:i+1], base[i+1:]
		}
		s.Layers = append(s.Layers, Layer{Files: []File{{Name: dir + ".wh." + base}}})
		return s, nil
	}}
}

// config is a case with another configuration.
func config(name, rule string, change func(s *Spec)) Case {
	return Case{Name: name, Rule: rule, Spec: func(*Tools) (Spec, error) {
		s := Base()
		change(&s)
		return s, nil
	}}
}

func text(name, body string) File { return File{Name: name, Body: []byte(body)} }

func program(name string, texts ...string) File {
	return File{Name: name, Mode: 0o755, Body: ELF(texts)}
}

// Bad are images that must be refused, one defect each.
func Bad() []Case {
	pkg := func(dir, body string) []File {
		return []File{Dir("app"), Dir("app/lib"), text(dir+"/package.json", body)}
	}
	return slices.Concat(kinds(), hiding(), []Case{
		// Shells.
		tool("bash-renamed", inspect.RuleShell, "bash", "opt/report", renamed),
		tool("dash-renamed", inspect.RuleShell, "dash", "opt/.cache", renamed),
		tool("zsh-renamed", inspect.RuleShell, "zsh", "opt/worker", renamed),
		tool("mksh-static", inspect.RuleShell, "mksh-static", "opt/agent", static),
		tool("busybox-static", inspect.RuleShell, "busybox-static", "opt/agent", static),
		lower("shell-deleted", inspect.RuleShell, "dash", Whiteout("opt/x", "tool")),
		lower("shell-folder-deleted", inspect.RuleShell, "dash", Whiteout("opt", "x")),
		lower("shell-replaced", inspect.RuleShell, "bash", File{Name: "opt/x/tool", Mode: 0o755, Body: Program()}),
		lower("shell-opaque", inspect.RuleShell, "dash", Dir("opt/x"), File{Name: "opt/x/.wh..wh..opq"}),
		{Name: "shell-behind-links", Rule: inspect.RuleShell, Hides: behindLink, Spec: func(t *Tools) (Spec, error) {
			b, err := t.Unlinked("dash")
			return With(Dir("srv"), File{Name: "srv/blob", Mode: 0o755, Body: b}, Link("opt", "srv"), Link("app/check", "../opt/blob")), err
		}},
		{Name: "shell-hard-link", Rule: inspect.RuleShell, Hides: behindLink, Spec: func(t *Tools) (Spec, error) {
			b, err := t.Unlinked("dash")
			s := With(File{Name: "app/a", Mode: 0o755, Body: b}, File{Name: "app/b", Type: tar.TypeLink, Link: "app/a"})
			s.Layers = append(s.Layers, Layer{Files: []File{Whiteout("app", "a")}})
			return s, err
		}},
		{Name: "shell-not-executable", Rule: inspect.RuleShell, Hides: renamed, Spec: func(t *Tools) (Spec, error) {
			b, err := t.Unlinked("dash")
			return With(File{Name: "app/data.bin", Mode: 0o600, Body: b}), err
		}},
		{Name: "shell-twice-in-a-layer", Rule: inspect.RuleShell, Hides: lowerLayer, Spec: func(t *Tools) (Spec, error) {
			b, err := t.Unlinked("dash")
			return With(File{Name: "app/x", Mode: 0o755, Body: b}, File{Name: "app/x", Mode: 0o755, Body: Program()}), err
		}},
		packed("shell-in-tar-gz", inspect.RuleShell, "dash", "app/assets.tgz", func(b []byte) []byte { return gz(tarball("x/y", 0o755, b)) }),
		packed("shell-in-tar-xz", inspect.RuleShell, "dash", "app/assets.bin", func(b []byte) []byte { return xzip(tarball("x/y", 0o755, b)) }),
		packed("shell-in-tar", inspect.RuleShell, "dash", "app/assets", func(b []byte) []byte { return tarball("x/y", 0o755, b) }),
		packed("shell-in-zip", inspect.RuleShell, "dash", "app/plugin.jar", func(b []byte) []byte { return zipped("native/helper", b) }),
		packed("shell-in-cpio", inspect.RuleShell, "dash", "app/initrd", func(b []byte) []byte { return cpio("bin/x", b) }),
		packed("shell-in-gzip", inspect.RuleShell, "dash", "app/model.gz", gz),
		packed("shell-in-self-extractor", inspect.RuleShell, "dash", "app/data.zip", func(b []byte) []byte { return zipped("a/b/c", b) }),
		files("shell-powershell", inspect.RuleShell, renamed, File{Name: "app/console.dll", Body: append([]byte("MZ\x90\x00"+strings.Repeat("\x00", 100)), "Microsoft.PowerShell.ConsoleHost\x00"...)}),
		files("shell-by-name", inspect.RuleShell, "", program("usr/local/bin/sh", "a shell that nothing is known of")),
		{Name: "shell-in-go", Rule: inspect.RuleShell, Hides: renamed, Spec: func(t *Tools) (Spec, error) {
			b, err := t.GoProgram("mvdan.cc/sh/v3/cmd/gosh")
			return With(File{Name: "app/expr", Mode: 0o755, Body: b}), err
		}},

		// Package managers.
		tool("apt-renamed", inspect.RulePackageManager, "apt-get", "opt/fetch", renamed),
		tool("dpkg-renamed", inspect.RulePackageManager, "dpkg", "opt/db", renamed),
		lower("dpkg-deleted", inspect.RulePackageManager, "dpkg", Whiteout("opt/x", "tool")),
		files("apk-static", inspect.RulePackageManager, static, program("app/p", "This apk has coffee making abilities.")),
		files("npm-folder", inspect.RulePackageManager, renamed, pkg("app/lib/tooling", `{"name":"npm","version":"10.9.2","bin":{"npm":"bin/npm-cli.js"}}`)...),
		files("npm-script", inspect.RulePackageManager, inText, File{Name: "app/start", Mode: 0o755, Body: []byte("#!/app/server\nrequire('../lib/cli.js')(process)\n")}),
		files("yarn-bundle", inspect.RulePackageManager, renamed, text("app/vendor.cjs", "/* eslint-disable */\nvar a = '@yarnpkg/cli', b = '@yarnpkg/plugin-npm';\n")),
		files("pnpm-package", inspect.RulePackageManager, inText, Dir("app/node_modules"), text("app/node_modules/pnpm/package.json", `{"name":"pnpm","version":"9.1.0","bin":"bin/pnpm.cjs"}`)),
		files("corepack-package", inspect.RulePackageManager, inText, text("app/node_modules/corepack/package.json", `{"name":"corepack","version":"0.30.0","bin":{"corepack":"dist/corepack.js"}}`)),
		files("pip-package", inspect.RulePackageManager, inText, text("app/site-packages/pip-24.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: pip\nVersion: 24.0\n\n")),
		files("pip-in-wheel", inspect.RulePackageManager, inArchive, File{Name: "app/bundled.whl", Body: zipped("pip/__main__.py", []byte("from pip._internal.cli.main import main as _main\n"))}),
		files("gem-script", inspect.RulePackageManager, renamed, File{Name: "app/run", Mode: 0o755, Body: []byte("#!/app/server\nrequire 'rubygems/gem_runner'\n")}),
		files("composer-phar", inspect.RulePackageManager, renamed, text("app/tool.php", "#!/usr/bin/env php\n<?php Phar::mapPhar('composer.phar');\n")),
		files("cargo-static", inspect.RulePackageManager, static, program("app/c", "CARGO_REGISTRIES_X", "CARGO_TARGET_DIR")),

		// Compilers and what belongs to them.
		tool("gcc-renamed", inspect.RuleCompiler, "gcc", "opt/driver", renamed),
		tool("as-renamed", inspect.RuleCompiler, "as", "opt/a", renamed),
		tool("ld-renamed", inspect.RuleCompiler, "ld", "opt/l", renamed),
		lower("tcc-replaced", inspect.RuleCompiler, "tcc", File{Name: "opt/x/tool", Mode: 0o755, Body: Program()}),
		{Name: "go-renamed", Rule: inspect.RuleCompiler, Hides: renamed, Spec: func(t *Tools) (Spec, error) {
			b, err := t.GoProgram("github.com/tinygo-org/tinygo")
			return With(File{Name: "app/gen", Mode: 0o755, Body: b}), err
		}},
		files("typescript-package", inspect.RuleCompiler, inText, text("app/node_modules/typescript/package.json", `{"name":"typescript","version":"5.6.2","bin":{"tsc":"./bin/tsc"}}`)),
		tool("make-renamed", inspect.RuleBuildTool, "make", "opt/m", renamed),
		tool("ninja-renamed", inspect.RuleBuildTool, "ninja", "opt/n", renamed),
		files("cmake-static", inspect.RuleBuildTool, static, program("app/c", "cmake [options] <path-to-source>", "CMAKE_MAKE_PROGRAM")),
		files("headers", inspect.RuleHeaders, "", Dir("usr/include"), text("usr/include/stdio.h", "int puts(const char *);\n")),
		files("static-library", inspect.RuleHeaders, renamed, File{Name: "app/data.bin", Body: ar("x.o/", Object())}),
		files("object-file", inspect.RuleHeaders, renamed, File{Name: "app/cache.dat", Body: Object()}),

		// Debuggers, network clients, editors, interpreters.
		tool("gdb-renamed", inspect.RuleDebugger, "gdb", "opt/g", renamed),
		tool("strace-renamed", inspect.RuleDebugger, "strace", "opt/s", renamed),
		packed("strace-in-zip", inspect.RuleDebugger, "strace", "app/a.zip", func(b []byte) []byte { return zipped("t", b) }),
		{Name: "delve-renamed", Rule: inspect.RuleDebugger, Hides: renamed, Spec: func(t *Tools) (Spec, error) {
			b, err := t.GoProgram("github.com/go-delve/delve/cmd/dlv")
			return With(File{Name: "app/probe", Mode: 0o755, Body: b}), err
		}},
		tool("curl-renamed", inspect.RuleNetworkClient, "curl", "opt/healthcheck", renamed),
		lower("wget-deleted", inspect.RuleNetworkClient, "wget", Whiteout("opt/x", "tool")),
		tool("nc-renamed", inspect.RuleNetworkClient, "nc", "opt/wait", renamed),
		tool("socat-renamed", inspect.RuleNetworkClient, "socat", "opt/proxy", renamed),
		tool("ssh-renamed", inspect.RuleNetworkClient, "ssh", "opt/tunnel", renamed),
		tool("vim-renamed", inspect.RuleEditor, "vim", "opt/v", renamed),
		tool("nano-renamed", inspect.RuleEditor, "nano", "opt/n", renamed),
		tool("ed-renamed", inspect.RuleEditor, "ed", "opt/e", renamed),
		tool("perl-renamed", inspect.RuleInterpreter, "perl", "opt/p", renamed),
		lower("perl-deleted", inspect.RuleInterpreter, "perl", Whiteout("opt/x", "tool")),
		files("python-static", inspect.RuleInterpreter, static, program("app/py", "PYTHONDONTWRITEBYTECODE", "PYTHONFAULTHANDLER", "PYTHONTRACEMALLOC")),
		files("awk-by-name", inspect.RuleInterpreter, behindLink, program("app/lib.so.1", "nothing known"), Dir("usr/bin"), Link("usr/bin/awk", "/app/lib.so.1")),
		files("packed-program", inspect.RulePacked, renamed, program("app/fast", "UPX!", "UPX!")),

		// Permissions.
		files("set-user-id", inspect.RuleSetID, "", File{Name: "app/su", Mode: 0o4755, Body: Program()}),
		files("set-group-id", inspect.RuleSetID, "", File{Name: "app/sg", Mode: 0o2755, Body: Program()}),
		files("capability", inspect.RuleCapability, "", File{Name: "app/raw", Mode: 0o755, Body: Program(), PAX: capability(13)}),
		files("world-writable-file", inspect.RuleWorldWritable, "", File{Name: "app/x.conf", Mode: 0o666, Body: []byte("a")}),
		files("world-writable-folder", inspect.RuleWorldWritable, "", File{Name: "app/spool", Type: tar.TypeDir, Mode: 0o777}),
		files("device", inspect.RuleDevice, "", File{Name: "app/mem", Type: tar.TypeChar, Mode: 0o600, Major: 1, Minor: 1}),
		files("owned-by-user", inspect.RuleUserWritable, "", File{Name: "app/server", Mode: 0o755, UID: 65532, GID: 65532, Body: Program()}),

		// Leftovers.
		files("source-map", inspect.RuleSourceMap, "", text("app/main.js.map", `{"version":3}`)),
		files("tests", inspect.RuleTestFiles, "", text("app/test/a.js", "x")),
		files("coverage", inspect.RuleCoverage, "", text("app/lcov.info", "TN:\n")),
		files("git", inspect.RuleVCS, "", text("app/.git/config", "[core]\n")),
		files("git-folder-renamed", inspect.RuleVCS, renamed, text("app/history/HEAD", "ref: refs/heads/main\n")),
		hidden("git-deleted", inspect.RuleVCS, text("app/pack", "PACK\x00\x00\x00\x02\x00\x00\x00\x01")),
		files("env-file", inspect.RuleEnvFile, "", text("app/.env", "LEVEL=info\n")),
		files("npm-cache", inspect.RulePackageCache, "", text("root/.npm/_cacache/index-v5/ab", "x")),
		files("apt-lists", inspect.RulePackageCache, "", text("var/lib/apt/lists/deb_dists_stable_Release", "x")),
		files("debian-package", inspect.RulePackageCache, renamed, File{Name: "app/a.bin", Body: ar("debian-binary", []byte("2.0\n"))}),
		files("go-module-cache", inspect.RulePackageCache, "", text("root/go/pkg/mod/cache/download/x/@v/list", "v1.0.0\n")),
		files("lock-file", inspect.RuleLockFile, "", text("app/yarn.lock", "# yarn\n")),
		files("typescript-source", inspect.RuleTypeScript, "", text("app/main.ts", "let a: number = 1\n")),
		files("build-log", inspect.RuleBuildLog, "", text("app/npm-debug.log", "0 info\n")),
		files("editor-backup", inspect.RuleBackup, "", text("app/server.js~", "x")),
		files("core-dump", inspect.RuleCoreDump, renamed, File{Name: "app/cache.db", Body: Core()}),

		// Configuration.
		config("root", inspect.RuleRootUser, func(s *Spec) { s.Config.User = "" }),
		config("root-by-name", inspect.RuleRootUser, func(s *Spec) { s.Config.User = "root:app" }),
		config("inspect-flag", inspect.RuleDebugFlag, func(s *Spec) { s.Config.Cmd = []string{"--inspect=0.0.0.0:9229"} }),
		config("node-options", inspect.RuleDebugFlag, func(s *Spec) { s.Config.Env = append(s.Config.Env, "NODE_OPTIONS=--max-old-space-size=512 --inspect") }),
		config("node-env", inspect.RuleDebugFlag, func(s *Spec) { s.Config.Env = append(s.Config.Env, "NODE_ENV=development") }),
		config("debug-all", inspect.RuleDebugFlag, func(s *Spec) { s.Config.Env = append(s.Config.Env, "DEBUG=*") }),
		config("jdwp", inspect.RuleDebugFlag, func(s *Spec) {
			s.Config.Env = append(s.Config.Env, "JAVA_TOOL_OPTIONS=-agentlib:jdwp=transport=dt_socket,server=y")
		}),
		config("flask-debug", inspect.RuleDebugFlag, func(s *Spec) { s.Config.Env = append(s.Config.Env, "FLASK_DEBUG=1") }),
		config("delve-exec", inspect.RuleDebugFlag, func(s *Spec) { s.Config.Cmd = []string{"dlv", "exec", "/app/server"} }),

		// Secrets.
		files("private-key", inspect.RuleSecret, renamed, File{Name: "app/data.txt", Body: privateKey(1)}),
		files("rsa-key-in-json", inspect.RuleSecret, inText, text("app/account.json", fmt.Sprintf(`{"type":"service_account","private_key":%s}`, quote(string(rsaLike()))))),
		hidden("private-key-deleted", inspect.RuleSecret, File{Name: "app/key.pem", Body: privateKey(2)}),
		files("private-key-in-archive", inspect.RuleSecret, inArchive, File{Name: "app/b.tgz", Body: gz(tarball("conf/tls.key", 0o600, privateKey(3)))}),
		files("private-key-far-down", inspect.RuleSecret, inText, text("app/long.txt", strings.Repeat("nothing to see on this line\n", 40000)+string(privateKey(4))+strings.Repeat("or on this\n", 9000))),
		files("private-key-in-dependency", inspect.RuleSecret, inText, File{Name: "app/node_modules/x/lib/k.js", Body: append([]byte("module.exports = `"), append(privateKey(5), '`')...)}),
		files("github-token", inspect.RuleSecret, inText, text("app/config.js", "const t = '"+githubToken()+"';\n")),
		files("npmrc", inspect.RuleSecret, "", text("app/.npmrc", "//registry.example/:_authToken="+npmToken()+"\n")),
		files("kubeconfig", inspect.RuleSecret, renamed, text("app/cluster.yaml", "users:\n- user:\n    client-key-data: "+b64(string(privateKey(6)))+"\n")),
		files("docker-config", inspect.RuleSecret, "", text("root/.docker/config.json", `{"auths":{"r.example":{"auth":"`+b64("robot:"+token(11, 20, letters))+`"}}}`)),
		files("aws-credentials", inspect.RuleSecret, "", text("root/.aws/credentials", "[default]\naws_access_key_id = "+awsKey()+"\naws_secret_access_key = "+token(12, 40, letters)+"\n")),
		files("shadow", inspect.RuleSecret, "", text("etc/shadow", "root:$"+"6$"+token(13, 16, letters)+"$"+token(14, 86, letters)+":19000:0:99999:7:::\n")),
		hidden("env-file-deleted", inspect.RuleSecret, text("app/.env", "DB_PASSWORD="+token(15, 14, letters)+"\n")),
		config("secret-in-environment", inspect.RuleSecret, func(s *Spec) { s.Config.Env = append(s.Config.Env, "DB_PASSWORD=correct-horse-9") }),
		config("token-in-environment", inspect.RuleSecret, func(s *Spec) { s.Config.Env = append(s.Config.Env, "CI="+slackToken()) }),
		config("database-url", inspect.RuleSecret, func(s *Spec) {
			s.Config.Env = append(s.Config.Env, "DATABASE_URL=postgres://app:"+token(16, 14, letters)+"@db.internal:5432/app")
		}),
		config("secret-in-label", inspect.RuleSecret, func(s *Spec) { s.Config.Labels["org.example.deploy"] = githubToken() }),
		config("secret-in-history", inspect.RuleSecret, func(s *Spec) {
			s.Layers[1].History = "|1 NPM_TOKEN=" + npmToken() + " /bin/sh -c npm ci"
		}),
		config("password-in-history", inspect.RuleSecret, func(s *Spec) {
			s.Layers[1].History = "ENV ADMIN_PASSWORD=" + token(17, 12, letters)
		}),

		// Would it run?
		config("shell-form", inspect.RuleShellEntrypoint, func(s *Spec) { s.Config.Entrypoint = []string{"/bin/sh", "-c", "exec /app/server"} }),
		config("npm-start", inspect.RuleShellEntrypoint, func(s *Spec) { s.Config.Entrypoint = []string{"npm", "start"} }),
		{Name: "behind-tini", Rule: inspect.RuleShellEntrypoint, Spec: func(*Tools) (Spec, error) {
			s := With(Dir("usr/bin"), program("usr/bin/tini", "tini"))
			s.Config.Entrypoint = []string{"tini", "--", "bash", "/app/run"}
			return s, nil
		}},
		config("health-check", inspect.RuleShellEntrypoint, func(s *Spec) { s.Healthcheck = []string{"CMD-SHELL", "exit 0"} }),
		{Name: "shell-script", Rule: inspect.RuleShellEntrypoint, Hides: renamed, Spec: func(*Tools) (Spec, error) {
			s := With(File{Name: "app/start", Mode: 0o755, Body: []byte("#!/bin/sh\nexec /app/server\n")})
			s.Config.Entrypoint = []string{"/app/start"}
			return s, nil
		}},
		config("no-entrypoint", inspect.RuleNoEntrypoint, func(s *Spec) { s.Config.Entrypoint = nil }),
		config("missing-program", inspect.RuleBrokenEntrypoint, func(s *Spec) { s.Config.Entrypoint = []string{"/app/sever"} }),
		{Name: "dangling-program", Rule: inspect.RuleBrokenEntrypoint, Hides: behindLink, Spec: func(*Tools) (Spec, error) {
			s := With(Link("app/current", "v2/server"))
			s.Config.Entrypoint = []string{"/app/current"}
			return s, nil
		}},
		{Name: "program-not-executable", Rule: inspect.RuleBrokenEntrypoint, Spec: func(*Tools) (Spec, error) {
			return With(File{Name: "app/server", Mode: 0o644, Body: Program()}), nil
		}},
		{Name: "missing-libraries", Rule: inspect.RuleUnresolvedProgram, Spec: func(t *Tools) (Spec, error) {
			f, err := t.Closure("ls", "app/server")
			if err != nil {
				return Spec{}, err
			}
			return With(f[0]), nil
		}},
		{Name: "missing-one-library", Rule: inspect.RuleUnresolvedProgram, Spec: func(t *Tools) (Spec, error) {
			f, err := t.Closure("ls", "app/server")
			if err != nil {
				return Spec{}, err
			}
			for i := len(f) - 1; i > 0; i-- {
				if !strings.Contains(f[i].Name, "/ld-linux") { // it is there under another name as well
					return With(append(f[:i:i], f[i+1:]...)...), nil
				}
			}
			return Spec{}, fmt.Errorf("ls needs no library: %w", ErrNoTool)
		}},
		config("privileged-port", inspect.RulePrivilegedPort, func(s *Spec) { s.Config.ExposedPorts = map[string]struct{}{"80/tcp": {}} }),
		config("volume-outside", inspect.RuleWritesOutside, func(s *Spec) { s.Config.Volumes = map[string]struct{}{"/data": {}} }),
		config("logs-outside", inspect.RuleWritesOutside, func(s *Spec) { s.Config.Env = append(s.Config.Env, "LOG_DIR=/var/log/app") }),
		config("unknown-user", inspect.RuleNoPasswd, func(s *Spec) { s.Config.User = "service" }),

		// The bytes themselves.
		{Name: "package-file-changed", Rule: inspect.RulePackageBytes, Spec: func(*Tools) (Spec, error) {
			return With(text("var/lib/dpkg/status.d/tool", "Package: tool\nVersion: 1\nArchitecture: amd64\n"),
				text("var/lib/dpkg/status.d/tool.md5sums", md5hex([]byte("as shipped"))+"  usr/share/tool/data\n"), text("usr/share/tool/data", "as changed")), nil
		}},
		files("rpm-database", inspect.RuleUnreadable, "", text("var/lib/rpm/rpmdb.sqlite", "SQLite format 3\x00")),
		files("encrypted-zip", inspect.RuleUnreadable, inArchive, File{Name: "app/p.zip", Body: encrypted(zipped("x", []byte("secret")))}),
		files("seven-zip", inspect.RuleUnreadable, inArchive, text("app/p.dat", "7z\xbc\xaf\x27\x1c\x00\x04")),
		files("broken-elf", inspect.RuleUnreadable, "", File{Name: "app/x", Mode: 0o755, Body: Program()[:100]}),
		files("broken-archive", inspect.RuleUnreadable, inArchive, File{Name: "app/x.tgz", Body: gz(tarball("a", 0o644, bytes.Repeat([]byte("x"), 10000)))[:90]}),
		files("bomb-in-archive", inspect.RuleUnreadable, inArchive, File{Name: "app/x.gz", Body: gz(make([]byte, 100<<20))}),
		{Name: "truncated-layer", Rule: inspect.RuleUnreadable, Spec: func(*Tools) (Spec, error) {
			s := Base()
			b, err := Tar(s.Layers[1].Files)
			s.Layers[1].Blob = gz(b)[:200]
			return s, err
		}},
		{Name: "layer-bomb", Rule: inspect.RuleUnreadable, Spec: func(*Tools) (Spec, error) {
			s := Base()
			s.Layers = append(s.Layers, Layer{Files: []File{{Name: "app/zero", Body: make([]byte, 90<<20)}}})
			return s, nil
		}},
		{Name: "sparse-layer", Rule: inspect.RuleUnreadable, Spec: func(*Tools) (Spec, error) {
			s := Base()
			s.Layers = append(s.Layers, Layer{Raw: sparseTar(2 << 30)})
			return s, nil
		}},
		{Name: "not-a-tar", Rule: inspect.RuleUnreadable, Spec: func(*Tools) (Spec, error) {
			s := Base()
			s.Layers = append(s.Layers, Layer{Raw: bytes.Repeat([]byte("no tar stream "), 100)})
			return s, nil
		}},
		{Name: "wrong-diffid", Rule: inspect.RuleInconsistent, Spec: func(*Tools) (Spec, error) {
			s := Base()
			s.Change = func(_ *ocispec.Manifest, c *ocispec.Image) { c.RootFS.DiffIDs[1] = digest.FromString("another") }
			return s, nil
		}},
		{Name: "damaged-blob", Rule: inspect.RuleInconsistent, Spec: func(*Tools) (Spec, error) {
			s := Base()
			s.Spoil = func(l *oci.Layout, m ocispec.Manifest) error {
				p, err := l.BlobPath(m.Layers[1].Digest)
				if err != nil {
					return err
				}
				b, err := os.ReadFile(p)
				if err != nil {
					return err
				}
				b[4] ^= 1 // the time in gzip's header: it unpacks to the same bytes
				if err := os.Chmod(p, 0o644); err != nil {
					return err
				}
				return os.WriteFile(p, b, 0o644)
			}
			return s, nil
		}},
		{Name: "fewer-diffids", Rule: inspect.RuleInconsistent, OpenFails: true, Spec: func(*Tools) (Spec, error) {
			s := Base()
			s.Change = func(_ *ocispec.Manifest, c *ocispec.Image) { c.RootFS.DiffIDs = c.RootFS.DiffIDs[:1] }
			return s, nil
		}},
		{Name: "unknown-compression", Rule: inspect.RuleUnreadable, OpenFails: true, Spec: func(*Tools) (Spec, error) {
			s := Base()
			s.Layers[1].MediaType = "application/vnd.oci.image.layer.v1.tar+lzma"
			return s, nil
		}},
		{Name: "climbing-path", Rule: inspect.RuleHostile, Spec: func(*Tools) (Spec, error) {
			return With(text("app/../../etc/cron.d/x", "x")), nil
		}},
		{Name: "bytes-behind-the-end", Rule: inspect.RuleHostile, Hides: inArchive, Spec: func(t *Tools) (Spec, error) {
			s := Base()
			s.Layers[1].Behind = append(make([]byte, 512), Program()...)
			return s, nil
		}},
		files("link-circle", inspect.RuleHostile, "", Link("app/a", "b"), Link("app/b", "a"), text("app/a/x", "x")),
		files("hard-link-to-nothing", inspect.RuleHostile, "", File{Name: "app/h", Type: tar.TypeLink, Link: "app/gone"}),
		config("zone-in-doubt", inspect.RuleInconsistent, func(s *Spec) { s.Annotations[oci.ZoneKey] = string(oci.Development) }),
		config("zone-in-history", inspect.RuleInconsistent, func(s *Spec) { s.Layers[1].History = "twinhull 1: development: tools" }),
	})
}

func quote(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // a string can be marshalled
	}
	return string(b)
}
