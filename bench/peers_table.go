// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// A peersRow is a row of the table. compared says that a second row has each figure divided
// by that of the bare server in the same round.
type peersRow struct {
	name     string
	value    func(peerFigures) float64
	compared bool
}

func peersRows(load peersLoad) []peersRow {
	return []peersRow{
		{fmt.Sprintf("KiB resident an idle subscriber, %d of them", load.many), func(f peerFigures) float64 { return f.memory / 1024 }, false},
		{fmt.Sprintf("us a delivery, %d subscribers, %d a second", load.few, peersFewRate), func(f peerFigures) float64 { return microseconds(f.few) }, true},
		{fmt.Sprintf("us a delivery, %d subscribers, %d a second", load.many, peersManyRate), func(f peerFigures) float64 { return microseconds(f.many) }, true},
		{fmt.Sprintf("us a delivery, bursts of %d", peersBurst), func(f peerFigures) float64 { return microseconds(f.joined) }, false},
		{fmt.Sprintf("flood, bursts of %d: thousand deliveries a second", peersFlood), func(f peerFigures) float64 { return f.floodsSecond / 1000 }, false},
		{fmt.Sprintf("flood, bursts of %d: us a delivery", peersFlood), func(f peerFigures) float64 { return microseconds(f.flood) }, false},
		{"us a connect + subscribe (bare: no subscribe)", func(f peerFigures) float64 { return microseconds(f.connect) }, false},
	}
}

// printPeers prints a row for each kind of figure and a column for each peer. The first peer
// is the bare server.
func printPeers(w io.Writer, all []peer, rounds [][]peerFigures, load peersLoad) error {
	table := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprint(table, "INFO ")
	for _, p := range all {
		fmt.Fprintf(table, "\t%s", p.name)
	}
	fmt.Fprintln(table)
	row := func(name string, value func(round []peerFigures, of int) float64) {
		fmt.Fprintf(table, "INFO %s", name)
		for i := range all {
			values := make([]float64, len(rounds))
			for j, round := range rounds {
				values[j] = value(round, i)
			}
			fmt.Fprintf(table, "\t%v", spreadOf(values))
		}
		fmt.Fprintln(table)
	}
	for _, r := range peersRows(load) {
		row(r.name, func(round []peerFigures, of int) float64 { return r.value(round[of]) })
		if r.compared {
			row("  times that of the bare server", func(round []peerFigures, of int) float64 { return r.value(round[of]) / r.value(round[0]) })
		}
	}
	return table.Flush()
}
