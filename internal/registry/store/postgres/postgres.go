// Package postgres keeps a registry's records in PostgreSQL (14 or newer), so that
// several servers can be replicas of one registry. Content is package s3's.
//
// It uses one table, twinhull_records, of keys and values, in the schema that the
// connection's search_path names first, and twinhull_about, which says what form it
// has. Both are made when they are missing and the role may make them. It is no
// place for other tables, and nobody else may write to these.
//
// Transactions are serializable ones of the server's, and are repeated when it finds
// that they were overtaken. Connections go to the server itself or through a pooler
// that pools sessions, not transactions.
//
// # Durability
//
// What Update has acknowledged, the server has flushed to its log: Open refuses a
// server with fsync off, and asks for synchronous_commit where it is off. Whether a
// standby has it, too, is for the server's synchronous_standby_names.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"twinhull.dev/twinhull/internal/registry/store"
	"twinhull.dev/twinhull/internal/registry/store/overlay"
)

const (
	// How often a transaction that was overtaken is begun again, and for how long.
	maxAttempts = 40
	maxTrying   = 20 * time.Second

	// A scan asks for little first, as many only want to know whether there is
	// something, and then for more, but for not more than this many bytes at once.
	firstPage, largestPage = 32, 512
	pageBytes              = 8 << 20
)

const schema = `
CREATE TABLE IF NOT EXISTS twinhull_records (key bytea PRIMARY KEY, value bytea NOT NULL);
CREATE TABLE IF NOT EXISTS twinhull_about (format text NOT NULL);
INSERT INTO twinhull_about SELECT '` + format + `' WHERE NOT EXISTS (SELECT FROM twinhull_about);
`

const format = "twinhull records 1"

// schemaLock is the advisory lock that one replica holds while it makes the tables.
const schemaLock = 0x7477696e68756c6c // "twinhull"

type records struct{ pool *pgxpool.Pool }

// Open connects to a database, given as a connection string or URL as libpq takes
// it, and makes the tables if they are missing. Close of what it returns ends all
// connections. pool_max_conns in the string is how many there may be.
func Open(ctx context.Context, connect string) (_ store.Records, err error) {
	config, err := pgxpool.ParseConfig(connect)
	if err != nil {
		return nil, fmt.Errorf("PostgreSQL: %w", err) // it does not show the password
	}
	config.AfterConnect = prepare
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("PostgreSQL: %w", err)
	}
	defer func() {
		if err != nil {
			pool.Close()
		}
	}()
	where := fmt.Sprintf("PostgreSQL database %s on %s", config.ConnConfig.Database, config.ConnConfig.Host)
	var fsync string
	if err := pool.QueryRow(ctx, "SHOW fsync").Scan(&fsync); err != nil {
		return nil, fmt.Errorf("%s: %w", where, explain(err))
	}
	if fsync != "on" {
		return nil, fmt.Errorf("%s: fsync is %s, so it would forget what it acknowledged: set fsync = on in postgresql.conf", where, fsync)
	}
	r := &records{pool}
	if err := r.makeTables(ctx); err != nil {
		return nil, fmt.Errorf("%s: %w", where, explain(err))
	}
	return r, nil
}

// prepare sets what each connection needs.
func prepare(ctx context.Context, c *pgx.Conn) error {
	// A serializable transaction that reads the whole table in order to find one key,
	// as the planner prefers in small tables, conflicts with every other one.
	_, err := c.Exec(ctx, `SET enable_seqscan = off; SET enable_bitmapscan = off;
SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'`)
	return err
}

func (r *records) makeTables(ctx context.Context) error {
	var found string
	look := func(q interface {
		QueryRow(context.Context, string, ...any) pgx.Row
	}) (there bool, err error) {
		// First of all, because a role that may not make tables may use them.
		if err := q.QueryRow(ctx, "SELECT to_regclass('twinhull_records') IS NOT NULL AND to_regclass('twinhull_about') IS NOT NULL").Scan(&there); err != nil || !there {
			return false, err
		}
		err = q.QueryRow(ctx, "SELECT format FROM twinhull_about").Scan(&found)
		if errors.Is(err, pgx.ErrNoRows) {
			return false, nil
		}
		return true, err
	}
	there, err := look(r.pool)
	if err == nil && !there {
		// Replicas that start together would disturb each other.
		err = pgx.BeginFunc(ctx, r.pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", int64(schemaLock)); err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, schema); err != nil {
				return err
			}
			_, err := look(tx)
			return err
		})
	}
	if err != nil {
		return err
	}
	if found != format {
		return fmt.Errorf("the tables have the format %q, this program knows %q: use the program that made them", found, format)
	}
	return nil
}

func (r *records) Close() error {
	r.pool.Close()
	return nil
}

func (r *records) View(ctx context.Context, f func(store.Reader) error) error {
	// Repeatable read is a snapshot that no writer can invalidate: f runs once.
	tx, err := r.pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return explain(err)
	}
	defer rollback(ctx, tx)
	return f(&reader{ctx: ctx, tx: tx})
}

// rollback also ends what ctx has ended.
func rollback(ctx context.Context, tx pgx.Tx) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	_ = tx.Rollback(ctx) // of one that was committed: nothing; of a broken one: the connection is closed
}

