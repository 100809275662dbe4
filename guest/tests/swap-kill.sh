# about: server and keeper of a swap device are killed while half of the guest's memory is swapped out to it
# memory: 1G
# modules: ublk_drv
# timeout: 400

# The root file system and /run are tmpfs here: program, libraries, log and record are swapped out as well.
disk=$(uzram create --size 4G --swap --frontend ublk --algorithm lz4 2>warnings)
equal "$(grep warning warnings || :)" "" "warnings of a server that may do everything"
# A thread of the keeper that makes room by swapping out waits for a server, and the keeper may wait for that thread. The
# kernel's threads of a ring are not ours.
for task in /proc/"$(record zram0 keeper)"/task/*; do
    name=$(cat "$task/comm")
    # Of proc_pid_stat(5): flags (PF_MEMALLOC_NOIO) and policy (SCHED_RR).
    read -r flags policy <<<"$(awk '{ print $9, $41 }' "$task/stat")"
    case $name in iou-*) continue ;; esac
    [ $((flags & 0x80000)) != 0 ] || fail "the keeper's $name makes room by swapping out"
    equal "$policy" 2 "policy of the keeper's $name"
done
check sysctl -q vm.page-cluster=5
# Says where everybody waits, should it hang.
memhog watch 350 &
watch=$!
total=$(awk '/MemTotal/ { print int($2 / 1024) }' /proc/meminfo)
check memhog $((total * 3 / 2)) 1 &
hog=$!
while [ "$(awk '/SwapFree/ { print int($2 / 1024) }' /proc/meminfo)" -gt $((4096 - total / 2)) ]; do
    kill -0 $hog || fail "memhog ended early"
    sleep 0.2
done
# The server that is not the record's.
standby_of() {
    local pid
    for pid in $(processes serve); do
        if [ "$pid" != "$(record zram0 pid)" ]; then echo "$pid"; fi
    done
}
# Whether there is one, locked in memory. Two processes that die before that are one too many. And a server that was killed
# takes its time to go while memory is short.
stands_by() {
    [ "$(standby_of | wc -w)" = 1 ] && [ "$(awk '/VmLck/ { print $2 }' "/proc/$(standby_of)/status")" -gt 1000 ]
}
kills=0
for who in pid pid keeper pid pid keeper pid pid; do
    retry 60 stands_by
    old=$(record zram0 $who)
    say "killing $who $old, $(awk '/SwapFree/ { print int($2 / 1024) }' /proc/meminfo) MiB of swap free"
    kill -KILL "$old"
    retry 60 served_by_other zram0 $who "$old"
    [ $who = keeper ] || kills=$((kills + 1))
done
# The standby dies; the next server has to come from a new one.
retry 60 stands_by
standby=$(standby_of)
say "killing the standby $standby"
kill -KILL "$standby"
other_stands_by() { stands_by && [ "$(standby_of)" != "$standby" ]; }
retry 60 other_stands_by
old=$(record zram0 pid)
kill -KILL "$old"
retry 60 served_by_other zram0 pid "$old"
kills=$((kills + 1))
wait $hog || fail "memhog failed"
kill $watch 2>/dev/null || :
for pid in $(record zram0 pid) $(record zram0 keeper); do
    equal "$(awk '/VmSwap/ { print $2 }' "/proc/$pid/status")" 0 "what was swapped out of $pid"
done
equal "$(uzram stat zram0 --json | grep -o '"failed_writes": *[0-9]*' | grep -o '[0-9]*$')" 0 "failed writes"
[ "$(attached zram0)" -ge $kills ] || fail "attached to $(attached zram0) times, $kills servers were killed"
check swapoff "$disk"
check uzram remove zram0
nothing_left
