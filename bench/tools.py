"""The tools that are measured: how each makes a repository, backs up, restores and verifies.

Each gets the same: its own empty directory for repository, cache and settings, a passphrase, and zstd at level 3 or
the nearest that it has. A tool gives commands and runs nothing but its own `--version`.
"""

import os
import shutil
import subprocess

from measure import Command

PASSPHRASE = "correct horse battery staple"


class Tool:
    """`room` is the directory of one repository; the repository itself is `room/store`."""

    name = program = ""
    restores_and_verifies = True

    def __init__(self, program):
        self.program = program

    def version(self):
        said = subprocess.run([self.program, *self.version_arguments], capture_output=True, text=True)
        return (said.stdout or said.stderr).strip().split("\n")[0]

    version_arguments = ("--version",)

    def env(self, room):
        return {
            "HOME": room,
            "XDG_CACHE_HOME": f"{room}/cache",
            "XDG_CONFIG_HOME": f"{room}/config",
            "XDG_DATA_HOME": f"{room}/data",
            "XDG_STATE_HOME": f"{room}/state",
        }

    def command(self, room, *arguments, cwd=None):
        return Command(([self.program, *arguments],), self.env(room), cwd)

    def stored_bytes(self, room):
        return tree_size(f"{room}/store")[1]


class Hikae(Tool):
    name = "hikae"

    def config(self, room, source):
        """Writes the configuration for one source, given as the lines of its section."""
        with open(f"{room}/passphrase", "w") as file:
            file.write(PASSPHRASE + "\n")
        os.chmod(f"{room}/passphrase", 0o600)
        with open(f"{room}/hikae.toml", "w") as file:
            file.write(
                f'[repository.main]\nstore = "{room}/store"\n'
                f'unlock = {{ passphrase = "file:{room}/passphrase" }}\n\n'
                f"[source.input]\n{source}\n\n"
                '[job.all]\nsources = ["input"]\nrepository = "main"\n'
            )

    def hikae(self, room, *arguments):
        return self.command(room, "--config", f"{room}/hikae.toml", *arguments)

    def init(self, room, source):
        self.config(room, f'kind = "files"\ninclude = ["{source}"]')
        return self.hikae(room, "init")

    def init_sqlite(self, room, path):
        self.config(room, f'kind = "sqlite"\npath = "{path}"')
        return self.hikae(room, "init")

    def init_postgresql(self, room, connection):
        self.config(room, f'kind = "postgresql"\nconnection = "{connection}"')
        return self.hikae(room, "init")

    def backup(self, room, source):
        return self.hikae(room, "backup")

    def restore(self, room, target):
        return self.hikae(room, "restore", "latest", "--source", "input", "--target", target)

    def verify(self, room):
        return self.hikae(room, "verify", "--read-data")


class Restic(Tool):
    name = "restic"
    version_arguments = ("version",)

    def env(self, room):
        return {**super().env(room), "RESTIC_PASSWORD": PASSPHRASE, "RESTIC_CACHE_DIR": f"{room}/cache"}

    def restic(self, room, *arguments):
        return self.command(room, "--repo", f"{room}/store", "--compression", "auto", *arguments)

    def init(self, room, source):
        return self.restic(room, "init")

    def backup(self, room, source):
        return self.restic(room, "backup", source)

    def restore(self, room, target):
        return self.restic(room, "restore", "latest", "--target", target)

    def verify(self, room):
        return self.restic(room, "check", "--read-data")


class Rustic(Tool):
    name = "rustic"

    def env(self, room):
        return {**super().env(room), "RUSTIC_PASSWORD": PASSPHRASE, "RUSTIC_NO_PROGRESS": "true"}

    def rustic(self, room, *arguments):
        return self.command(room, "--repository", f"{room}/store", "--cache-dir", f"{room}/cache", *arguments)

    def init(self, room, source):
        return self.rustic(room, "init", "--set-compression", "3")

    def backup(self, room, source):
        return self.rustic(room, "backup", source)

    def restore(self, room, target):
        return self.rustic(room, "restore", "latest", target)

    def verify(self, room):
        return self.rustic(room, "check", "--read-data")


class Borg(Tool):
    name = "borg"

    def env(self, room):
        return {**super().env(room), "BORG_PASSPHRASE": PASSPHRASE, "BORG_BASE_DIR": f"{room}/base"}

    def init(self, room, source):
        return self.command(room, "init", "--encryption", "repokey-blake2", f"{room}/store")

    def backup(self, room, source):
        return self.command(room, "create", "--compression", "zstd,3", f"{room}/store::{{now:%s.%f}}", source)

    def restore(self, room, target):
        # Borg has no word for the newest archive, and `extract` wants its name.
        newest = subprocess.run(
            [self.program, "list", "--last", "1", "--short", f"{room}/store"],
            env={**os.environ, **self.env(room)}, capture_output=True, text=True, check=True,
        ).stdout.strip()
        return self.command(room, "extract", f"{room}/store::{newest}", cwd=target)

    def verify(self, room):
        return self.command(room, "check", "--verify-data", f"{room}/store")


class TarZstd(Tool):
    """The floor: nothing is cut, hashed, sealed or known again; zstd has every core."""

    name = "tar + zstd"

    def version(self):
        tar = subprocess.run(["tar", "--version"], capture_output=True, text=True).stdout.split("\n")[0]
        return f"{tar}; {super().version()}"

    def init(self, room, source):
        return self.command_of(["mkdir", f"{room}/store"])

    def command_of(self, *pipe, **rest):
        return Command(pipe, **rest)

    def backup(self, room, source):
        zstd = [self.program, "-q", "-3", "-T0"]
        return self.command_of(["tar", "-cf", "-", "-C", source, "."], zstd, out=f"{room}/store/all.tar.zst")

    def restore(self, room, target):
        return self.command_of([self.program, "-q", "-dc", f"{room}/store/all.tar.zst"], ["tar", "-xf", "-", "-C", target])

    def verify(self, room):
        return self.command_of([self.program, "-q", "-t", f"{room}/store/all.tar.zst"])


class Ceiling(Tool):
    """Our own pipeline without a repository around it: `cargo run --release -p hikae-repo --example ceiling -- DIR`."""

    name = "ceiling"
    restores_and_verifies = False

    def version(self):
        return "hikae's pipeline alone: read, chunk, hash, compress, seal, write"

    def init(self, room, source):
        return Command((["mkdir", f"{room}/store"],))

    def backup(self, room, source):
        return Command(([self.program, source],), self.env(room))


PEERS = {"restic": Restic, "rustic": Rustic, "borg": Borg, "zstd": TarZstd}


def find(name, paths):
    """The first program of this name in `paths`, then on PATH."""
    for path in paths:
        program = os.path.join(path, name)
        if os.access(program, os.X_OK):
            return program
    return shutil.which(name)


def tree_size(root):
    """Number and bytes of the regular files below `root`."""
    n_files = n_bytes = 0
    for directory, _, names in os.walk(root):
        for name in names:
            found = os.lstat(os.path.join(directory, name))
            if found.st_mode & 0o170000 == 0o100000:
                n_files += 1
                n_bytes += found.st_size
    return n_files, n_bytes
