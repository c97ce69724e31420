// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package nats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/push-it/pushit/hub"
)

const (
	// apiPatience is how long one request to JetStream may take.
	apiPatience = time.Second
	// createPatience is that of requests that elect the servers of a stream.
	createPatience = 5 * time.Second
	// duplicatesFor is how long the stream knows the IDs of messages.
	duplicatesFor = 2 * time.Minute
	// leastCount is how many messages of a channel the stream keeps at least, so that a node
	// that was away for a moment finds what it has missed, also of channels without a
	// history.
	leastCount = 1000
	// quorumPatience is how long a leader may not hear of another server, which answers it once a
	// second at least.
	quorumPatience = 2500 * time.Millisecond
	// autoReplicas is how many servers have the stream if Options do not say it.
	autoReplicas = 3
)

// A streamInfo is what JetStream says of a stream.
type streamInfo struct {
	Created time.Time       `json:"created"`
	Config  json.RawMessage `json:"config"`
	State   struct {
		First uint64 `json:"first_seq"`
		Last  uint64 `json:"last_seq"`
	} `json:"state"`
	Cluster *struct {
		Name     string `json:"name"`
		Leader   string `json:"leader"`
		Replicas []struct {
			Active time.Duration `json:"active"` // since when the leader has not heard of it
		} `json:"replicas"` // without the leader
	} `json:"cluster"`
}

// isCutOff reports whether the leader, which has answered, has lost most of the servers that have
// the stream. It does not notice that itself for ten seconds or more, and meanwhile others may
// have another leader, and newer messages.
func (i *streamInfo) isCutOff() bool {
	if i.Cluster == nil {
		return false
	}
	there := 1
	for _, r := range i.Cluster.Replicas {
		if r.Active < quorumPatience {
			there++
		}
	}
	return there <= (1+len(i.Cluster.Replicas))/2
}

// isAlone reports whether NATS is a single server. Some versions of it have a leader in their
// answers, but no cluster. They let a stream have more replicas, and cannot open it any more
// when they start again.
func (i *streamInfo) isAlone() bool { return i.Cluster == nil || i.Cluster.Name == "" }

// epoch returns the name of the log: a stream that was deleted and made again has another
// one.
func (i *streamInfo) epoch() hub.Epoch {
	return hub.Epoch(strconv.FormatInt(i.Created.UnixNano(), 36))
}

// A streamConfig has the settings of a stream that matter here.
type streamConfig struct {
	Name          string        `json:"name"`
	Description   string        `json:"description,omitempty"`
	Subjects      []string      `json:"subjects"`
	Retention     string        `json:"retention"`
	Storage       string        `json:"storage"`
	Discard       string        `json:"discard"`
	MaxConsumers  int           `json:"max_consumers"`
	MaxMsgs       int64         `json:"max_msgs"`
	MaxBytes      int64         `json:"max_bytes"`
	MaxAge        time.Duration `json:"max_age"`
	MaxPerSubject int64         `json:"max_msgs_per_subject"`
	MaxMsgSize    int32         `json:"max_msg_size"`
	Replicas      int           `json:"num_replicas"`
	Duplicates    time.Duration `json:"duplicate_window"`
	AllowDirect   bool          `json:"allow_direct"`
	RePublish     *rePublish    `json:"republish"`
}

type rePublish struct {
	Source      string `json:"src,omitempty"`
	Destination string `json:"dest"`
	HeadersOnly bool   `json:"headers_only,omitempty"`
}

// An apiError is what JetStream says when it does not do something.
type apiError struct {
	Code        int    `json:"code"`
	ErrCode     int    `json:"err_code"`
	Description string `json:"description"`
}

func (e *apiError) Error() string { return fmt.Sprintf("JetStream: %s (%d)", e.Description, e.ErrCode) }

// Errors of JetStream, by ErrCode.
const (
	codeNoPeers         = 10005
	codeNoMessage       = 10037
	codeNotForAccount   = 10039
	codeStorage         = 10047
	codeNameUsed        = 10058
	codeNoStream        = 10059
	codeOverlap         = 10065
	codeNoReplicas      = 10074
	codeNotEnabled      = 10076
	codeSameIDInProcess = 10158
)

func isCode(err error, codes ...int) bool {
	e, ok := errors.AsType[*apiError](err)
	return ok && slices.Contains(codes, e.ErrCode)
}

// A setupError is one that lasts until somebody changes the settings here, or those of NATS.
type setupError struct{ err error }

func (e *setupError) Error() string { return e.err.Error() }
func (e *setupError) Unwrap() error { return e.err }

