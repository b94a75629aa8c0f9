"""Refuse words that slow a reader down, in everything a user or contributor reads.

    python tests/check_prose.py [PATH ...]

checks Markdown, YAML and TOML comments, and the comments, docstrings and string literals of Python
files; without paths, the whole project. Findings are printed as `FILE:LINE: text; what to write`,
and the exit status is 1 if there are any. `make lint` runs it. Only the standard library is used.
"""

from __future__ import annotations

import re
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What is checked without arguments. Tests are not: their text is read with their code beside it.
PROJECT = (
    "README.md",
    "CHANGELOG.md",
    "CITATION.cff",
    "Makefile",
    "pyproject.toml",
    "configs",
    "datasets",
    "docs",
    "resdet",
    "tools",
)
SUFFIXES = {".py", ".md", ".yaml", ".yml", ".toml", ".cff"}

UNIT = (
    r"(?:(?:logged|training|whole|single|test)\s)?"
    r"(?:axis|backbone|batch|bin|block|box|call|channel|class|command|contender|core|crop|detection"
    r"|device|epoch|file|folder|forward pass|GPU|group|head|host|image|iteration|key|layer|level"
    r"|line|location|machine|mask|megapixel|metric|minute|model|network|object|origin|outline"
    r"|picture|pixel|point|polygon|process|proposal|question|record|region|row|run|sample|scale"
    r"|second|shard|side|size|source|stage|step|task|tensor|thread|turn|update|use|view|worker)\b"
)
NUMBER = (
    # digits, the place of a formatted value, or a word
    r"(?:(?:\d+[.,]?)*\d|(?<!\w)\.\d+|\{[^{}]*\}|%[dsg]"
    r"|one|two|three|four|five|six|seven|eight|nine|ten|hundred)"
)
# Words that follow a number without counting: `one is a path` and `2 for a box` are fine.
NOT_A_NOUN = (
    r"(?!(?:a|an|and|are|as|at|be|becomes|before|but|by|can|does|for|from|gets|gives|had|has|have|holds"
    r"|if|in|into|is|it|leave|leaves|made|make|makes|may|means|needs|no|not|of|on|once|or|out|over"
    r"|per|reads|runs|sends|share|so|takes|than|that|the|then|there|through|to|under|was|were|when"
    r"|where|which|while|with|within|without|writes)\b)"
)
COUNTED = (
    r"(?:anchors|annotations|bits|boxes|bytes|classes|detections|epochs|faults|files|folders|frames|milliseconds"
    r"|images|iterations|kernels|logits|MB|MiB|GB|GiB|ms|objects|operations|pictures|pixels|proposals"
    r"|px|regions|scores|seconds|steps|tensors|tokens|work)"
)
THING = (
    r"(?:box|call|colour|column|convolution|copy|dict|draw|entry|file|folder|image|kernel|line|list"
    r"|mask|name|number|operation|page|picture|plot|process|record|row|sheet|shift|size|table|tensor"
    r"|thread|value|YAML)"
)
PER = "write 'per image', 'for each class', 'one line per step'"


@dataclass(frozen=True)
class Rule:
    """A pattern that is refused, what to write, and an example of either for the test."""

    pattern: re.Pattern[str]
    advice: str
    refused: str
    accepted: str


def rule(pattern: str, advice: str, refused: str, accepted: str) -> Rule:
    # a phrase may be wrapped anywhere
    compiled = re.compile(re.sub(r"(?<!here) ", r"\\s+", pattern), re.IGNORECASE)
    return Rule(compiled, advice, refused, accepted)


