"""From a MODEL argument to a network: exactly one source must be able to read it."""

from __future__ import annotations

import difflib
from typing import cast

from deatbench.errors import ConfigError, MissingError
from deatbench.models import factory, robustbench_zoo, runs, timm_pretrained, weight_file, zoo
from deatbench.models.loaded import LoadedModel
from deatbench.models.request import ModelRequest, Source

SOURCES = cast(tuple[Source, ...], (runs, weight_file, zoo, factory, robustbench_zoo, timm_pretrained))
FORMS = "a run, a .safetensors or .pt file, zoo:ID, pkg.module:factory, ./file.py:factory, robustbench:…, timm:NAME"


def load_model(request: ModelRequest) -> LoadedModel:
    """The network that the argument names, in eval mode on the request's device.

    Raises ConfigError where two sources can read it, MissingError where none can or the named one does not exist,
    CheckpointError for weights that are damaged, hostile or of another model.
    """
    readings = [(source, reading) for source in SOURCES if (reading := source.reading(request))]
    if len(readings) > 1:
        both = " and as ".join(reading for _, reading in readings)
        raise ConfigError(f"MODEL {request.text!r} can be read as {both}", "name one of them in full")
    if not readings:
        raise _unknown(request)
    model = readings[0][0].load(request)
    with factory.blamed(model):
        model.module.to(request.device).eval()
    return model


def _unknown(request: ModelRequest) -> MissingError:
    known = [folder.parent.name for folder in request.home.runs.glob("*/training.json")]
    known += [f"zoo:{folder.name}" for folder in request.home.zoo_entries()]
    near = difflib.get_close_matches(request.text, known, n=2, cutoff=0.6)
    return MissingError(
        f"no model {request.text!r}", f"did you mean {' or '.join(near)}?" if near else f"a MODEL is {FORMS}"
    )
