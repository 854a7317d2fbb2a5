package debfile

// Debian's static user and group ids (base-passwd, policy 9.2.2: 0-99 and
// 65534 are the same on every Debian system).
//
// dpkg resolves the names in a tar header against the target's passwd and group
// files first and takes the header's number only for a name that it does not
// know. When packages are unpacked into an empty tree, base-passwd's ids are
// what those files will hold, so the names found here win over the number; any
// other name is one that a maintainer script would have to create first, and
// the number stands.
var (
	staticUsers = map[string]int{
		"root": 0, "daemon": 1, "bin": 2, "sys": 3, "sync": 4, "games": 5, "man": 6, "lp": 7, "mail": 8,
		"news": 9, "uucp": 10, "proxy": 13, "www-data": 33, "backup": 34, "list": 38, "irc": 39,
		"_apt": 42, "nobody": 65534,
	}
	staticGroups = map[string]int{
		"root": 0, "daemon": 1, "bin": 2, "sys": 3, "adm": 4, "tty": 5, "disk": 6, "lp": 7, "mail": 8,
		"news": 9, "uucp": 10, "man": 12, "proxy": 13, "kmem": 15, "dialout": 20, "fax": 21, "voice": 22,
		"cdrom": 24, "floppy": 25, "tape": 26, "sudo": 27, "audio": 29, "dip": 30, "www-data": 33,
		"backup": 34, "operator": 37, "list": 38, "irc": 39, "src": 40, "shadow": 42, "utmp": 43,
		"video": 44, "sasl": 45, "plugdev": 46, "staff": 50, "games": 60, "users": 100, "nogroup": 65534,
	}
)

func resolveID(table map[string]int, name string, number int) int {
	if id, ok := table[name]; ok {
		return id
	}
	return number
}
