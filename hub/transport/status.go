// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"net/http"
)

var errNoStatus = &httpError{http.StatusNotFound, "There is no status page: the configuration has no debug gate."}

// serveStatus answers a request for the status page or one of its files. name is the path of
// the file below that of the page, with a slash. The gate debug is asked about each request.
func (e *Endpoint) serveStatus(w http.ResponseWriter, r *http.Request, name string) {
	switch {
	case e.Status == nil || !e.Policy.ShowsStatus():
		fail(w, errNoStatus)
		return
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		fail(w, errMethod)
		return
	}
	opening, refusal := e.Opening(r)
	opening.Transport = "debug"
	if refusal == nil {
		refusal = e.Hub.AuthorizeStatus(r.Context(), e.Policy, opening)
	}
	if refusal != nil {
		refuseProgram(w, r, refusal)
		return
	}
	e.Status(w, r, name, &opening)
}

// isNavigation reports whether the browser's window goes to another page, as after a click
// on a link. Another site's page may cause that, and sees nothing of the answer.
func isNavigation(r *http.Request) bool {
	h := r.Header
	return r.Method == http.MethodGet && h.Get("Origin") == "" &&
		h.Get("Sec-Fetch-Mode") == "navigate" && h.Get("Sec-Fetch-Dest") == "document"
}
