# about: uzramd as a service of systemd: its devices are everybody's, and outlive its restart, crash and stop
# boot: systemd
# timeout: 180
# allow-dmesg: nbd0

# One property of the service.
service() {
    systemctl show --value --property "$1" uzramd.service
}

# Devices with the processes of each, server and keeper.
of_devices() {
    uzram list --noheadings --output name,pid,keeper
}

found() {
    uzram stat "$1" >/dev/null 2>&1
}

# systemd keeps image and lock of so many devices, swap devices not among them: kept DEVICES
kept() {
    retry 10 stores $((2 * $1))
}

stores() {
    [ "$(service NFileDescriptorStore)" = "$1" ]
}

# The daemon is another process than it was, and serves: restarted PID
restarted() {
    local now
    now=$(service MainPID)
    [ "$now" != 0 ] && [ "$now" != "$1" ] && [ "$(service ActiveState)" = active ]
}

# All that was made is there, served by the processes that served it before.
all_there() {
    local what
    equal "$(of_devices)" "$made" "devices and their processes"
    grep -q "^$swap " /proc/swaps || fail "$swap is no swap area any more"
    # Read from the devices, not from memory.
    sync
    echo 3 >/proc/sys/vm/drop_caches
    for what in /var/cache/disk/file /mnt/file "$nbd"; do
        equal "$(head -c 1048576 "$what" | sha256sum)" "$contents" "the contents of $what"
    done
}

if [ ! -d /run/systemd/system ]; then
    say "before the machine boots: install as docs/howto/daemon.md says"
    mkdir -p /usr/local/bin /root/var/lib
    ln /usr/bin/uzram /usr/bin/uzramd /usr/local/bin
    cp /guest/uzramd* /etc/systemd/system
    cat >/etc/uzram.toml <<'END'
[[device]]
name = "zram0"
size = "128M"
swap = true

[[device]]
name = "zram1"
size = "64M"
mount-point = "/var/cache/disk"
persist = true
END
    check systemctl enable uzramd.socket uzramd.service uzramd-persist.service
    # What others have in /etc/fstab: /var is mounted, and a tmpfs, which comes after all swap areas.
    printf '[Mount]\nWhat=/root/var\nWhere=/var\nType=none\nOptions=bind\n' >/etc/systemd/system/var.mount
    printf '[Mount]\nWhat=tmpfs\nWhere=/srv\nType=tmpfs\n' >/etc/systemd/system/srv.mount
    mkdir -p /etc/systemd/system/local-fs.target.wants
    ln -s ../var.mount ../srv.mount /etc/systemd/system/local-fs.target.wants
    return 0
fi

say "what it made is the host's"
equal "$(service ActiveState)" active "the service"
for module in ublk_drv nbd loop fuse; do [ -e /sys/module/$module ] || fail "$module was not loaded"; done
equal "$(readlink "/proc/$(service MainPID)/ns/mnt")" "$(readlink /proc/1/ns/mnt)" "its mount namespace"
swap=/dev/ublkb0
grep -q "^$swap " /proc/swaps || fail "$swap is no swap area"
# It may have been the first by chance.
[[ " $(service After) " == *" var.mount "* ]] || fail "it does not wait for /var"
check grep -E " /(var|srv|var/cache/disk) " /proc/self/mounts
equal "$(findmnt -n -o SOURCE /var/cache/disk)" /dev/ublkb1 "the device at /var/cache/disk"

say "devices of the other frontends, by the API"
loop=$(uzram create --size 64M --frontend fuse-loop)
nbd=$(uzram create --size 64M --frontend nbd-kernel)
check uzram create --size 64M --frontend nbd --listen tcp:127.0.0.1:812
check mkfs.ext4 -q "$loop"
check mount "$loop" /mnt
head -c 1048576 /dev/urandom >data
contents=$(sha256sum <data)
cp data /var/cache/disk/file
cp data /mnt/file
dd if=data of="$nbd" oflag=direct bs=1M status=none
made=$(of_devices)
say "$made"
equal "$(echo "$made" | wc -l)" 5 "the number of devices"
while read -r name pid keeper; do
    for process in $pid $keeper; do
        grep -q '/uzramd.service$' "/proc/$process/cgroup" || fail "$process of $name is not the service's"
    done
done <<<"$made"
kept 4

say "root's devices are root's"
user="setpriv --reuid=1000 --regid=1000 --clear-groups"
equal "$($user uzram list --noheadings)" "" "what a user sees"
UZRAM_RUN_DIR=/run/uzram expect_exit 5 $user uzram list
UZRAM_RUN_DIR=/run/uzram expect_exit 5 $user uzram create --size 1M --frontend nbd

say "restart"
old=$(service MainPID)
check systemctl restart uzramd.service
restarted "$old"
kept 4
all_there

say "reload"
printf '[[device]]\nname = "zram5"\nsize = "1M"\nfrontend = "nbd"\n' >>/etc/uzram.toml
old=$(service MainPID)
check systemctl reload uzramd.service
retry 20 found zram5
equal "$(service MainPID)" "$old" "the daemon"
kept 5
made=$(of_devices)

say "the daemon is killed, with server and keeper of a device that is mounted"
both="$(record zram1 pid) $(record zram1 keeper)"
# shellcheck disable=SC2086
kill_together "$old" $both
retry 20 restarted "$old"
retry 20 served_by_other zram1 pid "${both% *}"
equal "$(of_devices | grep -v zram1)" "$(echo "$made" | grep -v zram1)" "the other devices' processes"
made=$(of_devices)
all_there

say "stop"
check systemctl stop uzramd.service
equal "$(service ActiveState)" inactive "the service"
all_there
check uzram upgrade zram1
made=$(of_devices)
all_there

say "start, by the socket"
check uzram create --size 1M --frontend nbd
retry 20 restarted 0
kept 6

say "removal"
check umount /mnt
check uzram remove zram2 zram3 zram5 zram6
kept 2
equal "$(of_devices | wc -l)" 3 "the number of devices"

say "what a machine does that goes down, and comes up again"
check systemctl stop uzramd-persist.service
grep -q " /var/cache/disk " /proc/self/mounts && fail "/var/cache/disk is still mounted"
check uzram remove zram1
check systemctl restart uzramd.service
retry 20 found zram1
check grep " /var/cache/disk " /proc/self/mounts
equal "$(sha256sum </var/cache/disk/file)" "$contents" "the contents of /var/cache/disk/file"
check systemctl start uzramd-persist.service
# The machine goes down with the rest, and nothing may hold it up.
