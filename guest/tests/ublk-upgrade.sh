# about: the program behind a device is replaced under verified load; one that will not do is refused or taken back
# boot: shared
# modules: ublk_drv
# timeout: 240

disk=$(uzram create --size 128M --frontend ublk --algorithm zstd)
job() {
    fio --name=upgrade --filename="$disk" --direct=1 --ioengine=libaio --iodepth=8 --numjobs=2 --rw=randrw \
        --bsrange=4k-256k --size=48M --offset_increment=64M --verify=crc32c --verify_fatal=1 --verify_backlog=32 \
        --buffer_compress_percentage=50 --group_reporting --output=fio.out || { cat fio.out; fail fio; }
}
load() { while [ ! -e stop ]; do job; done; }
program_of() { readlink "/proc/$(record zram0 "$1")/exe" || :; }
fds() { ls "/proc/$(record zram0 "$1")/fd" | wc -l; }
load &
load=$!

for n in 1 2 3 4 5; do
    mkdir "new$n"
    cp /usr/bin/uzram "new$n/"
    check "new$n/uzram" upgrade --all
    for process in pid keeper; do equal "$(program_of $process)" "$PWD/new$n/uzram" "the program of $process"; done
    if [ "$n" = 1 ]; then before="$(fds pid) $(fds keeper)"; fi
done
equal "$(fds pid) $(fds keeper)" "$before" "open files of server and keeper after more upgrades"
rm -r new1 new2 new3 new4

say "programs that will not do"
server=$(record zram0 pid)
printf '#!/bin/sh\necho I am no such program >&2\nexit 1\n' >script
chmod +x script
echo text >text
for program in /bin/true ./script ./text ./missing /tmp; do
    expect_exit 2 uzram upgrade zram0 --program "$program" 2>&1 | tee said
    grep -q "^uzram: .*${program#.}.*: ." said
done
equal "$(record zram0 pid)" "$server" "the server"
expect_exit 4 uzram upgrade zram7

say "a program that is suitable when asked and cannot be started when the old server has gone"
keeper=$(record zram0 keeper)
mkdir bad
cp /usr/bin/uzram bad/
kill -STOP "$server"
bad/uzram upgrade zram0 >said 2>&1 &
upgrade=$!
changed() { [ "$(readlink "/proc/$keeper/exe")" = "$PWD/bad/uzram" ]; }
retry 20 changed
chmod -x bad/uzram
kill -CONT "$server"
code=0
wait $upgrade || code=$?
cat said
equal "$code" 1 "the exit code"
grep -q 'the new program cannot serve' said
back() { [ "$(program_of pid) $(program_of keeper)" = "$PWD/new5/uzram $PWD/new5/uzram" ]; }
retry 20 back

say "and the next one works"
check uzram upgrade zram0
equal "$(program_of pid)" /usr/bin/uzram "the program"
: >stop
wait $load
save /run/uzram/zram0/log zram0.log
check uzram remove zram0
nothing_left
