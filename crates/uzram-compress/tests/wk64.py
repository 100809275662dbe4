#!/usr/bin/env python3
"""wk64 as src/backends/wk64.rs describes it, with no thought of speed: the witness that tests/wk64.rs asks.

Usage: wk64.py compress|decompress < FILE
"""
import sys

PART, RING, LOW = 4096, 256, 1 << 16


def compress(data):
    out, n = bytearray(), len(data)
    while n >= 128:
        out.append(n & 127 | 128)
        n >>= 7
    out.append(n)
    ring, entered = [0] * RING, 0
    for begin in range(0, len(data), PART):
        part = data[begin:begin + PART]
        whole = len(part) // 8
        tags, far, near, places = [], b"", b"", b""
        for i in range(whole):
            word = int.from_bytes(part[8 * i:8 * i + 8], "little")
            alike = [p for p in range(RING) if ring[p] // LOW == word // LOW]
            if word == 0:
                tags.append(0)
            elif word in ring:
                tags.append(1)
                places += bytes([ring.index(word)])
            else:
                if alike:
                    tags.append(2)
                    near += (word % LOW).to_bytes(2, "little")
                    places += bytes([alike[-1]])
                else:
                    tags.append(3)
                    far += part[8 * i:8 * i + 8]
            ring[entered % RING] = word
            entered += tags[-1] >= 2
        while len(tags) % 4:
            tags.append(0)
        for i in range(0, len(tags), 4):
            a, b, c, d = tags[i:i + 4]
            out.append(a | b << 2 | c << 4 | d << 6)
        out += far + near + places + part[8 * whole:]
    return bytes(out)


def decompress(data):
    n, shift, at = 0, 0, 0
    while True:
        n |= (data[at] & 127) << shift
        shift += 7
        at += 1
        if data[at - 1] < 128:
            break
    out, ring, entered = bytearray(), [0] * RING, 0
    while len(out) < n:
        size = min(PART, n - len(out))
        whole = size // 8
        tags = []
        for byte in data[at:at + (whole + 3) // 4]:
            tags += [byte >> 2 * i & 3 for i in range(4)]
        at += (whole + 3) // 4
        near_at = at + 8 * tags.count(3)
        places_at = near_at + 2 * tags.count(2)
        for tag in tags[:whole]:
            word = 0
            if tag == 3:
                word = int.from_bytes(data[at:at + 8], "little")
                at += 8
            elif tag:
                word = ring[data[places_at]]
                places_at += 1
                if tag == 2:
                    word = word // LOW * LOW + int.from_bytes(data[near_at:near_at + 2], "little")
                    near_at += 2
            ring[entered % RING] = word
            entered += tag >= 2
            out += word.to_bytes(8, "little")
        at = places_at
        out += data[at:at + size % 8]
        at += size % 8
    assert at == len(data) and len(out) == n
    return bytes(out)


if __name__ == "__main__":
    what = {"compress": compress, "decompress": decompress}[sys.argv[1]]
    sys.stdout.buffer.write(what(sys.stdin.buffer.read()))
