"""What separates the columns of tables."""

from resdet.files.separators import find_separator


def test_excels_line_states_the_separator() -> None:
    text = "a,b;c\r\n1,5;2\r\n"
    assert find_separator(text) == (",", text)
    assert find_separator("sep=;\r\n" + text) == (";", "\n" + text)
    assert find_separator("sep=|\na|b\n") == ("|", "\na|b\n")
    assert find_separator("sep=\t\na\tb\n") == ("\t", "\na\tb\n")
    assert find_separator("separator;x\n")[0] == ";"
    assert find_separator("")[1] == ""
