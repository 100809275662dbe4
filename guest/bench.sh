# What the benchmarks of block devices are written with, beside lib.sh. Sourced by guest/tests/bench-*.sh.
#
# They save, for xtask/src/bench/:
#   data.kind       what the data is, in words
#   guest           the kernel and the machine, in words
#   runs            ROUND DEVICE OP BLOCK DEPTH JOBS SERVER_NS SWITCHES COMPRESS DECOMPRESS; SERVER_NS and SWITCHES of all
#                   threads of a device's server, the last two are nanoseconds of a call there (see stopwatch)
#   fio/            fio's JSON of each run, named after the first six of these
#   memory          WHEN DEVICE DATA MEM_USED_TOTAL ALL, bytes

DEVICES=()      # names, in order
declare -A NODE # NAME to /dev/...
declare -A UZRAM # NAME to uzram's own name; nothing for a kernel's device

SIZE=$(parameter size 128M)
# Half of every 512 bytes is noise, the other zeros: compressible by half, and cheap to compress, so that little of a
# request's time is the codec's. Buffers are filled once, or fio would be most of what is measured.
DATA=(--buffer_compress_percentage=50 --buffer_compress_chunk=512 --scramble_buffers=0)
mkdir "$SAVED/fio"
# Servers say here how long their algorithms take.
export UZRAM_STOPWATCH=$PWD/stopwatch
mkdir "$UZRAM_STOPWATCH"
echo "Linux $(uname -r)
$(nproc) CPUs, $(awk '/MemTotal/ { printf "%.1f", $2 / 1048576 }' /proc/meminfo) GiB" >"$SAVED/guest"
echo "fio's, half of every 512 bytes noise, half zeros" >"$SAVED/data.kind"

# A device of the kernel's zram: zram_device NAME ALGORITHM
zram_device() {
    DEVICES+=("$1")
    NODE[$1]=$(zramctl --find --size $SIZE --algorithm "$2")
}

# A device of ours: uzram_device NAME ALGORITHM [OPTIONS...]
uzram_device() {
    local name=$1 algorithm=$2
    shift 2
    DEVICES+=("$name")
    NODE[$name]=$(stopwatch create --size $SIZE --frontend ublk --algorithm "$algorithm" "$@")
    UZRAM[$name]=$(uzram list --noheadings --raw --output name,path | sed -n "s, ${NODE[$name]}\$,,p")
}

# A column of `uzram list`: of_device NAME COLUMN
of_device() {
    uzram list --noheadings --raw --bytes --output "name,$2" | sed -n "s/^${UZRAM[$1]} //p"
}

# Fills every device with data of its own, so that reads find what to decompress.
fill() {
    local name
    for name in "${DEVICES[@]}"; do
        say "filling $name (${NODE[$name]})"
        fio --name=fill --filename="${NODE[$name]}" --direct=1 --ioengine=libaio --iodepth=4 --rw=write --bs=128k \
            --refill_buffers=1 "${DATA[@]}" --output=fill.txt || fail "$(cat fill.txt)"
    done
}

# Nanoseconds on a CPU, and switches to another task, of all threads of a process: spent PID
spent() {
    awk 'FILENAME ~ /schedstat$/ { ns += $1 } /ctxt_switches/ { n += $2 } END { printf "%.0f %.0f", ns, n }' \
        /proc/"$1"/task/*/schedstat /proc/"$1"/task/*/status
}

# All devices in turn, from another one on in each round: cell ROUND SECONDS OP BLOCK DEPTH JOBS
cell() {
    local round=$1 seconds=$2 op=$3 block=$4 depth=$5 jobs=$6 n=${#DEVICES[@]} i name run server before after codec
    say "round $round: $op $block, depth $depth, $jobs job(s)"
    for ((i = 0; i < n; i++)); do
        name=${DEVICES[(i + round) % n]}
        run="$round $name $op $block $depth $jobs"
        server=${PID[$name]:-}
        before=(0 0) after=(0 0) codec="0 0"
        if [ "$server" ]; then
            # Not cp, which minds that the file is replaced meanwhile.
            cat "$UZRAM_STOPWATCH/$server" >before
            before=($(spent "$server"))
        fi
        fio --name=x --filename="${NODE[$name]}" --direct=1 --ioengine=libaio --rw="$op" --bs="$block" \
            --iodepth="$depth" --numjobs="$jobs" --group_reporting --time_based --runtime="${seconds}s" \
            --norandommap --randseed="$round" --clocksource=clock_gettime "${DATA[@]}" --lat_percentiles=1 \
            --output-format=json --output="$SAVED/fio/${run// /.}.json" || fail "fio: $run"
        if [ "$server" ]; then
            after=($(spent "$server"))
            codec=$(stopwatch between before "$UZRAM_STOPWATCH/$server") || fail "$run: the stopwatch"
        fi
        echo "$run $((after[0] - before[0])) $((after[1] - before[1])) $codec" >>"$SAVED/runs"
    done
}

# Resident bytes of a process that are its own or a file's: not its shared memory, which the image is counted by.
resident() {
    awk '/^Rss(Anon|File):/ { sum += $2 } END { printf "%.0f", sum * 1024 }' /proc/"$1"/status
}

# Allocated bytes of the memory files that a process has open, each counted once.
image() {
    local fd
    for fd in /proc/"$1"/fd/*; do
        case $(readlink "$fd") in /memfd:*) stat -L -c '%i %b %B' "$fd" ;; esac
    done | sort -u | awk '{ sum += $2 * $3 } END { printf "%.0f", sum }'
}

# What every device takes: memory WHEN
memory() {
    local name data used all image
    for name in "${DEVICES[@]}"; do
        if [ "${UZRAM[$name]:-}" ]; then
            read -r data used < <(of_device "$name" data,total)
            image=$(image "${PID[$name]}")
            all=$((image + $(resident "${PID[$name]}") + $(resident "${KEEPER[$name]}")))
        else
            read -r data _ used _ <"/sys/block/${NODE[$name]#/dev/}/mm_stat"
            all=$used
        fi
        echo "$1 $name $data $used $all" >>"$SAVED/memory"
    done
}

# After the last device: who serves them.
declare -A PID KEEPER
servers() {
    local name
    for name in "${DEVICES[@]}"; do
        if [ "${UZRAM[$name]:-}" ]; then
            PID[$name]=$(of_device "$name" pid)
            KEEPER[$name]=$(of_device "$name" keeper)
        fi
    done
}
