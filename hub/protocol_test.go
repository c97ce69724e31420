// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/push-it/pushit/hub/internal/presence"
	"github.com/push-it/pushit/internal/jsontext"
)

// A fixture is one entry of testdata/frames.json. PROTOCOL.md describes them under
// "Fixtures".
type fixture struct {
	Rule, Name, Direction string

	// to server
	Send       *string
	SendBase64 []byte
	Expect     struct {
		Refused, Kind, UUID, To string
		AgentID                 string `json:"agentId"`
		Credentials, Data       string
		Echo, History           *bool // only false is written
	}

	// to agent
	Made struct {
		By, Channel, UUID, To string
		Position, Before      string
		Recovered             *bool
		Why                   string // it is not recovered
		AgentID               string `json:"agentId"`
		Data                  *string
		Batch                 *struct {
			Number                uint64
			Count                 int
			Listed                bool
			Reset                 bool
			Joined, Left, Changed []presence.View
		}
		Members   []presence.View
		Settles   int // ms
		CloseCode CloseCode
		Refusal   *struct {
			Code              Code
			Reason            string
			Retry             *bool
			RetryMicroseconds int64
		}
	}
	Receive string

	// channel, pattern, id
	Text  string
	Valid bool

	// match
	Pattern, Channel string
	Matches          bool

	// session, see TestSessionsOfTheFixtures
	Gates json.RawMessage
	Steps []struct {
		Send, Receive        string
		Publish, Gates, Told json.RawMessage
		Wait                 int
		Lost, Nothing        bool
	}
}

func TestFixtures(t *testing.T) {
	protocol := readProtocol(t)
	for _, f := range readFixtures(t) {
		t.Run(f.Rule+" "+f.Direction+": "+f.Name, func(t *testing.T) {
			if !strings.Contains(protocol, anchor(f.Rule)) {
				t.Errorf("PROTOCOL.md has no %s", f.Rule)
			}
			switch f.Direction {
			case "to server":
				f.toServer(t)
			case "to agent":
				f.toAgent(t)
			case "channel":
				f.wantValid(t, CheckName(f.Text, MaxNameLength))
			case "pattern":
				f.wantValid(t, CheckPattern(f.Text, MaxNameLength))
			case "id":
				_, r := frameID(nil, "uuid", jsontext.AppendString(nil, f.Text))
				f.wantValid(t, r)
			case "match":
				f.match(t)
			case "session":
				f.session(t)
			default:
				t.Errorf("no such direction")
			}
		})
	}
}

// session checks the frames of a session one by one; hub_test holds it.
func (f *fixture) session(t *testing.T) {
	t.Helper()
	for _, step := range f.Steps {
		if step.Send != "" {
			checkFromAgent(t, step.Send)
		}
		if step.Receive != "" {
			checkStrict(t, []byte(step.Receive))
		}
	}
}

func readFixtures(t *testing.T) []fixture {
	t.Helper()
	text, err := os.ReadFile("testdata/frames.json")
	if err != nil {
		t.Fatal(err)
	}
	var all []fixture
	d := json.NewDecoder(strings.NewReader(string(text)))
	d.DisallowUnknownFields()
	if err := d.Decode(&all); err != nil {
		t.Fatal(err)
	}
	return all
}

func (f *fixture) wantValid(t *testing.T, r *Refusal) {
	t.Helper()
	if (r == nil) != f.Valid {
		t.Errorf("%.80q: %v, want valid = %v", f.Text, r, f.Valid)
	}
}

func (f *fixture) match(t *testing.T) {
	t.Helper()
	if CheckPattern(f.Pattern, MaxNameLength) != nil || CheckName(f.Channel, MaxNameLength) != nil {
		t.Fatal("not a pattern and a name")
	}
	got := f.Pattern == f.Channel
	if IsPattern(f.Pattern) {
		got = slices.Contains(slices.Collect(prefixesOf(f.Channel)), patternPrefix(f.Pattern))
	}
	if got != f.Matches {
		t.Errorf("%v, want %v", got, f.Matches)
	}
}

// A meaning is what the readers of this package make of a frame before any
// agent, limit or gate comes into play.
type meaning struct {
	kind, uuid, agentID, to, credentials, data string
	noEcho, noHistory                          bool
}

