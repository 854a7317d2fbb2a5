// Command bench measures Twinhull beside other image builders and prints a
// table; `make bench` runs it. It also writes bench.json, for machines.
//
// All contenders do the same work from the same bytes: the node example by
// Twinhull, by BuildKit and by buildah, from base images that Twinhull makes
// once, and the Go example by Twinhull and by ko. No contender has a network
// while the clock runs. A peer that is not installed and cannot be built, or
// that needs root when the benchmark has none, is left out with a word.
//
// Registries (rows registry.*, file served.go) run beside each other in the same
// way: ours, distribution and olareg, each a process of its own as it comes, over a
// new folder of its own on the same disk, asked by one client in this process, in
// turns that begin with another one each round.
//
//   - Twinhull logs a line for each request, as it does by itself; the peers' logs
//     are off. All data is plain HTTP on the loopback interface, and everybody may
//     do what is done: sign-in is not measured.
//   - A push is POST, PATCH, PUT of bytes that no server has seen; its time ends with
//     the 201. What is on the disk by then differs, and is printed; beside each push
//     stands the rate until the disk has everything, by sync(2) after the last one.
//   - Pulls come from the page cache. The bare file server of net/http over the same
//     bytes says what there is to reach.
//   - Manifests and referrers are asked for on plain connections: net/http's client
//     would need more processor time than the servers.
//   - Client and servers share the processors. So the processor time of each server
//     is told too: it says more than the rate when the machine is busy.
//
// It is a module of its own with nothing but the standard library, so that
// measuring adds nothing to what is measured. It is no test: a missed target
// is printed and the exit code stays 0, because machines differ.
//
// How the figures are made comparable:
//
//   - every figure is the median of several runs, and the contenders take turns
//     within a row, so that drift hits all of them;
//   - the page cache is warm for everybody (inputs have been read before) and
//     everything dirty is written out before a clock starts;
//   - "cold" means that a contender has its inputs and nothing made from them:
//     Twinhull its vault, BuildKit and buildah the base images as files;
//   - an image is ready when the command returns: Twinhull and BuildKit have
//     then written an OCI layout with compressed layers, buildah only an image
//     in its own storage, which is in its favour.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
	"time"
)

// bench is one run of the benchmark.
type bench struct {
	root    string // of the repository
	scratch string // everything made here; removed at the end
	peers   string // where the peers' programs are kept between runs
	rounds  int    // of fast rows
	slow    int    // of slow rows
	caches  int    // how many cache folders and servers were made
	only    *regexp.Regexp

	pushBytes int64 // of one run of a push of large blobs, at most
	long      bool  // rows that take minutes, too
	began     time.Time
	results   Results
}

func main() {
	root := flag.String("root", "../..", "the repository's `folder`")
	tool := flag.String("tool", "", "the twinhull `program` to measure; bin/twinhull of the repository when empty")
	out := flag.String("out", "bench.json", "write the results to `file`")
	scratch := flag.String("scratch", "", "work in `folder` instead of a temporary one; it must be on a local disk")
	peers := flag.String("peers", "", "keep the peers' programs in `folder`; the user's cache folder when empty")
	rounds := flag.Int("rounds", 5, "runs of each fast figure")
	slow := flag.Int("slow", 3, "runs of each slow figure")
	only := flag.String("only", "", "measure only the rows whose name matches `regexp`")
	keep := flag.Bool("keep", false, "keep the scratch folder")
	without := flag.Bool("without-peers", false, "measure Twinhull alone")
	pushBytes := flag.Int64("push-bytes", 1<<30, "push at most so many `bytes` to a registry in one run of a row; 10737418240 for 100 blobs of 100 MiB")
	long := flag.Bool("long", false, "measure also what takes minutes: registry.collection")
	files := flag.String("serve-files", "", "serve the files of `folder` and do nothing else: what registries are measured against")
	filesAt := flag.String("serve-files-at", "", "`address` to serve them at")
	flag.Parse()
	if flag.NArg() > 0 || *rounds < 1 || *slow < 1 || *pushBytes < 1<<28 {
		flag.Usage()
		os.Exit(2)
	}
	if *files != "" {
		fmt.Fprintln(os.Stderr, serveFiles(*files, *filesAt))
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	b := &bench{rounds: *rounds, slow: *slow, pushBytes: *pushBytes, long: *long, began: time.Now()}
	err := b.prepare(*root, *tool, *scratch, *peers, *only)
	if err == nil {
		err = b.run(ctx, *without)
	}
	if b.scratch != "" && !*keep {
		removeAll(b.scratch)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		if len(b.results.Rows) == 0 {
			os.Exit(1)
		}
	}
	b.results.Machine.Seconds = time.Since(b.began).Seconds()
	b.results.print(os.Stdout)
	if werr := b.results.write(*out); werr != nil {
		fmt.Fprintln(os.Stderr, "bench:", werr)
		os.Exit(1)
	}
	fmt.Printf("\nwritten to %s\n", *out)
	if err != nil {
		os.Exit(1)
	}
}

func (b *bench) prepare(root, tool, scratch, peers, only string) error {
	var err error
	if b.root, err = filepath.Abs(root); err != nil {
		return err
	}
	if b.only, err = regexp.Compile(only); err != nil {
		return fmt.Errorf("-only: %w", err)
	}
	if tool == "" {
		tool = filepath.Join(b.root, "bin", "twinhull")
	}
	if twinhullProgram, err = filepath.Abs(tool); err != nil {
		return err
	}
	if _, err := os.Stat(twinhullProgram); err != nil {
		return fmt.Errorf("%w: `make build` makes it", err)
	}
	if peers == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return err
		}
		peers = filepath.Join(cache, "twinhull-bench")
	}
	if b.peers, err = filepath.Abs(peers); err != nil {
		return err
	}
	if err := os.MkdirAll(b.peers, 0o755); err != nil {
		return err
	}
	if scratch == "" {
		scratch = os.TempDir()
	}
	if b.scratch, err = os.MkdirTemp(scratch, "twinhull-bench-"); err != nil {
		return err
	}
	if b.scratch, err = filepath.Abs(b.scratch); err != nil {
		return err
	}
	var fs syscall.Statfs_t
	if err := syscall.Statfs(b.scratch, &fs); err != nil {
		return err
	}
	if free := int64(fs.Bavail) * fs.Bsize; free < 16<<30 {
		return fmt.Errorf("%s has %d GB free: the benchmark wants 16; say where with -scratch", b.scratch, free>>30)
	}
	// Tools that run as other users in namespaces of their own must get in.
	return os.Chmod(b.scratch, 0o755)
}

func (b *bench) path(parts ...string) string {
	return filepath.Join(append([]string{b.scratch}, parts...)...)
}

// say tells what is going on, with the time since the start.
func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%6.0f s  %s\n", time.Since(b.began).Seconds(), fmt.Sprintf(format, args...))
}
