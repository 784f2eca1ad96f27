"""The report is what the committed results say, and its verdicts are right."""

import dataclasses
import json
import pathlib
import re
import shutil
import sys
import time

import matplotlib
import numpy as np
import pytest
from PIL import Image

from maml_tf import comparison, evaluation
from maml_tf.config import Config
from maml_tf.settings import ConfigError

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "experiments"))

import collect  # noqa: E402
import figures  # noqa: E402
import pages  # noqa: E402
import protocols  # noqa: E402
import published  # noqa: E402  (a folder of programs, not a package)

RESULTS = ROOT / "results"
EMBEDDED = re.compile(r"data:image/png;base64,[A-Za-z0-9+/=]+")


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory):
    """Returns a folder with the report built anew, from results alone."""
    folder = tmp_path_factory.mktemp("report") / "results"
    shutil.copytree(
        RESULTS,
        folder,
        ignore=shutil.ignore_patterns("figures", "report.*", "*.png"),
    )
    pages.build(folder)
    return folder


def test_the_text_is_the_same(rebuilt):
    for name in ("report.md", "report.html"):
        now, before = (
            EMBEDDED.sub("", (folder / name).read_text(encoding="utf-8"))
            for folder in (rebuilt, RESULTS)
        )
        assert now == before, f"{name}: ./run_experiments.sh report"


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"), float)


@pytest.mark.skipif(
    matplotlib.__version_info__ < (3, 11),
    reason="drawn by matplotlib 3.11; older ones place text otherwise",
)
def test_the_figures_are_the_same(rebuilt):
    names = {path.name for path in (RESULTS / "figures").iterdir()}
    assert names == {path.name for path in (rebuilt / "figures").iterdir()}
    for name in names:
        now, before = (
            pixels(folder / "figures" / name) for folder in (rebuilt, RESULTS)
        )
        assert now.shape == before.shape, name
        assert np.abs(now - before).mean() < 1, name


def test_files_are_small(rebuilt):
    for path in (*RESULTS.rglob("*"), rebuilt / "report.html"):
        assert path.stat().st_size < 1_000_000, path


def test_the_page_needs_no_other_file():
    page = (RESULTS / "report.html").read_text(encoding="utf-8")
    assert len(EMBEDDED.findall(page)) == page.count("<img")
    assert not re.search(r'(src|href)="(?!data:)', page)


def test_results_name_their_commits():
    table = published.read(RESULTS / "protocols.json", published.TABLE_KINDS)
    for facts in (*published.records(), table):
        commits = (facts["commit"] or "").split(", ")
        assert all(re.fullmatch(r"[0-9a-f]{12}\+?", c) for c in commits)


def test_records_agree_with_the_published_numbers():
    names = published.by_name()
    for record in published.records():
        rows = names[record["experiment"]]
        assert record["paper"] == {
            row.step: [row.value, row.ci95]
            for row in rows
            if row.value and int(row.shots) == record["shots"]
            if row.part == record["part"]
        }


def test_policies_of_all_methods_are_taken(tmp_path, monkeypatch):
    """Each stands beside the paper's, and is tested in its own way."""
    monkeypatch.setattr(published, "RECORDS", tmp_path)
    for algo, batch in (("maml_trpo", 20), ("oracle", 1), ("random", None)):
        settings = batch and {"algo": algo, "meta_batch_size": batch}
        found = {
            **OTHERS,
            "algo": algo,
            "metric": "return",
            "mean": [-40.0, -11.0, -4.0, -4.0],
            "ci95": [1.0, 1.0, 1.0, 1.0],
            "tasks": 40,
            "shots": 40,
            "settings": settings,
            "iterations": 100 if batch else 0,
            "seed": 0,
        }
        collect.collected("rl_nav2d", found)
    taken = published.records(tmp_path)
    assert [r["deviations"] for r in taken] == [[]] * 3
    assert {r["part"]: len(r["paper"]) for r in taken} == {
        "maml_trpo": 4,
        "oracle": 1,
        "random": 4,
    }
    rows = {}
    for number in published.by_name()["rl_nav2d"]:
        own = published.measuring(number, taken)
        assert published.status(number, taken) == (
            "measured" if own else "not run"
        )
        if own:
            title, _, *cells, _ = pages._number(number, own)
            rows[title] = cells
    assert rows["rl_nav2d, maml_trpo, 1 step"] == [
        *("-11.68 ± 2.16", "-11.00 ± 1.00"),
        *("intervals overlap", "100 of 100"),
    ]
    assert rows["rl_nav2d, random, 0 steps"] == [
        *("-82.66 ± 2.16", "-40.00 ± 1.00", "above", "0 of 0"),
    ]
    assert len(rows) == 9


