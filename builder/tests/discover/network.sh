#!/bin/sh
# Machines on a network of their own: namespaces at a bridge, which is this script's.
# To be run as `unshare -Urnm sh network.sh DIR NODED SLIPWAY`. DIR/NAME is the root of a
# node of that name, where DIR/NAME.hostname says its hostname. What is seen goes into files
# in DIR; each wait ends with what is waited for.
set -eu
dir=$1 noded=$2 slipway=$3
cd "$dir"

die() { echo "$*" >&2; cat ./*.log >&2; exit 1; }
# Tries a command until it succeeds.
until_true() {
  what=$1; shift
  for _ in $(seq 60); do
    if "$@"; then return; fi
    sleep 0.5
  done
  die "not in time: $what"
}

ip link set lo up
ip link add br0 type bridge
ip link set br0 up
ip addr add 10.77.0.100/24 dev br0

# machine NAME NUMBER: a machine with eth0 at the bridge, 10.77.0.NUMBER, and its noded.
machine() {
  name=$1 number=$2
  unshare -nu sleep 3600 &
  holder=$!
  until_true "a namespace" namespace "$holder"
  ip link add "v$number" type veth peer name eth0 netns "$holder"
  ip link set "v$number" master br0 up
  in="nsenter -t $holder -n -u"
  $in hostname "$(cat "$name.hostname")"
  $in ip link set eth0 up
  $in ip addr add "10.77.0.$number/24" dev eth0
  $in "$noded" --root "$dir/$name" --listen "[::]:7443" 2> "$name.log" &
  eval "${name}_noded=$! ${name}_in='$in'"
  until_true "noded of $name" grep -q "listening on" "$name.log"
}
namespace() { [ "$(readlink "/proc/$1/ns/net")" != "$(readlink /proc/self/ns/net)" ]; }

# sees NAME WORD...: whether a search finds all these words and keeps what it found.
sees() {
  out=$1; shift
  "$slipway" --json discover --timeout 2 > "$out" 2> discover.log || die "discover"
  for word; do grep -qF "\"$word\"" "$out" || return 1; done
}
not() { ! "$@"; }

# 1. Two machines of the same name: the second takes another, and says so.
machine first 1
until_true "the first" sees one.json twin 10.77.0.1
machine second 2
until_true "both" sees two.json twin twin-2 10.77.0.1 10.77.0.2
grep -q "twin.local is another machine's" second.log || die "no word of the new name"
"$slipway" discover --timeout 2 > text 2> discover.log

# 2. The tools that own the protocol agree.
mkdir bus
cat > bus.conf <<EOF
<busconfig><type>session</type><listen>unix:path=$dir/bus/socket</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>
EOF
dbus-daemon --config-file=bus.conf --nofork 2> bus.log &
export DBUS_SYSTEM_BUS_ADDRESS="unix:path=$dir/bus/socket"
until_true "D-Bus" test -S bus/socket
# avahi HOSTNAME: a daemon that wants that name.
avahi() {
  printf '[server]\nhost-name=%s\nuse-ipv4=yes\nuse-ipv6=yes\nallow-interfaces=br0\n[rlimits]\n' "$1" > avahi.conf
  avahi-daemon -f "$dir/avahi.conf" --no-drop-root --no-chroot --no-rlimits --debug 2> avahi.log &
  avahi=$!
  until_true "avahi" grep -q "Server startup complete" avahi.log
}
mount -t tmpfs none /run
# Its user is this namespace's only one.
for file in passwd group; do
  printf 'root:x:0:0::/:/bin/sh\navahi:x:0:0::/:/bin/sh\n' > "$file"
  mount --bind "$file" "/etc/$file"
done
# It wants the first machine's name, and has to take a third.
avahi twin
avahi-browse -rtp _slipway._tcp > browse
avahi-resolve -4n twin.local > by-name
avahi-resolve -4n twin-2.local >> by-name
avahi-resolve -a 10.77.0.2 > by-address
grep -i "conflict" avahi.log > conflict || die "avahi has the name of a node"

# 3. A new address is told, and the old one taken back.
$second_in ip addr add 10.77.0.22/24 dev eth0
$second_in ip addr del 10.77.0.2/24 dev eth0
$second_in ip addr add 10.77.0.22/24 dev eth0 2> moved.log || true
moved() { sees moved.json twin-2 10.77.0.22 && not grep -qF '"10.77.0.2"' moved.json; }
until_true "the new address" moved

# 4. What is sent to a node alone gets no answer: nothing listens there.
cat > alone.bash <<'EOF'
exec 3<>/dev/udp/10.77.0.1/5353
query='\0\0\0\0\0\1\0\0\0\0\0\0\10_slipway\4_tcp\5local\0\0\14\0\1'
printf "$query" >&3
for _ in {1..50}; do sleep 0.1; printf "$query" >&3 || exit 0; done
exit 1
EOF
bash alone.bash 2> alone.log || die "something listens to those who are not on the network"

# 5. Who stops says goodbye.
avahi-browse -p _slipway._tcp > live &
until_true "both in avahi" grep -q '^+.*;twin;' live
kill -TERM "$first_noded"
until_true "the goodbye" grep -q '^-.*;twin;' live

# 6. A name that another has already is left to it.
kill "$avahi"
wait "$avahi" || true
avahi other
machine third 3
until_true "the third" sees three.json other-2 10.77.0.3
kill "$avahi" "$second_noded" "$third_noded"
