package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

// Results are what bench.json holds.
type Results struct {
	Machine Machine  `json:"machine"`
	Rows    []*Row   `json:"rows"`
	Skipped []string `json:"skipped,omitempty"` // peers that were left out, and why

	Durability []string `json:"durability,omitempty"` // what each registry has on the disk when it says so
}

// Machine says where the figures come from.
type Machine struct {
	Date     time.Time         `json:"date"`
	Cores    int               `json:"cores"`
	CPU      string            `json:"cpu"`
	MemoryMB int64             `json:"memoryMB"`
	Kernel   string            `json:"kernel"`
	Go       string            `json:"go"`
	User     string            `json:"user"`
	Load     string            `json:"load"` // the three averages at the start: a busy machine shows here
	Versions map[string]string `json:"versions"`
	Seconds  float64           `json:"seconds"` // the whole run
}

// Row is one line of the table.
type Row struct {
	ID      string            `json:"id"`
	What    string            `json:"what"`
	Unit    string            `json:"unit"` // s, MiB, MB, share, yes; MB/s, /s, ms
	Table   string            `json:"table,omitempty"`
	Higher  bool              `json:"higher,omitempty"` // more is better
	Ours    *Figure           `json:"ours,omitempty"`
	Peers   map[string]Figure `json:"peers,omitempty"`
	Ratio   float64           `json:"ratio,omitempty"` // how many times better than the best peer: above 1 we are ahead
	Against string            `json:"against,omitempty"`
	Target  string            `json:"target,omitempty"`
	Met     *bool             `json:"met,omitempty"`
	Notes   []string          `json:"notes,omitempty"`

	meets func(r *Row) bool
}

// Figure is a median with what it was taken from.
type Figure struct {
	Median float64   `json:"median"`
	Runs   []float64 `json:"runs"`
	CPU    float64   `json:"cpu,omitempty"` // median of processor seconds, where the contender has no daemon; of registries: the server's, for a GB (rows in MB/s) or in microseconds for one
	P50    float64   `json:"p50,omitempty"` // of registries: milliseconds that one took
	P99    float64   `json:"p99,omitempty"`
	Detail string    `json:"detail,omitempty"`
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(v))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

// add judges a row and keeps it.
func (r *Results) add(row *Row) *Row {
	for name, f := range row.Peers {
		if row.Ours == nil || row.Ours.Median == 0 || row.Unit == "yes" || row.Unit == "share" {
			continue
		}
		if name == fileServerName {
			continue // no contender: what could be reached
		}
		ratio := f.Median / row.Ours.Median
		if row.Higher {
			ratio = 1 / ratio
		}
		if row.Ratio == 0 || ratio < row.Ratio {
			row.Ratio, row.Against = ratio, name
		}
	}
	if row.meets != nil && row.Ours != nil {
		met := row.meets(row)
		row.Met = &met
	}
	r.Rows = append(r.Rows, row)
	return row
}

func (r *Row) text(f *Figure) string {
	switch {
	case f == nil:
		return "-"
	case f.Detail != "":
		return f.Detail
	case r.Unit == "MB/s":
		return fmt.Sprintf("%.0f MB/s", f.Median)
	case r.Unit == "s" && f.Median < 1:
		return fmt.Sprintf("%.3f s", f.Median)
	case r.Unit == "s":
		return fmt.Sprintf("%.2f s", f.Median)
	case r.Unit == "yes" && f.Median == 1:
		return "yes"
	case r.Unit == "yes":
		return "no"
	case r.Unit == "share":
		return fmt.Sprintf("%.0f %%", 100*f.Median)
	}
	return fmt.Sprintf("%.1f %s", f.Median, r.Unit)
}

