#!/usr/bin/env python3
"""Sealed snapshots of a store as docs/reference/snapshot-format.md describes them, with no thought of speed: the witness that
tests/seal.rs asks. Debian's age unwraps the key.

Usage: read_sealed.py STORE MANIFEST IDENTITY
Prints kind, name and BLAKE3 hash of each part as it is inside the seal, the manifest last.
"""
import os
import struct
import subprocess
import sys

CHUNK, TAG = 16384, 16
PREFIX = {1: "dict", 2: "seg", 3: "idx", 4: "man"}


class Refused(Exception):
    pass


def check(condition, why="a field is wrong"):
    if not condition:
        raise Refused(why)


# BLAKE3, as its specification has it, with keys.

IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
CHUNK_START, CHUNK_END, PARENT, ROOT, KEYED, CONTEXT, MATERIAL = 1, 2, 4, 8, 16, 32, 64
MIXES = ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
         (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14))


def rotate(x, by):
    return (x << by | x >> 32 - by) & 0xFFFFFFFF


def compress(chaining, words, counter, length, flags):
    v = list(chaining) + list(IV[:4]) + [counter & 0xFFFFFFFF, counter >> 32, length, flags]
    for _ in range(7):
        for at, (a, b, c, d) in enumerate(MIXES):
            for word, left, right in ((words[2 * at], 16, 20), (words[2 * at + 1], 24, 25)):
                v[a] = v[a] + v[b] + word & 0xFFFFFFFF
                v[d] = rotate(v[d] ^ v[a], left)
                v[c] = v[c] + v[d] & 0xFFFFFFFF
                v[b] = rotate(v[b] ^ v[c], right)
        words = [words[at] for at in PERMUTATION]
    return [v[at] ^ v[at + 8] for at in range(8)]


def subtree(key, data, counter, flags, root):
    if len(data) <= 1024:
        blocks = [data[at:at + 64] for at in range(0, len(data), 64)] or [b""]
        chaining = key
        for at, block in enumerate(blocks):
            own = flags | CHUNK_START * (at == 0)
            if at == len(blocks) - 1:
                own |= CHUNK_END | root
            chaining = compress(chaining, struct.unpack("<16I", block.ljust(64, b"\0")), counter, len(block), own)
        return chaining
    left = 1024
    while 2 * left < len(data):
        left *= 2
    words = subtree(key, data[:left], counter, flags, 0) + subtree(key, data[left:], counter + left // 1024, flags, 0)
    return compress(key, words, 0, 64, flags | PARENT | root)


def blake3(data, key=IV, flags=0):
    return struct.pack("<8I", *subtree(key, bytes(data), 0, flags, ROOT))


def keyed(key, data):
    return blake3(data, struct.unpack("<8I", key), KEYED)


def derived(context, key):
    return blake3(key, struct.unpack("<8I", blake3(context, IV, CONTEXT)), MATERIAL)


assert blake3(b"").hex() == "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"


# ChaCha20-Poly1305 of RFC 8439, and XChaCha20-Poly1305.

SIGMA = struct.unpack("<4I", b"expand 32-byte k")
QUARTERS = ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
            (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14))


def rounds(state):
    v = list(state)
    for _ in range(10):
        for a, b, c, d in QUARTERS:
            for left, right in ((16, 12), (8, 7)):
                v[a] = v[a] + v[b] & 0xFFFFFFFF
                v[d] = rotate(v[d] ^ v[a], left)
                v[c] = v[c] + v[d] & 0xFFFFFFFF
                v[b] = rotate(v[b] ^ v[c], right)
    return v


def block(key, counter, nonce):
    state = list(SIGMA) + list(struct.unpack("<8I", key)) + [counter] + list(struct.unpack("<3I", nonce))
    return struct.pack("<16I", *(x + y & 0xFFFFFFFF for x, y in zip(rounds(state), state)))