STANDARD = {
    "reptile_omniglot_5way_1shot": {"eval_steps": 50, "transductive": False},
    "sinusoid_maml": {"inner_lr": 0.01, "test_set": True, "train": False},
    "sinusoid_multitask": {"inner_lr": 0.01, "test_set": True},
    "rl_nav2d": {"test_updates": 4, "test_transitions": 0, "goal": None},
}


@pytest.mark.parametrize(
    ("name", "changed", "words"),
    [
        ("reptile_omniglot_5way_1shot", {}, []),
        (
            "reptile_omniglot_5way_1shot",
            {"eval_steps": 5, "transductive": True},
            ["--eval_iters=5, not 50", "--transductive=True, not False"],
        ),
        ("sinusoid_maml", {}, []),
        ("sinusoid_maml", {"inner_lr": 0.1}, ["--update_lr=0.1, not 0.01"]),
        ("sinusoid_multitask", {}, []),
        (
            "sinusoid_multitask",
            {"inner_lr": 0.1},
            ["--update_lr=0.1, not 0.01"],
        ),
        ("rl_nav2d", {}, []),
        (
            "rl_nav2d",
            {"test_transitions": 4000},
            ["--test_transitions=4000, not 0"],
        ),
    ],
)
def test_another_test_is_a_deviation(name, changed, words):
    found = {
        "shots": int(published.by_name()[name][0].shots),
        "settings": None,
        "test_settings": {**STANDARD[name], **changed},
    }
    assert collect.deviations(name, found, "maml_trpo") == words


def test_settings_that_changed_while_training_are_deviations():
    found = {
        "shots": 5,
        "settings": None,
        "changes": [
            "--meta_lr: 5.0 before, 0.001 from 100 on",
            "--metatrain_iterations: 100 before, 200 from 100 on",
            "imported: model99, of step 100",
        ],
    }
    changes = collect.deviations("sinusoid_maml", found)
    assert changes == [found["changes"][0], found["changes"][2]]


def test_other_deviations_are_other_records(tmp_path, monkeypatch):
    monkeypatch.setattr(published, "RECORDS", tmp_path)
    for settings in ({"meta_lr": 0.01}, {"inner_steps": 2}, {}):
        found = {"shots": 5, "settings": settings, "iterations": 1, "seed": 0}
        found |= OTHERS
        collect.collected("sinusoid_maml", found)
    taken = published.records(tmp_path)
    assert sorted(len(r["deviations"]) for r in taken) == [0, 1, 1]
    assert len(pages.chosen(taken)) == 1
    assert len(pages.chosen([r for r in taken if r["deviations"]])) == 1


def test_other_runs_are_other_records(tmp_path, monkeypatch):
    monkeypatch.setattr(published, "RECORDS", tmp_path)
    found = {"shots": 5, "settings": {}, "iterations": 1, "seed": 0, **OTHERS}
    changes = {}, {"iterations": 2}, {"seed": 1}, {"shots": 10}
    names = [collect.collected("sinusoid_maml", found | c) for c in changes]
    assert len({*names}) == len(changes)


def test_other_imported_checkpoints_are_other_records(tmp_path, monkeypatch):
    """The originals' of all seeds have one name, and say no more."""
    monkeypatch.setattr(published, "RECORDS", tmp_path)
    found = {"shots": 5, "settings": {}, "iterations": None, "seed": None}
    found |= {**OTHERS, "selected": "imported", "checkpoint": "model59999"}
    scores = [0.9, 0.4], [0.9, 0.5], [0.9, 0.4]
    names = [
        collect.collected("sinusoid_maml", found | {"mean": mean})
        for mean in scores
    ]
    assert names[0] == names[2] != names[1]


CURVE = {
    "reptile_g3": ("evaluation.json", "curve.csv"),
    "omniglot_5way_1shot": ("test_ubs1.json", "validation.csv"),
}
SCORED = {"transductive": False, "eval_steps": 5}


