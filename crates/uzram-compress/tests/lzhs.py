#!/usr/bin/env python3
"""lzhs as docs/reference/lzhs.md describes it, with no thought of speed: the witness that tests/lzhs.rs asks.

Usage: lzhs.py compress|decompress COLLECTION < FILE
"""
import sys
import zlib

PAGE, MARK, ESCAPE = 4096, 1023, 640
RAW, CODED, PARTS = 0, 1, 2
RUNS = [(n, 0) for n in range(7)] + [(7, 1), (9, 3), (17, 12)]
MATCHES = [(n, 0) for n in range(4, 15)] + [(15, 1), (17, 3), (25, 4), (41, 6), (105, 12)]
OFFSET_BITS = [0, 0, 9, 12]


class Refused(Exception):
    pass


def check(condition):
    if not condition:
        raise Refused


def canonical(lengths):
    """Symbol to (code as a text of bits, first bit first)."""
    codes, code, before = {}, 0, 0
    for symbol in sorted((s for s in range(len(lengths)) if lengths[s]), key=lambda s: (lengths[s], s)):
        code <<= lengths[symbol] - before
        before = lengths[symbol]
        codes[symbol] = format(code, "0%db" % before)
        code += 1
    check(code == 1 << before)
    return codes


class Collection:
    def __init__(self, data):
        check(data[:5] == b"lzhs\1")
        plain, sub, tokens = data[5:8]
        check(zlib.crc32(data[:8] + data[12:]) == int.from_bytes(data[8:12], "little"))
        check(plain >= 1 and plain + sub <= 32 and 1 <= tokens <= 32)
        check(len(data) == 12 + 128 * (plain + sub) + 321 * tokens)
        nibbles = [n for byte in data[12:] for n in (byte & 15, byte >> 4)]
        self.plain, self.literals, self.tokens = plain, [], []
        for _ in range(plain + sub):
            lengths, nibbles = nibbles[:256], nibbles[256:]
            check(all(1 <= length <= 11 for length in lengths))
            self.literals.append(canonical(lengths))
        for _ in range(tokens):
            lengths, nibbles = nibbles[:642], nibbles[642:]
            check(all(length <= 10 for length in lengths) and lengths[ESCAPE] and not lengths[641])
            self.tokens.append(canonical(lengths))


class Up:
    """Reads bits from a byte on, the lowest first."""

    def __init__(self, data, begin):
        self.text = "".join(format(byte, "08b")[::-1] for byte in data[begin:])
        self.at, self.begin = 0, 8 * begin

    def symbol(self, codes):
        code = ""
        while code not in codes:
            check(self.at < len(self.text))
            code += self.text[self.at]
            self.at += 1
        return codes[code]

    def end(self):
        return self.begin + self.at


class Down:
    """Reads fields from the end of the bytes down."""

    def __init__(self, data):
        self.number, self.at = int.from_bytes(data, "little"), 8 * len(data)

    def field(self, bits):
        self.at -= bits
        check(self.at >= 0)
        return self.number >> self.at & (1 << bits) - 1


def fewer_bits(number, short):
    """By how many bits the offset's field of token number so many is shorter."""
    return 2 if number < 5 * short[0] else 1 if number < 5 * sum(short) else 0


