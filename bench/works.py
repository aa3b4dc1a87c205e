"""The works that are measured. Each takes a `Bench` and adds what it measured to its results."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace

import bucket
import physical
import rpo
from cluster import Cluster
from measure import Command, Failed, run
from tools import tree_size

MIB = 1 << 20
HERE = os.path.dirname(os.path.abspath(__file__))


class Bench:
    """Tools, sizes and scratch space of one run, and what was measured so far."""

    def __init__(self, tools, work, rounds, scale, quick, results):
        self.tools, self.work, self.results = tools, work, results
        self.asked_rounds, self.scale, self.quick = rounds, scale, quick
        self.scratch = f"{work}/scratch"
        self.used, self.n_used = {}, 0
        self.close()
        os.makedirs(self.scratch)

    def rounds(self, usual):
        return self.asked_rounds or (1 if self.quick else usual)

    def scaled(self, whole):
        return int(whole * self.scale)

    def turns(self, tools, n_rounds):
        """Every tool once a round, each round beginning with another one."""
        for n in range(n_rounds):
            first = n % max(1, len(tools))
            for tool in tools[first:] + tools[:first]:
                yield tool

    def room(self):
        """An empty directory for one repository. The one before is given up."""
        return self.empty("room")

    def target(self):
        """An empty directory to restore into. The one before is given up."""
        return self.empty("target")

    def empty(self, kind):
        """A new directory. What the one before held is cut to nothing, and removed only at the end of the run: ext4 looks
        over every inode that was freed in the last five minutes when it makes a file (`recently_deleted` in the kernel's
        fs/ext4/ialloc.c), and whoever came after a removal of many files would pay for it, tenfold."""
        if kind in self.used:
            cut_to_nothing(self.used[kind])
        self.n_used += 1
        self.used[kind] = f"{self.scratch}/{kind}-{self.n_used}"
        os.makedirs(self.used[kind])
        return self.used[kind]

    def give_up(self):
        """Frees the space of the last room and target."""
        for kind in list(self.used):
            cut_to_nothing(self.used.pop(kind))

    def close(self):
        """Removes all scratch space but the inputs."""
        shutil.rmtree(self.scratch, ignore_errors=True)

    def prepare(self, command):
        """Runs what is not measured."""
        return run(command, self.scratch)

    def step(self, work, step, tool, command):
        """Measures one command."""
        cost = run(command, self.scratch)
        self.results.add(work, step, tool.name, cost)
        print(f"  {work}, {step}, {tool.name}: {cost.wall_seconds:.2f} s, CPU {cost.cpu_seconds:.2f} s, "
              f"{cost.peak_bytes / MIB:.0f} MiB", flush=True)

    def failed(self, work, tool, error):
        text = str(error).replace(self.work, "$WORK")
        self.results.fail(work, tool.name, text)
        print(f"  {work}, {tool.name}: FAILED: {text}", flush=True)

    def input(self, name, what, **arguments):
        """The input of this name, made unless it is there already. Gives its path."""
        stamp = " ".join([what, *(f"{key}={value}" for key, value in arguments.items())])
        path = f"{self.work}/inputs/{name}"
        if not os.path.exists(f"{path}.made") or open(f"{path}.made").read() != stamp:
            shutil.rmtree(path, ignore_errors=True)
            if os.path.exists(path):
                os.remove(path)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            print(f"making {name} ({stamp})", flush=True)
            options = [word for key, value in arguments.items() for word in (f"--{key}", str(value))]
            subprocess.run([sys.executable, f"{HERE}/inputs.py", what, "--out", path, *options], check=True)
            with open(f"{path}.made", "w") as file:
                file.write(stamp)
        return path


def cut_to_nothing(root):
    """Frees the space of all regular files below `root` and keeps the files."""
    for directory, _, names in os.walk(root):
        for path in (os.path.join(directory, name) for name in names):
            if os.path.isfile(path) and not os.path.islink(path):
                os.chmod(path, 0o600)
                os.truncate(path, 0)


def mixed(bench):
    """2 GiB of source trees, text, binaries and compressed files."""
    source = bench.input("mixed", "mixed", bytes=bench.scaled(2048 * MIB), seed=1)
    tree_work(bench, "mixed", source, bench.rounds(3))


def small_files(bench):
    """200,000 files of 64 bytes to 8 KiB."""
    source = bench.input("small-files", "tree", count=bench.scaled(200_000), largest=8192, seed=2)
    tree_work(bench, "small-files", source, bench.rounds(3))


def million(bench):
    """1,000,000 files of 64 to 1024 bytes: peak memory."""
    source = bench.input("million", "tree", count=bench.scaled(1_000_000), largest=1024, seed=3)
    tree_work(bench, "million", source, bench.rounds(1), steps=("first", "unchanged", "restore"))


def tree_work(bench, work, source, n_rounds, steps=("first", "unchanged", "restore", "verify")):
    """A first backup into a new repository, one with nothing changed, a restore, and a verify of all data."""
    size = tree_size(source)
    bench.results.input(work, f"{size[0]:,} files, {size[1] / MIB:,.1f} MiB", size[1])
    # Every tool finds the input in the page cache, as far as it has room there.
    bench.prepare(Command((["tar", "-cf", "-", "-C", source, "."], ["cat"])))
    for tool in bench.turns(bench.tools, n_rounds):
        room = bench.room()
        try:
            bench.prepare(tool.init(room, source))
            bench.step(work, "first", tool, tool.backup(room, source))
            if not tool.restores_and_verifies:
                continue
            bench.results.stored(work, "first", tool.name, tool.stored_bytes(room))
            if "unchanged" in steps and tool.name != "tar + zstd":
                bench.step(work, "unchanged", tool, tool.backup(room, source))
            target = bench.target()
            bench.step(work, "restore", tool, replace(tool.restore(room, target), on_disk=target))
            if tree_size(target) != size:
                raise Failed(f"restored {tree_size(target)} files and bytes of {size}")
            if "verify" in steps:
                bench.step(work, "verify", tool, tool.verify(room))
        except Failed as error:
            bench.failed(work, tool, error)
    bench.give_up()


class Dump:
    """`pg_dump` in one of its shapes."""

    def __init__(self, name, programs, connection, *arguments, through=None):
        self.name, self.through = name, through
        self.argv = [f"{programs}/pg_dump", *arguments, "-d", connection]

    def command(self, room):
        if self.through:
            return Command((self.argv, self.through), out=f"{room}/dump")
        return Command(([*self.argv, "-f", f"{room}/dump"],))

    def stored_bytes(self, room):
        path = f"{room}/dump"
        return tree_size(path)[1] if os.path.isdir(path) else os.path.getsize(path)


def postgres(bench):
    """A database of 1 GB: the dump, and 30 daily backups with 0.1 % of the rows changed at random each day."""
    n_rows = {"orders": 2_050_000, "events": 1_030_000, "notes": 310_000}
    n_rows = {table: bench.scaled(n) for table, n in n_rows.items()}
    n_days = 3 if bench.quick else 30
    with Cluster() as cluster:
        for seed, (table, n) in enumerate(n_rows.items()):
            fill(cluster, table, n, seed)
        cluster.sql("VACUUM ANALYZE")
        cluster.sql("CHECKPOINT")
        n_bytes = int(cluster.sql("SELECT pg_database_size('bench')"))
        bench.results.input("postgres", f"{sum(n_rows.values()):,} rows, {n_bytes / 1e6:,.0f} MB", n_bytes)
        custom = Dump("pg_dump -Fc", cluster.bin, cluster.connection, "-Fc")
        dumps = [
            Dump("pg_dump -j2 -Fd -Z0", cluster.bin, cluster.connection, "-j2", "-Fd", "-Z0"),
            custom,
            Dump("pg_dump + gzip", cluster.bin, cluster.connection, through=["gzip"]),
        ]
        hikae = [tool for tool in bench.tools if tool.name == "hikae"]
        for tool in bench.turns([*hikae, *dumps], bench.rounds(3)):
            room = bench.room()
            try:
                if isinstance(tool, Dump):
                    bench.step("postgres", "dump", tool, tool.command(room))
                else:
                    bench.prepare(tool.init_postgresql(room, cluster.connection))
                    bench.step("postgres", "dump", tool, tool.backup(room, None))
                bench.results.stored("postgres", "dump", tool.name, tool.stored_bytes(room))
            except Failed as error:
                bench.failed("postgres", tool, error)
        daily(bench, cluster, n_rows, n_days, hikae, custom)


def daily(bench, cluster, n_rows, n_days, hikae, custom):
    """Backs up each day's state with hikae into one repository and with `pg_dump -Fc` into one file a day."""
    kept = 0
    room = bench.room()
    going = [custom]
    for tool in hikae:
        try:
            bench.prepare(tool.init_postgresql(room, cluster.connection))
            going.append(tool)
        except Failed as error:
            bench.failed("postgres", tool, error)
    os.makedirs(f"{room}/dumps")
    for day in range(n_days):
        if day > 0:
            change(cluster, n_rows, day)
        for tool in list(going):
            try:
                if tool is custom:
                    bench.step("postgres", "each day", tool, tool.command(f"{room}/dumps"))
                    kept += tool.stored_bytes(f"{room}/dumps")
                else:
                    bench.step("postgres", "each day", tool, tool.backup(room, None))
            except Failed as error:
                going.remove(tool)
                bench.failed("postgres", tool, error)
    for tool in going:
        stored = kept if tool is custom else tool.stored_bytes(room)
        bench.results.stored("postgres", "each day", tool.name, stored)
    bench.give_up()


