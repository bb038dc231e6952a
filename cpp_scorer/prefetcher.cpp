#include "prefetcher.h"

#include <exception>

namespace {

constexpr size_t kAhead = 64;  // questions

}  // namespace

Prefetcher::Prefetcher(LineReader& input, const PromptEncoder& encoder, const RowLimits& limits)
    : input_(input), queue_(kAhead), thread_([this, &input, &encoder, limits] { run(input, encoder, limits); }) {}

Prefetcher::~Prefetcher() {
  input_.stop();
  queue_.close();
  thread_.join();
}

void Prefetcher::run(LineReader& input, const PromptEncoder& encoder, const RowLimits& limits) {
  try {
    size_t row = 0;
    while (const auto line = input.next()) {
      if (!queue_.push(prepare(*line, row++, encoder, limits))) return;
    }
    queue_.close();
  } catch (...) {
    queue_.close(std::current_exception());
  }
}
