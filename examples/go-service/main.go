// Command go-service plans meetings across time zones over HTTP. One static
// binary, configured by the environment, that logs JSON and stops in order.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"example.org/go-service/internal/api"
)

// config is everything that the environment decides.
type config struct {
	addr      string
	perSecond int
	drain     time.Duration // not ready, still serving, so that a load balancer notices
	stop      time.Duration // then, for requests in progress
}

func readConfig(getenv func(string) string) (config, error) {
	var errs []error
	get := func(name, fallback string) string {
		if v := getenv(name); v != "" {
			return v
		}
		return fallback
	}
	number := func(name, fallback string, min, max int) int {
		n, err := strconv.Atoi(get(name, fallback))
		if err != nil || n < min || n > max {
			errs = append(errs, fmt.Errorf("%s: want a whole number from %d to %d, not %q", name, min, max, getenv(name)))
		}
		return n
	}
	span := func(name, fallback string) time.Duration {
		d, err := time.ParseDuration(get(name, fallback))
		if err != nil || d < 0 {
			errs = append(errs, fmt.Errorf("%s: want a duration such as 10s, not %q", name, getenv(name)))
		}
		return d
	}
	c := config{
		addr:      net.JoinHostPort(get("HOST", "0.0.0.0"), strconv.Itoa(number("PORT", "8080", 0, 65535))),
		perSecond: number("REQUESTS_PER_SECOND", "100", 1, 1_000_000),
		drain:     span("DRAIN", "1s"),
		stop:      span("STOP", "10s"),
	}
	return c, errors.Join(errs...)
}

func main() {
	log := slog.New(slog.NewJSONHandler(os.Stdout, nil))
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	context.AfterFunc(ctx, cancel) // a second signal ends the process at once
	err := run(ctx, log, os.Getenv)
	if err != nil {
		log.Error("cannot go on", "err", err)
		os.Exit(1)
	}
}

// run serves until ctx is done and then shuts down in order. It returns nil
// when every request in progress could finish.
func run(ctx context.Context, log *slog.Logger, getenv func(string) string) error {
	c, err := readConfig(getenv)
	if err != nil {
		return err
	}
	a := api.New(log, time.Now, c.perSecond)
	server := &http.Server{
		Handler:           a,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		WriteTimeout:      15 * time.Second,
		IdleTimeout:       60 * time.Second,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	listener, err := net.Listen("tcp", c.addr)
	if err != nil {
		return err
	}
	log.Info("listening", "url", "http://"+listener.Addr().String())

	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}

	log.Info("draining", "for", c.drain.String())
	a.Drain()
	time.Sleep(c.drain)
	stop, cancel := context.WithTimeout(context.Background(), c.stop)
	defer cancel()
	if err := server.Shutdown(stop); err != nil {
		return errors.Join(fmt.Errorf("requests in progress were cut off: %w", err), server.Close())
	}
	log.Info("stopped")
	return nil
}
