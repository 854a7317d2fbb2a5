package twinhull

import (
	"bytes"
	"fmt"
	"go/parser"
	"go/scanner"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"twinhull.dev/twinhull/internal/cli"
	"twinhull.dev/twinhull/internal/project"
)

// markdown lists the project's pages by path.
func markdown(t *testing.T) []string {
	t.Helper()
	var pages []string
	err := filepath.WalkDir(".", func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() && p != "." && (strings.HasPrefix(e.Name(), ".") || e.Name() == "node_modules" || e.Name() == "testdata") {
			return fs.SkipDir
		}
		if strings.HasSuffix(p, ".md") {
			pages = append(pages, p)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(pages, "README.md") || len(pages) < 10 {
		t.Fatalf("these are not all pages: %q", pages)
	}
	return pages
}

// line is one line of a page. Code is true inside a fence.
type line struct {
	page string
	no   int
	text string
	code bool
}

func (l line) String() string { return fmt.Sprintf("%s:%d", l.page, l.no) }

func lines(t *testing.T, page string) []line {
	t.Helper()
	data, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	var all []line
	code := false
	for i, text := range strings.Split(string(data), "\n") {
		if strings.HasPrefix(strings.TrimSpace(text), "```") {
			code = !code
			continue
		}
		all = append(all, line{page, i + 1, text, code})
	}
	if code {
		t.Errorf("%s ends inside a code block", page)
	}
	return all
}

var (
	linkRE = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	spanRE = regexp.MustCompile("`([^`]+)`")
)

// anchor is the fragment that a heading is reached by.
func anchor(heading string) string {
	var b strings.Builder
	for _, r := range strings.ToLower(strings.TrimSpace(strings.TrimLeft(heading, "#"))) {
		switch {
		case r == ' ':
			b.WriteByte('-')
		case r == '-' || r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z':
			b.WriteRune(r)
		}
	}
	return b.String()
}

// TestLinks follows every relative link, to the heading where it names one.
func TestLinks(t *testing.T) {
	pages := markdown(t)
	anchors := map[string]map[string]bool{}
	for _, page := range pages {
		anchors[page] = map[string]bool{}
		for _, l := range lines(t, page) {
			if !l.code && strings.HasPrefix(l.text, "#") {
				anchors[page][anchor(l.text)] = true
			}
		}
	}
	linked := map[string]bool{}
	for _, page := range pages {
		for _, l := range lines(t, page) {
			if l.code {
				continue
			}
			for _, m := range linkRE.FindAllStringSubmatch(l.text, -1) {
				if strings.Contains(m[1], "://") || strings.HasPrefix(m[1], "mailto:") {
					continue
				}
				file, fragment, _ := strings.Cut(m[1], "#")
				to := page
				if file != "" {
					to = filepath.Join(filepath.Dir(page), file)
				}
				if _, err := os.Stat(to); err != nil {
					t.Errorf("%v: link to %s, which is not there", l, to)
				} else if fragment != "" && !anchors[to][fragment] {
					t.Errorf("%v: link to %s, which has no heading %q", l, to, fragment)
				}
				if page == filepath.Join("doc", "README.md") {
					linked[to] = true
				}
			}
		}
	}
	for _, page := range pages {
		if filepath.Dir(page) == "doc" && filepath.Base(page) != "README.md" && !linked[page] {
			t.Errorf("doc/README.md does not list %s", page)
		}
	}
}

// TestDocumentedProjectFiles reads every complete project file of the pages.
func TestDocumentedProjectFiles(t *testing.T) {
	n := 0
	for _, page := range markdown(t) {
		data, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile("(?s)```yaml\n(name: .*?)```").FindAllSubmatch(data, -1) {
			n++
			if _, err := project.Parse(page, m[1]); err != nil {
				t.Errorf("a project file of %s: %v", page, err)
			}
		}
	}
	if n < 2 {
		t.Errorf("only %d project files were found", n)
	}
}

// commandsIn finds the twinhull command lines in a line of shell. A prompt
// before it and a remark behind it do not belong to it; neither does what
// follows "--", which is for the program that twinhull runs.
func commandsIn(shell string) [][]string {
	shell = strings.TrimPrefix(strings.TrimSpace(shell), "$ ")
	shell, _, _ = strings.Cut(shell, " #")
	var all [][]string
	for _, part := range regexp.MustCompile(`&&|\|\||[;|>]`).Split(shell, -1) {
		words := strings.Fields(strings.ReplaceAll(part, "'", ""))
		for len(words) > 0 && (strings.Contains(words[0], "=") || words[0] == "sudo") {
			words = words[1:]
		}
		// Other programs that start commands.
		if i := slices.Index(words, "twinhull"); len(words) > 0 && words[0] == "systemd-run" && i > 0 {
			words = words[i:]
		}
		if len(words) < 2 || words[0] != "twinhull" && words[0] != "bin/twinhull" {
			continue
		}
		words = words[1:]
		if i := slices.Index(words, "--"); i >= 0 {
			words = words[:i]
		}
		for i := range words { // "[--check]", "…"
			words[i] = strings.Trim(words[i], "[]…,.")
		}
		all = append(all, slices.DeleteFunc(words, func(w string) bool { return w == "" }))
	}
	return all
}

// checkCommand asks the program itself: --help explains a command when its
// name and every flag are known, and does nothing else.
func checkCommand(t *testing.T, where fmt.Stringer, words []string) {
	t.Helper()
	var errs bytes.Buffer
	env := &cli.Env{
		Stdin: strings.NewReader(""), Stdout: new(bytes.Buffer), Stderr: &errs,
		Now: time.Now, Dir: t.TempDir(), Getenv: func(string) string { return "" },
	}
	if len(words) == 0 || !regexp.MustCompile(`^[a-z-]+$`).MatchString(words[0]) {
		return // "twinhull 1: …" is a text that images carry
	}
	code := cli.Run(t.Context(), env, append([]string{"--help"}, words...))
	// A flag may be named without the value that it takes.
	if code != 0 && !strings.Contains(errs.String(), "flag needs an argument: --"+strings.TrimLeft(words[len(words)-1], "-")) {
		t.Errorf("%v: twinhull %s: %s", where, strings.Join(words, " "), strings.TrimSpace(errs.String()))
	}
}

// TestDocumentedCommands holds every command line of the pages against the
// program: an unknown command or flag is an error.
func TestDocumentedCommands(t *testing.T) {
	n := 0
	for _, page := range markdown(t) {
		if strings.HasPrefix(page, "changelog") {
			continue // it tells what was
		}
		for _, l := range lines(t, page) {
			shell := []string{l.text}
			if !l.code {
				shell = nil
				for _, m := range spanRE.FindAllStringSubmatch(l.text, -1) {
					shell = append(shell, m[1])
				}
			}
			for _, s := range shell {
				for _, words := range commandsIn(s) {
					n++
					checkCommand(t, l, words)
				}
			}
		}
	}
	if n < 40 {
		t.Errorf("only %d command lines were found: are they still looked for in the right way?", n)
	}
}

// said is a place in the program's own texts.
type said string

func (s said) String() string { return string(s) }

// TestHelpNamesCommands holds the examples and texts of the help, and the hints
// of error messages, to commands that exist.
func TestHelpNamesCommands(t *testing.T) {
	n := 0
	check := func(where fmt.Stringer, shell string) {
		for _, words := range commandsIn(shell) {
			n++
			checkCommand(t, where, words)
		}
	}
	quoted := func(where fmt.Stringer, text string) {
		for _, m := range spanRE.FindAllStringSubmatch(text, -1) {
			// Verbs of fmt stand for a name that is not known here.
			if !strings.Contains(m[1], "%") {
				check(where, m[1])
			}
		}
	}
	var walk func(path string, table []*cli.Command)
	walk = func(path string, table []*cli.Command) {
		for _, c := range table {
			where := said("help " + path + c.Name)
			for _, l := range strings.Split(c.Examples, "\n") {
				check(where, l)
			}
			quoted(where, c.Long)
			walk(path+c.Name+" ", c.Sub)
		}
	}
	walk("", cli.Commands())

	for _, p := range packages(t) {
		for _, name := range p.GoFiles {
			file := filepath.Join(p.Dir, name)
			src, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := parser.ParseFile(token.NewFileSet(), file, src, parser.ImportsOnly); err != nil {
				t.Fatal(err)
			}
			fset := token.NewFileSet()
			f := fset.AddFile(file, -1, len(src))
			var s scanner.Scanner
			s.Init(f, src, nil, 0)
			for {
				pos, tok, lit := s.Scan()
				if tok == token.EOF {
					break
				}
				if tok != token.STRING {
					continue
				}
				if text, err := strconv.Unquote(lit); err == nil && strings.Contains(text, "`twinhull ") {
					quoted(said(fset.Position(pos).String()), text)
				}
			}
		}
	}
	if n < 30 {
		t.Errorf("only %d commands were found in the program's texts", n)
	}
}

func TestCommandsIn(t *testing.T) {
	for _, c := range []struct {
		shell string
		want  string
	}{
		{"$ twinhull lock && twinhull build   # both", "lock; build"},
		{"TWINHULL_CACHE_DIR=/x twinhull -q plan production | tail", "-q plan production"},
		{"twinhull run production -- --not-ours", "run production"},
		{"twinhull schema > x.json", "schema"},
		{"systemd-run --user --scope twinhull build", "build"},
		{"twinhull", ""},
		{"the twinhull build", ""},
		{"twinhull lock [--check]", "lock --check"},
	} {
		var got []string
		for _, words := range commandsIn(c.shell) {
			got = append(got, strings.Join(words, " "))
		}
		if s := strings.Join(got, "; "); s != c.want {
			t.Errorf("%q: %q, want %q", c.shell, s, c.want)
		}
	}
}
