import json
import math
import os
import re
import shutil
import subprocess
import tomllib
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pandas as pd
import pytest
from html_reading import Page
from ruamel.yaml import YAML
from test_evaluation import evaluated, tables
from test_provenance import git

from lunaops.errors import InputError
from lunaops.html_report import evidence, numbers
from lunaops.html_report.digits import decimal, difference, interval
from lunaops.html_report.evidence import COUNTED
from lunaops.html_report.material import Earlier, Material, Origin, read_data, read_earlier, read_origin
from lunaops.html_report.page import TEMPLATES, Section, Table, Text, render_page
from lunaops.html_report.report import write_report
from lunaops.tracking import RunLink

ROOT = Path(__file__).parents[1]
HOSTILE = '"><script src="//example.org/x.js"></script><img src=x onerror=alert(1)>'
COUNTS = dict.fromkeys(COUNTED, 1234) | {"diameter_mm_percentiles": {"0": 3.0, "50": 6.43, "100": 32.0}}
ORIGIN = Origin(
    commit="abcdef0" * 5 + "12345",
    is_dirty=True,
    versions={"python": "3.11.7", "torch": "2.11.0"},
    digests={"predictions": "0123456789abcdef" * 2},
    training_run=RunLink("a-journal-id", "learning_rate=0.01 3b9faae"),
)


def pictures(ids):
    planes = {"transverse": (48, 48), "coronal": (32, 48), "sagittal": (32, 48)}
    rng = np.random.default_rng(1)
    return {i: {name: rng.integers(-1000, 400, shape, dtype=np.int16) for name, shape in planes.items()} for i in ids}


def a_material(changes=None, **options):
    given = {
        "evaluation": evaluated(changes),
        "pictures": pictures(range(10, 17)),
        "scans": (changes or {}).get("scans", tables()["scans"]),
        "data": {
            "strategy": "subset",
            "splits": {"train": COUNTS | {"diameter_mm_percentiles": None}, "test": dict(COUNTS)},
            "left_out": {"nodules_without_scan": 3, "duplicate_candidates": 0, "first_nodules_outside_scan": []},
        },
        "origin": ORIGIN,
        "earlier": None,
    }
    return Material(**{**given, **options})


