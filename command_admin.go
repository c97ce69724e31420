// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package pushit

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf16"

	"github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/push-it/pushit/hub"
)

// An adminCommand has what all commands need that ask a running server.
type adminCommand struct {
	address, config, adapter string
	hub, namespace           string
	json                     bool
	after                    string // of commands that list pages
	limit                    int    // likewise
}

const adminHelp = `

The command asks the admin endpoint of a running server: that at --address, or the one that
--config configures, or localhost:2019. The exit status is 0 if it was done, 1 if the server
refused or does not answer, and 2 if the command line is wrong.`

// adminCommands returns the commands that ask a running server.
func adminCommands() []*cobra.Command {
	return []*cobra.Command{
		hubsCommand(), channelsCommand(), agentsCommand(), publishCommand(), tailCommand(),
		disconnectCommand(), unsubscribeCommand(), reauthorizeCommand(),
	}
}

// command makes a command that asks a running server. run is called with its arguments.
func (a *adminCommand) command(use, short, long, example string, args cobra.PositionalArgs, run func(cmd *cobra.Command, args []string) error) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Long: short + ".\n" + long + adminHelp, Example: example}
	cmd.Args = func(cmd *cobra.Command, list []string) error { return notAsked(cmd, args(cmd, list)) }
	cmd.SetFlagErrorFunc(notAsked)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cmd.SilenceUsage = true
		err := run(cmd, args)
		if usage := (usageError{}); errors.As(err, &usage) {
			return notAsked(cmd, err)
		}
		return err
	}
	f := cmd.Flags()
	f.StringVar(&a.address, "address", "", "the address of the admin endpoint, such as localhost:2019 or unix//run/caddy/admin.socket")
	f.StringVarP(&a.config, "config", "c", "", "the configuration file that has the address")
	f.StringVarP(&a.adapter, "adapter", "a", "", "the config adapter, if that file is neither a Caddyfile nor JSON")
	f.StringVar(&a.hub, "hub", "", "the name of the hub, if there are several")
	f.StringVar(&a.namespace, "namespace", "", "the namespace")
	f.BoolVar(&a.json, "json", false, "write the answer of the server as JSON")
	return cmd
}

// A usageError is a mistake in the command line.
type usageError struct{ error }

// ask asks the server. The caller closes the body.
func (a *adminCommand) ask(method, name string, query url.Values, body any) (*http.Response, error) {
	address, err := caddycmd.DetermineAdminAPIAddress(a.address, nil, a.config, a.adapter)
	if err != nil {
		return nil, err
	}
	uri := adminPath + name
	if len(query) > 0 {
		uri += "?" + query.Encode()
	}
	var sent io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		sent = bytes.NewReader(text)
	}
	resp, err := caddycmd.AdminAPIRequest(address, method, uri, nil, sent)
	if err == nil {
		return resp, nil
	}
	// Caddy gives the body of an answer with an error as text.
	var said struct {
		Error string `json:"error"`
	}
	if i := strings.IndexByte(err.Error(), '{'); i >= 0 && json.Unmarshal([]byte(err.Error()[i:]), &said) == nil && said.Error != "" {
		return nil, errors.New(said.Error)
	}
	return nil, fmt.Errorf("asking the server at %s: %w", address, err)
}

// answer asks the server, and reads its answer into to. With --json it prints the answer and
// reports that it is done.
func (a *adminCommand) answer(cmd *cobra.Command, method, name string, query url.Values, body, to any) (done bool, err error) {
	resp, err := a.ask(method, name, query, body)
	if err != nil {
		return false, err
	}
	defer func() { _ = resp.Body.Close() }() // it was read
	if a.json {
		_, err := io.Copy(cmd.OutOrStdout(), resp.Body)
		return true, err
	}
	if err := json.NewDecoder(resp.Body).Decode(to); err != nil {
		return false, fmt.Errorf("the answer of the server cannot be read: %w", err)
	}
	return false, nil
}

// query returns the parameters that are not empty.
func (a *adminCommand) query(pairs ...string) url.Values {
	q := make(url.Values)
	pairs = append(pairs, "hub", a.hub, "namespace", a.namespace, "after", a.after, "limit", number(a.limit))
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			q.Set(pairs[i], pairs[i+1])
		}
	}
	return q
}

// table prints rows in columns. Rows come from outside, so they cannot control a terminal.
func table(cmd *cobra.Command, head []string, rows [][]string) error {
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	for _, row := range append([][]string{head}, rows...) {
		for i := range row {
			row[i] = cmp.Or(printable(row[i]), "-")
		}
		fmt.Fprintln(w, strings.TrimRight(strings.Join(row, "\t"), "\t"))
	}
	return w.Flush()
}

