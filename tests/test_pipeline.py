"""The house as DESIGN.md plans it, held against the code."""

import ast
import re

import pytest
from pipeline import ROOT, import_closure, imports, script_of, sources, stages

from lunaops.params import Params

STAGES = ["fetch-subsets", "merge-annotations", "build-cache", "train", "predict", "evaluate"]
COMMANDS = [
    "command",
    "__main__",
    "ci_command",
    "crossval_command",
    "lineage_commands",
    "crop_commands",
    "froc_command",
    "model_commands",
    "registry_command",
]
DOORS = {
    "SimpleITK": {
        "lunaops/ct.py",
        "lunaops/sources/dicom.py",
    },  # a scan as we keep it; DICOM, which only fetching reads
    "diskcache": {"lunaops/crop_store.py", "lunaops/crop_index.py"},
    "mlflow": {
        "lunaops/tracking_artifacts.py",
        "lunaops/tracking_delivery.py",
        "lunaops/tracking_model.py",
        "lunaops/tracking_query.py",
        "lunaops/tracking_registry.py",
        "lunaops/tracking_runs.py",
        "lunaops/tracking_store.py",
        "lunaops/tracking_stored_run.py",
        "lunaops/tracking_system.py",
    },
    "torch.utils.tensorboard": {"lunaops/tracking_tensorboard.py"},
    "ruamel": {"lunaops/params.py", "lunaops/restored_params.py"},
    "pydantic": {"lunaops/params.py"},
    "matplotlib": {"lunaops/figures.py", "lunaops/scan_figures.py", "lunaops/html_report/chart_svg.py"},
    "PIL": {"lunaops/html_report/crop_png.py"},
    "jinja2": {"lunaops/html_report/page.py"},
    "requests": {"lunaops/sources/download.py"},
    "urllib3": {"lunaops/sources/download.py"},
    "zipfile": {"lunaops/sources/archive.py"},
    "typer": {f"lunaops/{name}.py" for name in COMMANDS},
}
KNOW_NOTHING_OF_OURS = ["geometry", "metrics", "froc", "ranking", "augment", "input_norm", "progress", "views"]
ALLOWED_EVERYWHERE = {"lunaops", "lunaops.errors", "lunaops.errors.InputError", "lunaops.params"}
ALLOWED_EVERYWHERE |= {"lunaops.ranking", "lunaops.ranking.counts_at_thresholds"}
WITHOUT_TORCH = [
    "metrics",
    "froc",
    "bootstrap",
    "submission",
    "geometry",
    "candidates",
    "tables",
    "labels",
    "ct",
    "crops",
    "crop_building",
    "crop_commands",
    "calibration",
    "thresholds",
    "operating_point",
    "per_scan",
    "comparison",
    "evaluation",
    "figures",
    "scan_figures",
]


def name_of(path) -> str:
    return path.relative_to(ROOT).as_posix()


def ours(path) -> set[str]:
    return {module for module in imports(path) if module.startswith("lunaops")}


def test_the_stages_are_the_six_in_their_order() -> None:
    assert list(stages()) == STAGES


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_every_file_that_it_imports(stage: str) -> None:
    wanted = {name_of(path) for path in import_closure(script_of(stage))}
    listed = {dep for dep in stages()[stage]["deps"] if dep.endswith(".py")}
    assert listed == wanted


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_declares_the_params_that_it_reads(stage: str) -> None:
    read = params_read(script_of(stage).read_text())
    declared = set(stages()[stage]["params"])
    sections = {key.partition(".")[0] for key in read}
    assert {key for key in read if not {key, key.partition(".")[0]} & declared} == set()
    assert {key for key in declared if key not in read | sections} == set()


