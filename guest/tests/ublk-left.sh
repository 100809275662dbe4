# about: what dead servers and keepers leave is found, said and cleared; what the keeper gave up on is recovered
# boot: shared
# modules: ublk_drv ext4
# timeout: 300
# allow-dmesg: ublkb
# allow-dmesg: Aborting journal|EXT4-fs

say "both killed while idle"
disk=$(uzram create --size 64M --frontend ublk)
kill_both
uzram list >listed 2>said
cat said
grep -q "^uzram: server and keeper of zram0 had died; cleared $disk" said
equal "$(wc -l <listed)" 1 "lines of the list"
nothing_left

say "both killed while mounted and in use: I/O errors, no hang"
disk=$(uzram create --size 64M --frontend ublk)
check mkfs.ext4 -q "$disk"
check mount "$disk" /mnt
kill_both
dd if="$disk" of=/dev/null bs=1M iflag=direct 2>read_error &
reader=$!
dd if=/dev/urandom of=/mnt/x bs=64k count=64 conv=fsync 2>write_error &
writer=$!
sleep 1
kill -0 $reader $writer || fail "no server, and no wait"
uzram list 2>said
cat said
grep -q "cleared $disk, which was mounted at /mnt: that gets I/O errors from now on" said
for job in $reader $writer; do if wait $job; then fail "dd did not fail"; fi; done
cat read_error write_error
check umount /mnt
nothing_left

say "a node that had to be replaced under a mount is known as dead"
disk=$(uzram create --size 64M --frontend ublk)
check mkfs.ext4 -q "$disk"
check mount "$disk" /mnt
keeper=$(record zram0 keeper)
old=$(record zram0 pid)
kill -STOP "$keeper"
kill -KILL "$old"
# Somebody deletes the ublk device: a namespace whose run directory says that its server and keeper died.
cp /run/uzram/zram0/device.json device.json
# shellcheck disable=SC2016
check unshare -m sh -euc '
    mount -t tmpfs -o mode=0700 none /run/uzram
    mkdir -m 700 /run/uzram/zram0
    cp device.json /run/uzram/zram0
    uzram list
'
kill -CONT "$keeper"
retry 60 served_by_other zram0 pid "$old"
new=$(record zram0 path)
retry 10 test -b "$new"
check uzram list
words="behind $disk, a dead node that is mounted at /mnt"
for command in "remove zram0" "reset zram0"; do
    # shellcheck disable=SC2086
    expect_exit 3 uzram $command 2>said
    cat said
    grep -qF "$words" said || fail "no '$words' from uzram $command"
done
equal "$(uzram list --noheadings --output mountpoint)" "/mnt (dead $disk)" "the mount point of a dead node"
grep -qF "$words" <(uzram stat zram0) || fail "no '$words' from uzram stat"
check umount /mnt
# The contents are behind the new node.
check mount "$new" /mnt
check umount /mnt
equal "$(uzram list --noheadings --output mountpoint)" "" "no mount point"
check uzram remove zram0
nothing_left

say "interrupted creates"
# Nothing is being started or taken down any more.
settled() {
    no_process || [ -S /run/uzram/zram0/keeper.sock ]
}
killed=0
for ((n = 0; n < ${CREATES:-16}; n++)); do
    uzram create --size 16M --frontend ublk >path 2>said &
    create=$!
    sleep "0.$((RANDOM % 7))$((RANDOM % 10))"
    # Which one dies: the command, the keeper, the server, or all.
    case $((n % 4)) in
        0) victims=$create ;;
        1) victims=$(processes keep) ;;
        2) victims=$(processes serve) ;;
        3) victims=$(processes) ;;
    esac
    for victim in $victims; do kill -KILL "$victim" 2>/dev/null && killed=$((killed + 1)); done
    code=0
    wait $create 2>/dev/null || code=$?
    if [ $code != 0 ] && [ $((n % 4)) != 0 ] && [ $((n % 4)) != 3 ] && [ ! -s said ]; then fail "it failed and said nothing"; fi
    # What has come to life all the same is a device like any other.
    retry 20 settled
    # The keeper takes down what nobody was told of.
    if [ $code = 137 ]; then sleep 1; fi
    uzram list --noheadings 2>said2 >listed
    if [ -s listed ]; then
        check dd if="$(record zram0 path)" of=/dev/null bs=64k count=1 iflag=direct status=none
        uzram remove --all
    fi
    nothing_left
done
result killed-creates "$killed"

say "a keeper that cannot start a server gives up, keeps the data, and tries again when told to"
disk=$(uzram create --size 64M --frontend ublk)
check mkfs.ext4 -q "$disk"
check mount "$disk" /mnt
check cp /usr/bin/fio /mnt
sync -f /mnt
mv /dev/ublk-control /dev/away
kill_of zram0 pid
gave_up() { grep -q 'giving up' /run/uzram/zram0/log; }
retry 60 gave_up
expect_exit 1 uzram stat zram0 2>&1 | tee said
grep -q 'its contents are kept: uzram recover zram0' said
expect_exit 1 uzram recover zram0
expect_exit 1 uzram list
expect_exit 3 uzram remove zram0
mv /dev/away /dev/ublk-control
equal "$(uzram recover zram0)" "$disk" "what recover says"
check cmp /usr/bin/fio /mnt/fio
server=$(record zram0 pid)
equal "$(uzram recover --all)" "$disk" "what recover says of a healthy device"
equal "$(record zram0 pid)" "$server" "its server"
expect_exit 4 uzram recover zram9
check umount /mnt
check e2fsck -fn "$disk"

say "one that was given up can be removed"
mv /dev/ublk-control /dev/away
: >/run/uzram/zram0/log
kill_of zram0 pid
retry 60 gave_up
mv /dev/away /dev/ublk-control
check uzram remove zram0
nothing_left
