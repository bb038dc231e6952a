"""libscore from Python, by ctypes alone: python docs/libscore_example.py libscore.so model.onnx pmi < FILE"""

import ctypes
import sys


def open_library(path: str) -> ctypes.CDLL:
    library = ctypes.CDLL(path)
    library.score_open.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int]
    library.score_open.restype = ctypes.c_void_p
    library.score_json.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]
    library.score_json.restype = ctypes.c_void_p  # c_char_p would copy the text and lose what score_free needs
    library.score_free.argtypes = [ctypes.c_void_p]
    library.score_close.argtypes = [ctypes.c_void_p]
    library.score_error.restype = ctypes.c_char_p
    return library


def main(library_path: str, model_path: str, score: str = "sum") -> None:
    library = open_library(library_path)
    model = library.score_open(model_path.encode(), None, score.encode(), 0)  # no reference, the physical cores
    if not model:
        sys.exit(f"error: {library.score_error().decode()}")
    questions = sys.stdin.buffer.read()
    predictions = library.score_json(model, questions, len(questions))
    if not predictions:
        sys.exit(f"error: {library.score_error().decode()}")
    sys.stdout.buffer.write(ctypes.string_at(predictions))
    library.score_free(predictions)
    library.score_close(model)


if __name__ == "__main__":
    main(*sys.argv[1:])
