"""A detector's predictors for other classes than its weights': matched by name, row by row."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from resdet.errors import UserError
from resdet.interop.loaded import LoadedWeights

MASK_HEAD = "roi_heads.mask_head."
MAX_LISTED = 8
# Rows of each predictor by class, and whether a row of the background comes last.
PREDICTORS = (
    (re.compile(r"roi_heads\.stages\.\d+\.cls_score\."), 1, True),
    (re.compile(r"roi_heads\.stages\.\d+\.bbox_pred\."), 4, False),
    (re.compile(r"roi_heads\.mask_head\.predictor\."), 1, False),
)


@dataclass(frozen=True)
class Classes:
    """Which class of the weights each class of the model starts from."""

    here: Sequence[str]
    there: Sequence[str]
    rows: Mapping[int, int]
    """Label here → label there; classes that are not in it start anew."""
    by_position: bool = False
    """As many classes on both sides and no name in common: each keeps its place."""

    @property
    def are_the_same(self) -> bool:
        return list(self.here) == list(self.there) and all(a == b for a, b in self.rows.items())

    @property
    def new(self) -> list[str]:
        """Names of the classes that start anew."""
        return [name for label, name in enumerate(self.here) if label not in self.rows]

    def pairs(self) -> list[str]:
        """The matched classes, in words: cat, or "RBC from person"."""
        names = [(self.here[label], self.there[row]) for label, row in self.rows.items()]
        return [here if here == there else f"{here} from {there}" for here, there in names]


def match_classes(
    here: Sequence[str], there: Sequence[str], class_map: Mapping[str, str], source: str
) -> Classes:
    """Each class here with the class of the weights that it starts from.

    `class_map` (here → there) comes first, then the very name, then the name in another case; a
    class of the weights may serve several. Where the numbers agree and nothing matches, classes are
    the same by position: they were renamed. Raises UserError for an entry of `class_map` that
    names no class.
    """
    mapped: dict[int, int] = {}
    for name, other in class_map.items():
        label, row = _find(name, here), _find(other, there)
        if label is None:
            raise UserError(f"model.class_map: the data has no class {_near(name, here)}")
        if row is None:
            raise UserError(f"model.class_map.{name}: {source} has no class {_near(other, there)}")
        mapped[label] = row
    rows = {}
    for label, name in enumerate(here):
        row = mapped.get(label, _find(name, there))
        if row is not None:
            rows[label] = row
    if rows or len(here) != len(there):
        return Classes(here, there, rows)
    return Classes(here, there, {label: label for label in range(len(here))}, by_position=True)


def fit_classes(
    own: Mapping[str, Tensor],
    state: dict[str, Tensor],
    class_names: Sequence[str],
    weights: LoadedWeights,
    class_map: Mapping[str, str],
) -> tuple[dict[str, Tensor], list[str]]:
    """`state` with the predictors of a model of `class_names`, whose state dict is `own`; and log
    lines that name the classes that were matched, those that start anew, and the layers.

    Raises UserError as `match_classes` does.
    """
    here, there = list(class_names), weights.class_names
    if not there or not here:
        if class_map:
            raise UserError(f"model.class_map: {weights.source} does not name its classes")
        return state, []
    classes = match_classes(here, there, class_map, weights.source)
    if classes.are_the_same:
        return state, []
    if classes.by_position:
        text = f"class names differ: {_shorten(there)} there, {_shorten(here)} here"
        return state, [f"{text}, taken by position"]
    filled = predictors(own, state, classes)
    pairs, new = classes.pairs(), classes.new
    matched = f"{len(pairs)} matched: {_shorten(pairs)}" if pairs else "none of the same name"
    lines = [f"{len(there)} classes there, {len(here)} here; {matched}"]
    if new:
        lines.append(f"{len(new)} classes start anew: {_shorten(new)}")
        lines.append(f"their rows start anew in these layers: {', '.join(filled)}")
    return {**state, **filled}, lines


def fit_mask_head(
    own: Mapping[str, Tensor], state: dict[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """`state` without a mask head that the model of the state dict `own` has not, or with the
    model's where the weights have none; and a log line that lists it."""
    here = [key for key in own if key.startswith(MASK_HEAD)]
    there = [key for key in state if key.startswith(MASK_HEAD)]
    if there and not here:
        kept = {key: value for key, value in state.items() if key not in there}
        return kept, [f"left out, the mask head: {', '.join(there)}"]
    if here and not there:
        line = f"no mask head there: these layers start anew: {', '.join(here)}"
        return {**state, **{key: own[key] for key in here}}, [line]
    return state, []


def predictors(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], classes: Classes
) -> dict[str, Tensor]:
    """The class-wise predictors of `own`, with the rows of matched classes from `state`.

    Background keeps its row always. Layers that know no classes (class-agnostic), and those that
    differ in more than the number of classes, are not in the result.
    """
    num_here, num_there = len(classes.here), len(classes.there)
    filled: dict[str, Tensor] = {}
    for key, value in state.items():
        found = next((each for each in PREDICTORS if each[0].match(key)), None)
        if found is None or key not in own or own[key].shape[1:] != value.shape[1:]:
            continue
        _, each, has_background = found
        sizes = (each * num_there + has_background, each * num_here + has_background)
        if (len(value), len(own[key])) != sizes:
            continue
        rows = own[key].clone()
        for label, row in classes.rows.items():
            rows[each * label : each * (label + 1)] = value[each * row : each * (row + 1)]
        if has_background:
            rows[-1] = value[-1]
        filled[key] = rows
    return filled


def _find(name: str, names: Sequence[str]) -> int | None:
    """The label of a name: of the very name, else of the first that differs in case alone."""
    if name in names:
        return list(names).index(name)
    folded = [each.casefold() for each in names]
    return folded.index(name.casefold()) if name.casefold() in folded else None


def _near(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    listed = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    return f"{name!r}; " + (f"did you mean {' or '.join(near)}?" if near else f"it has {listed}")


def _shorten(items: Sequence[str]) -> str:
    more = f" and {len(items) - MAX_LISTED} more" if len(items) > MAX_LISTED else ""
    return ", ".join(items[:MAX_LISTED]) + more
