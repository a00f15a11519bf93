"""The page itself: which sections, in which order."""

from collections.abc import Callable
from pathlib import Path

from lunaops.html_report import evidence, numbers
from lunaops.html_report.material import Material
from lunaops.html_report.page import Section, render_page

SECTIONS: tuple[Callable[[Material], Section | None], ...] = (  # None: nothing to say, so no section
    numbers.headline,
    numbers.against_earlier,
    numbers.against_baseline,
    numbers.curves,
    numbers.by_diameter,
    numbers.by_scan,
    numbers.at_threshold,
    numbers.calibration,
    evidence.galleries,
    evidence.data,
    evidence.code,
)
FOOT = (
    "Not for clinical use. This is research software; nothing here has been validated for diagnosis.",
    "Positions are patient millimetres (LPS): x grows to the left, y to the back, z to the head.",
)


def write_report(material: Material, path: Path) -> None:
    """Write the page: one file that runs no script and asks nothing of a network."""
    evaluation = material.evaluation
    scans, nodules = evaluation.metrics["num_scans"], evaluation.num_nodules
    page = render_page(
        f"Evaluation of the {evaluation.params.split} split",
        f"{scans:,.0f} scans, {nodules:,} nodules, {len(evaluation.predictions):,} candidates. "
        f"Training run: {material.origin.training_run.name}",
        [section for build in SECTIONS if (section := build(material)) is not None],
        foot=FOOT,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8", newline="\n")
