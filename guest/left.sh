# What a test must leave as it found it, for those that share a boot. Sourced by guest/init.

# Modules that make devices: one that cannot be unloaded is one whose device is in use.
DEVICE_MODULES=(ublk_drv nbd zram null_blk loop)

SETTINGS=(vm/min_free_kbytes vm/page-cluster vm/swappiness vm/overcommit_memory vm/watermark_scale_factor
    kernel/modprobe kernel/sysrq kernel/hung_task_timeout_secs kernel/watchdog_thresh)

# Takes away what may be taken away without a word.
clear_up() {
    local module
    for module in "${DEVICE_MODULES[@]}"; do
        if [ -e "/sys/module/$module" ]; then rmmod "$module" 2>/dev/null || :; fi
    done
}

# The guest's state in words, a line for each thing.
state() {
    local dir words what where kind path setting value
    for dir in /proc/[0-9]*; do
        case ${dir#/proc/} in 1 | "$BASHPID") continue ;; esac
        { mapfile -d '' words <"$dir/cmdline"; } 2>/dev/null || continue
        # Threads of the kernel have none, and those that have ended.
        if [ "${#words[@]}" != 0 ]; then echo "process ${words[*]}"; fi
    done
    while read -r what where kind _; do echo "mount of $kind at $where"; done </proc/mounts
    while read -r what _; do echo "swap area $what"; done </proc/swaps
    for path in /sys/block/* /dev/shm/* /run/* /run/uzram/*; do
        if [ "$path" != /run/uzram ] && [ -e "$path" ]; then echo "$path"; fi
    done
    # A module's node, such as /dev/fuse, stays with the module.
    for path in /dev/*; do
        if [ -b "$path" ] || [ -f "$path" ]; then echo "$path"; fi
    done
    for setting in "${SETTINGS[@]}"; do
        { read -r value <"/proc/sys/$setting"; } 2>/dev/null && echo "$setting $value"
    done
    # The root file system is of memory, too. Its /tmp is another one.
    find / -xdev ! -type d -newer /run/guest/stamp 2>/dev/null | while read -r path; do echo "changed: $path"; done
}

# Notes what there is before a test.
note_state() {
    mkdir -p /run/guest
    : >/run/guest/stamp
    clear_up
    state >/run/guest/before
}

# Waits until it is as before; says what is different if it does not become so.
left_behind() {
    local end=$((SECONDS + 10))
    while :; do
        clear_up
        state >/run/guest/after
        if cmp -s /run/guest/before /run/guest/after; then break; fi
        if [ "$SECONDS" -ge "$end" ]; then
            diff /run/guest/before /run/guest/after | sed -n 's/^< /gone: /p; s/^> //p' | head -n 8 | tr '\n' ';'
            return
        fi
        sleep 0.3
    done
    # Nothing is mounted there, and no device lies there, any more.
    rm -rf /tmp/*
}
