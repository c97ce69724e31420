// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// briefly closes idle connections to a backend of an old configuration soon, not after
// Caddy's two minutes. Otherwise they would hide what a reload leaves behind.
const briefly = "\t\t\ttransport http {\n\t\t\t\tkeepalive 2s\n\t\t\t}\n"

// edited returns a Caddyfile of the server's with random changes, none of which takes a
// right from an agent. asked is the address of a backend that always approves.
func (s *server) edited(r *rand.Rand, asked string) []byte {
	pick := func(of ...string) string { return of[r.IntN(len(of))] }
	seconds := func(least, most int) string { return fmt.Sprintf("%ds", least+r.IntN(most-least)) }
	gates := pick(
		"",
		"default allow",
		fmt.Sprintf("default allow\n\t\tsubscribe cel `channel != \"secret%d\"`", r.IntN(100)),
		fmt.Sprintf("default allow\n\t\tsubscribe ask %s {\n\t\t\turi /%d\n"+briefly+"\t\t}", asked, r.IntN(100)),
		fmt.Sprintf("default allow\n\t\tconnect ask %s {\n\t\t\turi /%d\n"+briefly+"\t\t}", asked, r.IntN(100)),
		"default allow\n\t\tchannel reload {\n\t\t\tsubscribe allow\n\t\t\tdeliver cel `true`\n\t\t}",
		fmt.Sprintf("default deny\n\t\tconnect cel `agent.user == null || agent.user != \"eve%d\"`\n\t\tsubscribe allow\n\t\tpublish allow", r.IntN(100)),
	)
	options := []string{
		"heartbeat " + seconds(10, 20), "handshake " + seconds(5, 60), "grace " + seconds(30, 90),
		fmt.Sprintf("origins https://site%d.example", r.IntN(100)), gates,
	}
	limits := []string{
		"frames_per_second unlimited", "publishes_per_second unlimited", "agents_per_ip unlimited", "unconnected_per_ip unlimited",
		fmt.Sprintf("queue_messages %d", 256+r.IntN(4096)), fmt.Sprintf("queue_bytes %dKiB", 256+r.IntN(4096)),
		fmt.Sprintf("channels_per_agent %d", 1+r.IntN(8)), fmt.Sprintf("agents %d", 1+r.IntN(100_000)), fmt.Sprintf("name_length %d", 6+r.IntN(200)),
	}
	global := pick("", "\tgrace_period 5s\n", "\tservers {\n\t\ttimeouts {\n\t\t\tidle 3m\n\t\t}\n\t}\n")
	cert := pick("cert", "other")
	site := pick("", "\theader X-Frame-Options DENY\n", "\tencode\n", "\tlog {\n\t\toutput file "+s.dir+"/access.log\n\t}\n", "\trequest_header X-Site yes\n")
	more := pick("", "http://more.localhost:"+port(s.plain.addr)+" {\n\tpushit {\n\t\tname more\n\t\tdefault allow\n\t}\n}\n")
	text := strings.Replace(fmt.Sprintf(globalOptions, s.dir), "{\n", "{\n"+global, 1) +
		"(site) {\n" + site + "\tpushit /push {\n\t\tname bench\n\t\t" + strings.Join(options, "\n\t\t") +
		"\n\t\tlimits {\n\t\t\t" + strings.Join(limits, "\n\t\t\t") + "\n\t\t}\n\t}\n}\n" +
		"http://" + s.plain.addr + " {\n\timport site\n}\n" +
		"https://" + s.secure.addr + " {\n\ttls " + s.dir + "/" + cert + ".pem " + s.dir + "/" + cert + "-key.pem\n\timport site\n}\n" + more
	return []byte(text)
}

func port(addr string) string { return addr[strings.LastIndexByte(addr, ':')+1:] }
