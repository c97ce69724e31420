// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

func TestParseOrigin(t *testing.T) {
	for in, want := range map[string]string{
		"https://example.com":             "https://example.com",
		"HTTPS://Example.COM":             "https://example.com",
		"https://example.com:443":         "https://example.com",
		"http://example.com:80":           "http://example.com",
		"http://example.com:443":          "http://example.com:443",
		"https://example.com:8443":        "https://example.com:8443",
		"http://localhost:3000":           "http://localhost:3000",
		"http://127.0.0.1:8080":           "http://127.0.0.1:8080",
		"https://[2001:DB8::1]":           "https://[2001:db8::1]",
		"https://[2001:db8:0:0::1]:443":   "https://[2001:db8::1]",
		"https://[::ffff:1.2.3.4]:1":      "https://[::ffff:1.2.3.4]:1",
		"https://[::ffff:102:304]:1":      "https://[::ffff:1.2.3.4]:1",
		"chrome-extension://abcdef":       "chrome-extension://abcdef",
		"capacitor://localhost":           "capacitor://localhost",
		"https://xn--bcher-kva.example":   "https://xn--bcher-kva.example",
		"https://under_score.example.com": "https://under_score.example.com",

		"":                                    "",
		"null":                                "",
		"*":                                   "",
		"example.com":                         "",
		"//example.com":                       "",
		"://example.com":                      "",
		"https:example.com":                   "",
		"https://":                            "",
		"https://example.com/":                "",
		"https://example.com/path":            "",
		"https://example.com?q":               "",
		"https://example.com#f":               "",
		"https://user@example.com":            "",
		"https://example.com.":                "",
		"https://.":                           "",
		"https://example.com:":                "",
		"https://example.com:0":               "",
		"https://example.com:0443":            "",
		"https://example.com:+443":            "",
		"https://example.com:65536":           "",
		"https://example.com:443:443":         "",
		"https://exa mple.com":                "",
		"https://example.com https://b":       "",
		"https://example.com, https://b":      "",
		"https://bücher.example":              "",
		"https://*.example.com":               "",
		"https://[::1":                        "",
		"https://::1":                         "",
		"https://[fe80::1%25eth0]":            "",
		"https://[fe80::1%eth0]":              "",
		"https://[1.2.3.4]":                   "",
		"https://[::1]x":                      "",
		"https://exam%70le.com":               "",
		"1http://example.com":                 "",
		"ht tp://example.com":                 "",
		"https://example.com\n":               "",
		"https://" + strings.Repeat("a", 600): "",
	} {
		if got, ok := parseOrigin(in); got != want || ok != (want != "") {
			t.Errorf("parseOrigin(%q) = %q, %v; want %q", in, got, ok, want)
		}
	}
}

func TestParseOriginsSaysWhatToWrite(t *testing.T) {
	for in, want := range map[string]string{
		"*":                         "write https://example.com",
		"https://*.example.com":     "listed one by one",
		"example.com":               "write https://example.com",
		"shop.example.com:8443/x":   "write https://shop.example.com:8443",
		"https://shop.example/":     "write https://shop.example",
		"http://shop.example/a?b":   "write http://shop.example",
		"https://me@shop.example":   "write https://shop.example",
		"https://bücher.example":    "begins with xn--",
		"https://shop.example:0":    "write https://example.com",
		"":                          "write https://example.com",
		"https://shop.example.com.": "scheme://host[:port]",
	} {
		_, err := ParseOrigins([]string{"https://good.example", in})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want it to say %q", in, err, want)
		}
	}
}