func frameMeaning(frame []byte) (m meaning, r *Refusal) {
	in, r := decodeFrame(frame)
	m = meaning{uuid: in.uuid, agentID: in.agentID, noEcho: in.noEcho, noHistory: in.noHistory}
	if r != nil {
		return m, r
	}
	switch in.channel {
	case metaConnect:
		m.kind = "connect"
		if !in.hasAgentID {
			return m, refuse(CodeInvalid, "agentId is missing")
		}
		credentials, r := metaCredentials(in.data)
		m.credentials = string(credentials)
		return m, r
	case metaSubscribe, metaUnsubscribe:
		m.kind = strings.TrimPrefix(in.channel, "/meta/")
		if m.to, r = metaChannel(in.data); r != nil {
			return m, r
		}
		if in.channel == metaSubscribe {
			req, r := metaRecovery(in.data)
			if r != nil {
				return m, r
			}
			if _, r = metaWatches(in.data); r != nil {
				return m, r
			}
			if req.isSet() {
				m.data = string(in.data)
			}
		}
		return m, CheckPattern(m.to, MaxNameLength)
	case metaPresence:
		m.kind = "presence"
		if m.to, r = metaChannel(in.data); r != nil {
			return m, r
		}
		if IsPattern(m.to) {
			return m, noPatternPresence
		}
		if _, r = metaPresenceRequest(in.data); r != nil {
			return m, r
		}
		return m, CheckName(m.to, MaxNameLength)
	case metaHistory:
		m.kind, m.data = "history", string(in.data)
		if m.to, r = metaChannel(in.data); r != nil {
			return m, r
		}
		if _, r = metaPage(in.data); r != nil {
			return m, r
		}
		return m, CheckPattern(m.to, MaxNameLength)
	case metaPing:
		m.kind = "ping"
		return m, nil
	default:
		m.kind, m.to, m.data = "publish", in.channel, "null"
		if in.data != nil {
			m.data = string(in.data)
		}
		return m, CheckName(in.channel, MaxNameLength)
	}
}

func (f *fixture) toServer(t *testing.T) {
	t.Helper()
	frame := f.SendBase64
	if f.Send != nil {
		frame = []byte(*f.Send)
	}
	got, r := frameMeaning(frame)
	if f.Expect.Refused != "" {
		if r == nil {
			t.Fatalf("%s: accepted", frame)
		}
		if string(r.Code) != f.Expect.Refused || orUnknown(got.uuid) != f.Expect.UUID {
			t.Errorf("%s: %v with uuid %q, want %s with %q", frame, r, orUnknown(got.uuid), f.Expect.Refused, f.Expect.UUID)
		}
		return
	}
	if r != nil {
		t.Fatalf("%s: refused: %v", frame, r)
	}
	e := f.Expect
	if want := (meaning{e.Kind, e.UUID, e.AgentID, e.To, e.Credentials, e.Data, e.Echo != nil, e.History != nil}); got != want {
		t.Errorf("%s: %+v, want %+v", frame, got, want)
	}
}

func (f *fixture) toAgent(t *testing.T) {
	t.Helper()
	var r *Refusal
	if m := f.Made.Refusal; m != nil {
		r = &Refusal{m.Code, m.Reason, time.Duration(m.RetryMicroseconds) * time.Microsecond}
		if m.Retry != nil {
			r.Retry = NoRetry
		}
	}
	var got []byte
	switch m := f.Made; m.By {
	case "message":
		got = appendMessage(nil, m.Channel, m.UUID, []byte(*m.Data))
		if m.Position != "" {
			got = appendPosition(got, m.Position)
		}
	case "published":
		got = appendPublished(nil, m.UUID, m.Position)
	case "presence":
		b := presence.Batch(*m.Batch)
		got = appendPresence(nil, m.Channel, &b)
	case "members":
		in, invalid := decodeFrame([]byte(m.To))
		if invalid != nil {
			t.Fatal(invalid)
		}
		if got = appendSubscribed(nil, &in, nil); r != nil {
			got = appendNoPresence(got, r)
			break
		}
		c := presence.New(presence.Rule{Members: 1000})
		for _, v := range m.Members {
			c.Set(1, thisNode, v.ID, v.Tabs, v.Info, 1, false)
		}
		c.Take(1)
		got = appendSnapshot(got, c, 0, time.Duration(m.Settles)*time.Millisecond-1, true)
	case "unwatched":
		got = appendUnwatched(nil, m.Channel, r)
	case "error":
		got = appendError(nil, m.UUID, r)
	case "connected":
		got = appendConnected(nil, m.UUID, m.AgentID, time.Time{}, r)
	case "subscribed":
		in, invalid := decodeFrame([]byte(m.To))
		if invalid != nil {
			t.Fatal(invalid)
		}
		got = appendSubscribed(nil, &in, r)
		if m.Recovered != nil {
			got = appendRecovered(appendPosition(got, m.Position), *m.Recovered, m.Why)
		}
	case "missed":
		got = appendMissed(nil, m.UUID, m.Channel, m.Position, m.Why)
	case "history":
		in, invalid := decodeFrame([]byte(m.To))
		if invalid != nil {
			t.Fatal(invalid)
		}
		got = appendPage(nil, &in, page{messages: []*Message{NewMessage(m.Channel, m.UUID, []byte(*m.Data))}, before: m.Before, position: m.Position})
	case "close":
		got = appendClose(nil, m.CloseCode, r.Reason, r.Retry)
	default:
		t.Fatalf("nothing is made by %q", m.By)
	}
	if string(got) != f.Receive {
		t.Errorf("%s\nwant %s", got, f.Receive)
	}
	checkStrict(t, []byte(f.Receive))
}