def decode_part(collection, data, plain):
    check(4 <= len(data) < PAGE)
    word = int.from_bytes(data[:4], "little")
    literal_set, token_set, four = word & 31, word >> 5 & 31, word >> 10 & 1
    tokens, token_bytes, begin, short = word >> 12 & 1023, word >> 22, 4, (0, 0)
    check(tokens < MARK)
    check(literal_set < len(collection.literals) and token_set < len(collection.tokens))
    begins, raw = [], False
    if four:
        check(len(data) >= 8)
        high, begin = int.from_bytes(data[4:8], "little"), 8
        raw = high == 1 << 30 and not literal_set
        check(raw or not high >> 30)
        begins = [high & 1023, high >> 10 & 1023, high >> 20]
    if word >> 11 & 1:
        check(len(data) >= begin + 2)
        short, begin = tuple(data[begin:begin + 2]), begin + 2
    begins = [begin + token_bytes + sum(begins[:n]) for n in range(4 if four else 1)]
    invert = lambda codes: {code: symbol for symbol, code in codes.items()}
    codes, up, down = invert(collection.tokens[token_set]), Up(data, begin), Down(data)
    found, position, recent = [], 0, [1, 4]
    for number in range(tokens):
        symbol, fewer = up.symbol(codes), fewer_bits(number, short)
        if symbol == ESCAPE:
            symbol = down.field(10)
            check(symbol < ESCAPE)
        run, match, kind = symbol // 64, symbol // 4 % 16, symbol % 4
        offset = down.field(max(OFFSET_BITS[kind] - fewer, 0)) + 1
        run = RUNS[run][0] + down.field(RUNS[run][1])
        match = MATCHES[match][0] + down.field(MATCHES[match][1])
        if kind < 2:
            offset = recent[kind]
        elif kind == 2:
            offset *= 8
        if kind:
            recent = [offset, recent[0]]
        position += run
        check(offset <= position)
        position += match
        found.append((run, match, offset))
    check(position <= plain and up.end() <= 8 * (begin + token_bytes))
    count = plain - position + sum(run for run, _, _ in found)
    if raw:
        literals = list(data[begins[0]:begins[0] + count])
        check(8 * (begins[0] + count) <= down.at)
    else:
        codes, streams = invert(collection.literals[literal_set]), [Up(data, at) for at in begins]
        literals = [streams[n % len(streams)].symbol(codes) for n in range(count)]
        ends = [8 * at for at in begins[1:]] + [down.at]
        check(all(stream.end() <= end for stream, end in zip(streams, ends)))
    out, last = bytearray(), 1
    for run, match, offset in found + [(plain - position, 0, 1)]:
        for literal in literals[:run]:
            distance = max(last, 8)
            if literal_set >= collection.plain and len(out) >= distance:
                literal += out[-distance]
            out.append(literal & 255)
        del literals[:run]
        for _ in range(match):
            out.append(out[-offset])
        last = offset
    return bytes(out)


def decompress(collection, data, whole=True):
    if len(data) in (0, PAGE):
        return data
    check(len(data) >= 4)
    word = int.from_bytes(data[:4], "little")
    if word >> 12 & 1023 != MARK:
        return decode_part(collection, data, PAGE)
    plain, form, rest = (word & 4095) + 1, word >> 22, data[4:]
    if form == RAW:
        check(len(rest) == plain)
        return rest
    if form == CODED:
        return decode_part(collection, rest, plain)
    check(form == PARTS and plain == 1 and whole)
    out = b""
    while len(rest) >= 2:
        count = int.from_bytes(rest[:2], "little")
        check(len(rest) >= 2 + count)
        out += decompress(collection, rest[2:2 + count], False)
        rest = rest[2 + count:]
    check(rest in (b"", b"\0"))
    return out


def tokens_of(data):
    """Runs, matches and offsets: any division will do; this one is greedy and looks near, and as far as it can."""
    found, at, begin = [], 1, 0
    while at + 4 <= len(data) and len(found) < 1022:
        best, offset = 3, 0
        for distance in [*range(1, min(at, 300) + 1), at]:
            count = 0
            if best == 4200 or data[at:at + 4] != data[at - distance:at - distance + 4]:
                continue
            while at + count < len(data) and count < 4200 and data[at + count] == data[at + count - distance]:
                count += 1
            if count > best:
                best, offset = count, distance
        if offset:
            found.append((at - begin, best, offset))
            at += best
            begin = at
        else:
            at += 1
    return found


def pack(text):
    text += "0" * (-len(text) % 8)
    return bytes(int(text[n:n + 8][::-1], 2) for n in range(0, len(text), 8))


