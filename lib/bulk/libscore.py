"""libscore, the C++ scorer as a library, by ctypes: the digits of `./cpp_scorer/score`."""

import ctypes
from functools import cache
from pathlib import Path

from lib.errors import InputError
from lib.paths import ROOT

LIBRARY = ROOT / "cpp_scorer" / "build" / "library" / "libscore.so"


@cache
def _library() -> ctypes.CDLL:
    if not LIBRARY.exists():
        raise InputError(f"{LIBRARY}: no such file; build it with `make scorer`")
    library = ctypes.CDLL(str(LIBRARY))
    library.score_open.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int]
    library.score_open.restype = ctypes.c_void_p
    library.score_json.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]
    library.score_json.restype = ctypes.c_void_p  # c_char_p would copy the text and lose what score_free needs
    library.score_free.argtypes = [ctypes.c_void_p]
    library.score_close.argtypes = [ctypes.c_void_p]
    library.score_error.restype = ctypes.c_char_p
    return library


class Libscore:
    """An exported model, open until it is closed."""

    def __init__(self, model: Path, score: str, reference: Path | None = None, threads: int = 1):
        """score: "sum", "mean" or "pmi"; with a `reference` sum is the reward. Raises InputError where the model cannot
        be used."""
        self.library, given = _library(), [None if path is None else str(path).encode() for path in (model, reference)]
        self.model = self.library.score_open(*given, score.encode(), threads)
        if not self.model:
            raise InputError(self.library.score_error().decode())

    def score(self, questions: bytes) -> bytes:
        """Questions as JSON lines to as many predictions or error records, in the same order."""
        found = self.library.score_json(self.model, questions, len(questions))
        if not found:
            raise InputError(self.library.score_error().decode())
        try:
            return ctypes.string_at(found)
        finally:
            self.library.score_free(found)

    def close(self) -> None:
        self.library.score_close(self.model)
        self.model = None
