"""The engine: continuous batching, one plan per row, on attention and recurrent caches alike."""

from steering.engine.engine import Engine
from steering.engine.job import Listener, News, Priority
from steering.engine.observer import Observer

__all__ = ["Engine", "Listener", "News", "Observer", "Priority"]