func (r *Results) print(w io.Writer) {
	m := r.Machine
	fmt.Fprintf(w, "\n%d cores (%s), %d MB, Linux %s, %s, as %s, %s\n", m.Cores, m.CPU, m.MemoryMB, m.Kernel, m.Go, m.User, m.Date.Format("2006-01-02"))
	fmt.Fprintf(w, "load at the start %s; the whole run took %.0f s\n", m.Load, m.Seconds)
	builders, registries := []string{"BuildKit", "buildah", "ko"}, []string{distributionName, olaregName, fileServerName}
	for _, p := range slices.Concat([]string{"twinhull"}, builders, registries) {
		if v := m.Versions[p]; v != "" {
			fmt.Fprintf(w, "  %-12s %s\n", p, v)
		}
	}
	for _, s := range r.Skipped {
		fmt.Fprintf(w, "  %s\n", s)
	}
	r.table(w, "", builders)
	r.table(w, "registry", registries)
	for i, d := range r.Durability {
		if i == 0 {
			fmt.Fprintln(w, "\nwhat is on the disk when a push is acknowledged")
		}
		fmt.Fprintf(w, "  %s\n", d)
	}
	first := true
	for _, row := range r.Rows {
		for _, n := range row.Notes {
			if first {
				fmt.Fprintln(w, "\nnotes")
				first = false
			}
			fmt.Fprintf(w, "  %s: %s\n", row.What, n)
		}
	}
}

// table prints the rows of one table.
func (r *Results) table(w io.Writer, name string, peers []string) {
	if !slices.ContainsFunc(r.Rows, func(row *Row) bool { return row.Table == name }) {
		return
	}
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "WHAT\tTWINHULL\t%s\tRATIO\tTARGET\tMET\n", strings.ToUpper(strings.Join(peers, "\t")))
	for _, row := range r.Rows {
		if row.Table != name {
			continue
		}
		fmt.Fprintf(t, "%s\t%s", row.What, row.text(row.Ours))
		for _, p := range peers {
			if f, ok := row.Peers[p]; ok {
				fmt.Fprintf(t, "\t%s", row.text(&f))
			} else {
				fmt.Fprint(t, "\t-")
			}
		}
		ratio, met := "-", "-"
		if row.Ratio > 0 && row.Ratio < 10 && row.Table != "" {
			ratio = fmt.Sprintf("%.2fx", row.Ratio)
		} else if row.Ratio > 0 {
			ratio = fmt.Sprintf("%.1fx", row.Ratio)
		}
		if row.Met != nil && *row.Met {
			met = "yes"
		} else if row.Met != nil {
			met = "NO"
		}
		target := row.Target
		if target == "" {
			target = "-"
		}
		fmt.Fprintf(t, "\t%s\t%s\t%s\n", ratio, target, met)
	}
	t.Flush()
}

func (r *Results) write(name string) error {
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(name, append(b, '\n'), 0o644)
}

// machine gathers the facts.
func machine() Machine {
	m := Machine{Date: time.Now().UTC().Truncate(time.Second), Cores: runtime.NumCPU(), Go: runtime.Version(), User: "an ordinary user", Versions: map[string]string{}}
	if os.Geteuid() == 0 {
		m.User = "root"
	}
	var u syscall.Utsname
	if syscall.Uname(&u) == nil {
		for _, c := range u.Release {
			if c == 0 {
				break
			}
			m.Kernel += string(rune(byte(c)))
		}
	}
	if f, err := os.Open("/proc/cpuinfo"); err == nil {
		s := bufio.NewScanner(f)
		for s.Scan() && m.CPU == "" {
			if name, value, ok := strings.Cut(s.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
				m.CPU = strings.TrimSpace(value)
			}
		}
		f.Close()
	}
	m.MemoryMB = int64(field("/proc/meminfo", "MemTotal:") / 1024)
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		m.Load = strings.Join(strings.Fields(string(b))[:3], " ")
	}
	return m
}

// firstLine runs a program that says its version.
func firstLine(args ...string) string {
	b, err := exec.Command(args[0], args[1:]...).Output()
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(b), "\n")
	return strings.TrimSpace(line)
}
