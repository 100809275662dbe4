#!/usr/bin/env python3
"""Snapshots as docs/reference/snapshot-format.md describes them, with no thought of speed: the witness that
tests/fixtures.rs asks.

Usage: read_snapshot.py FILE [PARENT [ITS PARENT ...]]
Prints the snapshot's name and all pages that are not zeros.
"""
import struct
import sys

PAGE, FRAME, BLOCK = 4096, 64, 1024
SEGMENT_MAX, ENTRY_MAX, PLACES_MAX = 64 << 20, 262, 3
BOUNDS = {
    b"uzramSN\0": 128 << 10,
    b"uzramDC\0": 4 << 20,
    b"uzramDI\0": 4 + 65536 * 44,
    b"uzramSE\0": 16,
    b"uzramIX\0": 8 + BLOCK * ENTRY_MAX,
    b"uzramMA\0": (128 << 10) + 64 + (1 << 20) * 48 + (1 << 16) * 40,
    b"uzramTC\0": 4 + (16 + (1 << 20) + (1 << 16) + 1) * 52,
    b"uzramEN\0": 24,
}


class Refused(Exception):
    pass


def check(condition, why="a field is wrong"):
    if not condition:
        raise Refused(why)


# BLAKE3, as its specification has it.

IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
CHUNK_START, CHUNK_END, PARENT, ROOT = 1, 2, 4, 8
MIXES = ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
         (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14))


def compress(chaining, words, counter, length, flags):
    v = list(chaining) + list(IV[:4]) + [counter & 0xFFFFFFFF, counter >> 32, length, flags]
    for _ in range(7):
        for at, (a, b, c, d) in enumerate(MIXES):
            va = v[a] + v[b] + words[2 * at] & 0xFFFFFFFF
            x = v[d] ^ va
            vd = (x >> 16 | x << 16) & 0xFFFFFFFF
            vc = v[c] + vd & 0xFFFFFFFF
            x = v[b] ^ vc
            vb = (x >> 12 | x << 20) & 0xFFFFFFFF
            v[a] = va = va + vb + words[2 * at + 1] & 0xFFFFFFFF
            x = vd ^ va
            v[d] = vd = (x >> 8 | x << 24) & 0xFFFFFFFF
            v[c] = vc = vc + vd & 0xFFFFFFFF
            x = vb ^ vc
            v[b] = (x >> 7 | x << 25) & 0xFFFFFFFF
        words = [words[at] for at in PERMUTATION]
    return [v[at] ^ v[at + 8] for at in range(8)]


def chunk(data, counter, root):
    blocks = [data[at:at + 64] for at in range(0, len(data), 64)] or [b""]
    chaining = IV
    for at, block in enumerate(blocks):
        flags = CHUNK_START * (at == 0)
        if at == len(blocks) - 1:
            flags |= CHUNK_END | root
        words = struct.unpack("<16I", block.ljust(64, b"\0"))
        chaining = compress(chaining, words, counter, len(block), flags)
    return chaining


