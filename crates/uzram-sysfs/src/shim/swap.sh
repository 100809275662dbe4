#!/bin/sh
# mkswap and swapon: say it where the device is one of uzram's that is not safe to swap to, and do as the real programs do.
program=${0##*/}
toolbox=/dev/.uzram

warn() {
    # Once for each device, though mkswap and swapon both come by.
    [ ! -e "$toolbox/warned/$1" ] || return 0
    : >"$toolbox/warned/$1"
    run=${UZRAM_RUN_DIR:-/run/uzram}
    text="WARNING: $program: $1 is one of uzram's devices that are not safe as swap (its server is behind $2): to write a page out\
 the kernel may need memory which only that write makes free, and then this machine hangs. Use instead: uzram create --swap,\
 which takes the frontend ublk. Nor can this machine hibernate to $1. uzram shim --allow-unsafe-swap silences this"
    echo "uzram: $text" >&2
    # A swapon is logged by the server, which hears of it from the kernel.
    if [ "$program" = mkswap ] && [ -w "$run/$1/log" ]; then
        echo "$(date -u +%FT%TZ)  WARN uzram_sysfs::shim: $text" >>"$run/$1/log"
    fi
}

for word in "$@"; do
    [ -b "$word" ] || continue
    number=$(stat -L -c %t:%T "$word" 2>/dev/null) || continue
    # The kernel's clients that allocate memory on their way to the server, by their major numbers in hexadecimal.
    case $number in
    7:*) kind="a loop device on FUSE" ;;
    2b:*) kind="the kernel's NBD client" ;;
    *) continue ;;
    esac
    for node in /dev/zram*; do
        [ "$(stat -L -c %t:%T "$node" 2>/dev/null)" != "$number" ] || warn "${node##*/}" "$kind"
    done
done
if [ -e "$toolbox/real/$program" ]; then
    exec "$toolbox/real/$program" "$@"
fi
echo "$program: not found" >&2
exit 127
