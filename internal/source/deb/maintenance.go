package deb

// MaintenanceOnly is the table of packages that serve maintainer scripts,
// shells, logins or the installation of further packages, and nothing that runs
// in an image whose scripts never run. It fits Request.Omit. The reason is
// written to be shown to users.
//
// A package belongs here only when a program that was built against it would
// not miss it: shared libraries and data never do. Decided against, although
// they look alike:
//
//   - libc-bin: beside ldconfig and getent it holds the C.UTF-8 locale, which
//     programs load at run time.
//   - python3-minimal and python3.N-minimal: they are the interpreter; py3compile
//     comes with them.
//   - media-types, netbase, tzdata, base-files, ncurses-base, readline-common,
//     ca-certificates: data that programs read.
//   - libpam0g: linked by servers; only PAM's configuration and modules are here.
//   - perl: a program may be written in it. perl-base is here, and is followed
//     all the same when perl is in the set, because perl needs exactly its version.
//   - gawk, busybox, procps, psmisc, cron, logrotate: whoever depends on them
//     runs them.
func MaintenanceOnly(name string) (reason string, ok bool) {
	reason, ok = maintenanceOnly[name]
	return reason, ok
}

const (
	forInstalling = "installs packages; a production image is never installed into"
	forConfig     = "asks questions while packages are configured; maintainer scripts do not run"
	forScripts    = "tools for maintainer scripts, which do not run"
	forShell      = "a shell; nothing in a production image runs scripts"
	forUsers      = "creates users while packages are configured; the project file names the user"
	forLogin      = "logs users in; nobody logs into a production image"
	forInit       = "starts and stops system services; the container runtime does"
	forManuals    = "registers documentation, which is left out"
	forLanguage   = "a package manager; dependencies come from the lock"
	forUsrMerge   = "marks the layout of /usr for upgrades"
)

var maintenanceOnly = map[string]string{
	"apt":                         forInstalling,
	"apt-utils":                   forInstalling,
	"debian-archive-keyring":      forInstalling,
	"dpkg":                        forInstalling,
	"dpkg-dev":                    forInstalling,
	"gpgv":                        forInstalling,
	"sqv":                         forInstalling,
	"usr-is-merged":               forUsrMerge,
	"usrmerge":                    forUsrMerge,
	"cdebconf":                    forConfig,
	"debconf":                     forConfig,
	"debconf-2.0":                 forConfig,
	"debconf-i18n":                forConfig,
	"ucf":                         forScripts,
	"awk":                         forScripts,
	"mawk":                        forScripts,
	"coreutils":                   forScripts,
	"debianutils":                 forScripts,
	"diffutils":                   forScripts,
	"emacsen-common":              forScripts,
	"findutils":                   forScripts,
	"grep":                        forScripts,
	"gzip":                        forScripts,
	"hostname":                    forScripts,
	"perl-base":                   "the interpreter of maintainer scripts, which do not run",
	"sed":                         forScripts,
	"sensible-utils":              forScripts,
	"tar":                         forScripts,
	"util-linux":                  forScripts,
	"util-linux-extra":            forScripts,
	"bsdutils":                    forScripts,
	"mount":                       forScripts,
	"ncurses-bin":                 forScripts,
	"openssl":                     "the command line program, which ca-certificates calls while it is configured; the certificate bundle is made without it",
	"bash":                        forShell,
	"dash":                        forShell,
	"adduser":                     forUsers,
	"base-passwd":                 forUsers,
	"opensysusers":                forUsers,
	"systemd-standalone-sysusers": forUsers,
	"systemd-sysusers":            forUsers,
	"passwd":                      forLogin,
	"login":                       forLogin,
	"login.defs":                  forLogin,
	"libpam-modules":              forLogin,
	"libpam-modules-bin":          forLogin,
	"libpam-runtime":              forLogin,
	"init":                        forInit,
	"init-system-helpers":         forInit,
	"lsb-base":                    forInit,
	"runit-helper":                forInit,
	"sysvinit-utils":              forInit,
	"systemd":                     forInit,
	"systemd-sysv":                forInit,
	"systemd-standalone-tmpfiles": forInit,
	"systemd-tmpfiles":            forInit,
	"install-info":                forManuals,
	"man-db":                      forManuals,
	"corepack":                    forLanguage,
	"node-corepack":               forLanguage,
	"npm":                         forLanguage,
	"yarnpkg":                     forLanguage,
	"python3-pip":                 forLanguage,
}
