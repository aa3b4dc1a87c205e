"""What was measured, as JSON and as Markdown, and the goals against it."""

import statistics
from dataclasses import asdict

MIB = 1 << 20


class Results:
    """Costs and sizes by work, step and tool, in the order in which they came."""

    def __init__(self):
        self.costs, self.sizes, self.inputs, self.changes, self.failures = {}, {}, {}, {}, []

    def input(self, work, what, n_bytes):
        self.inputs[work] = {"what": what, "bytes": n_bytes}

    def changed(self, work, n_bytes):
        self.changes[work] = n_bytes

    def add(self, work, step, tool, cost):
        self.costs.setdefault((work, step, tool), []).append(cost)

    def stored(self, work, step, tool, n_bytes):
        self.sizes.setdefault((work, step, tool), []).append(n_bytes)

    def fail(self, work, tool, text):
        self.failures.append({"work": work, "tool": tool, "text": text})

    def median(self, work, step, tool, what):
        """The median of `wall_seconds`, `cpu_seconds`, `peak_bytes` or `stored_bytes`; None if not measured."""
        key = (work, step, tool)
        values = self.sizes.get(key) if what == "stored_bytes" else [getattr(cost, what) for cost in self.costs.get(key, [])]
        return statistics.median(values) if values else None

    def steps(self):
        """Each work and step, with the tools that did it."""
        steps = {}
        for work, step, tool in self.costs:
            steps.setdefault((work, step), []).append(tool)
        return steps

    def json(self):
        return {
            "inputs": self.inputs,
            "changed_bytes": self.changes,
            "measured": [
                {"work": work, "step": step, "tool": tool, "rounds": [asdict(cost) for cost in costs],
                 "stored_bytes": self.sizes.get((work, step, tool), [])}
                for (work, step, tool), costs in self.costs.items()
            ],
            "goals": [{"goal": goal, "reached": reached, "met": met} for goal, reached, met in goals(self)],
            "failures": self.failures,
        }


def goals(results):
    """Each goal that this run can judge: in words, what was reached, and whether that is enough."""
    judged = []

    def ratio(work, step, peer, what, at_least=None, at_most=None):
        ours, theirs = (results.median(work, step, tool, what) for tool in ("hikae", peer))
        if not ours or not theirs:
            return
        unit = {"wall_seconds": "wall time", "cpu_seconds": "CPU time", "peak_bytes": "peak memory", "stored_bytes": "stored bytes"}[what]
        if at_least:
            judged.append((f"{work}, {step}: {unit} of {peer} at least {at_least} times ours", f"{theirs / ours:.2f}", theirs / ours >= at_least))
        else:
            judged.append((f"{work}, {step}: our {unit} at most {at_most:.3g} of {peer}'s", f"{ours / theirs:.3f}", ours / theirs <= at_most))

    def bound(work, step, what, most, text, unit=1):
        ours = results.median(work, step, "hikae", what)
        if ours:
            judged.append((text, f"{ours / unit:.2f}", ours <= most))

    for peer, wall, cpu in [("restic", 3, 3), ("rustic", 2, 2), ("borg", 3, 1.8)]:
        ratio("mixed", "first", peer, "wall_seconds", at_least=wall)
        ratio("mixed", "first", peer, "cpu_seconds", at_least=cpu)
    ratio("small-files", "unchanged", "restic", "wall_seconds", at_least=3)
    ratio("small-files", "unchanged", "restic", "cpu_seconds", at_least=3)
    for work in ("mixed", "small-files"):
        ratio(work, "restore", "restic", "wall_seconds", at_least=2)
        ratio(work, "verify", "restic", "wall_seconds", at_least=2)
    ratio("million", "first", "restic", "peak_bytes", at_most=0.5)
    bound("million", "first", "peak_bytes", 200 * MIB, "million, first: our peak memory below 200 MiB", MIB)
    bound("million", "restore", "peak_bytes", 100 * MIB, "million, restore: our peak memory below 100 MiB", MIB)
    ratio("postgres", "each day", "pg_dump -Fc", "stored_bytes", at_most=1 / 15)
    ratio("postgres", "dump", "pg_dump -j2 -Fd -Z0", "wall_seconds", at_most=1.2)
    ratio("cluster", "full", "pgBackRest", "wall_seconds", at_least=2)
    ratio("cluster", "full", "pgBackRest", "cpu_seconds", at_least=1)
    ratio("cluster", "restore", "pgBackRest", "wall_seconds", at_least=1.5)
    size = results.inputs.get("cluster", {}).get("bytes", 0)
    bound("cluster", "0.1 % changed", "stored_bytes", size / 100, "cluster, 0.1 % changed: MB stored for each GB, at most 10", size / 1000)
    ratio("wal", "100 segments", "pgBackRest", "wall_seconds", at_least=2.5)
    bound("wal", "100 segments", "wall_seconds", 100 / 40, "wal: 100 segments durable in 2.5 s, which is 40 a second")
    bound("rpo", "age, 99 %", "wall_seconds", 2, "rpo: seconds that would be lost with the server, 99 % of moments, at most 2")
    changed = results.changes.get("sqlite")
    if changed:
        bound("sqlite", "1 % changed", "stored_bytes", 1.3 * changed, "sqlite: stored bytes at most 1.3 times the changed ones", changed)
    return judged


