// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package guards

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/push-it/pushit/guards/internal/placeholder"
	"github.com/push-it/pushit/guards/internal/upstream"
	"github.com/push-it/pushit/hub"
)

// kindOf returns the meaning of a status that does not approve. A redirect denies, because
// it leads to a login page. So does a 2xx, because the caller has not accepted it as an
// answer to the question.
func kindOf(status int) Kind {
	switch {
	case status == http.StatusRequestTimeout, status == http.StatusTooEarly, status == http.StatusTooManyRequests, status == 499:
		return Unavailable
	case 200 <= status && status < 500:
		return Deny
	default:
		return Unavailable
	}
}

// refusalOf returns the answer for an exchange that does not approve.
func refusalOf(x *upstream.Exchange) Answer {
	if err := x.Broken(); err != nil {
		return undecided(err)
	}
	kind := kindOf(x.Status())
	a := Answer{Kind: kind, Err: x.Failure()}
	if kind == Deny && x.Err == nil && x.Status()/100 == 4 {
		a.Reason = reasonIn(x.W)
	}
	if kind == Unavailable {
		a.Retry = upstream.RetryAfter(x.W.Header().Get("Retry-After"), time.Now())
	}
	return a
}

// refused returns the outcome of an exchange that does not approve.
func refused(x *upstream.Exchange) outcome {
	return outcome{Answer: refusalOf(x), noStore: x.NoStore(), size: 64}
}

// unavailable returns the outcome if a guard cannot decide.
func unavailable(err error) outcome { return outcome{Answer: undecided(err)} }

// undecided returns the answer of a guard that cannot decide because of err. It denies if
// the guard could not decide the next time either.
func undecided(err error) Answer {
	if _, ok := errors.AsType[placeholder.AmbiguousError](err); ok {
		return Answer{Kind: Deny, Err: err}
	}
	return Answer{Kind: Unavailable, Err: err}
}

// fieldsOf returns the named header fields of a request as guards learn them. A field
// without a value is learned as empty, so that the client's value does not count.
func fieldsOf(header http.Header, names []string) (fields []hub.HeaderField, size int) {
	for _, name := range names {
		f := hub.HeaderField{Name: name, Value: strings.Join(header.Values(name), ", ")}
		fields = append(fields, f)
		size += len(f.Name) + len(f.Value) + 32
	}
	return fields, size
}

// checkLearned refuses what must not be learned from a backend.
func checkLearned(l *Learned, size int) error {
	if size > upstream.MaxAnswer {
		return fmt.Errorf("the header fields copied from the answer have more than %d KiB", upstream.MaxAnswer>>10)
	}
	if placeholder.HasControl(l.User) {
		return errors.New("the user's name has a line break or a NUL in it")
	}
	for _, f := range l.Header {
		if placeholder.HasControl(f.Value) {
			return fmt.Errorf("the header field %s has a line break or a NUL in it", f.Name)
		}
	}
	return nil
}
