package access

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/crypto/bcrypt"
)

// Bounds of htpasswd files.
const (
	MaxUsersFile = 4 << 20 // bytes
	minCost      = 10      // below it guessing is cheap
	maxCost      = 15      // above it one request costs seconds
	maxPassword  = 1024    // bytes; bcrypt reads 72
)

// Users are the users of an htpasswd file and their bcrypt hashes.
type Users map[string][]byte

// ReadUsers reads an htpasswd file: NAME:HASH lines, empty lines and lines that
// begin with #. Only bcrypt hashes are taken ("htpasswd -B -C 12"): the older
// ones are guessed in minutes. name is for messages.
func ReadUsers(name string, data []byte) (Users, error) {
	if len(data) > MaxUsersFile {
		return nil, fmt.Errorf("%s: %d bytes: at most %d are read", name, len(data), MaxUsersFile)
	}
	users := Users{}
	n := 0
	for line := range bytes.Lines(data) {
		n++
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		fail := func(format string, a ...any) (Users, error) {
			return nil, fmt.Errorf("%s:%d: %s", name, n, fmt.Sprintf(format, a...))
		}
		user, hash, ok := strings.Cut(string(line), ":")
		switch {
		case !ok || user == "":
			return fail("want NAME:HASH")
		case len(user) > 255 || strings.ContainsFunc(user, func(r rune) bool { return r <= ' ' || r == 0x7f }):
			return fail("%q is no user name", user)
		case user == TokenUser || user == OIDCUser:
			return fail("the user name %q is taken: with it a client says that the password is a token", user)
		case users[user] != nil:
			return fail("user %q is here for the second time", user)
		}
		switch cost, err := bcrypt.Cost([]byte(hash)); {
		case err != nil || len(hash) != 60:
			return fail("user %q: the hash is not bcrypt's: make it with htpasswd -B -C 12", user)
		case cost < minCost || cost > maxCost:
			return fail("user %q: the hash has cost %d: want %d to %d (htpasswd -B -C 12)", user, cost, minCost, maxCost)
		}
		users[user] = []byte(hash)
	}
	return users, nil
}

// errPassword is for a wrong name and a wrong password alike.
var errPassword = errors.New("wrong user name or password")

// errBusy is when too many passwords are waiting to be verified.
var errBusy = errors.New("too many passwords are being verified: try again")

// passwords verifies passwords. bcrypt costs tens of milliseconds by design, and
// clients send the password with each request: what was verified a moment ago is
// remembered, as a keyed hash that is worth nothing outside this process.
type passwords struct {
	users Users
	dummy []byte // compared when the user is unknown, so that the answer takes as long
	key   [32]byte
	seen  *lru.Cache[[32]byte, time.Time] // until when
	slots chan struct{}                   // how many are verified at once
	queue chan struct{}                   // and wait
	now   func() time.Time
}

const (
	rememberFor = 5 * time.Minute
	rememberMax = 1024
	maxWaiting  = 64
)

func newPasswords(users Users, now func() time.Time) (*passwords, error) {
	p := &passwords{users: users, now: now, slots: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)), queue: make(chan struct{}, maxWaiting)}
	if _, err := rand.Read(p.key[:]); err != nil {
		return nil, err
	}
	var err error
	if p.seen, err = lru.New[[32]byte, time.Time](rememberMax); err != nil {
		return nil, err
	}
	if len(users) == 0 {
		return p, nil // nobody to be told from nobody
	}
	cost := minCost
	for _, hash := range users {
		c, err := bcrypt.Cost(hash)
		if err != nil {
			return nil, err
		}
		cost = max(cost, c)
	}
	var secret [32]byte
	if _, err := rand.Read(secret[:]); err != nil {
		return nil, err
	}
	p.dummy, err = bcrypt.GenerateFromPassword(secret[:], cost)
	return p, err
}

// remembered tells whether the same name and password were right a moment ago.
func (p *passwords) remembered(user, password string) bool {
	until, ok := p.seen.Get(p.mac(user, password))
	return ok && p.now().Before(until)
}

// mac covers the stored hash too: a changed password is forgotten at once.
func (p *passwords) mac(user, password string) (out [32]byte) {
	m := hmac.New(sha256.New, p.key[:])
	for _, part := range [][]byte{[]byte(user), p.users[user], []byte(password)} {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(part)))
		m.Write(n[:])
		m.Write(part)
	}
	m.Sum(out[:0])
	return out
}

// verify returns nil, errPassword, errBusy or the context's error.
func (p *passwords) verify(ctx context.Context, user, password string) error {
	if len(p.users) == 0 || len(password) > maxPassword {
		return errPassword
	}
	select {
	case p.queue <- struct{}{}:
		defer func() { <-p.queue }()
	default:
		return errBusy
	}
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	// Clients open several connections at once: the first has verified it.
	if p.remembered(user, password) {
		return nil
	}
	hash, known := p.users[user]
	if !known {
		hash = p.dummy
	}
	err := bcrypt.CompareHashAndPassword(hash, []byte(password))
	if !known || err != nil {
		return errPassword
	}
	p.seen.Add(p.mac(user, password), p.now().Add(rememberFor))
	return nil
}