def fill(cluster, table, n_rows, seed):
    cluster.sql(f"CREATE TABLE {table} (id bigint PRIMARY KEY, owner integer NOT NULL, title text NOT NULL, "
                "body text NOT NULL, amount numeric(12, 2) NOT NULL, second bigint NOT NULL)")
    rows = subprocess.Popen([sys.executable, f"{HERE}/inputs.py", "rows", "--count", str(n_rows), "--seed", str(seed)],
                            stdout=subprocess.PIPE)
    cluster.sql(f"COPY {table} FROM STDIN", stdin=rows.stdout)
    rows.stdout.close()
    if rows.wait() != 0:
        raise Failed("the rows could not be made")
    cluster.sql(f"CREATE INDEX ON {table} (owner)")


def change(cluster, n_rows, day):
    """One day: 0.1 % of the rows of each table at random, then what autovacuum would have done by the next."""
    for table, n in n_rows.items():
        cluster.sql(f"SELECT setseed({day / 100})",
                    f"UPDATE {table} SET body = reverse(body), amount = amount + 1 WHERE id IN "
                    f"(SELECT 1 + floor(random() * {n})::bigint FROM generate_series(1, {max(1, n // 1000)}))")
    cluster.sql("VACUUM")
    cluster.sql("CHECKPOINT")