def written(folder, material, name="report.html"):
    write_report(material, folder / name)
    return (folder / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """The whole page of the usual material."""
    return written(tmp_path_factory.mktemp("page"), a_material())


def part(section, **options):
    """A page of one section."""
    return render_page("", "", [section(a_material(**options))], foot=[])


def headings(page_text):
    return re.findall(r"<h2 id=[^>]*>([^<]*)</h2>", page_text)[1:]  # the first is of the contents


def rows(page_text, caption):
    """The cells of a table's rows, by the table's caption."""
    table = page_text[page_text.index(f"<caption>{caption}") :].partition("</table>")[0]
    return [
        [re.sub("<[^>]*>", "", cell).replace("\xa0", " ") for cell in re.findall(r"<t[hd].*?</t[hd]>", row)]
        for row in re.findall(r"<tr>.*?</tr>", table)
    ]


def test_equal_material_gives_equal_bytes(text, tmp_path):
    assert written(tmp_path, a_material()) == text


def test_nothing_lies_outside_the_file_and_every_link_leads_somewhere(text):
    page = Page(text)
    addresses = page.addresses
    assert {address for address in addresses if not address.startswith(("data:", "#"))} == set()
    assert {address[1:] for address in addresses if address.startswith("#")} <= set(page.ids)
    assert {place for _, attributes in page.elements for place in re.findall(r"url\(#(.*?)\)", str(attributes))} <= {
        *page.ids
    }
    assert len(page.ids) == len(set(page.ids))
    assert not {"script", "link", "iframe", "object", "embed", "base"} & {tag for tag, _ in page.elements} - {"link"}
    assert "@import" not in text and "http" not in text.replace("http-equiv", "")


def test_every_picture_says_what_is_on_it(text):
    page = Page(text)
    assert len(page.all("img")) == 4 and all(image["alt"] for image in page.all("img"))
    assert len(page.all("svg")) == 6 and all(svg["role"] == "img" and svg["aria-label"] for svg in page.all("svg"))
    assert page.all("img")[0]["alt"] == "Other, scored 0.800: candidate 13 in three planes"


def test_hostile_names_are_shown_and_never_run(tmp_path):
    frames = tables()
    changes = {
        name: table.replace({"series_uid": {"b": HOSTILE}}) for name, table in frames.items() if name != "excluded"
    }
    origin = replace(ORIGIN, training_run=RunLink(HOSTILE, HOSTILE))
    page = Page(written(tmp_path, a_material(changes, origin=origin)))
    assert page.all("script") == []
    assert (
        page.words.count(HOSTILE) == 5
    )  # its scan and two of its candidates; the run's name, at the top and in its section; its journal
    assert all("onerror" not in attributes for _, attributes in page.elements)


def test_the_numbers_come_first_with_their_intervals(text):
    assert headings(text)[0] == "The numbers"
    metrics = evaluated().metrics
    assert f"<dt>CPM</dt><dd><strong>0.556</strong> <span>95 %: {interval(metrics, 'cpm')}" in text
    table = rows(text, "Sensitivity by LUNA16")
    assert [row[0] for row in table] == ["False positives per scan", "1/8", "1/4", "1"]
    assert table[1][1:] == ["0.333", interval(metrics, "sensitivity_at/0.125").replace("\xa0", " ")]


def test_without_bootstraps_no_interval_is_claimed():
    text = part(numbers.headline, evaluation=evaluated(bootstraps=0))
    assert "95 %" not in text
    assert {len(row) for row in rows(text, "Sensitivity by LUNA16")} == {2}


def test_an_interval_of_any_metric_is_shown_where_the_evaluation_has_one():
    evaluation = evaluated()
    evaluation = replace(evaluation, metrics=evaluation.metrics | {"roc_auc_lo": 0.25, "roc_auc_hi": 0.75})
    page = Page(part(numbers.headline, evaluation=evaluation))
    assert "95 %: 0.250 to 0.750" in page.words


def test_the_confusion_matrix_and_each_class_are_those_of_the_candidates(text):
    assert rows(text, "Candidates by annotated class")[1:] == [
        ["nodule", "2 (66.7 %)", "1 (33.3 %)", "3"],
        ["other", "2 (66.7 %)", "1 (33.3 %)", "3"],
    ]
    assert rows(text, "Each class on its own") == [
        ["Class", "Precision", "Recall", "F1", "Specificity"],
        ["nodule", "0.500", "0.667", "0.571", "0.333"],
        ["other", "0.500", "0.333", "0.400", "0.667"],
    ]


def test_the_scans_with_the_most_missed_and_then_the_most_called_come_first(text):
    assert rows(text, "Scans at threshold 0.5, most nodules missed first, then most false positives: 4 of 4")[1:] == [
        ["b", "1", "1", "1", "0.800"],
        ["c", "1", "1", "0", "0.600"],
        ["a", "1", "0", "0", "0.900"],
        ["d", "0", "0", "0", "undefined"],
    ]


def test_of_many_scans_the_worst_are_shown():
    evaluation = evaluated()
    many = replace(evaluation.detection, scans=pd.concat([evaluation.detection.scans] * 10))
    page = part(numbers.by_scan, evaluation=replace(evaluation, detection=many))
    shown = rows(page, "Scans at threshold")[1:]
    assert [row[0] for row in shown] == ["b"] * 10 + ["c"] * 5 and "15 of 40" in page


def test_a_gallery_says_where_its_candidates_are(text):
    assert re.findall("<h3>(.*?)</h3>", text) == [
        "Others scored at least 0.5, highest first: 2 of 2",
        "Nodules with no score from 0.5 on, lowest first: 1 of 1",
        "Nodules scored at least 0.5, highest first: 1 of 1",
    ]
    missed = text[text.index("Nodules with no score") :]
    facts = re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", missed)[:5]
    assert facts == [
        ("Score", "0.200"),
        ("Diameter", "8.0 mm"),
        ("Candidate", "12"),
        ("x, y, z", "1.0, 0.0, 0.0 mm"),
        ("Series", "b"),
    ]
    assert "Nodules that no candidate marks, so that none can be shown: 1." in text


def test_planes_of_an_oblique_scan_are_called_so(text):
    tilted = "[[1.0, 0.0, 0.0], [0.0, 0.97815, -0.20791], [0.0, 0.20791, 0.97815]]"
    oblique = part(evidence.galleries, scans=tables()["scans"].assign(direction=tilted))
    assert "along the voxels, 12° off the patient" in oblique and "along the voxels" not in text


def test_a_split_without_anything_is_called_undefined(tmp_path):
    frames = tables()
    changes = {"nodules": frames["nodules"][:0], "predictions": frames["predictions"].assign(is_nodule=False)}
    text = written(tmp_path, a_material(changes, pictures={}))
    Page(text)
    assert "<strong>undefined</strong>" in text and "nan" not in text.replace("nance", "")
    assert rows(text, "Candidates by annotated class")[1] == ["nodule", "0", "0", "0"]
    assert "0 of 3" in text and "95 %:" not in text


def test_the_previous_run_is_set_against_this_one():
    now = evaluated().metrics
    earlier = Earlier("0123456" + 33 * "0", {**now, "cpm": now["cpm"] + 0.1, "roc_auc": math.nan, "loss/all": 0.5})
    text = part(numbers.against_earlier, earlier=earlier)
    table = {row[0]: row[1:] for row in rows(text, "Sensitivity at false positives per scan; precision")}
    assert table["CPM"] == ["0.656", "0.556", "−0.100"]
    assert table["ROC AUC"] == ["undefined", decimal(now["roc_auc"]), "undefined"]
    assert table["Loss"] == ["0.500", "1.000", "+0.500"]
    assert table["Sensitivity at 1/8"] == ["0.333", "0.333", "0"] and table["Nodules"] == ["3", "3", "0"]
    assert "in 0123456." in text and "do not compare" not in text and "No number differs" not in text


def test_a_previous_run_on_other_nodules_or_of_equal_numbers_is_called_so():
    now = evaluated().metrics
    other = part(numbers.against_earlier, earlier=Earlier("0" * 40, {**now, "froc/nodules": 4.0}))
    assert "the two do not compare" in other
    assert "No number differs" in part(numbers.against_earlier, earlier=Earlier("0" * 40, now))


def test_without_a_previous_run_there_is_no_such_section(text):
    assert headings(text) == [
        *(
            "The numbers",
            "Curves",
            "By diameter",
            "By scan",
            "At threshold 0.5",
            "Calibration",
            "Worst and best",
            "The data",
            "The code",
        ),
    ]


def test_data_and_code_are_named(text):
    assert rows(text, "What each split holds")[1:] == [
        ["train", *["1,234"] * 6, "none"],
        ["test (evaluated)", *["1,234"] * 6, "6.4"],
    ]
    assert "Split by subset. Left out of the labels: nodules without scan 3." in text
    assert rows(text, "What was evaluated")[1] == ["predictions", ORIGIN.digests["predictions"]]
    code = dict(rows(text, "Which code"))
    assert (
        code["Training run"] == "learning_rate=0.01 3b9faae"
        and code["its tag lunaops.journal_id in MLflow"] == "a-journal-id"
    )
    assert code["Evaluated by"] == f"commit {ORIGIN.commit} and changes that are not committed"
    assert code["Versions"] == "python 3.11.7, torch 2.11.0"
    settings = dict(rows(text, "Settings"))
    assert settings["fps_per_scan"] == "0.125, 0.25, 1" and settings["max_marks_per_scan"] == "none"
    assert "Not for clinical use" in text


def test_leaking_splits_are_said(text):
    data = {**a_material().data, "strategy": "candidate_stride"}
    assert "the numbers flatter" in part(evidence.data, data=data)
    assert "the numbers flatter" not in text


def test_the_origin_is_read_from_git_and_the_files(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"a\n")
    origin = read_origin({"scans": tmp_path / "a.csv"}, ORIGIN.training_run)
    assert origin.digests == {"scans": "60b725f10c9c85c70d97880dfe8191b3"}
    assert "python" in origin.versions and origin.training_run is ORIGIN.training_run


def test_data_that_are_missing_or_something_else_are_named(tmp_path):
    path = tmp_path / "data.json"
    with pytest.raises(InputError, match=r"data.json: no such file; run the merge-annotations stage"):
        read_data(path)
    path.write_text("{")
    with pytest.raises(InputError, match=r"data.json: not JSON"):
        read_data(path)
    path.write_text('{"splits": {}}')
    with pytest.raises(InputError, match=r"data.json: lacks left_out, strategy"):
        read_data(path)
    data = a_material().data
    path.write_text(json.dumps(data))
    assert read_data(path) == data
    del data["splits"]["test"]["nodules"]
    path.write_text(json.dumps(data))
    with pytest.raises(InputError, match=r"data.json: lacks nodules; run"):
        read_data(path)


@pytest.fixture
def committed(tmp_path):
    """A repository with a metrics.json, which may be given another text and committed again."""
    path = tmp_path / "metrics.json"
    git(tmp_path, "init", "--quiet")

    def commit(text):
        path.write_text(text)
        git(tmp_path, "add", ".")
        git(tmp_path, "commit", "--quiet", "-m", "metrics")
        return path

    return commit


def test_the_previous_run_is_what_was_committed_last(committed):
    committed('{"test": {"cpm": 0.1}}')
    path = committed('{"test": {"cpm": 0.5, "roc_auc": null, "rule": "fixed"}}')
    path.write_text('{"test": {"cpm": 0.9}}')
    earlier = read_earlier(path, "test")
    assert earlier.commit == git(path.parent, "rev-parse", "HEAD")
    assert earlier.metrics.keys() == {"cpm", "roc_auc"}
    assert earlier.metrics["cpm"] == 0.5 and math.isnan(earlier.metrics["roc_auc"])
    assert read_earlier(path, "val") is None


def test_a_committed_file_that_holds_no_metrics_is_named_and_left_alone(committed, caplog):
    for text in ("<<<<<<<", "[1]", '{"test": {"cpm": [1]}}', '{"test": [1]}'):
        caplog.clear()
        assert read_earlier(committed(text), "test") is None
        assert "holds no metrics" in caplog.text, text


def test_what_was_never_committed_is_no_previous_run(tmp_path, caplog):
    assert read_earlier(tmp_path / "metrics.json", "test") is None
    assert not caplog.records


def test_differences_are_those_of_the_digits_shown():
    assert difference(0.1234, 0.1236) == "0" and difference(0.1, 0.2) == "+0.100" and difference(2, 1, 0) == "−1"
    assert difference(math.nan, math.nan) == "0" and difference(math.nan, 1.0) == "undefined"
    assert decimal(-1234.5, 1) == "−1,234.5"


def test_the_templates_are_shipped_and_evaluate_depends_on_them():
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    packed = {path for glob in data["lunaops.html_report"] for path in TEMPLATES.parent.glob(glob)}
    deps = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]["evaluate"]["deps"]
    for path in TEMPLATES.iterdir():
        assert path in packed and path.relative_to(ROOT).as_posix() in deps