func (r *records) Update(ctx context.Context, f func(store.Transaction) error) error {
	began := time.Now()
	for attempt := 1; ; attempt++ {
		fErr, err := r.attempt(ctx, f)
		if err == nil {
			return fErr
		}
		if !overtaken(err) {
			return explain(err)
		}
		if attempt >= maxAttempts || time.Since(began) > maxTrying {
			return fmt.Errorf("%w %d times: %w", store.ErrConflict, attempt, err)
		}
		// The others finish meanwhile; the longer it takes, the more of them there are.
		pause := time.Duration(1+rand.IntN(1<<min(attempt, 7))) * time.Millisecond
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

// attempt runs f once. err is the server's; f's own is fErr.
func (r *records) attempt(ctx context.Context, f func(store.Transaction) error) (fErr, err error) {
	tx, err := r.pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.Serializable})
	if err != nil {
		return nil, err
	}
	defer rollback(ctx, tx)
	in := &reader{ctx: ctx, tx: tx}
	changes := overlay.Over(in)
	fErr = f(changes)
	if in.failed != nil {
		return nil, in.failed
	}
	if fErr == nil && !changes.Empty() {
		if err := flush(ctx, tx, changes); err != nil {
			return nil, err
		}
	}
	// Also after f's error, without its changes: what it has read, and so its error,
	// is known to be consistent only then.
	return fErr, tx.Commit(ctx)
}

func flush(ctx context.Context, tx pgx.Tx, changes *overlay.Transaction) error {
	var deleted, keys, values [][]byte
	for k, v := range changes.Changes() {
		if v == nil {
			deleted = append(deleted, []byte(k))
		} else {
			keys, values = append(keys, []byte(k)), append(values, v)
		}
	}
	batch := &pgx.Batch{} // one round trip
	if len(deleted) > 0 {
		batch.Queue("DELETE FROM twinhull_records WHERE key = ANY($1)", deleted)
	}
	if len(keys) > 0 {
		batch.Queue(`INSERT INTO twinhull_records SELECT * FROM unnest($1::bytea[], $2::bytea[])
ON CONFLICT (key) DO UPDATE SET value = excluded.value`, keys, values)
	}
	return tx.SendBatch(ctx, batch).Close()
}

// overtaken are the errors after which the same transaction may succeed
// (PostgreSQL, "Serialization Failure Handling").
func overtaken(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (pg.Code == "40001" || pg.Code == "40P01") // serialization failure, deadlock
}

// explain adds which of the store's errors an error of the server is.
func explain(err error) error {
	if errors.Is(err, store.ErrDamaged) {
		return err
	}
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch pg.Code {
		case "25006": // read-only transaction: a standby, or default_transaction_read_only
			return fmt.Errorf("%w: %w: connect to the primary server", store.ErrReadOnly, err)
		case "53100": // disk full
			return fmt.Errorf("%w: %w", store.ErrFull, err)
		case "XX001", "XX002": // data corrupted, index corrupted
			return fmt.Errorf("%w: %w: restore a backup of the database", store.ErrDamaged, err)
		}
		return fmt.Errorf("PostgreSQL: %w", err)
	}
	if err.Error() == "closed pool" {
		return fmt.Errorf("PostgreSQL: %w", store.ErrClosed)
	}
	return fmt.Errorf("PostgreSQL: %w", err)
}

type reader struct {
	ctx    context.Context // of the transaction, as is the reader itself
	tx     pgx.Tx
	failed error // the first; the transaction is of no use any more
}

func (r *reader) fail(err error) error {
	if r.failed == nil {
		r.failed = err
	}
	return explain(err)
}

func (r *reader) Get(key []byte) ([]byte, bool, error) {
	var value []byte
	err := r.tx.QueryRow(r.ctx, "SELECT value FROM twinhull_records WHERE key = $1", some(key)).Scan(&value)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, r.fail(err)
	}
	return value, true, nil
}

// some is a key that is not NULL.
func some(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// The rows from a key on: as many as asked for, and of those as many as have fewer
// bytes before them than a page may have.
const (
	pageBegin = `
SELECT key, value, n FROM (
	SELECT key, value, count(*) OVER () AS n,
		coalesce(sum(octet_length(value)) OVER (ORDER BY key ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS before
	FROM (SELECT key, value FROM twinhull_records WHERE key >= $1`
	pageEnd = ` ORDER BY key LIMIT $2) page
) sized WHERE before < $3 ORDER BY key`
	page        = pageBegin + pageEnd
	pageBounded = pageBegin + " AND key < $4" + pageEnd
)

// behind is the least key that is greater than all with the prefix; nil: none is.
func behind(prefix []byte) []byte {
	for n := len(prefix); n > 0; n-- {
		if prefix[n-1] != 0xff {
			b := append([]byte(nil), prefix[:n]...)
			b[n-1]++
			return b
		}
	}
	return nil
}

func (r *reader) Scan(prefix, after []byte) iter.Seq2[store.Record, error] {
	return func(yield func(store.Record, error) bool) {
		from, end := overlay.First(prefix, after), behind(prefix)
		for limit := firstPage; ; limit = min(4*limit, largestPage) {
			args := []any{some(from), limit, int64(pageBytes)}
			query := page
			if end != nil {
				query, args = pageBounded, append(args, end)
			}
			// All of the page before any of it: f may ask for something else.
			rows, _ := r.tx.Query(r.ctx, query, args...) // the error is told by CollectRows, too
			n := 0
			recs, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (rec store.Record, err error) {
				err = row.Scan(&rec.Key, &rec.Value, &n)
				return rec, err
			})
			if err != nil {
				yield(store.Record{}, r.fail(err))
				return
			}
			for _, rec := range recs {
				if !yield(rec, nil) {
					return
				}
			}
			if n < limit && len(recs) == n {
				return
			}
			from = overlay.First(nil, recs[len(recs)-1].Key)
		}
	}
}
