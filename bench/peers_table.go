// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// A peersRow is a row of the table. compared says that a second row has each figure divided
// by that of the bare server in the same round. The limits are those of pushit: for the second
// row, if there is one; 0 is none.
type peersRow struct {
	name        string
	value       func(peerFigures) float64
	compared    bool
	most, least float64
}

func peersRows(load peersLoad) []peersRow {
	return []peersRow{
		{name: fmt.Sprintf("KiB resident an idle subscriber, %d of them", load.many), value: func(f peerFigures) float64 { return f.memory / 1024 }, most: 3.2},
		{name: fmt.Sprintf("us a delivery, %d subscribers, %d a second", load.few, peersFewRate), value: func(f peerFigures) float64 { return microseconds(f.few) }, compared: true, most: 1.05},
		{name: fmt.Sprintf("us a delivery, %d subscribers, %d a second", load.many, peersManyRate), value: func(f peerFigures) float64 { return microseconds(f.many) }, compared: true, most: 1.15},
		{name: fmt.Sprintf("us a delivery, bursts of %d", peersBurst), value: func(f peerFigures) float64 { return microseconds(f.joined) }, most: 0.5},
		{name: fmt.Sprintf("flood, bursts of %d: thousand deliveries a second", peersFlood), value: func(f peerFigures) float64 { return f.floodsSecond / 1000 }, least: 6000},
		{name: fmt.Sprintf("flood, bursts of %d: us a delivery", peersFlood), value: func(f peerFigures) float64 { return microseconds(f.flood) }, most: 0.2},
		{name: "us a connect + subscribe (bare: no subscribe)", value: func(f peerFigures) float64 { return microseconds(f.connect) }, most: mostConnect},
	}
}

// timesBare names a figure that is divided by that of the bare server.
const timesBare = "times that of the bare server"

// checkPeers compares the medians of pushit, the second peer, with its limits.
func checkPeers(r *report, rounds [][]peerFigures, load peersLoad) {
	for _, row := range peersRows(load) {
		values := make([]float64, len(rounds))
		for i, round := range rounds {
			if values[i] = row.value(round[1]); row.compared {
				values[i] /= row.value(round[0])
			}
		}
		name, unit := "pushit: "+row.name, "median"
		if row.compared {
			unit = timesBare
		}
		if row.least > 0 {
			r.atLeast(row.least, unit, spreadOf(values).median, "%s", name)
		} else {
			r.atMost(row.most, unit, spreadOf(values).median, "%s", name)
		}
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
			row("  "+timesBare, func(round []peerFigures, of int) float64 { return r.value(round[of]) / r.value(round[0]) })
		}
	}
	return table.Flush()
}
