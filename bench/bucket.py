"""A repository in a bucket of a server on this machine, SeaweedFS: hikae beside restic, beside itself in a directory, and beside
rclone, which copies the same stored bytes and does nothing else."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request

from cluster import NoServer
from measure import Command, Failed
from tools import Hikae, Restic, find, tree_size

HERE = os.path.dirname(os.path.abspath(__file__))
ACCESS_KEY, SECRET_KEY = "benchaccess", "benchsecret0123456789"
MIB = 1 << 20
SLOWER_BY = 0.02


def bucket(bench):
    """2 GiB of mixed files into a bucket; then nothing changed, at once and with 20 ms added to every answer."""
    source = bench.input("mixed", "mixed", bytes=bench.scaled(2048 * MIB), seed=1)
    size = tree_size(source)
    bench.results.input("bucket", f"{size[0]:,} files, {size[1] / MIB:,.1f} MiB; all on one machine", size[1])
    bench.prepare(Command((["tar", "-cf", "-", "-C", source, "."], ["cat"])))
    hikae = [tool for tool in bench.tools if tool.name == "hikae"]
    restic = [tool for tool in bench.tools if tool.name == "restic"]
    rclone = find("rclone", [])
    for n in range(bench.rounds(3)):
        with Server(f"{bench.scratch}/weed-{n}") as server, Slower(server.port) as slower:
            tools = [*(InBucket(tool.program, server, slower, n) for tool in hikae),
                     *(ResticInBucket(tool.program, server, slower, n) for tool in restic)]
            for tool in [*tools, *hikae]:
                tree(bench, tool, source, size, in_bucket=tool in tools)
            if hikae and rclone:
                copy(bench, rclone, hikae[0], server, source, n)
    bench.give_up()


def tree(bench, tool, source, size, in_bucket):
    room = bench.room()
    try:
        bench.prepare(tool.init(room, source))
        name = tool if in_bucket else Named("hikae, directory")
        bench.step("bucket", "first", name, tool.backup(room, source))
        if in_bucket:
            bench.step("bucket", "unchanged", tool, tool.backup(room, source))
            tool.go_slower(room)
            bench.step("bucket", "unchanged, 20 ms", tool, tool.backup(room, source))
            tool.go_faster(room)
            target = bench.target()
            bench.step("bucket", "restore", tool, tool.restore(room, target))
            if tree_size(target) != size:
                raise Failed(f"restored {tree_size(target)} files and bytes of {size}")
    except Failed as error:
        bench.failed("bucket", tool, error)


def copy(bench, rclone, hikae, server, source, n):
    """The same bytes as a repository's, by a program that only copies."""
    room = bench.room()
    try:
        bench.prepare(hikae.init(room, source))
        bench.prepare(hikae.backup(room, source))
        remote = (f":s3,provider=Other,access_key_id={ACCESS_KEY},secret_access_key={SECRET_KEY},"
                  f"endpoint='http://127.0.0.1:{server.port}':copied-{n}")
        bench.prepare(Command(([rclone, "mkdir", remote],)))
        bench.step("bucket", "first", Named("rclone copy"), Command(([rclone, "copy", f"{room}/store", remote],)))
    except Failed as error:
        bench.failed("bucket", Named("rclone copy"), error)


class Named:
    def __init__(self, name):
        self.name = name


