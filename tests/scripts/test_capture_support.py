def test_the_table_in_the_page_is_up_to_date(script):
    page = script.PAGE.read_text(encoding="utf-8")
    assert page == script.page_with(script.table()), (
        "run: python scripts/capture_support.py --write"
    )


def test_rows_follow_the_parameters_of_the_tests(script):
    rows = {
        row.split("|")[1].strip(): [cell.strip() for cell in row.split("|")[2:-1]]
        for row in script.table().splitlines()[2:]
        if row.startswith("|")
    }
    assert rows["llama"][:2] == ["`LlamaForCausalLM`", "decoder"]
    assert rows["bert"][1] == "encoder"
    assert "cache" in rows["yarn"][3].split(", ")
    assert "injection" not in rows["bert"][3].split(", ")
    assert all(checked for *_, checked in rows.values())
