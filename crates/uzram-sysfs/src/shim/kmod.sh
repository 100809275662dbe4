#!/bin/sh
# modprobe, rmmod, modinfo and lsmod for the module zram, which is uzram. Other modules are left to the real programs.
program=${0##*/}
toolbox=/dev/.uzram
control=/sys/class/zram-control

real() {
    if [ -e "$toolbox/real/$program" ]; then
        exec "$toolbox/real/$program" "$@"
    fi
    case $program in
    modprobe)
        [ -n "$quiet" ] || echo "modprobe: FATAL: Module $module not found in directory /lib/modules/$(uname -r)" >&2
        ;;
    rmmod) echo "rmmod: ERROR: Module $module is not currently loaded" >&2 ;;
    modinfo) echo "modinfo: ERROR: Module $module not found." >&2 ;;
    *) echo "$program: not found" >&2 ;;
    esac
    exit 1
}

in_use() {
    case $program in
    rmmod) echo "rmmod: ERROR: Module zram is in use" >&2 ;;
    *) [ -n "$quiet" ] || echo "modprobe: FATAL: Module zram is in use." >&2 ;;
    esac
    exit 1
}

have_devices() {
    for dir in /sys/block/zram*; do
        [ -d "$dir" ] && return 0
    done
    return 1
}

load() {
    if have_devices; then
        [ -z "$first" ] || { echo "modprobe: ERROR: could not insert 'zram': Module already in kernel" >&2; exit 1; }
        exit 0
    fi
    [ -z "$dry" ] || exit 0
    while [ "$devices" -gt 0 ]; do
        read -r id <"$control/hot_add" || {
            echo "modprobe: ERROR: could not insert 'zram': Cannot allocate memory" >&2
            exit 1
        }
        devices=$((devices - 1))
    done
    exit 0
}

unload() {
    if ! have_devices && [ -n "$first" ]; then
        echo "modprobe: FATAL: Module zram is not in kernel." >&2
        exit 1
    fi
    [ -z "$dry" ] || exit 0
    # The kernel removes all devices or none, so none is tried while one is in use.
    for table in /proc/swaps /proc/mounts; do
        while read -r node rest; do
            case $node in /dev/zram*) in_use ;; esac
        done <"$table"
    done
    for dir in /sys/block/zram*; do
        [ -d "$dir" ] || continue
        { echo "${dir##*/zram}" >"$control/hot_remove"; } 2>/dev/null || in_use
    done
    exit 0
}

module= quiet= dry= first= remove= other= devices=1
for word in "$@"; do
    case $word in
    --) ;;
    -q | --quiet | --silent) quiet=1 ;;
    -n | --dry-run | --show) dry=1 ;;
    --first-time) first=1 ;;
    -r | --remove) remove=1 ;;
    -v | --verbose | -f | --force | -i | --ignore-install | --ignore-remove | -b | --use-blacklist | -s | --syslog | -a | --all) ;;
    -w | --wait) ;;
    --*) other=1 ;;
    -*)
        # Several options in one word: -qn, -rv.
        letters=${word#-}
        while [ -n "$letters" ]; do
            rest=${letters#?}
            case ${letters%"$rest"} in
            q) quiet=1 ;;
            n) dry=1 ;;
            r) remove=1 ;;
            v | f | i | b | s | a | w) ;;
            *) other=1 ;;
            esac
            letters=$rest
        done
        ;;
    num_devices=*)
        devices=${word#num_devices=}
        case $devices in
        '' | *[!0-9]*)
            echo "modprobe: ERROR: could not insert 'zram': Invalid argument" >&2
            exit 1
            ;;
        esac
        ;;
    *=*) ;;
    *) [ -n "$module" ] || module=$word ;;
    esac
done

case $program in
lsmod)
    if [ -e "$toolbox/real/lsmod" ]; then
        "$toolbox/real/lsmod" "$@" || exit
    else
        echo "Module                  Size  Used by"
    fi
    have_devices && echo "zram                   49152  0"
    exit 0
    ;;
esac
# The modules that the kernel's zram depends on come and go with it.
case "$program $module" in
"modprobe zsmalloc" | "rmmod zsmalloc") exit 0 ;;
esac
if [ "$module" != zram ] || [ -n "$other" ]; then
    real "$@"
fi
case $program in
modprobe) if [ -n "$remove" ]; then unload; else load; fi ;;
rmmod) unload ;;
modinfo)
    echo "name:           zram"
    echo "filename:       (builtin)"
    echo "description:    Compressed RAM Block Device"
    echo "parm:           num_devices:Number of pre-created zram devices (uint)"
    ;;
*) real "$@" ;;
esac
