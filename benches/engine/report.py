"""The figures as Markdown: medians, ratios, and which targets hold."""

from dataclasses import dataclass
from statistics import median

BEGIN = "<!-- measured: make bench-engine -->"
END = "<!-- end of what was measured -->"
OURS, PEER, OPENBLAS, LLAMA = "roundhouse", "mlx-lm", "mlx-lm + OpenBLAS", "llama.cpp"
TITLES = {"4bit": "4 bit", "8bit": "8 bit", "f32": "Dense (float32)"}


@dataclass(frozen=True)
class Measure:
    """One row: whether it is a time or a rate, and how it is written."""

    title: str
    unit: str
    is_time: bool


MEASURES = {
    "ready": Measure("spawn to ready", "s", True),
    "first": Measure("start to first answer, one token", "s", True),
    "prompt 32": Measure("first token of a prompt of 32 tokens", "s", True),
    "prompt 450": Measure("first token of a prompt of 450 tokens", "s", True),
    "prompt 2000": Measure("first token of a prompt of 2,000 tokens", "s", True),
    "turn 1": Measure("first token of a first turn of 680 tokens", "s", True),
    "turn 2": Measure("first token of the second turn", "s", True),
    "whole prompt": Measure("first token of 680 tokens, room for one model", "s", True),
    "return": Measure("first token of the second turn after A→B→A", "s", True),
    "decode": Measure("decode, one stream", "tokens/s", False),
    "streams 1": Measure("one request of these, in all", "tokens/s", False),
    "streams 8": Measure("8 concurrent requests, in all", "tokens/s", False),
    "streams 32": Measure("32 concurrent requests, in all", "tokens/s", False),
}


@dataclass(frozen=True)
class Target:
    """A wanted ratio of ours to a peer's: at most for a time, at least for a rate.
    The peer may be ourselves at something else, `at`."""

    peer: str
    ratio: float
    models: tuple
    at: str | None = None


EVERY = ("4bit", "8bit", "f32")
FOUR, DENSE = ("4bit",), ("f32",)
A_PROMPT = [Target(PEER, 0.2, EVERY), Target(LLAMA, 1.0, FOUR), Target(OPENBLAS, 1.0, DENSE)]
TARGETS = {
    "ready": [Target(PEER, 0.25, EVERY)],
    "prompt 32": A_PROMPT,
    "prompt 450": A_PROMPT,
    "prompt 2000": A_PROMPT,
    "turn 2": [Target(OURS, 1 / 30, EVERY, "turn 1")],
    "return": [Target(OURS, 1 / 10, EVERY, "whole prompt")],
    "decode": [Target(PEER, 3.0, ("4bit", "f32")), Target(LLAMA, 1.5, FOUR)],
    "streams 8": [Target(PEER, 4.0, EVERY), Target(OURS, 4.0, DENSE, "streams 1")],
}


def render(costs, arguments, facts, products):
    """The measured part of the page."""
    kinds = [kind for kind in arguments.models if (kind, OURS, "ready") in costs]
    parts = ["".join(f"- {name}: {value}\n" for name, value in facts)]
    parts.append(
        f"Interleaved rounds: {arguments.rounds}; engines on core {arguments.core}, the client on "
        f"the others; {arguments.decode} tokens decoded, {arguments.concurrent} tokens of each of "
        "the concurrent streams. Each cell is the median, with least and most in brackets; what "
        "takes mlx-lm minutes it did once.\n"
    )
    parts.append("### Targets\n\n" + targets(costs, kinds))
    for kind in kinds:
        parts.append(f"### {TITLES.get(kind, kind)}\n\n" + table(costs, kind))
    if products:
        parts.append("### Matrix product, 1024 × 1024\n\n" + product_table(products))
    return "\n".join(parts)


def targets(costs, kinds):
    """One row for each target: ratios by the clock and by processor time."""
    rows = [
        "| model | measure | beside | wanted | ratio | by processor time | |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind in kinds:
        for name, wanted in TARGETS.items():
            for target in wanted:
                peer = costs.get((kind, target.peer, target.at or name))
                if kind in target.models and peer:
                    rows.append(target_row(kind, name, target, costs[kind, OURS, name], peer))
    return "\n".join(rows) + "\n"


def target_row(kind, name, target, ours, peer):
    measure = MEASURES[name]
    wall, processor = ratio(ours, peer, "wall"), ratio(ours, peer, "processor")
    holds = wall <= target.ratio if measure.is_time else wall >= target.ratio
    sign = "≤" if measure.is_time else "≥"
    beside = MEASURES[target.at].title if target.at else target.peer
    return (
        f"| {TITLES.get(kind, kind)} | {measure.title} | {beside} | "
        f"{sign} {target.ratio:.2g}× | {wall:.3g}× | {processor:.3g}× | "
        f"{'holds' if holds else '**missed**'} |"
    )


def table(costs, kind):
    """One model: a row for each measure, a column for each engine."""
    engines = [e for e in (OURS, PEER, OPENBLAS, LLAMA) if (kind, e, "ready") in costs]
    rows = ["| | " + " | ".join(engines) + " | core had |", "|---" * (len(engines) + 2) + "|"]
    for name, measure in MEASURES.items():
        found = [costs.get((kind, engine, name)) for engine in engines]
        cells = [cell(each) if each else "" for each in found]
        shares = " / ".join(share(each, measure.is_time) if each else "–" for each in found)
        rows.append(f"| {measure.title}, {measure.unit} | {' | '.join(cells)} | {shares} |")
    return "\n".join(rows) + "\n"


def cell(found):
    return spread([cost.wall for cost in found])


def spread(values):
    """The median, with least and most in brackets."""
    return f"{number(median(values))} ({number(min(values))}–{number(max(values))})"


def share(found, is_time):
    """How much of its core the engine got, in the median: below 95 % it waited, or
    others ran there too."""
    parts = [c.processor / c.wall if is_time else c.wall / c.processor for c in found]
    return f"{min(median(parts), 1):.0%}"


def number(value):
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def ratio(ours, peer, clock):
    """Ratio of the medians, ours by the peer's."""
    ours, peer = (median(getattr(cost, clock) for cost in found) for found in (ours, peer))
    return ours / peer


def product_table(products):
    rows = ["| | `target/release/examples/product 1024` |", "|---|---|"]
    return "\n".join(rows + [f"| {name} | {said} |" for name, said in products]) + "\n"


def write(page, text, begin, end):
    """Replaces what stands between the two marks of a page."""
    content = page.read_text()
    before, found, rest = content.partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found and found_end):
        raise SystemExit(f"{page} has no marks '{begin}' and '{end}'")
    page.write_text(f"{before}{begin}\n\n{text}\n{end}{after}")
