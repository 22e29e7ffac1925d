"""One of every kind for training, as a stranger would write them."""

from mtkd_example_plugin.averaged import DynamicWeightAverage
from mtkd_example_plugin.huber import HuberKeys
from mtkd_example_plugin.matches import Chordal, Shared
from mtkd_example_plugin.novel import Novel
from mtkd_example_plugin.readers import ReadersRouter
from mtkd_example_plugin.router import DirichletRouter
from mtkd_example_plugin.sketch import Sketch
from mtkd_example_plugin.turns import TurnsRouter
from mtkd_example_plugin.uncertain import UncertainKeys
from plugins import hookimpl


@hookimpl
def routers():
    return {
        "dirichlet": DirichletRouter,
        "readers": ReadersRouter,
        "turns": TurnsRouter,
    }


@hookimpl
def spaces():
    return {"sketch": Sketch}


@hookimpl
def objectives():
    return {"huber_k": HuberKeys, "uncertain_k": UncertainKeys}


@hookimpl
def distances():
    return {"chordal": Chordal}


@hookimpl
def projectors():
    return {"shared": Shared}


@hookimpl
def balancers():
    return {"dwa": DynamicWeightAverage}


@hookimpl
def selectors():
    return {"novel": Novel}
