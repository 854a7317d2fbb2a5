package inspect

import (
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// signature knows a program by strings inside it. They are chosen to survive
// stripping, static linking and another name: messages and tables of the
// program's own, not symbols, and none that a library or another program of a
// Debian archive has.
type signature struct {
	rule, name string
	need       int      // how many of the strings must be there
	strings    []string // case-sensitive
}

// programs are the signatures of executables and libraries (ELF and PE).
var programs = []signature{
	{RuleShell, "bash", 2, []string{"@(#)Bash version ", "BASH_REMATCH", "BASH_EXECUTION_STRING", "[GNU long option] [option]", "bash: warning: shell level"}},
	{RuleShell, "dash", 3, []string{"Usage: getopts optstring var [arg...]", "turning off NDELAY mode", "Maximum function recursion depth (%d) reached", "Bad for loop variable", "Directory nonexistent", "Cannot set tty process group", "can't shift that many"}},
	{RuleShell, "zsh", 2, []string{"zwc file has wrong version", "zsh: job can't be suspended", "show zsh version number", "no module alias to remove", "bad math expression: imaginary power"}},
	{RuleShell, "ksh", 2, []string{"@(#)$Id: getopts (AT&T Research)", "[--catalog?libshell]", "/etc/ksh_audit", "invalid binary script version"}},
	{RuleShell, "mksh", 2, []string{"KSH_VERSION=@(#)", "grabhist: bad history array", "reference variable can't be an array", "unlink HISTFILE", "@(#)PD KSH"}},
	{RuleShell, "fish", 2, []string{"__fish_print_help", "fish_default_key_bindings", "FISH_NO_WSL_CHECK", "fish universal variable definitions"}},
	{RuleShell, "tcsh", 2, []string{"Tcsh thinks your terminal has the", "No job control in subshells", "Usage: echotc [-v", "Usage: sched [+]hh:mm <command>"}},
	{RuleShell, "yash", 2, []string{"Yet another shell, version", "YASH_LOADPATH", "print usage of built-in commands"}},
	{RuleShell, "nushell", 2, []string{"nu::parser::", "nu::shell::", "NU_LIB_DIRS"}},
	{RuleShell, "powershell", 1, []string{"Microsoft.PowerShell.ConsoleHost"}},

	{RulePackageManager, "apt", 1, []string{"apt is a commandline package manager", "apt-get is a command line interface for retrieval", "Usage: apt [options] command", "Usage: apt-get [options] command", "Usage: apt-mark [options]", "Usage: apt-cache [options] command", "Usage: aptitude "}},
	{RulePackageManager, "dpkg", 1, []string{"Debian '%s' package management program version", "Debian '%s' package archive backend version", "Debian %s package management program query tool", "package management program query tool version"}},
	{RulePackageManager, "apk", 1, []string{"coffee making abilities", "This apk-tools is OLD", "apk-tools %s, compiled for"}},
	{RulePackageManager, "rpm", 1, []string{"--allmatches may only be specified during package erasure", "--prefix may only be used when installing new packages"}},
	{RulePackageManager, "dnf", 1, []string{"dnf5 --installroot", "Usage: microdnf", "microdnf - ", "libdnf5-cli: "}},
	{RulePackageManager, "pacman", 1, []string{"usage:  %s <operation> [...]"}},
	{RulePackageManager, "cargo", 2, []string{"CARGO_REGISTRIES_", "CARGO_TARGET_DIR", "cargo add [OPTIONS] --path", "Rust's package manager"}},
	{RulePackageManager, "uv", 2, []string{"uv pip compile", "UV_INDEX_URL", "uv pip install", "UV_EXTRA_INDEX_URL"}},
	{RulePackageManager, "bun", 2, []string{"bun install", "bun.lockb", "bunx "}},

	{RuleCompiler, "gcc", 1, []string{"gcc driver version %s %sexecuting gcc version"}},
	{RuleCompiler, "gcc back end", 1, []string{"GGC heuristics: --param ggc-min-expand="}},
	{RuleCompiler, "collect2", 1, []string{"Usage: collect2 [options]"}},
	{RuleCompiler, "as", 1, []string{"GNU assembler version %s (%s) using BFD version"}},
	{RuleCompiler, "ld", 1, []string{"%X%P: anonymous version tag cannot be combined", "\x00GNU gold\x00", "lld is a generic driver.", "mold: fatal: "}},
	{RuleCompiler, "clang", 1, []string{"clang LLVM compiler", "clang -cc1as [options] file...", "USAGE: clang "}},
	{RuleCompiler, "tcc", 1, []string{"Usage: tcc [options...] [-o outfile]"}},
	{RuleCompiler, "javac", 1, []string{"com.sun.tools.javac.Main"}},
	{RuleCompiler, "binutils", 2, []string{"BFD header file version %s", "Usage: %s [emulation options] [-]{dmpqrstx}", "Report bugs to %s"}},

	{RuleBuildTool, "make", 1, []string{"%sGNU Make %s", "*** Waiting for unfinished jobs....", "Waiting for unfinished jobs"}},
	{RuleBuildTool, "cmake", 2, []string{"cmake [options] <path-to-source>", "CMAKE_MAKE_PROGRAM", "ctest [options]", "cpack [options]"}},
	{RuleBuildTool, "ninja", 1, []string{"usage: ninja [options] [targets...]"}},

	{RuleDebugger, "gdb", 1, []string{"This is the GNU debugger.  Usage:", "Usage: info auto-load gdb-scripts [REGEXP]"}},
	{RuleDebugger, "gdbserver", 1, []string{"gdbserver [OPTIONS] COMM PROG"}},
	{RuleDebugger, "lldb", 1, []string{"Prints out the usage information for lldb-server"}},
	{RuleDebugger, "strace", 1, []string{"Usage: strace [-"}},
	{RuleDebugger, "ltrace", 2, []string{"Usage: %s [option ...] [command [arg ...]]", "/.ltrace.conf", "ltrace.conf"}},
	{RuleDebugger, "bpftrace", 1, []string{"bpftrace [options] filename"}},
	{RuleDebugger, "valgrind", 1, []string{"VALGRIND_LAUNCHER", "%svalgrind stack range:"}},
	{RuleDebugger, "perf", 1, []string{"perf [--version] [--help] [OPTIONS] COMMAND"}},
	{RuleDebugger, "rr", 1, []string{"Usage: rr record ", "rr record [OPTION]"}},
	{RuleDebugger, "jdb", 1, []string{"jdk.jdi/com.sun.tools.example.debug.tty.TTY", "jdk.jcmd/sun.tools.jstack.JStack", "jdk.jcmd/sun.tools.jmap.JMap", "jdk.jcmd/sun.tools.jcmd.JCmd"}},

	{RuleNetworkClient, "curl", 1, []string{"Usage: curl [options...] <url>"}},
	{RuleNetworkClient, "wget", 1, []string{"a non-interactive network retriever.", "Usage: wget2 "}},
	{RuleNetworkClient, "nc", 1, []string{"usage: nc [-", "nc [-options] hostname port[s] [ports] ..."}},
	{RuleNetworkClient, "ncat", 1, []string{"Usage: ncat [options] [hostname] [port]", "Ncat: Connection "}},
	{RuleNetworkClient, "socat", 1, []string{"socat by Gerhard Rieger"}},
	{RuleNetworkClient, "ssh", 1, []string{"usage: ssh [-", "usage: scp [-", "Dropbear SSH client v", "Dropbear multi-purpose", "[-b batchfile] [-c cipher]"}},
	{RuleNetworkClient, "sshd", 1, []string{"usage: sshd [-", "Dropbear server v"}},
	{RuleNetworkClient, "telnet", 1, []string{"Deprecated usage - please use 'toggle crmod'", "telnet> "}},
	{RuleNetworkClient, "dig", 1, []string{"Usage:  dig [@global-server]"}},
	{RuleNetworkClient, "nslookup", 2, []string{"SERVER:\t\t%s", "Server:\t\t%s", "** server can't find %s: %s"}},
	{RuleNetworkClient, "host", 1, []string{"Usage: host [-aCdilrTvVw]"}},
	{RuleNetworkClient, "tcpdump", 1, []string{"-AbdDefhHIJKlLnNOpqStuUvxX#"}},
	{RuleNetworkClient, "nmap", 1, []string{"Usage: nmap [Scan Type(s)]", "Nmap wishes you a merry Christmas"}},
	{RuleNetworkClient, "tshark", 1, []string{"Usage: tshark [options]"}},
	{RuleNetworkClient, "git", 2, []string{"usage: git [-v | --version]", "use \"git help\" ", "git: '%s' is not a git command", "These are common Git commands used"}},
	{RuleNetworkClient, "rsync", 2, []string{"is a file transfer program capable of efficient remote update", "RSYNC_PARTIAL_DIR", "Attempt to hack rsync thwarted!", "filter rules are too modern for remote rsync"}},

	{RuleEditor, "vim", 1, []string{"VIM - Vi IMproved"}},
	{RuleEditor, "nvim", 2, []string{"nvim_buf_set_lines", "NVIM_LOG_FILE", "nvim --listen"}},
	{RuleEditor, "nvi", 1, []string{"usage: vi [-eFlRrSv]"}},
	{RuleEditor, "nano", 1, []string{"Usage: nano [OPTIONS] [[+LINE"}},
	{RuleEditor, "ed", 1, []string{"ed is a line-oriented text editor", "superseded by full-screen editors such as"}},
	{RuleEditor, "emacs", 2, []string{"Usage: %s [OPTION-OR-FILENAME]...", "GNU Emacs", "do not use picture of gnu for Emacs icon"}},

	{RuleInterpreter, "node", 2, []string{"Usage: node [options]", "NODE_REPL_HISTORY", "NODE_PENDING_DEPRECATION", "node [options] [ script.js ]"}},
	{RuleInterpreter, "deno", 2, []string{"DENO_INSTALL_ROOT", "DENO_NO_UPDATE_CHECK"}},
	{RuleInterpreter, "python", 2, []string{"PYTHONDONTWRITEBYTECODE", "PYTHONFAULTHANDLER", "PYTHONTRACEMALLOC", "PYTHONCOERCECLOCALE"}},
	{RuleInterpreter, "perl", 2, []string{"PERL5LIB", "PERL_UNICODE", "Illegal switch in PERL5OPT: -%c", "Can't locate object method %"}},
	{RuleInterpreter, "ruby", 2, []string{"--yjit-greedy-versioning", "RUBYOPT", "RUBYLIB", "no implicit conversion of nil into String"}},
	{RuleInterpreter, "php", 2, []string{"PHP_INI_SCAN_DIR", "The Zend Engine API version %d which is installed"}},
	{RuleInterpreter, "lua", 2, []string{"LUA_INIT", "usage: %s [options] [script [args]]", "  -v        show version information"}},
	{RuleInterpreter, "tcl", 2, []string{"TCL_LIBRARY", "tcl_rcFileName", "$tcl_library/init.tcl", "tclPkgUnknown"}},
	{RuleInterpreter, "java", 1, []string{"-XX:+UnlockDiagnosticVMOptions must precede", "Could not create the Java Virtual Machine"}},
	{RuleInterpreter, "awk", 2, []string{"usage: %s [-F fs][-v var=value][prog | -f progfile]", "Usage: mawk [Options] [Program] [file ...]", "program limit exceeded", "mawk and its random-functions use", "Usage: %s [POSIX or GNU style options] -f progfile", "AWKPATH", "GAWK_READ_TIMEOUT"}},
	{RuleInterpreter, "guile", 2, []string{"GUILE_AUTO_COMPILE", "GUILE_LOAD_PATH"}},
	{RuleInterpreter, "dotnet", 2, []string{"DOTNET_ROOT", "dotnet [host-options] [path-to-application]"}},
}

// boxes hold many programs in one file. The names of what they hold stand
// between zero bytes in a table.
const (
	busyboxName = "busybox"
	toyboxName  = "toybox"
)

var boxes = []signature{
	{"", busyboxName, 2, []string{"BusyBox v", "applet not found", "Usage: busybox [function"}},
	{"", toyboxName, 2, []string{"Toybox %s multicall binary%s", "(see toybox --help)", "landley.net/toybox"}},
}

// applets are the names in a box that are tools.
var applets = map[string]string{
	"ash": RuleShell, "sh": RuleShell, "hush": RuleShell, "bash": RuleShell,
	"dpkg": RulePackageManager, "rpm": RulePackageManager,
	"wget": RuleNetworkClient, "nc": RuleNetworkClient, "telnet": RuleNetworkClient, "ftpget": RuleNetworkClient, "tftp": RuleNetworkClient, "nslookup": RuleNetworkClient, "netcat": RuleNetworkClient,
	"vi": RuleEditor, "ed": RuleEditor,
	"awk": RuleInterpreter, "strace": RuleDebugger,
}

// needs are programs known by a library that they are linked with.
var needs = []struct{ prefix, rule, name string }{
	{"libapt-private.so", RulePackageManager, "apt"},
	{"libalpm.so", RulePackageManager, "pacman"},
	{"libdnf5.so", RulePackageManager, "dnf"},
	{"libdnf.so", RulePackageManager, "dnf"},
	{"libzypp.so", RulePackageManager, "zypper"},
	{"libapk.so", RulePackageManager, "apk"},
	{"librustc_driver", RuleCompiler, "rustc"},
	{"libbfd-", RuleCompiler, "binutils"},
	{"liblldb", RuleDebugger, "lldb"},
}

// launchers are small programs that only start an interpreter of a library:
// a needed library together with a function of it that they import.
var launchers = []struct{ library, symbol, name string }{
	{"libpython", "\x00Py_BytesMain\x00", "python"},
	{"libpython", "\x00Py_Main\x00", "python"},
	{"libruby", "\x00ruby_run_node\x00", "ruby"},
	{"libtcl", "\x00Tcl_MainEx\x00", "tcl"},
	{"libtcl", "\x00Tcl_Main\x00", "tcl"},
	{"libperl.so", "\x00perl_parse\x00", "perl"},
	{"libjli.so", "\x00JLI_Launch\x00", "java"},
	{"libnode.so", "\x00_ZN4node5StartEiPPc\x00", "node"},
}

// goPrograms are main packages, as Go's build information names them.
var goPrograms = []struct{ prefix, rule, name string }{
	{"cmd/go", RuleCompiler, "go"}, {"cmd/compile", RuleCompiler, "go"}, {"cmd/link", RuleCompiler, "go"}, {"cmd/asm", RuleCompiler, "go"}, {"cmd/cgo", RuleCompiler, "go"},
	{"mvdan.cc/sh/", RuleShell, "gosh"}, {"src.elv.sh/cmd/", RuleShell, "elvish"}, {"github.com/elves/elvish", RuleShell, "elvish"},
	{"github.com/u-root/u-root", RuleShell, "u-root"}, {"github.com/xonsh/", RuleShell, "xonsh"}, {"murex", RuleShell, "murex"}, {"github.com/lmorg/murex", RuleShell, "murex"},
	{"github.com/go-delve/delve", RuleDebugger, "delve"}, {"github.com/google/gops", RuleDebugger, "gops"},
	{"github.com/zyedidia/micro", RuleEditor, "micro"},
	{"github.com/evanw/esbuild", RuleBuildTool, "esbuild"}, {"github.com/goreleaser/", RuleBuildTool, "goreleaser"}, {"github.com/go-task/", RuleBuildTool, "task"}, {"github.com/bazelbuild/", RuleBuildTool, "bazel"},
	{"github.com/microsoft/typescript-go", RuleCompiler, "typescript"}, {"github.com/tinygo-org/tinygo", RuleCompiler, "tinygo"},
	{"github.com/rs/curlie", RuleNetworkClient, "curlie"},
	{"github.com/google/go-containerregistry/cmd/crane", RuleNetworkClient, "crane"},
	{"github.com/anchore/", RuleBuildTool, "scanner"},
	{"chainguard.dev/apko", RulePackageManager, "apko"},
}

// scripts are the signatures of programs that are text. They are looked for in
// text files only, in lower case.
var scriptSignatures = []signature{
	{RulePackageManager, "npm", 1, []string{"require('../lib/cli.js')(process)", "require('../lib/cli/entry.js')"}},
	{RulePackageManager, "yarn", 2, []string{"@yarnpkg/plugin-npm", "@yarnpkg/cli", "yarnpkg.com/en/docs/cli", "yarn_ignore_path"}},
	{RulePackageManager, "pnpm", 2, []string{"pnpm-workspace.yaml", "pnpm_home", "pnpm add -g"}},
	{RulePackageManager, "corepack", 2, []string{"corepack_enable_strict", "corepack_enable_network", "corepack_npm_registry"}},
	{RulePackageManager, "pip", 1, []string{"from pip._internal.cli.main import main", "from pip._internal import main"}},
	{RulePackageManager, "conda", 1, []string{"from conda.cli import main"}},
	{RulePackageManager, "poetry", 1, []string{"from poetry.console.application import main"}},
	{RulePackageManager, "gem", 1, []string{"rubygems/gem_runner"}},
	{RulePackageManager, "composer", 1, []string{"phar::mapphar('composer.phar')", "phar://composer.phar/bin/composer"}},
	{RulePackageManager, "dnf", 1, []string{"from dnf.cli import main", "from yum.main import", "import yummain"}},
	{RuleDebugger, "debugpy", 1, []string{"from debugpy.server import cli", "from debugpy.server.cli import main"}},
	{RuleShell, "xonsh", 1, []string{"from xonsh.main import main"}},
}

// toolNames are names of executables in a folder of programs, without version
// and target prefix ("gcc" stands for x86_64-linux-gnu-gcc-14). What the tables
// above know is known by its contents too; a name is enough as well.
var toolNames = map[string]string{
	RuleShell:          "sh bash rbash dash ash zsh ksh ksh93 mksh oksh csh tcsh fish yash busybox toybox pwsh nu elvish xonsh",
	RulePackageManager: "apt apt-get apt-cache aptitude dpkg dpkg-deb apk rpm rpmdb dnf microdnf yum zypper pacman npm npx yarn yarnpkg pnpm pnpx corepack pip pipx pipenv uv poetry conda mamba micromamba gem bundle bundler cargo rustup composer nix-env brew snap flatpak opkg easy_install",
	RuleCompiler:       "cc c++ gcc g++ cc1 cc1plus c89 c99 clang clang++ tcc gfortran as ld ld.bfd ld.gold ld.lld mold go gofmt rustc javac ghc tsc gccgo ar ranlib nm objdump objcopy strip readelf",
	RuleBuildTool:      "make gmake cmake ctest ninja meson scons bazel ant mvn gradle autoconf automake libtool m4 pkg-config esbuild webpack",
	RuleDebugger:       "gdb gdbserver gcore lldb lldb-server dlv strace ltrace perf valgrind rr debugpy bpftrace jdb jmap jstack py-spy",
	RuleNetworkClient:  "curl wget wget2 nc nc.openbsd nc.traditional ncat netcat socat telnet ssh scp sftp rsync dig nslookup host tcpdump tshark nmap ftp lftp aria2c git",
	RuleEditor:         "vi vim vim.basic vim.tiny vimdiff view nvim nano pico ed ex emacs emacs-nox micro joe mcedit",
	RuleInterpreter:    "node nodejs deno bun python perl ruby irb php lua luajit tclsh wish java jshell awk gawk mawk nawk guile dotnet erl julia Rscript",
}

var nameRules = sync.OnceValue(func() map[string]string {
	m := map[string]string{}
	for rule, list := range toolNames {
		for _, n := range strings.Fields(list) {
			m[n] = rule
		}
	}
	return m
})

var (
	targetPrefix  = regexp.MustCompile(`^[a-z0-9_]+-linux-(gnu|musl)[a-z0-9]*-`)
	versionSuffix = regexp.MustCompile(`(^|[a-z+])-?[0-9]+(\.[0-9]+)*$`)
)

// toolByName tells what a program of that path is called for, when it lies in a
// folder of programs; base names elsewhere mean nothing (an application may
// call a file "host").
func toolByName(p string) (rule, name string) {
	dir, base := path.Split(p)
	switch path.Base(dir) {
	case "bin", "sbin":
	default:
		return "", ""
	}
	rules := nameRules()
	if r := rules[base]; r != "" {
		return r, base
	}
	short := targetPrefix.ReplaceAllString(base, "")
	short = versionSuffix.ReplaceAllString(short, "$1")
	return rules[short], short
}

// interpreterNames draws the names of one interpreter together.
func interpreterFamily(name string) string {
	switch {
	case name == "nodejs":
		return "node"
	case strings.HasPrefix(name, "python"), name == "pypy", name == "pypy3":
		return "python"
	case name == "tclsh", name == "wish":
		return "tcl"
	case name == "gawk", name == "mawk", name == "nawk":
		return "awk"
	case name == "luajit":
		return "lua"
	case name == "irb":
		return "ruby"
	case name == "jshell":
		return "java"
	}
	return name
}

// Patterns that are not tools stand behind those that are.
const (
	patUPX     = "UPX!"
	patGoInfo  = "\xff Go buildinf:"
	patAudit   = ".dep-v0\x00"
	maxPattern = 24 // longer strings are cut: a smaller table stays in the cache
)

// toolTable is what the patterns of the program matcher mean.
type toolTable struct {
	m        *matcher
	patterns []pattern
	sigs     []signature
}

type pattern struct {
	sig    int    // index in sigs, or -1
	bit    uint32 // which string of the signature
	applet string // name of an applet
	launch int    // index in launchers, or -1
	other  string // patUPX, patGoInfo
}

var toolPatterns = sync.OnceValue(func() *toolTable {
	t := &toolTable{sigs: append(slices.Clone(programs), boxes...)}
	var texts []string
	add := func(text string, p pattern) {
		texts = append(texts, text)
		t.patterns = append(t.patterns, p)
	}
	for i, s := range t.sigs {
		for j, text := range s.strings {
			add(text[:min(len(text), maxPattern)], pattern{sig: i, bit: 1 << j, launch: -1})
		}
	}
	for name := range applets {
		add("\x00"+name+"\x00", pattern{sig: -1, applet: name, launch: -1})
	}
	for i, l := range launchers {
		add(l.symbol, pattern{sig: -1, launch: i})
	}
	add(patUPX, pattern{sig: -1, launch: -1, other: patUPX})
	add(patGoInfo, pattern{sig: -1, launch: -1, other: patGoInfo})
	add(patAudit, pattern{sig: -1, launch: -1, other: patAudit})
	t.m = newMatcher(texts, false)
	return t
})

func toolMatcher() *matcher { return toolPatterns().m }

// toolScan is one file under the program matcher. The zero value is not ready:
// use newToolScan. It may be used for one file after another (reset).
type toolScan struct {
	t       *toolTable
	state   uint32
	bits    []uint32
	touched []int
	applets map[string]bool
	launch  uint32
	upx     int
	audit   bool  // a section of cargo-auditable
	goInfo  int64 // where Go's build information begins, -1 when not seen
	at      int64
}

func newToolScan() *toolScan {
	t := toolPatterns()
	s := &toolScan{t: t, bits: make([]uint32, len(t.sigs)), applets: map[string]bool{}}
	s.reset()
	return s
}

func (s *toolScan) reset() {
	for _, i := range s.touched {
		s.bits[i] = 0
	}
	s.touched = s.touched[:0]
	clear(s.applets)
	s.state, s.launch, s.upx, s.goInfo, s.at, s.audit = 0, 0, 0, -1, 0, false
}

// feed takes the next bytes of the file.
func (s *toolScan) feed(b []byte) {
	s.state = s.t.m.scan(s.state, b, func(id int32, end int) {
		p := &s.t.patterns[id]
		switch {
		case p.sig >= 0:
			if s.bits[p.sig] == 0 {
				s.touched = append(s.touched, p.sig)
			}
			s.bits[p.sig] |= p.bit
		case p.applet != "":
			s.applets[p.applet] = true
		case p.launch >= 0:
			s.launch |= 1 << p.launch
		case p.other == patUPX:
			s.upx++
		case p.other == patAudit:
			s.audit = true
		case p.other == patGoInfo:
			if s.goInfo < 0 {
				s.goInfo = s.at + int64(end) - int64(len(patGoInfo))
			}
		}
	})
	s.at += int64(len(b))
}

// skip passes bytes that are not looked at.
func (s *toolScan) skip(n int) {
	s.state = 0
	s.at += int64(n)
}

// tool is something that a file is.
type tool struct {
	rule, name, evidence string
	inside               string // path inside an archive
}

// tools says what the file was. needed are the libraries that it is linked
// with.
func (s *toolScan) tools(needed []string, program bool) []tool {
	small := s.at < 100<<10 // a launcher; larger programs embed the library
	var out []tool
	add := func(t tool) {
		for _, o := range out {
			if o.rule == t.rule && o.name == t.name {
				return
			}
		}
		out = append(out, t)
	}
	slices.Sort(s.touched)
	for _, i := range s.touched {
		sig := &s.t.sigs[i]
		var found []string
		for j, text := range sig.strings {
			if s.bits[i]&(1<<j) != 0 {
				found = append(found, strings.Trim(text, "\x00"))
			}
		}
		if len(found) < sig.need {
			continue
		}
		evidence := "contains " + quoteAll(found)
		if sig.rule != "" {
			add(tool{rule: sig.rule, name: sig.name, evidence: evidence})
			continue
		}
		names := map[string][]string{}
		for a := range s.applets {
			names[applets[a]] = append(names[applets[a]], a)
		}
		out = out[:0] // its programs' own messages say nothing more
		if len(names[RuleShell]) == 0 {
			// A box without a shell is rare and one link away from having one.
			add(tool{rule: RuleShell, name: sig.name, evidence: evidence})
		}
		for rule, list := range names {
			slices.Sort(list)
			add(tool{rule: rule, name: sig.name, evidence: evidence + ", with " + strings.Join(list, ", ")})
		}
		break
	}
	for _, n := range needed {
		for _, l := range needs {
			if program && strings.HasPrefix(n, l.prefix) {
				add(tool{rule: l.rule, name: l.name, evidence: "is linked with " + n})
			}
		}
		for i, l := range launchers {
			if s.launch&(1<<i) != 0 && program && small && strings.HasPrefix(n, l.library) {
				add(tool{rule: RuleInterpreter, name: l.name, evidence: "starts " + n})
			}
		}
	}
	// What is called by its own name need not be called one of binutils as well.
	if slices.ContainsFunc(out, func(t tool) bool { return t.rule == RuleCompiler && t.name != "binutils" }) {
		out = slices.DeleteFunc(out, func(t tool) bool { return t.name == "binutils" })
	}
	if s.upx >= 2 {
		add(tool{rule: RulePacked, name: "upx", evidence: "carries UPX's marks"})
	}
	slices.SortFunc(out, func(a, b tool) int { return strings.Compare(a.rule+a.name, b.rule+b.name) })
	return out
}

func quoteAll(texts []string) string {
	var b strings.Builder
	for i, t := range texts {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString("“" + strings.TrimSpace(t) + "”")
		if i == 2 && len(texts) > 3 {
			b.WriteString(" and more")
			break
		}
	}
	return b.String()
}
