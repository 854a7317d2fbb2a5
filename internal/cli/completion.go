package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/pflag"
)

// The scripts know nothing of commands: they ask `twinhull __complete`, so that
// there is one place that knows what may come next, and it is Go.

func completionCommand() *Command {
	return &Command{
		Name: "completion", Args: "bash|zsh|fish", Min: 1, Max: 1,
		Short: "print a shell's completion script",
		Long:  "Prints a script that teaches a shell to complete commands, flags and file names.",
		Examples: "source <(twinhull completion bash)                       # this shell\n" +
			"twinhull completion zsh > ~/.zfunc/_twinhull              # every zsh\n" +
			"twinhull completion fish > ~/.config/fish/completions/twinhull.fish",
		Words: []string{"bash", "zsh", "fish"},
		Run: func(_ context.Context, env *Env, args []string) error {
			script, ok := completionScripts[args[0]]
			if !ok {
				e := Usagef("completion: unknown shell %q", args[0])
				if near := nearest(args[0], []string{"bash", "zsh", "fish"}); near != "" {
					return e.WithHint("did you mean %s?", near)
				}
				return e.WithHint("it knows bash, zsh and fish")
			}
			_, err := io.WriteString(env.Stdout, script)
			return err
		},
	}
}

// completeCommand answers the scripts: one candidate a line, with a tab and its
// meaning where there is one. No candidates means file names. The last argument
// is the word under the cursor.
func completeCommand() *Command {
	return &Command{
		Name: "__complete", Args: "-- WORD...", Min: 1, Max: -1, Hidden: true,
		Short: "say what may come next on a command line",
		Run: func(_ context.Context, env *Env, args []string) error {
			for _, c := range candidates(env.commands, args) {
				if _, err := fmt.Fprintln(env.Stdout, c); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

func candidates(table []*Command, words []string) []string {
	done, current := words[:len(words)-1], words[len(words)-1]
	fs := new(globals).flags()
	var c *Command
	arguments := 0
	for i := 0; i < len(done); i++ {
		w := done[i]
		switch {
		case w == "--":
			return nil
		case strings.HasPrefix(w, "-"):
			if takesValue(fs, w) {
				i++
				if i == len(done) {
					return nil // a flag's value: a file, as far as we know
				}
			}
		case c == nil || c.Sub != nil:
			next := table
			if c != nil {
				next = c.Sub
			}
			c = nil
			for _, n := range next {
				if n.Name == w {
					c = n
				}
			}
			if c == nil {
				return nil
			}
			fs = commandFlags(c, new(globals).flags())
		default:
			arguments++
		}
	}

	var all []string
	add := func(word, meaning string) {
		if strings.HasPrefix(word, current) {
			all = append(all, strings.TrimSuffix(word+"\t"+meaning, "\t"))
		}
	}
	switch {
	case strings.HasPrefix(current, "-"):
		fs.VisitAll(func(f *pflag.Flag) {
			_, meaning := pflag.UnquoteUsage(f)
			add("--"+f.Name, meaning)
		})
	case c == nil || c.Sub != nil:
		next := table
		if c != nil {
			next = c.Sub
		}
		for _, n := range next {
			if !n.Hidden {
				add(n.Name, n.Short)
			}
		}
	case arguments == 0 && c.Name == "help":
		for _, n := range table {
			if !n.Hidden {
				add(n.Name, n.Short)
			}
		}
	case arguments == 0:
		for _, w := range c.Words {
			word, meaning, _ := strings.Cut(w, "\t")
			add(word, meaning)
		}
	}
	return all
}

// takesValue tells whether the word after this flag is its value.
func takesValue(fs *pflag.FlagSet, word string) bool {
	if strings.Contains(word, "=") {
		return false
	}
	var f *pflag.Flag
	if name, long := strings.CutPrefix(word, "--"); long {
		f = fs.Lookup(name)
	} else if len(word) == 2 {
		f = fs.ShorthandLookup(word[1:])
	}
	return f != nil && f.NoOptDefVal == ""
}

var completionScripts = map[string]string{
	"bash": `# bash completion for twinhull
_twinhull() {
    local line
    COMPREPLY=()
    while IFS= read -r line; do
        COMPREPLY+=("${line%%$'\t'*}")
    done < <("${COMP_WORDS[0]}" __complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
# Without candidates: file names.
complete -o default -F _twinhull twinhull
`,
	"zsh": `#compdef twinhull
# zsh completion for twinhull
_twinhull() {
    local line
    local -a found
    while IFS= read -r line; do
        line=${line//:/\\:}
        found+=("${line/$'\t'/:}")
    done < <("${words[1]}" __complete -- "${(@Q)words[2,CURRENT]}" 2>/dev/null)
    if (( ${#found} )); then
        _describe -t twinhull twinhull found
    else
        _files
    fi
}
if [ "$funcstack[1]" = _twinhull ]; then
    _twinhull "$@"
else
    compdef _twinhull twinhull
fi
`,
	"fish": `# fish completion for twinhull
function __twinhull_complete
    set -l words (commandline -opc)
    set -l found ($words[1] __complete -- $words[2..-1] (commandline -ct) 2>/dev/null)
    if test (count $found) -gt 0
        printf '%s\n' $found
    else
        __fish_complete_path (commandline -ct)
    end
end
complete -c twinhull -f -a '(__twinhull_complete)'
`,
}
