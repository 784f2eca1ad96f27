"""Builds results/report.md and results/report.html from result files only."""

import base64
import html
import pathlib
import re

import figures
import numpy as np
import published

from maml_tf import files

RULES = """
What was measured is from records, the JSON files in `results/records`. To
repeat one: `./run_experiments.sh NAME --seed=SEED`, at its commit, with the
flags that its deviations name, and of its iterations where they are fewer.

* ± is the 95 % interval over tasks of one trained network; that of
  Reptile's own rows in its paper is over three trainings. Where there are
  several seeds, value and half width are means over them; the interval of the
  mean value itself is no wider.
* *Intervals overlap*, *below* and *above* compare ours with the paper's. Where
  the paper gives no interval its value counts as a point. Of a mean squared
  error less is better.
* *Not comparable*: training or test was not that of the command of this name,
  or ours is worse after fewer iterations than the paper's. After fewer
  iterations and not worse, the verdict stands.
* Whatever differs from the published command is named, first in what the
  command of this name differs by intent. Where the settings of a test were
  *not recorded*, they are those of the command as far as is known; what
  older commits did otherwise is in `results/README.md`.
* The latest checkpoint is tested unless another is named, as the original
  programs do; the MAML paper's was chosen on validation classes.
"""
BATCH_NORM = {
    "queries": "all queries (transductive)",
    "support_and_query": "support and one query",
    "support": "support",
    None: "none",
}


def build(results: pathlib.Path) -> None:
    """Writes figures, report.md and report.html into a results folder."""
    records = published.records(results / "records")
    used = chosen(records)
    drawn = figures.draw(used, results)
    sections = list(
        _sections(records, used, _protocols(results / "protocols.json"))
    )
    lines = ["# Paper and measured", RULES.strip(), ""]
    for title, header, rows in sections:
        lines += [f"## {title}", "", *_markdown([header, *rows]), ""]
    lines += ["## Figures", ""]
    for name, caption in drawn:
        lines += [f"![{caption}](figures/{name})", "", caption, ""]
    text = "\n".join(lines).rstrip() + "\n"
    page = _html(sections, drawn, results / "figures")
    for name, content in (("report.md", text), ("report.html", page)):
        with files.replacing(results / name) as file:
            file.write(content.encode())
    print(f"Written: {results}/report.md, {results}/report.html")


def chosen(records: list[dict]) -> list[dict]:
    """Returns the records of each experiment and test that stand for it.

    Those with the fewest changes; of them those of as many iterations as
    published, or of the next more, or else of the most; all their seeds.
    """
    groups: dict[tuple, list[dict]] = {}
    for record in records:
        key = record["experiment"], record["part"], record["shots"]
        groups.setdefault(key, []).append(record)
    return [r for group in groups.values() for r in _nearest(group)]


def _nearest(group):
    def rank(record):
        done, all_ = record["iterations"] or 0, record["published_iterations"]
        missing = done < all_, abs(done - all_)
        serious = len(published.changes(record))
        return serious, *missing, len(record["deviations"])

    best = min(group, key=rank)
    facts = "deviations", "iterations"
    return [r for r in group if all(r[key] == best[key] for key in facts)]


def _protocols(path):
    """Returns title, header and rows of what choices are worth, if known."""
    if not path.exists():
        return None
    facts = published.read(path, published.TABLE_KINDS)
    title = (
        f"What each choice of the test is worth: {facts['experiment']}, seed "
        f"{facts['seed']}, after {facts['iterations']:,} iterations, commit "
        + _known(facts["commit"])
        + "".join(f"; {word}" for word in facts.get("deviations", ()))
    )
    rows = [published.cells(row) for row in facts["rows"]]
    return title, ["test", "tasks", "accuracy", "difference"], rows


def _sections(records, used, protocols):
    """Yields title, header and rows of each table."""
    numbers = [n for n in published.numbers() if n.flagfile]
    ours = [(n, published.measuring(n, used)) for n in numbers]
    rows = [_number(n, own) for n, own in ours if own]
    yield "Numbers", NUMBERS, rows
    yield "How they were measured", MEASURED, list(map(_measured, used))
    if protocols is not None:
        yield protocols
    shown = [record for _, own in ours for record in own]
    rest = [r for r in records if r not in shown]
    yield "Shorter trainings and other tests", REST, list(map(_short, rest))
    missing = [n for n, own in ours if not own]
    yield "Not run", NOT_RUN, list(map(_not_run, missing))