@pytest.mark.parametrize(
    ("name", "changes", "is_of_it"),
    [
        ("reptile_g3", {}, True),
        ("omniglot_5way_1shot", {}, True),
        (
            "reptile_g3",
            {"test_settings": {**SCORED, "transductive": True}},
            False,
        ),
        ("omniglot_5way_1shot", {"selected": "imported"}, False),
    ],
)
def test_the_curve_of_a_training_is_taken_too_if_it_is_of_the_test(
    name, changes, is_of_it, tmp_path, monkeypatch
):
    monkeypatch.setattr(published, "RECORDS", tmp_path / "records")
    run, (result, curve) = tmp_path / "run", CURVE[name]
    run.mkdir()
    found = {"shots": 1, "settings": None, "iterations": 1, "seed": 0}
    found |= {"test_settings": SCORED, **changes}
    (run / result).write_text(json.dumps(found))
    (run / "config.json").write_text(json.dumps(SCORED))
    (run / curve).write_text("iteration,train,test\n1,0.2,0.4\n")
    assert not collect.collect(name, run, since=time.time() + 60)
    [file] = collect.collect(name, run, since=0)
    taken = json.loads((tmp_path / "records" / file).read_text())
    assert ("curve" in taken) == is_of_it
    if is_of_it:
        copy = tmp_path / taken["curve"]
        assert copy.read_bytes() == (run / curve).read_bytes()


@pytest.mark.parametrize(
    ("name", "part", "expected"),
    [
        ("rl_cheetah_dir", "maml_trpo", 100),
        ("rl_cheetah_dir", "pretrain", 1000),
        ("rl_ant_vel", "maml_trpo", 375),
        ("rl_ant_vel", "oracle", 1000),
        ("rl_nav2d", "pretrain", 100),
        ("rl_nav2d", "random", 0),
        ("omniglot_5way_1shot", "", 60_000),
        ("quickstart", "maml", 70_000),
    ],
)
def test_iterations_published_are_those_of_the_method(name, part, expected):
    flagfile = published.by_name()[name][0].flagfile
    found = collect.published_iterations(name, flagfile, part)
    assert found == expected


OTHERS = {
    "metric": "mean squared error",
    "mean": [1.0] * 11,
    "ci95": [0.1] * 11,
    "tasks": 600,
    "queries": 5,
    "norm_statistics": None,
    "selected": "latest",
    "seconds": None,
    "commit": None,
    "machine": None,
}
"""What is in a record, too."""


def of(length, seed=0, deviations=(), published_length=100):
    return {
        "experiment": "omniglot_5way_1shot",
        "part": "",
        "shots": 1,
        "iterations": length,
        "published_iterations": published_length,
        "deviations": list(deviations),
        "seed": seed,
        **OTHERS,
    }


def titled(found):
    """Returns the rows of each table of the report."""
    return {
        title: rows for title, _, rows in pages._sections(found, found, None)
    }


@pytest.mark.parametrize(
    ("found", "chosen"),
    [
        ([of(30), of(60), of(60, 1), of(50, 2)], [1, 2]),
        ([of(60), of(100, 0, ["--meta_lr=0.01, not 0.001"])], [0]),
        ([of(150), of(100), of(100, 1), of(99, 2)], [1, 2]),
        ([of(99), of(200), of(150)], [2]),
        ([of(None), of(1, 1)], [1]),
        ([of(60), of(100, 0, ["--test_tasks=11, not 10"])], [1]),
        ([of(60), of(100, 0, ["--test_tasks=9, not 10"])], [0]),
        ([of(60, 0, ["--test_tasks=11, not 10"]), of(60, 1)], [1]),
    ],
)
def test_what_is_nearest_to_the_published_training_is_chosen(found, chosen):
    assert pages.chosen(found) == [found[i] for i in chosen]


@pytest.mark.parametrize(
    ("found", "status"),
    [
        ([], "not run"),
        ([of(30)], "partly (30%)"),
        ([of(30), of(100, 0, ["--eval_samples=11, not 10"])], "measured"),
        ([of(30), of(100, 0, ["--eval_samples=9, not 10"])], "partly (30%)"),
        ([of(99.9)], "partly (99%)"),
        ([of(60, 0, ["--meta_lr=1, not 2"])], "otherwise (60%)"),
        ([of(30), of(100, 0, ["--meta_lr=1, not 2"])], "partly (30%)"),
        ([of(None, None, ["imported"])], "otherwise"),
        ([of(None, None, ["imported"]), of(0)], "partly (0%)"),
    ],
)
def test_only_what_was_published_counts_as_measured(found, status):
    [number] = published.by_name()["omniglot_5way_1shot"]
    assert published.status(number, found) == status