func TestOriginRule(t *testing.T) {
	listed, err := ParseOrigins([]string{"https://Friend.example:443", "http://localhost:3000"})
	if err != nil {
		t.Fatal(err)
	}
	withNull, err := ParseOrigins([]string{"null"})
	if err != nil {
		t.Fatal(err)
	}
	type headers = http.Header
	for _, tc := range []struct {
		name    string
		origins *Origins
		site    string // scheme://host
		header  headers
		cross   string
		allowed bool
	}{
		{"no browser", nil, "https://site.example", headers{}, "", true},
		{"typed in", nil, "https://site.example", headers{"Sec-Fetch-Site": {"none"}}, "", true},
		{"own page, no Origin", nil, "https://site.example", headers{"Sec-Fetch-Site": {"same-origin"}}, "", true},
		{"sibling, no Origin", nil, "https://site.example", headers{"Sec-Fetch-Site": {"same-site"}}, "", false},
		{"foreign, no Origin", listed, "https://site.example", headers{"Sec-Fetch-Site": {"cross-site"}}, "", false},
		{"unheard of, no Origin", nil, "https://site.example", headers{"Sec-Fetch-Site": {"whatever"}}, "", false},
		{"Sec-Fetch-Site twice", nil, "https://site.example", headers{"Sec-Fetch-Site": {"none", "cross-site"}}, "", false},

		{"own page", nil, "https://site.example", headers{"Origin": {"https://site.example"}}, "", true},
		{"own page, other case", nil, "https://Site.Example", headers{"Origin": {"https://site.example"}}, "", true},
		{"own port left out", nil, "https://site.example:443", headers{"Origin": {"https://site.example"}}, "", true},
		{"own port written", nil, "http://site.example", headers{"Origin": {"http://site.example:80"}}, "", true},
		{"own IPv6", nil, "http://[::1]:8080", headers{"Origin": {"http://[0:0::1]:8080"}}, "", true},
		{"other scheme", nil, "https://site.example", headers{"Origin": {"http://site.example"}}, "", false},
		{"other port", nil, "https://site.example", headers{"Origin": {"https://site.example:8443"}}, "", false},
		{"port of the other scheme", nil, "https://site.example:80", headers{"Origin": {"https://site.example"}}, "", false},
		{"other host", nil, "https://site.example", headers{"Origin": {"https://evil.example"}}, "", false},
		{"subdomain", nil, "https://site.example", headers{"Origin": {"https://a.site.example"}}, "", false},
		{"own name in front", nil, "https://site.example", headers{"Origin": {"https://site.example.evil.example"}}, "", false},
		{"user part", nil, "https://site.example", headers{"Origin": {"https://evil.example@site.example"}}, "", false},
		{"trailing dot", nil, "https://site.example", headers{"Origin": {"https://site.example."}}, "", false},
		{"trailing dot on both", nil, "https://site.example.", headers{"Origin": {"https://site.example."}}, "", false},
		{"site without a host", nil, "https://", headers{"Origin": {"https://"}}, "", false},
		{
			"own page, but cross-site says the browser", nil, "https://site.example",
			headers{"Origin": {"https://site.example"}, "Sec-Fetch-Site": {"cross-site"}},
			"", true,
		}, // Origin is the stronger word

		{"listed", listed, "https://site.example", headers{"Origin": {"https://friend.example"}}, "https://friend.example", true},
		{"listed, with a port", listed, "https://site.example", headers{"Origin": {"http://localhost:3000"}}, "http://localhost:3000", true},
		{"listed, other port", listed, "https://site.example", headers{"Origin": {"http://localhost:3001"}}, "", false},
		{"listed, other scheme", listed, "https://site.example", headers{"Origin": {"http://friend.example"}}, "", false},
		{"not listed", listed, "https://site.example", headers{"Origin": {"https://foe.example"}}, "", false},
		{"null", listed, "https://site.example", headers{"Origin": {"null"}}, "", false},
		{"null, listed", withNull, "https://site.example", headers{"Origin": {"null"}}, "null", true},
		{"NULL, null listed", withNull, "https://site.example", headers{"Origin": {"NULL"}}, "", false},
		{"empty", listed, "https://site.example", headers{"Origin": {""}}, "", false},
		{"two", listed, "https://site.example", headers{"Origin": {"https://site.example", "https://friend.example"}}, "", false},
		{"two in one", listed, "https://site.example", headers{"Origin": {"https://site.example, https://friend.example"}}, "", false},
		{"no value at all", listed, "https://site.example", headers{"Origin": {}}, "", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			scheme, host, _ := strings.Cut(tc.site, "://")
			if cross, allowed := tc.origins.check(tc.header, scheme, host); cross != tc.cross || allowed != tc.allowed {
				t.Errorf("check = %q, %v; want %q, %v", cross, allowed, tc.cross, tc.allowed)
			}
		})
	}
}

// FuzzOrigin: if no origin is listed, only the site's own pages are allowed. net/url accepts
// each origin that parseOrigin accepts.
func FuzzOrigin(f *testing.F) {
	for _, s := range []string{
		"https://site.example", "https://site.example:443", "HTTPS://SITE.example", "null", "https://[::1]:80", "https://site.example.",
		"https://site.example@evil.example", "https://evil.example/https://site.example", "http://site.example:443", "https://site.example\x00",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, origin string) {
		key, ok := parseOrigin(origin)
		if again, okAgain := parseOrigin(key); ok && (!okAgain || again != key) {
			t.Errorf("%q is %q, and that is %q, %v", origin, key, again, okAgain)
		}
		var none *Origins
		if _, allowed := none.check(http.Header{"Origin": {origin}}, "https", "site.example"); allowed != (ok && key == "https://site.example") {
			t.Errorf("%q: allowed %v", origin, allowed)
		}
		if !ok {
			return
		}
		u, err := url.Parse(origin)
		if err != nil || u.Scheme+"://"+u.Host == "" || u.User != nil || u.Path != "" || u.RawQuery != "" || u.Fragment != "" {
			t.Fatalf("%q is taken for an origin; net/url: %+v, %v", origin, u, err)
		}
		if strings.HasPrefix(key, "https://") && !strings.Contains(origin, "[") {
			host, port := strings.ToLower(u.Hostname()), u.Port()
			want := "https://" + host
			if port != "" && port != "443" {
				want += ":" + port
			}
			if key != want {
				t.Errorf("%q = %q, want %q", origin, key, want)
			}
		}
	})
}

// Some libraries send the scheme of the WebSocket, and a port that needs none.
func TestOriginsOfWebSockets(t *testing.T) {
	var none *Origins
	for _, tc := range []struct {
		origin, scheme, host string
		want                 bool
	}{
		{"wss://example.com", "https", "example.com", true},
		{"wss://example.com:443", "https", "example.com", true},
		{"ws://example.com", "http", "example.com", true},
		{"ws://example.com:8080", "http", "example.com:8080", true},
		{"https://example.com:443", "https", "example.com", true},
		{"ws://example.com", "https", "example.com", false},
		{"wss://example.com", "http", "example.com", false},
		{"wss://example.com:8443", "https", "example.com", false},
		{"wss://evil.example", "https", "example.com", false},
		{"wsx://example.com", "https", "example.com", false},
	} {
		if _, got := none.check(http.Header{"Origin": {tc.origin}}, tc.scheme, tc.host); got != tc.want {
			t.Errorf("%s at %s://%s: allowed %t, want %t", tc.origin, tc.scheme, tc.host, got, tc.want)
		}
	}
}
