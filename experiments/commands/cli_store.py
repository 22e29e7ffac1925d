"""The command line of everything around stored teachers."""

from __future__ import annotations

from experiments.commands.parser import Maker, config_options, count


def add_store_commands(maker: Maker) -> None:
    """Add ``estimate``, ``extract`` and ``store`` to the whole command line."""
    add = maker.add(
        "estimate",
        "store:estimate",
        "say, before anything runs, what training and extraction need, by some steps "
        "of each phase and a probe of each teacher on this machine: arms, time, disk "
        "and memory of a run; tokens, disk and hours of stores",
        ("mtkd estimate my.yaml", "by a short probe of each model"),
        ("mtkd estimate my.yaml store.form=adapted store.encoding=int8", "smaller"),
        ("mtkd estimate quickstart --json", "for other programs"),
        (
            "mtkd estimate one_card --plan",
            "memory line by line, from config.json alone",
        ),
    )
    config_options(add)
    add.add_argument("--json", action="store_true", help="print JSON")
    add.add_argument(
        "--every-text",
        action="store_true",
        help="count the tokens of all texts, not of a sample: the size on disk is then "
        "exact",
    )
    add.add_argument(
        "--plan",
        action="store_true",
        help="memory of training alone, line by line, from the models' config.json: "
        "needs no weights, tokenizers or texts",
    )
    add.add_argument(
        "--processes",
        type=count,
        default=1,
        metavar="N",
        help="processes that train together, among which ZeRO divides (1)",
    )
    add = maker.add(
        "extract",
        "store:extract",
        "store the keys and values of a config's teachers on its training text",
        ("mtkd extract my.yaml", "into kv/my, one folder a teacher"),
        ("mtkd extract my.yaml store.encoding=int8", "half the size"),
        ("mtkd extract my.yaml --shard 3/8", "the third of eight tasks"),
        (
            "mtkd extract teachers='[gpt2, ./opt]' student.model=./s "
            "data.train='[a.txt]' phases='[dual]'",
            "no file at all",
        ),
    )
    config_options(add)
    add.add_argument(
        "--shard",
        default="1/1",
        metavar="I/N",
        help="make only this task's part, I from 1 to N; tasks may run in any order, "
        "at once, and again (1/1, all)",
    )
    _store(
        maker.group(
            "store",
            "look after stored teachers",
            ("mtkd store info kv/my", "what is there and how good it is"),
            ("mtkd store verify kv/my", "recompute every digest"),
        )
    )


def _store(store: Maker) -> None:
    add = store.add(
        "info",
        "store:info",
        "list what a store, or each store of a folder, holds",
        ("mtkd store info kv/my", "all of a run's"),
        ("mtkd store info kv/my/gpt2 --json", "one, for other programs"),
    )
    add.add_argument("path", help="a store, or a folder of stores")
    add.add_argument("--json", action="store_true", help="print JSON")
    add = store.add(
        "verify",
        "store:verify",
        "recompute every digest and name what is damaged, missing or foreign",
        ("mtkd store verify kv/my", "exits with 2 where something is wrong"),
    )
    add.add_argument("path", help="a store, or a folder of stores")
    add = store.add(
        "merge",
        "store:merge",
        "write the manifest once every shard is there, whoever made it",
        ("mtkd store merge kv/my", "after an array job"),
    )
    add.add_argument("path", help="a store, or a folder of stores")
    add = store.add(
        "repair",
        "store:repair",
        "take damaged shards out and extract just those again",
        ("mtkd store repair kv/my", "by the config that lies beside it"),
        ("mtkd store repair kv/my --take-out-only", "for an array job to fill"),
    )
    add.add_argument("path", help="the folder that `mtkd extract` wrote")
    add.add_argument(
        "--take-out-only", action="store_true", help="do not extract them again here"
    )
