"""Networks of transformers, seen as scorers of packed batches; the only room that imports transformers and peft."""

import importlib

from tokenq.collector import collector_paused

with collector_paused():
    importlib.import_module("transformers.modeling_utils")  # thousands of modules, which every module here needs
