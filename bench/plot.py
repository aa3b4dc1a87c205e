"""The results as one SVG: for each step a row of bars, wall time and CPU time of each tool."""

from html import escape

COLOURS = {"hikae": "#c2410c", "restic": "#2563eb", "rustic": "#0891b2", "borg": "#16a34a"}
OTHERS = ["#6b7280", "#9333ea", "#a16207", "#475569"]
WIDTH, LABEL, BAR, GAP, HEAD = 860, 170, 9, 5, 30


def svg(results, title):
    """The picture as text."""
    body, y = [text(12, 24, title, "title")], 44
    for (work, step), tools in results.steps().items():
        body.append(text(12, y + 16, f"{work}: {step}", "step"))
        y += HEAD - 6
        costs = {tool: [results.median(work, step, tool, what) for what in ("wall_seconds", "cpu_seconds")] for tool in tools}
        scale = (WIDTH - LABEL - 90) / max(max(pair) for pair in costs.values())
        for n, (tool, pair) in enumerate(costs.items()):
            colour = COLOURS.get(tool, OTHERS[n % len(OTHERS)])
            body.append(text(LABEL - 8, y + BAR + 4, tool, "tool"))
            for row, (seconds, opacity, what) in enumerate(zip(pair, (1, 0.45), ("wall", "CPU"))):
                top = y + row * BAR
                body.append(f'<rect x="{LABEL}" y="{top}" width="{max(1, seconds * scale):.1f}" height="{BAR - 1}" '
                            f'fill="{colour}" fill-opacity="{opacity}"/>')
                body.append(text(LABEL + max(1, seconds * scale) + 5, top + BAR - 1, f"{seconds:.2f} s {what}", "value"))
            y += 2 * BAR + GAP
        y += GAP
    style = (
        "text{font-family:sans-serif;fill:#111}.title{font-size:15px;font-weight:600}.step{font-size:12px;font-weight:600}"
        ".tool{font-size:11px;text-anchor:end}.value{font-size:9px;fill:#444}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}" role="img">\n'
        f"<title>{escape(title)}</title>\n<style>{style}</style>\n"
        f'<rect width="{WIDTH}" height="{y}" fill="#fff"/>\n' + "\n".join(body) + "\n</svg>\n"
    )


def text(x, y, what, kind):
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}">{escape(what)}</text>'
