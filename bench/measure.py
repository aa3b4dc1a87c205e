"""Runs one command, or one pipe of commands, and says what it cost. Knows nothing of backups.

Times are of the command and of every child that it waited for (wait4). Peak memory is the largest resident set of any
one process, added up over the members of a pipe. The kernel counts the memory of the process that started a command
into the command's own peak, so no figure can be below `floor()`, a few MiB: this program stays small and leaves large
work to children.
"""

import os
import subprocess
import time
from dataclasses import dataclass, field


class Failed(Exception):
    """A command did not end well; the text is the last that it said."""


@dataclass(frozen=True)
class Command:
    """Argument lists joined by pipes, and where they run."""

    pipe: tuple
    env: dict = field(default_factory=dict)
    cwd: str | None = None
    out: str | None = None  # the file for the last one's standard output
    ok: tuple = (0,)
    on_disk: str | None = None  # what must be on its disk before the command counts as ended


@dataclass(frozen=True)
class Cost:
    """What one command took."""

    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int


def run(command, scratch):
    """Runs `command` to its end; its messages go to a file in `scratch`. Raises `Failed`."""
    os.sync()  # what the one before left to be written is not this one's cost
    said_path = os.path.join(scratch, "said")
    with open(said_path, "wb") as said:
        out = open(command.out, "wb") if command.out else said
        started = time.monotonic()
        children = start(command, out, said)
        ends = [os.wait4(child.pid, 0)[1:] for child in children]
        if command.on_disk:
            subprocess.run(["sync", "--file-system", command.on_disk], check=True)
        wall = time.monotonic() - started
        for child, (status, _) in zip(children, ends):
            child.returncode = os.waitstatus_to_exitcode(status)  # so that Popen does not wait for it again
        if out is not said:
            out.close()
    bad = [child for child in children if child.returncode not in command.ok]
    if bad:
        raise Failed(f"{os.path.basename(bad[0].args[0])} ended with {bad[0].returncode}: {last_words(said_path)}")
    usages = [usage for _, usage in ends]
    return Cost(
        wall_seconds=wall,
        cpu_seconds=sum(usage.ru_utime + usage.ru_stime for usage in usages),
        peak_bytes=sum(usage.ru_maxrss * 1024 for usage in usages),
    )


def start(command, out, said):
    """Starts the members of the pipe, each reading from the one before."""
    children = []
    for i, argv in enumerate(command.pipe):
        last = i + 1 == len(command.pipe)
        child = subprocess.Popen(
            argv,
            stdin=children[-1].stdout if children else subprocess.DEVNULL,
            stdout=out if last else subprocess.PIPE,
            stderr=said,
            env={**os.environ, **command.env},
            cwd=command.cwd,
        )
        if children:
            children[-1].stdout.close()  # so that the writer hears of a reader that ended
        children.append(child)
    return children


def last_words(path):
    with open(path, "rb") as said:
        lines = said.read()[-4000:].decode(errors="replace").split("\n")
    return " / ".join([line.strip() for line in lines if line.strip()][-3:]) or "it said nothing"


def floor(scratch):
    """The peak that is shown for a command that needs none."""
    return run(Command((["true"],)), scratch).peak_bytes
