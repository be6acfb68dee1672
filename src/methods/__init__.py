"""Every generative method of the kit. A file put into this folder is found by itself; nothing else needs to know its name."""

from src.common.registry import import_all
from src.methods.shared.method import METHODS, Method, register

import_all(__name__, __path__)

get_method, method_names = METHODS.get, METHODS.names

__all__ = ["METHODS", "Method", "get_method", "method_names", "register"]