// printable returns text without control characters.
func printable(text string) string {
	quoted := strconv.Quote(text)
	if quoted == `"`+text+`"` {
		return text
	}
	return quoted
}

// printableJSON returns JSON on one line, and without characters that a terminal may take for
// commands, or that change how the line is shown: they are escaped.
func printableJSON(data []byte) string {
	var line bytes.Buffer
	if json.Compact(&line, data) != nil {
		return printable(string(data))
	}
	var b strings.Builder
	for _, r := range line.String() {
		if unicode.IsPrint(r) || r == '\u200c' || r == '\u200d' { // these two join letters and emoji
			b.WriteRune(r)
			continue
		}
		for _, unit := range utf16.Encode([]rune{r}) { // in a string: nothing else has such characters
			fmt.Fprintf(&b, `\u%04x`, unit)
		}
	}
	return b.String()
}

// more prints how to get the next page, and what is missing.
func more(cmd *cobra.Command, next string, silent []string) {
	if next != "" {
		fmt.Fprintf(cmd.ErrOrStderr(), "There are more: repeat with --after %s\n", strconv.Quote(next))
	}
	if len(silent) > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "These machines did not answer: %s\n", strings.Join(silent, ", "))
	}
}

func hubsCommand() *cobra.Command {
	var a adminCommand
	return a.command("hubs [flags]", "Lists the hubs of a server", "", "  caddy pushit hubs", cobra.NoArgs, func(cmd *cobra.Command, _ []string) error {
		var answer struct{ Hubs []hubListing }
		if done, err := a.answer(cmd, http.MethodGet, "hubs", nil, nil, &answer); done || err != nil {
			return err
		}
		var rows [][]string
		for _, h := range answer.Hubs {
			for _, n := range h.Nodes {
				agents := 0
				for _, count := range n.Agents {
					agents += count
				}
				rows = append(rows, []string{h.Hub, n.Node, strconv.Itoa(agents), strconv.Itoa(n.Subscriptions), strconv.Itoa(n.Channels), strconv.Itoa(n.Patterns), strconv.FormatUint(n.Published, 10), strconv.FormatUint(n.Delivered, 10), brokerState(&n)})
			}
			more(cmd, "", h.Silent)
		}
		return table(cmd, []string{"HUB", "NODE", "AGENTS", "SUBSCRIPTIONS", "CHANNELS", "PATTERNS", "PUBLISHED", "DELIVERED", "BROKER"}, rows)
	})
}

// brokerState says in few words how a machine is joined with others; "" if it is alone.
func brokerState(n *hub.NodeInfo) string {
	b := n.Broker
	switch {
	case b == nil:
		return ""
	case !b.Connected:
		return b.Engine + ", away"
	case n.Behind:
		return b.Engine + ", behind"
	}
	return fmt.Sprintf("%s, machines: %d", b.Engine, b.Nodes)
}

func channelsCommand() *cobra.Command {
	var a adminCommand
	cmd := a.command("channels [<prefix>] [flags]", "Lists channels and patterns that have subscribers",
		"With a prefix, only those whose names begin with it.",
		"  caddy pushit channels\n  caddy pushit channels stories/ --limit 1000 --json", cobra.MaximumNArgs(1),
		func(cmd *cobra.Command, args []string) error {
			var page hub.ChannelPage
			q := a.query("prefix", strings.Join(args, ""))
			if done, err := a.answer(cmd, http.MethodGet, "channels", q, nil, &page); done || err != nil {
				return err
			}
			var rows [][]string
			for _, c := range page.Channels {
				members := ""
				if c.Present {
					members = strconv.Itoa(c.Members)
				}
				rows = append(rows, []string{c.Channel, c.Namespace, strconv.Itoa(c.Subscribers), members, number(c.Messages)})
			}
			more(cmd, page.Next, page.Silent)
			return table(cmd, []string{"CHANNEL", "NAMESPACE", "SUBSCRIBERS", "MEMBERS", "KEPT"}, rows)
		})
	a.pageFlags(cmd)
	return cmd
}

func (a *adminCommand) pageFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&a.after, "after", "", "what the page follows, as the page before says")
	cmd.Flags().IntVar(&a.limit, "limit", 0, "the most that are listed: 1 to 1000 (default 100)")
}

// number returns the text of n; that of 0 is empty.
func number(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}