// call makes a request to JetStream's API.
func (b *Broker) call(within time.Duration, subject string, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(b.life, within)
	defer cancel()
	m, err := b.conn().RequestWithContext(ctx, b.names.api+subject, body)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return errNoJetStream
	case err != nil:
		return err
	}
	var failure struct {
		Error *apiError `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &failure); err != nil {
		return fmt.Errorf("reading the answer of JetStream: %w", err)
	}
	if failure.Error != nil {
		return failure.Error
	}
	return json.Unmarshal(m.Data, out)
}

var errNoJetStream = errors.New("JetStream does not answer: is it enabled on the NATS servers, and for this account? In the configuration of nats-server, write jetstream { store_dir: <path> }")

func (b *Broker) info() (*streamInfo, error) {
	var i streamInfo
	if err := b.call(apiPatience, "STREAM.INFO."+b.names.stream, nil, &i); err != nil {
		return nil, err
	}
	return &i, nil
}

// wanted returns the configuration that this node needs. Others may need more. auto says that
// it takes fewer replicas where there are not as many servers.
func (b *Broker) wanted() (c streamConfig, auto bool) {
	b.mu.Lock()
	keep, replicas, most := b.keep, b.options.Replicas, b.options.MaxBytes
	b.mu.Unlock()
	c = streamConfig{
		Name: b.names.stream, Description: "messages of pushit's hub " + b.options.Hub,
		Subjects: []string{b.names.published()}, Retention: "limits", Storage: "file", Discard: "old",
		MaxConsumers: -1, MaxMsgs: -1, MaxMsgSize: -1,
		MaxBytes: most, MaxAge: max(keep.TTL, duplicatesFor), MaxPerSubject: int64(max(keep.Count, leastCount)),
		Replicas: replicas, Duplicates: duplicatesFor, AllowDirect: true,
		RePublish: &rePublish{Source: b.names.published(), Destination: b.names.live()},
	}
	if auto = replicas == 0; auto {
		c.Replicas = autoReplicas
	}
	return c, auto
}

// create makes the stream. Another node may do so at the same time.
func (b *Broker) create() error {
	c, auto := b.wanted()
	var i streamInfo
	err := b.call(createPatience, "STREAM.CREATE."+c.Name, c, &i)
	if auto && isCode(err, codeNoReplicas) || auto && isCode(err, codeNoPeers) && time.Since(b.connectedSince()) > 2*createPatience {
		c.Replicas = 1
		err = b.call(createPatience, "STREAM.CREATE."+c.Name, c, &i)
	}
	switch {
	case err == nil:
		b.options.Log.Info("the stream of the hub was made", "stream", c.Name, "replicas", c.Replicas)
		return nil
	case isCode(err, codeNameUsed):
		return nil // another node has made it, with other limits
	case isCode(err, codeNoReplicas):
		return fmt.Errorf("%w (%w)", b.alone(c.Replicas), err)
	case isCode(err, codeStorage):
		return &setupError{fmt.Errorf("NATS has not as much storage left as the stream may take, %d bytes: write a smaller max_bytes, or give JetStream more (%w)", c.MaxBytes, err)}
	case isCode(err, codeOverlap):
		return &setupError{fmt.Errorf("another stream already takes the subject %s: remove it, or write another prefix (%w)", b.names.published(), err)}
	case isCode(err, codeNotForAccount, codeNotEnabled):
		return &setupError{fmt.Errorf("JetStream is not enabled for this account (%w)", err)}
	}
	return fmt.Errorf("making the stream %s: %w", c.Name, err)
}

// alone returns the error of a single server that is to have replicas. A hub that has the stream
// goes on with fewer.
func (b *Broker) alone(replicas int) error {
	err := fmt.Errorf("the stream cannot have %d replicas, because this is a single NATS server: write replicas 1, or leave replicas out", replicas)
	if b.log.epochNow() != "" {
		return err
	}
	return &setupError{err}
}

// widen sees to it that the stream of info is one of pushit, and keeps what this node needs.
// It never narrows anything: that would delete messages, and another node may need them.
func (b *Broker) widen(info *streamInfo) error {
	want, auto := b.wanted()
	var now streamConfig
	if err := json.Unmarshal(info.Config, &now); err != nil {
		return fmt.Errorf("reading the configuration of the stream %s: %w", want.Name, err)
	}
	if now.Retention != "limits" || now.Discard != "old" || len(now.Subjects) != 1 || now.Subjects[0] != want.Subjects[0] {
		return &setupError{fmt.Errorf("the stream %s has the subjects %q, the retention %s and discards %s messages, so it is not one of pushit: delete it, or write another prefix", want.Name, now.Subjects, now.Retention, now.Discard)}
	}
	changes := make(map[string]any)
	grow := func(name string, now, want int64, unlimited bool) {
		if !unlimited && now < want {
			changes[name] = want
		}
	}
	grow("max_bytes", now.MaxBytes, want.MaxBytes, now.MaxBytes <= 0)
	grow("max_msgs_per_subject", now.MaxPerSubject, want.MaxPerSubject, now.MaxPerSubject <= 0)
	grow("max_age", int64(now.MaxAge), int64(want.MaxAge), now.MaxAge == 0)
	grow("duplicate_window", int64(now.Duplicates), int64(want.Duplicates), false)
	if !now.AllowDirect {
		changes["allow_direct"] = true
	}
	if now.RePublish == nil || *now.RePublish != *want.RePublish {
		changes["republish"] = want.RePublish
	}
	if err := b.update(info, changes); err != nil {
		return err
	}
	switch {
	case now.Replicas >= want.Replicas:
	case info.isAlone():
		if !auto {
			return b.alone(want.Replicas)
		}
	case !auto || time.Since(b.scaled) >= time.Minute:
		b.scaled = time.Now()
		if err := b.update(info, map[string]any{"num_replicas": want.Replicas}); err != nil && !auto {
			return err // else NATS has fewer servers, or not all of them are there yet
		}
	}
	return nil
}

// update changes settings of the stream. Those that this version does not know stay as they
// are.
func (b *Broker) update(info *streamInfo, changes map[string]any) error {
	if len(changes) == 0 {
		return nil
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(info.Config, &all); err != nil {
		return err
	}
	for name, value := range changes {
		text, err := json.Marshal(value)
		if err != nil {
			return err
		}
		all[name] = text
	}
	var out streamInfo
	if err := b.call(createPatience, "STREAM.UPDATE."+b.names.stream, all, &out); err != nil {
		return fmt.Errorf("widening the stream %s: %w", b.names.stream, err)
	}
	info.Config = out.Config
	b.options.Log.Info("the stream of the hub was widened", "stream", b.names.stream, "changes", changes)
	return nil
}
