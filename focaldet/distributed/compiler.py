"""torch.compile compiles when a batch has a new shape: in any step, on one rank or on several."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from .ranks import Ranks


@contextmanager
def patient_with_compiler(ranks: Ranks) -> Iterator[None]:
    """Within it the other ranks wait for this one for as long as it compiles; see `Ranks.patient`.

    That takes minutes for a whole detector, and would be taken for a rank that hangs.
    """
    from torch._dynamo.callback import CallbackArgs, callback_handler  # a second to import

    compiling = ExitStack()

    def start(_: CallbackArgs) -> None:
        compiling.enter_context(ranks.patient("compiling"))

    def end(_: CallbackArgs) -> None:
        compiling.close()

    callback_handler.register_start_callback(start)
    callback_handler.register_end_callback(end)
    try:
        yield
    finally:
        callback_handler.remove_start_callback(start)
        callback_handler.remove_end_callback(end)
