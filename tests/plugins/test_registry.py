import textwrap

import pytest

from fuse.routers.router import LearnableRouter
from plugins import PluginError, Registry, hookimpl
from student.own import OWN
from student.terms.key_value import OBJECTIVES

pytestmark = pytest.mark.edges


def load(*plugins):
    return Registry.load(plugins, entry_points=False)


def offering(**hooks):
    """A plugin object whose hooks return these values."""
    methods = {
        name: hookimpl(lambda self, value=value: value) for name, value in hooks.items()
    }
    return type("Stranger", (), methods)()


def test_built_ins_are_found_by_their_documented_names():
    registry = load()
    assert registry.names("router") == [
        *("attention", "confidence", "constant", "difficulty", "fixed", "gate"),
        *("label", "mlp", "prequential", "score", "similarity"),
    ]
    by_depth = {"floor", "origin", "ratio", "skip", "uniform"}
    by_sample = {"cka", "density", "importance", "reconstruction"}
    assert set(registry.names("layer_map")) == by_depth | by_sample
    aligners = ["causal_char_iou", "char_iou", "chunk_end", "last_token"]
    assert registry.names("aligner") == aligners
    assert registry.names("adapter") == [
        "pca",
        "pca-unwhitened",
        "procrustes",
        "procrustes-unwhitened",
        "ridge",
    ]
    assert set(registry.names("rope_scaler")) >= {"ntk", "ntk-aware", "linear"}
    own = {*OBJECTIVES, "match", *OWN}
    assert set(registry.names("objective")) == own
    router = registry.get("router", "gate")(hidden_dim=4, num_teachers=2)
    assert isinstance(router, LearnableRouter) and router.router_type == "gate"
    assert registry.get("layer_map", "ratio")(24, 12).needed[-1] == 23
    base = registry.get("rope_scaler", "ntk")(10_000.0, 64, 8.0)
    assert base == pytest.approx(10_000 * 4)  # 8 ** (2 / 3)


def test_an_unknown_name_lists_what_is_available_and_the_nearest():
    with pytest.raises(PluginError) as error:
        load().get("router", "atention")
    assert str(error.value) == (
        "no router is called 'atention' (did you mean 'attention'?); "
        "available: attention, confidence, constant, difficulty, fixed, gate, label, "
        "mlp, prequential, score, similarity"
    )
    with pytest.raises(PluginError, match=r"'optimizer' is no kind.*aligner, layer"):
        load().get("optimizer", "adam")


def test_two_plugins_with_one_name_are_refused_naming_both():
    first, second = (
        offering(routers={"dirichlet": dict}),
        offering(routers={"dirichlet": dict}),
    )
    first.__name__, second.__name__ = "first_package", "second_package"
    message = "two plugins claim the router 'dirichlet': 'first_package' and 'second_p"
    with pytest.raises(PluginError, match=message):
        load(first, second)


def test_a_built_in_name_cannot_be_taken_over():
    with pytest.raises(PluginError, match=r"'mlp': 'built-in' \(mtkd\) and 'Stranger'"):
        load(offering(routers={"mlp": dict}))
    # one name in two kinds is no conflict
    assert load(offering(objectives={"mlp": dict})).get("objective", "mlp") is dict


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        (offering(router={}), r"unknown hook 'router' \(did you mean 'routers'\?\)"),
        (offering(), r"implements no hook; mark a function with @hookimpl"),
        (
            offering(routers=["x"]),
            r"'routers' of plugin .* returns list; return a dict",
        ),
        (offering(routers={"My Router": dict}), r"router called 'My Router'; names"),
        (offering(routers={1: dict}), r"router called 1; names"),
        (offering(routers={"x": 3}), r"router 'x' of plugin .* is int, not callable"),
        (
            offering(phases={"x": dict}),
            r"phase 'x' of plugin .* is type, not a mapping",
        ),
    ],
)
def test_a_plugin_that_breaks_the_rules_is_refused(plugin, message):
    with pytest.raises(PluginError, match=message):
        load(plugin)


def test_a_hook_with_a_wrong_argument_is_refused():
    class Stranger:
        @hookimpl
        def routers(self, hidden_dim):
            return {}

    with pytest.raises(PluginError, match="hidden_dim"):
        load(Stranger())


def test_a_hook_that_raises_is_named():
    class Stranger:
        @hookimpl
        def routers(self):
            raise RuntimeError("no licence")

    with pytest.raises(
        PluginError, match=r"'Stranger' fails in its hook 'routers': .*no licence"
    ):
        load(Stranger())


def test_a_plugin_may_name_its_function_as_it_likes():
    class Stranger:
        @hookimpl(specname="routers")
        def my_routers(self):
            return {"mine": dict}

    assert load(Stranger()).get("router", "mine") is dict


def test_rows_say_where_everything_comes_from():
    registry = load(offering(phases={"mine": {}}))
    rows = registry.describe()
    row = next(r for r in rows if (r["kind"], r["name"]) == ("router", "mlp"))
    assert row["plugin"] == "built-in" and row["distribution"] == "mtkd"
    assert row["version"]
    mine = rows[-1]
    assert (mine["kind"], mine["name"], mine["plugin"]) == ("phase", "mine", "Stranger")
    assert len(rows) == len(registry.entries())


SOURCE = """
    from plugins import hookimpl

    @hookimpl
    def phases():
        return {"short": {"train": {"steps": 3}}}
"""


def test_a_module_loads_by_name(tmp_path, monkeypatch):
    (tmp_path / "my_phases_by_name.py").write_text(textwrap.dedent(SOURCE))
    monkeypatch.syspath_prepend(tmp_path)
    registry = load("my_phases_by_name", "my_phases_by_name")
    assert registry.get("phase", "short") == {"train": {"steps": 3}}


def test_a_file_loads_by_path_and_two_of_one_name_do_not_meet(tmp_path):
    for folder, name in (("a", "short"), ("b", "shorter")):
        (tmp_path / folder).mkdir()
        text = textwrap.dedent(SOURCE).replace("short", name)
        (tmp_path / folder / "phase.py").write_text(text)
    registry = load(str(tmp_path / "a" / "phase.py"), str(tmp_path / "b" / "phase.py"))
    assert registry.names("phase") == ["short", "shorter"]


def test_a_missing_or_broken_module_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(PluginError, match=r"'no_such_plugin' is not importable.*\.py"):
        load("no_such_plugin")
    with pytest.raises(PluginError, match="does not exist; give its path"):
        load(str(tmp_path / "absent.py"))
    (tmp_path / "half_plugin.py").write_text("import no_such_dependency\n")
    with pytest.raises(PluginError, match="No module named 'no_such_dependency'"):
        load("half_plugin")
    (tmp_path / "torn_plugin.py").write_text("def (:\n")
    with pytest.raises(PluginError, match="'torn_plugin' fails to import: SyntaxErr"):
        load("torn_plugin")