NUMBERS = [
    "experiment",
    "source",
    "paper",
    "ours",
    "verdict",
    "iterations",
    "deviations",
]
MEASURED = [
    "experiment",
    "seed",
    "tasks",
    "queries a class",
    "statistics of batch norm",
    "checkpoint",
    "settings of the test",
    "commit",
    "wall time",
    "machine",
]
REST = [
    "experiment",
    "seed",
    "iterations",
    "steps",
    "ours",
    "deviations",
    "commit",
]
SELECTED = {
    "latest": "the latest",
    "validation": "the best on validation classes",
    "iteration": "chosen by its number",
    "imported": "imported",
}
UNITS = {"accuracy": "%", "return": "return"}
NEEDS = {"none": "nothing", "mujoco": "MuJoCo"}
NOT_RUN = ["experiment", "source", "paper", "needs", "hours", "command"]


def _number(number, found):
    step = int(number.step)
    mean, half = ours(found, step)
    words = [number.note, *found[0]["deviations"]]
    lost = len(_diverging(found, step))
    among = f"{lost} of " * bool(lost)
    seeds = f" ({among}{len(found)} seeds)" * (len(found) > 1)
    return [
        _title(number),
        number.source or "-",
        number.paper or "-",
        _interval(mean, half, number.unit) + seeds,
        verdict(number, mean, half, found),
        published.progress(found[0]),
        "; ".join(word for word in words if word) or "none",
    ]


def _title(number):
    part = f", {number.part}" * bool(number.part)
    shots = f", {number.shots}-shot" * (number.unit == "MSE")
    plural = "s" * (number.step != "1")
    return f"{number.name}{part}{shots}, {number.step} step{plural}"


def ours(found: list[dict], step: int) -> tuple[float, float]:
    """Returns the mean at an inner step, and its half width."""
    mean, half = figures.curve(found)
    at = 0 if "steps" in found[0] else step
    scale = 100 if found[0]["metric"] == "accuracy" else 1
    return scale * mean[at], scale * half[at]


def verdict(number, mean, half, found) -> str:
    """Returns how ours stands to the paper's, in words.

    Args:
      number: a `published.Number`.
      mean: ours.
      half: the half width of our interval.
      found: the records that it is the mean of.
    """
    if not number.value:
        return "no value printed"
    if not np.isfinite(mean + half):
        lost = _diverging(found, int(number.step))
        count = ", ".join(str(r.get("diverged", "some")) for r in lost)
        return (
            "not comparable, because the inner loop diverges (the interval is "
            "not finite, or too large to tell; at some step no number in "
            f"{count} of {found[0]['tasks']} tasks)"
        )
    difference = mean - float(number.value)
    gap = abs(difference) - half - float(number.ci95 or 0)
    apart = gap > 1e-9  # Intervals that touch overlap.
    relation = "intervals overlap"
    if apart:
        relation = "above" if difference > 0 else "below"
    worse = apart and (difference > 0) == (number.unit == "MSE")
    reasons = published.changes(found[0])
    share = published.share(found[0])
    fewer = share is not None and share < 100
    if fewer and worse and found[0]["selected"] != "validation":
        reasons.append(f"{share}% of the iterations were done")
    if reasons:
        return f"not comparable, because {'; '.join(reasons)} ({relation})"
    return relation


def _diverging(found, step):
    """Returns the records whose mean at a step is not finite."""
    return [r for r in found if not np.isfinite(sum(ours([r], step)))]


def _interval(mean, half, unit):
    if not np.isfinite(mean + half):
        return "diverges"
    if unit == "MSE":
        digits = 2 if mean >= 0.01 else 4
        large = mean >= 1000
        number = f"{mean:.2g}" if large else f"{mean:.{digits}f}"
        width = f"{half:.2g}" if large else f"{half:.{digits}f}"
        return f"{number} ± {width}"
    return f"{mean:.2f} ± {half:.2f}" + " %" * (unit == "%")


