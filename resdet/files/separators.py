"""What separates the columns of a table as text."""

import re

SEPARATORS = ",;\t"
_STATED = re.compile(r'\s*"?sep=(.)"?[ \t;,]*(?:\r\n|\r|\n)', re.IGNORECASE)


def find_separator(text: str) -> tuple[str, str]:
    """The separator of a table, and its text with an empty line in place of Excel's `sep=;`.

    Without such a line it is the one that the first line with content has most of.
    """
    stated = _STATED.match(text)
    if stated is not None:
        lines = stated[0].replace("\r\n", "\n").replace("\r", "\n").count("\n")
        return stated[1], "\n" * lines + text[stated.end() :]
    first = text.lstrip().partition("\n")[0]
    return max(SEPARATORS, key=first.count), text
