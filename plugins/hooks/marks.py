"""What marks a point at which outside code may join in."""

from __future__ import annotations

import pluggy

from plugins.entry import PROJECT

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
