// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package token

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// How a JWK Set is fetched.
const (
	// setRefresh is the age at which a set is fetched again. It is also how long a
	// withdrawn key is still accepted.
	setRefresh = 10 * time.Minute
	// unknownKeyPause is the shortest time between two fetches for tokens with unknown
	// keys, because anybody can make such tokens.
	unknownKeyPause = time.Minute
	// fetchTimeout limits the time of a fetch, maxSet the bytes of its result.
	fetchTimeout = 10 * time.Second
	maxSet       = 1 << 20
	// minFetchPause and maxFetchPause limit the time between a failed fetch and the next
	// one. It doubles with each failure.
	minFetchPause, maxFetchPause = time.Second, time.Minute
)

// A Set is the result of one fetch. It is immutable.
type Set struct {
	keys []Key
	sum  [sha256.Size]byte // of its text
}

// A Source has the JWK Set of an address or a file. The set is fetched when it is first
// needed, and again when it is old, by one goroutine at a time. If a fetch fails, the
// previous set stays.
type Source struct {
	name  string // for errors and logs
	fetch func(context.Context) ([]byte, error)

	ctx    context.Context // of all fetches
	cancel context.CancelFunc
	wg     sync.WaitGroup // of the fetch in flight; Destruct waits for it

	mu       sync.Mutex    // guards the following
	set      *Set          // nil until the first was fetched
	fetched  time.Time     // when the set was last fetched
	err      error         // why the last fetch failed; nil if it did not
	failures int           // failed fetches since the last success
	notNow   time.Time     // no fetch before this time, because the last one failed
	unknown  time.Time     // the last fetch for an unknown key
	fetching chan struct{} // closed when the fetch in flight is over; nil if there is none
}

// NewSource returns a source that fetches its set with fetch. name is for errors and logs.
func NewSource(name string, fetch func(context.Context) ([]byte, error)) *Source {
	s := &Source{name: name, fetch: fetch}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// Destruct ends the fetch in flight.
func (s *Source) Destruct() error {
	s.mu.Lock()
	s.cancel() // no fetch begins after this
	s.err = errors.New("its configuration was unloaded")
	s.mu.Unlock()
	s.wg.Wait()
	return nil
}

// Sum returns a hash of the text of the set, or zero before the first fetch.
func (s *Source) Sum() (sum [sha256.Size]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.set != nil {
		sum = s.set.sum
	}
	return sum
}

// current returns the set. It waits only for the first fetch. If there is no set, retry
// says when to try again.
func (s *Source) current(ctx context.Context, log *slog.Logger) (set *Set, retry time.Duration, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.set != nil {
		if time.Since(s.fetched) >= setRefresh {
			s.startLocked(log)
		}
		return s.set, 0, nil
	}
	if err := s.awaitLocked(ctx, s.startLocked(log)); err != nil {
		return nil, 0, fmt.Errorf("%s: %w", s.name, err)
	}
	if s.set == nil {
		return nil, time.Until(s.notNow), fmt.Errorf("%s: %w", s.name, s.err)
	}
	return s.set, 0, nil
}

// newer returns a set that was fetched after asked, for a token whose key is in no older
// set. On an error, retry says when to try again.
func (s *Source) newer(ctx context.Context, asked time.Time, log *slog.Logger) (set *Set, retry time.Duration, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.fetched.Before(asked) {
		return s.set, 0, nil
	}
	started := s.fetching
	if started == nil {
		if retry := time.Until(s.unknown.Add(unknownKeyPause)); retry > 0 {
			return nil, retry, fmt.Errorf("%s: it does not have the token's key, and was fetched for another such token less than %s ago", s.name, unknownKeyPause)
		}
		if started = s.startLocked(log); started != nil {
			s.unknown = time.Now()
		}
	}
	if err := s.awaitLocked(ctx, started); err != nil {
		return nil, 0, fmt.Errorf("%s: %w", s.name, err)
	}
	if s.fetched.Before(asked) {
		return nil, time.Until(s.notNow), fmt.Errorf("%s: %w", s.name, s.err)
	}
	return s.set, 0, nil
}

// startLocked starts a fetch, unless one is in flight or the last one has just failed. It
// returns a channel that is closed when the fetch is over, or nil if there is none. The
// caller holds s.mu.
func (s *Source) startLocked(log *slog.Logger) chan struct{} {
	if s.fetching != nil || time.Now().Before(s.notNow) || s.ctx.Err() != nil {
		return s.fetching
	}
	s.fetching = make(chan struct{})
	s.wg.Go(func() {
		ctx, cancel := context.WithTimeout(s.ctx, fetchTimeout)
		defer cancel()
		set, err := s.load(ctx)
		s.loaded(set, err, log)
	})
	return s.fetching
}

// load fetches and parses the set. It recovers from panics, so that what others publish
// cannot end this process.
func (s *Source) load(ctx context.Context) (set *Set, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	text, err := s.fetch(ctx)
	if err != nil {
		return nil, err
	}
	keys, err := parseSet(text, false)
	return &Set{keys: keys, sum: sha256.Sum256(text)}, err
}

// loaded records the result of a fetch.
func (s *Source) loaded(set *Set, err error, log *slog.Logger) {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.fetching)
	s.fetching = nil
	s.err = err
	if err != nil {
		pause := maxFetchPause
		if s.failures < 6 { // 2^6 s is more than a minute
			pause = minFetchPause << s.failures
		}
		s.failures++
		s.notNow = time.Now().Add(pause)
		if s.set != nil && s.ctx.Err() == nil {
			// Log it, because no answer shows it: the previous keys still work.
			log.Warn("could not fetch the key set; using the previous one", "jwks", s.name, "fetched", s.fetched, "error", err)
		}
		return
	}
	s.failures, s.notNow = 0, time.Time{}
	s.fetched = time.Now()
	if s.set == nil || s.set.sum != set.sum { // an equal set keeps verified tokens valid
		s.set = set
	}
}

