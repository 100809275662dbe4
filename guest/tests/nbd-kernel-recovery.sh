# about: a device on the kernel's NBD client outlives its server
# boot: shared
# timeout: 150
# modules: nbd

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
# Verified writes for so many seconds, in the background.
load() {
    say "fio for $1 s"
    fio --name=verify --filename="$node" --rw=randrw --bs=4k --ioengine=libaio --iodepth=16 --direct=1 --numjobs=4 \
        --size=8M --offset_increment=8M --verify=crc32c --verify_fatal=1 --time_based --runtime="$1" \
        --output=fio.txt &
    fio=$!
    sleep 2
}
finished() {
    wait "$fio" || fail "fio: $(cat fio.txt)"
    say "fio is content; latencies: $(grep -o ' clat ([a-z]*): .*max=[^,]*' fio.txt | head -n 2 | tr '\n' ';')"
}

start --request-timeout 4
load 8
tell drop 1
equal "$answer" ok takeover
tell drop 3
equal "$answer" ok takeover
finished

# The server is stopped until the kernel gives its connections up: it makes them anew.
load 11
kill -STOP "$server"
sleep 7
kill -CONT "$server"
finished
grep -q 'replaced .* dead connections' server.log || fail "nothing was mended: $(cat server.log)"
tell remove
equal "$answer" ok removal
wait "$server"

# The real thing: the server is killed, and the next one has its memory.
disk() { start --request-timeout 4 --name real --image /dev/shm/disk "$@"; }
disk
equal "$(nbd-kernel --find --name real)" "Some(0)" "the device of that name"
equal "$(nbd-kernel --find --name other)" None "the device of another name"
for wrong in "--name other" "--name real --size-mib 32" "--name real --block-size 512" "--name real"; do
    # shellcheck disable=SC2086
    if nbd-kernel --reattach 0 $wrong </dev/null 2>refused; then fail "not refused: $wrong"; fi
    cat refused
done
grep -q lives refused || fail "$(cat refused)"
load 14
kill -KILL "$server"
wait "$server" || true
for wrong in "--name other" "--name real --size-mib 32" "--name real --block-size 512"; do
    # shellcheck disable=SC2086
    if nbd-kernel --reattach 0 $wrong </dev/null 2>refused; then fail "not refused: $wrong"; fi
    cat refused
done
disk --reattach 0
sleep 4
kill -KILL "$server"
wait "$server" || true
sleep 2
disk --reattach 0
finished
tell remove
equal "$answer" ok removal
check cat server.log
rm /dev/shm/disk
