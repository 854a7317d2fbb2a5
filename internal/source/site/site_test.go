package site

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// machine is a fixture root with files by absolute path; the user's home is
// /home/me in it.
func machine(t testing.TB, env map[string]string, files map[string]string) Options {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return Options{
		Root:   root,
		Home:   filepath.Join(root, "home/me"),
		Getenv: func(k string) string { return env[k] },
		Run:    func(context.Context, string, ...string) (string, error) { return "", errors.New("not installed") },
	}
}

func load(t testing.TB, opts Options) *Site {
	t.Helper()
	s, err := Load(opts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

const deb822 = `# the default
Types: deb
# an old snapshot
URIs: http://mirror.test/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.test/debian-security/
Suites: bookworm-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
`

func TestDebianFromApt(t *testing.T) {
	for _, c := range []struct {
		name           string
		files          map[string]string
		main, security []string
	}{
		{
			"deb822", map[string]string{"/etc/apt/sources.list.d/debian.sources": deb822},
			[]string{"http://mirror.test/debian"}, []string{"http://mirror.test/debian-security"},
		},
		{
			"deb822, several URIs over several lines",
			map[string]string{"/etc/apt/sources.list.d/debian.sources": "Types: deb deb-src\nURIs:\n https://a.test/debian/\n# not this one\n https://b.test/debian\nSuites: trixie\nComponents: main contrib\nEnabled: yes\n"},
			[]string{"https://a.test/debian", "https://b.test/debian"}, nil,
		},
		{
			"deb822, disabled",
			map[string]string{"/etc/apt/sources.list.d/debian.sources": "Enabled: no\n" + strings.TrimPrefix(deb822, "# the default\n")},
			nil, []string{"http://mirror.test/debian-security"},
		},
		{
			"one line",
			map[string]string{"/etc/apt/sources.list": "# comment\ndeb [ arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg ] https://m.test/debian/ trixie main contrib # end\n" +
				"deb-src https://src.test/debian trixie main\ndeb http://s.test/debian-security trixie-security main\n"},
			[]string{"https://m.test/debian"}, []string{"http://s.test/debian-security"},
		},
		{
			"one archive over several lines",
			map[string]string{"/etc/apt/sources.list": "deb https://m.test/debian trixie main\ndeb https://m.test/debian trixie-updates main\ndeb https://m.test/debian trixie-backports main\n"},
			[]string{"https://m.test/debian"}, nil,
		},
		{
			"third parties under Debian's suite names come first",
			map[string]string{
				"/etc/apt/sources.list.d/a.list": "deb [signed-by=/etc/apt/keyrings/vendor.gpg] https://vendor.test/apt bookworm main\ndeb https://docker.test/linux/debian bookworm stable\ndeb http://vendor.test/x ./\ndeb https://ubuntu.test/ubuntu jammy-security main\n",
				"/etc/apt/sources.list.d/z.list": "deb http://artifacts.test/remote-debian bookworm main\ndeb http://artifacts.test/remote-debian bookworm-updates main\n",
			},
			[]string{"http://artifacts.test/remote-debian"}, nil,
		},
		{
			"old security suite",
			map[string]string{"/etc/apt/sources.list": "deb http://m.test/debian buster main\ndeb http://m.test/debian-security buster/updates main\n"},
			[]string{"http://m.test/debian"}, []string{"http://m.test/debian-security"},
		},
		{
			"files of mirrors, as cloud images have",
			map[string]string{
				"/etc/apt/sources.list":             "deb mirror+file:///etc/apt/mirrors/debian.list bookworm main\ndeb mirror+file:/etc/apt/mirrors/security.list bookworm-security main\n",
				"/etc/apt/mirrors/debian.list":      "# mirrors\nhttps://one.test/debian\tpriority:1\nhttps://two.test/debian\nftp://three.test/debian\n",
				"/etc/apt/mirrors/security.list":    "https://one.test/debian-security\n",
				"/etc/apt/sources.list.d/cd.list":   "deb cdrom:[Debian]/ bookworm main\n",
				"/etc/apt/sources.list.d/x.save":    "deb http://not.test/debian bookworm main\n",
				"/etc/apt/sources.list.d/y.sources": "",
			},
			[]string{"https://one.test/debian", "https://two.test/debian"}, []string{"https://one.test/debian-security"},
		},
		{"nothing", nil, nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, err := load(t, machine(t, nil, c.files)).Debian()
			if c.main == nil {
				if err == nil || !strings.Contains(err.Error(), "TWINHULL_DEBIAN_MIRROR") || !strings.Contains(err.Error(), "config.yaml") {
					t.Errorf("%v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.main, m.Main); d != "" {
				t.Errorf("main (-want +got):\n%s", d)
			}
			got, err := m.For("trixie-security")
			if d := cmp.Diff(c.security, got); d != "" {
				t.Errorf("security (-want +got):\n%s", d)
			}
			if c.security == nil && (err == nil || !strings.Contains(err.Error(), "TWINHULL_DEBIAN_SECURITY_MIRROR")) {
				t.Errorf("security: %v", err)
			}
			if got, err := m.For("trixie-updates"); err != nil || !cmp.Equal(got, c.main) {
				t.Errorf("updates: %v %v", got, err)
			}
		})
	}
}

func TestPrecedence(t *testing.T) {
	files := map[string]string{
		"/etc/apt/sources.list.d/debian.sources": deb822,
		"/home/me/.config/twinhull/config.yaml":  "debian:\n  mirror: [https://c1.test/debian/, https://c2.test/debian]\n  security: https://c.test/debian-security\nnpm:\n  registry: https://c.test/npm/\ngo:\n  proxy: https://c.test/go,direct\n",
		"/home/me/.npmrc":                        "registry=https://user.test/npm/\n",
		"/etc/npmrc":                             "registry=https://global.test/npm/\n",
	}
	type want struct {
		Main, Security []string
		NPM            string
		Go             []string
	}
	get := func(s *Site) (w want) {
		m, err := s.Debian()
		if err != nil {
			t.Error(err)
		}
		w.Main, w.Security = m.Main, m.Security
		if w.NPM, err = s.NPM(); err != nil {
			t.Error(err)
		}
		if w.Go, err = s.GoProxy(); err != nil {
			t.Error(err)
		}
		return w
	}
	env := map[string]string{
		"TWINHULL_DEBIAN_MIRROR": "https://e.test/debian/", "TWINHULL_DEBIAN_SECURITY_MIRROR": "https://e.test/sec",
		"TWINHULL_NPM_REGISTRY": "https://e.test/npm/", "NPM_CONFIG_REGISTRY": "https://no.test", "TWINHULL_GOPROXY": "https://e.test/go", "GOPROXY": "https://no.test",
	}
	opts := machine(t, env, files)
	opts.Run = func(_ context.Context, name string, args ...string) (string, error) {
		switch name + " " + strings.Join(args, " ") {
		case "npm config get registry":
			return "https://asked.test/npm/\n", nil
		case "go env GOPROXY":
			return "https://asked.test/go|https://other.test,direct\n", nil
		}
		return "", errors.New("not installed")
	}
	steps := []struct {
		drop func()
		want want
	}{
		{func() {}, want{[]string{"https://e.test/debian"}, []string{"https://e.test/sec"}, "https://e.test/npm", []string{"https://e.test/go"}}},
		{func() {
			clear(env)
			env["npm_config_registry"], env["GOPROXY"] = "https://e2.test/npm", "https://e2.test/go,off,https://never.test"
		}, want{[]string{"https://c1.test/debian", "https://c2.test/debian"}, []string{"https://c.test/debian-security"}, "https://e2.test/npm", []string{"https://e2.test/go"}}},
		{func() { clear(env) }, want{[]string{"https://c1.test/debian", "https://c2.test/debian"}, []string{"https://c.test/debian-security"}, "https://c.test/npm", []string{"https://c.test/go"}}},
		{func() { os.RemoveAll(filepath.Join(opts.Home, ".config")) }, want{[]string{"http://mirror.test/debian"}, []string{"http://mirror.test/debian-security"}, "https://user.test/npm", []string{"https://asked.test/go", "https://other.test"}}},
		{func() { os.Remove(filepath.Join(opts.Home, ".npmrc")) }, want{[]string{"http://mirror.test/debian"}, []string{"http://mirror.test/debian-security"}, "https://global.test/npm", []string{"https://asked.test/go", "https://other.test"}}},
		{func() { os.Remove(filepath.Join(opts.Root, "etc/npmrc")) }, want{[]string{"http://mirror.test/debian"}, []string{"http://mirror.test/debian-security"}, "https://asked.test/npm", []string{"https://asked.test/go", "https://other.test"}}},
	}
	for i, step := range steps {
		step.drop()
		if d := cmp.Diff(step.want, get(load(t, opts))); d != "" {
			t.Errorf("step %d (-want +got):\n%s", i, d)
		}
	}
}

func TestAbsentSettingsSayWhatToDo(t *testing.T) {
	s := load(t, machine(t, nil, nil))
	_, err1 := s.Debian()
	_, err2 := s.NPM()
	_, err3 := s.GoProxy()
	_, err4 := s.Keyring()
	_, err5 := s.Keys()
	for err, want := range map[error]string{
		err1: "TWINHULL_DEBIAN_MIRROR", err2: "TWINHULL_NPM_REGISTRY", err3: "TWINHULL_GOPROXY", err4: "TWINHULL_DEBIAN_KEYRING", err5: "debian-archive-keyring",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %s", err, want)
		}
	}
	for _, v := range []string{"off", "direct", "direct,off"} {
		s := load(t, machine(t, map[string]string{"GOPROXY": v}, nil))
		if got, err := s.GoProxy(); err == nil {
			t.Errorf("%s: %v", v, got)
		}
	}
}

func TestKeyring(t *testing.T) {
	keys := map[string]string{
		"/usr/share/keyrings/debian-archive-keyring.gpg":        "debian",
		"/etc/apt/trusted.gpg.d/debian-archive-trixie.asc":      "trusted",
		"/etc/apt/trusted.gpg.d/vendor.gpg":                     "vendor",
		"/usr/share/keyrings/other.gpg":                         "other",
		"/etc/apt/sources.list.d/debian.sources":                strings.ReplaceAll(deb822, "debian-archive-keyring", "other"),
		"/etc/apt/sources.list.d/vendor.list":                   "deb [signed-by=/etc/apt/trusted.gpg.d/vendor.gpg] https://vendor.test/apt nodistro main\n",
		"/home/me/keys/explicit.gpg":                            "explicit",
		"/home/me/.config/twinhull/ignored-by-name-config.yaml": "x",
	}
	without := func(drop ...string) map[string]string {
		out := make(map[string]string)
		for k, v := range keys {
			out[k] = v
		}
		for _, d := range drop {
			delete(out, d)
		}
		return out
	}
	inline := strings.Split(deb822, "Signed-By")[0] + "Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mDMEY865UxYJKwYBBAHaRw8BAQdAd7Z0\n -----END PGP PUBLIC KEY BLOCK-----\n"
	armour := "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmDMEY865UxYJKwYBBAHaRw8BAQdAd7Z0\n-----END PGP PUBLIC KEY BLOCK-----\n"
	for _, c := range []struct {
		name  string
		files map[string]string
		want  []string
	}{
		{"signed-by and Debian's own", keys, []string{"other", "debian"}},
		{"Debian's own", without("/usr/share/keyrings/other.gpg"), []string{"debian"}},
		{"trusted folder", without("/usr/share/keyrings/other.gpg", "/usr/share/keyrings/debian-archive-keyring.gpg"), []string{"trusted"}},
		{"trusted folder of strangers", without("/usr/share/keyrings/other.gpg", "/usr/share/keyrings/debian-archive-keyring.gpg", "/etc/apt/trusted.gpg.d/debian-archive-trixie.asc"), []string{"vendor"}},
		{"inline", map[string]string{"/etc/apt/sources.list.d/debian.sources": inline}, []string{armour}},
	} {
		opts := machine(t, nil, c.files)
		got, err := load(t, opts).Keys()
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		var data []string
		for _, k := range got {
			data = append(data, string(k.Data))
		}
		if d := cmp.Diff(c.want, data); d != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, d)
		}
	}
	opts := machine(t, nil, keys)
	explicit := filepath.Join(opts.Home, "keys/explicit.gpg")
	opts.Getenv = func(k string) string { return map[string]string{"TWINHULL_DEBIAN_KEYRING": explicit}[k] }
	if got, err := load(t, opts).Keys(); err != nil || len(got) != 1 || string(got[0].Data) != "explicit" {
		t.Errorf("%v %v", got, err)
	}
	os.Remove(explicit)
	if got, err := load(t, opts).Keys(); err == nil {
		t.Errorf("a keyring that was named is gone, and others are taken: %v", got)
	}
}

