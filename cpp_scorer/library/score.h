/* libscore: picks the right ending of a question by its log-prob, the same digits as the program `score`.
 *
 *     score_model *model = score_open("model.onnx", NULL, "sum", 0);
 *     if (!model) { puts(score_error()); return 1; }
 *     char *predictions = score_json(model, questions, strlen(questions));
 *     ...
 *     score_free(predictions);
 *     score_close(model);
 *
 * Every function may be called from several threads at once; only score_close needs that none uses the model. */
#ifndef SCORE_H
#define SCORE_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define SCORE_API __attribute__((visibility("default")))
#else
#define SCORE_API
#endif

typedef struct score_model score_model;

/* Opens the model.onnx that export.py wrote, its other files beside it. `reference` is another, to choose by the
 * log-ratio to it, or NULL. `score` is "sum", "mean" or "pmi"; NULL is "sum". `threads` is a number of processor
 * threads; 0 is the physical cores. Returns NULL where it cannot be used, and score_error says why. */
SCORE_API score_model *score_open(const char *model, const char *reference, const char *score, int threads);

/* Scores `size` bytes of questions, JSON lines or one JSON object, in the forms that the program takes. Returns as many
 * JSON lines in the same order, ended by a NUL, for score_free; a row at fault is a line with "error". Returns NULL
 * where nothing could be done, and score_error says why. */
SCORE_API char *score_json(score_model *model, const char *questions, size_t size);

/* Gives back what score_json returned; NULL is nothing. */
SCORE_API void score_free(char *predictions);

/* Why the last call of this thread returned NULL, one line; good until the thread's next call. */
SCORE_API const char *score_error(void);

/* The version of this library, "0.1.0". */
SCORE_API const char *score_version(void);

/* Closes the model; NULL is nothing. */
SCORE_API void score_close(score_model *model);

#ifdef __cplusplus
}
#endif

#endif
