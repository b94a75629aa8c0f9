"""A detector's predictors for other classes than its weights': matched by name, row by row."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from resdet.errors import UserError, did_you_mean, first_few
from resdet.interop.loaded import LoadedWeights

BRANCH = re.compile(r"roi_heads\.(?!stages\.|res5\.)(\w+)\.")
BOX_WEIGHTS = re.compile(r"roi_heads\.stages\.\d+\.(cls_score|bbox_pred)\.weight")
# Rows per class of each predictor, and whether a row for the background comes last.
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
    """Label here → label there; other classes start from scratch."""
    by_position: bool = False
    """The numbers of classes agree and no name does: labels stay the same."""

    @property
    def are_the_same(self) -> bool:
        return list(self.here) == list(self.there) and all(a == b for a, b in self.rows.items())

    @property
    def new(self) -> list[str]:
        """Names of the classes that start from scratch."""
        return [name for label, name in enumerate(self.here) if label not in self.rows]

    def pairs(self) -> list[str]:
        """The matched classes in words: "cat", or "RBC from person"."""
        names = [(self.here[label], self.there[row]) for label, row in self.rows.items()]
        return [here if here == there else f"{here} from {there}" for here, there in names]


def match_classes(
    here: Sequence[str], there: Sequence[str], class_map: Mapping[str, str], source: str
) -> Classes:
    """Each class here with the class of the weights that it starts from.

    `class_map` (here → there) comes first, then the same name, then the name in another case; a
    class of the weights may serve several. If no name matches and the numbers of classes agree,
    they are matched by position: they were renamed. Raises UserError for an entry of `class_map`
    that names no class.
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
    lines that list the matched classes, those that start from scratch, and the layers.

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
        text = f"class names differ: {first_few(there)} there, {first_few(here)} here"
        return state, [f"{text}, taken by position"]
    filled = predictors(own, state, classes)
    pairs, new = classes.pairs(), classes.new
    matched = f"{len(pairs)} matched: {first_few(pairs)}" if pairs else "none of the same name"
    lines = [f"{len(there)} classes there, {len(here)} here; {matched}"]
    if new:
        lines.append(f"{len(new)} classes start from scratch: {first_few(new)}")
        lines.append(f"their rows start from scratch in these layers: {', '.join(filled)}")
    return {**state, **filled}, lines


def fit_branches(
    own: Mapping[str, Tensor], state: dict[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """`state` without the branches (such as the mask head) that the model of the state dict `own`
    does not have, and with the model's own where the weights have none; and log lines."""
    here, there = (_by_branch(names) for names in (own, state))
    lines = []
    for name in there.keys() - here.keys():
        state = {key: value for key, value in state.items() if key not in there[name]}
        lines.append(f"left out, the {_words(name)}: {', '.join(there[name])}")
    for name in here.keys() - there.keys():
        state = state | {key: own[key] for key in here[name]}
        listed = ", ".join(here[name])
        lines.append(f"no {_words(name)} there: these layers start from scratch: {listed}")
    return state, lines


def fit_context(
    own: Mapping[str, Tensor], state: dict[str, Tensor], source: str
) -> tuple[dict[str, Tensor], list[str]]:
    """`state` of a detector without `model.roi.context` for the state dict `own` of one with it:
    its predictors keep their weights for each region, and those for the whole image start from 0,
    so that the detector begins with the same predictions; and log lines. UserError where only
    `state` has context: without it the predictions would be other ones.
    """
    of_boxes = [
        key
        for key, value in state.items()
        if key in own and BOX_WEIGHTS.match(key) and value.ndim == own[key].ndim == 2
    ]
    if any(state[key].shape[1] == 2 * own[key].shape[1] for key in of_boxes):
        raise UserError(f"{source} was trained with model.roi.context true; set it to true")
    wider = {
        key: F.pad(state[key], (0, state[key].shape[1]))
        for key in of_boxes
        if own[key].shape[1] == 2 * state[key].shape[1]
    }
    if not wider:
        return state, []
    listed = ", ".join(wider)
    return {**state, **wider}, [f"no context there: its half of these layers starts at 0: {listed}"]


def _words(name: str) -> str:
    return name.replace("_", " ")


def _by_branch(keys: Iterable[str]) -> dict[str, list[str]]:
    """The parameters of each RoI branch by its name."""
    grouped: dict[str, list[str]] = {}
    for key in keys:
        if branch := BRANCH.match(key):
            grouped.setdefault(branch[1], []).append(key)
    return grouped


def predictors(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], classes: Classes
) -> dict[str, Tensor]:
    """The class-wise predictors of `own`, with the rows of matched classes from `state`.

    Background always keeps its row. Class-agnostic layers, and those that differ in more than the
    number of classes, are not in the result.
    """
    num_here, num_there = len(classes.here), len(classes.there)
    filled: dict[str, Tensor] = {}
    for key, value in state.items():
        predictor = next((entry for entry in PREDICTORS if entry[0].match(key)), None)
        if predictor is None or key not in own or own[key].shape[1:] != value.shape[1:]:
            continue
        _, per_class, has_background = predictor
        sizes = (per_class * num_there + has_background, per_class * num_here + has_background)
        if (len(value), len(own[key])) != sizes:
            continue
        rows = own[key].clone()
        for label, row in classes.rows.items():
            theirs = value[per_class * row : per_class * (row + 1)]
            rows[per_class * label : per_class * (label + 1)] = theirs
        if has_background:
            rows[-1] = value[-1]
        filled[key] = rows
    return filled


def _find(name: str, names: Sequence[str]) -> int | None:
    """The label of a name: of the same name, else of the first that only differs in case."""
    if name in names:
        return list(names).index(name)
    folded = [other.casefold() for other in names]
    return folded.index(name.casefold()) if name.casefold() in folded else None


def _near(name: str, names: Sequence[str]) -> str:
    return f"{name!r}; {did_you_mean(name, names, f'it has {first_few(names, 5)}', cutoff=0.5)}"
