"""A router and an objective for mtkd, as a stranger would write them."""

from mtkd_example_plugin.huber import HuberKeys
from mtkd_example_plugin.router import DirichletRouter
from plugins import hookimpl


@hookimpl
def routers():
    return {"dirichlet": DirichletRouter}


@hookimpl
def objectives():
    return {"huber_k": HuberKeys}
