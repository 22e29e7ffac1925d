"""Chat templates that write the day: one day for a run and for an extraction."""

import datetime
import json
import pickle

import pytest
import yaml
from transformers.utils import chat_template_utils

from align.text.chat import tells_date
from align.text.conversation import Conversation
from experiments.assemble.data import Encoder
from experiments.assemble.text_sources import Reading
from experiments.config.parsing import ConfigError, merge
from experiments.config.tree import load_config
from experiments.record import dates
from experiments.record.dates import DATE, dated, day_of_run, day_of_stores
from teacher.store import KVStore
from tests.experiments.runs.test_chats import templated, write_chats
from tests.experiments.small_runs import said, small_config
from tests.small_tokenizers import small

FIRST, SECOND = datetime.date(2026, 11, 28), datetime.date(2026, 11, 29)
DATED = (
    "Today: {{ strftime_now('%d %b %Y') }}\n"
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
)


@pytest.fixture
def on(monkeypatch):
    """Set the clock, ours and that which transformers gives to templates."""

    def on_day(day):
        class Today(datetime.date):
            @classmethod
            def today(cls):
                return day

        class Now(datetime.datetime):
            @classmethod
            def now(cls, *_):
                return datetime.datetime(day.year, day.month, day.day, 23, 59)

        monkeypatch.setattr(dates, "date", Today)
        monkeypatch.setattr(chat_template_utils, "datetime", Now)

    return on_day


@pytest.fixture
def chatty(tiny_zoo, tmp_path):
    """A zoo whose student and one teacher write the day."""
    names = ("student", "gpt2-prose")
    return tiny_zoo | {
        name: templated(tiny_zoo[name], tmp_path / "zoo" / name, DATED)
        for name in names
    }


def config_of(folder, zoo, **changes):
    chats = write_chats(folder / "chats.jsonl", count=24)
    data = {"train": [str(chats)], "max_length": 64, "train_samples": 12}
    settings = {
        "data": data | changes,
        "phase": {"all": {"loss": {"gamma_kl": 0}}},
        "store": {"dir": str(folder / "kv"), "name": "kv", "shard_samples": 4},
    }
    return str(small_config(folder, zoo, merge(settings, {})))


def losses(run):
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [row["loss"] for row in rows if row["kind"] == "train"]


def test_a_conversation_is_told_its_own_day_whatever_the_clock_says(on, tmp_path):
    tokenizer = small("bytes")
    tokenizer.chat_template = DATED
    path = write_chats(tmp_path / "chats.jsonl", count=3)
    encode, seen = Encoder(tokenizer, None), {}
    for day in (FIRST, SECOND):
        on(day)
        for date in (None, FIRST.isoformat()):
            config = dated_data(path, date)
            texts = [sample.text for sample in Reading(config).samples("train", "")]
            seen[day, date] = encode(texts)
    same = seen[FIRST, None].ids
    assert seen[SECOND, "2026-11-28"].ids.equal(same)
    assert seen[FIRST, "2026-11-28"].ids.equal(same)
    assert not seen[SECOND, None].ids.equal(same)  # the clock's
    assert tokenizer.decode(same[0]).startswith("Today: 28 Nov 2026\n")


def dated_data(path, date):
    from experiments.texts.config import DataConfig

    return DataConfig(train=[str(path)], date=date)


def test_the_day_stays_with_pieces_and_copies_of_a_conversation():
    talk = Conversation([{"role": "user", "content": "abc"}], None, FIRST)
    assert talk.cut(2).today == FIRST == pickle.loads(pickle.dumps(talk)).today
    assert talk.on(SECOND).today == SECOND and talk.on(SECOND) == talk


def test_only_templates_that_write_the_day_are_asked():
    plain, writing = small("bytes-chatml"), small("bytes-chatml")
    writing.chat_template = DATED
    assert tells_date(writing)
    assert not tells_date(plain) and not tells_date(small("bytes"))


def test_a_run_keeps_the_day_it_began(on, tmp_path):
    on(FIRST)
    assert day_of_run(tmp_path) == "2026-11-28"
    (tmp_path / "run.json").write_text('{"id": "x", "date": "2026-11-20"}')
    assert day_of_run(tmp_path) == "2026-11-20"
    (tmp_path / "run.json").write_text('{"id": "x"}')  # of an earlier version
    assert day_of_run(tmp_path) is None


def test_all_tasks_of_an_extraction_take_the_first_one_s_day(on, tmp_path):
    on(FIRST)
    assert day_of_stores(tmp_path / "kv") == "2026-11-28"
    on(SECOND)
    assert day_of_stores(tmp_path / "kv") == "2026-11-28"
    assert sorted(p.name for p in (tmp_path / "kv").iterdir()) == [DATE]


def test_a_config_that_names_a_day_keeps_it(tmp_path, tiny_zoo):
    from experiments.config.tree import load_config

    config = load_config(config_of(tmp_path, tiny_zoo, date="2026-01-02"))
    assert dated(config, "2026-11-28").data.date == "2026-01-02"
    assert dated(dated(config, None), None) is config
    with pytest.raises(ValueError, match=r"data\.date is '28\.11\.'; give a day such"):
        load_config(config_of(tmp_path, tiny_zoo, date="28.11."))


@pytest.mark.slow
def test_a_run_that_goes_on_past_midnight_tells_the_day_it_began(
    on, chatty, tmp_path, capsys
):
    config = config_of(tmp_path, chatty)
    for day in (FIRST, SECOND):
        on(day)
        assert said(["train", config, "train.steps=1"], capsys) == (0, "")
        run = tmp_path / "run"
        assert json.loads((run / "run.json").read_text())["date"] == "2026-11-28"
        saved = yaml.safe_load((run / "config.yaml").read_text())
        assert saved["data"]["date"] == "2026-11-28"


@pytest.mark.slow
def test_a_store_made_across_midnight_teaches_what_its_first_day_would(
    on, chatty, tmp_path, capsys
):
    config = config_of(tmp_path, chatty)
    on(FIRST)
    assert said(["train", config, "run.name=live"], capsys) == (0, "")
    encoding = "store.encoding=float32"
    assert said(["extract", config, encoding, "--shard", "1/2"], capsys) == (0, "")
    on(SECOND)
    assert said(["extract", config, encoding, "--shard", "2/2"], capsys) == (0, "")
    plan = KVStore(tmp_path / "kv" / "kv" / "gpt2-prose").plan
    assert plan.fingerprint["date"] == "2026-11-28"
    words = [config, encoding, "store.read=true"]
    assert said(["train", *words, "run.name=stored"], capsys) == (0, "")
    live, stored = tmp_path / "live", tmp_path / "stored"
    assert losses(stored) == pytest.approx(losses(live), rel=1e-5)
    assert json.loads((stored / "run.json").read_text())["date"] == "2026-11-28"
    code, message = said(
        ["train", *words, "run.name=other", "data.date=2026-11-29"], capsys
    )
    assert code == 2 and "date: stored '2026-11-28'" in message


def test_an_empty_day_is_refused_like_any_other_that_is_none():
    with pytest.raises(ConfigError, match="give a day such as"):
        load_config({"data": {"date": ""}})
