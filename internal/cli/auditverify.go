package cli

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/pflag"

	"twinhull.dev/twinhull/internal/audit"
	"twinhull.dev/twinhull/internal/durable"
)

func auditVerify() *Command {
	var log logFlags
	var anchors []string
	var consistent, proof, entry, keep, output string
	return &Command{
		Name: "verify", Short: "recompute the log and say whether anything was changed",
		Long: `Recomputes the whole tree from its entries and compares it with every stored hash
and with the root that the checkpoint signs. The files and the log's verifier key
are all that is needed.

A log whose newest part was cut off together with its checkpoint looks like a
shorter log. --anchor gives a checkpoint that was kept outside: a release's summary
or its signed bundle, what a witness has, or what an earlier verification wrote
(--keep). The log must have what it covers.

--consistent-with only compares the newest checkpoint with an older one, by a few
hashes: quick for a large log, but it reads no entries.

--proof verifies a proof file in place of a log, without a network; --entry is
then compared with the entry that was proved.

Exits with 1 when something was changed, removed, taken back or signed by somebody
else, and with 3 when that could not be decided.`,
		Examples: "twinhull audit verify --registry registry.example --key log.pub --keep kept.checkpoint\ntwinhull audit verify --registry registry.example --anchor kept.checkpoint\ntwinhull audit verify --log /var/lib/twinhull/log --key log.pub\ntwinhull audit verify --proof release.tlog-proof --key log.pub",
		Flags: func(f *pflag.FlagSet) {
			log.all(f)
			f.StringArrayVar(&anchors, "anchor", nil, "checkpoint or verification summary `FILE` that was kept outside the log; may be repeated")
			f.StringVar(&keep, "keep", "", "`FILE` for the checkpoint, when all is well: the anchor of the next time")
			f.StringVar(&consistent, "consistent-with", "", "older checkpoint `FILE`: compare the newest one with it and read no entries")
			f.StringVar(&proof, "proof", "", "proof `FILE` to verify in place of a log")
			f.StringVar(&entry, "entry", "", "with --proof: `FILE` of the entry that it must prove")
			f.StringVar(&output, "output", "table", "table or json")
		},
		Run: func(ctx context.Context, env *Env, _ []string) error {
			if output != "table" && output != "json" {
				return Usagef("--output %q: want table or json", output)
			}
			switch {
			case proof != "":
				if log.dir != "" || log.registry != "" || len(anchors) > 0 || consistent != "" || keep != "" {
					return Usagef("--proof is verified by itself: it goes with --key, --witness-key, --quorum and --entry only")
				}
				return verifyProof(ctx, env, &log, proof, entry, output)
			case entry != "":
				return Usagef("--entry goes with --proof")
			case consistent != "" && len(anchors) > 0:
				return Usagef("--consistent-with compares with one checkpoint; --anchor is for the whole log")
			}
			src, err := log.source(ctx, env)
			if err != nil {
				return err
			}
			trust, err := log.whom(ctx, env, src)
			if err != nil {
				return err
			}
			if consistent != "" {
				return verifyConsistent(ctx, env, src, trust, consistent, keep, output)
			}
			var opt audit.VerifyOptions
			for _, a := range anchors {
				raw, err := os.ReadFile(env.Path(a))
				if err != nil {
					return Undecidedf("--anchor: %w", err)
				}
				raw = checkpointIn(raw)
				opt.Anchors = append(opt.Anchors, audit.Anchor{Name: a, Raw: raw})
			}
			task := env.Progress.Task("verifying the audit log", 0)
			opt.Each = func(r audit.Record) error {
				task.Add(int64(len(r.Raw)))
				return nil
			}
			report, err := audit.Verify(ctx, src, trust, opt)
			task.Done(err)
			if err != nil {
				return logError(err)
			}
			if output == "json" {
				if err := writeJSON(env, report); err != nil {
					return err
				}
			} else {
				printReport(env, report)
			}
			if n := len(report.Problems); n > 0 {
				return Refusedf("the audit log is not whole: %d %s", n, plural(n, "problem", "problems")).
					WithHint("keep the folder as it is; the newest backup, the witnesses and the summaries of releases tell what was there")
			}
			if len(opt.Anchors) == 0 {
				env.Talkf("without --anchor nobody can tell whether newer entries were cut off")
			}
			return keepCheckpoint(ctx, env, src, trust, keep, report.Size)
		},
	}
}

// checkpointIn finds the checkpoint that a verification summary holds, in the
// summary itself, in its statement or in its signed bundle; anything else is the
// checkpoint. Whose signature the summary has does not matter: the checkpoint is
// believed by its own.
func checkpointIn(data []byte) []byte {
	var v any
	if len(data) > 16<<20 || json.Unmarshal(data, &v) != nil {
		return data
	}
	var find func(v any, depth int) string
	find = func(v any, depth int) string {
		m, ok := v.(map[string]any)
		if !ok || depth > 4 {
			return ""
		}
		if log, ok := m["twinhull_log"].(map[string]any); ok {
			text, _ := log["checkpoint"].(string)
			return text
		}
		if text, ok := m["payload"].(string); ok { // of a DSSE envelope
			if b, err := base64.StdEncoding.DecodeString(text); err == nil {
				var inner any
				if json.Unmarshal(b, &inner) == nil {
					return find(inner, depth+1)
				}
			}
		}
		for _, name := range []string{"dsseEnvelope", "predicate"} {
			if text := find(m[name], depth+1); text != "" {
				return text
			}
		}
		return ""
	}
	if text := find(v, 0); text != "" {
		return []byte(text)
	}
	return data
}

