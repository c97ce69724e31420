#!/bin/sh
# Starts three Caddys with a NATS server in each, and a load balancer, all on this machine. Run
# it in the top folder of the repository; Ctrl+C ends all of them. Then open
# http://localhost:8080 in two tabs: they are on different Caddys. Kill one of the processes
# whose numbers are printed, and go on talking.
#
# CADDY is a program; without it, it is built.
set -eu

dir=$(mktemp -d)
pids=
end() {
	trap '' EXIT INT TERM
	# shellcheck disable=SC2086 # they are many
	[ -z "$pids" ] || kill $pids 2>/dev/null || true
	wait
	rm -rf "$dir"
}
trap end EXIT
trap 'exit 0' INT TERM

if [ -z "${CADDY:-}" ]; then
	CADDY=$dir/caddy
	go build -C contrib/embedded-nats -o "$CADDY" ./cmd/caddy
fi

PUSHIT_CLUSTER_SECRET=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export PUSHIT_CLUSTER_SECRET
for n in 1 2 3; do
	PUSHIT_PORT=808$n PUSHIT_ADMIN="unix/$dir/admin-$n" NODE="web$n" XDG_DATA_HOME="$dir/data-$n" \
		"$CADDY" run --config examples/cluster/embedded/Caddyfile >"$dir/caddy-$n.log" 2>&1 &
	pids="$pids $!"
	echo "Caddy $n is process $!"
done
"$CADDY" run --config examples/cluster/balancer.Caddyfile >"$dir/balancer.log" 2>&1 &
pids="$pids $!"
echo "The page is at http://localhost:8080 (logs in $dir)"
wait