def subtree(data, counter, root):
    if len(data) <= 1024:
        return chunk(data, counter, root)
    left = 1024
    while 2 * left < len(data):
        left *= 2
    words = subtree(data[:left], counter, 0) + subtree(data[left:], counter + left // 1024, 0)
    return compress(IV, words, 0, 64, PARENT | root)


def blake3(data):
    return struct.pack("<8I", *subtree(bytes(data), 0, ROOT))


assert blake3(b"").hex() == "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"


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

    def peek(self, count):
        return self.data[self.at:self.at + count]

    def end(self):
        check(self.at == len(self.data), "something follows")

    def record(self, magic):
        """The body of a record of this magic, and its name."""
        begin = self.at
        check(self.take(8) == magic, "another magic")
        version, zero, length = self.numbers("IIQ")
        check(version == 1 and zero == 0 and length <= BOUNDS[magic], "a header")
        body = self.take(length)
        name = blake3(self.data[begin:self.at])
        check(self.take(32) == name, "a checksum")
        return Fields(body), name


class Head:
    def __init__(self, fields):
        page, frame, self.pages, self.taken, self.basis = fields.numbers("IIQQI")
        check(page == PAGE and frame == FRAME and 1 <= self.pages <= 1 << 32 and self.basis <= 1)
        self.parent = fields.take(32)
        self.before, codecs, notes = fields.numbers("III")
        check(codecs <= 16 and notes <= 64 << 10 and self.before <= 1 << 20)
        check(any(self.parent) or self.before == 0)
        self.codecs = {}
        for _ in range(codecs):
            number, algorithm, driver, zero, params, length = fields.numbers("BBBBII")
            dictionary = fields.take(32)
            check(number < 16 and number > max(self.codecs, default=-1) and zero == 0)
            check(1 <= algorithm <= 32 and driver <= 32 and params <= 1024 and length <= 4 << 20)
            check(any(dictionary) == (length != 0))
            texts = [fields.take(n).decode() for n in (algorithm, driver, params)]
            self.codecs[number] = (texts, dictionary, length)
        self.notes = fields.take(notes)
        fields.end()

    def has_page(self, page):
        return page < self.pages


def stored(descriptor):
    """Bytes that a frame has of a page."""
    high, length = descriptor >> 12, descriptor & 4095
    if length:
        return length
    return {1: PAGE, 2: 8}.get(high, 0)


def bits(mask):
    return [at for at in range(FRAME) if mask >> at & 1]


def read_frame(data):
    """A frame's number, and what its pages are: their descriptors and bytes."""
    fields = Fields(data)
    check(fields.take(4) == b"uzFR", "a frame's magic")
    number, mask, length = fields.numbers("IQI")
    check(mask != 0)
    descriptors = [(at, fields.number("H")) for at in bits(mask)]
    check(all(stored(d) for _, d in descriptors) and sum(stored(d) for _, d in descriptors) == length)
    pages = {at: (d, fields.take(stored(d))) for at, d in descriptors}
    check(fields.peek(64) == blake3(data[:fields.at]), "a frame's checksum")
    return number, pages


def frame_length(data):
    fields = Fields(data)
    _, _, mask, length = fields.numbers("4sIQI")
    return 20 + 2 * len(bits(mask)) + length + 32


class Entry:
    def __init__(self, fields):
        self.frame, places, words = fields.numbers("HBB")
        check(places <= PLACES_MAX and 132 + 36 * places + 8 * words <= ENTRY_MAX and words <= 13)
        self.places = []
        placed = 0
        for _ in range(places):
            mask, segment, offset, length = fields.numbers("QIII")
            check(mask and not mask & placed and offset >= 24 and offset + length <= SEGMENT_MAX)
            placed |= mask
            self.places.append((mask, segment, offset, length, fields.take(16)))
        self.pages = fields.numbers("64H")
        self.words = fields.numbers("%dQ" % words)
        check(0 not in self.words and any(self.pages))
        for at, descriptor in enumerate(self.pages):
            check(bool(stored(descriptor)) == bool(placed >> at & 1))
            if not descriptor & 4095 and descriptor >> 12 >= 3:
                check((descriptor >> 12) - 3 < words)


class Snapshot:
    def __init__(self, data, parent):
        self.data, self.parent = data, parent
        fields = Fields(data)
        body, _ = fields.record(b"uzramSN\0")
        self.head = Head(body)
        self.items = []
        self.segments, self.indexes = {}, {}
        self.forward(fields)
        if any(self.head.parent) and parent:
            check(parent.name == self.head.parent, "another parent")

    def forward(self, fields):
        """Reads everything in its order."""
        while fields.peek(8) != b"uzramTC\0":
            magic, begin = fields.peek(8), fields.at
            if magic == b"uzramSG\0":
                kind, name = 2, self.segment(fields)
                self.segments[name] = (begin, fields.at - begin)
            else:
                check(magic in (b"uzramDC\0", b"uzramIX\0", b"uzramMA\0"), "nothing that belongs here")
                body, name = fields.record(magic)
                kind = {b"uzramDC\0": 1, b"uzramIX\0": 3, b"uzramMA\0": 4}[magic]
                if kind == 3:
                    self.indexes[name] = body.data
                elif kind == 4:
                    self.manifest(body)
                    self.name = name
            self.items.append((kind, begin, fields.at - begin, name))
        check(self.items and self.items[-1][0] == 4, "no manifest")
        at = fields.at
        body, _ = fields.record(b"uzramTC\0")
        listed = [body.numbers("IQQ32s") for _ in range(body.number("I"))]
        body.end()
        check(listed == self.items, "the table of contents")
        length = fields.at - at
        body, _ = fields.record(b"uzramEN\0")
        check(body.numbers("QQQ") == (at, length, fields.at), "the end mark")
        body.end()
        fields.end()

    def segment(self, fields):
        begin = fields.at
        check(fields.take(24) == b"uzramSG\0" + struct.pack("<IIQ", 1, 0, 0), "a segment's header")
        frames = []
        while fields.peek(4) == b"uzFR":
            at = fields.at
            data = fields.take(frame_length(fields.peek(20)))
            number, _ = read_frame(data)
            frames.append((number, at - begin, len(data), data[-32:]))
        at = fields.at
        body, name = fields.record(b"uzramDI\0")
        listed = [body.numbers("III32s") for _ in range(body.number("I"))]
        body.end()
        check(frames and listed == frames, "a directory")
        length = fields.at - at
        body, _ = fields.record(b"uzramSE\0")
        check(body.numbers("QQ") == (at - begin, length), "a footer")
        return name

    def manifest(self, body):
        head = Fields(body.take(body.number("I")))
        check(head.data == Fields(self.data).record(b"uzramSN\0")[0].data, "another head")
        self.totals = body.numbers("QQQ")
        segments, blocks = body.numbers("II")
        self.listed = [body.numbers("32sQQ") for _ in range(segments)]
        self.blocks = [body.numbers("II32s") for _ in range(blocks)]
        body.end()

    def find(self, what, name):
        """The snapshot of the chain that has a segment or an index block."""
        snapshot = self
        while snapshot and name not in getattr(snapshot, what):
            snapshot = snapshot.parent
        check(snapshot, "a parent is missing")
        return snapshot, getattr(snapshot, what)[name]

    def pages(self):
        objects = same = object_bytes = 0
        live = [0] * len(self.listed)
        for number, _, name in self.blocks:
            _, body = self.find("indexes", name)
            fields = Fields(body)
            found, count = fields.numbers("II")
            check(found == number, "another block")
            for _ in range(count):
                entry = Entry(fields)
                frame = number * BLOCK + entry.frame
                pages = {}
                for mask, segment, offset, length, digest in entry.places:
                    snapshot, (begin, size) = self.find("segments", self.listed[segment][0])
                    check(offset + length <= size)
                    data = snapshot.data[begin + offset:][:length]
                    check(data[-32:-16] == digest, "another frame")
                    stored_number, stored_pages = read_frame(data)
                    check(stored_number == frame)
                    for at in bits(mask):
                        descriptor, content = stored_pages[at]
                        check(descriptor == entry.pages[at], "another page")
                        pages[at] = content
                        live[segment] += len(content)
                for at, descriptor in enumerate(entry.pages):
                    page, high, length = frame * FRAME + at, descriptor >> 12, descriptor & 4095
                    if descriptor == 0:
                        continue
                    check(self.head.has_page(page), "beyond the end")
                    if length or high == 1:
                        objects, object_bytes = objects + 1, object_bytes + len(pages[at])
                        if length:
                            check(high in self.head.codecs, "no such codec")
                        yield page, ("codec %d " % high if length else "raw ") + pages[at].hex()
                    else:
                        same += 1
                        word = int.from_bytes(pages[at], "little") if high == 2 else entry.words[high - 3]
                        yield page, "same %016x" % word
            fields.end()
        check((objects, same, object_bytes) == self.totals, "the totals")
        check(live == [segment[2] for segment in self.listed], "live bytes")


def main(files):
    snapshot = None
    for file in reversed(files):
        with open(file, "rb") as opened:
            data = opened.read()
        # A file can have several, each the parent of the next. The last field of an end mark is the length of all.
        ends = [len(data)]
        while ends[0]:
            check(ends[0] >= 80, "it is cut")
            length = int.from_bytes(data[ends[0] - 40:ends[0] - 32], "little")
            check(80 < length <= ends[0], "the end mark, or it is cut")
            ends.insert(0, ends[0] - length)
        for begin, end in zip(ends, ends[1:]):
            snapshot = Snapshot(data[begin:end], snapshot)
            check(begin == 0 or any(snapshot.head.parent), "another parent")
        check(not snapshot.head.basis, "it is cut")
    lines = ["name " + snapshot.name.hex()]
    lines += ["page %d %s" % page for page in snapshot.pages()]
    print("\n".join(lines))


try:
    main(sys.argv[1:])
except (Refused, UnicodeDecodeError) as error:
    sys.exit("refused: %s" % error)