func TestConfigErrors(t *testing.T) {
	for content, want := range map[string]string{
		"debian:\n  miror: https://x.test\n":                     ":2:3: unknown field \"miror\"",
		"debain: {}\n":                                           ":1:1: unknown field",
		"npm:\n  registry: https://x\nnpm:\n  registry: y\n":     ":3:1: ",
		"debian:\n\tmirror: x\n":                                 ":2:",
		"debian: [\n":                                            ":1:",
		"npm:\n  registry: {a: b}\n":                             ":2:",
		"npm:\n  registry: ftp://x.test/\n":                      "npm.registry: ftp://x.test/: want an http or https URL",
		"debian:\n  mirror: /srv/mirror\n":                       "debian.mirror",
		"debian:\n  keyring: keys.gpg\n":                         "absolute path",
		"ca: [rel.pem]\n":                                        "absolute path",
		"npm:\n  registry: https://me:hunter2@x.test:port/\n":    "not a URL",
		"npm:\n  registy: https://me:hunter2@x.test/\n":          ":2:3: ",
		"debian:\n  mirror: [https://a.test, 'x://u:hunter2@h']": "debian.mirror",
		"debian:\n  proxy: socks\n":                              "debian.proxy",
	} {
		_, err := Load(machine(t, nil, map[string]string{"/home/me/.config/twinhull/config.yaml": content}))
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "config.yaml") {
			t.Errorf("%q: %v, want %q", content, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("a password in %v", err)
		}
	}
	for _, fine := range []string{"", "# nothing\n", "debian:\n"} {
		if _, err := Load(machine(t, nil, map[string]string{"/home/me/.config/twinhull/config.yaml": fine})); err != nil {
			t.Errorf("%q: %v", fine, err)
		}
	}
	if _, err := Load(machine(t, map[string]string{"TWINHULL_NPM_REGISTRY": "me:hunter2@x"}, nil)); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("environment: %v", err)
	}
}