def sqlite(bench):
    """A SQLite database of 1 GB, before and after 1 % of its pages changed."""
    before = bench.input("before.db", "sqlite", bytes=bench.scaled(1000 * MIB), seed=4)
    after, live = f"{bench.work}/inputs/after.db", f"{bench.scratch}/live.db"
    shutil.copyfile(before, after)
    subprocess.run([sys.executable, f"{HERE}/inputs.py", "sqlite-change", "--out", after, "--share", "0.01"], check=True)
    changed_bytes = differing_bytes(before, after)
    n_bytes = os.path.getsize(before)
    bench.results.input("sqlite", f"{n_bytes / 1e6:,.0f} MB, then {changed_bytes / MIB:.2f} MiB of its pages changed", n_bytes)
    bench.results.changed("sqlite", changed_bytes)
    for tool in bench.turns([t for t in bench.tools if t.restores_and_verifies and t.name != "tar + zstd"], bench.rounds(1)):
        room = bench.room()
        try:
            shutil.copyfile(before, live)
            bench.prepare(tool.init_sqlite(room, live) if tool.name == "hikae" else tool.init(room, live))
            bench.step("sqlite", "first", tool, tool.backup(room, live))
            first = tool.stored_bytes(room)
            bench.results.stored("sqlite", "first", tool.name, first)
            shutil.copyfile(after, live)
            bench.step("sqlite", "1 % changed", tool, tool.backup(room, live))
            bench.results.stored("sqlite", "1 % changed", tool.name, tool.stored_bytes(room) - first)
        except Failed as error:
            bench.failed("sqlite", tool, error)
    bench.give_up()


def differing_bytes(one, other, page_bytes=4096):
    """Bytes of the pages that differ, with those that only the longer file has."""
    n_pages = 0
    with open(one, "rb") as a, open(other, "rb") as b:
        while True:
            page, other_page = a.read(page_bytes), b.read(page_bytes)
            if not page and not other_page:
                return n_pages * page_bytes
            n_pages += page != other_page


WORKS = {
    "mixed": mixed,
    "small-files": small_files,
    "million": million,
    "postgres": postgres,
    "sqlite": sqlite,
    "cluster": physical.cluster,
    "wal": physical.wal,
    "rpo": rpo.rpo,
    "bucket": bucket.bucket,
}
