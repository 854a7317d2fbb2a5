package server

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"twinhull.dev/twinhull/internal/audit"
	"twinhull.dev/twinhull/internal/registry"
)

// metrics is what Prometheus is told. Labels are of small fixed sets: none is
// from a request.
type metrics struct {
	all *prometheus.Registry

	requests  *prometheus.CounterVec // route, method, code
	seconds   *prometheus.HistogramVec
	in, out   *prometheus.CounterVec
	active    prometheus.Gauge
	decisions *prometheus.CounterVec // action, verdict
	collected *prometheus.CounterVec // kind
	freed     *prometheus.CounterVec
	failures  *prometheus.CounterVec // task

	known sync.Map // seriesKey to *series

	storeBytes atomic.Int64
	storeItems atomic.Int64
	lastDone   atomic.Int64 // end of the last collection, in seconds of Unix time
}

func newMetrics(version string) *metrics {
	m := &metrics{
		all: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "twinhull_requests_total", Help: "Requests by what they asked for, method and status; code 0: the client went before there was one."},
			[]string{"route", "method", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "twinhull_request_seconds", Help: "How long requests took, to the last byte.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10, 60}},
			[]string{"route"}),
		in:        counter("twinhull_received_bytes_total", "Bytes of request bodies.", "route"),
		out:       counter("twinhull_sent_bytes_total", "Bytes of answers.", "route"),
		active:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "twinhull_requests_active", Help: "Requests that are being answered, uploads among them."}),
		decisions: counter("twinhull_decisions_total", "Entries written to the audit log by this process.", "action", "verdict"),
		collected: counter("twinhull_collected_items_total", "What collections have removed.", "kind"),
		freed:     counter("twinhull_collected_bytes_total", "Bytes that collections have freed.", "kind"),
		failures:  counter("twinhull_background_failures_total", "Background work that failed.", "task"),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{Name: "twinhull_build_info", Help: "Always 1; the version is the label.", ConstLabels: prometheus.Labels{"version": version}})
	build.Set(1)
	m.all.MustRegister(m.requests, m.seconds, m.in, m.out, m.active, m.decisions, m.collected, m.freed, m.failures, build,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.gauge("twinhull_store_bytes", "Bytes of all blobs, as last counted (each hour).", func() (float64, bool) { return float64(m.storeBytes.Load()), m.storeItems.Load() >= 0 })
	m.gauge("twinhull_store_blobs", "Number of blobs, as last counted.", func() (float64, bool) { return float64(m.storeItems.Load()), m.storeItems.Load() >= 0 })
	m.gauge("twinhull_collection_last_timestamp_seconds", "When the last collection ended well.", func() (float64, bool) { return float64(m.lastDone.Load()), m.lastDone.Load() > 0 })
	m.storeItems.Store(-1)
	return m
}

func counter(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
}

// gauge is a value that is read when it is asked for; what cannot be told is left
// out, so that an alarm for absence rings.
func (m *metrics) gauge(name, help string, read func() (float64, bool)) {
	m.all.MustRegister(&asked{prometheus.NewDesc(name, help, nil, nil), read})
}

type asked struct {
	desc *prometheus.Desc
	read func() (float64, bool)
}

func (a *asked) Describe(ch chan<- *prometheus.Desc) { ch <- a.desc }

func (a *asked) Collect(ch chan<- prometheus.Metric) {
	if v, ok := a.read(); ok {
		ch <- prometheus.MustNewConstMetric(a.desc, prometheus.GaugeValue, v)
	}
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.all, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second})
}

// Collected implements registry.Metrics.
func (m *metrics) Collected(kind string, items int, bytes int64) {
	m.collected.WithLabelValues(kind).Add(float64(items))
	m.freed.WithLabelValues(kind).Add(float64(bytes))
}

// series are the counters of one kind of request, looked up once.
type series struct {
	requests prometheus.Counter
	seconds  prometheus.Observer
	in, out  prometheus.Counter
}

type seriesKey struct {
	route, method string
	status        int
}

// request counts one.
func (m *metrics) request(route, method string, status int, in, out int64, took time.Duration) {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPut, http.MethodPost, http.MethodPatch, http.MethodDelete:
	default:
		method = "other" // a client may write anything there
	}
	k := seriesKey{route, method, status}
	found, ok := m.known.Load(k)
	if !ok {
		found, _ = m.known.LoadOrStore(k, &series{
			m.requests.WithLabelValues(route, method, strconv.Itoa(status)), m.seconds.WithLabelValues(route),
			m.in.WithLabelValues(route), m.out.WithLabelValues(route),
		})
	}
	s := found.(*series)
	s.requests.Inc()
	s.seconds.Observe(took.Seconds())
	s.in.Add(float64(max(in, 0)))
	s.out.Add(float64(max(out, 0)))
}

// countedLog counts decisions on their way to the log.
type countedLog struct {
	registry.Log
	m *metrics
}

func (l countedLog) Append(ctx context.Context, e audit.Entry) (uint64, error) {
	i, err := l.Log.Append(ctx, e)
	if err != nil {
		if !errors.Is(err, audit.ErrEntry) {
			l.m.failures.WithLabelValues("audit").Inc()
		}
		return i, err
	}
	l.m.decisions.WithLabelValues(string(e.Action), string(e.Verdict)).Inc()
	return i, nil
}