func TestMachineFilesThatAreWrong(t *testing.T) {
	s := load(t, machine(t, nil, map[string]string{
		"/etc/apt/sources.list":             "deb\nnonsense\ndeb [a=b http://x.test trixie main\ndeb http://m.test/debian trixie main\n",
		"/etc/apt/sources.list.d/x.sources": "  continued\nnothing\nTypes: deb\n\n",
		"/etc/apt/apt.conf.d/10x":           "Acquire::http { Proxy \"unclosed",
		"/home/me/.npmrc":                   "===\n[x]\n\x00\n",
	}))
	if m, err := s.Debian(); err != nil || m.Main[0] != "http://m.test/debian" {
		t.Errorf("%v %v", m, err)
	}
	if len(s.Warnings()) != 6 {
		t.Errorf("warnings: %q", s.Warnings())
	}
}

func TestNPM(t *testing.T) {
	s := load(t, machine(t, map[string]string{"TOKEN": "from-env"}, map[string]string{
		"/home/me/.npmrc": strings.Join([]string{
			"; comment", "# comment", `registry = "https://npm.test/root/"`, "@acme:registry=https://acme.test/npm/",
			"//npm.test/:_authToken=${TOKEN}", "//npm.test/root/deep/:_authToken=deeper ; tail", "//acme.test/npm/:username=me", "//acme.test/npm/:_password=aHVudGVyMg==",
			"//plain.test:8080/:_auth=abc", "@plain:registry=http://plain.test:8080/", "//other.test/:_authToken=${UNSET}", "always-auth=true",
		}, "\n"),
	}))
	for name, want := range map[string]string{"left-pad": "https://npm.test/root", "@acme/x": "https://acme.test/npm", "@else/x": "https://npm.test/root"} {
		if got, err := s.NPMFor(name); err != nil || got != want {
			t.Errorf("%s from %s, %v; want %s", name, got, err, want)
		}
	}
	for u, want := range map[string]string{
		"https://npm.test/left-pad":         "Bearer from-env",
		"https://npm.test/root/deep/x.tgz":  "Bearer deeper",
		"https://npm.test/root/deeper":      "Bearer from-env",
		"http://npm.test/left-pad":          "",
		"https://acme.test/npm/x":           "Basic bWU6aHVudGVyMg==",
		"https://acme.test/other":           "",
		"https://npm.test.evil.test/":       "",
		"https://npm.test:444/":             "",
		"http://plain.test:8080/x":          "Basic abc",
		"https://other.test/":               "Bearer ${UNSET}",
		"https://user@npm.test/has-its-own": "",
	} {
		req, err := http.NewRequest("GET", u, nil)
		if err != nil {
			t.Fatal(err)
		}
		s.Authorize(req)
		if got := req.Header.Get("Authorization"); got != want {
			t.Errorf("%s: %q, want %q", u, got, want)
		}
	}
}

