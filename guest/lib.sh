# What tests are written with. Sourced by guest/run, under `set -Eeuo pipefail`, in an empty directory.

# Files here are brought to target/guest/results/TEST/ on the host.
SAVED=/run/saved/$TEST

# Says what happens next, with the seconds since boot.
say() {
    local up
    read -r up _ </proc/uptime
    echo "[$up] $*"
}

# Says which lines of the test are being run.
at() {
    local frame
    for ((frame = 1; frame < ${#BASH_SOURCE[@]}; frame++)); do
        case ${BASH_SOURCE[frame]} in
            /guest/tests/*) echo "at $TEST.sh:${BASH_LINENO[frame - 1]}:" >&2 ;;
        esac
    done
}

# Ends the test.
fail() {
    at
    echo "FAILED: $*" >&2
    exit 1
}

# Runs a command, having said which.
check() {
    say "\$ $*"
    "$@"
}

# Tries a command until it succeeds: retry SECONDS COMMAND...
retry() {
    local limit=$1 end=$((SECONDS + $1))
    shift
    until "$@"; do
        if [ "$SECONDS" -ge "$end" ]; then fail "not in $limit s: $*"; fi
        sleep 0.1
    done
}

# Kills processes so that none does anything about the end of another: kill_together PID...
kill_together() {
    kill -STOP "$@"
    kill -KILL "$@"
}

# Demands an exit code: expect_exit CODE COMMAND...
expect_exit() {
    local want=$1 got=0
    shift
    say "\$ $* # expecting exit code $want"
    "$@" || got=$?
    if [ "$got" != "$want" ]; then fail "exit code $got, not $want: $*"; fi
}

# Demands two equal strings: equal GOT WANTED WHAT
equal() {
    if [ "$1" != "$2" ]; then fail "$3: '$1', not '$2'"; fi
}

# Writes noise, of which no page compresses: noise MEBIBYTES. An emulated processor would take a second for each new one.
noise() {
    local n
    [ -e noise ] || dd if=/dev/urandom of=noise bs=1M count=1 status=none
    for ((n = 0; n < $1; n++)); do cat noise; done
}

# Notes a figure: result KEY VALUE. They are lines of the file `results` on the host.
result() {
    say "result: $*"
    echo "$*" >>"$SAVED/results"
}

# Brings a file to the host: save FILE [NAME]
save() {
    cp -r "$1" "$SAVED/${2:-$(basename "$1")}"
}

# What a device's record says: record DEVICE KEY
record() {
    sed -n "s/^ *\"$2\": \"\{0,1\}\([^\",]*\)\"\{0,1\},\{0,1\}$/\1/p" "/run/uzram/$1/device.json" 2>/dev/null || :
}

# Kills a device's server or keeper: kill_of DEVICE pid|keeper
kill_of() {
    kill -KILL "$(record "$1" "$2")"
}

# Kills zram0's server and keeper so that neither can start the other.
kill_both() {
    local both
    both="$(record zram0 keeper) $(record zram0 pid)"
    # shellcheck disable=SC2086
    kill_together $both
    retry 10 no_process
}

# Kills a device's server at once or after a part of a second, and waits until another one serves: kill_server DEVICE
kill_server() {
    local old
    old=$(record "$1" pid)
    sleep "0.$((RANDOM % 10))$((RANDOM % 10))"
    kill -KILL "$old"
    retry 60 served_by_other "$1" pid "$old"
}

# Whether a device's server or keeper is not that process any more: served_by_other DEVICE pid|keeper PID
served_by_other() {
    local now
    now=$(record "$1" "$2")
    [ -n "$now" ] && [ "$now" != "$3" ]
}

# How often a device was attached to, as its newest server said: attached DEVICE
attached() {
    sed -n 's/.* serving .*attached=\([0-9]*\).*/\1/p' "/run/uzram/$1/log" | tail -n 1
}

# Demands that uzram has left nothing: no device, directory, node, process.
nothing_left() {
    equal "$(uzram list --noheadings 2>&1)" "" "the list of devices"
    equal "$(ls /run/uzram)" "" "the run directory"
    equal "$(ls /sys/class/ublk-char 2>/dev/null || :)" "" "ublk devices"
    equal "$(ls /dev/ublk[bc]* 2>/dev/null || :)" "" "nodes"
    retry 10 no_process
}

no_process() {
    [ -z "$(processes)" ]
}

# The numbers of uzram's processes, or those of one command, such as keep or serve: processes [COMMAND]
processes() {
    local dir words
    for dir in /proc/[0-9]*; do
        { mapfile -d '' words <"$dir/cmdline"; } 2>/dev/null || continue
        case ${words[0]-} in uzram | */uzram) ;; *) continue ;; esac
        if [ "${words[1]-}" = "${1-${words[1]-}}" ]; then echo "${dir#/proc/}"; fi
    done
}

# A parameter that the test was given, as in `cargo xtask guest NAME KEY=VALUE`: parameter KEY DEFAULT
parameter() {
    local word
    for word in $(</proc/cmdline); do
        case $word in "uzram.parameter.$1="*) echo "${word#*=}"; return ;; esac
    done
    echo "$2"
}

# Uses so many percent of the guest's memory with swap on a device of that size, every byte checked: swap_under_pressure
# SIZE PERCENT
swap_under_pressure() {
    local kept_free disk server keeper pid before total hog
    kept_free=$(sysctl -n vm.min_free_kbytes)
    # An emulated processor takes its time: the algorithm that needs least of it.
    disk=$(uzram create --size "$1" --swap --frontend ublk --algorithm lz4 2>warnings)
    equal "$(grep warning warnings || :)" "" "warnings of a server that may do everything"
    check cat /proc/swaps
    grep -q "^$disk " /proc/swaps || fail "$disk is no swap area"
    expect_exit 3 uzram remove zram0
    server=$(uzram list --noheadings --output pid)
    keeper=$(uzram list --noheadings --output keeper)
    for pid in $server $keeper; do
        equal "$(cat /proc/$pid/oom_score_adj)" -1000 "oom_score_adj of $pid"
        [ "$(awk '/VmLck/ { print $2 }' /proc/$pid/status)" -gt 1000 ] || fail "$pid is not locked"
        equal "$(awk '/VmSwap/ { print $2 }' /proc/$pid/status)" 0 "what is swapped out of $pid"
    done
    before=$(awk '/VmRSS/ { print $2 }' /proc/$server/status)
    say "server before: $before KiB resident"

    # An emulated processor takes half a millisecond to fault one page in: fault in 32.
    check sysctl -q vm.page-cluster=5
    total=$(awk '/MemTotal/ { print int($2 / 1024) }' /proc/meminfo)
    check memhog $((total * $2 / 100)) 1 &
    hog=$!
    while kill -0 $hog 2>/dev/null; do
        sleep 5
        awk '/MemFree|SwapFree/ { printf "%s %d MiB  ", $1, $2 / 1024 } END { print "" }' /proc/meminfo
    done
    wait $hog || fail "memhog failed"
    check uzram stat zram0
    equal "$(awk '/VmSwap/ { print $2 }' /proc/$server/status)" 0 "what was swapped out of the server"
    equal "$(uzram stat zram0 --json | grep -o '"failed_writes": *[0-9]*' | grep -o '[0-9]*$')" 0 "failed writes"
    # The hog is gone: its slots are discarded, and the memory goes back.
    check swapoff "$disk"
    check blkdiscard "$disk"
    sleep 2
    check uzram list
    check uzram remove zram0
    nothing_left
    equal "$(sysctl -n vm.min_free_kbytes)" "$kept_free" "vm.min_free_kbytes afterwards"
}
