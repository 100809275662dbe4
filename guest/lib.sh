# What tests are written with. Sourced by guest/run, under `set -Eeuo pipefail`, in an empty directory.

# Files here are brought to target/guest/results/TEST/ on the host.
SAVED=/run/saved

# Says what happens next, with the seconds since boot.
say() {
    local up
    read -r up _ </proc/uptime
    echo "[$up] $*"
}

# Says which lines of the test are being run.
at() {
    local frame
    for ((frame = 1; frame < ${#BASH_SOURCE[@]}; frame++)); do
        case ${BASH_SOURCE[frame]} in
            /guest/tests/*) echo "at $TEST.sh:${BASH_LINENO[frame - 1]}:" >&2 ;;
        esac
    done
}

# Ends the test.
fail() {
    at
    echo "FAILED: $*" >&2
    exit 1
}

# Runs a command, having said which.
check() {
    say "\$ $*"
    "$@"
}

# Tries a command until it succeeds: retry SECONDS COMMAND...
retry() {
    local limit=$1 end=$((SECONDS + $1))
    shift
    until "$@"; do
        if [ "$SECONDS" -ge "$end" ]; then fail "not in $limit s: $*"; fi
        sleep 0.1
    done
}

# Demands an exit code: expect_exit CODE COMMAND...
expect_exit() {
    local want=$1 got=0
    shift
    say "\$ $* # expecting exit code $want"
    "$@" || got=$?
    if [ "$got" != "$want" ]; then fail "exit code $got, not $want: $*"; fi
}

# Demands two equal strings: equal GOT WANTED WHAT
equal() {
    if [ "$1" != "$2" ]; then fail "$3: '$1', not '$2'"; fi
}

# Notes a figure: result KEY VALUE. They are lines of the file `results` on the host.
result() {
    say "result: $*"
    echo "$*" >>"$SAVED/results"
}

# Brings a file to the host: save FILE [NAME]
save() {
    cp -r "$1" "$SAVED/${2:-$(basename "$1")}"
}

# A parameter that the test was given, as in `cargo xtask guest NAME KEY=VALUE`: parameter KEY DEFAULT
parameter() {
    local word
    for word in $(</proc/cmdline); do
        case $word in "uzram.parameter.$1="*) echo "${word#*=}"; return ;; esac
    done
    echo "$2"
}
