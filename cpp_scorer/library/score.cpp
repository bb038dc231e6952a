#include "score.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <limits>
#include <new>
#include <string>

#include "dispatcher.h"
#include "engine.h"
#include "errors.h"
#include "score_text.h"
#include "threads.h"

struct score_model {
  explicit score_model(const EngineOptions& options)
      : engine(options), dispatcher(engine, 1, std::numeric_limits<size_t>::max(), [](Dispatcher::Batched) {}) {}

  Engine engine;
  Dispatcher dispatcher;
};

namespace {

constexpr size_t kRowsAtOnce = 1024;  // among which rows of like length are looked for, over and over

thread_local std::string last_error;

/// What `act` returns; or null, with the reason kept, since no exception may leave a C function.
template <typename Act>
auto guarded(Act act) noexcept -> decltype(act()) {
  try {
    return act();
  } catch (const std::bad_alloc&) {
    last_error = kOutOfMemory;
  } catch (const std::exception& error) {
    last_error = error.what();
  }
  return nullptr;
}

}  // namespace

score_model* score_open(const char* model, const char* reference, const char* score, int threads) {
  return guarded([&] {
    if (!model) throw FatalError("the model's path is missing");
    if (threads < 0) throw FatalError("threads takes a number from 1, or 0 for the physical cores");
    EngineOptions options;
    options.model = model;
    options.reference = reference ? reference : "";
    if (score && !is_score(score, options.score)) {
      throw FatalError(std::string("score takes sum, mean or pmi, not '") + score + "'");
    }
    if (reference && options.score == Score::kPmi) throw FatalError("score pmi takes no reference");
    if (reference && options.score == Score::kSum) options.score = Score::kReward;
    options.threads = threads > 0 ? threads : usable_cores();
    return new score_model(options);
  });
}

char* score_json(score_model* model, const char* questions, size_t size) {
  return guarded([&] {
    if (!model || !questions) throw FatalError("the model or the questions are missing");
    const size_t longest_line = model->engine.options().longest_line;
    const auto rows = rows_of({questions, size}, longest_line, std::numeric_limits<size_t>::max());
    if (rows.empty()) throw FatalError("there are no questions in the text");
    std::string text;
    for (size_t begin = 0; begin < rows.size(); begin += kRowsAtOnce) {
      const size_t end = std::min(begin + kRowsAtOnce, rows.size());
      text += text_of(model->dispatcher.score(prepare(model->engine, rows, begin, end)).answers);
    }
    auto* const copy = static_cast<char*>(std::malloc(text.size() + 1));
    if (!copy) throw std::bad_alloc();
    std::memcpy(copy, text.c_str(), text.size() + 1);
    return copy;
  });
}

void score_free(char* predictions) { std::free(predictions); }

const char* score_error(void) { return last_error.c_str(); }

const char* score_version(void) { return SCORER_VERSION; }

void score_close(score_model* model) { delete model; }