RULES = (
    rule(
        rf"(?<!\w){NUMBER}\s+(?:{NOT_A_NOUN}[\w/×-]+\s+){{0,2}}an?\s+{UNIT}(?!\s+of\s+one)",
        PER,
        "at most 100 detections an image",
        "2 for a box, and one is a file of an image",
    ),
    rule(
        # not before a verb: `the images a step takes` is a clause
        rf"\b{COUNTED}\s+an?\s+{UNIT}(?!\s+(?!is|was|as)\w+s\b)",
        PER,
        "images an update",
        "which images a step takes",
    ),
    rule(
        rf"\b(?:an?|one|most one)\s+(?:\w+\s+)?{THING}\s+an?\s+{UNIT}",
        PER,
        "a line a logged step",
        "one line per logged step",
    ),
    rule(
        r"\b(?:kept|sampled|drawn|shown|pooled)\s+an?\s+(?:image|level|class|step|batch)\b",
        PER,
        "proposals kept a level",
        "proposals kept per level",
    ),
    rule(r"\banew\b", "write 'again' or 'from scratch'", "starts anew", "starts from scratch"),
    rule(r"\bmend(?:s|ed|ing)?\b", "write 'fix' or 'repair'", "it mends the file", "it fixes it"),
    rule(r"\bsaid\b", "write 'reported' or 'stated'", "as said above", "as stated above"),
    rule(r"\btold\b", "write 'specified' or 'reported'", "if it is told", "if it is specified"),
    rule(
        r"\b(?:lies?|lying)\b",
        "write 'is', 'is stored' or 'is located'",
        "the file lies beside it",
        "the file is stored beside it",
    ),
    rule(
        r"\b(?:go|goes|going|went|gone) on\b(?!\s+(?:top|sys))",
        "write 'continues' or 'resumes'",
        "the run goes on where it was",
        "the run resumes where it stopped",
    ),
    rule(
        r"\bno use for\b",
        "write 'does not accept' or 'does not use'",
        "predict has no use for masks",
        "predict does not accept masks",
    ),
    rule(r"\bby heart\b", "write 'overfitted'", "images learned by heart", "overfitted images"),
    rule(
        r"\bwhat is wrong\b[^.;:]*\bnamed\b|\bnam(?:e|es|ing) what is wrong\b",
        "write 'problems are reported'",
        "what is wrong in it is named",
        "problems are reported, and say what is wrong",
    ),
    rule(
        r"\bweights that detect\b",
        "write 'trained weights'",
        "Weights that detect: a run",
        "trained weights",
    ),
    rule(
        r"\bbeside (?:the )?others\b",
        "write 'compared with' and name the others",
        "the work beside others",
        "benchmark against torchvision and Detectron2",
    ),
    rule(
        r"\bbegins? so\b",
        "write 'starts with'",
        "no config key begins so",
        "no config key starts with 'x'",
    ),
    rule(
        r"\b(?:do|does) not tell\b|\btells? (?:all|of|for sure)\b|\bnothing (?:else )?tells\b",
        "write 'identify', 'report' or 'specify'",
        "where its tensors do not tell all",
        "if the file does not identify the architecture",
    ),
    rule(
        r"\bto the last bit\b",
        "write 'bit-exactly'",
        "equal to the last bit",
        "bit-exactly equal, to the last digit",
    ),
    rule(r"\bone's own\b", "write 'your own'", "a backbone of one's own", "your own backbone"),
    rule(
        r"\b(?:know|knows) no\b",
        "write 'does not support' or 'has no'",
        "its kernel knows no bf16",
        "its kernel does not support bf16",
    ),
    rule(
        # fine are `there is no X`, `is no longer` and other comparatives
        r"(?<!there )(?<!where )\b(?:is|are) no (?!more|less|such|need|one|worse|\w+er\b)",
        "write 'is not a'",
        "the file is no checkpoint",
        "the file is not a checkpoint; there is no other, and it is no longer read",
    ),
    rule(
        r"\bwithout a word\b|\bin silence\b",
        "write 'silently'",
        "clipped without a word",
        "clipped silently",
    ),
    rule(
        r"\bfor want of\b|\bin (?:its|their) stead\b",
        "write 'without' or 'instead'",
        "skipped for want of a package",
        "skipped because a package is missing",
    ),
    rule(
        r"\b(?:write|writes|wrote|written) down\b",
        "write 'record' or 'document'",
        "written down in the log",
        "recorded in the log",
    ),
    rule(
        r"\b(?:is|are|holds?) none of\b",
        "write 'is not one of'",
        "the file holds none of timm's networks",
        "the file is not one of timm's networks, and none of them fits",
    ),
    rule(
        # `{}` is the place of a formatted value
        r"\b(?:is|holds) an? [\w{}]+ and no\b",
        "write ', not a'",
        "the file holds a backbone and no detector",
        "the file holds a backbone, not a detector",
    ),
    rule(
        r"\bbut for\b",
        "write 'except for'",
        "equal but for rounding",
        "equal except for rounding",
    ),
    rule(
        r"\bin turns\b",
        "write 'in alternating turns'",
        "timed in turns",
        "timed in alternating turns",
    ),
)

# (end of the path, matched text, why it may stay)
ALLOWED: tuple[tuple[str, str, str], ...] = ()


@dataclass
class Text:
    """One comment block, string or paragraph, and the line that each of its characters is on."""

    text: str = ""
    lines: tuple[int, ...] = ()

    def add(self, text: str, line: int) -> None:
        """Append `text`, which starts on `line`; every newline in it starts the next line."""
        numbers = []
        for character in text:
            numbers.append(line)
            line += character == "\n"
        self.text += text
        self.lines += tuple(numbers)


QUOTES = re.compile(r"^[A-Za-z]{0,2}(?:\"\"\"|'''|\"|')|(?:\"\"\"|'''|\"|')$")