def markdown(results, about, plot):
    """The whole report. `about` are lines on machine and versions, `plot` the name of the picture."""
    lines = ["# Measurements", "", *(f"- {line}" for line in about), "", f"![Wall and CPU time]({plot})", ""]
    judged = goals(results)
    if judged:
        lines += ["## Goals", "", "| Goal | Reached | Met |", "| --- | ---: | --- |"]
        lines += [f"| {goal} | {reached} | {'yes' if met else '**no**'} |" for goal, reached, met in judged] + [""]
    work_now = None
    for (work, step), tools in results.steps().items():
        if work != work_now:
            lines += [f"## {work}", "", f"Input: {results.inputs[work]['what']}.", ""]
            work_now = work
        lines += table(results, work, step, tools) + [""]
    for failure in results.failures:
        lines.append(f"- **{failure['work']}, {failure['tool']} failed**: {failure['text']}")
    return "\n".join(lines).rstrip() + "\n"


def table(results, work, step, tools):
    """One step: a row for each tool. `×` is how many times ours."""
    rows = [f"### {work}: {step}", "",
            "| Tool | Wall s | least to most | × | CPU s | × | Peak MiB | × | Stored MiB | × |",
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"]
    for tool in tools:
        walls = [cost.wall_seconds for cost in results.costs[work, step, tool]]
        cells = [tool]
        for what, unit, digits in [("wall_seconds", 1, 2), ("cpu_seconds", 1, 2), ("peak_bytes", MIB, 0), ("stored_bytes", MIB, 2)]:
            value, ours = results.median(work, step, tool, what), results.median(work, step, "hikae", what)
            cells.append("" if value is None else f"{value / unit:,.{digits}f}")
            if what == "wall_seconds":
                cells.append(f"{min(walls):.2f} to {max(walls):.2f}")
            cells.append("" if value is None or not ours else f"{value / ours:.2f}")
        rows.append("| " + " | ".join(cells) + " |")
    floor, ceiling = (results.median(work, step, tool, "wall_seconds") for tool in ("tar + zstd", "ceiling"))
    ours = results.median(work, step, "hikae", "wall_seconds")
    if ours and floor:
        cpu = results.median(work, step, "hikae", "cpu_seconds") / results.median(work, step, "tar + zstd", "cpu_seconds")
        rows += ["", f"Distance to the floor (`tar` into `zstd -3`): {ours / floor:.2f} times its wall time, {cpu:.2f} times its CPU time."]
    if ours and ceiling:
        rows += ["", f"The pipeline alone runs at {ceiling / ours:.0%} of our wall time."]
    return rows
