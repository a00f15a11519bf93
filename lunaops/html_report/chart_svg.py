"""A chart as SVG that lives inside an HTML page."""

import io
import re
from xml.etree import ElementTree

import matplotlib
from matplotlib.figure import Figure

from lunaops.figures import BLUE, GREEN, GREY, ORANGE

_PROPERTIES = {  # of the page, for the colours that the charts are drawn with: they may be others in the dark
    "#000000": "--ink",
    "#444444": "--soft",
    "#dddddd": "--line",
    "#eeeeee": "--bar",
    BLUE.lower(): "--blue",
    ORANGE.lower(): "--orange",
    GREEN.lower(): "--green",
    GREY.lower(): "--grey",
}
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def inline_svg(figure: Figure, *, name: str, label: str, size_inches: tuple[float, float] = (5.4, 4.4)) -> str:
    """The figure as the markup of an <svg> element, as wide as the page lets it; equal figures give equal text.

    Text stays text, in the page's font. Colours are the page's custom properties --ink, --soft, --line, --bar, --blue,
    --orange, --green and --grey, on the page's own ground. Ids begin with `name`, which no other chart of the page may
    have; `label` tells what is seen to whoever cannot see it.
    """
    figure.set_size_inches(*size_inches)
    drawn = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(drawn, format="svg", transparent=True, metadata=_NO_METADATA)
    root = ElementTree.fromstring(drawn.getvalue())
    root.remove(root[0])  # <defs> with a rule for every element, which would be the whole page's
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.attrib = {key.rpartition("}")[2]: _compact(key, value) for key, value in element.attrib.items()}
        element.text, element.tail = (element.text or "").strip(), None  # a chart has no text after a child
    _keep_ids_in_use(root, name)
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": label}
    return ElementTree.tostring(root, encoding="unicode")


def _compact(key: str, value: str) -> str:
    if key == "style":
        value = re.sub(r"font-family: [^;]*(; )?", "", value)
        return re.sub(
            r"#[0-9a-f]{6}", lambda color: f"var({known})" if (known := _PROPERTIES.get(color[0])) else color[0], value
        )
    return " ".join(value.split())


def _keep_ids_in_use(root: ElementTree.Element, name: str) -> None:
    """Matplotlib gives every group an id; those that something refers to stay, begun with `name`."""
    used = {
        place for element in root.iter() for text in element.attrib.values() for place in re.findall(r"#(\w+)", text)
    }
    for element in root.iter():
        own = element.attrib.pop("id", None)
        if own in used:
            element.set("id", f"{name}-{own}")
        for key in {"href", "clip-path"} & element.attrib.keys():
            element.set(key, element.attrib[key].replace("#", f"#{name}-"))
