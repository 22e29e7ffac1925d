"""Links out of the pages are words on the site; those that lead nowhere stay."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location(
    "docs_site", ROOT / "scripts/docs_site.py"
)
site = importlib.util.module_from_spec(spec)
spec.loader.exec_module(site)


def test_links_to_sources_become_words_and_others_stay():
    page = ROOT / "docs" / "api" / "align.md"
    text = "[`KV`](../../align/kv.py#L3), [store](../store.md#x), [no](../../gone.py)"
    assert site.without_links_out(text, page) == (
        "`KV`, [store](../store.md#x), [no](../../gone.py)"
    )


def test_no_page_links_to_a_file_that_is_not_there():
    for page in (ROOT / "docs").rglob("*.md"):
        rest = site.without_links_out(page.read_text(encoding="utf-8"), page)
        for _, place in site._LINK.findall(rest):
            assert (page.parent / place).exists(), (page.name, place)
