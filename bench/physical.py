"""What PostgreSQL's own files cost: base backups, and archiving the write-ahead log.

The server's user is not ours, and pgBackRest runs as that user; hikae reads the data directory as root. Without root both run
as who calls.
"""

import os
import shutil
import subprocess
import time

from cluster import Cluster, NoServer
from measure import Command, Cost, Failed
from tools import tree_size

GRANTS = (
    "ALTER ROLE reader REPLICATION",
    "GRANT pg_read_all_settings TO reader",
    "GRANT EXECUTE ON FUNCTION pg_backup_start(text, boolean), pg_backup_stop(boolean) TO reader",
)
SEGMENT_BYTES = 16 << 20


class BaseBackup:
    """`pg_basebackup` into a directory, uncompressed: what the server itself can do."""

    name = "pg_basebackup"

    def __init__(self, cluster):
        self.cluster = cluster

    def init(self, room):
        return None

    def backup(self, room, full):
        shutil.rmtree(f"{room}/copy", ignore_errors=True)
        return Command(([f"{self.cluster.bin}/pg_basebackup", "-h", self.cluster.directory, "-U", "bench", "-D", f"{room}/copy",
                         "-c", "fast", "-X", "fetch", "--no-sync"],))

    def restore(self, room, target):
        return None

    def stored_bytes(self, room):
        return tree_size(f"{room}/copy")[1]


class PgBackRest:
    """pgBackRest with two processes, zstd and encryption; blocks and bundles where it has them (2.46 and later)."""

    name = "pgBackRest"

    def __init__(self, program, cluster):
        self.program, self.cluster = program, cluster

    def version(self):
        return subprocess.run([self.program, "version"], capture_output=True, text=True).stdout.strip()

    def settings(self, room):
        minor = int(self.version().split()[-1].split(".")[1])
        blocks = "repo1-bundle=y\nrepo1-block=y\n" if minor >= 46 else ""
        return (f"[global]\nrepo1-path={room}/store\nrepo1-retention-full=9\nrepo1-cipher-type=aes-256-cbc\nrepo1-cipher-pass=bench\n{blocks}"
                f"compress-type=zst\nprocess-max=2\nstart-fast=y\narchive-async=y\nspool-path={room}/spool\nlog-path={room}/log\n"
                f"lock-path={room}/lock\nlog-level-console=warn\nlog-level-file=off\n[t]\npg1-path={self.cluster.directory}/data\n"
                f"pg1-socket-path={self.cluster.directory}\npg1-user=bench\npg1-database=postgres\n")

    def init(self, room):
        for name in ("store", "spool", "log", "lock"):
            os.makedirs(f"{room}/{name}")
        with open(f"{room}/pgbackrest.conf", "w") as file:
            file.write(self.settings(room))
        if self.cluster.as_user:
            subprocess.run(["chown", "-R", "nobody", room], check=True)
        os.chmod(room, 0o755)
        subprocess.run(self.argv(room, "stanza-create"), check=True, cwd="/", capture_output=True)
        self.cluster.sql(f"ALTER SYSTEM SET archive_command = '{self.archive_command(room)}'", "SELECT pg_reload_conf()")

    def argv(self, room, *arguments):
        return [*self.cluster.as_user, self.program, f"--config={room}/pgbackrest.conf", "--stanza=t", *arguments]

    def archive_command(self, room):
        return f"{self.program} --config={room}/pgbackrest.conf --stanza=t archive-push %p"

    def backup(self, room, full):
        return Command((self.argv(room, f"--type={'full' if full else 'incr'}", "backup"),), cwd="/")

    def restore(self, room, target):
        if self.cluster.as_user:
            os.chmod(target, 0o700)
            shutil.chown(target, "nobody")
        return Command((self.argv(room, f"--pg1-path={target}", "restore"),), cwd="/")

    def stored_bytes(self, room):
        return tree_size(f"{room}/store/backup")[1]


