"""What goes wrong while something is sent, as one line that says what to do and what is there now."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled

from ..errors import InputError
from ..hub_access import hub_problem, is_broken_connection

AS_IT_WAS = "the repository is as it was, and what was sent is not sent again"


@contextmanager
def answers(repository: str, kind: str, state: str | Callable[[], str]) -> Iterator[None]:
    """Turns what the Hub and the way there raise into an [`InputError`].

    Args:
        repository: `organisation/name`.
        kind: "model" or "dataset".
        state: what is there after a failure in this block, or what finds it out.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # the library raises its own types, those of its HTTP library, and RuntimeError around
        cause = _cause(error)
        if not isinstance(cause, OSError | ValueError | HTTPError):
            raise
        said = state if isinstance(state, str) else state()
        raise InputError(_say(cause, repository, kind, said)) from error


def _cause(error: BaseException) -> BaseException:
    """What is behind the RuntimeError that says only which file was being sent."""
    while isinstance(error, RuntimeError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _say(error: BaseException, repository: str, kind: str, state: str) -> str:
    """What has another remedy when something is sent; the rest as everywhere."""
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, so nothing can be sent; unset it"
    said = " ".join(str(getattr(error, "server_message", None) or error).split())
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 409:
        return f"{repository}: the Hub has something of that name ({said}); choose another one; {state}"
    if status == 412:
        return f"somebody else changed {repository} meanwhile; look at it, then run the same again"
    if is_broken_connection(error):
        return f"the connection to the Hub broke ({type(error).__name__}: {said}): run the same again; {state}"
    if status is None and isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename} cannot be read ({error.strerror}); {state}"
    problem = hub_problem(error, repository, kind) or f"{repository}: {type(error).__name__}: {said}"
    return f"{problem}; {state}"
