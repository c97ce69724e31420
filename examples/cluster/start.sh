#!/bin/sh
# Starts three NATS servers, three Caddys and a load balancer, all on this machine. Run it
# in the top folder of the repository; Ctrl+C ends all of them. Then open
# http://localhost:8080 in two tabs: they are on different Caddys. Kill one of the
# processes whose numbers are printed, and go on talking.
#
# CADDY and NATS_SERVER are programs; without them, they are built.
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
	go build -o "$CADDY" ./cmd/caddy
fi
if [ -z "${NATS_SERVER:-}" ]; then
	GOBIN=$dir go install github.com/nats-io/nats-server/v2@v2.15.3
	NATS_SERVER=$dir/nats-server
fi

for n in 1 2 3; do
	mkdir "$dir/nats-$n"
	cat >"$dir/nats-$n.conf" <<-END
		server_name: nats-$n
		listen: "127.0.0.1:422$n"
		jetstream { store_dir: "$dir/nats-$n" }
		cluster {
			name: pushit
			listen: "127.0.0.1:622$n"
			ping_interval: "1s"
			routes: ["nats://127.0.0.1:6221", "nats://127.0.0.1:6222", "nats://127.0.0.1:6223"]
		}
	END
	"$NATS_SERVER" -c "$dir/nats-$n.conf" >"$dir/nats-$n.log" 2>&1 &
	pids="$pids $!"
	echo "NATS server $n is process $!"
done
for n in 1 2 3; do
	PUSHIT_PORT=808$n PUSHIT_ADMIN="unix/$dir/admin-$n" PUSHIT_NODE="node-$n" \
		PUSHIT_NATS="nats://127.0.0.1:4221 nats://127.0.0.1:4222 nats://127.0.0.1:4223" \
		"$CADDY" run --config examples/cluster/Caddyfile >"$dir/caddy-$n.log" 2>&1 &
	pids="$pids $!"
	echo "Caddy $n is process $!"
done
"$CADDY" run --config examples/cluster/balancer.Caddyfile >"$dir/balancer.log" 2>&1 &
pids="$pids $!"
echo "The page is at http://localhost:8080 (logs in $dir)"
wait