func TestNetrc(t *testing.T) {
	s := load(t, machine(t, nil, map[string]string{
		"/home/me/.netrc":             "# mine\nmachine a.test login me password pw\nmacdef init\nmachine evil.test login x\n\nmachine b.test:8443\n  login you\n  account z\n  password pw2\ndefault login any password any\n",
		"/etc/apt/auth.conf.d/x.conf": "machine c.test/debian login deb password pw3\nmachine http://d.test login d password pw4\n",
	}))
	for u, want := range map[string]string{
		"https://a.test/x": "me:pw", "http://a.test/x": "", "https://b.test/": "", "https://b.test:8443/": "you:pw2",
		"https://c.test/debian/pool/x": "deb:pw3", "https://c.test/debian": "deb:pw3", "https://c.test/debian-security/": "", "http://d.test/": "d:pw4", "https://d.test/": "",
		"https://evil.test/": "", "https://unknown.test/": "",
	} {
		req, err := http.NewRequest("GET", u, nil)
		if err != nil {
			t.Fatal(err)
		}
		s.Authorize(req)
		got := ""
		if user, pw, ok := req.BasicAuth(); ok {
			got = user + ":" + pw
		}
		if got != want {
			t.Errorf("%s: %q, want %q", u, got, want)
		}
	}
}

