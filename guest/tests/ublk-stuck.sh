# about: ublk control commands that never return are given up and named, and the next device does not trip over them
# ci: slow
# modules: ublk_drv
# timeout: 240

# What the driver cannot be made to do at will: see crates/uzram-ublk/src/fault.rs.
export UZRAM_UBLK_LIMIT_MS=1000
create="uzram create --size 16M --frontend ublk"

# Demands an exit code and words, soon: says CODE WORDS COMMAND...
says() {
    local want=$1 words=$2 got=0 begin=$SECONDS
    shift 2
    "$@" >printed 2>said || got=$?
    say "\$ $* # $got: $(cat printed said)"
    if [ "$got" != "$want" ]; then fail "exit code $got, not $want"; fi
    grep -qF -- "$words" said || fail "it does not say '$words'"
    if [ $((SECONDS - begin)) -gt 20 ]; then fail "it took $((SECONDS - begin)) s"; fi
}

# The same with commands that never return: stuck COMMANDS CODE WORDS COMMAND...
stuck() {
    local which=$1
    shift
    UZRAM_UBLK_NEVER_RETURNS=$which says "$@"
}

say "no device is made, and nothing is left"
stuck AddDev 1 "ublk AddDev of a new device did not return in 1 s" $create
grep -q "only a restart of the machine helps" said
nothing_left
stuck SetParams 1 "ublk SetParams of device 0 (/dev/ublkb0) did not return" $create
nothing_left
stuck StartDev 1 "ublk StartDev of device 0 (/dev/ublkb0) did not return" $create
nothing_left
stuck GetFeatures 5 "ublk GetFeatures of a new device did not return" $create
nothing_left

say "what cannot be deleted is named, and does not hold up others"
stuck StartDev,StopDev,DelDevAsync 1 "/dev/ublkc0 could not be deleted" $create
for _ in 1 2; do
    begin=$SECONDS
    uzram list 2>said
    cat said
    grep -q "/dev/ublkc0 could not be deleted, since the driver did not answer" said
    [ $((SECONDS - begin)) -lt 3 ] || fail "a list took $((SECONDS - begin)) s"
done
says 3 "/dev/ublkb0 exists already" $create --number 0
disk=$($create 2>said)
equal "$disk" /dev/ublkb1 "the next device"
check dd if=/dev/zero of=$disk bs=1M count=16 oflag=direct status=none
check uzram remove zram1

say "the driver is not asked for a while, and then again"
rm /run/uzram/zram0/ublk-stuck
uzram list 2>said
cat said
grep -q "cleared /dev/ublkb0" said
nothing_left

say "a takeover that the driver does not answer: the contents stay"
disk=$(UZRAM_UBLK_NEVER_RETURNS=StartUserRecovery $create)
check dd if=/dev/urandom of=$disk bs=1M count=4 oflag=direct status=none
kill_of zram0 pid
retry 60 grep -q "ublk StartUserRecovery of device 0 (/dev/ublkb0) did not return" /run/uzram/zram0/log
retry 60 grep -q "giving up; the contents are kept" /run/uzram/zram0/log
says 1 "StartUserRecovery" uzram recover zram0
check uzram remove zram0
nothing_left

say "a device that cannot be stopped stays, and works"
disk=$(UZRAM_UBLK_NEVER_RETURNS=StopDev $create)
check dd if=/dev/urandom of=data bs=1M count=4 status=none
check dd if=data of=$disk bs=1M oflag=direct status=none
says 1 "ublk StopDev of device 0 (/dev/ublkb0) did not return" uzram remove zram0
check cmp -n $((4 << 20)) data $disk
kill_both
check uzram list
nothing_left

say "a device that cannot be deleted is down"
disk=$(UZRAM_UBLK_NEVER_RETURNS=DelDevAsync $create)
says 0 "/dev/ublkc0 could not be deleted, and number 0 stays taken" uzram remove zram0
retry 10 no_process
[ ! -e $disk ] || fail "$disk is there"
equal "$($create)" /dev/ublkb1 "the next device"
check uzram remove zram0