def params_read(text: str) -> set[str]:
    """'section.key' for each `params.section.key`, 'section' for each `params.section` that is used whole."""
    tree = ast.parse(text)
    chains = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    inner = {ast.unparse(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    keys = {".".join(chain.split(".")[1:3]) for chain in chains - inner if chain.startswith("params.")}
    return {key for key in keys if key.partition(".")[0] in Params.model_fields}


def test_the_reading_of_params_is_read_right() -> None:
    text = "f(params.train)\ng(params.crop.size_irc, params.crop.size_irc.count, params.flattened(), other.model)"
    assert params_read(text) == {"train", "crop.size_irc"}


@pytest.mark.parametrize("library", DOORS)
def test_an_outside_library_has_one_door(library: str) -> None:
    users = {
        name_of(path)
        for path in sources()
        if any(module == library or module.startswith(f"{library}.") for module in imports(path))
    }
    assert users <= DOORS[library]
    assert users


def test_nothing_imports_a_stage() -> None:
    assert [name_of(path) for path in sources() if any(m.startswith("stages") for m in imports(path))] == []


@pytest.mark.parametrize("module", [name for name in KNOW_NOTHING_OF_OURS if (ROOT / f"lunaops/{name}.py").exists()])
def test_the_foundations_import_nothing_of_ours(module: str) -> None:
    known = {name for name in ours(ROOT / f"lunaops/{module}.py") if not name.startswith("lunaops.params")}
    assert known <= ALLOWED_EVERYWHERE


def test_a_model_rests_on_how_it_is_computed_alone() -> None:
    below = {path.stem for path in import_closure(ROOT / "lunaops/model.py")}
    assert below <= {"__init__", "disk", "progress", "model", "folding", "input_norm", "precision", "params", "errors"}


def test_crops_rest_on_scans_and_scans_on_geometry() -> None:
    def below(module: str) -> set[str]:
        return {name_of(path) for path in import_closure(ROOT / f"lunaops/{module}.py")}

    assert "lunaops/crops.py" not in below("ct")
    assert "lunaops/ct.py" not in below("geometry")
    assert not {"lunaops/dataset.py", "lunaops/candidates.py"} & below("crops")
    assert not any("tracking" in path or "record" in path for path in below("training"))


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_what_needs_no_network_imports_without_torch(module: str) -> None:
    loaded = {m.split(".")[0] for path in import_closure(ROOT / f"lunaops/{module}.py") for m in imports(path)}
    assert not loaded & {"torch", "mlflow"}


def test_no_package_exports_or_runs_anything() -> None:
    for path in sources():
        if path.name == "__init__.py":
            body = ast.parse(path.read_text()).body
            assert all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in body), path


def test_nothing_is_pickled_or_unpickled_but_tensors_of_published_weights() -> None:
    for path in sources():
        is_door = name_of(path) == "lunaops/published.py"
        assert not {"pickle", "cloudpickle", "dill", "joblib"} & imports(path) - ({"pickle"} if is_door else set()), (
            path
        )
        assert "torch.save(" not in path.read_text(), path
        assert path.read_text().count("torch.load(") == is_door, path


def test_published_weights_are_read_as_tensors_only_and_of_pickle_just_the_error_is_used() -> None:
    path = ROOT / "lunaops" / "published.py"
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    (load,) = (call for call in calls if ast.unparse(call.func) == "torch.load")
    assert {"weights_only": "True"}.items() <= {word.arg: ast.unparse(word.value) for word in load.keywords}.items()
    assert {name for name in imports(path) if name.startswith("pickle")} == {"pickle", "pickle.UnpicklingError"}
    assert "import pickle" not in path.read_text()


def test_the_tables_paths_are_said_in_dvc_yaml_only() -> None:
    for path in sources():
        texts = [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
        assert [
            text for text in texts if isinstance(text, str) and re.fullmatch(r"(data|reports|models)/[\w./-]*\w", text)
        ] == []


def test_the_readme_has_no_gap_and_fits_on_a_few_screens() -> None:
    text = (ROOT / "README.md").read_text()
    assert "@@" not in text + (ROOT / "benchmarks" / "README.md").read_text()
    assert len(text.splitlines()) <= 150


def test_the_launch_lines_give_train_the_options_that_dvc_yaml_gives() -> None:
    options = " ".join(stages()["train"]["cmd"].split()[1:])
    assert options in " ".join((ROOT / "docs" / "many-gpus.md").read_text().replace("\\\n", " ").split())