def encode_part(collection, data):
    found, recent, at, last = tokens_of(data), [1, 4], 0, 1
    plain, sub, symbols, fields = [], [], [], []
    for run, match, offset in found + [(None, 0, 0)]:
        run = len(data) - at if run is None else run
        for _ in range(run):
            distance = max(last, 8)
            plain.append(data[at])
            sub.append(data[at] - (data[at - distance] if at >= distance else 0) & 255)
            at += 1
        at, last = at + match, offset
        if not match:
            break
        kind = 0 if offset == recent[0] else 1 if offset == recent[1] else 3 if offset % 8 else 2
        if kind:
            recent = [offset, recent[0]]
        a = max(n for n in range(10) if RUNS[n][0] <= run)
        b = max(n for n in range(16) if MATCHES[n][0] <= match)
        symbols.append((a * 16 + b) * 4 + kind)
        value = [0, 0, offset // 8 - 1, offset - 1][kind]
        fields.append([(value, OFFSET_BITS[kind]), (run - RUNS[a][0], RUNS[a][1]),
                       (match - MATCHES[b][0], MATCHES[b][1])])
    # The most turns of each length; every third part goes without.
    short, reach = [0, 0], [three[0][0] << (0 if three[0][1] == 12 else 3) for three in fields]
    for turn in range(0, len(found) if len(data) % 3 else 0, 5):
        if max(reach[turn:turn + 5]) >= 2048:
            break
        short[1 if short[1] or max(reach[turn:turn + 5]) >= 1024 else 0] += 1
    fields = [[(three[0][0], max(three[0][1] - fewer_bits(n, short), 0)), *three[1:]]
              for n, three in enumerate(fields)]
    cost = lambda codes, some: sum(len(codes.get(s, codes.get(ESCAPE, "") + 10 * "0")) for s in some)
    token_set = min(range(len(collection.tokens)), key=lambda n: cost(collection.tokens[n], symbols))
    of = lambda n: plain if n < collection.plain else sub
    literal_set = min(range(len(collection.literals)), key=lambda n: cost(collection.literals[n], of(n)))
    text, down = "", ""
    codes = collection.tokens[token_set]
    for symbol, three in zip(symbols, fields):
        if symbol not in codes:
            down += format(symbol, "010b")
        text += codes.get(symbol, codes[ESCAPE])
        down += "".join(format(value, "0%db" % bits) for value, bits in three if bits)
    tokens, literals = pack(text), of(literal_set)
    down += "0" * (-len(down) % 8)
    extra = bytes(int(down[n:n + 8], 2) for n in range(0, len(down), 8))[::-1]
    count = 4 if len(literals) % 2 else 1
    streams = [pack("".join(collection.literals[literal_set][s] for s in literals[n::count])) for n in range(count)]
    if max(map(len, [tokens, *streams[:-1]])) > 1023:
        return data
    header = literal_set | token_set << 5 | (count == 4) << 10 | (short != [0, 0]) << 11
    header |= len(found) << 12 | len(tokens) << 22
    header = header.to_bytes(4, "little")
    if count == 4:
        header += (len(streams[0]) | len(streams[1]) << 10 | len(streams[2]) << 20).to_bytes(4, "little")
    if short != [0, 0]:
        header += bytes(short)
    return header + tokens + b"".join(streams) + extra


def compress(collection, data):
    mark = lambda form, plain: (form << 22 | MARK << 12 | plain - 1).to_bytes(4, "little")
    if len(data) > PAGE:
        out = mark(PARTS, 1)
        for at in range(0, len(data), PAGE):
            part = compress(collection, data[at:at + PAGE])
            out += len(part).to_bytes(2, "little") + part
        return out + b"\0" * (len(out) == PAGE)
    if not data:
        return data
    part = encode_part(collection, data)
    if len(part) >= len(data):
        return data if len(data) == PAGE else mark(RAW, len(data)) + data
    return part if len(data) == PAGE else mark(CODED, len(data)) + part


if __name__ == "__main__":
    what = {"compress": compress, "decompress": decompress}[sys.argv[1]]
    with open(sys.argv[2], "rb") as file:
        given = Collection(file.read())
    try:
        sys.stdout.buffer.write(what(given, sys.stdin.buffer.read()))
    except Refused:
        sys.exit("refused")
