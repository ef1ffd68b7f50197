"""The expected folds of ctseg, by an independent ChaCha8 (Bernstein 2008), standard library only.

Prints the expected values in shipped.rs. The key is rand_core's expansion of a 64-bit seed (PCG32, O'Neill
2014); patients sorted by name draw one 64-bit number each and are ordered by it; then the patients with
the most cases come first and go to the fold with the fewest cases.
"""
import struct

M32, M64 = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF


def rotl(x, n):
    return ((x << n) | (x >> (32 - n))) & M32


def expanded(seed):
    words, state = [], seed
    for _ in range(8):
        state = (state * 6364136223846793005 + 11634580027462260723) & M64
        xorshifted, rot = (((state >> 18) ^ state) >> 27) & M32, state >> 59
        words.append(((xorshifted >> rot) | (xorshifted << (32 - rot))) & M32)
    return words


def block(key, counter):
    start = [*struct.unpack("<4I", b"expand 32-byte k"), *key, counter & M32, counter >> 32, 0, 0]
    x = list(start)
    for round_ in range(8):
        for i in range(4):
            a, b, c, d = (i, 4 + i, 8 + i, 12 + i)
            if round_ % 2:
                b, c, d = 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4
            for p, q, r, n in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
                x[p] = (x[p] + x[q]) & M32
                x[r] = rotl(x[r] ^ x[p], n)
    return [(u + v) & M32 for u, v in zip(x, start)]


def draws(seed, count):
    key, words = expanded(seed), []
    while len(words) < 2 * count:
        words += block(key, len(words) // 16)
    return [words[2 * i] | words[2 * i + 1] << 32 for i in range(count)]


def folds(cases, k, seed):
    patients = sorted({patient for _, patient in cases})
    order = [p for _, p in sorted(zip(draws(seed, len(patients)), patients))]
    groups = [[i for i, c in enumerate(cases) if c[1] == p] for p in order]
    sets = [[] for _ in range(k)]
    for group in sorted(groups, key=len, reverse=True):
        min(sets, key=len).extend(group)
    return [sorted(s, key=lambda i: cases[i]) for s in sets]


seven = [(f"c{c}", f"p{c // 2}") for c in range(7)]
print(folds(seven, 3, 42))
headneck = [
    f"kbp_{n:03}"
    for n in (2, 4, 12, 13, 17, 24, 25, 34, 41, 60, 61, 72, 82, 83, 87, 95, 96, 99)
    + (119, 122, 133, 139, 141, 148, 151, 193)
]
for fold in folds([(c, c) for c in headneck], 5, 0):
    print([headneck[i] for i in fold])
