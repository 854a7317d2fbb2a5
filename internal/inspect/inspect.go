package inspect

import (
	"archive/tar"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"twinhull.dev/twinhull/internal/elfclosure"
	"twinhull.dev/twinhull/internal/image"
	"twinhull.dev/twinhull/internal/oci"
)

// Options says how to inspect. The zero value is ready.
type Options struct {
	Limits  image.Limits // a zero field: 32 GiB unpacked, ratio 400, one million entries
	Workers int          // layers read at the same time; 0: one for each processor, four at most
	Tree    bool         // fill Facts.Tree, which costs a digest of every file
	// Passed, which may be nil, is called with the bytes of layers as they have
	// been read. It may be called by several goroutines at once.
	Passed func(bytes int64)
}

// defaultEntries bounds memory: an entry costs some 200 bytes while the layers
// are stacked. The largest images in use have 300,000.
const defaultEntries = 1_000_000

// Inspect reads every layer of the image once and returns what it found. An
// error means that the work could not be done (the context ended, the rules
// are broken). What is wrong with the image is in Facts: a layer that cannot be
// read to its end and verified is in Facts.Errors, and Facts.Complete is false.
func Inspect(ctx context.Context, img *image.Image, opt Options) (*Facts, error) {
	rules, err := loadSecretRules()
	if err != nil {
		return nil, err
	}
	if opt.Limits.MaxBytes == 0 {
		opt.Limits.MaxBytes = 32 << 30
	}
	if opt.Limits.MaxEntries == 0 {
		opt.Limits.MaxEntries = defaultEntries
	}
	if opt.Workers <= 0 {
		opt.Workers = min(runtime.GOMAXPROCS(0), 4)
	}
	layers := img.Manifest.Layers
	scans := make([]*layerScan, len(layers))
	so := scanOptions{limits: opt.Limits, sha256: opt.Tree, md5: true}

	var entries atomic.Int64
	count := func() error {
		if entries.Add(1) > int64(opt.Limits.MaxEntries) {
			return fmt.Errorf("more than %d entries in all layers: %w", opt.Limits.MaxEntries, image.ErrLimit)
		}
		return nil
	}
	// The largest layers first, so that no worker is left with one at the end.
	order := make([]int, len(layers))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(layers[b].Size, layers[a].Size) })
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(opt.Workers, len(layers)) {
		wg.Go(func() {
			w := newWorker(ctx, rules)
			for {
				i := int(next.Add(1)) - 1
				if i >= len(order) {
					return
				}
				n := order[i]
				scans[n] = w.scanLayer(img, n, so, count)
				if opt.Passed != nil {
					opt.Passed(layers[n].Size)
				}
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	s := &summary{img: img, opt: opt, rules: rules, scans: scans, tree: newTree()}
	return s.facts(), nil
}

// summary makes facts of what the layers gave.
type summary struct {
	img   *image.Image
	opt   Options
	rules *secretRules
	scans []*layerScan
	tree  *tree
	f     *Facts
	owned map[*entry]bool   // files that are what a distribution's package installed
	names map[*entry]string // of entries with contents worth telling: their first path
	files []*entry          // the keys of names, by path
	drawn map[string]int    // findings that are drawn together: key → index in f.Findings
	count map[string]int    // findings by rule
	alias map[*entry][]string

	docker    dockerFields
	firstLine []string // arguments in the first line of the script that the entry point is
}

// maxFindings of one rule are told one by one; the rest is counted.
const maxFindings = 300

func (s *summary) facts() *Facts {
	img := s.img
	f := &Facts{Version: FactsVersion, Digest: img.Descriptor.Digest, Created: img.Config.Created, Complete: true,
		Platform: oci.Platform{OS: img.Config.OS, Architecture: img.Config.Architecture},
		Packages: []Package{}, Findings: []Finding{}, Runtimes: []Interpreter{}}
	if f.Digest == "" {
		f.Digest = img.Manifest.Config.Digest
	}
	s.f = f
	s.owned, s.names, s.drawn, s.count, s.alias = map[*entry]bool{}, map[*entry]string{}, map[string]int{}, map[string]int{}, map[*entry][]string{}

	for i, l := range s.scans {
		d := img.Manifest.Layers[i]
		layer := Layer{Digest: d.Digest, DiffID: img.Config.RootFS.DiffIDs[i], Size: d.Size, Unpacked: l.unpacked, Files: l.files, Bytes: l.bytes}
		f.Size += d.Size
		if l.err != nil {
			f.Complete = false
			text := fmt.Sprintf("layer %d (%s): %v", i, d.Digest, l.err)
			f.Errors = append(f.Errors, text)
			rule := RuleUnreadable
			s.add(Finding{Rule: rule, Subject: "layer", Layer: d.Digest, Detail: text})
			if errors.Is(l.err, oci.ErrDamaged) {
				s.add(Finding{Rule: RuleInconsistent, Subject: "digest", Layer: d.Digest, Detail: "the layer's bytes are not what its digest or DiffID says"})
			}
		}
		for _, m := range l.marks {
			s.add(Finding{Rule: m.rule, Path: absolute(m.path), Layer: d.Digest, Detail: m.detail})
		}
		s.tree.apply(i, l)
		f.Layers = append(f.Layers, layer)
	}
	for _, m := range s.tree.marks {
		s.add(Finding{Rule: m.rule, Path: absolute(m.path), Detail: m.detail})
	}
	for i, l := range s.scans {
		for j := range l.entries {
			if e := &l.entries[j]; e.typ == tar.TypeReg && e.refs == 0 {
				f.Layers[i].Hidden += e.size
			}
		}
	}
	s.historyOfLayers()
	s.config()
	s.walk()
	s.packages()
	s.contents()
	s.links()
	s.readiness()
	s.settings()
	s.order()
	return f
}

func absolute(p string) string {
	if p == "" {
		return ""
	}
	return "/" + strings.TrimPrefix(p, "/")
}

// add keeps a finding; beyond maxFindings of a rule the last one counts on.
func (s *summary) add(f Finding) {
	s.count[f.Rule]++
	if n := s.count[f.Rule]; n > maxFindings {
		key := "more\x00" + f.Rule
		i, ok := s.drawn[key]
		if !ok {
			i = len(s.f.Findings)
			s.drawn[key] = i
			s.f.Findings = append(s.f.Findings, Finding{Rule: f.Rule, Subject: "more", Detail: fmt.Sprintf("more than %d findings; the rest is counted here", maxFindings)})
		}
		s.f.Findings[i].Count++
		return
	}
	s.f.Findings = append(s.f.Findings, f)
}

// draw adds a finding to the one of the same rule, subject and folder.
func (s *summary) draw(f Finding) {
	key := strings.Join([]string{f.Rule, f.Subject, f.Path, fmt.Sprint(f.Hidden)}, "\x00")
	if i, ok := s.drawn[key]; ok {
		s.f.Findings[i].Count++
		return
	}
	before := len(s.f.Findings)
	f.Count = 1
	s.add(f)
	if len(s.f.Findings) > before && s.f.Findings[before].Subject == f.Subject {
		s.drawn[key] = before
	}
}

// layer names the layer of a node.
func (s *summary) layer(n *node) oci.Digest { return s.img.Manifest.Layers[n.layer].Digest }

// walk visits the final file system: sizes, permissions, the files that are
// read as a whole.
func (s *summary) walk() {
	f := s.f
	seen := map[*entry]string{} // first names of files with several
	writable := s.writableTest()
	top, topFinding := "", -1
	s.tree.each(func(p string, n *node) {
		e := n.e
		if e == nil {
			return
		}
		first := true
		if e.typ == tar.TypeReg {
			if e.refs > 1 {
				if _, again := seen[e]; again {
					first = false
				} else {
					seen[e] = p
				}
			}
			if first {
				f.Files++
				f.Unpacked += e.size
				if e.c != nil {
					s.names[e] = p
					s.files = append(s.files, e)
				}
			} else if e.c != nil && len(s.alias[e]) < 20 {
				s.alias[e] = append(s.alias[e], absolute(p))
			}
		}
		if s.opt.Tree {
			file := File{Path: p, Type: e.typ, Mode: int64(e.mode), UID: int(e.uid), GID: int(e.gid), Layer: int(n.layer)}
			switch {
			case e.typ == tar.TypeReg && !first:
				file.Type, file.Link = tar.TypeLink, seen[e]
			case e.typ == tar.TypeReg:
				file.Size = e.size
			case e.typ == tar.TypeSymlink:
				file.Link = e.link
			}
			if e.typ == tar.TypeReg && e.sums != nil {
				file.SHA256 = oci.Digest("sha256:" + hex.EncodeToString(e.sums.sha256[:]))
			}
			f.Tree = append(f.Tree, file)
		}
		where := Finding{Path: absolute(p), Layer: s.layer(n), Dependency: isDependency(p)}
		mode := fmt.Sprintf("%s %04o, owner %d:%d", typeName(e.typ), e.mode, e.uid, e.gid)
		switch e.typ {
		case tar.TypeChar, tar.TypeBlock:
			where.Rule, where.Subject, where.Detail = RuleDevice, "device", "a device node"
			s.add(where)
			return
		case tar.TypeReg:
			if first && e.mode&0o6000 != 0 && e.mode&0o111 != 0 {
				w := where
				w.Rule, w.Subject, w.Evidence = RuleSetID, setID(e.mode), mode
				s.add(w)
			}
			if first && e.caps != "" {
				w := where
				w.Rule, w.Subject, w.Evidence = RuleCapability, capabilities(e.caps), "security.capability"
				s.add(w)
			}
		}
		if e.typ != tar.TypeSymlink && e.mode&0o002 != 0 && first && (e.typ != tar.TypeDir || e.mode&0o1000 == 0) {
			w := where
			w.Rule, w.Subject, w.Evidence = RuleWorldWritable, typeName(e.typ), mode
			s.add(w)
		}
		if top != "" && strings.HasPrefix(p, top) {
			if topFinding >= 0 {
				f.Findings[topFinding].Count++
			}
		} else if e.typ != tar.TypeSymlink && first && writable(p, e) {
			if e.typ == tar.TypeDir && len(n.children) == 0 && s.isHome(p) {
				return // an empty home: nothing of it can be changed
			}
			top, topFinding = p+"/", len(f.Findings)
			w := where
			w.Rule, w.Subject, w.Evidence, w.Count = RuleUserWritable, typeName(e.typ), mode, 1
			s.add(w)
			if topFinding == len(f.Findings) {
				topFinding = -1
			}
		}
	})
	if s.opt.Tree {
		slices.SortFunc(f.Tree, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	}
}

func typeName(t byte) string {
	switch t {
	case tar.TypeReg:
		return "file"
	case tar.TypeDir:
		return "folder"
	case tar.TypeFifo:
		return "fifo"
	case tar.TypeSymlink:
		return "link"
	}
	return "device"
}

func setID(mode uint16) string {
	switch mode & 0o6000 {
	case 0o4000:
		return "set-user-id"
	case 0o2000:
		return "set-group-id"
	}
	return "set-user-id and set-group-id"
}

// capabilityNames by number (capability.h).
var capabilityNames = strings.Fields("chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable net_bind_service net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot sys_ptrace sys_pacct sys_admin sys_boot sys_nice sys_resource sys_time sys_tty_config mknod lease audit_write audit_control setfcap mac_override mac_admin syslog wake_alarm block_suspend audit_read perfmon bpf checkpoint_restore")

const capNetBindService = 10

// capabilityBits reads struct vfs_cap_data (capability.h): permitted sets.
func capabilityBits(x string) uint64 {
	b := []byte(x)
	if len(b) < 12 {
		return 0
	}
	bits := uint64(binary.LittleEndian.Uint32(b[4:]))
	if len(b) >= 20 {
		bits |= uint64(binary.LittleEndian.Uint32(b[12:])) << 32
	}
	return bits
}

func capabilities(x string) string {
	bits := capabilityBits(x)
	var names []string
	for i, n := range capabilityNames {
		if bits&(1<<i) != 0 {
			names = append(names, "cap_"+n)
		}
	}
	if len(names) == 0 {
		return "capabilities"
	}
	return strings.Join(names, ",")
}

// writableTest tells what the run user owns or may write outside the declared
// paths. An image that runs as root is another finding.
func (s *summary) writableTest() func(p string, e *entry) bool {
	c := &s.f.Config
	declared := make([]string, 0, len(c.Writable))
	for _, w := range c.Writable {
		declared = append(declared, strings.Trim(path.Clean(w), "/"))
	}
	return func(p string, e *entry) bool {
		if c.UID <= 0 {
			return false
		}
		for _, d := range declared {
			if p == d || strings.HasPrefix(p, d+"/") || d == "" {
				return false
			}
		}
		switch firstParts(p, 1) {
		case "proc", "sys", "dev":
			return false
		}
		return int(e.uid) == c.UID || c.GID > 0 && int(e.gid) == c.GID && e.mode&0o020 != 0
	}
}

// isHome tells whether a folder is some user's home by /etc/passwd.
func (s *summary) isHome(p string) bool {
	for _, u := range s.passwd() {
		if strings.Trim(u.home, "/") == p && p != "" {
			return true
		}
	}
	return false
}

// packages collects them from the files of the final file system, compares
// what Debian's wrote down of its files with what is there, and adds sizes.
func (s *summary) packages() {
	f := s.f
	f.OS = s.osRelease()
	type owner struct {
		size int64
	}
	sizes := map[string]*owner{} // Debian package → bytes
	for _, e := range s.files {
		p := s.names[e]
		if wholeKind(p) != "md5sums" || e.c.keep == nil {
			continue
		}
		name := strings.TrimSuffix(path.Base(p), ".md5sums")
		name, _, _ = strings.Cut(name, ":")
		o := &owner{}
		sizes[name] = o
		var wrong []Finding
		err := md5sums(e.c.keep, func(l md5Line) {
			n := s.tree.resolve(l.path)
			if n == nil || n.e == nil || n.e.typ != tar.TypeReg {
				return // left out on purpose, or diverted
			}
			o.size += n.e.size
			if n.e.sums == nil || !packaged(n.e.path) {
				return
			}
			if n.e.sums.md5 == l.sum {
				s.owned[n.e] = true
			} else {
				wrong = append(wrong, Finding{Rule: RulePackageBytes, Subject: name, Path: absolute(n.path()), Layer: s.layer(n), Detail: "the file is not the one that package " + name + " installed"})
			}
		})
		if err != nil {
			s.add(Finding{Rule: RuleUnreadable, Subject: "md5sums", Path: absolute(p), Detail: "the list of the package's files cannot be read: " + err.Error()})
		}
		for _, w := range wrong {
			s.add(w)
		}
		e.c.keep = nil
	}
	folders := map[string]int{} // of npm packages
	for _, e := range s.files {
		p := s.names[e]
		layer := s.entryLayer(p)
		for _, k := range e.c.pkgs {
			k.Location, k.Layer, k.PURL = absolute(p), layer, purl(k, f.OS)
			f.Packages = append(f.Packages, k)
		}
	}
	slices.SortFunc(f.Packages, comparePackages)
	f.Packages = slices.CompactFunc(f.Packages, func(a, b Package) bool {
		return a.PURL == b.PURL && a.Location == b.Location
	})
	for i, k := range f.Packages {
		switch k.Type {
		case Deb:
			if o := sizes[k.Name]; o != nil {
				f.Packages[i].Size = o.size
			}
		case NPM:
			folders[path.Dir(strings.TrimPrefix(k.Location, "/"))] = i
		}
	}
	if len(folders) > 0 {
		s.tree.each(func(p string, n *node) {
			if n.e == nil || n.e.typ != tar.TypeReg || !strings.Contains(p, "node_modules/") {
				return
			}
			for dir := path.Dir(p); dir != "."; dir = path.Dir(dir) {
				if i, ok := folders[dir]; ok {
					f.Packages[i].Size += n.e.size
					return
				}
			}
		})
	}
}

func comparePackages(a, b Package) int {
	return cmp.Or(strings.Compare(a.Type, b.Type), strings.Compare(a.Name, b.Name), strings.Compare(a.Version, b.Version), strings.Compare(a.Arch, b.Arch), strings.Compare(a.Location, b.Location))
}

func (s *summary) entryLayer(p string) oci.Digest {
	if n := s.tree.walk(p, false, false); n != nil {
		return s.layer(n)
	}
	return ""
}

// contents tells what is inside files, those that nobody can see any more
// included.
func (s *summary) contents() {
	f := s.f
	type visible struct{ rule, subject, path string }
	shown := map[visible]bool{}
	for _, pass := range []bool{false, true} { // hidden ones last, so that they can be compared
		for i, l := range s.scans {
			for j := range l.entries {
				e := &l.entries[j]
				hidden := e.refs == 0
				if e.c == nil || hidden != pass {
					continue
				}
				p := e.path
				if !hidden {
					p = s.names[e]
				}
				at := Finding{Path: absolute(p), Layer: f.Layers[i].Digest, Hidden: hidden, Dependency: isDependency(p)}
				c := e.c
				for _, t := range c.tools {
					if t.rule == RuleInterpreter && t.inside == "" {
						if c.elf != nil && (elfclosure.Item{Path: p, Executable: e.mode&0o111 != 0, File: c.elf}).IsLibrary() {
							continue // a library that others embed
						}
						if !hidden {
							f.Runtimes = append(f.Runtimes, Interpreter{Name: interpreterFamily(t.name), Path: absolute(p), Layer: at.Layer})
							continue // a finding when the entry point does not run on it
						}
					}
					k := visible{t.rule, t.name, p}
					if hidden && shown[k] {
						continue // an older version of what is there anyway
					}
					shown[k] = true
					w := at
					w.Rule, w.Subject, w.Evidence, w.Inside = t.rule, t.name, t.evidence, t.inside
					w.Aliases = s.alias[e]
					if hidden && t.rule == RuleInterpreter {
						w.Detail = "runtime\x00" + interpreterFamily(t.name) // settled by readiness
					}
					s.add(w)
				}
				if !hidden && (c.elf != nil || c.interp != "") && e.mode&0o111 != 0 {
					s.byName(p, e, at)
				}
				for _, x := range dedupe(c.secrets) {
					if s.owned[e] || x.generic && at.Dependency {
						continue // published by a distribution: no secret
					}
					k := visible{RuleSecret, x.fingerprint, p}
					if hidden && shown[k] {
						continue
					}
					shown[k] = true
					w := at
					w.Rule, w.Subject, w.Evidence, w.Inside = RuleSecret, x.rule, x.evidence(), x.inside
					s.add(w)
				}
				if c.more > 0 {
					w := at
					w.Rule, w.Subject, w.Count = RuleSecret, "more", c.more
					s.add(w)
				}
				for _, m := range c.marks {
					if hidden && m.rule != RuleEnvFile && m.rule != RuleVCS && m.rule != RuleCoreDump {
						continue
					}
					if s.owned[e] && m.rule != RuleHeaders && m.rule != RulePackageCache {
						continue
					}
					w := at
					w.Rule, w.Subject, w.Detail, w.Inside = m.rule, m.subject, m.detail, m.inside
					switch {
					case m.folder != "" && at.Dependency:
						w.Path = absolute(dependencyFolder(m.folder))
						s.draw(w)
					case m.folder != "" && m.folder != p:
						w.Path = absolute(m.folder)
						s.draw(w)
					case m.rule == RuleHeaders:
						w.Path = absolute(path.Dir(p))
						s.draw(w)
					default:
						s.add(w)
					}
				}
				for _, text := range c.errs {
					w := at
					w.Rule, w.Subject, w.Detail = RuleUnreadable, "file", text
					s.add(w)
				}
			}
		}
	}
}

// dependencyFolder is where marks of dependencies are drawn together.
func dependencyFolder(p string) string {
	parts := strings.Split(p, "/")
	for i, part := range parts {
		if part == "node_modules" || part == "site-packages" || part == "dist-packages" {
			return strings.Join(parts[:i+1], "/")
		}
	}
	return firstParts(p, 3)
}

// byName adds what an executable's name says, when its contents did not say it.
func (s *summary) byName(p string, e *entry, at Finding) {
	rule, name := toolByName(p)
	if rule == "" {
		return
	}
	for _, t := range e.c.tools {
		if t.inside == "" && (t.rule == rule || rule == RuleInterpreter) {
			return
		}
	}
	if rule == RuleInterpreter {
		s.f.Runtimes = append(s.f.Runtimes, Interpreter{Name: interpreterFamily(name), Path: absolute(p), Layer: at.Layer})
		return
	}
	at.Rule, at.Subject, at.Evidence = rule, name, "an executable of that name"
	s.add(at)
}

// links adds to what was found the links that lead there, and what a link's
// name says of a program that nothing else is known of.
func (s *summary) links() {
	byPath := map[string][]int{}
	for i, f := range s.f.Findings {
		if !f.Hidden && f.Path != "" {
			switch f.Rule {
			case RuleShell, RulePackageManager, RuleCompiler, RuleBuildTool, RuleDebugger, RuleNetworkClient, RuleEditor:
				byPath[f.Path] = append(byPath[f.Path], i)
			}
		}
	}
	runtimes := map[string]bool{}
	for _, r := range s.f.Runtimes {
		runtimes[r.Path] = true
	}
	s.tree.each(func(p string, n *node) {
		if !n.isLink() {
			return
		}
		to := s.tree.resolve(p)
		if to == nil || to.e == nil || to.e.typ != tar.TypeReg {
			return
		}
		target := absolute(to.path())
		if at, ok := byPath[target]; ok {
			for _, i := range at {
				if len(s.f.Findings[i].Aliases) < 20 {
					s.f.Findings[i].Aliases = append(slices.Clip(s.f.Findings[i].Aliases), absolute(p))
				}
			}
			return
		}
		if runtimes[target] || to.e.c == nil || to.e.c.elf == nil && to.e.c.interp == "" {
			return
		}
		rule, name := toolByName(p)
		switch rule {
		case "":
		case RuleInterpreter:
			runtimes[target] = true
			s.f.Runtimes = append(s.f.Runtimes, Interpreter{Name: interpreterFamily(name), Path: target, Layer: s.layer(to)})
		default:
			s.add(Finding{Rule: rule, Subject: name, Path: target, Aliases: []string{absolute(p)}, Layer: s.layer(to), Evidence: "a link of that name leads to it", Dependency: isDependency(p)})
			byPath[target] = append(byPath[target], len(s.f.Findings)-1)
		}
	})
}

// order sorts findings and interpreters, so that equal images give equal facts.
func (s *summary) order() {
	f := s.f
	slices.SortFunc(f.Runtimes, func(a, b Interpreter) int {
		return cmp.Or(strings.Compare(a.Path, b.Path), strings.Compare(a.Name, b.Name))
	})
	f.Runtimes = slices.CompactFunc(f.Runtimes, func(a, b Interpreter) bool { return a.Path == b.Path && a.Name == b.Name })
	rank := map[string]int{}
	for i, r := range Rules() {
		rank[r] = i
	}
	for i := range f.Findings {
		slices.Sort(f.Findings[i].Aliases)
		if f.Findings[i].Count == 1 {
			f.Findings[i].Count = 0
		}
	}
	slices.SortStableFunc(f.Findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(rank[a.Rule], rank[b.Rule]), strings.Compare(a.Path, b.Path), strings.Compare(a.Inside, b.Inside), strings.Compare(a.Subject, b.Subject), strings.Compare(string(a.Layer), string(b.Layer)), strings.Compare(a.Evidence, b.Evidence), strings.Compare(a.Detail, b.Detail))
	})
}

func (s *summary) historyOfLayers() {
	i := 0
	for _, h := range s.img.Config.History {
		if h.EmptyLayer || i >= len(s.f.Layers) {
			continue
		}
		s.f.Layers[i].Created = h.CreatedBy
		i++
	}
}

// keep returns a file that was read as a whole.
func (s *summary) keep(p string) []byte {
	n := s.tree.resolve(p)
	if n == nil || n.e == nil || n.e.c == nil {
		return nil
	}
	return n.e.c.keep
}

func (s *summary) osRelease() OSRelease {
	var o OSRelease
	b := s.keep("etc/os-release")
	if b == nil {
		b = s.keep("usr/lib/os-release")
	}
	for line := range strings.Lines(string(b)) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
		v = strings.Trim(v, `"'`)
		switch k {
		case "ID":
			o.ID = v
		case "VERSION_ID":
			o.VersionID = v
		case "PRETTY_NAME":
			o.Name = v
		}
	}
	return o
}
