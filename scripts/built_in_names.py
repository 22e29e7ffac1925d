"""Write experiments/commands/built_in.json, by which `mtkd plugins list` is quick.

make docs                              # this and the generated pages
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def page() -> str:
    """Every built-in name by kind, as the registry has them."""
    from experiments.config.presets import BuiltinPhases
    from plugins.registry import KINDS, Registry

    registry = Registry.load([BuiltinPhases()], entry_points=False)
    names = {kind: registry.names(kind) for kind in KINDS}
    return json.dumps(names, indent=1) + "\n"


def main() -> None:
    """Write the file."""
    sys.path.insert(0, str(ROOT))  # also where the checkout is not installed
    from experiments.commands.plugins import BUILT_IN

    BUILT_IN.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
