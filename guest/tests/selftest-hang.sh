# about: the bench itself: the guest stops answering
# ci: no
# fails: hang
# timeout: 3

# Without init's limiter nothing ends this guest but the host.
for pid in /proc/[0-9]*; do
    pid=${pid#/proc/}
    if [ "$pid" != 1 ] && [ "$pid" != $$ ]; then kill -STOP "$pid"; fi
done
sleep 1000