// awaitLocked waits until a fetch is over. The caller holds s.mu, which is released while
// it waits.
func (s *Source) awaitLocked(ctx context.Context, over <-chan struct{}) error {
	if over == nil {
		return nil
	}
	s.mu.Unlock()
	defer s.mu.Lock()
	select {
	case <-over:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Sources has the sources of addresses. They outlive reloads, so that users stay connected
// if an address does not answer during a reload.
var Sources = caddy.NewUsagePool()

// AddressSource returns the source of an address. Release it with Sources.Delete.
func AddressSource(address string) (*Source, error) {
	source, _, err := Sources.LoadOrNew(address, func() (caddy.Destructor, error) {
		name := address
		if u, err := url.Parse(address); err == nil {
			name = u.Redacted()
		}
		client := newClient()
		return NewSource(name, func(ctx context.Context) ([]byte, error) { return fetchSet(ctx, client, address) }), nil
	})
	if err != nil {
		return nil, err
	}
	return source.(*Source), nil
}

// FileSource reads a file and returns its source.
func FileSource(path string) (*Source, error) {
	s := NewSource(path, func(context.Context) ([]byte, error) { return ReadFile(path) })
	set, err := s.load(s.ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	s.set, s.fetched = set, time.Now()
	return s, nil
}

// ReadFile reads a file of limited size. Errors name the file.
func ReadFile(path string) ([]byte, error) {
	f, err := os.Open(path) //nolint:gosec // G304: the operator names it
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // it was only read
	text, err := readBounded(f)
	if err != nil {
		return nil, fmt.Errorf("%s %w", path, err)
	}
	return text, nil
}

// newClient returns a client that keeps no connections, because it is used every few
// minutes. It does not follow redirects from https to http.
func newClient() *http.Client {
	return &http.Client{
		Timeout: fetchTimeout,
		Transport: &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DisableKeepAlives:      true,
			MaxResponseHeaderBytes: 64 << 10,
		},
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if len(via) > 3 {
				return errors.New("too many redirects")
			}
			if via[0].URL.Scheme == "https" && r.URL.Scheme != "https" {
				return errors.New("redirected from https to " + r.URL.Scheme)
			}
			return nil
		},
	}
}

func fetchSet(ctx context.Context, client *http.Client, address string) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Accept", "application/jwk-set+json, application/json")
	r.Header.Set("User-Agent", "pushit")
	resp, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // what it brought is complete, or not, before
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the answer was %s", resp.Status)
	}
	return readBounded(resp.Body)
}

func readBounded(r io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxSet+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxSet {
		return nil, fmt.Errorf("is larger than %d bytes", maxSet)
	}
	return text, nil
}