def _measured(record):
    selected = SELECTED.get(record["selected"], record["selected"])
    return [
        _label(record),
        _known(record["seed"]),
        f"{record['tasks']:,}",
        "none" if record["queries"] is None else str(record["queries"]),
        BATCH_NORM[record["norm_statistics"]],
        f"after {published.count(record['iterations'])}, {selected}",
        "not recorded" if record.get("test_settings") is None else "recorded",
        _known(record["commit"]),
        _time(record["seconds"]),
        _known(record["machine"]),
    ]


def _label(record):
    part = f", {record['part']}" if record["part"] else ""
    return f"{record['experiment']}{part}, {record['shots']}-shot"


def _known(fact):
    return "not recorded" if fact is None else str(fact)


def _time(seconds):
    if seconds is None:
        return "not recorded"
    minutes = round(seconds / 60)
    if seconds < 600:
        return f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


def _short(record):
    step = _last_step(record)
    unit = UNITS.get(record["metric"], "MSE")
    mean, half = ours([record], step)
    return [
        _label(record),
        _known(record["seed"]),
        published.progress(record),
        str(record["steps"][0] if "steps" in record else step),
        _interval(mean, half, unit),
        "; ".join(record["deviations"]) or "none",
        _known(record["commit"]),
    ]


def _last_step(record):
    """Returns the last published step that a record has, or else its last."""
    last = len(record["mean"]) - 1
    numbers = published.by_name().get(record["experiment"], [])
    steps = [int(number.step) for number in numbers]
    return max([step for step in steps if step <= last], default=last)


def _not_run(number):
    more = ""
    if number.data in ("omniglot", "miniimagenet"):
        more = " --data_dir=DIR"
    if number.part in published.BASELINES:
        folder = f"logs/{number.name}/{number.part}"  # as of --algo=all
        more = f" --algo={number.part} --logdir={folder}"
    return [
        _title(number),
        number.source,
        number.paper or "a curve",
        NEEDS.get(number.data, f"data: {number.data}"),
        number.hours or "not measured",
        f"`./run_experiments.sh {number.name}{more}`",
    ]


def _markdown(table):
    header, *rows = table
    for row in (header, ["---"] * len(header), *rows):
        yield f"| {' | '.join(row)} |"


STYLE = """
body { font: 16px/1.5 sans-serif; max-width: 75em; margin: 2em auto;
  padding: 0 1em; color: #222; }
div { overflow-x: auto; }
table { border-collapse: collapse; font-size: 14px; }
th, td { border-bottom: 1px solid #ddd; padding: 4px 10px; text-align: left;
  vertical-align: top; }
th { background: #f4f4f4; }
img { max-width: 100%; }
figure { margin: 2em 0; max-width: 60em; }
"""


def _html(sections, drawn, folder):
    """Returns one page that needs no other file."""
    parts = [
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width">',
        f"<title>Paper and measured</title><style>{STYLE}</style></head>",
        "<body><h1>Paper and measured</h1>",
        *_prose(RULES),
    ]
    for title, header, rows in sections:
        parts.append(f"<h2>{title}</h2><div><table>")
        parts += [_row(header, "th"), *(_row(row, "td") for row in rows)]
        parts.append("</table></div>")
    parts.append("<h2>Figures</h2>")
    for name, caption in drawn:
        data = base64.b64encode((folder / name).read_bytes()).decode()
        text = html.escape(caption)
        parts.append(
            f'<figure><img alt="{text}" src="data:image/png;base64,{data}">'
            f"<figcaption>{text}</figcaption></figure>"
        )
    return "\n".join([*parts, "</body></html>"]) + "\n"


def _prose(text):
    """Yields the paragraphs of the rules, and their list."""
    first, *points = map(_marked, text.strip().split("\n* "))
    yield f"<p>{first}</p><ul>"
    for point in points:
        yield f"<li>{point}</li>"
    yield "</ul>"


def _marked(text):
    """Returns HTML of Markdown's `code` and *emphasis*."""
    text = re.sub(r"`(.+?)`", r"<code>\1</code>", html.escape(text.strip()))
    return re.sub(r"\*(.+?)\*", r"<em>\1</em>", text)


def _row(cells, kind):
    inner = "".join(f"<{kind}>{_marked(cell)}</{kind}>" for cell in cells)
    return f"<tr>{inner}</tr>"