func plural(n int, one, more string) string {
	if n == 1 {
		return one
	}
	return more
}

func printReport(env *Env, r *audit.Report) {
	w := env.Stdout
	for _, p := range r.Problems {
		fmt.Fprintf(w, "%s\n", cell(p.String()))
	}
	for _, n := range r.Notes {
		fmt.Fprintf(w, "note: %s\n", cell(n))
	}
	state := "whole"
	if len(r.Problems) > 0 {
		state = "NOT WHOLE"
	}
	fmt.Fprintf(w, "%s: %s, %d entries", state, r.Origin, r.Size)
	if r.Root != "" {
		fmt.Fprintf(w, ", root %s", r.Root)
	}
	if r.Pending > 0 {
		fmt.Fprintf(w, ", and %d that no checkpoint covers yet", r.Pending)
	}
	if r.Anchors > 0 {
		fmt.Fprintf(w, ", as %d %s it", r.Anchors, plural(r.Anchors, "anchor has", "anchors have"))
	}
	if len(r.Witnesses) > 0 {
		fmt.Fprintf(w, ", cosigned by %s", strings.Join(r.Witnesses, ", "))
	}
	fmt.Fprintln(w)
}

// keepCheckpoint writes the checkpoint for the next time. The one that was
// verified may have been followed by another since; that one is taken only when
// it follows.
func keepCheckpoint(ctx context.Context, env *Env, src audit.Source, trust *audit.Trust, file string, size uint64) error {
	if file == "" {
		return nil
	}
	r := audit.NewReader(src, trust)
	c, err := r.Checkpoint(ctx)
	if err != nil {
		return logError(err)
	}
	if c.Size != size {
		return Undecidedf("the log grew while it was verified, from %d entries to %d: %s was not written", size, c.Size, file).WithHint("verify again, or a copy of the log")
	}
	return durable.WriteFile(env.Path(file), c.Raw, 0o644)
}

func verifyConsistent(ctx context.Context, env *Env, src audit.Source, trust *audit.Trust, file, keep, output string) error {
	raw, err := os.ReadFile(env.Path(file))
	if err != nil {
		return Undecidedf("--consistent-with: %w", err)
	}
	raw = checkpointIn(raw)
	logOnly := &audit.Trust{Log: trust.Log}
	older, err := logOnly.Open(raw)
	if err != nil {
		return Undecidedf("%s: %w", file, err)
	}
	newer, err := audit.NewReader(src, trust).Follows(ctx, older)
	if err != nil {
		return logError(err)
	}
	if output == "json" {
		err = writeJSON(env, map[string]any{"origin": newer.Origin, "from": older.Size, "size": newer.Size, "consistent": true, "witnesses": newer.Witnesses})
	} else {
		_, err = fmt.Fprintf(env.Stdout, "consistent: the %d entries of %s begin with the %d of %s\n", newer.Size, newer.Origin, older.Size, file)
	}
	if err != nil || keep == "" {
		return err
	}
	return durable.WriteFile(env.Path(keep), newer.Raw, 0o644)
}

func verifyProof(ctx context.Context, env *Env, log *logFlags, file, entry, output string) error {
	trust, err := log.whom(ctx, env, nil)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(env.Path(file))
	if err != nil {
		return Undecidedf("--proof: %w", err)
	}
	p, err := audit.ParseProof(data)
	if err != nil {
		return Refusedf("%s: %w", file, err)
	}
	var want []byte
	if entry != "" {
		if want, err = os.ReadFile(env.Path(entry)); err != nil {
			return Undecidedf("--entry: %w", err)
		}
	}
	rec, c, err := p.Verify(trust, want)
	if errors.Is(err, audit.ErrNoEntry) {
		return Undecidedf("%s: %w", file, err).WithHint("give the entry's canonical bytes with --entry (`twinhull audit show --raw`)")
	}
	if err != nil {
		return Refusedf("%s: %w", file, err)
	}
	if output == "json" {
		return writeJSON(env, map[string]any{"origin": c.Origin, "size": c.Size, "witnesses": c.Witnesses, "index": rec.Index, "entry": json.RawMessage(rec.Raw)})
	}
	printEntries(env, []audit.Record{rec})
	fmt.Fprintf(env.Stdout, "proved: entry %d of %s, by a checkpoint of %d entries", rec.Index, c.Origin, c.Size)
	if len(c.Witnesses) > 0 {
		fmt.Fprintf(env.Stdout, ", cosigned by %s", strings.Join(c.Witnesses, ", "))
	}
	fmt.Fprintln(env.Stdout)
	return nil
}