class HikaeCluster:
    """Base backups of hikae, with the log from start to stop; `read` says by whom the files are read."""

    def __init__(self, hikae, cluster, read):
        self.hikae, self.cluster, self.read = hikae, cluster, read
        self.name = "hikae" if read == "local" else f"hikae, {read}"

    def init(self, room):
        self.hikae.config(room, f'kind = "postgresql-cluster"\nconnection = "{self.cluster.connection}"\nread = "{self.read}"')
        command = self.hikae.hikae(room, "init")
        subprocess.run(command.pipe[0], check=True, capture_output=True, env={**os.environ, **command.env})

    def backup(self, room, full):
        return self.hikae.backup(room, None)

    def restore(self, room, target):
        return self.hikae.restore(room, target)

    def stored_bytes(self, room):
        return self.hikae.stored_bytes(room)


def cluster(bench):
    """A cluster of 1.3 GB: base backups of all of it, with nothing changed, and after 0.1 % of its rows changed at random."""
    n_rows = bench.scaled(8_500_000)
    with Cluster(archive_mode="on", archive_command="/bin/true", full_page_writes="on") as server:
        if server.version >= 17:
            server.sql("ALTER SYSTEM SET summarize_wal = on", "SELECT pg_reload_conf()")
        server.sql("CREATE TABLE accounts (id int PRIMARY KEY, branch int, balance int, filler char(84))",
                   f"INSERT INTO accounts SELECT i, i / 100000, 0, '' FROM generate_series(1, {n_rows}) i", "VACUUM ANALYZE", *GRANTS)
        server.sql("CHECKPOINT")
        n_bytes = int(server.sql("SELECT sum(pg_database_size(oid)) FROM pg_database"))
        bench.results.input("cluster", f"{n_rows:,} rows, {n_bytes / 1e6:,.0f} MB, with page checksums", n_bytes)
        for tool in bench.turns(physical_tools(bench, server), bench.rounds(3)):
            room = bench.room()
            try:
                tool.init(room)
                bench.step("cluster", "full", tool, tool.backup(room, True))
                full = tool.stored_bytes(room)
                bench.results.stored("cluster", "full", tool.name, full)
                if tool.name == "pg_basebackup":
                    continue
                bench.step("cluster", "unchanged", tool, tool.backup(room, False))
                unchanged = tool.stored_bytes(room)
                server.sql(f"UPDATE accounts SET balance = balance + 1 WHERE id IN (SELECT 1 + floor(random() * {n_rows})::int "
                           f"FROM generate_series(1, {max(1, n_rows // 1000)}))", "CHECKPOINT")
                bench.step("cluster", "0.1 % changed", tool, tool.backup(room, False))
                bench.results.stored("cluster", "0.1 % changed", tool.name, tool.stored_bytes(room) - unchanged)
                target = f"{bench.target()}/data"
                if tool.name == "pgBackRest":
                    os.makedirs(target)
                bench.step("cluster", "restore", tool, tool.restore(room, target))
            except (Failed, subprocess.CalledProcessError) as error:
                bench.failed("cluster", tool, error)
        bench.give_up()


def physical_tools(bench, server):
    tools = [HikaeCluster(tool, server, read) for tool in bench.tools if tool.name == "hikae" for read in ("local", "wire")]
    backrest = shutil.which("pgbackrest")
    if backrest:
        tools.append(PgBackRest(backrest, server))
    return [*tools, BaseBackup(server)]


class Archiver:
    """What the server calls for each segment. `command(server, room)` makes what it needs, and gives the `archive_command`."""

    def __init__(self, name, command):
        self.name, self.command = name, command


def archivers(bench):
    for tool in bench.tools:
        if tool.name == "hikae":
            yield Archiver("hikae", lambda server, room, hikae=tool.program: hikae_wal(hikae, server, room))
    backrest = shutil.which("pgbackrest")
    if backrest:
        yield Archiver("pgBackRest", lambda server, room: with_pgbackrest(backrest, server, room))
    yield Archiver("cp", lambda server, room: f"cp %p {room}/%f")
    yield Archiver("/bin/true", lambda server, room: "/bin/true")