// TestCredentialsStayWithTheirHost follows a redirect to another server.
func TestCredentialsStayWithTheirHost(t *testing.T) {
	var leaked string
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { leaked = r.Header.Get("Authorization") }))
	defer other.Close()
	var sent string
	mine := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent = r.Header.Get("Authorization")
		http.Redirect(w, r, other.URL, http.StatusFound)
	}))
	defer mine.Close()
	u, _ := url.Parse(mine.URL)
	s := load(t, machine(t, nil, map[string]string{"/home/me/.npmrc": "//" + u.Host + "/:_authToken=secret\n"}))
	client, err := s.Client()
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Get(mine.URL + "/x")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	client.CloseIdleConnections()
	if sent != "Bearer secret" || leaked != "" {
		t.Errorf("sent %q, and %q elsewhere", sent, leaked)
	}
}

func TestExtraAuthorities(t *testing.T) {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}))
	defer srv.Close()
	cert := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}))
	try := func(opts Options) error {
		client, err := load(t, opts).Client()
		if err != nil {
			return err
		}
		defer client.CloseIdleConnections()
		resp, err := client.Get(srv.URL)
		if err == nil {
			resp.Body.Close()
		}
		return err
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(file, []byte(cert), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := try(machine(t, nil, nil)); err == nil {
		t.Error("an unknown authority is believed")
	}
	inline := strings.ReplaceAll(cert, "\n", `\n`)
	for name, opts := range map[string]Options{
		"NODE_EXTRA_CA_CERTS": machine(t, map[string]string{"NODE_EXTRA_CA_CERTS": file}, nil),
		"cafile":              machine(t, nil, map[string]string{"/etc/npmrc": "cafile=" + file}),
		"ca":                  machine(t, nil, map[string]string{"/home/me/.npmrc": `ca="` + inline + `"`}),
		"config":              machine(t, nil, map[string]string{"/home/me/.config/twinhull/config.yaml": "ca: " + file}),
	} {
		if err := try(opts); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := try(machine(t, nil, map[string]string{"/home/me/.config/twinhull/config.yaml": "ca: /absent.pem"})); err == nil {
		t.Error("a file that the config names is missing, and nobody says so")
	}
	if err := try(machine(t, map[string]string{"NODE_EXTRA_CA_CERTS": "/absent.pem"}, map[string]string{"/etc/npmrc": "strict-ssl=false"})); err == nil {
		t.Error("strict-ssl=false switches verification off")
	}
}

func TestAptProxy(t *testing.T) {
	for _, c := range []struct{ name, conf, request, want string }{
		{"flat", `Acquire::http::Proxy "http://p.test:3128";`, "http://mirror.test/debian/x", "http://p.test:3128"},
		{"for https too", `Acquire::http::Proxy "http://p.test:3128";`, "https://mirror.test/debian/x", "http://p.test:3128"},
		{"nested", "// c\nAcquire { http { Proxy \"http://p.test/\"; Timeout 3; }; };", "http://mirror.test/x", "http://p.test/"},
		{"half nested", "/* c */ Acquire::http { # d\n Proxy \"http://p.test/\"; };", "http://mirror.test/x", "http://p.test/"},
		{"direct for the host", `Acquire::http::Proxy "http://p.test"; Acquire::http::Proxy::mirror.test "DIRECT";`, "http://mirror.test/x", ""},
		{"other hosts", `Acquire::http::Proxy "http://p.test";`, "http://other.test/x", ""},
		{"not a proxy", `Acquire::http::Proxy "false";`, "http://mirror.test/x", ""},
		{"comment", `#Acquire::http::Proxy "http://p.test";`, "http://mirror.test/x", ""},
	} {
		s := load(t, machine(t, nil, map[string]string{"/etc/apt/sources.list.d/debian.sources": deb822, "/etc/apt/apt.conf.d/proxy": c.conf}))
		req, err := http.NewRequest("GET", c.request, nil)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if s.isDebian(req.URL) {
			if u := s.aptProxy(req); u != nil {
				got = u.String()
			}
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestRedact(t *testing.T) {
	for in, want := range map[string]string{
		"https://x.test/a":                 "https://x.test/a",
		"https://token@x.test/a":           "https://…@x.test/a",
		"https://me:hunter2@x.test/?k=v#f": "https://…@x.test/?…",
		"http://me:hunter2@[bad":           "(a malformed URL)",
		"/usr/share/keyrings/x.gpg":        "/usr/share/keyrings/x.gpg",
	} {
		if got := Redact(in); got != want {
			t.Errorf("Redact(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestSettings(t *testing.T) {
	opts := machine(t, map[string]string{"TWINHULL_NPM_REGISTRY": "https://me:hunter2@x.test/npm"}, map[string]string{"/etc/apt/sources.list.d/debian.sources": deb822})
	got := fmt.Sprintf("%q", load(t, opts).Settings())
	for _, want := range []string{"http://mirror.test/debian-security", "debian.sources:2", "x.test/npm", "TWINHULL_NPM_REGISTRY", "no Go module proxy"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in %s", want, got)
		}
	}
	if strings.Contains(got, "hunter2") {
		t.Errorf("a password in %s", got)
	}
}

func FuzzAptSources(f *testing.F) {
	f.Add(deb822)
	f.Add("deb [ arch=amd64 signed-by=/k.gpg,/l.gpg trusted=yes ] https://m.test/debian/ trixie main # x\n")
	f.Add("Types: deb\nSigned-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n x\n")
	f.Add("deb [")
	f.Fuzz(func(t *testing.T, text string) {
		one, _ := parseSourcesList("f", text)
		two, _ := parseDeb822Sources("f", text)
		all := append(one, two...)
		for _, e := range all {
			if len(e.Types) == 0 || len(e.URIs) == 0 || len(e.Suites) == 0 || e.From == "" {
				t.Errorf("incomplete entry %+v", e)
			}
			for _, k := range e.SignedBy {
				if !filepath.IsAbs(k) || strings.Contains(k, "..") && filepath.Clean(k) != k {
					t.Errorf("keyring %q", k)
				}
			}
		}
		for _, e := range append(pickDebian(all), pickSecurity(all)...) {
			if e.Disabled || e.URIs[0] == "" {
				t.Errorf("picked %+v", e)
			}
		}
		for k := range parseAptConf(text) {
			if k != strings.ToLower(k) {
				t.Errorf("key %q", k)
			}
		}
	})
}

func FuzzNpmrc(f *testing.F) {
	f.Add("registry=https://x.test/\n//x.test/:_authToken=${T}\n@a:registry=\"y\"\n")
	f.Add("//x/:_password=!!!\n//x/:username=a\nca[]=\"x\"\n${A?}=${B\n")
	f.Fuzz(func(t *testing.T, text string) {
		n := npmSettings{scopes: map[string]string{}, auth: map[string]string{}}
		rc := parseNpmrc(text, func(string) string { return "value" })
		for _, kv := range rc {
			if kv.key == "" || kv.value == "" {
				t.Errorf("empty %q", kv)
			}
		}
		n.merge("f", rc)
		for where := range n.auth {
			if !strings.HasPrefix(where, "//") || !strings.HasSuffix(where, "/") {
				t.Errorf("credentials for %q", where)
			}
		}
		_ = parseNetrc(text)
	})
}

func FuzzConfig(f *testing.F) {
	f.Add("debian:\n  mirror: [https://a.test/]\n  keyring: /k\nnpm: {registry: https://x.test}\nca: /x\n")
	f.Add("a: &a [*a]\n")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := parseConfig("f", []byte(text))
		if err != nil {
			return
		}
		for _, u := range append(append([]string{}, c.Debian.Mirror...), c.Debian.Security...) {
			if checkURL(u) != nil {
				t.Errorf("accepted %q", u)
			}
		}
	})
}
