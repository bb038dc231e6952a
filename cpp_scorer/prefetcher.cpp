#include "prefetcher.h"

#include <exception>

#include "errors.h"
#include "json.h"

namespace {

constexpr size_t kAhead = 64;  // questions

PreparedQuestion prepare(const Line& line, size_t row, const PromptEncoder& encoder) {
  PreparedQuestion prepared;
  prepared.id = std::to_string(row);
  prepared.line = line.number;
  try {
    if (line.too_long) {
      throw RowError("the line is longer than " + std::to_string(LineReader::kLongestLine) + " bytes");
    }
    const JsonRow json(line.text);
    prepared.id = json.id().value_or(prepared.id);
    const Question question = json.question();
    prepared.label = question.label;
    prepared.encoded = encoder.encode(question);
    if (prepared.encoded.num_tokens() > Prefetcher::kLongestRow) {
      throw RowError("prompt and endings make " + std::to_string(prepared.encoded.num_tokens()) +
                       " tokens, over the limit of " + std::to_string(Prefetcher::kLongestRow));
    }
  } catch (const RowError& error) {
    prepared.error = error.what();
    prepared.encoded = {};
  }
  return prepared;
}

}  // namespace

Prefetcher::Prefetcher(LineReader& input, const PromptEncoder& encoder)
    : input_(input), queue_(kAhead), thread_([this, &input, &encoder] { run(input, encoder); }) {}

Prefetcher::~Prefetcher() {
  input_.stop();
  queue_.close();
  thread_.join();
}

void Prefetcher::run(LineReader& input, const PromptEncoder& encoder) {
  try {
    size_t row = 0;
    while (const auto line = input.next()) {
      if (!queue_.push(prepare(*line, row++, encoder))) return;
    }
    queue_.close();
  } catch (...) {
    queue_.close(std::current_exception());
  }
}
