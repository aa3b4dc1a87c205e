#!/usr/bin/env python3
"""Makes the inputs, the same for the same seed: inputs.py mixed|tree|sqlite|sqlite-change|rows …

It runs as a process of its own, because what it holds in memory would count into the peak of what is measured next.
`mixed` takes real files of this machine as far as they go, copied so that every tool reads the same bytes.
"""

import argparse
import itertools
import os
import random
import shutil
import sqlite3
import stat
import sys
import zlib

MIB = 1 << 20

# Share of the bytes, and where real material of that kind is found. The rest of a share is made up.
MIXTURE = {
    "source": (0.35, ["~/.cargo/registry/src", "/usr/include", "/usr/lib/python3", "/usr/share/perl"]),
    "text": (0.15, ["/usr/share/doc", "/usr/share/postgresql", "/usr/share/i18n", "/usr/share/mime", "/var/lib/dpkg"]),
    "binary": (0.30, ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib/gcc", "/usr/bin"]),
    "compressed": (0.20, ["/usr/share/man", "/usr/share/fonts", "/usr/share/icons"]),
}
COMPRESSED = (".gz", ".xz", ".zst", ".bz2", ".png", ".jpg", ".woff2", ".zip", ".crate")


class Text:
    """Prose of made-up words whose frequencies fall as in a language (Zipf): compresses about three times.

    Pieces are cut from one pool. It is large beside what any tool compresses together, so that pieces which overlap are
    a gain to none.
    """

    def __init__(self, rng, n_bytes):
        n_bytes = min(n_bytes, 64 * MIB)
        letters = "etaoinshrdlucmfwypvbgkjqxz"
        words = ["".join(rng.choices(letters, k=rng.randint(2, 11))) for _ in range(20_000)]
        weights = list(itertools.accumulate(1 / (rank + 3) for rank in range(len(words))))
        self.pool = " ".join(rng.choices(words, cum_weights=weights, k=n_bytes // 7 + 100)).encode()
        self.rng = rng

    def slice(self, n_bytes):
        at = self.rng.randrange(max(1, len(self.pool) - n_bytes))
        return self.pool[at : at + n_bytes]


def mixed(out, n_bytes, seed):
    """Source trees, text, binaries and compressed files, of `n_bytes` together."""
    rng = random.Random(seed)
    text = Text(rng, n_bytes)
    for kind, (share, places) in MIXTURE.items():
        left = int(n_bytes * share)
        for place in places:
            left = copy_up_to(os.path.expanduser(place), f"{out}/{kind}", left, kind == "compressed")
        real = int(n_bytes * share) - left
        made_up = 0
        while left > 0:
            piece = made(kind, rng, text, min(left, rng.randint(64 << 10, 16 * MIB)))
            write(f"{out}/{kind}/made/{made_up // 100:03}/{made_up:05}", piece)
            left -= len(piece)
            made_up += 1
        print(f"{kind}: {real / MIB:.0f} MiB of this machine, {(int(n_bytes * share) - left - real) / MIB:.0f} MiB made up")


def copy_up_to(place, out, left, compressed):
    """Copies regular files below `place` in path order until `left` bytes are used up; gives what is left."""
    for directory, names, files in os.walk(place):
        names.sort()
        for name in sorted(files):
            path = os.path.join(directory, name)
            try:
                found = os.lstat(path)
                if not stat.S_ISREG(found.st_mode) or found.st_size > left or name.endswith(COMPRESSED) != compressed:
                    continue
                target = f"{out}/{place.strip('/').replace('/', '-')}/{os.path.relpath(path, place)}"
                os.makedirs(os.path.dirname(target), exist_ok=True)
                shutil.copy2(path, target)
            except OSError:
                continue  # not ours to read: others will do
            left -= found.st_size
            if left < 64 << 10:
                return left
    return left


def made(kind, rng, text, n_bytes):
    if kind == "compressed":
        return rng.randbytes(n_bytes) if rng.random() < 0.5 else zlib.compress(text.slice(n_bytes * 3), 6)[:n_bytes]
    if kind == "binary":
        # Records of eight bytes, half of them small numbers: compresses about one and a half times.
        return b"".join(rng.randbytes(4) + rng.randrange(5000).to_bytes(4, "little") for _ in range(n_bytes // 8 + 1))[:n_bytes]
    return text.slice(n_bytes)


def tree(out, n_files, largest, seed):
    """Files of 64 to `largest` bytes, small ones more often than large ones, 100 to a directory."""
    rng = random.Random(seed)
    text = Text(rng, n_files * largest)
    for n in range(n_files):
        n_bytes = int(64 * (largest / 64) ** rng.random())
        write(f"{out}/{n // 10_000:03}/{n // 100 % 100:02}/{n:07}.txt", b"%07d " % n + text.slice(n_bytes))


def write(path, data):
    try:
        file = open(path, "wb")
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path))
        file = open(path, "wb")
    with file:
        file.write(data)


def sqlite(out, n_bytes, seed):
    """One table with three rows a page of 4096 bytes."""
    text = Text(random.Random(seed), n_bytes)
    database = sqlite3.connect(out)
    database.execute("PRAGMA page_size = 4096")
    database.execute("CREATE TABLE note (id INTEGER PRIMARY KEY, body BLOB NOT NULL)")
    rows = ((n, text.slice(1300)) for n in range(n_bytes // 4096 * 3))
    database.executemany("INSERT INTO note VALUES (?, ?)", rows)
    database.commit()
    database.close()


def sqlite_change(out, share, seed):
    """Changes one row in each of `share` of the pages of `note`, in place."""
    rng = random.Random(seed)
    text = Text(rng, MIB)
    database = sqlite3.connect(out)
    n_rows = database.execute("SELECT count(*) FROM note").fetchone()[0]
    chosen = rng.sample(range(n_rows // 3), int(n_rows // 3 * share))
    database.executemany("UPDATE note SET body = ? WHERE id = ?", ((text.slice(1300), 3 * page + 1) for page in chosen))
    database.commit()
    database.close()


def rows(n_rows, seed):
    """Rows for COPY on standard output: id, owner, title, body, amount, second."""
    rng = random.Random(seed)
    text = Text(rng, n_rows * 200)
    for n in range(1, n_rows + 1):
        title, body = text.slice(rng.randint(20, 60)), text.slice(rng.randint(60, 240))
        second = 1_600_000_000 + n * 17 + rng.randrange(17)
        fields = n, rng.randrange(50_000), title, body, rng.randrange(10_000), n % 100, second
        sys.stdout.buffer.write(b"%d\t%d\t%s\t%s\t%d.%02d\t%d\n" % fields)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["mixed", "tree", "sqlite", "sqlite-change", "rows"])
    parser.add_argument("--out")
    parser.add_argument("--bytes", type=int)
    parser.add_argument("--count", type=int)
    parser.add_argument("--largest", type=int)
    parser.add_argument("--share", type=float)
    parser.add_argument("--seed", type=int, default=1)
    a = parser.parse_args()
    if a.what == "mixed":
        mixed(a.out, a.bytes, a.seed)
    elif a.what == "tree":
        tree(a.out, a.count, a.largest, a.seed)
    elif a.what == "sqlite":
        sqlite(a.out, a.bytes, a.seed)
    elif a.what == "sqlite-change":
        sqlite_change(a.out, a.share, a.seed)
    else:
        rows(a.count, a.seed)


if __name__ == "__main__":
    main()