def poly1305(key, data):
    r = int.from_bytes(key[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    total = 0
    for at in range(0, len(data), 16):
        total = (total + int.from_bytes(data[at:at + 16] + b"\1", "little")) * r % ((1 << 130) - 5)
    return (total + int.from_bytes(key[16:], "little") & (1 << 128) - 1).to_bytes(16, "little")


def padded(data):
    return data + bytes(-len(data) % 16)


def open_chacha(key, nonce, bound, sealed):
    data, tag = sealed[:-TAG], sealed[-TAG:]
    lengths = struct.pack("<QQ", len(bound), len(data))
    check(tag == poly1305(block(key, 0, nonce)[:32], padded(bound) + padded(data) + lengths), "a seal is broken")
    stream = b"".join(block(key, 1 + at, nonce) for at in range((len(data) + 63) // 64))
    return bytes(x ^ y for x, y in zip(data, stream))


def open_xchacha(key, nonce, bound, sealed):
    state = list(SIGMA) + list(struct.unpack("<8I", key)) + list(struct.unpack("<4I", nonce[:16]))
    v = rounds(state)
    return open_chacha(struct.pack("<8I", *v[:4], *v[12:]), bytes(4) + nonce[16:], bound, sealed)


class Fields:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        check(self.at + count <= len(self.data), "it is cut, or a length is wrong")
        self.at += count
        return self.data[self.at - count:self.at]

    def numbers(self, layout):
        return struct.unpack("<" + layout, self.take(struct.calcsize("<" + layout)))

    def number(self, layout):
        return self.numbers(layout)[0]


def read(store, kind, name):
    with open(os.path.join(store, PREFIX[kind], name.hex()), "rb") as opened:
        data = opened.read()
    return data


def open_part(family, kind, name, sealed):
    length = struct.unpack("<Q", sealed[16:24])[0]
    header = b"uzramSP\0" + struct.pack("<IIQ", 1, 0, length)
    check(sealed[:24] == header, "a part's header")
    check(len(sealed) == 24 + length + -(-length // CHUNK) * TAG, "a part's length")
    key = keyed(derived(b"uzram 2026-11-30 sealed snapshot, parts", family), struct.pack("<I", kind) + name)
    chunks = (sealed[at:at + CHUNK + TAG] for at in range(24, len(sealed), CHUNK + TAG))
    return b"".join(open_chacha(key, struct.pack("<QI", at, 0), header, chunk) for at, chunk in enumerate(chunks))


def main(store, manifest, identity):
    data = read(store, 4, bytes.fromhex(manifest))
    check(blake3(data[:-32]) == data[-32:] == bytes.fromhex(manifest), "the manifest's name")
    fields = Fields(data[:-32])
    check(fields.take(8) == b"uzramMA\0" and fields.numbers("IIQ") == (2, 0, len(data) - 56), "a header")
    envelope = fields.take(fields.number("I"))
    fields.numbers("QQ32s")
    parts = [fields.numbers("IQQ32s") for _ in range(fields.number("I"))]
    bound, nonce = fields.data[:fields.at], fields.take(24)
    unwrapped = subprocess.run(["age", "-d", "-i", identity], input=envelope, capture_output=True)
    check(unwrapped.returncode == 0 and len(unwrapped.stdout) == 32, "the key does not open it")
    family = unwrapped.stdout
    key = derived(b"uzram 2026-11-30 sealed snapshot, manifests", family)
    plain = open_xchacha(key, nonce, bound, fields.data[fields.at:])
    check(blake3(plain[:-32]) == plain[-32:], "the manifest inside")
    # Which parts there are inside: the head's dictionaries, index blocks, and segments that are used.
    inside = Fields(plain[24:-32])
    head = Fields(inside.take(inside.number("I")))
    head.take(64)
    codecs, _ = head.numbers("II")
    needed = []
    for _ in range(codecs):
        _, algorithm, driver, _, params, length, name = head.numbers("BBBBII32s")
        head.take(algorithm + driver + params)
        if length and (1, length + 56, name) not in needed:
            needed.append((1, length + 56, name))
    inside.numbers("QQQ")
    segments, blocks = inside.numbers("II")
    segments = [inside.numbers("32sQQ") for _ in range(segments)]
    blocks = [inside.numbers("II32s") for _ in range(blocks)]
    needed += [(3, length, name) for _, length, name in blocks]
    needed += [(2, length, name) for name, length, live in segments if live]
    check(len(needed) == len(parts), "it lists other parts than it needs")
    for (kind, length, name), (other, sealed_length, _, stored) in zip(needed, parts):
        sealed = read(store, kind, stored)
        check(kind == other and len(sealed) == sealed_length and blake3(sealed) == stored, "a part")
        part = open_part(family, kind, name, sealed)
        check(len(part) == length, "a part's length")
        print(kind, name.hex(), blake3(part).hex())
    print(4, plain[-32:].hex(), blake3(plain).hex())


try:
    main(*sys.argv[1:])
except (Refused, OSError) as error:
    sys.exit("refused: %s" % error)