def test_a_number_is_measured_by_its_own_shots_and_step():
    five, ten = (
        next(n for n in published.by_name()["sinusoid_maml"] if n.shots == k)
        for k in ("5", "10")
    )
    found = [{**of(100), "experiment": "sinusoid_maml", "shots": 5}]
    assert published.status(five, found) == "measured"
    assert published.status(ten, found) == "not run"
    late = dataclasses.replace(five, step="11")
    assert published.status(late, found) == "not run"
    missing = [row[1] for row in titled(found)["Not run"]]
    assert "MAML, Figure 3" in missing


def test_numbers_that_are_missing_differ():
    missing = [tuple(row) for row in titled([])["Not run"]]
    assert len({*missing}) == len(missing)


def test_what_no_number_shows_is_in_the_table_of_others():
    found = [
        {**of(100), "experiment": "sinusoid_maml", "shots": 7},
        {**of(100), "experiment": "sinusoid_oracle", "part": "oracle"},
        {**of(100), "experiment": "of_another_version"},
    ]
    rows = titled(found)["Shorter trainings and other tests"]
    assert [row[0] for row in rows] == [
        "sinusoid_maml, 7-shot",
        "sinusoid_oracle, oracle, 1-shot",
        "of_another_version, 1-shot",
    ]


@pytest.mark.parametrize(
    ("settings", "part", "words"),
    [
        ({"pretrain_iterations": 0, "meta_iterations": 9}, "", []),
        (
            {"pretrain_iterations": 9, "meta_iterations": 0},
            "",
            [
                "--pretrain_iterations=9, not 0",
                "--metatrain_iterations=0, not 70000",
            ],
        ),
        ({"pretrain_iterations": 9, "meta_iterations": 0}, "pretrained", []),
    ],
)
def test_another_phase_of_training_is_a_deviation(settings, part, words):
    found = {"shots": 5, "settings": settings}
    assert collect.deviations("sinusoid_maml", found, part) == words


@pytest.mark.parametrize(
    ("field", "value"), [("num_queries", 15), ("test_set", False)]
)
def test_protocols_start_from_the_published_test(field, value):
    test = {"datasource": "omniglot", "train": False, "test_set": True}
    protocols._require_published(Config(**test))
    with pytest.raises(ConfigError, match=f"--{field}: expected .*protocols"):
        protocols._require_published(Config(**test | {field: value}))


def test_protocols_tell_how_training_deviates(monkeypatch, tmp_path):
    settings = {"meta_lr": 0.01, "datasource": "omniglot"}
    facts = {"commit": "a", "settings": settings, "changes": [], "seed": 3}
    facts["test_settings"] = {"test_iter": 5, "inner_lr": 0.2, "shots": 5}
    monkeypatch.setattr(protocols.run_folder, "facts_of", lambda *_: facts)
    monkeypatch.setattr(protocols, "WHERE", tmp_path / "protocols.json")
    found = protocols.checkpoints.Checkpoint(tmp_path / "model5.npz", 5)
    config = Config(datasource="omniglot", shots=5, test_iter=5, train=False)
    protocols._keep(found, config, [])
    kept = json.loads((tmp_path / "protocols.json").read_text())
    assert kept["deviations"] == [
        "--meta_lr=0.01, not 0.001",
        "--update_lr=0.2, not 0.4",
        "--update_batch_size=5, not 1",
    ]
    assert kept["seed"] == 3


def test_protocols_score_the_papers_inner_step(monkeypatch):
    values = np.arange(22).reshape(2, 11) / 100
    monkeypatch.setattr(protocols.train, "load_learner", lambda config: None)
    monkeypatch.setattr(
        protocols.train,
        "score",
        lambda config, learner: evaluation.AdaptationCurve(values),
    )
    np.testing.assert_allclose(protocols._scores(None), [3, 14])


def test_protocols_pair_the_same_tasks_alone():
    base, scores = np.array([50.0, 70.0, 90.0]), np.array([60.0, 70.0, 95.0])
    paired = protocols._row("x", scores, base, True)
    assert paired["paired"] and paired["mean"] == 75
    expected = comparison.paired(scores, base)
    found = paired["difference"], paired["difference_ci95"]
    np.testing.assert_allclose(found, expected)
    apart = protocols._row("x", scores, base, False)
    halves = [evaluation.half_width(each) for each in (scores, base)]
    assert apart["difference"] == 5 and not apart["paired"]
    assert apart["difference_ci95"] == pytest.approx(np.hypot(*halves))
    assert protocols._row("x", base, None, False)["difference"] is None


