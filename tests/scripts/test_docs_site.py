"""Links out of the pages are words on the site; those that lead nowhere stay."""

from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_links_to_sources_become_words_and_others_stay(script):
    page = ROOT / "docs" / "api" / "align.md"
    text = "[`KV`](../../align/kv.py#L3), [store](../store.md#x), [no](../../gone.py)"
    assert script.without_links_out(text, page) == (
        "`KV`, [store](../store.md#x), [no](../../gone.py)"
    )


def test_no_page_links_to_a_file_that_is_not_there(script):
    for page in (ROOT / "docs").rglob("*.md"):
        rest = script.without_links_out(page.read_text(encoding="utf-8"), page)
        for _, place in script._LINK.findall(rest):
            assert (page.parent / place).exists(), (page.name, place)
