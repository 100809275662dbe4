# about: a device on the kernel's NBD client whose server is dead for good
# boot: shared
# timeout: 120
# allow-dmesg: (I/O error|EXT4-fs).*nbd0
# modules: nbd ext4

start() {
    coproc SERVER { exec nbd-kernel "$@" 2>>server.log; }
    # Bash forgets it when the process ends.
    server=$SERVER_PID
    read -r node <&"${SERVER[0]}" || fail "no node: $*: $(cat server.log)"
    say "node $node ($*)"
}
tell() {
    echo "$*" >&"${SERVER[1]}"
    read -r answer <&"${SERVER[0]}" || fail "no answer: $*: $(cat server.log)"
    say "$*: $answer"
}
# With a file system mounted.
start --name real
check mkfs.ext4 -q "$node"
check mount "$node" /mnt
cp /usr/bin/bash /mnt
kill -KILL "$server"
wait "$server" || true
equal "$(nbd-kernel --clear-stale 0 --name other)" "" "what was cleared for another"
if nbd-kernel --clear-stale 0 --name real 2>refused; then fail "it is mounted"; fi
grep -q 'mounted at /mnt' refused || fail "$(cat refused)"
umount /mnt || true
gone() { [ ! -e /sys/block/nbd0/pid ]; }
retry 10 gone
equal "$(nbd-kernel --clear-stale 0 --name real)" "" "what was left"

# Free.
start --name free
kill -KILL "$server"
wait "$server" || true
equal "$(nbd-kernel --clear-stale "${node#/dev/nbd}" --name free)" "cleared nbd device $node" "what was cleared"
if nbd-kernel --reattach 0 --name free </dev/null 2>refused; then fail "nothing is there"; fi
grep -q 'not connected' refused || fail "$(cat refused)"

# The time is over before a server comes: requests fail, and the device can still be taken over.
start --name late --dead-conn-timeout 2 --request-timeout 2
kill -KILL "$server"
wait "$server" || true
if timeout 20 dd if="$node" of=/dev/null bs=4k count=1 iflag=direct 2>refused; then fail "read from the dead"; fi
cat refused
start --reattach "${node#/dev/nbd}" --name late
check dd if="$node" of=/dev/null bs=1M iflag=direct status=none
tell remove
equal "$answer" ok removal
