"""The page's text: complete in itself, with a policy that names its parts."""

import base64
import hashlib
import re

from resdet.serving.page import FOLDERS, content_policy, page


def test_the_policy_names_the_style_and_the_script() -> None:
    for tag in ("style", "script"):
        (text,) = re.findall(rf"(?s)<{tag}[^>]*>(.*?)</{tag}>", page())
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in content_policy()
    assert "default-src 'none'" in content_policy() and "connect-src 'self'" in content_policy()


def test_the_page_loads_nothing() -> None:
    text = page().replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|\burl\(|innerHTML|<img|src=", text)


def test_modules_are_small() -> None:
    assert all(len(path.read_text().splitlines()) <= 400 for path in FOLDERS[0].iterdir())