func checkStrict(t *testing.T, frame []byte) {
	t.Helper()
	if r := jsontext.Check(frame); r != nil {
		t.Errorf("%s: %v", frame, r)
	}
}

func readProtocol(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// anchor is what a rule begins with.
func anchor(rule string) string {
	return fmt.Sprintf(`<a id="%s"></a>**%s.`, strings.ToLower(rule), rule)
}

var (
	protocolRule     = regexp.MustCompile(`<a id="r\d+"></a>\*\*R(\d+)\.`)
	protocolMention  = regexp.MustCompile(`\bR\d+\b`)
	protocolBlock    = regexp.MustCompile("(?s)```(\\w+)([^\n]*)\n(.*?)\n```")
	protocolCitation = regexp.MustCompile(`PROTOCOL\.md, (R\d+[^)]*)`)
)

// Rules keep their numbers, because other texts refer to them.
func TestRulesAreNumberedAndFound(t *testing.T) {
	protocol := readProtocol(t)
	last := 0
	for _, m := range protocolRule.FindAllStringSubmatch(protocol, -1) {
		n, err := strconv.Atoi(m[1])
		if err != nil || n <= last {
			t.Errorf("rule R%s stands after R%d", m[1], last)
		}
		last = n
	}
	for _, m := range protocolMention.FindAllString(protocol, -1) {
		if !strings.Contains(protocol, anchor(m)) {
			t.Errorf("PROTOCOL.md mentions %s, which it does not have", m)
		}
	}
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".go" {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range protocolCitation.FindAllStringSubmatch(string(text), -1) {
			for _, rule := range protocolMention.FindAllString(m[1], -1) {
				if !strings.Contains(protocol, anchor(rule)) {
					t.Errorf("%s cites %s, which PROTOCOL.md does not have", path, rule)
				}
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestProtocolExamples(t *testing.T) {
	counts := make(map[string]int)
	for _, m := range protocolBlock.FindAllStringSubmatch(readProtocol(t), -1) {
		kind, text := m[1]+m[2], m[3]
		counts[kind]++
		switch kind {
		case "json":
			checkStrict(t, []byte(text))
		case "json from agent":
			checkFromAgent(t, text)
		case "json from sockjs agent":
			checkFromAgent(t, sockJSStrings(t, text)...)
		case "json to agent":
			checkStrict(t, []byte(text))
		case "dialogue":
			checkDialogue(t, text)
		case "text": // a stream of events, which is not JSON
		default:
			t.Errorf("a block of kind %q:\n%s", kind, text)
		}
	}
	for _, kind := range []string{"json", "json from agent", "json from sockjs agent", "json to agent", "dialogue"} {
		if counts[kind] == 0 {
			t.Errorf("no block of kind %q was found", kind)
		}
	}
}

func checkFromAgent(t *testing.T, frames ...string) {
	t.Helper()
	for _, frame := range frames {
		if _, r := frameMeaning([]byte(frame)); r != nil {
			t.Errorf("%s: %v", frame, r)
		}
	}
}

func sockJSStrings(t *testing.T, text string) (frames []string) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &frames); err != nil {
		t.Errorf("%s: %v", text, err)
	}
	return frames
}

// checkDialogue checks that both sides' frames are valid, or refused with the stated
// words.
func checkDialogue(t *testing.T, text string) {
	t.Helper()
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		sent, fromAgent := strings.CutPrefix(line, "→ ")
		got, toAgent := strings.CutPrefix(line, "← ")
		switch {
		case strings.HasPrefix(line, "(") || got == "o" || got == "h":
		case fromAgent && strings.HasPrefix(sent, "["):
			checkFromAgent(t, sockJSStrings(t, sent)...)
		case fromAgent:
			if m, r := frameMeaning([]byte(sent)); r != nil && !strings.Contains(text, "\n← "+string(appendError(nil, m.uuid, r))) {
				t.Errorf("%s\nis not answered by %s", sent, appendError(nil, m.uuid, r))
			}
		case toAgent && strings.HasPrefix(got, "a["):
			for _, frame := range sockJSStrings(t, got[1:]) {
				checkStrict(t, []byte(frame))
			}
		case toAgent:
			checkStrict(t, []byte(got))
		default:
			t.Errorf("neither → nor ←: %s", line)
		}
	}
}

// Tables in PROTOCOL.md that repeat the code must agree with it.
func TestProtocolTables(t *testing.T) {
	protocol := readProtocol(t)
	for _, code := range []Code{CodeDenied, CodeUnavailable, CodeInvalid, CodeLimit, CodeExpired} {
		if !strings.Contains(protocol, fmt.Sprintf("| `%s` |", code)) {
			t.Errorf("code %s is missing", code)
		}
	}
	for _, code := range []CloseCode{
		CloseNormal, CloseInvalid, CloseDenied, CloseCut, CloseTimeout, CloseEndpoint, CloseTooLarge, CloseLimit, CloseSlow, CloseUnavailable,
	} {
		if !strings.Contains(protocol, fmt.Sprintf("| %d |", code)) {
			t.Errorf("close code %d is missing", code)
		}
	}
	l := DefaultLimits
	for _, row := range []string{
		fmt.Sprintf("| one frame | %d KiB |", l.MessageSize>>10),
		fmt.Sprintf("| credentials | %d KiB |", l.CredentialsSize>>10),
		fmt.Sprintf("| name or pattern | %d bytes |", l.NameLength),
		fmt.Sprintf("| depth of JSON † | %d |", jsontext.MaxDepth),
		fmt.Sprintf("| frames an agent sends | %d a second, %d s' worth at once |", l.FramesPerSecond, rateBurst),
		fmt.Sprintf("| publishes of an agent | %d a second, %d s' worth at once |", l.PublishesPerSecond, rateBurst),
		fmt.Sprintf("| subscriptions of an agent | %d |", l.ChannelsPerAgent),
		fmt.Sprintf("| channels and patterns with subscribers | %s |", thousands(l.Channels)),
		fmt.Sprintf("| what waits for an agent | %s frames, %d MiB |", thousands(l.QueueMessages), l.QueueBytes>>20),
		fmt.Sprintf("| sessions | %s |", thousands(l.Agents)),
		fmt.Sprintf("| sessions of an address | %s |", thousands(l.AgentsPerIP)),
		fmt.Sprintf("| sessions of an address that have not connected | %s |", thousands(l.UnconnectedPerIP)),
		fmt.Sprintf("| waiting for connect's answer † | %d frames, %d KiB |", maxHeld, maxHeldBytes>>10),
		fmt.Sprintf("| questions to gates of an agent † | %d at once |", maxQuestions),
		fmt.Sprintf("1 to %d of `A`", maxIDLength),
		fmt.Sprintf("within %v (*default*)", DefaultHandshake),
		fmt.Sprintf("Every %v (*default*)", DefaultHeartbeat),
		fmt.Sprintf("for %v minutes", repeatFor.Minutes()),
		fmt.Sprintf("At most %s are remembered of one user and %s in all", thousands(repeatsPerOne), thousands(repeatsPerHub)),
	} {
		row = strings.NewReplacer("10s ", "10 s ", "25s ", "25 s ").Replace(row)
		if !strings.Contains(protocol, row) {
			t.Errorf("PROTOCOL.md does not say: %s", row)
		}
	}
}

// thousands writes a limit with commas.
func thousands(n int) string {
	if n == Unlimited {
		return "unlimited"
	}
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
