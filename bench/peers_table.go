// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// A peersRow is a row of the table. With compared, a second row has each figure divided by that
// of the bare server in the same round.
type peersRow struct {
	name     string
	value    func(peerFigures) float64
	compared bool
	// The limits of pushit: for its figures, and for those of the second row; 0 is none.
	most, least           float64
	mostTimes, leastTimes float64
}

// peersRows returns the rows. Limits for times and rates are those of a machine on which the
// bare server takes 6 us for a delivery, 3.2 us in a flood and 94 us for a connection. The limits
// for the second rows say the same of any machine.
func peersRows(load peersLoad) []peersRow {
	return []peersRow{
		{name: fmt.Sprintf("KiB resident an idle subscriber, %d of them", load.many), value: func(f peerFigures) float64 { return f.memory / 1024 }, most: 3.2},
		{name: fmt.Sprintf("us a delivery, %d subscribers, %d a second", load.few, peersFewRate), value: func(f peerFigures) float64 { return microseconds(f.few) }, compared: true, mostTimes: 1.05},
		{name: fmt.Sprintf("us a delivery, %d subscribers, %d a second", load.many, peersManyRate), value: func(f peerFigures) float64 { return microseconds(f.many) }, compared: true, mostTimes: 1.15},
		{name: fmt.Sprintf("us a delivery, bursts of %d", peersBurst), value: func(f peerFigures) float64 { return microseconds(f.joined) }, most: 0.5, compared: true, mostTimes: 0.086},
		{name: fmt.Sprintf("flood, bursts of %d: thousand deliveries a second", peersFlood), value: func(f peerFigures) float64 { return f.floodsSecond / 1000 }, least: 6000, compared: true, leastTimes: 19.6},
		{name: fmt.Sprintf("flood, bursts of %d: us a delivery", peersFlood), value: func(f peerFigures) float64 { return microseconds(f.flood) }, most: 0.2, compared: true, mostTimes: 0.063},
		{name: "us a connect + subscribe (bare: no subscribe)", value: func(f peerFigures) float64 { return microseconds(f.connect) }, most: mostConnect, compared: true, mostTimes: 2.13},
	}
}

// timesBare names a figure that is divided by that of the bare server.
const timesBare = "times that of the bare server"

// checkPeers compares the medians of pushit, the second peer, with its limits.
func checkPeers(r *report, rounds [][]peerFigures, load peersLoad) {
	for _, row := range peersRows(load) {
		figures, times := make([]float64, len(rounds)), make([]float64, len(rounds))
		for i, round := range rounds {
			figures[i] = row.value(round[1])
			times[i] = figures[i] / row.value(round[0])
		}
		check := func(most, least float64, unit string, values []float64) {
			if least > 0 {
				r.atLeast(least, unit, spreadOf(values).median, "pushit: %s", row.name)
			}
			if most > 0 {
				r.atMost(most, unit, spreadOf(values).median, "pushit: %s", row.name)
			}
		}
		check(row.most, row.least, "median", figures)
		check(row.mostTimes, row.leastTimes, timesBare, times)
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