@pytest.mark.slow
def test_a_full_sized_evaluation_stays_small(tmp_path):
    rng = np.random.default_rng(1)
    n = 55_000
    marks = pd.DataFrame(
        {
            "candidate_id": np.arange(n),
            "series_uid": rng.choice(["a", "b", "c"], n),
            "split": "test",
            "x": 500.0 + rng.random(n),
            "y": 0.0,
            "z": 0.0,
            "is_nodule": rng.random(n) < 0.003,
            "nodule_id": -1,
            "diameter_mm": 0.0,
            "score": rng.random(n),
            "loss": 1.0,
        }
    )
    frames = tables()
    changes = {
        "predictions": pd.concat([frames["predictions"].assign(candidate_id=lambda t: t["candidate_id"] + n), marks])
    }
    text = written(tmp_path, a_material(changes, pictures=pictures(range(500))))
    assert len(text) < 1_000_000


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def asked_by(page_text, folder):
    """What Chromium asks a server for, and what the page itself asks the world for, when it prints this page."""
    served = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            served.append(self.path)
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(page_text.encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    origin = f"http://127.0.0.1:{server.server_port}"
    subprocess.run(
        [
            *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"),
            *("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", f"--log-net-log={folder}/net.json"),
            *(f"--user-data-dir={folder}/profile", f"--print-to-pdf={folder}/page.pdf", f"{origin}/page"),
        ],
        env=os.environ | {"HOME": str(folder)}, check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    server.shutdown()
    assert (folder / "page.pdf").read_bytes().startswith(b"%PDF")
    log = json.loads((folder / "net.json").read_text())
    started = log["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    jobs = [event["params"] for event in log["events"] if event["type"] == started and "params" in event]
    return served, {job["url"] for job in jobs if job.get("initiator") == origin}


def pages_of(page_text, folder):
    """The words of each page, as Chromium prints them on paper."""
    (folder / "page.html").write_text(page_text, encoding="utf-8")
    subprocess.run(
        [
            *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer"),
            *(f"--user-data-dir={folder}/profile", f"--print-to-pdf={folder}/page.pdf", f"{folder}/page.html"),
        ],
        env=os.environ | {"HOME": str(folder)}, check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    said = subprocess.run(["pdftotext", folder / "page.pdf", "-"], check=True, capture_output=True, text=True).stdout
    return [page.split() for page in said.split("\f")]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None or not shutil.which("pdftotext"), reason="no Chromium, or no pdftotext")
def test_on_paper_a_table_is_whole_and_its_heading_and_text_are_above_it(tmp_path):
    filled = [Text(f"filler{number}") for number in range(20)]
    table = Table("caption", ["head"], [[f"row{number}"] for number in range(25)])
    text = render_page(
        "", "", [Section("a", "filled", filled), Section("b", "heading", [Text("text"), table])], foot=[]
    )
    first, second, *_ = pages_of(text, tmp_path)
    assert first[-1] == "filler19"
    assert second == ["heading", "text", "caption", "head", *(f"row{number}" for number in range(25))]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_a_browser_prints_it_without_asking_for_anything_else(tmp_path):
    text = written(tmp_path, a_material(earlier=Earlier("0" * 40, evaluated().metrics)))
    assert asked_by(text, tmp_path) == (["/page"], set())
    (tmp_path / "greedy").mkdir()
    _, asked = asked_by('<img src="http://example.org/a.png">', tmp_path / "greedy")
    assert "http://example.org/a.png" in asked