def hikae_wal(hikae, server, room):
    if not os.access(f"{hikae}-wal", os.X_OK):
        raise Failed(f"{hikae}-wal is not built")
    hikae, archiver = shutil.copy(hikae, f"{room}/hikae"), shutil.copy(f"{hikae}-wal", f"{room}/hikae-wal")
    with open(f"{room}/hikae.toml", "w") as file:
        file.write(f'[repository.main]\nstore = "{room}/store"\nunlock = {{ key_file = "{room}/key" }}\n')
    subprocess.run([*server.as_user, hikae, "--config", f"{room}/hikae.toml", "init"], check=True, capture_output=True, cwd="/",
                   env={**os.environ, "HOME": room})
    return f"{archiver} push --store {room}/store --key-file {room}/key --cache {room}/cache %p"


def with_pgbackrest(program, server, room):
    tool = PgBackRest(program, server)
    tool.init(room)
    return tool.archive_command(room)


def wal(bench):
    """A backlog of 100 segments of write-ahead log, archived as fast as the server asks for it."""
    n_segments = max(4, bench.scaled(100))
    bench.results.input("wal", f"about {n_segments} segments of 16 MiB", n_segments * SEGMENT_BYTES)
    for archiver in bench.turns(list(archivers(bench)), bench.rounds(3)):
        with Cluster(archive_mode="on", archive_command="/bin/false", full_page_writes="on", max_wal_size="8GB") as server:
            try:
                archive_backlog(bench, server, archiver, n_segments)
            except (Failed, NoServer, subprocess.CalledProcessError) as error:
                bench.failed("wal", archiver, error)


def archive_backlog(bench, server, archiver, n_segments):
    server.sql("CREATE TABLE accounts (id int PRIMARY KEY, branch int, balance int, filler char(84))",
               "INSERT INTO accounts SELECT i, i / 100000, 0, '' FROM generate_series(1, 400000) i", "CHECKPOINT")
    while count_ready(server) < n_segments:
        server.sql("UPDATE accounts SET balance = balance + 1 WHERE id % 4 = (random() * 3)::int")
    # Where the server's user can go, whoever owns the place where we work.
    room = f"{server.directory}/room"
    os.makedirs(room)
    if server.as_user:
        shutil.chown(room, "nobody")
    command = archiver.command(server, room)
    n_before = count_ready(server)
    cpu, started = cpu_of_all(), time.monotonic()
    server.sql(f"ALTER SYSTEM SET archive_command = '{command}'", "SELECT pg_reload_conf()", "SELECT pg_switch_wal()")
    while count_ready(server) > 0:
        if time.monotonic() - started > 300:
            raise Failed(f"{count_ready(server)} segments wait after 300 s")
        time.sleep(0.02)
    wall = time.monotonic() - started
    bench.results.add("wal", "100 segments", archiver.name,
                      Cost(wall * 100 / n_before, (cpu_of_all() - cpu) * 100 / n_before, 0))
    # hikae has its log below the one, pgBackRest below the other.
    stored = sum(tree_size(f"{room}/store/{place}")[1] for place in ("wal", "archive") if os.path.isdir(f"{room}/store/{place}"))
    if stored:
        bench.results.stored("wal", "100 segments", archiver.name, stored * 100 / n_before)
    print(f"  wal, {archiver.name}: {n_before / wall:.1f} segments a second, {stored / n_before / (1 << 20):.2f} MiB stored of each", flush=True)


def count_ready(server):
    status = f"{server.directory}/data/pg_wal/archive_status"
    return sum(name.endswith(".ready") for name in os.listdir(status))


def cpu_of_all():
    """CPU seconds of the whole machine: archive commands are the server's children, not ours."""
    with open("/proc/stat") as file:
        user, nice, system = (int(word) for word in file.readline().split()[1:4])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")