def python_texts(path: Path) -> Iterator[Text]:
    """Comment blocks, docstrings and string literals; adjacent literals count as one."""
    skipped = {tokenize.NL, tokenize.INDENT, tokenize.DEDENT}
    middle = getattr(tokenize, "FSTRING_MIDDLE", -1)  # f-strings are tokens of their own since 3.12
    current, kind, depth, holes = Text(), 0, 0, 0
    with tokenize.open(path) as file:
        for token in tokenize.generate_tokens(file.readline):
            name = tokenize.tok_name[token.type]
            depth += (name == "FSTRING_START") - (name == "FSTRING_END")
            if depth and token.type == tokenize.OP and token.string in "{}":
                holes += 1 if token.string == "{" else -1
                if kind == 2 and (token.string, holes) == ("{", 1):
                    current.add("{}", token.start[0])  # a value
            is_code = holes > 0 or (depth and token.type not in (middle, tokenize.STRING))
            if is_code or name in ("FSTRING_START", "FSTRING_END") or token.type in skipped:
                continue
            wanted = {tokenize.COMMENT: 1, tokenize.STRING: 2, middle: 2}.get(token.type, 0)
            if wanted != kind:
                yield current
                current, kind = Text(), wanted
            if wanted == 1:
                current.add(token.string.lstrip("#: ") + "\n", token.start[0])
            elif wanted == 2:
                text = QUOTES.sub("", token.string).replace("\\n", "  ")
                if re.match(r"[A-Za-z]?[fF]", token.string) and token.type == tokenize.STRING:
                    text = re.sub(r"\{[^{}]*\}", "{}", text)  # code, before Python 3.12
                # a mark in empty lines keeps a pattern within its paragraph
                current.add(re.sub(r"(?<=\n)[ \t]*(?=\n)", "¶", text), token.start[0])
    yield current


def markdown_texts(path: Path) -> Iterator[Text]:
    """Paragraphs, list items and table rows; code blocks are checked for their comments only."""
    current, in_code = Text(), False
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        fence = line.lstrip().startswith("```")
        in_code ^= fence
        starts_item = re.match(r"\s*(?:[-*|#>]|\d+\.)", line) is not None
        if fence or not line.strip() or starts_item or in_code:
            yield current
            current = Text()
        if in_code or fence:
            comment = re.search(r"#\s(.*)|\s{2,}(\S.*)", line)
            if comment:
                current.add(comment.group(1) or comment.group(2), number)
            continue
        current.add(line + "\n", number)
    yield current


def comment_texts(path: Path) -> Iterator[Text]:
    """Blocks of `#` comments, and quoted values."""
    current, last = Text(), -1
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        comment = re.search(r"(?:^|\s)#\s?(.*)", line)
        for value in re.findall(r"\"([^\"]* [^\"]*)\"", line):
            quoted = Text()
            quoted.add(value, number)
            yield quoted
        if comment is None:
            continue
        if number != last + 1:
            yield current
            current = Text()
        current.add(comment.group(1) + "\n", number)
        last = number
    yield current


def texts(path: Path) -> Iterator[Text]:
    if path.suffix == ".py":
        return python_texts(path)
    return markdown_texts(path) if path.suffix == ".md" else comment_texts(path)


def findings(text: str) -> Iterator[tuple[int, str, Rule]]:
    """Position, matched words and rule of every finding in one text, each place once."""
    end = -1
    matches = [(match, broken) for broken in RULES for match in broken.pattern.finditer(text)]
    for match, broken in sorted(matches, key=lambda pair: (pair[0].start(), -pair[0].end())):
        if match.start() >= end:
            end = match.end()
            yield match.start(), " ".join(match.group().split()), broken


def allowed(path: Path, words: str) -> bool:
    return any(path.as_posix().endswith(end) and words == text for end, text, _ in ALLOWED)


def check(path: Path) -> list[str]:
    """The findings of one file as lines to print, in the order of the file."""
    lines = []
    for text in texts(path):
        if " " not in text.text.strip():
            continue  # a key or a name, not prose
        for position, words, broken in findings(text.text):
            if not allowed(path, words):
                lines.append((text.lines[position], words, broken.advice))
    shown = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    return [f"{shown}:{line}: {words!r}; {advice}" for line, words, advice in sorted(lines)]


def files(arguments: list[str]) -> Iterator[Path]:
    paths = [Path(name).resolve() for name in arguments] or [ROOT / name for name in PROJECT]
    for path in paths:
        if path.is_dir():
            yield from (file for file in sorted(path.rglob("*")) if file.suffix in SUFFIXES)
        elif path.exists():
            yield path
        elif arguments:
            sys.exit(f"{path}: no such file or folder")


def main(arguments: list[str]) -> int:
    lines = [line for path in files(arguments) for line in check(path)]
    print(*lines, sep="\n", end="\n" if lines else "")
    if lines:
        print(f"{len(lines)} findings; docs/contributing.md has the style", file=sys.stderr)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
