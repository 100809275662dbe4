# about: the Debian package, configured before the machine boots: swap and mounts are made in order, and the machine goes down with them
# ci: no
# boot: debian
# memory: 1G
# timeout: 300

# One property of a unit: property NAME UNIT
property() {
    systemctl show --value --property "$1" "$2"
}

# Demands that a unit is ordered so: ordered UNIT Before|After OTHER
ordered() {
    [[ " $(property "$2" "$1") " == *" $3 "* ]] || fail "$1 is not $2 $3: $(property "$2" "$1")"
}

# Demands that a unit became active before another one: earlier UNIT OTHER
earlier() {
    local first second
    first=$(property ActiveEnterTimestampMonotonic "$1")
    second=$(property ActiveEnterTimestampMonotonic "$2")
    if [ "$first" = 0 ] || [ "$first" -gt "$second" ]; then fail "$1 at $first was not before $2 at $second"; fi
}

if [ ! -d /run/systemd/system ]; then
    say "without a systemd that runs"
    check dpkg -i /packages/uzram_99.*.deb
    cat >/etc/uzram.toml <<'END'
[[device]]
name = "zram0"
size = "128M"
swap = true

[[device]]
name = "zram1"
size = "64M"
mount-point = "/var/cache/build"
persist = true

[[device]]
name = "zram7"
size = "64M"
number = 7
fs-type = "ext4"
END
    # A file system of its own that the table of file systems has: before local-fs.target, as all of these. What required the
    # daemon would be unmounted when that dies.
    mkdir /data
    echo '/dev/ublkb7 /data ext4 x-systemd.after=uzramd.service 0 0' >>/etc/fstab
    # What a machine's own services are ordered by.
    cat >/etc/systemd/system/user.service <<'END'
[Unit]
RequiresMountsFor=/data
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c "echo here >/data/file"
[Install]
WantedBy=multi-user.target
END
    check systemctl enable user.service
    mkdir -p /etc/systemd/logind.conf.d
    printf '[Login]\nKillUserProcesses=yes\n' >/etc/systemd/logind.conf.d/kill.conf
    check useradd --create-home --shell /bin/bash user
    return 0
fi

say "what was made at boot"
for unit in uzramd.socket uzramd.service uzramd-persist.service user.service; do
    equal "$(property ActiveState $unit)" active "$unit"
done
for module in ublk_drv nbd loop fuse; do [ -e /sys/module/$module ] || fail "$module was not loaded"; done
check cat /proc/swaps
grep -q "^/dev/ublkb[0-9]* .*partition" /proc/swaps || fail "no swap area"
check findmnt /var/cache/build
equal "$(findmnt -n -o SOURCE /data)" /dev/ublkb7 "what is at /data"
equal "$(</data/file)" here "what the service wrote"

say "in which order"
ordered data.mount After uzramd.service
ordered data.mount Before local-fs.target
ordered uzramd.service Before swap.target
ordered user.service After data.mount
earlier uzramd.service data.mount
earlier data.mount local-fs.target
earlier uzramd.service swap.target
earlier local-fs.target user.service
equal "$(journalctl -b --no-pager | grep -i 'ordering cycle' || :)" "" "cycles"
equal "$(systemctl --failed --no-legend)" "" "failed units"

say "the daemon crashes: devices are served on"
restarted() {
    local now
    now=$(property MainPID uzramd.service)
    [ "$now" != 0 ] && [ "$now" != "$daemon" ] && [ "$(property ActiveState uzramd.service)" = active ]
}
made=$(uzram list --noheadings --output name,pid,keeper)
daemon=$(property MainPID uzramd.service)
head -c 1048576 /dev/urandom >/data/noise
sync
check kill -ABRT "$daemon"
check dd if=/data/noise of=/dev/null iflag=direct bs=64k status=none
retry 30 restarted
check dd if=/data/noise of=/dev/null iflag=direct bs=64k status=none
equal "$(uzram list --noheadings --output name,pid,keeper)" "$made" "devices and their processes"

say "a user logs out, whose processes logind kills then"
# Each is a session of its own.
session() { su -l user -c "$1"; }
no_session() { ! loginctl list-sessions --no-legend | grep -q ' user '; }
check loginctl enable-linger user
check session "systemd-run --user --scope --quiet uzram create --size 8M --frontend nbd"
retry 20 no_session
# As a check of this check: what is not the user's manager's dies with the session.
check session "uzram create --size 8M --frontend nbd"
retry 20 no_session
equal "$(session "uzram list --noheadings --output name" 2>/dev/null)" zram0 "the user's devices"
check session "uzram stat zram0 && uzram remove zram0"

say "the way down, with swap in use and file systems mounted"
cp /data/noise /var/cache/build
# Pages that nobody needs again, until some are swapped out.
mount -t tmpfs -o size=100% tmpfs /mnt
used() { awk '/SwapTotal/ { total = $2 } /SwapFree/ { free = $2 } END { print total - free }' /proc/meminfo; }
for ((n = 0; n < 64 && $(used) < 16384; n++)); do noise 16 >/mnt/$n; done
[ "$(used)" -ge 16384 ] || fail "nothing is swapped out"
say "$(grep -E 'Swap(Total|Free)' /proc/meminfo)"