// selectorFlags are the flags that select agents.
func (a *adminCommand) selectorFlags(cmd *cobra.Command, s *hub.Selector, attributes *[]string) {
	f := cmd.Flags()
	f.StringVar(&s.Agent, "agent", "", "the agent with this uuid of the server")
	f.StringVar(&s.AgentID, "agent-id", "", "agents that chose this agentId")
	f.StringVar(&s.User, "user", "", "agents of this user")
	f.StringVar(&s.Channel, "channel", "", "agents that have subscribed to this channel or pattern")
	f.StringVar(&s.Address, "ip", "", "agents at this IP address, or in this network")
	f.StringVar(&s.Transport, "transport", "", "agents with this transport")
	f.StringArrayVar(attributes, "attribute", nil, "agents with this attribute, as name=value; repeatable")
}

func (a *adminCommand) selected(s *hub.Selector, attributes []string) error {
	s.Namespace = a.namespace
	for _, text := range attributes {
		if err := addAttribute(s, text); err != nil {
			return usageError{err}
		}
	}
	return nil
}

func agentsCommand() *cobra.Command {
	var a adminCommand
	var s hub.Selector
	var attributes []string
	cmd := a.command("agents [flags]", "Lists agents", "Agents must fit all flags that select.",
		"  caddy pushit agents --user alice\n  caddy pushit agents --channel news --ip 192.0.2.0/24 --json", cobra.NoArgs,
		func(cmd *cobra.Command, _ []string) error {
			if err := a.selected(&s, attributes); err != nil {
				return err
			}
			q := a.query("agent", s.Agent, "agent_id", s.AgentID, "user", s.User, "channel", s.Channel, "address", s.Address,
				"transport", s.Transport)
			if len(attributes) > 0 {
				q["attribute"] = attributes
			}
			var page hub.AgentPage
			if done, err := a.answer(cmd, http.MethodGet, "agents", q, nil, &page); done || err != nil {
				return err
			}
			var rows [][]string
			for _, i := range page.Agents {
				channels := strings.Join(i.Channels, " ")
				if left := i.Subscriptions - len(i.Channels); left > 0 {
					channels += fmt.Sprintf(" +%d", left)
				}
				rows = append(rows, []string{i.Agent, i.User, i.AgentID, i.Address, i.Transport, time.Since(i.Since).Round(time.Second).String(), channels})
			}
			more(cmd, page.Next, page.Silent)
			return table(cmd, []string{"AGENT", "USER", "AGENTID", "ADDRESS", "TRANSPORT", "SINCE", "CHANNELS"}, rows)
		})
	a.selectorFlags(cmd, &s, &attributes)
	a.pageFlags(cmd)
	return cmd
}

// maxStdin is the most that publish reads from its standard input.
const maxStdin = maxAdminBody

func publishCommand() *cobra.Command {
	var a adminCommand
	var uuid, except string
	var lost bool
	cmd := a.command("publish <channel> [<data>] [flags]", "Publishes a message",
		"The data is JSON. Without it, or with -, it comes from the standard input. No gate is asked.",
		"  caddy pushit publish news '{\"title\": \"It works.\"}'\n  date | jq -R . | caddy pushit publish clock", cobra.RangeArgs(1, 2),
		func(cmd *cobra.Command, args []string) error {
			var data []byte
			if len(args) == 2 && args[1] != "-" {
				data = []byte(args[1])
			} else {
				var err error
				if data, err = io.ReadAll(io.LimitReader(cmd.InOrStdin(), maxStdin+1)); err != nil {
					return err
				}
			}
			if data = bytes.TrimSpace(data); !json.Valid(data) || len(data) > maxStdin {
				return usageError{errors.New("the data must be JSON: write a text in quotes, such as '\"hello\"'")}
			}
			keep := !lost
			body := adminPublication{Hub: a.hub, Namespace: a.namespace, Channel: args[0], Data: data, UUID: uuid, Except: except, History: &keep}
			var receipt struct {
				UUID          string
				Subscriptions int
				Repeated      bool
			}
			if done, err := a.answer(cmd, http.MethodPost, "publish", nil, body, &receipt); done || err != nil {
				return err
			}
			if receipt.Repeated {
				fmt.Fprintf(cmd.OutOrStdout(), "%s was published before, and not again.\n", receipt.UUID)
				return nil
			}
			fmt.Fprintf(cmd.OutOrStdout(), "Published %s for %d subscriptions of this machine.\n", receipt.UUID, receipt.Subscriptions)
			return nil
		})
	cmd.Flags().StringVar(&uuid, "uuid", "", "the uuid of the message: with the same one it is published once")
	cmd.Flags().StringVar(&except, "except", "", "agents with this agentId do not get it")
	cmd.Flags().BoolVar(&lost, "no-history", false, "keep it out of the history")
	return cmd
}