def test_which_choices_of_protocols_change_the_tasks():
    beside = {
        words: protocols._beside("base", {*changes})
        for words, changes in protocols.CHOICES.items()
    }
    other = "15 queries a class", "validation classes"
    assert {w for w, b in beside.items() if b == ("base", False)} == {*other}
    assert beside.pop("10,000 tasks") == (None, False)
    assert beside["the best checkpoint on validation classes"] == ("base", True)


def test_an_imported_checkpoint_is_a_deviation():
    found = {"shots": 5, "settings": None, "selected": "imported"}
    found["checkpoint"] = "model59999"
    changes = collect.deviations("sinusoid_maml", found)
    assert changes == ["the checkpoint is imported: model59999"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('{"a":', "Expecting value"),
        ("[]", "missing: experiment, part, "),
        ("3", "not iterable"),
        ('{"experiment": "reptile_g1"}', "missing: part, metric, "),
        (json.dumps(of(1) | {"paper": {}, "mean": None}), r"missing: mean\)"),
        (json.dumps(of(1) | {"paper": {}, "mean": []}), r"missing: mean\)"),
        (json.dumps(of(1) | {"paper": {}, "ci95": ["1"]}), r"missing: ci95\)"),
    ],
)
def test_what_is_no_record_is_named(text, fault, tmp_path):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=f"x.json: expected .*{fault}"):
        published.records(tmp_path)


@pytest.mark.parametrize("change", [{"tasks": "600"}, {"mean": None}, None])
def test_a_damaged_row_of_protocols_is_named(change, tmp_path):
    facts = json.loads((RESULTS / "protocols.json").read_text())
    row = facts["rows"].pop()
    path = tmp_path / "protocols.json"
    path.write_text(json.dumps(facts))
    title, _, rows = pages._protocols(path)
    assert title.endswith(f"iterations, commit {facts['commit']}")
    assert len(rows) == len(facts["rows"])
    facts["rows"].append(change and {**row, **change})
    path.write_text(json.dumps(facts))
    with pytest.raises(ValueError, match=r"protocols.json: .*missing: rows\)"):
        pages._protocols(path)


@pytest.mark.parametrize("length", [1, 3])
def test_curves_begin_with_means_of_the_scores_so_far(length, tmp_path):
    rows = [f"{i},0.5,0.{2 * i}\n" for i in range(length)]
    (tmp_path / "x.csv").write_text("iteration,train,test\n" + "".join(rows))
    found = [
        {**of(length), "experiment": name, "curve": "x.csv", "mean": [0.25]}
        for name in (*figures.COMBINATIONS, figures.REPTILE)
    ]
    found.append({**of(length), "experiment": "reptile_g2", "mean": [0.25]})
    drawn = figures.draw(found, tmp_path)
    names = ["reptile_combinations.png", "reptile_omniglot.png"]
    assert [name for name, _ in drawn] == names
    x, scores = figures._scores(found[0], tmp_path, "test", 2)
    assert x.tolist() == [0, 1, 2][:length]
    assert scores.tolist() == pytest.approx([0, 10, 30][:length])


@pytest.mark.parametrize("text", [None, "iteration,other\n1,0.5\n"])
def test_a_record_whose_curve_is_gone_is_named(text, tmp_path):
    if text:
        (tmp_path / "x.csv").write_text(text)
    found = {**of(100), "experiment": figures.REPTILE, "curve": "x.csv"}
    with pytest.raises(ValueError, match="x.csv: expected the scores of rep"):
        figures.draw([found], tmp_path)


def test_what_cannot_be_drawn_any_more_goes(tmp_path):
    left = tmp_path / "figures" / "reptile_omniglot.png"
    left.parent.mkdir()
    left.touch()
    assert not figures.draw([], tmp_path)
    assert not left.exists()


def test_each_seed_has_its_curves(tmp_path, monkeypatch):
    (tmp_path / "x.csv").write_text("iteration,train,test\n1,0.5,0.5\n")
    facts = {"experiment": figures.REPTILE, "curve": "x.csv", "mean": [0.5]}
    seeds = [{**of(100, seed), **facts} for seed in (0, 1)]
    drawn = {}
    monkeypatch.setattr(
        figures.plots, "plot_training", lambda curves, *_: drawn.update(curves)
    )
    figures._reptile(seeds, tmp_path, "")
    labels = "train classes", "test classes"
    assert {*drawn} == {*labels, *(f"{each}, seed 1" for each in labels)}


