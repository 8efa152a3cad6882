"""The code blocks of the documentation run as they are printed."""

import re

import pytest
from conftest import ROOT
from test_examples import run

PAGES = ["docs/pytorch.md", "docs/pytorch-frameworks.md", "native/python/README.md", "README.md"]


@pytest.mark.parametrize("page", PAGES)
def test_the_python_of_a_page_is_one_program(page, tmp_path, monkeypatch):
    if "frameworks" in page:
        pytest.importorskip("transformers", minversion="5.0")
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / page).read_text(), re.S | re.M)
    assert blocks
    (tmp_path / "page.py").write_text("\n".join(blocks))
    monkeypatch.chdir(tmp_path)
    run("page.py")
