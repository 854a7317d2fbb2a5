package durable

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Lock takes the exclusive advisory lock (flock) of the file at path, which is
// made when absent and stays afterwards: removing a lock file would let two
// holders in. When another holder has it, waiting (may be nil) is called once
// and Lock tries again until it gets the lock or ctx ends. The kernel frees the
// lock when the process ends, however it ends. unlock may be called repeatedly.
//
// The lock works between goroutines as well as between processes.
func Lock(ctx context.Context, path string, waiting func()) (unlock func(), err error) {
	return lock(ctx, path, unix.LOCK_EX, waiting)
}

// RLock is Lock for a shared lock: many may hold it, but none beside Lock's.
func RLock(ctx context.Context, path string, waiting func()) (unlock func(), err error) {
	return lock(ctx, path, unix.LOCK_SH, waiting)
}

func lock(ctx context.Context, path string, how int, waiting func()) (func(), error) {
	// Opened for reading, which suffices for flock, so that users who may not
	// write the file can still wait for each other.
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	if err := Flock(ctx, f, how == unix.LOCK_EX, waiting); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	var once sync.Once
	return func() { once.Do(func() { f.Close() }) }, nil
}

// Flock locks an open file, waiting as Lock does. Closing the file unlocks it.
func Flock(ctx context.Context, f *os.File, exclusive bool, waiting func()) error {
	how := unix.LOCK_SH
	if exclusive {
		how = unix.LOCK_EX
	}
	// A blocking flock cannot be interrupted by ctx, so this asks repeatedly.
	const longest = 200 * time.Millisecond
	for pause := time.Millisecond; ; pause = min(2*pause, longest) {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, unix.EINTR):
			continue
		case !errors.Is(err, unix.EWOULDBLOCK):
			return os.NewSyscallError("flock", err)
		}
		if waiting != nil {
			waiting()
			waiting = nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}