def test_the_longest_combinations_are_compared():
    found = [
        of(length) | {"experiment": name, "curve": "x.csv"}
        for name in figures.COMBINATIONS
        for length in (50, 100)
    ]
    drawn = figures._combined(found)
    assert [r["iterations"] for r in drawn] == [100] * len(figures.COMBINATIONS)


def test_a_curve_that_has_left_the_axes_does_not_come_back():
    mean = np.array([1.0, 9.0, 1.0])
    found, _ = figures._inside(mean, np.zeros(3), 4.0)
    np.testing.assert_array_equal(found, [1, np.nan, np.nan])


def test_hours_are_those_of_the_iterations_done(tmp_path, monkeypatch):
    rows = [f"{10 * i},0.5\n" for i in range(1, 6)]
    (tmp_path / "x.csv").write_text("iteration,accuracy_1\n" + "".join(rows))
    drawn = []
    monkeypatch.setattr(
        figures.plots, "plot_training", lambda *given: drawn.append(given)
    )
    record = of(50) | {"curve": "x.csv", "seconds": 3600}
    assert figures._training([record], tmp_path, "x.png", "hours")
    [(curves, _, _, axis)] = drawn
    assert axis == "hours"
    assert curves["MAML"][0].tolist() == [0.2, 0.4, 0.6, 0.8, 1.0]
    record["seconds"] = None
    assert not figures._training([record], tmp_path, "x.png", "hours")
    assert figures._training([record], tmp_path, "x.png", "meta-iterations")


def test_seeds_tested_after_other_steps_meet_in_those_of_both():
    longer = {"mean": [1.0, 3.0, 9.0], "ci95": [0.1, 0.3, 0.9]}
    mean, half = figures.curve([longer, {"mean": [2.0, 5.0], "ci95": [0, 0]}])
    assert mean.tolist() == [1.5, 4]
    assert half.tolist() == pytest.approx([0.05, 0.15])


def number(value="98.7", ci95="0.4", unit="%"):
    return published.Number(
        "x", "", "", value, ci95, unit, "1", "1", "x", "", "none", "", "", ""
    )


def record(iterations=100, deviations=(), diverged=0):
    return {
        "iterations": iterations,
        "published_iterations": 100,
        "deviations": list(deviations),
        "diverged": diverged,
        "selected": "latest",
        "tasks": 600,
        "metric": "mean squared error",
        "mean": [1.0, float("nan") if diverged else 1.0],
        "ci95": [0.1, 0.1],
    }


@pytest.mark.parametrize(
    ("published_number", "mean", "half", "found", "words"),
    [
        (number(), 98.1, 0.3, record(), "intervals overlap"),
        (number(), 97.9, 0.3, record(), "below"),
        (number(), 99.5, 0.3, record(), "above"),
        (number("0.67", "", "MSE"), 0.6, 0.08, record(), "intervals overlap"),
        (number("0.67", "", "MSE"), 0.8, 0.08, record(), "above"),
        (number(), 98.1, 0.3, record(30), "intervals overlap"),
        (
            number(),
            90.0,
            0.3,
            record(30),
            "not comparable, because 30% of the iterations were done (below)",
        ),
        (number("0.67", "", "MSE"), 0.1, 0.08, record(30), "below"),
        (
            number(),
            90.0,
            0.3,
            record(None, ["imported"]),
            "not comparable, because imported (below)",
        ),
        (
            number(),
            90.0,
            0.3,
            record(97, ["--select=validation, not latest"])
            | {"selected": "validation"},
            "not comparable, because --select=validation, not latest (below)",
        ),
        (
            number(),
            100.0,
            0.0,
            record(deviations=["--test_tasks=1, not 600"]),
            "not comparable, because --test_tasks=1, not 600 (above)",
        ),
        (
            number(),
            98.1,
            0.3,
            record(deviations=["classes: validation, not test"]),
            "not comparable, because classes: validation, not test "
            "(intervals overlap)",
        ),
        (
            number("0.67", "", "MSE"),
            float("nan"),
            float("nan"),
            record(diverged=4),
            "not comparable, because the inner loop diverges (the interval is "
            "not finite, or too large to tell; at some step no number in 4 of "
            "600 tasks)",
        ),
        (number(""), 98.0, 0.3, record(), "no value printed"),
    ],
)
def test_verdicts(published_number, mean, half, found, words):
    assert pages.verdict(published_number, mean, half, [found]) == words