class InBucket(Hikae):
    def __init__(self, program, server, slower, n):
        super().__init__(program)
        self.server, self.slower, self.n = server, slower, n

    def config(self, room, source):
        super().config(room, source)
        self.at(room, self.server.port, f'store = "{room}/store"')

    def at(self, room, port, was):
        store = (f'store = {{ s3 = {{ bucket = "hikae-{self.n}", endpoint = "http://127.0.0.1:{port}", '
                 f'access_key = "{ACCESS_KEY}", secret_key = "file:{room}/secret" }} }}')
        with open(os.open(f"{room}/secret", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(SECRET_KEY)
        with open(f"{room}/hikae.toml") as file:
            text = file.read()
        with open(f"{room}/hikae.toml", "w") as file:
            file.write(text.replace(was, store))
        self.store = store

    def init(self, room, source):
        command = super().init(room, source)
        subprocess.run([self.program, "--config", f"{room}/hikae.toml", "store", "init"], check=True,
                       env={**os.environ, **self.env(room)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return command

    def go_slower(self, room):
        self.at(room, self.slower.port, self.store)

    def go_faster(self, room):
        self.at(room, self.server.port, self.store)


class ResticInBucket(Restic):
    def __init__(self, program, server, slower, n):
        super().__init__(program)
        self.server, self.slower, self.n, self.port = server, slower, n, server.port

    def env(self, room):
        return {**super().env(room), "AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}

    def restic(self, room, *arguments):
        repo = f"s3:http://127.0.0.1:{self.port}/restic-{self.n}"
        return self.command(room, "--repo", repo, "--compression", "auto", *arguments)

    def go_slower(self, room):
        self.port = self.slower.port

    def go_faster(self, room):
        self.port = self.server.port


class Server:
    """SeaweedFS on free ports, with all that it keeps in a directory."""

    def __init__(self, directory):
        self.directory = directory
        beside = f"{HERE}/../target/venv/bin/weed"
        self.program = os.environ.get("HIKAE_WEED") or (beside if os.path.exists(beside) else shutil.which("weed"))
        if not self.program:
            raise NoServer("there is no `weed` (SeaweedFS): ./check installs it")

    def __enter__(self):
        os.makedirs(f"{self.directory}/data")
        with open(f"{self.directory}/s3.json", "w") as file:
            json.dump({"identities": [{"name": "bench", "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
                                       "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]}, file)
        kinds = ["master", "volume", "filer", "s3"]
        ports = free_ports(2 * len(kinds))
        flags = [flag for i, kind in enumerate(kinds)
                 for flag in (f"-{kind}.port={ports[2 * i]}", f"-{kind}.port.grpc={ports[2 * i + 1]}")]
        self.port = ports[6]
        log = open(f"{self.directory}/log", "wb")
        self.process = subprocess.Popen(
            [self.program, "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3", "-master.telemetry=false",
             "-master.volumeSizeLimitMB=1024", "-volume.max=64", "-s3.port.iceberg=0", "-s3.port.lance=0",
             f"-dir={self.directory}/data", f"-s3.config={self.directory}/s3.json", *flags,
             f"-filer.localSocket={self.directory}/filer.sock", f"-s3.localSocket={self.directory}/s3.sock"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, "HOME": self.directory})
        for _ in range(1200):
            if self.process.poll() is None and self.answers():
                return self
            time.sleep(0.05)
        self.__exit__()
        raise NoServer("SeaweedFS does not start")

    def answers(self):
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{self.port}/healthz", timeout=5).status == 200
        except OSError:
            return False

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


class Slower:
    """A door to a server behind which every answer begins so much later."""

    def __init__(self, to):
        self.to = to

    def __enter__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()
        return self

    def serve(self):
        while True:
            try:
                client = self.listener.accept()[0]
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.to))
            for one in (client, server):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            asked = threading.Event()
            threading.Thread(target=self.pass_on, args=(client, server, asked.set), daemon=True).start()
            threading.Thread(target=self.pass_on, args=(server, client, lambda event=asked: wait(event)), daemon=True).start()

    def pass_on(self, one, other, before):
        try:
            while data := one.recv(1 << 16):
                before()
                other.sendall(data)
        except OSError:
            pass
        for end in (one, other):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def __exit__(self, *_):
        self.listener.close()


def wait(asked):
    """The first bytes after a question wait; the rest of the answer follows them at once."""
    if asked.is_set():
        asked.clear()
        time.sleep(SLOWER_BY)


def free_ports(n):
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports
