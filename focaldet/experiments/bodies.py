"""The classifiers whose weights the runs of an experiment begin with."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError
from ..models import RetinaNet
from ..recipes import Configuration
from ..weights import DOWNLOAD, load_body


class Bodies:
    """Files of weights, as `load_body` takes them: each run begins with the first that fits its
    backbone. Without files runs begin with random weights."""

    def __init__(self, sources: Sequence[str | Path] = ()) -> None:
        self._sources = [str(source) for source in sources]
        self._fitting: dict[tuple[object, ...], dict[str, str]] = {}

    def __bool__(self) -> bool:
        return bool(self._sources)

    def prepared(self, configuration: Configuration) -> Configuration:
        """The recipe, with the statistics of images that the weights expect, if there are any.
        Raises `UserError` where it would freeze norms that nobody has trained."""
        if self:
            return configuration.with_published_statistics()
        another = f"a recipe of your own with base = {configuration.name!r} and another norm"
        configuration.refuse_frozen(f"--backbone-weights, or {another}")
        return configuration

    def fitting(self, configuration: Configuration) -> dict[str, str]:
        """Name and digest of the file that runs of this recipe begin with; nothing without files.
        Raises `UserError` where none fits."""
        if not self:
            return {}
        model = configuration.model_arguments()
        body = tuple(model[name] for name in ("backbone", "width", "norm", "finest_level"))
        if body not in self._fitting:
            source = self.load(configuration.make_model(1))
            content = DOWNLOAD.encode() if source == DOWNLOAD else Path(source).read_bytes()
            digest = hashlib.sha256(content).hexdigest()[:12]
            self._fitting[body] = {"file": Path(source).name, "digest": digest}
        return self._fitting[body]

    def load(self, model: RetinaNet) -> str:
        """Puts the first weights that fit into the body of a model; returns where they are from."""
        refused = []
        for source in self._sources:
            try:
                load_body(model, source)
            except UserError as error:
                refused.append(str(error))
            else:
                return source
        raise UserError("; ".join(refused))
