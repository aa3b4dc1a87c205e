"""A throwaway PostgreSQL cluster on a socket of its own, gone with the `with` block."""

import glob
import os
import shutil
import signal
import subprocess
import tempfile
import time


class NoServer(Exception):
    """There is no PostgreSQL here that could be started; the text says why."""


class Cluster:
    """`connection` is for libpq; its role may read and is no superuser, as one that takes backups should be. `settings` go
    before those that every cluster here has, for the sake of speed: none of these must outlive the machine's next reboot."""

    def __init__(self, **settings):
        self.bin = server_programs()
        self.version = int(subprocess.run([f"{self.bin}/postgres", "--version"], capture_output=True, text=True).stdout.split()[2].split(".")[0])
        self.settings = settings
        self.directory = tempfile.mkdtemp(prefix="hikae-bench-")
        self.server = None
        self.connection = f"host={self.directory} dbname=bench user=reader"
        # The server refuses to run as root.
        self.as_user = []
        if os.geteuid() == 0:
            shutil.chown(self.directory, "nobody")
            self.as_user = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
        os.chmod(self.directory, 0o755)

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self):
        data = f"{self.directory}/data"
        self.call([*self.as_user, f"{self.bin}/initdb", "-D", data, "-U", "bench", "--auth=trust", "--no-sync", "--locale=C.UTF-8", "--data-checksums"])
        settings = {"listen_addresses": "", "unix_socket_directories": self.directory, "fsync": "off", "autovacuum": "off",
                    "shared_buffers": "256MB", "max_wal_size": "4GB", "full_page_writes": "off", **self.settings}
        # In the file, and not on the command line: ALTER SYSTEM would lose against that.
        with open(f"{data}/postgresql.conf", "a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
        log = open(f"{self.directory}/log", "wb")
        self.server = subprocess.Popen([*self.as_user, f"{self.bin}/postgres", "-D", data],
                                       stdout=log, stderr=log, cwd="/", start_new_session=True)
        ready = [f"{self.bin}/pg_isready", "-q", "-h", self.directory]
        deadline = time.monotonic() + 60
        while subprocess.run(ready).returncode != 0:
            if self.server.poll() is not None or time.monotonic() > deadline:
                raise NoServer(open(log.name).read()[-500:])
            time.sleep(0.1)
        self.sql("CREATE DATABASE bench", database="postgres")
        self.sql("CREATE ROLE reader LOGIN IN ROLE pg_read_all_data")

    def stop(self):
        if self.server and self.server.poll() is None:
            self.server.send_signal(signal.SIGINT)
            self.server.wait()
        shutil.rmtree(self.directory)

    def sql(self, *statements, database="bench", stdin=None):
        """Runs each statement; gives what the last one printed."""
        commands = [word for statement in statements for word in ("-c", statement)]
        psql = [f"{self.bin}/psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", self.directory, "-U", "bench", "-d"]
        return self.call([*psql, database, *commands], stdin=stdin).strip().split("\n")[-1]

    def call(self, argv, stdin=None):
        done = subprocess.run(argv, stdin=stdin or subprocess.DEVNULL, capture_output=True, text=True, cwd="/")
        if done.returncode != 0:
            raise NoServer(f"{os.path.basename(argv[0])}: {done.stderr.strip()[-500:]}")
        return done.stdout


def server_programs():
    """The directory of the newest server programs, or the one that `BENCH_POSTGRESQL` names."""
    named = os.environ.get("BENCH_POSTGRESQL")
    if named:
        return named

    def major(path):
        name = path.split("/")[-2]
        return int(name) if name.isdigit() else 0

    found = sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=major)
    on_path = shutil.which("postgres")
    if found:
        return found[-1]
    if on_path:
        return os.path.dirname(os.path.realpath(on_path))
    raise NoServer("there is no PostgreSQL server: install postgresql")
