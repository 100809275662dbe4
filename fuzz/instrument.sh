#!/bin/sh
# cargo's wrapper around rustc for the workspace's own crates (RUSTC_WORKSPACE_WRAPPER): has their code count its branches
# and tell the numbers that it compares, for libFuzzer. Stable compilers take these flags. Dependencies are left as they are,
# so that the other builds' serve.
case " $* " in
*" --crate-name build_script_"* | *" --crate-type proc-macro "*) exec "$@" ;;
*" --crate-name "*) ;;
*) exec "$@" ;;
esac
exec "$@" -Ccodegen-units=1 -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares
