#include "prepared_question.h"

#include <new>

#include "errors.h"
#include "json.h"

namespace {

[[noreturn]] void fail(const std::string& what, int64_t limit, const char* flag) {
  throw RowError(what + ", over the limit of " + std::to_string(limit) + " (" + flag + ")");
}

}  // namespace

PreparedQuestion prepare(const Line& line, size_t row, const PromptEncoder& encoder, const RowLimits& limits) {
  PreparedQuestion prepared;
  prepared.id = std::to_string(row);
  prepared.line = line.number;
  try {
    if (!line.error.empty()) throw RowError(line.error);
    const JsonRow json(line.text);
    prepared.id = json.id().value_or(prepared.id);
    const Question question = json.question();
    const auto candidates = static_cast<int64_t>(question.endings.size());
    if (candidates > limits.candidates) {
      fail(std::to_string(candidates) + " candidates", limits.candidates, "--max-candidates");
    }
    prepared.label = question.label;
    prepared.encoded = encoder.encode(question);
    const int64_t tokens = static_cast<int64_t>(prepared.encoded.prompt_ids.size()) + prepared.encoded.num_scored();
    if (tokens > limits.tokens) {
      fail("prompt and endings make " + std::to_string(tokens) + " tokens", limits.tokens, "--max-row-tokens");
    }
  } catch (const RowError& error) {
    prepared.error = error.what();
  } catch (const std::bad_alloc&) {
    prepared.error = kOutOfMemory;
  }
  if (!prepared.error.empty()) prepared.encoded = {};
  return prepared;
}
