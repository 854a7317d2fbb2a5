package access

import (
	"net/netip"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"
)

// maxLimited is how many clients a Limiter keeps count of. Who was not seen for
// the longest is forgotten first, and begins anew when seen again.
const maxLimited = 16384

// Limiter bounds how often each of many may do something.
type Limiter struct {
	rate  rate.Limit
	burst int
	seen  *lru.Cache[string, *rate.Limiter]
}

// NewLimiter allows each perSecond times a second, and burst times at once.
// perSecond 0 or less: no limit.
func NewLimiter(perSecond float64, burst int) *Limiter {
	if perSecond <= 0 {
		return &Limiter{}
	}
	seen, err := lru.New[string, *rate.Limiter](maxLimited)
	if err != nil {
		panic(err) // only for a size that is not positive
	}
	return &Limiter{rate: rate.Limit(perSecond), burst: max(1, burst), seen: seen}
}

// Allow takes one from what the name has left and tells whether there was one.
func (l *Limiter) Allow(name string, now time.Time) bool {
	return l.seen == nil || l.of(name).AllowN(now, 1)
}

// Left tells whether there is one left, without taking it.
func (l *Limiter) Left(name string, now time.Time) bool {
	return l.seen == nil || l.of(name).TokensAt(now) >= 1
}

func (l *Limiter) of(name string) *rate.Limiter {
	if one, ok := l.seen.Get(name); ok {
		return one
	}
	one := rate.NewLimiter(l.rate, l.burst)
	if before, had, _ := l.seen.PeekOrAdd(name, one); had {
		return before
	}
	return one
}

// Source names where a client is, for limits: its address, and of IPv6 the /64,
// which one client has to itself.
func Source(a netip.Addr) string {
	a = a.Unmap()
	if a.Is6() {
		if p, err := a.WithZone("").Prefix(64); err == nil {
			return p.String()
		}
	}
	return a.String()
}
