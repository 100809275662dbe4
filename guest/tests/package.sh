# about: the Debian package: installed, used, upgraded under devices in use, removed and purged, in a Debian with systemd
# ci: no
# boot: debian
# memory: 1G
# timeout: 600
# modules: ublk_drv

# Every file of the system but what changes by itself, with links' targets, and the units that are enabled.
files() {
    find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /tmp -o -path /var/log -o -path /root \
        -o -path /var/lib/dpkg -o -path /var/lib/systemd -o -path /mnt \) -prune -o -printf '%p %y %m %l\n' |
        grep -v -e '^/var/cache/ldconfig' -e '^/etc/ld.so.cache' | sort
    find /var/lib/systemd/deb-systemd-helper* -printf '%p\n' 2>/dev/null | sort
    find /run/uzram /run/systemd/system -name '*uzram*' 2>/dev/null || :
    dpkg-query -W -f '${Package} ${db:Status-Abbrev}\n'
}

# One property of the service.
service() {
    systemctl show --value --property "$1" uzramd.service
}

of_devices() {
    uzram list --noheadings --output name,pid,keeper
}

# What a process runs.
program_of() {
    readlink "/proc/$1/exe"
}

restarted() {
    local now
    now=$(service MainPID)
    [ "$now" != 0 ] && [ "$now" != "$1" ] && [ "$(service ActiveState)" = active ]
}

# Whether a process of a device runs what was installed last: runs_new DEVICE pid|keeper
runs_new() {
    [ "$(program_of "$(record "$1" "$2")")" = /usr/bin/uzram ]
}

enabled() {
    systemctl is-enabled "$1" 2>/dev/null || :
}

# Reads from the device, not from memory, and compares.
data_right() {
    sync
    echo 3 >/proc/sys/vm/drop_caches
    equal "$(sha256sum </mnt/file)" "$contents" "the contents of /mnt/file"
    grep -q "^$swap " /proc/swaps || fail "$swap is no swap area any more"
}

# Writes and reads again for as long as /run/writes is there; counts.
writes() {
    local n=0
    while [ -e /run/writes ]; do
        n=$((n + 1))
        echo "$n" | dd of=/mnt/count bs=4096 conv=sync,fsync oflag=direct status=none || return 1
        [ "$(dd if=/mnt/count bs=4096 iflag=direct status=none | head -n 1)" = $n ] || return 1
        echo $n >/run/written
        # An emulated processor has other things to do, too.
        sleep 0.2
    done
}

more_written() {
    [ "$(<"/run/written")" -gt "$1" ]
}

if [ ! -d /run/systemd/system ]; then return 0; fi

old=$(echo /packages/uzram_0.*.deb)
new=$(echo /packages/uzram_99.*.deb)
files >before
say "install"
check dpkg -i "$old"
equal "$(uzram --version)" "$(uzramd --version | sed 's/uzramd/uzram/')" "the versions"
for unit in uzramd.socket uzramd.service uzramd-persist.service; do
    equal "$(systemctl is-active $unit)" active "$unit"
    equal "$(enabled $unit)" enabled "$unit"
done
equal "$(enabled uzram-metrics.socket)" disabled "the socket for metrics"
equal "$(service NRestarts)" 0 "how often the daemon died"
check uzramd --check
for file in man/man1/{uzram,uzram-create,uzramd,uzram-bench}.1.gz man/man7/uzram-attributes.7.gz \
    zsh/vendor-completions/_uzram fish/vendor_completions.d/uzram.fish doc/uzram/copyright; do
    [ -s /usr/share/$file ] || fail "no $file"
done
equal "$(uzram bench --help | head -c 20 | wc -c)" 20 "uzram bench finds uzram-bench"
# uzram-s3 is found, and finds no certificates, which the package only recommends, or no store.
export AWS_ACCESS_KEY_ID=0123456789 AWS_SECRET_ACCESS_KEY=9876543210
expect_exit 1 uzram remote add x s3://bucket/prefix --region us-east-1 --endpoint http://127.0.0.1:1 2>said
grep -e "No CA certificates" -e "no store answers" said || fail "$(<said)"

say "bash completes"
bash --norc -c '. /usr/share/bash-completion/completions/uzram; complete -p uzram'

say "use"
disk=$(uzram create --size 128M)
equal "$disk" /dev/ublkb0 "the device"
check mkfs.ext4 -q "$disk"
check mount "$disk" /mnt
swap=$(uzram create --size 64M --swap)
head -c 1048576 /dev/urandom >/mnt/file
contents=$(sha256sum </mnt/file)
echo "# the administrator was here" >>/etc/uzram.toml
made=$(of_devices)
say "$made"
data_right

say "upgrade under a writer"
touch /run/writes
echo 0 >/run/written
writes &
writer=$!
retry 20 more_written 0
daemon=$(service MainPID)
server=$(record zram0 pid)
check dpkg -i "$new"
restarted "$daemon" || fail "the daemon is the old one"
equal "$(program_of "$(service MainPID)")" /usr/bin/uzramd "the daemon's program"
equal "$(of_devices)" "$made" "devices and their processes"
equal "$(program_of "$server")" "/usr/bin/uzram (deleted)" "the server's program"
equal "$(tail -n 1 /etc/uzram.toml)" "# the administrator was here" "the configuration"
retry 20 more_written "$(<"/run/written")"
data_right
# Memory and lock of zram0; a swap device's memory is not kept.
retry 10 [ "$(service NFileDescriptorStore)" = 2 ]
say "a server dies after the upgrade: the program that it ran is still there"
kill_server zram0
retry 20 more_written "$(<"/run/written")"
data_right
check uzram upgrade --all
for name in zram0 zram1; do
    for process in pid keeper; do
        retry 10 runs_new $name $process
    done
done
retry 20 more_written "$(<"/run/written")"
rm /run/writes
wait $writer || fail "the writer failed"
say "written: $(</run/written)"
data_right

say "a package whose devices are served is not removed"
expect_exit 1 dpkg -r uzram
equal "$(dpkg-query -W -f '${db:Status-Status}' uzram)" installed "the package"
equal "$(systemctl is-active uzramd.service)" active "the daemon"
data_right

say "remove"
check umount /mnt
check swapoff "$swap"
check uzram remove --all
check dpkg -r uzram
retry 10 no_process
for unit in uzramd.socket uzramd.service uzramd-persist.service; do
    equal "$(systemctl is-active $unit || :)" inactive "$unit"
done
equal "$(tail -n 1 /etc/uzram.toml)" "# the administrator was here" "the configuration"
hash -r
command -v uzram && fail "there is still a program"

say "install again, as it was"
check systemctl daemon-reload
check dpkg -i "$new"
hash -r
equal "$(tail -n 1 /etc/uzram.toml)" "# the administrator was here" "the configuration"
equal "$(systemctl is-active uzramd.service)" active "the daemon"
mkdir -p /var/lib/uzram
echo contents >/var/lib/uzram/zram9

say "purge"
check dpkg -P uzram
retry 10 no_process
equal "$(cat /var/lib/uzram/zram9)" contents "what a device held"
rm -r /var/lib/uzram
files >after
diff before after || fail "this was left behind, or is gone"
equal "$(systemctl --failed --no-legend)" "" "failed units"