func tailCommand() *cobra.Command {
	var a adminCommand
	var last, count int
	cmd := a.command("tail <channel...> [flags]", "Shows the messages of channels and patterns as they come",
		"It goes on until you end it with Ctrl-C. No gate is asked.",
		"  caddy pushit tail news\n  caddy pushit tail 'stories/*' --last 10 --json", cobra.MinimumNArgs(1),
		func(cmd *cobra.Command, args []string) error {
			q := a.query("last", number(last))
			q["channel"] = args
			resp, err := a.ask(http.MethodGet, "tail", q, nil)
			if err != nil {
				return err
			}
			stop := context.AfterFunc(cmd.Context(), func() { _ = resp.Body.Close() }) // ends a read that waits
			defer stop()
			defer func() { _ = resp.Body.Close() }() // nobody reads on
			return a.tail(cmd, resp.Body, count)
		})
	cmd.Flags().IntVar(&last, "last", 0, "begin with this many kept messages")
	cmd.Flags().IntVar(&count, "count", 0, "end after this many messages")
	return cmd
}

// tail prints messages, count at most if that is not 0.
func (a *adminCommand) tail(cmd *cobra.Command, from io.Reader, count int) error {
	lines := json.NewDecoder(from)
	for n := 0; count == 0 || n < count; n++ {
		var m struct {
			hub.Received
			Error string `json:"error"`
		}
		switch err := lines.Decode(&m); {
		case err == io.EOF:
			return errors.New("the server has ended the connection")
		case err != nil:
			return err
		case m.Error != "":
			return errors.New(m.Error)
		}
		if a.json {
			if err := json.NewEncoder(cmd.OutOrStdout()).Encode(m.Received); err != nil {
				return err
			}
			continue
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s  %s  %s\n", time.Now().Format(time.TimeOnly), printable(m.Channel), printableJSON(m.Data))
	}
	return nil
}

// change makes a command that changes something about the agents that its flags select. more
// adds what the command line says besides.
func (a *adminCommand) change(name, short, long, example, did string, more func(change *adminChange, args []string), args cobra.PositionalArgs) *cobra.Command {
	var s hub.Selector
	var attributes []string
	use, _, _ := strings.Cut(name, " ")
	cmd := a.command(name+" [flags]", short, long+" Agents must fit all flags that select. To mean all agents, write --all.", example, args,
		func(cmd *cobra.Command, args []string) error {
			if err := a.selected(&s, attributes); err != nil {
				return err
			}
			body := adminChange{Hub: a.hub, Selector: s}
			more(&body, args)
			var e hub.Effect
			if done, err := a.answer(cmd, http.MethodPost, use, nil, body, &e); done || err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %d\n", did, e.Agents)
			if len(e.Silent) > 0 {
				slices.Sort(e.Silent)
				return fmt.Errorf("these machines did not answer: %s", strings.Join(e.Silent, ", "))
			}
			return nil
		})
	a.selectorFlags(cmd, &s, &attributes)
	cmd.Flags().BoolVar(&s.All, "all", false, "all agents")
	return cmd
}

func disconnectCommand() *cobra.Command {
	var a adminCommand
	var reason, retry string
	cmd := a.change("disconnect", "Ends the sessions of agents", "Their connect gate decides about those that come back.",
		"  caddy pushit disconnect --user eve --retry never --reason 'your account was closed'\n  caddy pushit disconnect --attribute plan=free --retry 10m",
		"Sessions ended", func(change *adminChange, _ []string) { change.Reason, change.Retry = reason, retry }, cobra.NoArgs)
	cmd.Flags().StringVar(&reason, "reason", "", "what the agents are told")
	cmd.Flags().StringVar(&retry, "retry", "", `how long they stay away, such as 30s, or "never"; without it, they come back soon`)
	return cmd
}

func unsubscribeCommand() *cobra.Command {
	var a adminCommand
	var reason string
	cmd := a.change("unsubscribe <channel>", "Ends subscriptions to a channel or pattern", "The agents stay connected.",
		"  caddy pushit unsubscribe rooms/7 --user eve --reason 'you were removed from the room'",
		"Subscriptions ended", func(change *adminChange, args []string) { change.Channel, change.Reason = args[0], reason }, cobra.ExactArgs(1))
	_ = cmd.Flags().MarkHidden("channel") // the argument says it
	cmd.Flags().StringVar(&reason, "reason", "", "what the agents are told")
	return cmd
}

func reauthorizeCommand() *cobra.Command {
	var a adminCommand
	return a.change("reauthorize", "Asks the gates of agents again", "What a gate no longer allows ends.",
		"  caddy pushit reauthorize --user bob\n  caddy pushit reauthorize --all",
		"Agents asked about", func(*adminChange, []string) {}, cobra.NoArgs)
}
